package main

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Reading the managed bases to hash them takes an emulated processor many seconds, so set-up did: a file for each layer, named
// by its digest, with the digest and the name of each of its files.
const knownLayersDir = "/usr/lib/rekindle/layers"

// known is what is known of a tree's files without reading them: those of its first layers, as long as nobody changed them since.
type known struct {
	digests map[string]string
	// Files of these layers have changed at this time or before, all others later.
	until time.Time
}

// add takes a layer in; false when its files are not known.
func (k *known) add(digest string) (bool, error) {
	file, err := os.Open(filepath.Join(knownLayersDir, filepath.Base(blobPath("", digest))))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer file.Close()
	if k.digests == nil {
		k.digests = map[string]string{}
	}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if digest, name, ok := strings.Cut(lines.Text(), " "); ok {
			k.digests[name] = digest
		}
	}
	return true, lines.Err()
}

// end is called between the last known layer and the first that is not. The time of a change cannot be chosen by whoever makes it.
func (k *known) end() error {
	clock, err := os.CreateTemp("", "clock")
	if err != nil {
		return err
	}
	defer os.Remove(clock.Name())
	defer clock.Close()
	k.until, err = changed(clock)
	if err != nil {
		return err
	}
	// The clock of file systems moves in ticks: nothing else may be written in this one.
	for deadline := time.Now().Add(tickLimit); ; {
		now, err := changed(clock)
		if err != nil || now.After(k.until) {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New("the clock of the builder stands still")
		}
		time.Sleep(time.Millisecond)
	}
}

const tickLimit = 10 * time.Second

func changed(file *os.File) (time.Time, error) {
	if err := file.Chmod(0o600); err != nil {
		return time.Time{}, err
	}
	info, err := file.Stat()
	if err != nil {
		return time.Time{}, err
	}
	return changeTime(info), nil
}

// digestOf answers for listTree.
func (k *known) digestOf(name string, info fs.FileInfo) string {
	if changeTime(info).After(k.until) {
		return ""
	}
	return k.digests[name]
}

func changeTime(info fs.FileInfo) time.Time {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return time.Now()
	}
	return time.Unix(stat.Ctim.Unix())
}

// listLayer writes what set-up keeps of a layer, given as its uncompressed tar.
func listLayer(layer string, to io.Writer) error {
	file, err := os.Open(layer)
	if err != nil {
		return err
	}
	defer file.Close()
	files := tar.NewReader(file)
	digests := map[string]string{}
	for {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := path.Clean(header.Name)
		switch header.Typeflag {
		case tar.TypeReg:
			if digests[name], err = hashOf(files); err != nil {
				return err
			}
		case tar.TypeLink:
			digests[name] = digests[path.Clean(header.Linkname)]
		}
		if digest := digests[name]; digest != "" && !strings.Contains(name, "\n") {
			if _, err := fmt.Fprintf(to, "%s %s\n", digest, name); err != nil {
				return err
			}
		}
	}
}
