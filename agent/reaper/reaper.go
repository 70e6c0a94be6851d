// Package reaper is PID 1's duty to wait for every process that loses its parent.
//
// Waiting for "any child" takes the status of children somebody waits for, too, so all children are started and waited
// for here, and nothing else in the agent uses os/exec.
package reaper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// How many statuses of strangers are kept for who asks late: a container's init may end before it is adopted.
const maxStrangers = 64

// Reaper waits for all children of this process.
type Reaper struct {
	// Held while a child is started, so that its end is not seen before it is known.
	mu        sync.Mutex
	children  map[int]*Child
	strangers map[int]int
	order     []int
}

// Child is a process whose end is awaited.
type Child struct {
	PID  int
	done chan struct{}
	code int
}

// New makes a Reaper; Run does the work.
func New() *Reaper {
	return &Reaper{children: map[int]*Child{}, strangers: map[int]int{}}
}

// Run reaps until ctx ends.
func (r *Reaper) Run(ctx context.Context) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGCHLD)
	defer signal.Stop(signals)
	for {
		r.reap()
		select {
		case <-signals:
		case <-ctx.Done():
			return
		}
	}
}

func (r *Reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if !status.Exited() && !status.Signaled() {
			continue
		}
		r.ended(pid, exitCode(status))
	}
}

func exitCode(status syscall.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

func (r *Reaper) ended(pid, code int) {
	if child := r.children[pid]; child != nil {
		delete(r.children, pid)
		child.code = code
		close(child.done)
		return
	}
	r.strangers[pid] = code
	r.order = append(r.order, pid)
	if len(r.order) > maxStrangers {
		delete(r.strangers, r.order[0])
		r.order = r.order[1:]
	}
}

// Start starts a program.
func (r *Reaper) Start(path string, argv []string, attr *syscall.ProcAttr) (*Child, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	return r.know(pid), nil
}

// Adopt awaits a process that others started and that is, or becomes, a child of ours.
func (r *Reaper) Adopt(pid int) *Child {
	r.mu.Lock()
	defer r.mu.Unlock()
	child := r.know(pid)
	if code, ok := r.strangers[pid]; ok {
		delete(r.strangers, pid)
		r.ended(pid, code)
	}
	return child
}

func (r *Reaper) know(pid int) *Child {
	child := &Child{PID: pid, done: make(chan struct{})}
	r.children[pid] = child
	return child
}

// Done is closed when the child ended.
func (c *Child) Done() <-chan struct{} { return c.done }

// ExitCode is the child's once it is done: its status, or 128 and the signal's number.
func (c *Child) ExitCode() int { return c.code }

// Wait waits for the child's end.
func (c *Child) Wait(ctx context.Context) (int, error) {
	select {
	case <-c.done:
		return c.code, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// Output runs a program to its end and returns what it printed. When ctx ends the program is killed.
func (r *Reaper) Output(ctx context.Context, argv ...string) (output string, code int, err error) {
	from, to, err := os.Pipe()
	if err != nil {
		return "", 0, err
	}
	defer from.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		to.Close()
		return "", 0, err
	}
	child, err := r.Start(argv[0], argv, &syscall.ProcAttr{
		Files: []uintptr{null.Fd(), to.Fd(), to.Fd()},
		Env:   []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
	})
	null.Close()
	to.Close()
	if err != nil {
		return "", 0, err
	}
	stop := context.AfterFunc(ctx, func() { _ = syscall.Kill(child.PID, syscall.SIGKILL) })
	defer stop()
	text, _ := io.ReadAll(io.LimitReader(from, maxOutput))
	code, err = child.Wait(ctx)
	return string(text), code, err
}

// A checker may print a line for each of a million broken inodes.
const maxOutput = 256 << 10
