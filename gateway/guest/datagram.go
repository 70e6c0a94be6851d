package guest

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rekindle/gateway/policy"
)

const (
	// A flow nobody answered is given up sooner.
	datagramUnanswered = 30 * time.Second
	datagramIdle       = 2 * time.Minute
	// maxDatagrams at once of one guest; the one idle for longest makes room.
	maxDatagrams = 512
	// maxDatagramBytes fits a packet without fragments.
	maxDatagramBytes = MTU - ipBytes - udpBytes
)

// datagramKey names a UDP flow as the guest sees it, or the echoes of one of its processes (their id is the port).
type datagramKey struct {
	protocol policy.Protocol
	port     uint16
	to       netip.AddrPort
}

// datagramFlow is a socket of the host that stands for a flow of the guest.
type datagramFlow struct {
	*flow
	session *session
	key     datagramKey
	quote   quote
	conn    net.Conn
	// lastUsed is in nanoseconds since the flow began.
	lastUsed atomic.Int64
	answered atomic.Bool
	once     sync.Once
}

func (s *session) takeUDP(p packet) {
	port := p.destinationPort()
	if port == dnsPort && isResolver(p.to) {
		s.takeQuery(p)
		return
	}
	key := datagramKey{protocol: policy.UDP, port: p.sourcePort(), to: netip.AddrPortFrom(p.to, port)}
	s.forward(p, key, p.datagram())
}

func (s *session) takeICMP(p packet) {
	switch kind := p.payload[0]; {
	case kind == icmpEchoReply, kind == icmpUnreachable, kind == icmpTimeExceeded:
		// About what we sent: the sockets of the host have their own.
		return
	case kind != icmpEcho || p.payload[1] != 0:
		s.drop(dropProtocol)
		return
	}
	id := binary.BigEndian.Uint16(p.payload[4:])
	s.forward(p, datagramKey{protocol: policy.ICMP, port: id, to: netip.AddrPortFrom(p.to, 0)}, p.payload)
}

// forward sends a datagram through its flow, which it begins if need be.
func (s *session) forward(p packet, key datagramKey, payload []byte) {
	s.mu.Lock()
	f := s.datagrams[key]
	s.mu.Unlock()
	if f == nil {
		var code byte
		if f, code = s.beginDatagrams(p, key); f == nil {
			s.refuse(p, code)
			return
		}
	}
	if !s.guest.account.AllowOut(len(payload)) {
		return // as a full queue of a router would
	}
	f.lastUsed.Store(int64(time.Since(f.began)))
	_, err := f.conn.Write(payload)
	switch {
	case err == nil:
		f.countOut(len(payload))
	case errors.Is(err, unix.ECONNREFUSED):
		// About an earlier datagram. The reading side tells the guest.
	case errors.Is(err, unix.EMSGSIZE):
		s.refuse(p, codeAdminProhibited)
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		s.refuse(p, codeHostUnreachable)
	}
}

func (s *session) beginDatagrams(p packet, key datagramKey) (*datagramFlow, byte) {
	s.makeRoom()
	flow := s.guest.begin(key.protocol, key.to)
	if flow == nil {
		return nil, codeAdminProhibited
	}
	conn, err := s.openDatagrams(key)
	if err != nil {
		if errors.Is(err, errNoEcho) {
			flow.end(reasonUnsupported, true)
			return nil, codeAdminProhibited
		}
		flow.end(reasonUnreachable, false)
		return nil, codeHostUnreachable
	}
	f := &datagramFlow{flow: flow, session: s, key: key, quote: p.quote(), conn: conn}
	if !s.addDatagrams(f) {
		f.finish("")
		return nil, codeHostUnreachable
	}
	s.start("datagrams", f.receive)
	return f, 0
}

// addDatagrams fails for a session that ended meanwhile, which would not end the flow any more.
func (s *session) addDatagrams(f *datagramFlow) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return false
	}
	if s.datagrams == nil {
		s.datagrams = make(map[datagramKey]*datagramFlow)
	}
	s.datagrams[f.key] = f
	return true
}

var errNoEcho = errors.New("this host lets the gateway send no echo requests")

func (s *session) openDatagrams(key datagramKey) (net.Conn, error) {
	if key.protocol == policy.UDP {
		return s.guest.outside.Dial(s.ctx, "udp4", key.to.String())
	}
	if s.guest.outside.DialEcho == nil {
		return nil, errNoEcho
	}
	conn, err := s.guest.outside.DialEcho(s.ctx, key.to.Addr().String())
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		return nil, errNoEcho
	}
	return conn, err
}

// makeRoom ends the flow that was idle for longest when there are too many.
func (s *session) makeRoom() {
	s.mu.Lock()
	var oldest *datagramFlow
	if len(s.datagrams) >= maxDatagrams {
		var oldestUse time.Time
		for _, f := range s.datagrams {
			if used := f.used(); oldest == nil || used.Before(oldestUse) {
				oldest, oldestUse = f, used
			}
		}
	}
	s.mu.Unlock()
	if oldest != nil {
		oldest.finish(reasonIdle)
	}
}

func (f *datagramFlow) used() time.Time { return f.began.Add(time.Duration(f.lastUsed.Load())) }

// receive gives the guest what comes back, until the flow was idle for long enough.
func (f *datagramFlow) receive() {
	defer f.finish("")
	for {
		idle := datagramUnanswered
		if f.answered.Load() {
			idle = datagramIdle
		}
		until := f.used().Add(idle)
		if time.Now().After(until) {
			return
		}
		_ = f.conn.SetReadDeadline(until)
		err := f.receiveOne()
		switch {
		case err == nil, errors.Is(err, os.ErrDeadlineExceeded):
		case errors.Is(err, unix.ECONNREFUSED):
			if frame := unreachable(f.quote, codePortUnreachable); frame != nil {
				f.session.send(frame)
			}
		case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH):
			if frame := unreachable(f.quote, codeHostUnreachable); frame != nil {
				f.session.send(frame)
			}
		default:
			return
		}
	}
}

// receiveOne borrows a buffer only when there is something to read: a guest may have hundreds of idle flows.
func (f *datagramFlow) receiveOne() error {
	raw, err := f.conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	var frame []byte
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		piece := pieces.Get().(*[]byte)
		defer pieces.Put(piece)
		n, err := unix.Read(int(fd), *piece)
		for errors.Is(err, unix.EINTR) {
			n, err = unix.Read(int(fd), *piece)
		}
		if errors.Is(err, unix.EAGAIN) {
			return false
		}
		failed = err
		if failed == nil {
			frame = f.reply((*piece)[:n])
		}
		return true
	})
	if err = errors.Join(err, failed); err != nil || frame == nil {
		return err
	}
	if err := f.guest.account.WaitIn(f.session.ctx, len(frame)); err != nil {
		return err
	}
	f.answered.Store(true)
	f.lastUsed.Store(int64(time.Since(f.began)))
	return f.session.conn.Send(frame)
}

func (f *datagramFlow) reply(payload []byte) []byte {
	if f.key.protocol == policy.ICMP {
		if len(payload) < echoBytes || payload[0] != icmpEchoReply {
			return nil
		}
		f.countIn(len(payload))
		return echoReply(f.key.to.Addr(), f.key.port, payload)
	}
	if len(payload) > maxDatagramBytes {
		return nil
	}
	f.countIn(len(payload))
	return udpReply(f.key.to, f.key.port, payload)
}

func (f *datagramFlow) cut(reason string) { f.finish(reason) }

func (f *datagramFlow) finish(reason string) {
	f.once.Do(func() {
		_ = f.conn.Close()
		f.session.mu.Lock()
		if f.session.datagrams[f.key] == f {
			delete(f.session.datagrams, f.key)
		}
		f.session.mu.Unlock()
		f.end(reason, false)
	})
}
