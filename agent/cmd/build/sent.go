package main

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	// What the context's files were in earlier builds, beside the state of the daemon that was sent them.
	sentFiles    = cacheMount + "/rekindle-sent"
	maxSentFiles = 200_000
	second       = int64(time.Second)
)

// sentFile is a file as a build had it.
type sentFile struct {
	sum, size int64
	// Nanoseconds in its time of change, one more each time that its content is another.
	edition int64
}

// sent is what builds with one cache had in their contexts.
type sent struct {
	// Of a file that was never seen.
	first int64
	// By escaped path; those that are gone stay.
	files map[string]sentFile
}

// tellApart gives the context's files times by which the daemon finds those that changed. It takes a file for the one that an
// earlier build sent, of whichever image, when path, size and time are the same: many a program that makes archives gives all files
// one time, and all that is written within a second has one. Seconds stay as they are. Steps see nanoseconds only of files that
// changed; layers have none.
//
// Invariant: for one path an edition is never given to two contents, whether or not the daemon came to see either.
func tellApart(dir, record string) error {
	before := readSent(record)
	present := map[string]sentFile{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		present[escape(name)], err = before.edit(escape(name), path)
		return err
	})
	if err != nil {
		return err
	}
	after := before
	if len(after.files) > maxSentFiles {
		after = sent{anyEdition(), present}
	}
	// Before the daemon sees any of it.
	return replaceFile(record, after.text())
}

// edit sets the time of one file.
func (s sent) edit(name, path string) (sentFile, error) {
	now, modified, err := look(path)
	if err != nil {
		return now, err
	}
	now.edition = s.first
	if earlier, ok := s.files[name]; ok {
		now.edition = earlier.edition
		if now != earlier {
			now.edition = (now.edition + 1) % second
		}
	}
	s.files[name] = now
	at := time.Unix(modified.Unix(), now.edition)
	return now, os.Chtimes(path, at, at)
}

// The processor knows it, so that reading costs more. Who makes two contents with one sum fools but their own build.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func look(path string) (found sentFile, modified time.Time, err error) {
	file, err := os.Open(path)
	if err != nil {
		return found, modified, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return found, modified, err
	}
	sum := crc32.New(castagnoli)
	found.size, err = io.CopyBuffer(sum, struct{ io.Reader }{file}, make([]byte, 256<<10))
	found.sum = int64(sum.Sum32())
	return found, info.ModTime(), err
}

// readSent begins anew when the record cannot be read, with editions that were hardly given before.
func readSent(record string) sent {
	text, err := os.ReadFile(record)
	if errors.Is(err, fs.ErrNotExist) {
		return sent{0, map[string]sentFile{}}
	}
	if err == nil {
		var read sent
		if read, err = parseSent(string(text)); err == nil {
			return read
		}
	}
	fmt.Printf("[builder] what earlier builds had in their contexts is not known: %.200v\n", err)
	return sent{anyEdition(), map[string]sentFile{}}
}

func anyEdition() int64 { return rand.Int64N(second) }

// text has a line with the first edition and one for each file.
func (s sent) text() []byte {
	text := strconv.AppendInt(nil, s.first, 10)
	text = append(text, '\n')
	for name, file := range s.files {
		for _, number := range []int64{file.sum, file.size, file.edition} {
			text = append(strconv.AppendInt(text, number, 10), ' ')
		}
		text = append(append(text, name...), '\n')
	}
	return text
}

func parseSent(text string) (sent, error) {
	header, rest, _ := strings.Cut(text, "\n")
	first, err := strconv.ParseInt(header, 10, 64)
	read := sent{first, map[string]sentFile{}}
	for line := range strings.Lines(rest) {
		words := strings.Fields(line)
		if len(words) != 4 {
			return read, fmt.Errorf("%q is no file", line)
		}
		var numbers [3]int64
		for i := range numbers {
			var invalid error
			numbers[i], invalid = strconv.ParseInt(words[i], 10, 64)
			err = errors.Join(err, invalid)
		}
		read.files[words[3]] = sentFile{numbers[0], numbers[1], numbers[2]}
	}
	return read, err
}
