// Package guestexec runs programs of the guest's own, never the app's: what makes a machine a builder.
package guestexec

import (
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rekindle/agent/boot"
	"rekindle/agent/link"
	"rekindle/agent/reaper"
	"rekindle/agent/rootdisk"
)

// Request names a program.
type Request struct {
	Argv []string `json:"argv"`
	Env  []string `json:"env"`
	Cwd  string   `json:"cwd"`
}

const (
	kindOutput  = 1
	kindExit    = 2
	recordHead  = 5
	outputBytes = 16 << 10
	// A program may leave children behind that keep its output open.
	drainLimit  = 200 * time.Millisecond
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// Programs runs requests in the root disk, or in the initramfs while none is mounted.
type Programs struct {
	Processes *reaper.Reaper
	mu        sync.Mutex
	prepared  bool
}

// Serve runs one program and streams what it prints, then its exit code. A stream that ends early kills it.
func (p *Programs) Serve(ctx context.Context, stream *link.Stream, request Request) error {
	if len(request.Argv) == 0 {
		return link.Errorf(link.CodeInvalid, "argv is empty")
	}
	root, err := p.root()
	if err != nil {
		return err
	}
	from, to, err := os.Pipe()
	if err != nil {
		return err
	}
	defer from.Close()
	child, err := p.start(request, root, to)
	to.Close()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = syscall.Kill(-child.PID, syscall.SIGKILL) })
	defer stop()
	go func() {
		<-child.Done()
		_ = from.SetReadDeadline(time.Now().Add(drainLimit))
	}()
	if err := stream.Accept(); err != nil {
		return err
	}
	if err := forward(stream, from); err != nil {
		return err
	}
	code, err := child.Wait(ctx)
	if err != nil {
		return err
	}
	record := append(head(kindExit, 4), 0, 0, 0, 0)
	binary.BigEndian.PutUint32(record[recordHead:], uint32(code))
	if _, err := stream.Write(record); err != nil {
		return err
	}
	stream.End()
	return nil
}

func (p *Programs) root() (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !rootdisk.IsMounted() {
		return "", nil
	}
	if !p.prepared {
		if err := boot.MountKernelFileSystems(rootdisk.MountPoint); err != nil {
			return "", err
		}
		p.prepared = true
	}
	return rootdisk.MountPoint, nil
}

func (p *Programs) start(request Request, root string, output *os.File) (*reaper.Child, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	env := request.Env
	path, ok := lookEnv(env, "PATH")
	if !ok {
		path = defaultPath
		env = append(env, "PATH="+path)
	}
	program, err := lookPath(request.Argv[0], path, root)
	if err != nil {
		return nil, err
	}
	dir := request.Cwd
	if dir == "" {
		dir = "/"
	}
	child, err := p.Processes.Start(program, request.Argv, &syscall.ProcAttr{
		Dir:   dir,
		Env:   env,
		Files: []uintptr{null.Fd(), output.Fd(), output.Fd()},
		Sys:   &syscall.SysProcAttr{Chroot: root, Setsid: true},
	})
	if err != nil {
		return nil, err
	}
	// The agent's own limit is meant for its tunnels, and its place in the OOM order for itself.
	limit := unix.Rlimit{Cur: 1024, Max: 524_288}
	_ = unix.Prlimit(child.PID, unix.RLIMIT_NOFILE, &limit, nil)
	_ = os.WriteFile(filepath.Join("/proc", strconv.Itoa(child.PID), "oom_score_adj"), []byte("0"), 0o644)
	return child, nil
}

// lookPath finds the program as seen from inside the root.
func lookPath(name, path, root string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for dir := range strings.SplitSeq(path, ":") {
		candidate := filepath.Join("/", dir, name)
		if info, err := os.Stat(root + candidate); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return candidate, nil
		}
	}
	return "", link.Errorf(link.CodeFailed, "no program %.64q", name)
}

func lookEnv(env []string, name string) (string, bool) {
	for _, entry := range env {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value, true
		}
	}
	return "", false
}

func forward(stream *link.Stream, from *os.File) error {
	buffer := make([]byte, recordHead+outputBytes)
	for {
		n, err := from.Read(buffer[recordHead:])
		if n > 0 {
			copy(buffer, head(kindOutput, n))
			if _, err := stream.Write(buffer[:recordHead+n]); err != nil {
				return err
			}
		}
		if err != nil {
			return nil // the end, or nothing more within the limit
		}
	}
}

func head(kind byte, length int) []byte {
	return binary.BigEndian.AppendUint32([]byte{kind}, uint32(length))
}
