// Package tunnel joins a stream of the link with a connection to an app on the guest's loopback.
package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rekindle/agent/link"
)

const (
	// connectTimeout is for a listener whose app does not accept: as a connection in its queue would, one without a place waits.
	connectTimeout = 55 * time.Second
	// A full queue drops what knocks, and the kernel knocks again after a second, then seldom: while others come and go it may
	// never be its turn.
	firstKnock = 250 * time.Millisecond
	lastKnock  = time.Second
	readBytes  = link.BestWriteBytes
	// idleLinger keeps connections that nobody waits for out of the way of the request that woke the machine.
	idleLinger = time.Second
)

// Serve connects to the port and copies both ways until both sides ended, or one was reset.
func Serve(ctx context.Context, stream *link.Stream, port int) {
	if port < 1 || port > 65535 {
		stream.Reset(link.Errorf(link.CodeInvalid, "port %d", port))
		return
	}
	conn, err := dial(ctx, port)
	if err != nil {
		code := link.CodeFailed
		if errors.Is(err, syscall.ECONNREFUSED) {
			code = link.CodeRefused
		}
		stream.Reset(link.Errorf(code, "port %d: %v", port, err))
		return
	}
	t := &tunnel{stream: stream, conn: conn}
	stop := context.AfterFunc(ctx, t.hostGone)
	defer stop()
	defer conn.Close()
	if stream.Accept() != nil {
		return
	}
	stream.TakeBy(t.taker())
	fromHost := make(chan struct{})
	go func() {
		defer close(fromHost)
		t.toApp()
	}()
	t.toHost()
	<-fromHost
}

type tunnel struct {
	stream *link.Stream
	conn   *net.TCPConn
	// asked: the app was sent something and has not said anything since.
	asked atomic.Bool
	// broken is why the taker could not write; toApp learns it with the bytes that were not taken.
	broken error
}

// hostGone is called when the stream was reset or its session is over.
func (t *tunnel) hostGone() {
	if t.asked.Load() {
		t.drop()
		return
	}
	time.AfterFunc(idleLinger, t.drop)
}

// drop ends the connection because the host's side is gone. An app that owes an answer sees a reset: what it was sent may be
// incomplete. One that has answered sees an orderly end, as of a client that keeps its connection no longer; after a resume
// a reset would cost each such app an error to print before its first answer.
func (t *tunnel) drop() {
	if t.asked.Load() {
		_ = t.conn.SetLinger(0)
	}
	_ = t.conn.Close()
}

// dial tries IPv4 first: what listens on "localhost" alone may listen on either.
func dial(ctx context.Context, port int) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := knock(ctx, "tcp4", "127.0.0.1", port)
	if err != nil && ctx.Err() == nil {
		second, err6 := knock(ctx, "tcp6", "::1", port)
		if err6 != nil {
			return nil, err
		}
		return second, nil
	}
	return conn, err
}

// knock connects, anew when nobody answers.
func knock(ctx context.Context, network, host string, port int) (*net.TCPConn, error) {
	address := net.JoinHostPort(host, strconv.Itoa(port))
	for wait := firstKnock; ; wait = min(2*wait, lastKnock) {
		dialer := net.Dialer{Timeout: wait, KeepAlive: -1}
		conn, err := dialer.DialContext(ctx, network, address)
		if err == nil {
			return conn.(*net.TCPConn), nil // no-delay is the dialer's default
		}
		if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() || ctx.Err() != nil {
			return nil, err
		}
	}
}

func (t *tunnel) toApp() {
	stream, conn := t.stream, t.conn
	var spare []byte
	for {
		bytes, err := stream.Receive(spare)
		if errors.Is(err, io.EOF) {
			_ = conn.CloseWrite()
			return
		}
		if err != nil {
			return // hostGone sees to the connection
		}
		t.asked.Store(true)
		err = t.broken
		if err == nil {
			_, err = conn.Write(bytes)
		}
		if err != nil {
			// The app may have closed for reading only; what it still sends is passed on, what the host sends is refused.
			if !errors.Is(err, syscall.EPIPE) {
				stream.Reset(link.Errorf(link.CodeClosed, "the app closed the connection"))
				return
			}
			discard(stream)
			return
		}
		stream.Consumed(len(bytes))
		spare = bytes
	}
}

// taker writes what an app takes without waiting.
func (t *tunnel) taker() func([]byte) int {
	raw, err := t.conn.SyscallConn()
	if err != nil {
		return nil
	}
	var part []byte
	taken := 0
	write := func(fd uintptr) bool {
		n, err := unix.Write(int(fd), part)
		taken = max(n, 0)
		if err != nil && err != unix.EAGAIN && err != unix.EINTR {
			t.broken = err
		}
		return true
	}
	return func(bytes []byte) int {
		part, taken = bytes, 0
		t.asked.Store(true)
		if t.broken == nil {
			_ = raw.Write(write)
		}
		return taken
	}
}

func discard(stream *link.Stream) {
	for {
		bytes, err := stream.Receive(nil)
		if err != nil {
			return
		}
		stream.Consumed(len(bytes))
	}
}

func (t *tunnel) toHost() {
	stream, conn := t.stream, t.conn
	raw, err := conn.SyscallConn()
	if err != nil {
		stream.Reset(link.Errorf(link.CodeFailed, "%v", err))
		return
	}
	buffer := make([]byte, readBytes)
	for {
		n, err := readQuick(raw, buffer)
		if n > 0 {
			t.asked.Store(false)
			if _, err := stream.Write(buffer[:n]); err != nil {
				t.drop()
				return
			}
			continue
		}
		if err == nil {
			stream.End()
			return
		}
		stream.Reset(link.Errorf(link.CodeClosed, "the app reset the connection"))
		return
	}
}

// readQuick reads and asks for the next acknowledgement at once: the kernel forgets the wish with every read, and a server
// that sends in two pieces with Nagle's algorithm on would wait 40 ms for it.
func readQuick(raw syscall.RawConn, buffer []byte) (int, error) {
	n := 0
	var failure error
	err := raw.Read(func(fd uintptr) bool {
		for {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1)
			n, failure = unix.Read(int(fd), buffer)
			if failure == unix.EINTR {
				continue
			}
			return failure != unix.EAGAIN
		}
	})
	if failure != nil && failure != unix.EAGAIN {
		return 0, failure
	}
	return max(n, 0), err
}
