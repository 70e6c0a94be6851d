package rpmdb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	hashMagic = 0x061561

	pageStart     = 26
	hashUnsorted  = 2
	hashMeta      = 8
	hashSorted    = 13
	pageOverflow  = 7
	itemOnPage    = 1
	itemElsewhere = 3
)

// isHash says that a file is a hash of Berkeley DB, as rpm had before 4.16.
func isHash(start []byte) bool { return orderOf(start) != nil && start[25] == hashMeta }

func orderOf(start []byte) binary.ByteOrder {
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		if order.Uint32(start[12:]) == hashMagic {
			return order
		}
	}
	return nil
}

// hash has the values on pages of their own or, small ones, beside their keys; overflow pages are given out once.
// https://github.com/berkeleydb/libdb/blob/5b7b02ae052442626af54c176335b67ecc613a30/src/dbinc/db_page.h
type hash struct {
	database io.ReaderAt
	order    binary.ByteOrder
	size     int
	given    map[uint32]bool
}

// scanHash gives the values of all pages in the order of these, which is how none can be left out.
func scanHash(database io.ReaderAt, start []byte, each func(*blob) error) error {
	all := &hash{database: database, order: orderOf(start), given: map[uint32]bool{}}
	size := all.order.Uint32(start[20:])
	if size < 512 || size > 1<<16 || size&(size-1) != 0 {
		return fmt.Errorf("pages of %d bytes", size)
	}
	if start[24] != 0 {
		return errors.New("is encrypted")
	}
	all.size = int(size)
	for number, last := uint32(1), all.order.Uint32(start[32:]); number <= last && number != 0; number++ {
		header, err := readAt(database, int64(number)*int64(all.size), pageStart)
		if err != nil {
			return err
		}
		if header[25] != hashUnsorted && header[25] != hashSorted {
			continue
		}
		page, err := readAt(database, int64(number)*int64(all.size), all.size)
		if err != nil {
			return err
		}
		if err := all.pairs(page, each); err != nil {
			return fmt.Errorf("page %d: %w", number, err)
		}
	}
	return nil
}

// pairs are keys, the numbers of headers, and values; each begins where it is said, and ends where the one before it begins.
func (h *hash) pairs(page []byte, each func(*blob) error) error {
	count, places, end := int(h.order.Uint16(page[20:])), page[pageStart:], len(page)
	if count%2 != 0 || 2*count > len(places) {
		return fmt.Errorf("%d items", count)
	}
	for ; count > 0; count, places = count-2, places[4:] {
		key, value := int(h.order.Uint16(places)), int(h.order.Uint16(places[2:]))
		if value < pageStart || value >= key || key >= end {
			return fmt.Errorf("items at %d and %d", key, value)
		}
		header, err := h.value(page[value:key])
		if err != nil {
			return err
		}
		// Number 0 stands for the highest number there is.
		if isNumber := bytes.Equal(page[key+1:end], make([]byte, 4)); !isNumber {
			if err := each(header); err != nil {
				return err
			}
		}
		end = value
	}
	return nil
}

func (h *hash) value(item []byte) (*blob, error) {
	switch {
	case item[0] == itemOnPage:
		return &blob{have: item[1:], size: len(item) - 1}, nil
	case item[0] != itemElsewhere || len(item) < 12:
		return nil, fmt.Errorf("an item of kind %d", item[0])
	}
	next := h.order.Uint32(item[4:])
	return &blob{size: int(h.order.Uint32(item[8:])), more: func() (part []byte, err error) {
		part, next, err = h.overflow(next)
		return part, err
	}}, nil
}

func (h *hash) overflow(number uint32) (part []byte, next uint32, err error) {
	if number == 0 || h.given[number] {
		return nil, 0, fmt.Errorf("page %d is not where it belongs", number)
	}
	h.given[number] = true
	page, err := readAt(h.database, int64(number)*int64(h.size), h.size)
	if err != nil {
		return nil, 0, err
	}
	length := int(h.order.Uint16(page[22:]))
	if page[25] != pageOverflow || length == 0 || length > h.size-pageStart {
		return nil, 0, fmt.Errorf("page %d is not where it belongs", number)
	}
	return page[pageStart : pageStart+length], h.order.Uint32(page[16:]), nil
}
