package rpmdb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	slotsMagic  = "RpmP"
	slotMagic   = "Slot"
	headerMagic = "BlbS"
	slotsPage   = 4096
	slotSize    = 16
)

// scanSlots reads rpm's own format (ndb): pages of slots, the first two of which are the start of the file; each says where a
// header lies, in units of 16 bytes.
// https://github.com/rpm-software-management/rpm/blob/9ac6c427d240dca7375dfff596f8a84012c32169/lib/backend/ndb/rpmpkg.c
func scanSlots(database io.ReaderAt, start []byte, each func(*blob) error) error {
	if version := binary.LittleEndian.Uint32(start[4:]); version != 0 {
		return fmt.Errorf("version %d", version)
	}
	pages := int64(binary.LittleEndian.Uint32(start[12:]))
	for number := range pages {
		page, err := readAt(database, number*slotsPage, slotsPage)
		if err != nil {
			return err
		}
		if number == 0 {
			page = page[2*slotSize:]
		}
		for ; len(page) > 0; page = page[slotSize:] {
			if string(page[:4]) != slotMagic {
				return errors.New("a slot that is none")
			}
			if isFree := binary.LittleEndian.Uint32(page[4:]) == 0; isFree {
				continue
			}
			header, err := headerAt(database, int64(binary.LittleEndian.Uint32(page[8:]))*slotSize, page[4:8])
			if err != nil {
				return err
			}
			if err := each(header); err != nil {
				return err
			}
		}
	}
	return nil
}

// headerAt is what lies at a place, if that is of the number.
func headerAt(database io.ReaderAt, at int64, number []byte) (*blob, error) {
	start, err := readAt(database, at, slotSize)
	if err != nil {
		return nil, err
	}
	if string(start[:4]) != headerMagic || string(start[4:8]) != string(number) {
		return nil, errors.New("a slot without its header")
	}
	header := &blob{size: int(binary.LittleEndian.Uint32(start[12:]))}
	header.more = func() ([]byte, error) {
		have := len(header.have)
		return readAt(database, at+slotSize+int64(have), min(slotsPage, header.size-have))
	}
	return header, nil
}
