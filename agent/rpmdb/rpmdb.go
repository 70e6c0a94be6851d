// Package rpmdb reads which packages an RPM database lists: SQLite, and the formats before it. Somebody's Dockerfile wrote it, so
// no content makes this panic, go in circles or read more than a bound.
//
// The libraries for it need all of SQLite, which doubles the program, and trust what they read.
package rpmdb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
)

const (
	maxRows = 10_000
	// Of a database and its log together, however often a part of them is read. Of 517 packages in 27 MB that is 2 MB.
	maxRead = 128 << 20
)

// Package is one that a database lists.
type Package struct {
	Name, Version, Release string
	// Epoch is a number, or empty.
	Epoch string
	// Arch is empty for what belongs to none.
	Arch string
}

// EVR is the version as rpm writes it: epoch, version and release.
func (p Package) EVR() string {
	if p.Epoch == "" {
		return p.Version + "-" + p.Release
	}
	return p.Epoch + ":" + p.Version + "-" + p.Release
}

var errStopped = errors.New("stopped")

// Packages gives what a database lists, or why an entry, or all behind it, cannot be read. Keys that rpm keeps as packages
// (gpg-pubkey) are left out.
//
// The log is the write-ahead log beside an SQLite database, or nil.
func Packages(database, log io.ReaderAt) iter.Seq2[Package, error] {
	return func(yield func(Package, error) bool) {
		rows, left := 0, maxRead
		if log != nil {
			log = &bounded{log, &left}
		}
		err := scan(&bounded{database, &left}, log, func(header *blob) error {
			if rows++; rows > maxRows {
				return fmt.Errorf("more than %d entries", maxRows)
			}
			one, err := readHeader(header)
			if err == nil && one.Name == "gpg-pubkey" {
				return nil
			}
			if !yield(one, err) {
				return errStopped
			}
			return nil
		})
		if err != nil && err != errStopped {
			yield(Package{}, err)
		}
	}
}

func scan(database, log io.ReaderAt, each func(header *blob) error) error {
	start, err := readAt(database, 0, 100)
	switch {
	case err != nil:
		return err
	case bytes.HasPrefix(start, []byte(sqliteMagic)):
		return scanSQLite(database, log, start, each)
	case bytes.HasPrefix(start, []byte(slotsMagic)):
		return scanSlots(database, start, each)
	case isHash(start):
		return scanHash(database, start, each)
	default:
		return errors.New("of no kind that is read")
	}
}

type bounded struct {
	io.ReaderAt
	left *int
}

func (b *bounded) ReadAt(into []byte, at int64) (int, error) {
	if *b.left -= len(into); *b.left < 0 {
		return 0, fmt.Errorf("more than %d bytes to read", maxRead)
	}
	return b.ReaderAt.ReadAt(into, at)
}

func readAt(from io.ReaderAt, at int64, size int) ([]byte, error) {
	bytes := make([]byte, size)
	if _, err := io.ReadFull(io.NewSectionReader(from, at, int64(size)), bytes); err != nil {
		return nil, fmt.Errorf("%d bytes at %d: %w", size, at, err)
	}
	return bytes, nil
}

func be16(bytes []byte) int    { return int(binary.BigEndian.Uint16(bytes)) }
func be32(bytes []byte) uint32 { return binary.BigEndian.Uint32(bytes) }
