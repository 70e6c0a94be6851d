package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	hashLanes  = 2
	describers = 2
	// Between the walk and the writer; each line may wait for a file to be hashed.
	batchLines   = 256
	batchesAhead = 4
	xattrLimit   = 64 << 10
)

// A tree's listing has a line for everything in it, as mtree(5) has them: depth first, the names of a folder in the order of
// their bytes, beginning with the folder itself as `.`. Times are no part of it, nor which names share a file.
//
//	./etc/passwd type=file mode=0644 uid=0 gid=0 size=890 sha256digest=…
//
// docs/PROVENANCE.md tells it in full; a change of it needs another name for its digest.

// digests may know a file's without reading it.
type digests interface {
	// digestOf answers "" when it does not.
	digestOf(path string, info fs.FileInfo) string
	// learn is told what came of reading it; by several goroutines.
	learn(path string, info fs.FileInfo, digest string)
}

// listTree writes the listing of the tree, taking over what is known to be as it was (nil: nothing is). Links are not followed. The
// tree must not change meanwhile.
func listTree(root string, files digests, same *unchanged, to io.Writer) error {
	describing := make(chan *batch)
	inOrder := make(chan *batch, batchesAhead)
	stop := make(chan struct{})
	var walking, working sync.WaitGroup
	var walked error
	walking.Go(func() {
		defer close(inOrder)
		defer close(describing)
		next := newBatch()
		hand := func() error {
			// The writer has room before the describers are asked, so that each batch is described that the writer waits for.
			for _, to := range []chan *batch{inOrder, describing} {
				select {
				case to <- next:
				case <-stop:
					return fs.SkipAll
				}
			}
			next = newBatch()
			return nil
		}
		walked = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			next.found = append(next.found, found{path: path, entry: entry})
			into := error(nil)
			if entry.IsDir() && path != root {
				if lines, ok := same.linesBelow(path[len(root)+1:]); ok {
					next.found = append(next.found, found{lines: lines})
					into = fs.SkipDir
				}
			}
			if len(next.found) >= batchLines {
				if err := hand(); err != nil {
					return err
				}
			}
			return into
		})
		_ = hand()
	})
	walk := lister{root: root, files: files, slots: make(chan struct{}, hashLanes)}
	for range describers {
		working.Go(func() {
			for next := range describing {
				next.lines <- walk.describe(next.found)
			}
		})
	}
	defer working.Wait()
	defer walking.Wait()
	defer close(stop)
	out := bufio.NewWriter(to)
	for next := range inOrder {
		lines := <-next.lines
		if lines.err != nil {
			return lines.err
		}
		for _, next := range lines.all {
			if err := next.write(out); err != nil {
				return err
			}
		}
	}
	walking.Wait()
	return errors.Join(walked, out.Flush())
}

// batch goes from thread to thread: under emulation a handover costs more than a line.
type batch struct {
	found []found
	lines chan described
}

type found struct {
	path  string
	entry fs.DirEntry
	// Instead of both: lines that are known.
	lines string
}

type described struct {
	all []line
	err error
}

func newBatch() *batch {
	return &batch{found: make([]found, 0, batchLines), lines: make(chan described, 1)}
}

// line is one of a listing, whole or waiting for its file to be read.
type line struct {
	text   string
	digest <-chan hashed
}

type hashed struct {
	digest string
	err    error
}

func (l line) write(to *bufio.Writer) error {
	text := l.text
	if l.digest != nil {
		found := <-l.digest
		if found.err != nil {
			return found.err
		}
		text += " sha256digest=" + found.digest
	}
	_, err := to.WriteString(text + "\n")
	return err
}

type lister struct {
	root  string
	files digests
	slots chan struct{}
}

func (l *lister) describe(all []found) described {
	lines := make([]line, 0, len(all))
	for _, one := range all {
		if one.entry == nil {
			if one.lines != "" {
				lines = append(lines, line{text: one.lines})
			}
			continue
		}
		next, err := l.list(one.path, one.entry)
		if err != nil {
			return described{err: err}
		}
		lines = append(lines, next)
	}
	return described{all: lines}
}

func (l *lister) list(path string, entry fs.DirEntry) (line, error) {
	info, err := entry.Info()
	if err != nil {
		return line{}, err
	}
	below := "."
	if path != l.root {
		below = path[len(l.root)+1:]
	}
	text, err := describe(path, below, info)
	if err != nil || !info.Mode().IsRegular() {
		return line{text: text}, err
	}
	if digest := l.files.digestOf(below, info); digest != "" {
		return line{text: text + " sha256digest=" + digest}, nil
	}
	done := make(chan hashed, 1)
	l.slots <- struct{}{}
	go func() {
		defer func() { <-l.slots }()
		digest, err := hashFile(path)
		if err == nil {
			l.files.learn(below, info, digest)
		}
		done <- hashed{digest, err}
	}()
	return line{text: text, digest: done}, nil
}

func describe(path, below string, info fs.FileInfo) (string, error) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", fmt.Errorf("%s has no owner", path)
	}
	name := "./" + below
	if below == "." {
		name = below
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s type=%s mode=%04o uid=%d gid=%d", escape(name), typeOf(info.Mode()), stat.Mode&0o7777, stat.Uid, stat.Gid)
	switch mode := info.Mode(); {
	case mode.IsRegular():
		fmt.Fprintf(&text, " size=%d", info.Size())
	case mode&fs.ModeSymlink != 0:
		target, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&text, " link=%s", escape(target))
	case mode&fs.ModeDevice != 0:
		fmt.Fprintf(&text, " device=native,%d,%d", unix.Major(stat.Rdev), unix.Minor(stat.Rdev))
	}
	return text.String(), addAttributes(&text, path)
}

func typeOf(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "dir"
	case mode&fs.ModeSymlink != 0:
		return "link"
	case mode&fs.ModeCharDevice != 0:
		return "char"
	case mode&fs.ModeDevice != 0:
		return "block"
	case mode&fs.ModeNamedPipe != 0:
		return "fifo"
	case mode&fs.ModeSocket != 0:
		return "socket"
	default:
		return "file"
	}
}

func addAttributes(text *strings.Builder, path string) error {
	names, err := attribute(func(into []byte) (int, error) { return unix.Llistxattr(path, into) })
	if err != nil {
		return fmt.Errorf("extended attributes of %s: %w", path, err)
	}
	found := strings.Split(strings.TrimSuffix(string(names), "\x00"), "\x00")
	slices.Sort(found)
	for _, name := range found {
		if name == "" {
			continue
		}
		value, err := attribute(func(into []byte) (int, error) { return unix.Lgetxattr(path, name, into) })
		if err != nil {
			return fmt.Errorf("extended attribute of %s: %w", path, err)
		}
		fmt.Fprintf(text, " xattr.%s=%s", escape(name), base64.StdEncoding.EncodeToString(value))
	}
	return nil
}

// attribute reads something that is seldom there and small.
func attribute(read func(into []byte) (int, error)) ([]byte, error) {
	size, err := read(nil)
	if err == unix.ENOTSUP || err == nil && size == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	into := make([]byte, min(size, xattrLimit))
	size, err = read(into)
	return into[:max(0, size)], err
}

// escape writes bytes that would end a word, or mean something else, as a backslash and three octal digits.
func escape(name string) string {
	const special = `\#=*?[`
	isPlain := func(b byte) bool { return b > ' ' && b < 0x7f && !strings.ContainsRune(special, rune(b)) }
	var text strings.Builder
	for i := range len(name) {
		if isPlain(name[i]) {
			text.WriteByte(name[i])
		} else {
			fmt.Fprintf(&text, `\%03o`, name[i])
		}
	}
	return text.String()
}

func hashFile(path string) (string, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer file.Close()
	return hashOf(file)
}

func hashOf(from io.Reader) (string, error) {
	hash := sha256.New()
	if _, err := io.CopyBuffer(hash, struct{ io.Reader }{from}, make([]byte, 256<<10)); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}
