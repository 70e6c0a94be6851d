// Package link is the agent's end of the one byte channel between host and guest (spec/agent-protocol.md).
//
// Invariant: one reader and one writer for the life of the port. A preamble replaces the session under them, and since
// all bytes pass the one writer, which looks at the session before each write, nothing of an old session follows the
// answer that begins a new one.
package link

import (
	"bytes"
	"errors"
	"fmt"
	"log"
	"sync"
	"sync/atomic"
	"time"
)

const (
	readBytes = 64 << 10
	// How long bytes that look like the beginning of a preamble wait for their rest. The host sends it in one write.
	preambleWait = 250 * time.Millisecond
)

// Server serves the link over one port.
type Server struct {
	port    Port
	handler Handler
	restore func(Restore) error

	secret      string
	lastNonce   string
	lastFailure error
	lastStep    Restore

	current atomic.Pointer[session]
	changed chan struct{}
}

// NewServer makes a server. restore runs before a session is answered whenever the host asks for it; its error is the
// host's answer.
func NewServer(port Port, handler Handler, restore func(Restore) error) *Server {
	return &Server{port: port, handler: handler, restore: restore, changed: make(chan struct{}, 1)}
}

// Serve runs until the port fails.
func (s *Server) Serve() error {
	failed := make(chan error, 1)
	var writer sync.WaitGroup
	stop := make(chan struct{})
	writer.Go(func() { failed <- s.write(stop) })
	err := s.read(failed)
	close(stop)
	if old := s.current.Swap(nil); old != nil {
		old.end(nil)
	}
	s.port.Interrupt()
	writer.Wait()
	return err
}

func (s *Server) read(failed <-chan error) error {
	buffer := make([]byte, readBytes)
	held := 0
	for {
		limit := time.Duration(0)
		if held > 0 {
			limit = preambleWait
		}
		n, err := s.port.Read(buffer[held:], limit)
		if err != nil {
			select {
			case cause := <-failed:
				return errors.Join(cause, err)
			default:
				return fmt.Errorf("read: %w", err)
			}
		}
		switch {
		case n > 0 && held > 0 && startsPreamble(buffer[held:held+n]):
			// The beginning of one was cut off by a reconnect, and here comes the next.
			s.deliver(buffer[:held])
			held = s.take(buffer, held, held+n)
		case n > 0:
			held = s.take(buffer, 0, held+n)
		case held > 0:
			s.deliver(buffer[:held])
			held = 0
		}
	}
}

func startsPreamble(b []byte) bool {
	length, wanting := preambleLength(b)
	return length > 0 || wanting && len(b) >= len(preambleMagic)
}

// take deals with the bytes of one read and returns how many of them were kept at the buffer's beginning, to be looked
// at again with the next read.
func (s *Server) take(buffer []byte, from, to int) int {
	for from < to {
		length, wanting := preambleLength(buffer[from:to])
		if wanting {
			return copy(buffer, buffer[from:to])
		}
		if length == 0 || !s.begin(buffer[from+preambleHead:from+length]) {
			s.deliver(buffer[from:to])
			return 0
		}
		from += length
	}
	return 0
}

func (s *Server) deliver(chunk []byte) {
	current := s.current.Load()
	if current == nil || current.isOver() {
		return
	}
	if err := current.decoder.push(chunk, current); err != nil {
		log.Printf("link: %v", err)
		current.end(err)
	}
}

// begin starts a session if these bytes are a preamble of somebody who knows the secret.
func (s *Server) begin(body []byte) bool {
	p, err := parsePreamble(body)
	if err != nil || !s.knows(p) {
		return false
	}
	if old := s.current.Load(); old != nil {
		old.end(nil)
	}
	if p.Nonce != s.lastNonce || s.lastFailure != nil {
		s.lastNonce, s.lastFailure = p.Nonce, s.prepare(p)
	}
	next := newSession(s.handler, encodeAnswer(p.Nonce, s.lastFailure))
	if s.lastFailure != nil {
		log.Printf("link: restore: %v", s.lastFailure)
		next.close()
	}
	s.current.Store(next)
	s.port.Interrupt()
	select {
	case s.changed <- struct{}{}:
	default:
	}
	return true
}

// knows also takes the repetition of a preamble whose restore step replaced the secret, but whose answer got lost.
func (s *Server) knows(p *preamble) bool {
	if s.secret == "" || sameSecret(p.Secret, s.secret) {
		return true
	}
	return p.Restore != nil && p.Nonce == s.lastNonce && sameSecret(p.Restore.NextSecret, s.secret)
}

func (s *Server) prepare(p *preamble) error {
	if p.Restore == nil {
		s.secret = p.Secret
		return nil
	}
	step, err := p.Restore.restore()
	if err != nil {
		return err
	}
	// A step that comes again, because its answer got lost, would turn the clock back.
	if step.WallClockMs != s.lastStep.WallClockMs || !bytes.Equal(step.Seed, s.lastStep.Seed) {
		if err := s.restore(step); err != nil {
			return err
		}
		s.lastStep = step
	}
	s.secret = p.Restore.NextSecret
	return nil
}

func (s *Server) write(stop <-chan struct{}) error {
	buffer := make([]byte, 0, writeBytes)
	for {
		current := s.current.Load()
		var rest []byte
		if current != nil {
			rest = current.fill(buffer)
		}
		if len(rest) == 0 {
			if s.current.Load() != current {
				continue
			}
			select {
			case <-s.changed:
				continue
			case <-stop:
				return nil
			}
		}
		for len(rest) > 0 && s.current.Load() == current {
			n, err := s.port.Write(rest)
			if err != nil {
				return fmt.Errorf("write: %w", err)
			}
			rest = rest[n:]
		}
	}
}
