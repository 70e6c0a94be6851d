// Package container runs the app, by crun, as Docker would: namespaces of its own but for the network, Docker's default
// capabilities and system call filter, clean /dev, /proc and /sys, nothing of the agent in sight.
package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"rekindle/agent/applog"
	"rekindle/agent/link"
	"rekindle/agent/reaper"
)

const (
	crun         = "/usr/bin/crun"
	bundlePath   = "/run/app"
	stateRoot    = "/run/crun"
	logFile      = "/run/app/crun.log"
	pidFile      = "/run/app/pid"
	name         = "app"
	createLimit  = 60 * time.Second
	removeLimit  = 10 * time.Second
	maxErrorText = 800
)

// Start says what to run.
type Start struct {
	Argv         []string `json:"argv"`
	Env          []string `json:"env"`
	Cwd          string   `json:"cwd"`
	User         string   `json:"user"`
	Capabilities string   `json:"capabilities"`
}

// Status of the app.
type Status struct {
	State    string `json:"state"`
	ExitCode int    `json:"exitCode"`
}

// App is the one container of a guest.
type App struct {
	Log       *applog.Ring
	processes *reaper.Reaper
	rootPath  string

	mu       sync.Mutex
	starting bool
	child    *reaper.Child
	// all: it has every capability.
	all bool
}

// New makes an App whose root file system will be at rootPath.
func New(processes *reaper.Reaper, rootPath string) *App {
	return &App{Log: &applog.Ring{}, processes: processes, rootPath: rootPath}
}

// Start starts the app and returns its process id. It can be done once; after a failure again.
func (a *App) Start(ctx context.Context, start Start) (int, error) {
	if err := start.check(); err != nil {
		return 0, err
	}
	a.mu.Lock()
	if a.starting || a.child != nil {
		a.mu.Unlock()
		return 0, errors.New("the app was started already")
	}
	a.starting = true
	a.mu.Unlock()
	child, output, err := a.run(ctx, start)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.starting = false
	if err != nil {
		return 0, err
	}
	a.child, a.all = child, start.Capabilities == "all"
	go func() {
		output.Wait()
		a.Log.Close()
	}()
	return child.PID, nil
}

func (s *Start) check() error {
	if len(s.Argv) == 0 || s.Argv[0] == "" {
		return link.Errorf(link.CodeInvalid, "argv is empty")
	}
	if s.Capabilities != "default" && s.Capabilities != "all" {
		return link.Errorf(link.CodeInvalid, "capabilities are default or all")
	}
	if s.Cwd == "" {
		s.Cwd = "/"
	}
	if !path.IsAbs(s.Cwd) {
		s.Cwd = "/" + s.Cwd
	}
	return nil
}

// Wait waits for the app's end.
func (a *App) Wait(ctx context.Context) (int, error) {
	child := a.current()
	if child == nil {
		return 0, errors.New("the app was not started")
	}
	return child.Wait(ctx)
}

// Status tells how the app is.
func (a *App) Status() Status {
	child := a.current()
	if child == nil {
		return Status{State: "none"}
	}
	select {
	case <-child.Done():
		return Status{State: "exited", ExitCode: child.ExitCode()}
	default:
		return Status{State: "running"}
	}
}

func (a *App) current() *reaper.Child {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.child
}

func (a *App) run(ctx context.Context, start Start) (*reaper.Child, *sync.WaitGroup, error) {
	if err := a.writeBundle(start); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, createLimit)
	defer cancel()
	output, err := a.create(ctx)
	if err != nil {
		a.remove(ctx)
		return nil, nil, err
	}
	pid, err := readPID(pidFile)
	if err != nil {
		a.remove(ctx)
		return nil, nil, err
	}
	child := a.processes.Adopt(pid)
	if err := a.crun(ctx, logFile, "start", name); err != nil {
		a.remove(ctx)
		return nil, nil, err
	}
	return child, output, nil
}

// remove clears away what a failed start left, so that another can be tried.
func (a *App) remove(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeLimit)
	defer cancel()
	if err := a.crun(ctx, logFile, "delete", "--force", name); err != nil {
		log.Printf("container: %v", err)
	}
}

// writeBundle writes config.json and the files that are mounted over the root file system's.
func (a *App) writeBundle(start Start) error {
	root, err := os.OpenRoot(a.rootPath)
	if err != nil {
		return err
	}
	defer root.Close()
	identity, home, err := identify(root, start.User)
	if err != nil {
		return link.Errorf(link.CodeInvalid, "%v", err)
	}
	// A path through a link out of the root is left to crun, which resolves it from inside.
	_ = root.MkdirAll(strings.TrimPrefix(path.Clean(start.Cwd), "/"), 0o755)
	config, err := spec(start, a.rootPath, identity, environment(start.Env, home))
	if err != nil {
		return err
	}
	body, err := json.Marshal(config)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(bundlePath); err != nil {
		return err
	}
	if err := os.MkdirAll(bundlePath, 0o700); err != nil {
		return err
	}
	for _, file := range ownFiles {
		if err := os.WriteFile(file.source(), []byte(file.text), 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(bundlePath+"/config.json", body, 0o600)
}

// create makes the container, its process waiting for `start`, and attaches its output to the log.
func (a *App) create(ctx context.Context) (*sync.WaitGroup, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	outFrom, outTo, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	errFrom, errTo, err := os.Pipe()
	if err != nil {
		outFrom.Close()
		outTo.Close()
		return nil, err
	}
	child, err := a.processes.Start(crun, crunArgs(logFile, "create", "--bundle", bundlePath, "--pid-file", pidFile, name),
		&syscall.ProcAttr{Files: []uintptr{null.Fd(), outTo.Fd(), errTo.Fd()}, Env: crunEnv})
	outTo.Close()
	errTo.Close()
	if err != nil {
		outFrom.Close()
		errFrom.Close()
		return nil, err
	}
	output := a.collect(outFrom, errFrom)
	return output, a.finish(ctx, child, logFile)
}

// collect feeds the log until both pipes end, which is when the last process of the container is gone.
func (a *App) collect(stdout, stderr *os.File) *sync.WaitGroup {
	var both sync.WaitGroup
	for stream, from := range map[int]*os.File{1: stdout, 2: stderr} {
		both.Go(func() {
			defer from.Close()
			a.Log.Copy(stream, from)
		})
	}
	return &both
}

var crunEnv = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "XDG_RUNTIME_DIR=/run"}

func crunArgs(logTo string, args ...string) []string {
	return append([]string{crun, "--root", stateRoot, "--cgroup-manager", "cgroupfs", "--log", "file:" + logTo}, args...)
}

func (a *App) crun(ctx context.Context, logTo string, args ...string) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	child, err := a.processes.Start(crun, crunArgs(logTo, args...),
		&syscall.ProcAttr{Files: []uintptr{null.Fd(), null.Fd(), null.Fd()}, Env: crunEnv})
	if err != nil {
		return err
	}
	return a.finish(ctx, child, logTo)
}

// finish waits for a crun and turns its complaint, which is in its log, into an error.
func (a *App) finish(ctx context.Context, child *reaper.Child, logTo string) error {
	code, err := child.Wait(ctx)
	if err != nil {
		_ = syscall.Kill(child.PID, syscall.SIGKILL)
		return err
	}
	if code == 0 {
		return nil
	}
	text, _ := os.ReadFile(logTo)
	message := strings.TrimSpace(string(text))
	return fmt.Errorf("crun %d: %s", code, message[max(0, len(message)-maxErrorText):])
}

func readPID(file string) (int, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}
