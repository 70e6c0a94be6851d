package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	socket           = "/run/buildkit/buildkitd.sock"
	daemonConfigFile = "/run/buildkit/buildkitd.toml"
	daemonPIDFile    = "/run/buildkit/pid"
	daemonLog        = "/run/buildkit/log"
	daemonStart      = 60 * time.Second
	daemonStop       = 30 * time.Second
)

// daemon is a buildkitd that runs.
type daemon struct {
	process *os.Process
	// Done once the process has ended; its cause says how.
	over context.Context
}

// daemonFor returns the one that an earlier build of this machine left running, or starts it.
func daemonFor(with settings) (*daemon, error) {
	if err := seedContent(); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(daemonPIDFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil || syscall.Kill(pid, 0) != nil {
		return startDaemon(with)
	}
	process, err := os.FindProcess(pid)
	if err != nil {
		return nil, err
	}
	return watched(process, func() error { return untilOver(pid) }), nil
}

// startDaemon starts buildkitd with its socket already listening: a client that comes early waits in it, where one that finds no
// socket comes again only after a second.
func startDaemon(with settings) (*daemon, error) {
	if err := boundSteps(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(daemonConfigFile, []byte(daemonConfig(with)), 0o600); err != nil {
		return nil, err
	}
	listening, err := listen()
	if err != nil {
		return nil, err
	}
	defer listening.Close()
	// It may outlive this program, whose pipe would break.
	log, err := os.Create(daemonLog)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// A socket handed over is the process's whose number stands in its environment.
	cmd := exec.Command("/bin/sh", "-c", `LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" "$@"`,
		"/usr/bin/buildkitd", "--config", daemonConfigFile, "--root", cacheMount, "--addr", "fd://")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{listening}
	// With an overlay or ext4 root, libmount's new API limits `lowerdir` to 256 bytes.
	cmd.Env = append(with.environment(), "LIBMOUNT_FORCE_MOUNT2=always")
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start buildkitd: %w", err)
	}
	up := watched(cmd.Process, cmd.Wait)
	return up, os.WriteFile(daemonPIDFile, []byte(strconv.Itoa(cmd.Process.Pid)), 0o600)
}

// watched has `wait` return when the process has ended.
func watched(process *os.Process, wait func() error) *daemon {
	over, end := context.WithCancelCause(context.Background())
	go func() {
		err := wait()
		end(fmt.Errorf("buildkitd ended: %v\n%s", err, tail(daemonLog)))
	}()
	return &daemon{process, over}
}

// untilOver waits for a process that is not a child.
func untilOver(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for {
		if _, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1); err != unix.EINTR {
			return err
		}
	}
}

// listen makes the daemon's socket, for its user only.
func listen() (*os.File, error) {
	if err := os.RemoveAll(socket); err != nil {
		return nil, err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false)
	defer listener.Close()
	return listener.File()
}

func (d *daemon) stop() error {
	if d.over.Err() != nil {
		return nil
	}
	if err := d.process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop buildkitd: %w", err)
	}
	select {
	case <-d.over.Done():
		return nil
	case <-time.After(daemonStop):
		return d.process.Kill()
	}
}

func daemonConfig(with settings) string {
	runtime := realRuntime()
	if with.Trust != "" {
		runtime = runtimeLink
	}
	// Without platforms it tries which others this machine can run, eleven processes that have to fail. A collector could take what
	// was exported before it is read; pruneCache comes after.
	return fmt.Sprintf(`[worker.containerd]
  enabled = false
  platforms = ["linux/amd64"]
[worker.oci]
  enabled = true
  platforms = ["linux/amd64"]
  snapshotter = "overlayfs"
  networkMode = "host"
  binary = %q
  defaultCgroupParent = %q
  gc = false
%s`, runtime, stepsParent, with.daemonRegistries())
}

// tail is the end of a file; empty when it cannot be read.
func tail(place string) string {
	text, _ := os.ReadFile(place)
	return string(text[max(0, len(text)-4096):])
}
