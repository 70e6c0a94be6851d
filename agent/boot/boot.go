// Package boot turns the bare initramfs into a place to work in: kernel file systems, modules, network.
package boot

import (
	"bufio"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"rekindle/agent/network"
)

// moduleOrder lists the modules to load, one path a line, in order.
const moduleOrder = "/lib/modules.order.rekindle"

// Open files of the agent: a connection for each of 4096 streams, and room. Programs get their own limits.
const maxOpenFiles = 524_288

// Prepare does everything a guest needs before its link can be served.
func Prepare() error {
	if err := leaveInitialRoot(); err != nil {
		return err
	}
	if err := MountKernelFileSystems("/"); err != nil {
		return err
	}
	if err := loadModules(); err != nil {
		return err
	}
	if err := setLoopbackUp(); err != nil {
		return err
	}
	// A guest without a network still serves who comes by the link.
	if err := network.SetUp(); err != nil {
		log.Print(err)
	}
	settings := map[string]string{
		"/proc/self/oom_score_adj": "-1000",
		// As Docker sets them: ports below 1024 and ping need no root.
		"/proc/sys/net/ipv4/ip_unprivileged_port_start": "0",
		"/proc/sys/net/ipv4/ping_group_range":           "0 2147483647",
		"/proc/sys/kernel/hostname":                     "localhost",
	}
	for file, value := range settings {
		if err := os.WriteFile(file, []byte(value), 0o644); err != nil {
			return err
		}
	}
	if err := keepQuiet(); err != nil {
		return err
	}
	limit := unix.Rlimit{Cur: maxOpenFiles, Max: maxOpenFiles}
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
}

// keepQuiet turns off what a kernel does by the clock for nobody's good here. Under emulation that is half of what a guest costs
// that does nothing, and a host has many of those.
func keepQuiet() error {
	for file, value := range map[string]string{
		// Counters of memory that only tools read; twice a second for the two of them.
		"/proc/sys/vm/stat_interval": "120",
		// Looks for memory to tidy twice a second; who needs a large page still tidies for itself.
		"/proc/sys/vm/compaction_proactiveness": "0",
		// Whether a vCPU hangs: one that a busy host did not run looks the same.
		"/proc/sys/kernel/watchdog": "0",
	} {
		// Not every kernel has all of them.
		if err := os.WriteFile(file, []byte(value), 0o644); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// leaveInitialRoot puts the initramfs on top of itself. pivot_root, by which a container leaves our root for good, is
// refused in the kernel's very first mount, which has no parent.
func leaveInitialRoot() error {
	const stage = "/.root"
	if err := os.MkdirAll(stage, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("/", stage, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind the root: %w", err)
	}
	if err := unix.Chdir(stage); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return unix.Chdir("/")
}

// MountKernelFileSystems gives the root at the folder its /proc, /sys, /dev and the rest.
func MountKernelFileSystems(root string) error {
	const plain = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, m := range []struct {
		kind, at string
		flags    uintptr
		options  string
	}{
		{"proc", "proc", plain, ""},
		{"sysfs", "sys", plain, ""},
		{"devtmpfs", "dev", unix.MS_NOSUID, "mode=755"},
		{"devpts", "dev/pts", unix.MS_NOSUID | unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"},
		{"tmpfs", "dev/shm", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"tmpfs", "run", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
		{"tmpfs", "tmp", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"cgroup2", "sys/fs/cgroup", plain, ""},
	} {
		at := filepath.Join(root, m.at)
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		err := unix.Mount(m.kind, at, m.kind, m.flags, m.options)
		// The kernel may have mounted /dev by itself.
		if err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", at, err)
		}
	}
	return nil
}

func loadModules() error {
	list, err := os.Open(moduleOrder)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer list.Close()
	lines := bufio.NewScanner(list)
	for lines.Scan() {
		path := strings.TrimSpace(lines.Text())
		if path == "" {
			continue
		}
		// What really misses a module says so when it is used.
		if err := loadModule(path); err != nil {
			log.Printf("module %s: %v", path, err)
		}
	}
	return lines.Err()
}

func loadModule(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.FinitModule(int(file.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

func setLoopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("bring the loopback up: %w", err)
	}
	return nil
}
