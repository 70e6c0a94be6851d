// Package rootdisk finds, checks and mounts the disk that holds the app.
package rootdisk

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"rekindle/agent/reaper"
)

const (
	// MountPoint is where the app's root file system lies.
	MountPoint = "/rootfs"
	checker    = "/sbin/e2fsck"
	// Bits of e2fsck's exit code: errors corrected; reboot advised, which is meant for a mounted root.
	corrected = 1
	reboot    = 2
	// A disk appears while the kernel probes its devices.
	appearLimit = 10 * time.Second
)

// Mount mounts the virtio disk with this serial and returns how many bytes its files take.
func Mount(ctx context.Context, processes *reaper.Reaper, serial string, check bool) (int64, error) {
	device, err := find(ctx, serial)
	if err != nil {
		return 0, err
	}
	if check {
		output, code, err := processes.Output(ctx, checker, "-p", device)
		if err != nil {
			return 0, fmt.Errorf("check the root disk: %w", err)
		}
		if code&^(corrected|reboot) != 0 {
			return 0, fmt.Errorf("the root disk is damaged (e2fsck %d): %s", code, strings.TrimSpace(output))
		}
	}
	if err := os.MkdirAll(MountPoint, 0o755); err != nil {
		return 0, err
	}
	if err := unix.Mount(device, MountPoint, "ext4", 0, ""); err != nil {
		return 0, fmt.Errorf("mount the root disk: %w", err)
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(MountPoint, &stat); err != nil {
		return 0, err
	}
	return int64(stat.Blocks-stat.Bfree) * stat.Bsize, nil
}

// IsMounted tells whether a root disk is there.
func IsMounted() bool {
	var inner, outer unix.Stat_t
	return unix.Stat(MountPoint, &inner) == nil && unix.Stat("/", &outer) == nil && inner.Dev != outer.Dev
}

// find looks the serial up: names like vda depend on probing order.
func find(ctx context.Context, serial string) (string, error) {
	if serial == "" || len(serial) > 20 {
		return "", fmt.Errorf("%.32q is no disk's serial", serial)
	}
	ctx, cancel := context.WithTimeout(ctx, appearLimit)
	defer cancel()
	for {
		files, err := filepath.Glob("/sys/block/vd*/serial")
		if err != nil {
			return "", err
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err == nil && strings.TrimRight(string(text), "\n\x00 ") == serial {
				return "/dev/" + filepath.Base(filepath.Dir(file)), nil
			}
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("no disk has the serial %q", serial)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
