package peek

import (
	"bufio"
	"encoding/binary"
	"io"
	"strings"
)

// tlsFilter lets a TLS connection through as it came, after its client hello was found good. It watches a little longer: a
// server may ask for a second hello (HelloRetryRequest), and some don't notice when that has another name. So a handshake
// record waits for the server's first message, and if that asks for a hello the record must be one with the same name.
type tlsFilter struct {
	stream  *Stream
	reader  *bufio.Reader
	name    string
	ready   []byte
	passing int
	raw     bool

	answered chan struct{}
	answer   serverHello
}

func (s *Stream) beginTLS(reader *bufio.Reader, allow Allow) error {
	first, err := readHello(reader)
	if err != nil {
		return err
	}
	if s.Rule, err = approve(allow, first.name); err != nil {
		return err
	}
	s.Name = printable(strings.ToLower(first.name))
	s.filter = &tlsFilter{stream: s, reader: reader, name: first.name, ready: first.raw, answered: make(chan struct{})}
	return nil
}

func (f *tlsFilter) Read(p []byte) (int, error) {
	for {
		switch {
		case len(f.ready) > 0:
			n := copy(p, f.ready)
			f.ready = f.ready[n:]
			if len(f.ready) == 0 {
				f.ready = nil
			}
			return n, nil
		case f.raw && f.reader != nil:
			if f.reader.Buffered() > 0 {
				return f.reader.Read(p)
			}
			f.reader = nil
		case f.raw:
			return f.stream.Conn.Read(p)
		case f.passing > 0:
			n, err := f.reader.Read(p[:min(len(p), f.passing)])
			f.passing -= n
			return n, err
		default:
			if err := f.next(); err != nil {
				return 0, err
			}
		}
	}
}

// next decides about the guest's next record.
func (f *tlsFilter) next() error {
	head, err := f.reader.Peek(5)
	if err != nil {
		if len(head) > 0 && err == io.EOF {
			return io.ErrUnexpectedEOF
		}
		return err
	}
	select {
	case <-f.answered:
		return f.afterAnswer()
	default:
	}
	length := int(binary.BigEndian.Uint16(head[3:]))
	switch {
	case length > maxSealedBytes || head[1] != 3:
		return refuse(ReasonTLSMalformed)
	case head[0] == recordHandshake:
		if err := f.stream.await(f.answered); err != nil {
			return err
		}
		return f.afterAnswer()
	case head[0] == recordChangeCipher, head[0] == recordAlert, head[0] == recordData:
		f.passing = 5 + length
		return nil
	}
	return refuse(ReasonTLSMalformed)
}

func (f *tlsFilter) afterAnswer() error {
	if !f.answer.retry {
		f.raw = true
		return nil
	}
	head, err := f.reader.Peek(5)
	if err != nil {
		return err
	}
	if head[0] != recordHandshake {
		// What a client may send between: its change of ciphers, an alert, early data that the server drops.
		f.passing = 5 + int(binary.BigEndian.Uint16(head[3:]))
		return nil
	}
	second, err := readHello(f.reader)
	if err != nil {
		return err
	}
	if second.name != f.name {
		return &Refusal{Reason: ReasonTLSSecond, Name: printable(second.name)}
	}
	f.ready, f.raw = second.raw, true
	return nil
}

func (f *tlsFilter) sees(p []byte) {
	if f.answer.known {
		return
	}
	if len(p) == 0 {
		f.answer.known = true
	}
	if f.answer.read(p) {
		close(f.answered)
	}
}

// serverHello reads just enough of a server's first bytes to know whether they ask for a second hello.
type serverHello struct {
	known, retry bool
	head         []byte
	left         int
	message      []byte
}

// read is true once it is known.
func (s *serverHello) read(p []byte) bool {
	for len(p) > 0 && !s.known {
		if s.left == 0 {
			s.head = append(s.head, p[0])
			p = p[1:]
			if len(s.head) == 5 {
				s.left = int(binary.BigEndian.Uint16(s.head[3:]))
				// Anything but a handshake (an alert, no TLS at all) asks for nothing.
				s.known = s.head[0] != recordHandshake
				s.head = s.head[:0]
			}
			continue
		}
		n := min(len(p), s.left, helloRandomEnd-len(s.message))
		s.message = append(s.message, p[:n]...)
		p, s.left = p[n:], s.left-n
		if len(s.message) == helloRandomEnd {
			s.known = true
			s.retry = s.message[0] == 2 && [32]byte(s.message[6:]) == retryRandom()
		}
	}
	return s.known
}

// helloRandomEnd: type, length, version, random.
const helloRandomEnd = 1 + 3 + 2 + 32

// retryRandom marks a server hello as a HelloRetryRequest (RFC 8446 §4.1.3).
func retryRandom() [32]byte {
	return [32]byte{
		0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
		0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
	}
}
