package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"strconv"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"rekindle/agent/link"
	"rekindle/agent/shell"
)

const (
	shellsPath = "/run/shell"
	openLimit  = 30 * time.Second
	// A name of a file, and room.
	maxConsoleName = 256
)

// shells are looked for in this order. Nothing of the image's startup files is read: the prompt is ours.
var shells = [][]string{
	{"/bin/bash", "--noprofile", "--norc", "-i"},
	{"/usr/bin/bash", "--noprofile", "--norc", "-i"},
	{"/bin/sh", "-i"},
	{"/usr/bin/sh", "-i"},
	{"/bin/busybox", "sh", "-i"},
	{"/usr/bin/busybox", "sh", "-i"},
	{"/busybox/busybox", "sh", "-i"},
}

// shellEnv is all a shell inherits: nothing of the image's or the version's. GUESS: shell-environment
func shellEnv(home string) []string {
	return []string{
		"PATH=" + defaultPath, "HOME=" + home, "HOSTNAME=" + hostname, "USER=root", "TERM=xterm", "LANG=C.UTF-8", `PS1=λ $ `,
	}
}

// OpenShell starts a root shell on a terminal of its own in the running container: all its namespaces, its cgroup, its
// system call filter, no more capabilities than its root has.
func (a *App) OpenShell(ctx context.Context, size shell.Size) (*shell.Terminal, error) {
	ctx, cancel := context.WithTimeout(ctx, openLimit)
	defer cancel()
	child := a.current()
	if child == nil {
		return nil, errors.New("the app was not started")
	}
	select {
	case <-child.Done():
		return nil, errors.New("the app has ended")
	default:
	}
	argv, err := findShell(path.Join("/proc", strconv.Itoa(child.PID), "root"))
	if err != nil {
		return nil, err
	}
	process, err := a.shellProcess(argv, size)
	if err != nil {
		return nil, err
	}
	return a.exec(ctx, process)
}

// findShell looks as from inside the root: links stay in it, whatever they say.
func findShell(rootPath string) ([]string, error) {
	root, err := unix.Open(rootPath, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the container's root: %w", err)
	}
	defer unix.Close(root)
	for _, argv := range shells {
		fd, err := unix.Openat2(root, argv[0], &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
		})
		if err != nil {
			continue
		}
		var stat unix.Stat_t
		err = unix.Fstat(fd, &stat)
		unix.Close(fd)
		if err == nil && stat.Mode&unix.S_IFMT == unix.S_IFREG && stat.Mode&0o111 != 0 {
			return argv, nil
		}
	}
	return nil, link.Errorf(link.CodeRefused, "the image has no shell (bash, sh or busybox)")
}

func (a *App) shellProcess(argv []string, size shell.Size) (*specs.Process, error) {
	root, err := os.OpenRoot(a.rootPath)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	identity, home, err := identify(root, "")
	if err != nil {
		return nil, err
	}
	return &specs.Process{
		Terminal:     true,
		ConsoleSize:  &specs.Box{Height: uint(size.Rows), Width: uint(size.Cols)},
		User:         identity,
		Args:         argv,
		Env:          shellEnv(home),
		Cwd:          "/",
		Capabilities: capabilities(a.hasAllCapabilities(), 0),
		Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 524_288}},
		OOMScoreAdj:  new(int),
	}, nil
}

func (a *App) hasAllCapabilities() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.all
}

// exec has crun start the process; crun hands the terminal's master over by a socket (runtime-spec, console socket).
func (a *App) exec(ctx context.Context, process *specs.Process) (*shell.Terminal, error) {
	if err := os.MkdirAll(shellsPath, 0o700); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(shellsPath, "")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	body, err := json.Marshal(process)
	if err != nil {
		return nil, err
	}
	processFile, socketPath, shellPID := path.Join(dir, "process.json"), path.Join(dir, "console"), path.Join(dir, "pid")
	if err := os.WriteFile(processFile, body, 0o600); err != nil {
		return nil, err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socketPath, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	logFile := path.Join(dir, "log")
	err = a.crun(ctx, logFile, "exec", "--detach", "--process", processFile, "--console-socket", socketPath, "--pid-file", shellPID, name)
	if err != nil {
		return nil, err
	}
	pid, err := readPID(shellPID)
	if err != nil {
		return nil, err
	}
	leader := a.processes.Adopt(pid)
	master, err := receiveConsole(ctx, listener)
	if err != nil {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		return nil, err
	}
	return &shell.Terminal{Master: master, Leader: leader}, nil
}

// receiveConsole takes the terminal's master that crun sent before it ended.
func receiveConsole(ctx context.Context, listener *net.UnixListener) (*os.File, error) {
	if deadline, ok := ctx.Deadline(); ok {
		_ = listener.SetDeadline(deadline)
	}
	conn, err := listener.AcceptUnix()
	if err != nil {
		return nil, fmt.Errorf("crun sent no terminal: %w", err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(openLimit))
	text, rights := make([]byte, maxConsoleName), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(text, rights)
	if err != nil {
		return nil, fmt.Errorf("crun sent no terminal: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	if err != nil || len(messages) != 1 {
		return nil, errors.New("crun sent no terminal")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.New("crun sent no terminal")
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}
