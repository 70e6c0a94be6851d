package link

import (
	"encoding/binary"
	"errors"
	"fmt"
)

type frameType uint8

const (
	frameOpen frameType = iota + 1
	frameAccept
	frameData
	frameCredit
	frameEnd
	frameReset
	framePing
	framePong
)

const (
	headerBytes     = 12
	maxPayloadBytes = 65_536
	// InitialCreditBytes is what either side may send on a new stream before it needs CREDIT.
	InitialCreditBytes = 262_144
	maxResetBytes      = 1024
	pingBytes          = 8
)

var errProtocol = errors.New("protocol violation")

func violation(format string, values ...any) error {
	return fmt.Errorf("%w: %s", errProtocol, fmt.Sprintf(format, values...))
}

type frameSink interface {
	// data is part of a DATA frame; the bytes are valid during the call only. Called once with none for an empty frame.
	data(stream uint32, part []byte) error
	// frame is any other frame, whole; the bytes are valid during the call only.
	frame(kind frameType, stream uint32, payload []byte) error
}

// decoder turns bytes into frames. DATA is passed on as it comes and never gathered, so it holds one OPEN at most.
type decoder struct {
	header       [headerBytes]byte
	headerLength int
	kind         frameType
	stream       uint32
	left         int
	payload      []byte
}

func (d *decoder) push(chunk []byte, sink frameSink) error {
	for len(chunk) > 0 {
		if d.headerLength < headerBytes {
			n := copy(d.header[d.headerLength:], chunk)
			d.headerLength += n
			chunk = chunk[n:]
			if d.headerLength < headerBytes {
				return nil
			}
			if err := d.begin(); err != nil {
				return err
			}
			if d.left == 0 {
				if err := d.finish(nil, sink); err != nil {
					return err
				}
			}
			continue
		}
		part := chunk[:min(len(chunk), d.left)]
		chunk = chunk[len(part):]
		d.left -= len(part)
		if err := d.take(part, sink); err != nil {
			return err
		}
	}
	return nil
}

func (d *decoder) begin() error {
	length := binary.BigEndian.Uint32(d.header[8:])
	d.kind = frameType(d.header[0])
	d.stream = binary.BigEndian.Uint32(d.header[4:])
	if d.header[1] != 0 || d.header[2] != 0 || d.header[3] != 0 {
		return violation("reserved bytes are not zero")
	}
	if err := checkLength(d.kind, length); err != nil {
		return err
	}
	if (d.stream == 0) != (d.kind == framePing) {
		return violation("frame type %d on stream %d", d.kind, d.stream)
	}
	d.left = int(length)
	return nil
}

// checkLength knows what a host may send and how long it is.
func checkLength(kind frameType, length uint32) error {
	ok := false
	switch kind {
	case frameOpen, frameData:
		ok = length <= maxPayloadBytes
	case frameCredit:
		ok = length == 4
	case frameEnd:
		ok = length == 0
	case frameReset:
		ok = length <= maxResetBytes
	case framePing:
		ok = length == pingBytes
	}
	if !ok {
		return violation("frame type %d of %d bytes", kind, length)
	}
	return nil
}

func (d *decoder) take(part []byte, sink frameSink) error {
	if d.kind == frameData {
		if d.left == 0 {
			d.headerLength = 0
		}
		return sink.data(d.stream, part)
	}
	if d.left > 0 || len(d.payload) > 0 {
		d.payload = append(d.payload, part...)
		if d.left > 0 {
			return nil
		}
		part = d.payload
	}
	return d.finish(part, sink)
}

func (d *decoder) finish(payload []byte, sink frameSink) error {
	d.headerLength = 0
	d.payload = nil
	if d.kind == frameData {
		return sink.data(d.stream, payload)
	}
	return sink.frame(d.kind, d.stream, payload)
}

func appendHeader(to []byte, kind frameType, stream uint32, length int) []byte {
	to = append(to, byte(kind), 0, 0, 0)
	to = binary.BigEndian.AppendUint32(to, stream)
	return binary.BigEndian.AppendUint32(to, uint32(length))
}

func appendFrame(to []byte, kind frameType, stream uint32, payload []byte) []byte {
	return append(appendHeader(to, kind, stream, len(payload)), payload...)
}
