package guest

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"rekindle/gateway/quick"
)

// errGuestGone is any end of the guest's side but an orderly one.
var errGuestGone = errors.New("the guest's side of the connection is broken")

// pump moves bytes between the guest's endpoint and a connection of the host without a copy in between: segments of the stack
// are written to the socket as they are, and read from it into new ones. A direction that has nothing to move holds no buffer.
func (f *tcpFlow) pump(endpoint tcpip.Endpoint, queue *waiter.Queue, host *net.TCPConn) {
	raw, err := host.SyscallConn()
	if err != nil {
		endpoint.Abort()
		return
	}
	broken := func() {
		abort(host)
		endpoint.Abort()
	}
	inEnded := make(chan struct{})
	f.session.start("host to guest", func() {
		defer close(inEnded)
		if f.pumpIn(endpoint, queue, raw) != nil {
			broken()
		}
	})
	if f.pumpOut(endpoint, queue, raw) != nil {
		broken()
	} else if !done(inEnded) {
		_ = host.CloseWrite()
		if hungUp(endpoint, queue, inEnded) {
			broken()
		}
	}
	<-inEnded
}

func done(ended <-chan struct{}) bool {
	select {
	case <-ended:
		return true
	default:
		return false
	}
}

// hungUp waits for the end of a guest that has only to listen any more: true when it went away without listening to the end.
func hungUp(endpoint tcpip.Endpoint, queue *waiter.Queue, ended <-chan struct{}) bool {
	entry, gone := waiter.NewChannelEntry(waiter.EventHUp | waiter.EventErr)
	queue.EventRegister(&entry)
	defer queue.EventUnregister(&entry)
	for {
		switch tcp.EndpointState(endpoint.State()) {
		case tcp.StateClose, tcp.StateError:
			return true
		}
		select {
		case <-ended:
			return false
		case <-gone:
		}
	}
}

// pumpOut returns nil when the guest has sent all it wanted to.
func (f *tcpFlow) pumpOut(endpoint tcpip.Endpoint, queue *waiter.Queue, raw syscall.RawConn) error {
	entry, arrived := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp | waiter.EventErr)
	queue.EventRegister(&entry)
	defer queue.EventUnregister(&entry)
	var to socketWriter
	var result tcpip.ReadResult
	var problem tcpip.Error
	write := func(fd uintptr) bool {
		to = socketWriter{fd: int(fd)}
		result, problem = endpoint.Read(&to, tcpip.ReadOptions{})
		return result.Count > 0 || !errors.Is(to.err, quick.ErrAgain)
	}
	for {
		if err := raw.Write(write); err != nil {
			return err
		}
		if result.Count > 0 {
			f.countOut(result.Count)
			if err := f.guest.account.WaitOut(f.ctx, result.Count); err != nil {
				return err
			}
			continue
		}
		if to.err != nil {
			return to.err
		}
		switch problem.(type) {
		case *tcpip.ErrClosedForReceive:
			return nil
		case *tcpip.ErrWouldBlock:
			<-arrived
		default:
			return errGuestGone
		}
	}
}

// socketWriter takes what the stack gives it as far as the socket has room; the stack keeps the rest.
type socketWriter struct {
	fd  int
	err error
}

func (w *socketWriter) Write(bytes []byte) (int, error) {
	done := 0
	for done < len(bytes) {
		n, err := quick.Write(w.fd, bytes[done:])
		if err != nil {
			w.err = err
			return done, err
		}
		done += n
	}
	return done, nil
}

// pumpIn returns nil when the host's side has sent all it wanted to.
func (f *tcpFlow) pumpIn(endpoint tcpip.Endpoint, queue *waiter.Queue, raw syscall.RawConn) error {
	entry, drained := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
	queue.EventRegister(&entry)
	defer queue.EventUnregister(&entry)
	var from socketReader
	var moved int64
	var problem tcpip.Error
	read := func(fd uintptr) bool {
		moved, problem = 0, nil
		from = look(int(fd), f.pieceBytes)
		if from.waiting == 0 {
			return !errors.Is(from.err, unix.EAGAIN)
		}
		moved, problem = endpoint.Write(&from, tcpip.WriteOptions{})
		return true
	}
	for {
		if err := raw.Read(read); err != nil {
			return err
		}
		switch problem.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			<-drained
			continue
		default:
			return errGuestGone
		}
		if errors.Is(from.err, io.EOF) {
			_ = endpoint.Shutdown(tcpip.ShutdownWrite)
			return nil
		}
		if from.err != nil {
			return from.err
		}
		f.countIn(int(moved))
		if err := f.guest.account.WaitIn(f.ctx, int(moved)); err != nil {
			return err
		}
	}
}

// socketReader gives the stack exactly what waits in the socket, as the stack wants to know it beforehand.
type socketReader struct {
	fd      int
	waiting int
	err     error
}

// look says what waits, at most limit; with nothing err is why: EAGAIN, io.EOF or what broke.
func look(fd, limit int) socketReader {
	waiting, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
	if err == nil && waiting > 0 {
		return socketReader{fd: fd, waiting: min(waiting, limit)}
	}
	var one [1]byte
	n, _, err := unix.Recvfrom(fd, one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	for errors.Is(err, unix.EINTR) {
		n, _, err = unix.Recvfrom(fd, one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	}
	switch {
	case err != nil:
		return socketReader{err: err}
	case n == 0:
		return socketReader{err: io.EOF}
	}
	return socketReader{fd: fd, waiting: n}
}

func (r *socketReader) Len() int { return r.waiting }

func (r *socketReader) Read(into []byte) (int, error) {
	if len(into) == 0 {
		return 0, nil
	}
	n, err := quick.Read(r.fd, into)
	if err == nil && n == 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		r.err = err
		return 0, err
	}
	r.waiting -= n
	return n, nil
}

// copyBoth is pump for a guest's side that is looked into, and for connections that are no sockets. It ends both sides when
// one breaks and returns why the guest's did.
func (f *tcpFlow) copyBoth(guest net.Conn, closeWrite func() error) error {
	var group sync.WaitGroup
	group.Go(func() {
		f.session.guarded("host to guest", func() {
			if f.copyPieces(guest, f.host, f.in) != nil {
				abort(f.host)
				_ = guest.Close()
				return
			}
			_ = closeWrite()
		})
	})
	err := f.copyPieces(f.host, guest, f.out)
	if half, ok := f.host.(interface{ CloseWrite() error }); ok && err == nil {
		_ = half.CloseWrite()
	} else {
		abort(f.host)
	}
	group.Wait()
	return err
}

func (f *tcpFlow) out(n int) error {
	f.countOut(n)
	return f.guest.account.WaitOut(f.ctx, n)
}

func (f *tcpFlow) in(n int) error {
	f.countIn(n)
	return f.guest.account.WaitIn(f.ctx, n)
}

func (f *tcpFlow) copyPieces(to io.Writer, from io.Reader, moved func(n int) error) error {
	piece := pieces.Get().(*[]byte)
	defer pieces.Put(piece)
	for {
		n, err := from.Read(*piece)
		if n > 0 {
			if _, err := to.Write((*piece)[:n]); err != nil {
				return err
			}
			if err := moved(n); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
