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
	hashLanes = 2
	// Lines between the walk and the writer; each may wait for a file to be hashed.
	linesAhead = 256
	xattrLimit = 64 << 10
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

// listTree writes the listing of the tree. Links are not followed. The tree must not change meanwhile.
func listTree(root string, files digests, to io.Writer) error {
	lines := make(chan chan line, linesAhead)
	slots := make(chan struct{}, hashLanes)
	stop := make(chan struct{})
	var walking sync.WaitGroup
	var walked error
	walking.Go(func() {
		defer close(lines)
		walked = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			next := make(chan line, 1)
			select {
			case lines <- next:
			case <-stop:
				return fs.SkipAll
			}
			return list(root, path, entry, files, slots, next)
		})
	})
	defer walking.Wait()
	defer close(stop)
	out := bufio.NewWriter(to)
	for next := range lines {
		found := <-next
		if found.err != nil {
			return found.err
		}
		if _, err := out.WriteString(found.text); err != nil {
			return err
		}
	}
	walking.Wait()
	return errors.Join(walked, out.Flush())
}

type line struct {
	text string
	err  error
}

// list sends the line of one path, later when its file has to be read.
func list(root, path string, entry fs.DirEntry, files digests, slots chan struct{}, next chan<- line) error {
	info, err := entry.Info()
	if err != nil {
		next <- line{err: err}
		return nil
	}
	below, err := filepath.Rel(root, path)
	if err != nil {
		next <- line{err: err}
		return nil
	}
	text, err := describe(path, below, info)
	if err != nil || !info.Mode().IsRegular() {
		next <- line{text + "\n", err}
		return nil
	}
	if digest := files.digestOf(below, info); digest != "" {
		next <- line{text: text + " sha256digest=" + digest + "\n"}
		return nil
	}
	slots <- struct{}{}
	go func() {
		defer func() { <-slots }()
		digest, err := hashFile(path)
		if err == nil {
			files.learn(below, info, digest)
		}
		next <- line{text + " sha256digest=" + digest + "\n", err}
	}()
	return nil
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
