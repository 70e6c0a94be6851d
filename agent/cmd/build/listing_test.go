package main

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func unknown(string, fs.FileInfo) string { return "" }

func listing(t *testing.T, root string, digestOf func(string, fs.FileInfo) string) string {
	t.Helper()
	var out strings.Builder
	if err := listTree(root, digestOf, &out); err != nil {
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
	first := listing(t, tree(t, time.Unix(1, 0)), unknown)
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
	if again := listing(t, tree(t, time.Unix(2, 0)), unknown); again != first {
		t.Errorf("another time gave another listing:\n%s", again)
	}
}

func TestFilesOfKnownLayersAreKnownUntilTheyChange(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "old"), "old")
	write(t, filepath.Join(root, "changed"), "old")
	files := known{digests: map[string]string{"old": "digest-of-old", "changed": "digest-of-old", "new": "digest-of-old"}}
	if err := files.end(); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(root, "changed"), "new")
	write(t, filepath.Join(root, "new"), "new")
	long := time.Unix(0, 0)
	if err := os.Chtimes(filepath.Join(root, "new"), long, long); err != nil {
		t.Fatal(err)
	}
	found := listing(t, root, files.digestOf)
	if n := strings.Count(found, "digest-of-old"); n != 1 || !strings.Contains(found, "./old type=file mode=0644") {
		t.Errorf("%d digests were taken for known:\n%s", n, found)
	}
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
