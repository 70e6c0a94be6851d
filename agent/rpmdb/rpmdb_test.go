package rpmdb

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
)

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	file, err := os.Open("testdata/" + name + ".gz")
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
	return content
}

// whatRPMSays is the output of rpm -qa, without keys.
func whatRPMSays(t *testing.T, name string) []string {
	t.Helper()
	content, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	return slices.DeleteFunc(lines, func(line string) bool { return strings.HasPrefix(line, "gpg-pubkey ") })
}

// read gives the packages in the order of their bytes, and what could not be read.
func read(database, log []byte) (found, missed []string) {
	var beside io.ReaderAt
	if log != nil {
		beside = bytes.NewReader(log)
	}
	for one, err := range Packages(bytes.NewReader(database), beside) {
		if err != nil {
			missed = append(missed, err.Error())
		} else {
			found = append(found, one.Name+" "+one.EVR()+" "+one.Arch)
		}
	}
	slices.Sort(found)
	return found, missed
}

func TestADatabaseListsWhatRPMSays(t *testing.T) {
	found, missed := read(fixture(t, "rpmdb.sqlite"), nil)
	if want := whatRPMSays(t, "rpm-qa"); !slices.Equal(found, want) || missed != nil {
		t.Errorf("found %q, missed %q, want %q", found, missed, want)
	}
}
