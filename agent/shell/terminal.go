package shell

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rekindle/agent/reaper"
)

const (
	// What a process that was told to hang up may still do, such as to save its history.
	hangUpGrace = 500 * time.Millisecond
	lookAgain   = 10 * time.Millisecond
	// A session that forks faster than it is ended this often is left to the container's own end.
	maxKillRounds = 200
)

// Size of a terminal's window.
type Size struct {
	Cols uint16 `json:"cols"`
	Rows uint16 `json:"rows"`
}

// Terminal is a shell that leads a session of its own, and the other end of its terminal.
type Terminal struct {
	// Master is in non-blocking mode, so that Close ends a Read or Write under way.
	Master *os.File
	Leader *reaper.Child
}

// Resize sets the window's size; the foreground program gets SIGWINCH.
func (t *Terminal) Resize(size Size) error {
	raw, err := t.Master.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	err = raw.Control(func(fd uintptr) {
		failure = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Cols})
	})
	if err != nil {
		return err
	}
	return failure
}

// HangUp tells every process of the session that its terminal is going away.
func (t *Terminal) HangUp() {
	for _, pid := range members(t.Leader.PID) {
		_ = syscall.Kill(pid, syscall.SIGHUP)
		_ = syscall.Kill(pid, syscall.SIGCONT)
	}
}

// Close takes the terminal away and returns when no process of its session is left. Who began a session of its own
// (setsid) is none of it.
func (t *Terminal) Close() error {
	_ = t.Master.Close()
	t.HangUp()
	deadline := time.Now().Add(hangUpGrace)
	for len(members(t.Leader.PID)) > 0 && time.Now().Before(deadline) {
		time.Sleep(lookAgain)
	}
	for range maxKillRounds {
		left := members(t.Leader.PID)
		if len(left) == 0 {
			return nil
		}
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(lookAgain)
	}
	return fmt.Errorf("processes of session %d do not end", t.Leader.PID)
}

// members lists the processes of a session, zombies aside.
func members(session int) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var found []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "stat"))
		if err != nil {
			continue
		}
		if state, of := stateAndSession(string(stat)); of == session && state != "Z" && state != "X" {
			found = append(found, pid)
		}
	}
	return found
}

// stateAndSession reads two fields of /proc/<pid>/stat. The program's name comes before them and is the program's choice.
func stateAndSession(stat string) (string, int) {
	end := strings.LastIndexByte(stat, ')')
	if end < 0 {
		return "", 0
	}
	fields := strings.Fields(stat[end+1:])
	if len(fields) < 4 {
		return "", 0
	}
	session, err := strconv.Atoi(fields[3])
	if err != nil {
		return "", 0
	}
	return fields[0], session
}
