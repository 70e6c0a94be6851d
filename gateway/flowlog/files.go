package flowlog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

const (
	fileMode = 0o640
	// maxPendingBytes of all guests wait in memory; more is written before the second is over.
	maxPendingBytes = 4 << 20
	// guestPendingBytes keeps one write well below a file's size.
	guestPendingBytes = 256 << 10
)

// files is the folder, for the writer alone. No file stays open between flushes: a host has more guests than descriptors.
type files struct {
	dir                   string
	fileBytes, totalBytes int64
	attached              func(guest string) bool

	pending      map[string]*pending
	pendingBytes int
	// total is what the folder holds at most: what was found at the last look, and all written since.
	total int64
}

type pending struct {
	lines []line
	bytes int
}

// add is true when it is time to flush.
func (f *files) add(one line) bool {
	waiting := f.pending[one.guest.id]
	if waiting == nil {
		waiting = &pending{}
		f.pending[one.guest.id] = waiting
	}
	waiting.lines = append(waiting.lines, one)
	waiting.bytes += len(one.text)
	f.pendingBytes += len(one.text)
	return f.pendingBytes >= maxPendingBytes || waiting.bytes >= int(min(guestPendingBytes, f.fileBytes/2))
}

// flush gives how many lines were written, those that weren't, and the last reason.
func (f *files) flush() (written int64, failed []line, last error) {
	for guest, waiting := range f.pending {
		delete(f.pending, guest)
		if err := f.append(guest, waiting); err != nil {
			last = err
			failed = append(failed, waiting.lines...)
			continue
		}
		written += int64(len(waiting.lines))
	}
	f.pendingBytes = 0
	return written, failed, last
}

func (f *files) append(guest string, waiting *pending) error {
	if err := f.makeRoom(int64(waiting.bytes)); err != nil {
		return err
	}
	path := filepath.Join(f.dir, guest+".ndjson")
	file, size, err := openForAppend(path)
	if err != nil {
		return err
	}
	if size > 0 && size+int64(waiting.bytes) > f.fileBytes {
		file.Close()
		if err := os.Rename(path, filepath.Join(f.dir, guest+".1.ndjson")); err != nil {
			return err
		}
		if file, size, err = openForAppend(path); err != nil {
			return err
		}
	}
	defer file.Close()
	text := make([]byte, 0, waiting.bytes)
	for _, one := range waiting.lines {
		text = append(text, one.text...)
	}
	f.total += int64(len(text))
	if _, err := file.Write(text); err != nil {
		// Half a line would spoil the next; a full disk can always be made shorter.
		return errors.Join(err, file.Truncate(size))
	}
	return nil
}

// openForAppend takes a regular file of ours only: no link that somebody put there.
func openForAppend(path string) (*os.File, int64, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, fileMode)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", filepath.Base(path))
	}
	if err == nil && info.Mode().Perm() != fileMode {
		err = file.Chmod(fileMode)
	}
	if err != nil {
		file.Close()
		return nil, 0, err
	}
	return file, info.Size(), nil
}

type logFile struct {
	name       string
	size       int64
	modified   time.Time
	importance int
}

// measure looks at what is there.
func (f *files) measure() error {
	_, err := f.look()
	return err
}

func (f *files) look() ([]logFile, error) {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return nil, fmt.Errorf("cannot look through the flow log's folder: %w", err)
	}
	var found []logFile
	f.total = 0
	for _, entry := range entries {
		guest, rotated, ours := guestOf(entry.Name())
		if !ours || !entry.Type().IsRegular() {
			continue
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot look through the flow log's folder: %w", err)
		}
		one := logFile{name: entry.Name(), size: info.Size(), modified: info.ModTime()}
		switch {
		case f.attached(guest) && !rotated:
			one.importance = 2
		case f.attached(guest):
			one.importance = 1
		}
		found = append(found, one)
		f.total += one.size
	}
	return found, nil
}

// makeRoom removes the oldest files of detached guests, then the oldest rotated ones, then the oldest of all, until there is
// room with some to spare.
func (f *files) makeRoom(wanted int64) error {
	if f.total+wanted <= f.totalBytes {
		return nil
	}
	found, err := f.look()
	if err != nil {
		return err
	}
	slices.SortFunc(found, func(a, b logFile) int {
		if a.importance != b.importance {
			return a.importance - b.importance
		}
		return a.modified.Compare(b.modified)
	})
	most := f.totalBytes - f.totalBytes/16
	for _, one := range found {
		if f.total+wanted <= most {
			return nil
		}
		if err := os.Remove(filepath.Join(f.dir, one.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		f.total -= one.size
	}
	return nil
}
