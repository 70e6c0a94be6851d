package wire

import (
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"rekindle/gateway/quick"
)

var (
	// ErrClosed is what Send says after the link ended.
	ErrClosed = errors.New("the guest's link is closed")
	// ErrFull is what SendPacket says when a guest hasn't read for long; the packet is lost.
	ErrFull = errors.New("too much waits for the guest")
)

const (
	// waitAbove is how many bytes may be queued before Send waits. SendPacket doesn't wait: a stack holds locks while it sends,
	// and spins on them. What it has on the way is bounded by its connections' buffers, with room for sending all of it again.
	waitAbove = 512 << 10
	dropAbove = 64 << 20
	// frameOverhead is about what a queued frame costs besides its bytes.
	frameOverhead = 512
	// batchFrames and batchBytes go out in one system call.
	batchFrames = 32
	batchBytes  = 256 << 10
)

// frame is a packet of the stack, of which it holds a reference, or bytes of ours.
type frame struct {
	packet *stack.PacketBuffer
	bytes  []byte
	size   int
}

// outbox queues frames; a goroutine that lives while there are any writes them in batches.
type outbox struct {
	conn *Conn
	mu   sync.Mutex
	// room is told when the queue shrinks, the writer gets unstuck, or the link ends.
	room    sync.Cond
	queue   []frame
	queued  int
	writing bool
	closed  bool
	stuck   atomic.Bool
	// spare is the queue's other half; headers and slices belong to the one that writes.
	spare   []frame
	headers [batchFrames][HeaderBytes]byte
	slices  [][]byte
}

func (o *outbox) init(conn *Conn) {
	o.conn = conn
	o.room.L = &o.mu
}

// SendPacket queues a packet of the stack with its link header; it takes a reference of its own for as long as it needs one.
func (c *Conn) SendPacket(packet *stack.PacketBuffer) error {
	return c.out.send(frame{packet: packet.IncRef(), size: packet.Size()}, false)
}

// Send queues a frame, and waits while the guest reads too slowly; the slice is the link's until it ends.
func (c *Conn) Send(bytes []byte) error {
	return c.out.send(frame{bytes: bytes, size: len(bytes)}, true)
}

func (o *outbox) send(f frame, wait bool) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for wait && o.queued > waitAbove && !o.closed {
		o.room.Wait()
	}
	switch {
	case o.closed:
		f.release()
		return ErrClosed
	case o.queued > dropAbove:
		f.release()
		return ErrFull
	}
	o.queue = append(o.queue, f)
	o.queued += f.cost()
	if !o.writing {
		o.writing = true
		go o.drain()
	}
	return nil
}

func (o *outbox) drain() {
	for o.writeBatch() {
	}
}

// writeBatch says whether more waits.
func (o *outbox) writeBatch() bool {
	o.mu.Lock()
	batch, cost := o.takeBatch()
	o.mu.Unlock()

	err := o.write(batch)
	for _, f := range batch {
		f.release()
	}

	o.mu.Lock()
	defer o.mu.Unlock()
	clear(batch)
	o.spare = batch[:0]
	o.queued -= cost
	if err != nil && !o.closed {
		o.closed = true
		// Receive notices the end of the socket and tells the guest's owner.
		_ = o.conn.socket.Close()
	}
	if o.closed {
		o.dropLocked()
	}
	o.room.Broadcast()
	o.writing = len(o.queue) > 0
	return o.writing
}

func (o *outbox) takeBatch() ([]frame, int) {
	n, size, cost := 0, 0, 0
	for n < len(o.queue) && n < batchFrames && (n == 0 || size+o.queue[n].size <= batchBytes) {
		size += o.queue[n].size
		cost += o.queue[n].cost()
		n++
	}
	batch := append(o.spare, o.queue[:n]...)
	o.spare = nil
	left := copy(o.queue, o.queue[n:])
	clear(o.queue[left:])
	o.queue = o.queue[:left]
	return batch, cost
}

func (o *outbox) write(batch []frame) error {
	o.slices = o.slices[:0]
	for i, f := range batch {
		binary.BigEndian.PutUint32(o.headers[i][:], uint32(f.size))
		o.slices = append(o.slices, o.headers[i][:])
		if f.packet != nil {
			o.slices = append(o.slices, f.packet.AsSlices()...)
		} else {
			o.slices = append(o.slices, f.bytes)
		}
	}
	left := o.slices
	var failed error
	err := o.conn.raw.Write(func(fd uintptr) bool {
		for len(left) > 0 {
			var n int
			n, failed = quick.Writev(int(fd), left)
			if errors.Is(failed, quick.ErrAgain) {
				o.stuck.Store(true)
				return false
			}
			if failed != nil {
				return true
			}
			left = advance(left, n)
		}
		return true
	})
	clear(o.slices)
	if o.stuck.Swap(false) {
		o.room.Broadcast()
	}
	return errors.Join(err, failed)
}

// advance drops the first n bytes.
func advance(slices [][]byte, n int) [][]byte {
	for len(slices) > 0 && n >= len(slices[0]) {
		n -= len(slices[0])
		slices = slices[1:]
	}
	if n > 0 {
		slices[0] = slices[0][n:]
	}
	return slices
}

// waitUnstuck returns when a write went through again or the link ended.
func (o *outbox) waitUnstuck() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.stuck.Load() && !o.closed {
		o.room.Wait()
	}
}

func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	if !o.writing {
		o.dropLocked()
	}
	o.room.Broadcast()
}

func (o *outbox) dropLocked() {
	for _, f := range o.queue {
		o.queued -= f.cost()
		f.release()
	}
	clear(o.queue)
	o.queue = o.queue[:0]
}

func (f frame) cost() int { return f.size + frameOverhead }

func (f frame) release() {
	if f.packet != nil {
		f.packet.DecRef()
	}
}
