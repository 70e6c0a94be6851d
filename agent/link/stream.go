package link

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
)

// Code says why a stream was reset.
type Code string

const (
	CodeRefused   Code = "refused"
	CodeInvalid   Code = "invalid"
	CodeFailed    Code = "failed"
	CodeCancelled Code = "cancelled"
	CodeFlow      Code = "flow"
	CodeClosed    Code = "closed"
)

// Error is a stream's end that was no good one.
type Error struct {
	Code    Code
	Message string
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.Code, e.Message) }

// Errorf makes an Error.
func Errorf(code Code, format string, values ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, values...)}
}

// grantBytes is how much is taken from a stream before the host gets new credit: rarely enough to be cheap, often enough
// that a fast sender never waits.
const grantBytes = InitialCreditBytes / 4

// keepBytes fit into a buffer of the stream's own. What does not waits in a buffer of the session's.
const keepBytes = 16 << 10

// Stream is one stream of a session. Its fields are under the session's mu. One goroutine may write, one may receive.
type Stream struct {
	session *session
	id      uint32
	ctx     context.Context
	cancel  context.CancelFunc
	failure *Error // set once it was reset or dropped

	granted  int // bytes the host may still send
	in       []byte
	inEnded  bool
	served   bool // the handler returned: nobody wants what still comes
	consumed int  // bytes taken and not yet granted again
	readable sync.Cond
	take     func([]byte) int
	// isWaiting: the receiver has dealt with everything and waits for more
	isWaiting bool

	credit   int64 // bytes the host still takes
	out      []byte
	ending   bool
	outEnded bool
	writable sync.Cond
	queued   bool
	next     *Stream
}

func newStream(s *session, id uint32) *Stream {
	stream := &Stream{session: s, id: id, granted: InitialCreditBytes, credit: InitialCreditBytes}
	stream.ctx, stream.cancel = context.WithCancel(s.ctx)
	stream.readable.L = &s.mu
	stream.writable.L = &s.mu
	return stream
}

// Accept says that the stream is established.
func (t *Stream) Accept() error {
	t.session.mu.Lock()
	defer t.session.mu.Unlock()
	if t.failure != nil {
		return t.failure
	}
	return t.session.send(frameAccept, t.id, nil)
}

// Write sends bytes and returns once the last of them is on its way, so the buffer can be used again.
func (t *Stream) Write(bytes []byte) (int, error) {
	t.session.mu.Lock()
	defer t.session.mu.Unlock()
	if t.ending {
		return 0, io.ErrClosedPipe
	}
	if t.failure != nil {
		return 0, t.failure
	}
	t.out = bytes
	t.schedule()
	for len(t.out) > 0 && t.failure == nil {
		t.writable.Wait()
	}
	sent := len(bytes) - len(t.out)
	t.out = nil
	if t.failure != nil {
		return sent, t.failure
	}
	return sent, nil
}

// End says that no more is sent.
func (t *Stream) End() {
	t.session.mu.Lock()
	defer t.session.mu.Unlock()
	if t.ending || t.failure != nil {
		return
	}
	t.ending = true
	t.schedule()
}

// Receive waits for bytes of the host and returns all there are; io.EOF when it ended. spare is a buffer to be filled
// next, usually the one of the call before. What was dealt with is to be reported by Consumed.
func (t *Stream) Receive(spare []byte) ([]byte, error) {
	t.session.mu.Lock()
	defer t.session.mu.Unlock()
	if cap(spare) >= InitialCreditBytes {
		t.session.buffers.Put(&spare)
		spare = nil
	}
	for len(t.in) == 0 {
		if t.failure != nil {
			return nil, t.failure
		}
		if t.inEnded {
			return nil, io.EOF
		}
		t.isWaiting = true
		t.readable.Wait()
		t.isWaiting = false
	}
	bytes := t.in
	t.in = spare[:0]
	return bytes, nil
}

// TakeBy has bytes of the host given to take as they come while a receiver waits for them, without its waking up. take says
// how many it took and does not wait; the rest is received as ever.
func (t *Stream) TakeBy(take func([]byte) int) {
	t.session.mu.Lock()
	defer t.session.mu.Unlock()
	t.take = take
}

// Consumed lets the host send that much more.
func (t *Stream) Consumed(n int) {
	t.session.mu.Lock()
	defer t.session.mu.Unlock()
	t.consume(n)
}

// Reset ends the stream both ways.
func (t *Stream) Reset(reason *Error) {
	t.session.mu.Lock()
	defer t.session.mu.Unlock()
	t.reset(reason)
}

// WaitEnded waits until END was taken by the writer, or the stream is gone.
func (t *Stream) WaitEnded() {
	t.session.mu.Lock()
	defer t.session.mu.Unlock()
	for t.failure == nil && !t.outEnded {
		t.writable.Wait()
	}
}

// release is called when the handler returned; a stream it did not end is reset. What is queued is still sent.
func (t *Stream) release() {
	t.session.mu.Lock()
	defer t.session.mu.Unlock()
	defer t.cancel()
	t.served = true
	t.in = nil
	if !t.ending {
		t.reset(Errorf(CodeClosed, "ended by the agent"))
	}
	t.forgetIfDone()
}

// The rest is called with mu held.

func (t *Stream) consume(n int) {
	t.consumed += n
	if t.consumed < grantBytes || t.failure != nil || t.inEnded {
		return
	}
	if t.session.send(frameCredit, t.id, binary.BigEndian.AppendUint32(nil, uint32(t.consumed))) == nil {
		t.granted += t.consumed
		t.consumed = 0
	}
}

// hold keeps bytes for the receiver. Those of bulk go into buffers that are used again: the heap is small, and garbage of that size
// would have it collected for every few megabytes.
func (t *Stream) hold(part []byte) {
	if need := len(t.in) + len(part); need > cap(t.in) && need > keepBytes {
		buffer, _ := t.session.buffers.Get().(*[]byte)
		if buffer == nil {
			fresh := make([]byte, 0, InitialCreditBytes)
			buffer = &fresh
		}
		t.in = append((*buffer)[:0], t.in...)
	}
	t.in = append(t.in, part...)
	t.readable.Broadcast()
}

func (t *Stream) reset(reason *Error) {
	if t.failure != nil || t.session.streams[t.id] != t {
		return
	}
	delete(t.session.streams, t.id)
	_ = t.session.send(frameReset, t.id, resetPayload(reason))
	t.dropped(reason)
}

// dropped wakes everybody who waits on the stream; its place in the ready ring is found empty.
func (t *Stream) dropped(reason *Error) {
	if t.failure != nil {
		return
	}
	t.failure = reason
	t.in = nil
	t.cancel()
	t.readable.Broadcast()
	t.writable.Broadcast()
}

func (t *Stream) schedule() {
	sendable := len(t.out) > 0 && t.credit > 0 || len(t.out) == 0 && t.ending && !t.outEnded
	if sendable && !t.queued && t.failure == nil {
		t.session.push(t)
	}
}

// drain appends one frame of data, and END behind the last one.
func (t *Stream) drain(buffer []byte) []byte {
	if t.failure != nil {
		return buffer
	}
	room := cap(buffer) - len(buffer) - headerBytes
	if n := int(min(int64(min(len(t.out), room)), t.credit)); n > 0 {
		buffer = appendFrame(buffer, frameData, t.id, t.out[:n])
		t.out = t.out[n:]
		t.credit -= int64(n)
		if len(t.out) == 0 {
			t.writable.Broadcast()
		}
	}
	if len(t.out) == 0 && t.ending && !t.outEnded && cap(buffer)-len(buffer) >= headerBytes {
		buffer = appendHeader(buffer, frameEnd, t.id, 0)
		t.outEnded = true
		t.writable.Broadcast()
		t.forgetIfDone()
	}
	t.schedule()
	return buffer
}

// forgetIfDone takes a stream off the session's list once its handler returned and its END is on its way.
func (t *Stream) forgetIfDone() {
	if t.served && t.outEnded {
		delete(t.session.streams, t.id)
	}
}
