package control

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Folder is a gateway's folder, locked while this process lives.
type Folder struct {
	path string
	lock *os.File
}

// ErrTaken means that another gateway serves the folder.
var ErrTaken = errors.New("another gateway serves this folder; end it first, or give another --dir")

// Open locks a folder, which is made if it isn't there.
func Open(path string) (*Folder, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the folder %s: %w", path, err)
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the folder's lock: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrTaken
		}
		return nil, fmt.Errorf("cannot lock the folder: %w", err)
	}
	return &Folder{path: path, lock: lock}, nil
}

// IsGone says that the folder was deleted.
func (f *Folder) IsGone() bool {
	var stat unix.Stat_t
	return unix.Fstat(int(f.lock.Fd()), &stat) == nil && stat.Nlink == 0
}

// Listen makes the control socket, with nobody but this uid (and root) able to connect from the first moment.
func (f *Folder) Listen() (net.Listener, error) {
	path := filepath.Join(f.path, "control.sock")
	folder, err := os.Open(f.path)
	if err != nil {
		return nil, fmt.Errorf("cannot open the folder: %w", err)
	}
	defer func() { _ = folder.Close() }()
	// What was left by a gateway that was killed: the lock says that nobody listens there. The name is built the short way,
	// since a socket's address has room for 107 bytes.
	short := fmt.Sprintf("/proc/self/fd/%d/control.sock", folder.Fd())
	if err := os.Remove(short); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot remove the old control socket: %w", err)
	}
	before := unix.Umask(0o177)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
	unix.Umask(before)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", path, err)
	}
	listener.SetUnlinkOnClose(false)
	return listener, nil
}

// Close unlocks the folder.
func (f *Folder) Close() error { return f.lock.Close() }
