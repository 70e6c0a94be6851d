package main

import (
	"archive/tar"
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// Reading the managed bases to hash them takes an emulated processor many seconds, so set-up did: a file for each layer, named
	// by its digest, with the digest and the name of each of its files.
	knownLayersDir = "/usr/lib/rekindle/layers"
	// The same of layers that earlier builds with this cache made, named by the layer and all below it: where a file of a layer
	// comes to lie depends on the links below. A name whose content is not known has a dash.
	learnedLayersDir = cacheMount + "/rekindle-layers"
	learnedLayers    = 64
	notKnown         = "-"
)

// known is what is known of a tree's files without reading them: those that a layer brought whose files are known, as long as
// nobody changed them since.
type known struct {
	learnedDir string
	layers     []knownLayer
	files      map[string]knownFile
	chain      string

	mu sync.Mutex
}

type knownLayer struct {
	chain string
	// Its files, and none of a later layer, have changed at this time or before.
	until time.Time
	// What is to be remembered of it; nil when that was known.
	learned map[string]string
}

type knownFile struct {
	digest string
	// The last layer with a file of this name.
	layer int
}

// begin is called before a layer is applied. It says whether the names of its files have to be told to `brings`.
func (k *known) begin(digest string) (needsNames bool, err error) {
	if k.files == nil {
		k.files = map[string]knownFile{}
	}
	sum := sha256.Sum256([]byte(k.chain + " " + digest))
	k.chain = hex.EncodeToString(sum[:])
	k.layers = append(k.layers, knownLayer{chain: k.chain})
	isKnown, err := k.read(filepath.Join(knownLayersDir, filepath.Base(blobPath("", digest))))
	if err != nil || isKnown {
		return false, err
	}
	place := filepath.Join(k.learnedDir, k.chain)
	isKnown, err = k.read(place)
	if err != nil || isKnown {
		now := time.Now()
		return false, errors.Join(err, os.Chtimes(place, now, now))
	}
	k.layers[len(k.layers)-1].learned = map[string]string{}
	return true, nil
}

func (k *known) read(place string) (bool, error) {
	file, err := os.Open(place)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if digest, name, ok := strings.Cut(lines.Text(), " "); ok {
			k.set(name, digest)
		}
	}
	return true, lines.Err()
}

func (k *known) set(name, digest string) {
	if digest == notKnown {
		digest = ""
	}
	k.files[name] = knownFile{digest, len(k.layers) - 1}
}

// brings tells of a file of the layer that is being applied.
func (k *known) brings(name string) {
	name = path.Clean(name)
	k.set(name, notKnown)
	k.layers[len(k.layers)-1].learned[name] = notKnown
}

// end is called when the layer has been applied. The time of a change cannot be chosen by whoever makes it.
func (k *known) end() error {
	clock, err := os.CreateTemp("", "clock")
	if err != nil {
		return err
	}
	defer os.Remove(clock.Name())
	defer clock.Close()
	until, err := changed(clock)
	if err != nil {
		return err
	}
	k.layers[len(k.layers)-1].until = until
	// The clock of file systems moves in ticks: nothing else may be written in this one.
	for deadline := time.Now().Add(tickLimit); ; {
		now, err := changed(clock)
		if err != nil || now.After(until) {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New("the clock of the builder stands still")
		}
		time.Sleep(time.Millisecond)
	}
}

// digestOf answers for listTree.
func (k *known) digestOf(name string, info fs.FileInfo) string {
	file := k.files[name]
	if file.digest == "" || changeTime(info).After(k.layers[file.layer].until) {
		return ""
	}
	return file.digest
}

// learn is told of a file that had to be read. Safe for use by several goroutines.
func (k *known) learn(name string, info fs.FileInfo, digest string) {
	at := changeTime(info)
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, layer := range k.layers {
		if at.After(layer.until) {
			continue
		}
		if layer.learned != nil && !strings.Contains(name, "\n") {
			layer.learned[name] = digest
		}
		return
	}
}

// keep writes what was learned for later builds, and forgets what was of no use for longest.
func (k *known) keep() error {
	if err := os.MkdirAll(k.learnedDir, 0o700); err != nil {
		return err
	}
	for _, layer := range k.layers {
		if layer.learned == nil {
			continue
		}
		var lines strings.Builder
		for name, digest := range layer.learned {
			fmt.Fprintf(&lines, "%s %s\n", digest, name)
		}
		place := filepath.Join(k.learnedDir, layer.chain)
		// A name that was cut short would pass for another.
		if err := os.WriteFile(place+".new", []byte(lines.String()), 0o600); err != nil {
			return err
		}
		if err := os.Rename(place+".new", place); err != nil {
			return err
		}
	}
	return k.forget()
}

func (k *known) forget() error {
	entries, err := os.ReadDir(k.learnedDir)
	if err != nil {
		return err
	}
	age := func(entry fs.DirEntry) int64 {
		info, err := entry.Info()
		if err != nil {
			return 0
		}
		return info.ModTime().UnixNano()
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return int(min(1, max(-1, age(b)-age(a)))) })
	for at, entry := range entries {
		if at < learnedLayers {
			continue
		}
		if err := os.Remove(filepath.Join(k.learnedDir, entry.Name())); err != nil {
			return err
		}
	}
	return nil
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
