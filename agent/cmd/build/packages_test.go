package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func TestInstalledPackagesAreReadFromTheDatabasesOfTheirManagers(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "var/lib/dpkg/status"), `Package: zsh
Status: deinstall ok config-files
Architecture: amd64
Version: 5.9

Package: bash
Status: install ok installed
Description: a shell
 Package: not-one
Architecture: amd64
Version: 5.2.37-2

`)
	write(t, filepath.Join(root, "var/lib/dpkg/status.d/tzdata"), "Package: tzdata\nVersion: 2026a\nArchitecture: all\n")
	write(t, filepath.Join(root, "var/lib/dpkg/status.d/tzdata.md5sums"), "Package: no\n")
	write(t, filepath.Join(root, "lib/apk/db/installed"), "C:Q1=\nP:musl\nV:1.2.5-r9\nA:x86_64\n\n")
	found, err := packagesIn(root)
	if err != nil {
		t.Fatal(err)
	}
	want := []pkg{{"apk", "musl", "1.2.5-r9", "x86_64"}, {"deb", "bash", "5.2.37-2", "amd64"}, {"deb", "tzdata", "2026a", "all"}}
	if !reflect.DeepEqual(found, inventory{Packages: want}) {
		t.Errorf("found %+v", found)
	}
}

func TestWhatCannotBeReadOfADatabaseIsSaidAndBounded(t *testing.T) {
	root := t.TempDir()
	entry := func(name string) string {
		return "Package: " + name + "\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n\n"
	}
	write(t, filepath.Join(root, "var/lib/dpkg/status"), entry("good")+entry("two words")+entry(strings.Repeat("n", 129))+
		"Package: line\nVersion: "+strings.Repeat("1", 2<<20)+"\n\n")
	for _, folder := range []string{"lib/apk/db", "usr/lib/apk/db"} {
		if err := os.MkdirAll(filepath.Join(root, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{
		os.Symlink("/etc/passwd", filepath.Join(root, "lib/apk/db/installed")),
		syscall.Mkfifo(filepath.Join(root, "usr/lib/apk/db/installed"), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	found, err := packagesIn(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(found.Packages) != 1 || found.Packages[0].Name != "good" {
		t.Errorf("found %.200v", found.Packages)
	}
	said := strings.Join(found.Unread, "\n")
	for _, want := range []string{"no proper name", "token too long", "lib/apk/db/installed: ", "usr/lib/apk/db/installed: not a file"} {
		if !strings.Contains(said, want) {
			t.Errorf("nothing says %q:\n%s", want, said)
		}
	}
	many := t.TempDir()
	var all strings.Builder
	for i := range maxPackages + 1 {
		all.WriteString(entry("p" + strconv.Itoa(i)))
	}
	write(t, filepath.Join(many, "var/lib/dpkg/status"), all.String())
	found, err = packagesIn(many)
	if err != nil || len(found.Packages) > maxPackages || !strings.Contains(strings.Join(found.Unread, ""), "more than 10000 packages") {
		t.Errorf("%d packages, %v, %v", len(found.Packages), found.Unread, err)
	}
}
