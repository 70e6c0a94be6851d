package main

import (
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func rpmFixture(t *testing.T, name string) string {
	t.Helper()
	file, err := os.Open(filepath.Join("../../rpmdb/testdata", name+".gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	unzipped, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(unzipped)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestRPMDatabasesAreReadWhereverTheyLie(t *testing.T) {
	database, log := rpmFixture(t, "rpmdb.sqlite"), rpmFixture(t, "rpmdb.sqlite-wal")
	for name, lay := range map[string]func(root string) error{
		"where Amazon Linux has it": func(root string) error {
			write(t, filepath.Join(root, "var/lib/rpm/rpmdb.sqlite"), database)
			write(t, filepath.Join(root, "var/lib/rpm/rpmdb.sqlite-wal"), log)
			return nil
		},
		"where Fedora has it": func(root string) error {
			write(t, filepath.Join(root, "usr/lib/sysimage/rpm/rpmdb.sqlite"), database)
			write(t, filepath.Join(root, "usr/lib/sysimage/rpm/rpmdb.sqlite-wal"), log)
			write(t, filepath.Join(root, "var/lib/other"), "")
			return os.Symlink("../../usr/lib/sysimage/rpm", filepath.Join(root, "var/lib/rpm"))
		},
	} {
		root := t.TempDir()
		if err := lay(root); err != nil {
			t.Fatal(err)
		}
		found, err := packagesIn(root)
		if err != nil || found.Unread != nil || len(found.Packages) != 44 {
			t.Fatalf("%s: %d packages, %q, %v", name, len(found.Packages), found.Unread, err)
		}
		for _, want := range []pkg{
			{"rpm", "plain", "1.0-1.amzn2023", "noarch"},
			{"rpm", "withepoch", "2:4.2-7.fc41", "noarch"},
			{"rpm", "native", "0.1^git20260101-2", "x86_64"},
		} {
			if !slices.Contains(found.Packages, want) {
				t.Errorf("%s: no %+v among %+v", name, want, found.Packages)
			}
		}
	}
}

func TestWhatCannotBeReadOfAnRPMDatabaseIsSaid(t *testing.T) {
	database := rpmFixture(t, "rpmdb.sqlite")
	root := t.TempDir()
	write(t, filepath.Join(root, "usr/lib/sysimage/rpm/Packages"), strings.Repeat("?", 200))
	write(t, filepath.Join(root, "var/lib/rpm/rpmdb.sqlite"), database[:len(database)/2])
	write(t, filepath.Join(root, "var/lib/rpm/Packages"), "left behind by an earlier rpm")
	if err := syscall.Mkfifo(filepath.Join(root, "var/lib/rpm/rpmdb.sqlite-wal"), 0o644); err != nil {
		t.Fatal(err)
	}
	found, err := packagesIn(root)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"usr/lib/sysimage/rpm/Packages: of no kind that is read",
		"var/lib/rpm/rpmdb.sqlite-wal: not a file",
		"var/lib/rpm/rpmdb.sqlite: 4096 bytes at ",
	}
	if !slices.EqualFunc(found.Unread, want, strings.HasPrefix) {
		t.Errorf("unread: %q", found.Unread)
	}
}

func TestAnRPMDatabaseOutsideOfTheRootIsNotRead(t *testing.T) {
	outside, root := t.TempDir(), t.TempDir()
	write(t, filepath.Join(outside, "rpmdb.sqlite"), rpmFixture(t, "rpmdb.sqlite"))
	write(t, filepath.Join(root, "var/lib/other"), "")
	if err := os.Symlink(outside, filepath.Join(root, "var/lib/rpm")); err != nil {
		t.Fatal(err)
	}
	found, err := packagesIn(root)
	if err != nil || len(found.Packages) != 0 || len(found.Unread) != 1 || !strings.Contains(found.Unread[0], "escapes") {
		t.Errorf("%+v, %v", found, err)
	}
}
