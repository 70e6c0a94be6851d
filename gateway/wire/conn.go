package wire

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"syscall"

	"gvisor.dev/gvisor/pkg/buffer"

	"rekindle/gateway/quick"
)

const (
	// sendBufferBytes asks the kernel for room for several of the longest frames.
	sendBufferBytes = 4 << 20
	// framesWhileStuck is how many frames are still taken while the guest doesn't read ours: acknowledgements in flight, yes,
	// a flood whose answers pile up, no.
	framesWhileStuck = 256
)

// Conn is the link of one guest. Send is safe for concurrent use; Receive is for one goroutine.
type Conn struct {
	socket *net.UnixConn
	raw    syscall.RawConn
	split  splitter
	out    outbox
	closed atomic.Bool
}

// NewConn takes the connection over.
func NewConn(socket *net.UnixConn) (*Conn, error) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("cannot use the guest's socket: %w", err)
	}
	// Less is slower, no more.
	_ = socket.SetWriteBuffer(sendBufferBytes)
	conn := &Conn{socket: socket, raw: raw}
	conn.out.init(conn)
	return conn, nil
}

// Close ends Receive and every Send. It may be called more than once.
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	err := c.socket.Close()
	c.out.close()
	return err
}

// Receive hands out frames until the link ends (io.EOF) or breaks. Each View belongs to take. While the guest reads nothing,
// its own frames wait too.
func (c *Conn) Receive(take func(frame *buffer.View)) error {
	defer c.split.release()
	var n int
	var failed error
	whileStuck := 0
	counted := func(frame *buffer.View) {
		whileStuck++
		take(frame)
	}
	read := func(fd uintptr) bool {
		n, failed = quick.Readv(int(fd), c.split.room())
		return !errors.Is(failed, quick.ErrAgain)
	}
	for {
		if err := c.raw.Read(read); err != nil {
			return ended(err)
		}
		if failed != nil {
			return fmt.Errorf("reading from the guest: %w", failed)
		}
		if n <= 0 {
			return io.EOF
		}
		if !c.out.stuck.Load() {
			whileStuck = 0
		}
		if err := c.split.took(n, counted); err != nil {
			return err
		}
		if whileStuck > framesWhileStuck {
			c.out.waitUnstuck()
		}
	}
}

func ended(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return io.EOF
	}
	return err
}
