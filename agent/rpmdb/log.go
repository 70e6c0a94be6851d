package rpmdb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
)

const (
	logMagic   = 0x377f0682
	logVersion = 3007000
	frameStart = 24
)

// readLog says where the newest version of each page in a write-ahead log is. What SQLite does not take for written whole (an
// unfinished transaction, all from the first wrong checksum on) is not there for it either.
// https://www.sqlite.org/fileformat2.html#walformat
func readLog(log io.ReaderAt, pageSize int) (map[uint32]int64, error) {
	start, err := readAt(log, 0, 32)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	sum := &checksum{order: binary.LittleEndian}
	if be32(start) == logMagic|1 {
		sum.order = binary.BigEndian
	}
	if sum.add(start[:24]); be32(start)|1 != logMagic|1 || !sum.is(start[24:]) {
		return nil, nil
	}
	if version, size := be32(start[4:]), be32(start[8:]); version != logVersion || int64(size) != int64(pageSize) {
		return nil, fmt.Errorf("version %d with pages of %d bytes", version, size)
	}
	newest, unfinished := map[uint32]int64{}, map[uint32]int64{}
	salt := string(start[16:24])
	for at := int64(len(start)); ; at += frameStart + int64(pageSize) {
		frame, err := readAt(log, at, frameStart+pageSize)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return newest, nil
		}
		if err != nil {
			return nil, err
		}
		sum.add(frame[:8])
		sum.add(frame[frameStart:])
		if string(frame[8:16]) != salt || !sum.is(frame[16:]) {
			return newest, nil
		}
		unfinished[be32(frame)] = at + frameStart
		if be32(frame[4:]) != 0 {
			maps.Copy(newest, unfinished)
			clear(unfinished)
		}
	}
}

// checksum is over all that was added to it so far.
type checksum struct {
	order binary.ByteOrder
	a, b  uint32
}

func (c *checksum) add(bytes []byte) {
	for ; len(bytes) > 0; bytes = bytes[8:] {
		c.a += c.order.Uint32(bytes) + c.b
		c.b += c.order.Uint32(bytes[4:]) + c.a
	}
}

func (c *checksum) is(written []byte) bool { return c.a == be32(written) && c.b == be32(written[4:]) }
