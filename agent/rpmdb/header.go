package rpmdb

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

const (
	maxHeaderEntries = 0xffff // as in rpm
	maxHeaderRead    = 8 << 20
	maxText          = 256

	tagName    = 1000
	tagVersion = 1001
	tagRelease = 1002
	tagEpoch   = 1003
	tagArch    = 1022

	typeInt32  = 4
	typeString = 6
)

// blob is a value of which only the beginning is read, as far as somebody asks.
type blob struct {
	have []byte
	size int
	// more gives the next bytes, never none without an error.
	more func() ([]byte, error)
}

func (b *blob) slice(from, to int) ([]byte, error) {
	if from < 0 || from > to || to > b.size {
		return nil, errors.New("points beyond its end")
	}
	if to > maxHeaderRead {
		return nil, fmt.Errorf("what is asked for lies behind %d bytes", maxHeaderRead)
	}
	for len(b.have) < to {
		next, err := b.more()
		if err != nil {
			return nil, err
		}
		b.have = append(b.have, next...)
	}
	return b.have[from:to], nil
}

// part is what lies between two places; the value itself cannot be used any more.
func (b *blob) part(from, to int) (*blob, error) {
	if to > b.size {
		return nil, errors.New("points beyond its end")
	}
	if _, err := b.slice(0, from); err != nil {
		return nil, err
	}
	return &blob{have: b.have[from:], size: to - from, more: b.more}, nil
}

// readHeader reads a header as databases hold it: how many entries and bytes of data there are, the entries (tag, type, offset
// and count), the data. As in rpm, a later entry of a tag replaces an earlier one.
// https://github.com/rpm-software-management/rpm/blob/5271e18cce62a86bec1ac88c0b0410770985f3d5/docs/manual/format_header.md
func readHeader(b *blob) (Package, error) {
	one := Package{}
	if err := one.read(b); err != nil {
		return Package{}, fmt.Errorf("a header: %w", err)
	}
	if one.Name == "" || one.Version == "" || one.Release == "" {
		return Package{}, errors.New("a header has no name, version or release")
	}
	return one, nil
}

func (p *Package) read(b *blob) error {
	sizes, err := b.slice(0, 8)
	if err != nil {
		return err
	}
	entries := be32(sizes)
	if entries > maxHeaderEntries {
		return fmt.Errorf("more than %d entries", maxHeaderEntries)
	}
	data := 8 + 16*int(entries)
	if data+int(be32(sizes[4:])) > b.size {
		return errors.New("is larger than its row")
	}
	index, err := b.slice(8, data)
	if err != nil {
		return err
	}
	for ; len(index) > 0; index = index[16:] {
		tag, kind, at := be32(index), be32(index[4:]), data+int(be32(index[8:]))
		text := p.text(tag)
		switch {
		case text != nil && kind == typeString:
			*text, err = b.text(at)
		case tag == tagEpoch && kind == typeInt32:
			p.Epoch, err = b.number(at)
		case text != nil || tag == tagEpoch:
			err = fmt.Errorf("tag %d has type %d", tag, kind)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// text is where that of a tag belongs, nil for tags that are not read.
func (p *Package) text(tag uint32) *string {
	switch tag {
	case tagName:
		return &p.Name
	case tagVersion:
		return &p.Version
	case tagRelease:
		return &p.Release
	case tagArch:
		return &p.Arch
	default:
		return nil
	}
}

// text is that up to a zero byte.
func (b *blob) text(at int) (string, error) {
	found, err := b.slice(at, min(at+maxText+1, b.size))
	if err != nil {
		return "", err
	}
	end := bytes.IndexByte(found, 0)
	if end < 0 {
		return "", fmt.Errorf("a text has no end within %d bytes", maxText)
	}
	return string(found[:end]), nil
}

func (b *blob) number(at int) (string, error) {
	found, err := b.slice(at, at+4)
	if err != nil {
		return "", err
	}
	return strconv.FormatUint(uint64(be32(found)), 10), nil
}
