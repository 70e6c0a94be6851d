package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"rekindle/gateway/guest"
	"rekindle/gateway/policy"
)

// recorded stands for the guests: it remembers what it was asked to do.
type recorded struct {
	mu    sync.Mutex
	calls []string
}

func (r *recorded) note(call string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, call)
}

func (r *recorded) Attach(id string, config guest.Config) (string, error) {
	r.note("attach " + id + " " + config.Labels.Principal)
	if config.Limits.Connections != nil {
		r.note(fmt.Sprintf("connections %d", *config.Limits.Connections))
	}
	return "/net/" + id + "/net.sock", config.Limits.Check()
}
func (r *recorded) Detach(id string) error { r.note("detach " + id); return nil }
func (r *recorded) Cut(id string) error {
	r.note("cut " + id)
	return errors.New("guest is not attached")
}
func (r *recorded) Stats(id string) (guest.Stats, error) {
	return guest.Stats{Flows: 3, Connected: true}, nil
}
func (r *recorded) Guests() []string { return []string{"a", "b"} }

type client struct {
	t     *testing.T
	conn  net.Conn
	lines *bufio.Reader
}

func serveControl(t *testing.T) (*recorded, func() *client) {
	t.Helper()
	dir := t.TempDir()
	folder, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := folder.Listen()
	if err != nil {
		t.Fatal(err)
	}
	host, err := policy.NewHost(policy.HostConfig{Interfaces: func() ([]netip.Addr, error) { return nil, nil }})
	if err != nil {
		t.Fatal(err)
	}
	guests := &recorded{}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	server := &Server{Guests: guests, Host: host, Version: "test", Logger: slog.New(slog.DiscardHandler)}
	go func() { ended <- server.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serving ended with %v", err)
		}
		_ = folder.Close()
	})
	return guests, func() *client {
		conn, err := net.Dial("unix", filepath.Join(dir, "control.sock"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return &client{t: t, conn: conn, lines: bufio.NewReader(conn)}
	}
}

func (c *client) ask(line string) string {
	c.t.Helper()
	if _, err := c.conn.Write([]byte(line + "\n")); err != nil {
		c.t.Fatal(err)
	}
	answer, err := c.lines.ReadString('\n')
	if err != nil {
		c.t.Fatal(err)
	}
	return strings.TrimSpace(answer)
}

func TestEveryOperationIsAnsweredByItsID(t *testing.T) {
	guests, connect := serveControl(t)
	c := connect()
	for _, one := range []struct{ line, answer string }{
		{`{"id":1,"op":"hello"}`, fmt.Sprintf(`{"id":1,"result":{"generation":1,"version":"test","pid":%d,"guests":["a","b"]}}`, os.Getpid())},
		{
			`{"id":"x","op":"attach","guest":"a","policy":{"rules":[],"dns":"off"},"limits":{"connections":7},"labels":{"principal":"p","imageArn":"","imageVersion":"1"}}`,
			`{"id":"x","result":{"socket":"/net/a/net.sock"}}`,
		},
		{`{"id":3,"op":"detach","guest":"a"}`, `{"id":3,"result":{}}`},
		{`{"id":4,"op":"cut","guest":"a"}`, `{"id":4,"error":"guest is not attached"}`},
		{
			`{"id":5,"op":"stats","guest":"a"}`,
			`{"id":5,"result":{"flows":3,"flowsInAll":0,"refused":0,"dropped":0,"queries":0,"bytesOut":0,"bytesIn":0,"connected":true}}`,
		},
	} {
		if got := c.ask(one.line); got != one.answer {
			t.Errorf("%s\n got %s\nwant %s", one.line, got, one.answer)
		}
	}
	if got := strings.Join(guests.calls, ", "); got != "attach a p, connections 7, detach a, cut a" {
		t.Errorf("what was done: %s", got)
	}
}

func TestWhatCannotBeReadIsAnErrorAndChangesNothing(t *testing.T) {
	guests, connect := serveControl(t)
	c := connect()
	for _, line := range []string{
		`nonsense`,
		`{"id":1}`,
		`{"id":1,"op":"attach","guest":"a"}`,
		`{"id":1,"op":"attach","guest":"a","policy":{"rules":[]}}`,
		`{"id":1,"op":"attach","guest":"a","policy":{"rules":[],"dns":"off"},"limits":{"conections":1}}`,
		`{"id":1,"op":"attach","guest":"a","policy":{"rules":[],"dns":"off"},"limits":[]}`,
		`{"id":1,"op":"attach","guest":"a","policy":{"rules":[],"dns":"off"},"unknown":1}`,
		`{"id":1,"op":"stats","guest":"a"} {"id":2}`,
	} {
		var answer struct{ Error string }
		if err := json.Unmarshal([]byte(c.ask(line)), &answer); err != nil || answer.Error == "" {
			t.Errorf("%s: %v %v", line, answer, err)
		}
	}
	if len(guests.calls) > 0 {
		t.Errorf("something was done: %v", guests.calls)
	}
}

func TestAClientWithALineTooLongIsSentAwayAndOthersAreServed(t *testing.T) {
	_, connect := serveControl(t)
	other := connect()
	c := connect()
	go func() { _, _ = c.conn.Write([]byte(strings.Repeat("x", maxLineBytes+10))) }()
	answer, err := c.lines.ReadString('\n')
	if err != nil || !strings.Contains(answer, "at most 1048576 bytes") {
		t.Errorf("answered %q (%v)", answer, err)
	}
	if got := other.ask(`{"id":9,"op":"hello"}`); !strings.HasPrefix(got, `{"id":9,"result"`) {
		t.Errorf("the other client got %s", got)
	}
}

func TestALineAsLongAsAllowedIsRead(t *testing.T) {
	_, connect := serveControl(t)
	line := `{"id":1,"op":"hello"}`
	line += strings.Repeat(" ", maxLineBytes-len(line))
	if got := connect().ask(line); !strings.HasPrefix(got, `{"id":1,"result"`) {
		t.Errorf("answered %s", got)
	}
}

func TestASecondGatewayRefusesTheFolderUntilTheFirstEnds(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made")
	first, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); !errors.Is(err, ErrTaken) {
		t.Errorf("a second gateway got %v", err)
	}
	for range 2 {
		listener, err := first.Listen()
		if err != nil {
			t.Fatal(err)
		}
		_ = listener.Close()
	}
	found, err := os.Stat(filepath.Join(dir, "control.sock"))
	if err != nil || found.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("the control socket: %v %v", found.Mode(), err)
	}
	_ = first.Close()
	again, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	_ = again.Close()
}
