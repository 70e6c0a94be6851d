package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
)

// anyName is one of few, so that layers meet what is there, by way of links and otherwise.
func anyName(random *rand.Rand) string {
	parts := make([]string, 1+random.IntN(3))
	for i := range parts {
		parts[i] = []string{"x", "y", "z", "b c", "to-y"}[random.IntN(5)]
	}
	return strings.Join(parts, "/")
}

func anyHeader(random *rand.Rand) (header *tar.Header, text string) {
	name := anyName(random)
	header = &tar.Header{Name: name, Mode: []int64{0o755, 0o700}[random.IntN(2)], Uid: os.Getuid(), Gid: os.Getgid()}
	switch kind := random.IntN(20); {
	case kind < 8:
		text = fmt.Sprint(random.IntN(1000))
		header.Typeflag, header.Size = tar.TypeReg, int64(len(text))
	case kind < 12:
		header.Typeflag = tar.TypeDir
	case kind < 15:
		header.Typeflag, header.Linkname = tar.TypeSymlink, []string{"x", "../x", "/x/y"}[random.IntN(3)]
	case kind < 17:
		header.Typeflag, header.Name = tar.TypeReg, filepath.Join(filepath.Dir(name), whiteout+filepath.Base(name))
	case kind < 19:
		header.Typeflag, header.Name = tar.TypeReg, filepath.Join(name, opaque)
	default:
		header.Typeflag, header.Linkname = tar.TypeLink, anyName(random)
	}
	return header, text
}

// applied puts layers of one header onto the tree.
func applied(t *testing.T, root string, random *rand.Rand, count int, changed *touched) {
	t.Helper()
	for range count {
		header, text := anyHeader(random)
		apply(t, root, changed, header, text)
		if name := strings.Replace(header.Name, whiteout, "", 1); name != header.Name && random.IntN(2) == 0 {
			// As it was, but for what was in it.
			apply(t, root, changed, &tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755, Uid: header.Uid, Gid: header.Gid}, "")
		}
	}
}

func apply(t *testing.T, root string, changed *touched, header *tar.Header, text string) {
	t.Helper()
	var layer bytes.Buffer
	to := tar.NewWriter(&layer)
	if err := to.WriteHeader(header); err != nil {
		t.Fatal(err)
	}
	if _, err := to.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	tell := archive.WithFilter(func(header *tar.Header) (bool, error) {
		changed.by(header)
		return true, nil
	})
	// Something below a file fails; what it did until then is done.
	_, _ = archive.Apply(context.Background(), root, &layer, tell)
}

// checkTakenOver compares the listing that takes over with the one that looks at everything.
func checkTakenOver(t *testing.T, root string, since *unchanged) (whole string) {
	t.Helper()
	whole = listing(t, root, &known{})
	var out strings.Builder
	if err := listTree(root, &known{}, since, &out); err != nil {
		t.Fatal(err)
	}
	if out.String() != whole {
		t.Fatalf("the listing is\n%s\nnot\n%s\n%+v", out.String(), whole, since.since)
	}
	return whole
}

func TestWhatIsTakenOverIsWhatIsThere(t *testing.T) {
	for name, layers := range map[string][]tar.Header{
		"nothing":                         {},
		"a file in a folder":              {{Name: "x/y/new", Mode: 0o644}},
		"a file by way of a link":         {{Name: "to-y/deep/new", Mode: 0o644}},
		"a folder that comes again empty": {{Name: "x/.wh.y"}, {Name: "x/y", Typeflag: tar.TypeDir, Mode: 0o755}},
		"a folder that was a file in between": {
			{Name: "x/y", Mode: 0o644}, {Name: "x/y", Typeflag: tar.TypeDir, Mode: 0o755},
		},
		"folders that come again in an emptied one": {
			{Name: "x/.wh..wh..opq"}, {Name: "x/y", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "x/y/deep", Typeflag: tar.TypeDir, Mode: 0o755},
		},
		"a folder that comes again below one that does": {
			{Name: ".wh.x"}, {Name: "x/y/deep", Typeflag: tar.TypeDir, Mode: 0o755},
		},
		"another name, by which a mode changes": {{Name: "x/name", Typeflag: tar.TypeLink, Linkname: "w/file", Mode: 0o600}},
		"a folder's mode":                       {{Name: "x/y", Typeflag: tar.TypeDir, Mode: 0o700}},
		"a link that leads elsewhere":           {{Name: "to-y", Typeflag: tar.TypeSymlink, Linkname: "w"}, {Name: "to-y/new", Mode: 0o644}},
	} {
		t.Run(name, func(t *testing.T) {
			root := linkedTree(t)
			before := readEarlier(listing(t, root, &known{}))
			changed := newTouched(root)
			for _, header := range layers {
				header.Uid, header.Gid = os.Getuid(), os.Getgid()
				apply(t, root, changed, &header, "")
			}
			if whole := checkTakenOver(t, root, &unchanged{changed, before}); (whole == before.text) != (len(layers) == 0) {
				t.Errorf("what is there now:\n%s", whole)
			}
		})
	}
}

func TestWhatIsTakenOverOfAnyTreeIsWhatIsThere(t *testing.T) {
	tookOver, differed := 0, 0
	for seed := range uint64(30) {
		random := rand.New(rand.NewPCG(seed, 0))
		root := linkedTree(t)
		applied(t, root, random, 10, newTouched(root))
		before := readEarlier(listing(t, root, &known{}))
		changed := newTouched(root)
		applied(t, root, random, random.IntN(6), changed)
		if checkTakenOver(t, root, &unchanged{changed, before}) != before.text {
			differed++
		}
		for dir := range before.below {
			if lines, ok := (&unchanged{changed, before}).linesBelow(strings.TrimPrefix(dir, "./")); ok && lines != "" {
				tookOver++
			}
		}
	}
	if tookOver < 30 || differed < 10 {
		t.Errorf("%d folders were taken over and %d trees changed: too few to tell", tookOver, differed)
	}
}

func linkedTree(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"x/y/deep", "x/z", "w"} {
		write(t, filepath.Join(root, dir, "file"), "")
	}
	if err := os.Symlink("x/y", filepath.Join(root, "to-y")); err != nil {
		t.Fatal(err)
	}
	return root
}

func TestALayerIsSeenWhereItChangesATree(t *testing.T) {
	for name, c := range map[string]struct {
		header tar.Header
		spares map[string]bool
	}{
		"a file":                {tar.Header{Name: "x/y/new"}, map[string]bool{"x": false, "x/y": false, "x/z": true, "w": true}},
		"a file through a link": {tar.Header{Name: "to-y/new"}, map[string]bool{"x": false, "x/y": false, "x/z": true}},
		"a removal":             {tar.Header{Name: "x/.wh.y"}, map[string]bool{"x": false, "x/y": false, "x/y/deep": false, "x/z": true}},
		"another content":       {tar.Header{Name: "x/.wh..wh..opq"}, map[string]bool{"x": false, "x/y": false, "x/z": false, "w": true}},
		"a folder's mode":       {tar.Header{Name: "x/y", Typeflag: tar.TypeDir}, map[string]bool{"x": false, "x/y": true}},
		"another name":          {tar.Header{Name: "x/name", Typeflag: tar.TypeLink, Linkname: "w/file"}, map[string]bool{"w": false, "x/z": false}},
	} {
		t.Run(name, func(t *testing.T) {
			changed := newTouched(linkedTree(t))
			changed.by(&tar.Header{Name: "w", Typeflag: tar.TypeDir})
			if !changed.isAtTopOnly() {
				t.Error("a folder at the top counts")
			}
			changed.by(&c.header)
			if changed.isAtTopOnly() {
				t.Error("it passes for a change at the top")
			}
			for dir, want := range c.spares {
				if got := changed.spares(dir); got != want {
					t.Errorf("%s is spared: %v", dir, got)
				}
			}
		})
	}
}

func TestAKeptListingIsFoundAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "listings")
	if found, err := earlierListing(dir, "base"); found != nil || err != nil {
		t.Errorf("found %v, %v", found, err)
	}
	root := tree(t, time.Unix(1, 0))
	if err := keepListing(dir, "base", []byte(listing(t, root, &known{}))); err != nil {
		t.Fatal(err)
	}
	found, err := earlierListing(dir, "base")
	if err != nil {
		t.Fatal(err)
	}
	lines, ok := found.linesBelow("a")
	if !ok || strings.Count(lines, "\n") != 1 || !strings.HasPrefix(lines, "./a/file type=file ") {
		t.Errorf("below a: %q, %v", lines, ok)
	}
	if lines, ok := found.linesBelow("a-b"); ok {
		t.Errorf("below a file: %q", lines)
	}
}
