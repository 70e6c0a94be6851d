package link

import (
	"context"
	"encoding/binary"
	"fmt"
	"log"
	"runtime/debug"
	"sync"
)

const (
	// MaxStreams bounds the streams of one session at a time.
	MaxStreams = 4096
	// A host that opens and pings but never reads must not fill the guest's memory with answers.
	maxControlBytes = 1 << 20
	// One write to the port: the kernel takes at most 32 KiB at a time.
	writeBytes = 32 << 10
	// BestWriteBytes is the largest Stream.Write that leaves in one write to the port.
	BestWriteBytes = writeBytes - headerBytes
	// A frame smaller than this at the end of a write costs more than it brings.
	minDataBytes = 512
)

// Handler serves one stream; it returns when the stream is of no more use to it. ctx ends with the stream.
type Handler func(ctx context.Context, stream *Stream, request []byte)

// session is what lies between two preambles. All its state is under mu; once over is set nothing more is written for it.
type session struct {
	handler Handler
	ctx     context.Context
	cancel  context.CancelFunc

	mu       sync.Mutex
	work     sync.Cond
	over     bool
	decoder  decoder
	greeting []byte
	control  []byte
	streams  map[uint32]*Stream
	buffers  sync.Pool // of *[]byte, a whole window each
	ready    *Stream   // head of the ring of streams that have something to send
	readyEnd *Stream
}

func newSession(handler Handler, greeting []byte) *session {
	s := &session{handler: handler, greeting: greeting, streams: map[uint32]*Stream{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.work.L = &s.mu
	return s
}

// end drops every stream. The host learns the reason, if there is one, by RESET on stream 0.
func (s *session) end(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	s.over = true
	s.cancel()
	for _, stream := range s.streams {
		stream.dropped(Errorf(CodeClosed, "the session is over"))
	}
	s.streams = map[uint32]*Stream{}
	s.ready, s.readyEnd = nil, nil
	s.control = nil
	if reason != nil {
		s.control = appendFrame(nil, frameReset, 0, resetPayload(Errorf(CodeClosed, "%v", reason)))
	}
	s.work.Broadcast()
}

// close refuses everything but keeps the greeting to be written: a session that never was.
func (s *session) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	s.cancel()
}

func (s *session) isOver() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over
}

func (s *session) data(id uint32, part []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	stream := s.streams[id]
	if stream == nil || stream.served {
		return nil // crossed with a RESET or END of ours
	}
	if stream.inEnded {
		return violation("DATA after END on stream %d", id)
	}
	if len(part) > stream.granted {
		stream.reset(Errorf(CodeFlow, "more bytes than granted"))
		return nil
	}
	stream.granted -= len(part)
	if stream.isWaiting && stream.take != nil && len(stream.in) == 0 {
		// Bytes come from here only, so none can overtake these.
		s.mu.Unlock()
		n := stream.take(part)
		s.mu.Lock()
		stream.consume(n)
		part = part[n:]
	}
	if len(part) > 0 && stream.failure == nil {
		stream.hold(part)
	}
	return nil
}

func (s *session) frame(kind frameType, id uint32, payload []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch kind {
	case framePing:
		return s.send(framePong, 0, payload)
	case frameOpen:
		return s.open(id, payload)
	}
	stream := s.streams[id]
	if stream == nil {
		return nil
	}
	switch kind {
	case frameCredit:
		credit := stream.credit + int64(binary.BigEndian.Uint32(payload))
		if credit > 1<<40 {
			return violation("too much credit on stream %d", id)
		}
		stream.credit = credit
		stream.schedule()
	case frameEnd:
		if stream.inEnded && !stream.served {
			return violation("a second END on stream %d", id)
		}
		stream.inEnded = true
		stream.readable.Broadcast()
	case frameReset:
		delete(s.streams, id)
		stream.dropped(Errorf(CodeCancelled, "reset by the host"))
	}
	return nil
}

func (s *session) open(id uint32, request []byte) error {
	if s.over {
		return nil
	}
	if s.streams[id] != nil {
		return violation("stream %d is open already", id)
	}
	if len(s.streams) >= MaxStreams {
		return s.send(frameReset, id, resetPayload(Errorf(CodeFailed, "%d streams are open already", MaxStreams)))
	}
	stream := newStream(s, id)
	s.streams[id] = stream
	go s.serve(stream, append([]byte(nil), request...))
	return nil
}

// serve runs the handler; whatever it does, the stream is gone afterwards and PID 1 is not.
func (s *session) serve(stream *Stream, request []byte) {
	defer func() {
		if cause := recover(); cause != nil {
			log.Printf("stream %d: %v\n%s", stream.id, cause, debug.Stack())
			stream.Reset(Errorf(CodeFailed, "the agent failed: %v", cause))
		}
		stream.release()
	}()
	s.handler(stream.ctx, stream, request)
}

// send queues a control frame. Caller holds mu.
func (s *session) send(kind frameType, id uint32, payload []byte) error {
	if s.over {
		return nil
	}
	if len(s.control)+headerBytes+len(payload) > maxControlBytes {
		return violation("the host does not read")
	}
	s.control = appendFrame(s.control, kind, id, payload)
	s.work.Signal()
	return nil
}

// fill takes what is to be written next: the greeting, then control frames, then data of the ready streams in turn.
// It waits until there is something; nil when the session is over and everything of it was taken.
func (s *session) fill(buffer []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		buffer = append(buffer[:0], s.greeting...)
		s.greeting = nil
		n := min(len(s.control), cap(buffer)-len(buffer))
		buffer = append(buffer, s.control[:n]...)
		if s.control = s.control[n:]; len(s.control) == 0 {
			s.control = nil
		}
		for s.ready != nil && cap(buffer)-len(buffer) >= headerBytes+minDataBytes && len(s.control) == 0 {
			buffer = s.pop().drain(buffer)
		}
		if len(buffer) > 0 {
			return buffer
		}
		if s.over {
			return nil
		}
		s.work.Wait()
	}
}

func (s *session) push(stream *Stream) {
	stream.queued = true
	stream.next = nil
	if s.ready == nil {
		s.ready = stream
	} else {
		s.readyEnd.next = stream
	}
	s.readyEnd = stream
	s.work.Signal()
}

func (s *session) pop() *Stream {
	stream := s.ready
	s.ready = stream.next
	if s.ready == nil {
		s.readyEnd = nil
	}
	stream.next = nil
	stream.queued = false
	return stream
}

func resetPayload(e *Error) []byte {
	text := fmt.Sprintf("%s: %s", e.Code, e.Message)
	return []byte(text[:min(len(text), maxResetBytes)])
}
