package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const (
	socket           = "/run/buildkit/buildkitd.sock"
	daemonConfigFile = "/run/buildkit/buildkitd.toml"
	daemonStart      = 60 * time.Second
	daemonStop       = 30 * time.Second
)

// daemon is a buildkitd that was started.
type daemon struct {
	cmd *exec.Cmd
	// Done once the process has ended; its cause says how.
	over context.Context
}

// startDaemon starts buildkitd with its socket already listening: a client that comes early waits in it, where one that finds no
// socket comes again only after a second.
func startDaemon(with settings) (*daemon, error) {
	if err := seedContent(); err != nil {
		return nil, err
	}
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
	var log bytes.Buffer
	// A socket handed over is the process's whose number stands in its environment.
	cmd := exec.Command("/bin/sh", "-c", `LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" "$@"`,
		"/usr/bin/buildkitd", "--config", daemonConfigFile, "--root", cacheMount, "--addr", "fd://")
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.ExtraFiles = []*os.File{listening}
	// With an overlay or ext4 root, libmount's new API limits `lowerdir` to 256 bytes.
	cmd.Env = append(with.environment(), "LIBMOUNT_FORCE_MOUNT2=always")
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start buildkitd: %w", err)
	}
	over, end := context.WithCancelCause(context.Background())
	go func() {
		err := cmd.Wait()
		end(fmt.Errorf("buildkitd ended: %v\n%s", err, tail(&log)))
	}()
	return &daemon{cmd, over}, nil
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
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop buildkitd: %w", err)
	}
	select {
	case <-d.over.Done():
		return nil
	case <-time.After(daemonStop):
		return d.cmd.Process.Kill()
	}
}

func daemonConfig(with settings) string {
	runtime := realRuntime()
	if with.Trust != "" {
		runtime = runtimeLink
	}
	// Without platforms it tries which others this machine can run, eleven processes that have to fail.
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
  gc = true
  [[worker.oci.gcpolicy]]
    all = true
    maxUsedSpace = %q
%s`, runtime, stepsParent, cacheLimit, with.daemonRegistries())
}

func tail(log *bytes.Buffer) string {
	text := log.Bytes()
	return string(text[max(0, len(text)-4096):])
}
