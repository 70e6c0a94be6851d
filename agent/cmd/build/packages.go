package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// pkg is an installed package, as the databases of package managers in the tree say. Somebody's Dockerfile wrote those: they
// are read as data, within bounds.
type pkg struct {
	// Type is that of a package URL: deb, apk or rpm.
	Type string `json:"type"`
	Name string `json:"name"`
	// Version is as its manager writes it, with an epoch before a colon.
	Version string `json:"version"`
	Arch    string `json:"arch"`
}

// inventory is what was found. Unread tells of databases, or of entries in them, that could not be read.
type inventory struct {
	Packages []pkg    `json:"packages"`
	Unread   []string `json:"unread,omitempty"`
}

const (
	maxPackages      = 10_000
	maxDatabaseBytes = 64 << 20
	maxUnread        = 16
	dpkgFolder       = "var/lib/dpkg/status.d"
)

var (
	// What a database says of a package, each on a line of its own with such a mark before it.
	dpkgFields = map[string]string{"Package": "name", "Version": "version", "Architecture": "arch", "Status": "status"}
	apkFields  = map[string]string{"P": "name", "V": "version", "A": "arch"}
	word       = regexp.MustCompile(`^[!-~]{1,128}$`)
)

// packagesIn reads the databases below a root; links out of it are not followed.
func packagesIn(dir string) (inventory, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return inventory{}, err
	}
	defer root.Close()
	found := inventory{Packages: []pkg{}}
	found.read(root, "var/lib/dpkg/status", "deb", dpkgFields)
	// Images without a package manager have a file for each package.
	for _, name := range namesIn(root, dpkgFolder) {
		if !strings.HasSuffix(name, ".md5sums") {
			found.read(root, path.Join(dpkgFolder, name), "deb", dpkgFields)
		}
	}
	for _, name := range []string{"lib/apk/db/installed", "usr/lib/apk/db/installed"} {
		found.read(root, name, "apk", apkFields)
	}
	found.readRPM(root)
	slices.SortFunc(found.Packages, func(a, b pkg) int {
		return strings.Compare(strings.Join([]string{a.Type, a.Name, a.Version, a.Arch}, " "), strings.Join([]string{b.Type, b.Name, b.Version, b.Arch}, " "))
	})
	found.Packages = slices.Compact(found.Packages)
	return found, nil
}

// read adds a database of lines `Mark: value`, its packages apart by empty lines.
func (i *inventory) read(root *os.Root, name, kind string, fields map[string]string) {
	file, err := openDatabase(root, name, maxDatabaseBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		i.miss(name, err)
		return
	}
	defer file.Close()
	lines := bufio.NewScanner(io.LimitReader(file, maxDatabaseBytes))
	lines.Buffer(nil, 1<<20)
	values := map[string]string{}
	for lines.Scan() {
		if lines.Text() == "" {
			i.addEntry(name, kind, values)
			clear(values)
			continue
		}
		mark, value, _ := strings.Cut(lines.Text(), ":")
		if field := fields[mark]; field != "" {
			values[field] = strings.TrimSpace(value)
		}
	}
	i.addEntry(name, kind, values)
	if err := lines.Err(); err != nil {
		i.miss(name, err)
	}
}

func (i *inventory) addEntry(from, kind string, values map[string]string) {
	status, hasStatus := values["status"]
	if len(values) == 0 || hasStatus && !strings.HasSuffix(status, " installed") {
		return
	}
	i.add(from, pkg{kind, values["name"], values["version"], values["arch"]})
}

func (i *inventory) add(from string, one pkg) {
	switch {
	case !word.MatchString(one.Name) || !word.MatchString(one.Version) || !word.MatchString(one.Arch):
		i.miss(from, errors.New("an entry has no proper name, version or architecture"))
	case len(i.Packages) >= maxPackages:
		i.miss(from, fmt.Errorf("more than %d packages", maxPackages))
	default:
		i.Packages = append(i.Packages, one)
	}
}

// miss notes what is left out, once.
func (i *inventory) miss(name string, err error) {
	text := fmt.Sprintf("%s: %.200s", name, err)
	if len(i.Unread) < maxUnread && !slices.Contains(i.Unread, text) {
		i.Unread = append(i.Unread, text)
	}
}

func openDatabase(root *os.Root, name string, most int64) (*os.File, error) {
	file, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a file")
	}
	if err == nil && info.Size() > most {
		err = fmt.Errorf("more than %d bytes", most)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

func namesIn(root *os.Root, folder string) []string {
	dir, err := root.OpenFile(folder, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, err := dir.Readdirnames(maxPackages)
	if err != nil {
		return nil
	}
	slices.Sort(names)
	return names
}
