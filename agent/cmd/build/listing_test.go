package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func listing(t *testing.T, root string, files digests) string {
	t.Helper()
	var out strings.Builder
	if err := listTree(root, files, nil, &out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func tree(t *testing.T, at time.Time) string {
	t.Helper()
	root := t.TempDir()
	write(t, filepath.Join(root, "a/file"), "content")
	write(t, filepath.Join(root, "a b*"), "")
	write(t, filepath.Join(root, "a-b"), "x")
	for _, err := range []error{
		os.Symlink("../no where", filepath.Join(root, "a/link")),
		syscall.Mkfifo(filepath.Join(root, "pipe"), 0o600),
		os.Chmod(filepath.Join(root, "a/file"), 0o600|fs.ModeSetuid),
		os.Chmod(root, 0o755),
		os.Chtimes(filepath.Join(root, "a/file"), at, at),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestAListingHasAllOfATreeButItsTimes(t *testing.T) {
	first := listing(t, tree(t, time.Unix(1, 0)), &known{})
	owner := " uid=" + strconv.Itoa(os.Getuid()) + " gid=" + strconv.Itoa(os.Getgid())
	want := strings.Join([]string{
		". type=dir mode=0755" + owner,
		"./a type=dir mode=0755" + owner,
		"./a/file type=file mode=4600" + owner + " size=7 sha256digest=ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73",
		`./a/link type=link mode=0777` + owner + ` link=../no\040where`,
		`./a\040b\052 type=file mode=0644` + owner + " size=0 sha256digest=e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"./a-b type=file mode=0644" + owner + " size=1 sha256digest=2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
		"./pipe type=fifo mode=0600" + owner,
		"",
	}, "\n")
	if first != want {
		t.Errorf("the listing is\n%s\nnot\n%s", first, want)
	}
	if again := listing(t, tree(t, time.Unix(2, 0)), &known{}); again != first {
		t.Errorf("another time gave another listing:\n%s", again)
	}
}

// manyFiles makes more than fit into the batches that may be ahead.
func manyFiles(t *testing.T) (root string, names []string) {
	t.Helper()
	root = t.TempDir()
	for i := range (batchesAhead + 4) * batchLines {
		name := fmt.Sprintf("%02d/%04d", i/100, i)
		write(t, filepath.Join(root, name), name)
		names = append(names, name)
	}
	return root, names
}

func TestALongListingIsInOrder(t *testing.T) {
	root, names := manyFiles(t)
	var listed []string
	for _, text := range strings.Split(listing(t, root, &known{}), "\n") {
		if name, _, ok := strings.Cut(text, " type=file "); ok {
			listed = append(listed, strings.TrimPrefix(name, "./"))
		}
	}
	if !slices.Equal(listed, names) {
		t.Errorf("%d files are listed as %d, or in another order", len(names), len(listed))
	}
}

// remover takes a file away before it is read.
type remover struct{ root, name string }

func (r remover) digestOf(path string, _ fs.FileInfo) string {
	if path == r.name {
		_ = os.Remove(filepath.Join(r.root, r.name))
	}
	return ""
}

func (remover) learn(string, fs.FileInfo, string) {}

func TestAFileThatCannotBeReadEndsTheListing(t *testing.T) {
	root, names := manyFiles(t)
	if err := listTree(root, remover{root, names[300]}, nil, io.Discard); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the listing ended with %v", err)
	}
}

// layered applies layers to a tree, each a function that says what it brings, and lists what came of them.
func layered(t *testing.T, root, learnedDir string, layers map[string]func(), order ...string) (string, *known) {
	t.Helper()
	files := &known{learnedDir: learnedDir}
	for _, digest := range order {
		needsNames, err := files.begin("sha256:" + digest)
		if err != nil {
			t.Fatal(err)
		}
		before := snapshot(t, root)
		layers[digest]()
		for name, at := range snapshot(t, root) {
			if needsNames && before[name] != at {
				files.brings("./" + name)
			}
		}
		if err := files.end(); err != nil {
			t.Fatal(err)
		}
	}
	found := listing(t, root, files)
	if err := files.keep(); err != nil {
		t.Fatal(err)
	}
	return found, files
}

func snapshot(t *testing.T, root string) map[string]time.Time {
	t.Helper()
	found := map[string]time.Time{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			info, _ := entry.Info()
			found[strings.TrimPrefix(path, root+"/")] = changeTime(info)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestFilesOfLayersSeenBeforeAreNotReadAgain(t *testing.T) {
	learned := t.TempDir()
	var root string
	put := func(names ...string) func() {
		return func() {
			for _, name := range names {
				write(t, filepath.Join(root, name), name)
			}
		}
	}
	layers := map[string]func(){"base": put("old", "changed", "again"), "step": put("new", "again"), "code": put("app")}
	root = t.TempDir()
	first, _ := layered(t, root, learned, layers, "base", "step", "code")

	// Whatever is not read is what it was.
	write(t, filepath.Join(root, "x"), "")
	root = t.TempDir()
	lie := func(real string) func() {
		return func() {
			layers := map[string][]string{"base": {"old", "changed", "again"}, "step": {"new", "again"}, "code": {"app"}}
			for _, name := range layers[real] {
				write(t, filepath.Join(root, name), strings.Repeat("!", len(name)))
			}
		}
	}
	lies := map[string]func(){"base": lie("base"), "step": lie("step"), "code": lie("code")}
	if again, _ := layered(t, root, learned, lies, "base", "step", "code"); again != first {
		t.Errorf("known layers were read:\n%s", again)
	}

	// Of a layer on another one nothing is known, nor of files that were changed since.
	for _, order := range [][]string{{"base", "code"}, {"step", "code"}} {
		root = t.TempDir()
		found, _ := layered(t, root, learned, lies, order...)
		if fresh := listing(t, root, &known{}); !strings.Contains(fresh, lineOf(found, "app")) {
			t.Errorf("app was taken for known on %s:\n%s", order[0], found)
		}
	}
	root = t.TempDir()
	_, files := layered(t, root, learned, layers, "base", "step")
	write(t, filepath.Join(root, "changed"), "CHANGED")
	long := time.Unix(0, 0)
	if err := os.Chtimes(filepath.Join(root, "changed"), long, long); err != nil {
		t.Fatal(err)
	}
	if found, fresh := listing(t, root, files), listing(t, root, &known{}); found != fresh {
		t.Errorf("a file that was changed was taken for known:\n%s\n%s", found, fresh)
	}
}

func TestANameBroughtByAnUnreadLayerIsNotTakenForTheOneBelow(t *testing.T) {
	learned := t.TempDir()
	root := t.TempDir()
	layers := map[string]func(){
		"base": func() { write(t, filepath.Join(root, "file"), "below") },
		"over": func() { write(t, filepath.Join(root, "file"), "above") },
		"last": func() { write(t, filepath.Join(root, "file"), "last!") },
	}
	// What `over` brought is gone before anything is read.
	layered(t, root, learned, layers, "base", "over", "last")
	root = t.TempDir()
	found, _ := layered(t, root, learned, layers, "base", "over")
	if fresh := listing(t, root, &known{}); found != fresh {
		t.Errorf("a file of the layer below was taken for one above:\n%s\n%s", found, fresh)
	}
}

func TestLayersThatWereOfNoUseForLongestAreForgotten(t *testing.T) {
	files := known{learnedDir: t.TempDir()}
	for i := range learnedLayers + 3 {
		place := filepath.Join(files.learnedDir, strconv.Itoa(i))
		write(t, place, "")
		at := time.Unix(int64(1000+i), 0)
		if err := os.Chtimes(place, at, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := files.keep(); err != nil {
		t.Fatal(err)
	}
	for i, want := range map[int]bool{0: false, 2: false, 3: true, learnedLayers + 2: true} {
		_, err := os.Stat(filepath.Join(files.learnedDir, strconv.Itoa(i)))
		if got := err == nil; got != want {
			t.Errorf("layer %d is there: %v, not %v", i, got, want)
		}
	}
}

func lineOf(listing, name string) string {
	for line := range strings.Lines(listing) {
		if strings.HasPrefix(line, "./"+name+" ") {
			return line
		}
	}
	return "no line of " + name
}

func TestALayersFilesAreListedByNameAndDigest(t *testing.T) {
	var layer bytes.Buffer
	to := tar.NewWriter(&layer)
	for _, header := range []tar.Header{
		{Name: "./a/", Typeflag: tar.TypeDir},
		{Name: "./a/x", Typeflag: tar.TypeReg, Size: 7},
		{Name: "./b", Typeflag: tar.TypeLink, Linkname: "./a/x"},
		{Name: "./c", Typeflag: tar.TypeSymlink, Linkname: "b"},
	} {
		if err := to.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if _, err := to.Write([]byte("content")[:header.Size]); err != nil {
			t.Fatal(err)
		}
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "layer.tar")
	if err := os.WriteFile(file, layer.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := listLayer(file, &out); err != nil {
		t.Fatal(err)
	}
	const digest = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
	if want := digest + " a/x\n" + digest + " b\n"; out.String() != want {
		t.Errorf("listed %q, not %q", out.String(), want)
	}
}
