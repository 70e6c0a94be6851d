package shell

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rekindle/agent/link"
	"rekindle/agent/reaper"
)

const testLimit = 20 * time.Second

// local opens bash on a terminal of this machine's, as crun does in the container.
func local(t *testing.T) (*Shells, context.Context) {
	if _, err := os.Stat("/bin/bash"); err != nil {
		t.Skip("this machine has no /bin/bash")
	}
	if _, err := os.Stat("/dev/ptmx"); err != nil {
		t.Skip("this machine has no pseudo terminals")
	}
	// Orphans come to us, as to PID 1.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), testLimit)
	t.Cleanup(cancel)
	processes := reaper.New()
	go processes.Run(ctx)
	return &Shells{Open: func(_ context.Context, size Size) (*Terminal, error) {
		return openLocal(processes, size)
	}}, ctx
}

func openLocal(processes *reaper.Reaper, size Size) (*Terminal, error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	master := os.NewFile(uintptr(fd), "terminal")
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, err
	}
	number, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, err
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer slave.Close()
	leader, err := processes.Start("/bin/bash", []string{"bash", "--noprofile", "--norc", "-i"}, &syscall.ProcAttr{
		Env:   []string{"PATH=/usr/bin:/bin", "PS1=READY", "TERM=xterm", "HOME=/nonexistent"},
		Files: []uintptr{slave.Fd(), slave.Fd(), slave.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true, Setctty: true},
	})
	if err != nil {
		return nil, err
	}
	terminal := &Terminal{Master: master, Leader: leader}
	return terminal, terminal.Resize(size)
}

// side is a stream whose other end the test holds.
type side struct {
	t        *testing.T
	ctx      context.Context
	toShell  chan []byte
	fromHere chan []byte
	ended    chan struct{}
	served   chan error
	shown    bytes.Buffer
	exitCode int
}

func (s *side) Accept() error { return nil }

func (s *side) Write(b []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	select {
	case s.fromHere <- bytes.Clone(b):
		return len(b), nil
	case <-s.ctx.Done():
		return 0, s.ctx.Err()
	}
}

func (s *side) End() { close(s.ended) }

func (s *side) Receive([]byte) ([]byte, error) {
	select {
	case b, ok := <-s.toShell:
		if !ok {
			return nil, io.EOF
		}
		return b, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

func (s *side) Consumed(int) {}

func begin(t *testing.T, ctx context.Context, shells *Shells, size Size) (*side, context.CancelFunc) {
	ctx, reset := context.WithCancel(ctx)
	s := &side{
		t: t, ctx: ctx, exitCode: -1,
		toShell: make(chan []byte, 64), fromHere: make(chan []byte, 64), ended: make(chan struct{}), served: make(chan error, 1),
	}
	go func() { s.served <- shells.Serve(ctx, s, Request{size}) }()
	t.Cleanup(reset)
	return s, reset
}

func (s *side) send(kind byte, body []byte) { s.toShell <- append(head(kind, len(body)), body...) }

func (s *side) typeLine(line string) { s.send(kindBytes, []byte(line+"\r")) }

// until reads records until the text was shown.
func (s *side) until(text string) string {
	s.t.Helper()
	for !strings.Contains(s.shown.String(), text) {
		select {
		case record := <-s.fromHere:
			s.take(record)
		case err := <-s.served:
			s.t.Fatalf("ended (%v) before %q was shown: %q", err, text, s.shown.String())
		case <-time.After(testLimit):
			s.t.Fatalf("never shown: %q, but %q", text, s.shown.String())
		}
	}
	shown := s.shown.String()
	at := strings.Index(shown, text) + len(text)
	s.shown.Reset()
	s.shown.WriteString(shown[at:])
	return shown[:at]
}

func (s *side) take(record []byte) {
	switch record[0] {
	case kindBytes:
		s.shown.Write(record[recordHead:])
	case kindExit:
		s.exitCode = int(binary.BigEndian.Uint32(record[recordHead:]))
	}
}

// end waits until the shell is over.
func (s *side) end() error {
	for {
		select {
		case record := <-s.fromHere:
			s.take(record)
		case err := <-s.served:
			for len(s.fromHere) > 0 {
				s.take(<-s.fromHere)
			}
			return err
		case <-time.After(testLimit):
			s.t.Fatal("the shell does not end")
		}
	}
}

// isAlive leaves out zombies: whoever is their parent has not looked yet.
func isAlive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	state, _ := stateAndSession(string(stat))
	return err == nil && state != "Z"
}

func TestAShellHasATerminalItsSizeAndJobControl(t *testing.T) {
	shells, ctx := local(t)
	s, _ := begin(t, ctx, shells, Size{Cols: 91, Rows: 17})
	s.until("READY")
	s.typeLine("stty size")
	s.until("17 91")
	s.send(kindResize, []byte{0, 132, 0, 43})
	s.until("READY")
	s.typeLine("stty size")
	s.until("43 132")
	s.until("READY")
	// A job that speaks is the terminal's foreground by then; bash itself may lose an interrupt between two commands.
	s.typeLine("sh -c \"echo be''gun; exec sleep 1000\"")
	s.until("begun")
	s.send(kindBytes, []byte{3})
	s.until("READY")
	s.typeLine("echo code=$?")
	s.until("code=130")
	s.typeLine("exit 7")
	if err := s.end(); err != nil || s.exitCode != 7 {
		t.Errorf("ended with %d (%v)", s.exitCode, err)
	}
	select {
	case <-s.ended:
	default:
		t.Error("the stream was not ended")
	}
}

func TestOutputIsWholeWhenTheShellEnds(t *testing.T) {
	shells, ctx := local(t)
	s, _ := begin(t, ctx, shells, Size{80, 24})
	s.until("READY")
	s.typeLine("stty -echo; seq 20000; echo la''st; exit")
	if err := s.end(); err != nil {
		t.Fatal(err)
	}
	shown := s.shown.String()
	if !strings.Contains(shown, "20000\r\nlast\r\n") || strings.Count(shown, "\n") < 20_000 {
		t.Errorf("%d lines were shown", strings.Count(shown, "\n"))
	}
}

func TestNothingOfASessionOutlivesItsStream(t *testing.T) {
	for _, how := range []string{"reset", "exit"} {
		t.Run(how, func(t *testing.T) {
			shells, ctx := local(t)
			s, reset := begin(t, ctx, shells, Size{80, 24})
			s.until("READY")
			// A job of its own process group, and one that shrugs off the hang-up.
			s.typeLine("sleep 1000 & (trap '' HUP; exec sleep 1000) & echo pids=$$=$(jobs -p | tr '\\n' '=')end")
			var pids [3]int
			shown := s.until("=end\r\n")
			if _, err := fmt.Sscanf(shown[strings.LastIndex(shown, "pids="):], "pids=%d=%d=%d=end", &pids[0], &pids[1], &pids[2]); err != nil {
				t.Fatalf("%v in %q", err, shown)
			}
			if how == "reset" {
				reset()
			} else {
				s.typeLine("exit")
			}
			if err := s.end(); (err != nil) != (how == "reset") {
				t.Errorf("ended with %v", err)
			}
			for _, pid := range pids {
				if isAlive(pid) {
					t.Errorf("process %d outlived the shell", pid)
				}
			}
		})
	}
}

func TestABackgroundProcessThatBeganASessionOutlivesTheShell(t *testing.T) {
	setsid, err := exec.LookPath("setsid")
	if err != nil {
		t.Skip("this machine has no setsid")
	}
	shells, ctx := local(t)
	s, _ := begin(t, ctx, shells, Size{80, 24})
	s.until("READY")
	s.typeLine(setsid + " sh -c 'echo pid=$$=end; exec sleep 1000'")
	var pid int
	shown := s.until("=end\r\n")
	if _, err := fmt.Sscanf(shown[strings.LastIndex(shown, "pid="):], "pid=%d=end", &pid); err != nil {
		t.Fatalf("%v in %q", err, shown)
	}
	defer syscall.Kill(pid, syscall.SIGKILL)
	s.typeLine("exit")
	if err := s.end(); err != nil {
		t.Error(err)
	}
	if !isAlive(pid) {
		t.Error("it did not")
	}
}

func TestRecordsThatAreNoneEndTheShell(t *testing.T) {
	shells, ctx := local(t)
	for name, record := range map[string][]byte{
		"unknown kind":  {9, 0, 0, 0, 0},
		"too long":      {kindBytes, 1, 0, 0, 0},
		"half a resize": {kindResize, 0, 0, 0, 2, 0, 80},
	} {
		s, _ := begin(t, ctx, shells, Size{80, 24})
		s.toShell <- record
		var reason *link.Error
		if err := s.end(); !errors.As(err, &reason) || reason.Code != link.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRecordsMayComeInPieces(t *testing.T) {
	shells, ctx := local(t)
	s, _ := begin(t, ctx, shells, Size{80, 24})
	s.until("READY")
	text := "echo pie''ces\r"
	for _, b := range append(head(kindBytes, len(text)), text...) {
		s.toShell <- []byte{b}
	}
	s.until("pieces\r\n")
}

func TestShellsAreCountedAndGivenBack(t *testing.T) {
	shells, ctx := local(t)
	var open []*side
	for range MaxShells {
		s, _ := begin(t, ctx, shells, Size{80, 24})
		s.until("READY")
		open = append(open, s)
	}
	further, _ := begin(t, ctx, shells, Size{80, 24})
	if err := further.end(); err == nil || !strings.Contains(err.Error(), "16 shells are open already") {
		t.Errorf("one more: %v", err)
	}
	open[0].typeLine("exit")
	if err := open[0].end(); err != nil {
		t.Error(err)
	}
	again, _ := begin(t, ctx, shells, Size{80, 24})
	again.until("READY")
	for _, s := range append(open[1:], again) {
		s.typeLine("exit")
		_ = s.end()
	}
}

func TestANameCannotPassForASession(t *testing.T) {
	if state, session := stateAndSession("12 (a) S 1 2 3) R 1 2 77 4"); state != "R" || session != 77 {
		t.Errorf("%s %d", state, session)
	}
}
