package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// buildWith makes a context of files that all have one time, as some archives have it, and returns the times they get.
func buildWith(t *testing.T, record string, files map[string]string) map[string]time.Time {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		place := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(place), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(place, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(place, archived, archived); err != nil {
			t.Fatal(err)
		}
	}
	if err := tellApart(dir, record); err != nil {
		t.Fatal(err)
	}
	times := map[string]time.Time{}
	for name := range files {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.ModTime().Unix() != archived.Unix() {
			t.Errorf("%s is of another second: %v", name, info.ModTime())
		}
		times[name] = info.ModTime()
	}
	return times
}

var archived = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)

func TestFilesThatNeverChangedHaveTheTimeOfTheArchive(t *testing.T) {
	record := filepath.Join(t.TempDir(), "sent")
	for range 3 {
		for name, at := range buildWith(t, record, map[string]string{"app.py": "one", "lib/a b=#\n.py": "lib", "Dockerfile": "FROM x"}) {
			if !at.Equal(archived) {
				t.Errorf("%q changed at %v", name, at)
			}
		}
	}
}

func TestContentsOfOnePathSizeAndSecondNeverShareATime(t *testing.T) {
	record := filepath.Join(t.TempDir(), "sent")
	random := rand.New(rand.NewPCG(1, 2))
	// By path and time, what the daemon may have of it.
	contents := map[string]string{}
	texts := map[string]string{}
	for build := range 200 {
		for _, name := range []string{"app.py", "lib/util.py", "notes"} {
			switch random.IntN(4) {
			case 0:
				texts[name] = fmt.Sprint(random.IntN(3))
			case 1:
				delete(texts, name)
			}
		}
		for name, at := range buildWith(t, record, texts) {
			had, ok := contents[name+at.String()]
			if ok && had != texts[name] {
				t.Fatalf("build %d: %s has the time of %q with %q", build, name, had, texts[name])
			}
			contents[name+at.String()] = texts[name]
		}
	}
}

func TestARecordThatCannotBeReadBeginsWithOtherTimes(t *testing.T) {
	record := filepath.Join(t.TempDir(), "sent")
	files := map[string]string{"app.py": "one"}
	for _, text := range []string{"", "x\n", "0\n1 2 app.py\n", "0\n1 2 z app.py\n"} {
		if err := os.WriteFile(record, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		first := buildWith(t, record, files)["app.py"]
		if first.Nanosecond() == 0 {
			t.Errorf("after %q: as if it had never been built", text)
		}
		if again := buildWith(t, record, files)["app.py"]; !again.Equal(first) {
			t.Errorf("after %q: %v, then %v without a change", text, first, again)
		}
	}
}
