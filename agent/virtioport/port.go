// Package virtioport is a virtio-serial port as the link wants it.
//
// With the host away a read gives 0 bytes, a write EAGAIN, and poll says readable and hung up, so nothing can be waited
// for by level. The runtime's poller is edge-triggered: it wakes when the port's state changes, which a host that comes
// back does. An edge lost around a restore must not hang the machine, so while the host is away waits are bounded: at first
// narrowly, since a snapshot is taken right after its host left, then widely, since a host may stay away for long.
package virtioport

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// How soon an absent host is looked for although no edge told of it, and how seldom in the end.
	firstAwayWait   = 100 * time.Millisecond
	longestAwayWait = 2 * time.Second
	// How often a write that would block is tried again although no edge told of room.
	fullInterval = 20 * time.Millisecond
)

// Port is an open virtio-serial port.
type Port struct {
	file *os.File
	raw  syscall.RawConn
	// Whether a read deadline is set; the reader's own.
	limited bool
	// How long it waits next for an absent host.
	awayWait time.Duration
}

// Find waits for the port with the name the host gave it. Its device number varies, and it appears late.
func Find(ctx context.Context, name string) (*Port, error) {
	for delay := time.Millisecond; ; delay = min(2*delay, 20*time.Millisecond) {
		device, err := deviceOf(name)
		if err == nil {
			if port, err := Open(device); err == nil || !errors.Is(err, os.ErrNotExist) {
				return port, err
			}
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("no virtio-serial port is named %s", name)
		case <-time.After(delay):
		}
	}
}

func deviceOf(name string) (string, error) {
	files, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return "", err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err == nil && strings.TrimSpace(string(text)) == name {
			return "/dev/" + filepath.Base(filepath.Dir(file)), nil
		}
	}
	return "", os.ErrNotExist
}

// Open opens the port's device.
func Open(device string) (*Port, error) {
	fd, err := syscall.Open(device, syscall.O_RDWR|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", device, err)
	}
	file := os.NewFile(uintptr(fd), device)
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	if err := file.SetDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("%s cannot be polled: %w", device, err)
	}
	return &Port{file: file, raw: raw, awayWait: firstAwayWait}, nil
}

// Read implements link.Port.
func (p *Port) Read(buffer []byte, limit time.Duration) (int, error) {
	if err := p.setReadLimit(limit); err != nil {
		return 0, err
	}
	n, away := 0, false
	var failure error
	err := p.raw.Read(func(fd uintptr) bool {
		for {
			n, failure = syscall.Read(int(fd), buffer)
			switch {
			case failure == syscall.EINTR:
				continue
			case failure == syscall.EAGAIN:
				n, failure = 0, nil
				return false
			case failure == nil && n == 0:
				if !away {
					away = true
					p.limited = true
					_ = p.file.SetReadDeadline(time.Now().Add(p.awayWait))
				}
				return false
			}
			p.awayWait = firstAwayWait
			return true
		}
	})
	if n < 0 {
		n = 0
	}
	if failure != nil {
		return 0, failure
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, err
	}
	if away && n == 0 {
		p.awayWait = min(2*p.awayWait, longestAwayWait)
	}
	return n, nil
}

func (p *Port) setReadLimit(limit time.Duration) error {
	if limit == 0 {
		if !p.limited {
			return nil
		}
		p.limited = false
		return p.file.SetReadDeadline(time.Time{})
	}
	p.limited = true
	return p.file.SetReadDeadline(time.Now().Add(limit))
}

// Write implements link.Port. A wait ends by itself after a while, which the caller takes for a reason to try again.
func (p *Port) Write(bytes []byte) (int, error) {
	n, waited := 0, false
	var failure error
	err := p.raw.Write(func(fd uintptr) bool {
		for {
			n, failure = syscall.Write(int(fd), bytes)
			switch {
			case failure == syscall.EINTR:
				continue
			case failure == syscall.EAGAIN || failure == nil && n == 0:
				n, failure = 0, nil
				if !waited {
					waited = true
					_ = p.file.SetWriteDeadline(time.Now().Add(fullInterval))
				}
				return false
			}
			return true
		}
	})
	if waited || err != nil {
		_ = p.file.SetWriteDeadline(time.Time{})
	}
	if failure != nil {
		return 0, failure
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, err
	}
	return n, nil
}

// Interrupt implements link.Port.
func (p *Port) Interrupt() { _ = p.file.SetWriteDeadline(time.Unix(1, 0)) }

// Close closes the port.
func (p *Port) Close() error { return p.file.Close() }
