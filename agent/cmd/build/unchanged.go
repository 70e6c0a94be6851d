package main

import (
	"archive/tar"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	continuity "github.com/containerd/continuity/fs"
)

const (
	// Listings of trees that later layers are applied to, named by the layers that make them.
	listingsDir     = cacheMount + "/rekindle-listings"
	whiteout        = ".wh."
	opaque          = whiteout + whiteout + ".opq"
	directoryMark   = " type=dir "
	maxListingBytes = 64 << 20
)

// touched is where layers have changed the tree they were applied to. Looking at 11,000 files of a base that nobody changed takes
// an emulated processor seconds; what is not touched is as it was listed before.
//
// Invariant: a folder whose entries may have changed is in dirs, with all above it; one that may have been taken away or replaced
// in between is in gone.
type touched struct {
	root string
	// Paths below the root, "." for the root itself.
	dirs map[string]bool
	gone map[string]bool
	// It cannot be told where.
	everywhere bool
}

func newTouched(root string) *touched {
	return &touched{root: root, dirs: map[string]bool{}, gone: map[string]bool{}}
}

// by is told of each header just before it is applied, when its links lead where they will.
func (t *touched) by(header *tar.Header) {
	if header.Typeflag == tar.TypeLink {
		// It changes mode and owner of the file's other names, wherever they are.
		t.everywhere = true
		return
	}
	dir, base := path.Split(path.Clean(header.Name))
	parent, err := continuity.RootPath(t.root, dir)
	if err != nil {
		t.everywhere = true
		return
	}
	below, err := filepath.Rel(t.root, parent)
	if err != nil {
		t.everywhere = true
		return
	}
	for at := below; !t.dirs[at]; at = path.Dir(at) {
		t.dirs[at] = true
	}
	switch {
	case base == opaque:
		t.gone[below] = true
	case strings.HasPrefix(base, whiteout):
		t.gone[path.Join(below, strings.TrimPrefix(base, whiteout))] = true
	case header.Typeflag != tar.TypeDir:
		t.gone[path.Join(below, base)] = true
	}
}

// isAtTopOnly tells that all below the folders of the root is as it was: what a listing takes over is never anything else. Steps leave
// such traces without doing anything, at /dev for one.
func (t *touched) isAtTopOnly() bool {
	for dir := range t.dirs {
		if dir != "." {
			return false
		}
	}
	return !t.everywhere && len(t.gone) == 0
}

// spares tells that what is below a folder is what was there before.
func (t *touched) spares(dir string) bool {
	if t.everywhere || t.dirs[dir] {
		return false
	}
	for at := dir; at != "."; at = path.Dir(at) {
		if t.gone[at] {
			return false
		}
	}
	return !t.gone["."]
}

// earlier is the listing of a tree before layers were applied to it.
type earlier struct {
	text string
	// Where the lines of all below a folder begin and end, by its path as it is written there.
	below map[string][2]int
}

func readEarlier(text string) *earlier {
	e := &earlier{text: text, below: map[string][2]int{}}
	type open struct {
		name string
		from int
	}
	var above []open
	at := 0
	close := func(until string) {
		for len(above) > 0 && !strings.HasPrefix(until, above[len(above)-1].name+"/") {
			last := above[len(above)-1]
			e.below[last.name] = [2]int{last.from, at}
			above = above[:len(above)-1]
		}
	}
	for line := range strings.Lines(text) {
		name, _, _ := strings.Cut(line, " ")
		close(name)
		at += len(line)
		if strings.HasPrefix(line[len(name):], directoryMark) {
			above = append(above, open{name, at})
		}
	}
	close("")
	return e
}

// linesBelow returns the lines of all below a folder, the folder's own left out, without the last line's end; false when the path was
// no folder.
func (e *earlier) linesBelow(dir string) (string, bool) {
	place, ok := e.below["./"+escape(dir)]
	if !ok {
		return "", false
	}
	return strings.TrimSuffix(e.text[place[0]:place[1]], "\n"), true
}

// unchanged is what a listing takes over from an earlier one.
type unchanged struct {
	since   *touched
	earlier *earlier
}

// linesBelow is that of the earlier listing where it still holds.
func (u *unchanged) linesBelow(dir string) (string, bool) {
	if u == nil || u.earlier == nil || !u.since.spares(dir) {
		return "", false
	}
	return u.earlier.linesBelow(dir)
}

// earlierListing finds what was kept under the name; nil when there is none.
func earlierListing(dir, name string) (*earlier, error) {
	text, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return readEarlier(string(text)), nil
}

// keepListing writes a listing for later builds.
func keepListing(dir, name string, text []byte) error {
	if len(text) > maxListingBytes {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return replaceFile(filepath.Join(dir, name), text)
}

// replaceFile writes a file whole or not at all.
func replaceFile(place string, text []byte) error {
	if err := os.WriteFile(place+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(place+".new", place)
}
