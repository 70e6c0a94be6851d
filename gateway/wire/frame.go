// Package wire carries Ethernet frames between a guest and the gateway in QEMU's stream framing: a u32 big-endian length,
// then the frame.
//
// Invariants: what the other side claims costs at most one frame of memory; whoever sends waits while the other side doesn't
// read, and nobody else does.
package wire

import (
	"encoding/binary"
	"fmt"

	"gvisor.dev/gvisor/pkg/buffer"
)

const (
	// HeaderBytes is the length prefix.
	HeaderBytes = 4
	// EthernetBytes is the header of a frame, and so the shortest one.
	EthernetBytes = 14
	// MaxFrameBytes is a frame with the longest IPv4 packet.
	MaxFrameBytes = EthernetBytes + 65_535

	// scratchBytes holds many small frames at once; of a long one this much is copied and the rest is read in place. Every
	// idle guest has one.
	scratchBytes = 8 << 10
)

// splitter cuts a byte stream into frames. The owner reads into what room gives and tells how much it got.
type splitter struct {
	scratch [scratchBytes]byte
	// held bytes of scratch are the beginning of a frame not yet begun in partial.
	held    int
	partial *buffer.View
	filled  int
	// spaces is what room returns, kept so that reading allocates nothing.
	spaces [2][]byte
}

// room is where the next bytes belong: the rest of the frame under way, then scratch.
func (s *splitter) room() [][]byte {
	if s.partial != nil {
		s.spaces = [2][]byte{s.partial.AsSlice()[s.filled:], s.scratch[:]}
		return s.spaces[:]
	}
	s.spaces[0] = s.scratch[s.held:]
	return s.spaces[:1]
}

// took hands out the frames that n bytes read into room completed. Each View belongs to take.
func (s *splitter) took(n int, take func(frame *buffer.View)) error {
	if s.partial != nil {
		missing := s.partial.Size() - s.filled
		if n < missing {
			s.filled += n
			return nil
		}
		frame := s.partial
		s.partial, s.filled = nil, 0
		take(frame)
		n -= missing
	}
	rest := s.scratch[:s.held+n]
	s.held = 0
	for len(rest) >= HeaderBytes {
		size := binary.BigEndian.Uint32(rest)
		if size < EthernetBytes || size > MaxFrameBytes {
			return fmt.Errorf("a frame of %d bytes; frames have %d to %d", size, EthernetBytes, MaxFrameBytes)
		}
		rest = rest[HeaderBytes:]
		frame := buffer.NewViewSize(int(size))
		copied := copy(frame.AsSlice(), rest)
		rest = rest[copied:]
		if copied < int(size) {
			s.partial, s.filled = frame, copied
			return nil
		}
		take(frame)
	}
	s.held = copy(s.scratch[:], rest)
	return nil
}

func (s *splitter) release() {
	if s.partial != nil {
		s.partial.Release()
		s.partial = nil
	}
}
