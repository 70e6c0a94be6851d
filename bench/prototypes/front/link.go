package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
)

// Frame types and limits of spec/agent-protocol.md §2.
const (
	frameOpen, frameAccept, frameData, frameCredit, frameEnd, frameReset = 1, 2, 3, 4, 5, 6
	window                                                               = 262144
	maxPayload                                                           = 65536
)

// hostLink is the host's side of the agent link: streams over one socket. Whoever writes while nobody does writes for all.
type hostLink struct {
	conn    net.Conn
	mu      sync.Mutex
	out     []byte
	spare   []byte
	writing bool
	streams map[uint32]*stream
	last    uint32
}

type stream struct {
	link     *hostLink
	id       uint32
	mu       sync.Mutex
	change   sync.Cond
	in       []byte
	credit   int
	consumed int
	ended    bool
	onData   func() // called, once each time, when something came and nobody waits
}

func dialLink(path string) (*hostLink, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	body, _ := json.Marshal(map[string]any{"nonce": strings.Repeat("00", 16), "secret": strings.Repeat("00", 32), "restore": nil})
	preamble := binary.BigEndian.AppendUint32([]byte("\x00RKLINK1"), uint32(len(body)))
	if _, err := conn.Write(append(preamble, body...)); err != nil {
		return nil, err
	}
	head := make([]byte, 12)
	if _, err := io.ReadFull(conn, head); err != nil {
		return nil, err
	}
	if _, err := io.CopyN(io.Discard, conn, int64(binary.BigEndian.Uint32(head[8:]))); err != nil {
		return nil, err
	}
	l := &hostLink{conn: conn, streams: map[uint32]*stream{}}
	go l.read()
	return l, nil
}

func (l *hostLink) send(kind byte, id uint32, payload []byte) {
	l.mu.Lock()
	l.out = append(l.out, kind, 0, 0, 0)
	l.out = binary.BigEndian.AppendUint32(l.out, id)
	l.out = binary.BigEndian.AppendUint32(l.out, uint32(len(payload)))
	l.out = append(l.out, payload...)
	for !l.writing && len(l.out) > 0 {
		l.writing = true
		batch := l.out
		l.out = l.spare[:0]
		l.mu.Unlock()
		_, _ = l.conn.Write(batch)
		l.mu.Lock()
		l.spare, l.writing = batch, false
	}
	l.mu.Unlock()
}

func (l *hostLink) open(port int) *stream {
	l.mu.Lock()
	l.last++
	s := &stream{link: l, id: l.last, credit: window}
	s.change.L = &s.mu
	l.streams[s.id] = s
	l.mu.Unlock()
	l.send(frameOpen, s.id, fmt.Appendf(nil, `{"op":"tunnel","port":%d}`, port))
	return s
}

func (l *hostLink) read() {
	buffer := make([]byte, 0, 4*maxPayload)
	for {
		n, err := l.conn.Read(buffer[len(buffer):cap(buffer)])
		if err != nil {
			panic(err)
		}
		buffer = buffer[:len(buffer)+n]
		at := 0
		for len(buffer)-at >= 12 {
			length := int(binary.BigEndian.Uint32(buffer[at+8:]))
			if len(buffer)-at < 12+length {
				break
			}
			l.frame(buffer[at], binary.BigEndian.Uint32(buffer[at+4:]), buffer[at+12:at+12+length])
			at += 12 + length
		}
		buffer = buffer[:copy(buffer, buffer[at:])]
	}
}

func (l *hostLink) frame(kind byte, id uint32, payload []byte) {
	l.mu.Lock()
	s := l.streams[id]
	l.mu.Unlock()
	if s == nil {
		return
	}
	s.mu.Lock()
	switch kind {
	case frameData:
		s.in = append(s.in, payload...)
	case frameCredit:
		s.credit += int(binary.BigEndian.Uint32(payload))
	case frameEnd, frameReset:
		s.ended = true
	}
	tell := s.onData
	if kind == frameData || kind == frameEnd || kind == frameReset {
		s.onData = nil
	} else {
		tell = nil
	}
	s.mu.Unlock()
	s.change.Broadcast()
	if tell != nil {
		go tell()
	}
}

// take waits for bytes and swaps them for the (empty) buffer given.
func (s *stream) take(spare []byte) ([]byte, error) {
	s.mu.Lock()
	for len(s.in) == 0 && !s.ended {
		s.change.Wait()
	}
	if len(s.in) == 0 {
		s.mu.Unlock()
		return nil, io.EOF
	}
	taken := s.in
	s.in = spare[:0]
	s.consumed += len(taken)
	grant := 0
	if s.consumed >= window/4 {
		grant, s.consumed = s.consumed, 0
	}
	s.mu.Unlock()
	if grant > 0 {
		s.link.send(frameCredit, s.id, binary.BigEndian.AppendUint32(nil, uint32(grant)))
	}
	return taken, nil
}

func (s *stream) write(bytes []byte) error {
	for len(bytes) > 0 {
		s.mu.Lock()
		for s.credit == 0 && !s.ended {
			s.change.Wait()
		}
		n := min(len(bytes), s.credit, maxPayload)
		s.credit -= n
		ended := s.ended
		s.mu.Unlock()
		if ended {
			return io.ErrClosedPipe
		}
		s.link.send(frameData, s.id, bytes[:n])
		bytes = bytes[n:]
	}
	return nil
}

func (s *stream) close() {
	s.link.send(frameReset, s.id, []byte("cancelled: closed"))
	s.link.mu.Lock()
	delete(s.link.streams, s.id)
	s.link.mu.Unlock()
}
