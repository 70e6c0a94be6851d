package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// ext4 keeps its magic number at byte 0x38 of the superblock, which begins at 1024.
const (
	ext4MagicOffset = 1024 + 0x38
	ext4Magic       = "\x53\xef"
)

// trimmedLeast in bytes: smaller holes cost more requests than they give back.
const trimmedLeast = 1 << 20

// diskBySerial finds the virtio disk the host gave this serial; names like vdb depend on probing order.
func diskBySerial(serial string) (string, error) {
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
	return "", fmt.Errorf("no disk has the serial %q", serial)
}

// unpackContext unpacks the tar at the start of the disk; GNU tar stops at its end marker.
func unpackContext(ctx context.Context, disk string) error {
	if err := os.RemoveAll(contextDir); err != nil {
		return err
	}
	if err := os.MkdirAll(contextDir, 0o700); err != nil {
		return err
	}
	if err := command(ctx, "tar", "--extract", "--file", disk, "--directory", contextDir, "--no-same-owner"); err != nil {
		return fmt.Errorf("unpack the build context: %w", err)
	}
	if info, err := os.Lstat(dockerfileInContext); err != nil || !info.Mode().IsRegular() {
		return failure{exitNoDockerfile, errors.New("the artifact has no file named Dockerfile at its root")}
	}
	return nil
}

// mountCache mounts BuildKit's state, formatting the disk when it is blank; one that an earlier build left mounted stays.
func mountCache(ctx context.Context, disk string) error {
	if _, err := os.Stat(daemonPIDFile); err == nil {
		return nil
	}
	blank, err := isBlank(disk)
	if err != nil {
		return err
	}
	if blank {
		if err := command(ctx, "mkfs.ext4", "-q", "-F", "-m", "0", disk); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(cacheMount, 0o711); err != nil {
		return err
	}
	if err := syscall.Mount(disk, cacheMount, "ext4", syscall.MS_NOATIME|syscall.MS_NODEV, ""); err != nil {
		return fmt.Errorf("mount the cache disk: %w", err)
	}
	return nil
}

func isBlank(disk string) (bool, error) {
	file, err := os.Open(disk)
	if err != nil {
		return false, err
	}
	defer file.Close()
	magic := make([]byte, len(ext4Magic))
	if _, err := file.ReadAt(magic, ext4MagicOffset); err != nil {
		return false, fmt.Errorf("read %s: %w", disk, err)
	}
	return string(magic) != ext4Magic, nil
}

// unmount writes everything back. A step's last process may hold the file system for a moment; one that does not let go
// costs nothing but the clean flag.
func unmount(path string) error {
	var err error
	for range unmountTries {
		if err = syscall.Unmount(path, 0); err != syscall.EBUSY {
			break
		}
		time.Sleep(unmountDelay)
	}
	if err == syscall.EBUSY {
		err = syscall.Unmount(path, syscall.MNT_DETACH)
	}
	syscall.Sync()
	if err != nil {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	return nil
}

const (
	unmountTries = 20
	unmountDelay = 50 * time.Millisecond
)

// command runs a program with its output in the build log.
func command(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
