package guest

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"rekindle/gateway/peek"
	"rekindle/gateway/policy"
)

const (
	// dialTimeout is how long a guest waits for a host that says nothing; then it is told that it is unreachable.
	dialTimeout = 20 * time.Second
	// lingerFor is how long a guest may say nothing at all about what is left for it of a connection that ended.
	lingerFor  = 10 * time.Second
	lingerPoll = 100 * time.Millisecond
	// closedFor is how long the stack waits for the end of a guest whose end was seen before.
	closedFor = time.Second
)

// tcpFlow is one connection attempt of the guest and what becomes of it. It lives in session.tcp from its SYN until the guest
// can't want anything of it any more.
type tcpFlow struct {
	// flow is nil for a connection to the resolver, which has no verdict.
	*flow
	session *session
	key     tcpKey
	quote   quote
	// pieceBytes is what goes to the guest at once: whole segments.
	pieceBytes int
	ctx        context.Context
	cancel     context.CancelFunc
	// host is the connection that was dialed, nil for the resolver.
	host net.Conn
	// buffers is what the guest's budget granted.
	buffers int

	// offered: the stack has its SYN, so the connection arrives.
	offered atomic.Bool
	arrived chan *tcp.ForwarderRequest
}

// takeTCP handles a segment; kept says that the frame belongs to the stack now.
func (s *session) takeTCP(p packet, frame *buffer.View) (kept bool) {
	key := tcpKey{port: p.sourcePort(), to: netip.AddrPortFrom(p.to, p.destinationPort())}
	s.mu.Lock()
	_, known := s.tcp[key]
	stack := s.stack
	s.mu.Unlock()
	begins := p.payload[13]&(tcpSYN|tcpACK|tcpRST|tcpFIN) == tcpSYN
	switch {
	case begins && !known:
		return s.beginTCP(key, p, frame)
	case stack != nil:
		// The stack knows its connections, and resets what belongs to none.
		return s.inject(stack, frame, len(p.ip))
	case begins:
		return false // sent again while its connection is being made
	}
	s.wasted()
	if answer := reset(p); answer != nil {
		s.send(answer)
	}
	return false
}

func (s *session) inject(stack *netstack, frame *buffer.View, packetBytes int) (kept bool) {
	if !stack.inject(frame, packetBytes) {
		s.wasted()
	}
	return true
}

// beginTCP judges a connection attempt. It keeps the SYN: the stack gets to see it when the host's side stands.
func (s *session) beginTCP(key tcpKey, p packet, frame *buffer.View) (kept bool) {
	f := &tcpFlow{session: s, key: key, quote: p.quote(), pieceBytes: pieceBytes(p), arrived: make(chan *tcp.ForwarderRequest, 1)}
	if key.to.Port() == dnsPort && isResolver(key.to.Addr()) {
		if s.guest.account.Begin() != "" {
			s.resetAttempt(f.quote)
			return false
		}
	} else if f.flow = s.guest.begin(policy.TCP, key.to); f.flow == nil {
		s.resetAttempt(f.quote)
		return false
	}
	f.ctx, f.cancel = context.WithCancel(s.ctx)
	s.addTCP(f)
	s.start("connection", func() { f.open(frame, len(p.ip)) })
	return true
}

func (s *session) resetAttempt(about quote) {
	s.wasted()
	s.send(resetSYN(about))
}

// pieceBytes is four of the segments this guest takes.
func pieceBytes(syn packet) int {
	options := header.ParseSynOptions(header.TCP(syn.payload).Options(), false)
	segment := min(int(options.MSS), MTU-ipBytes-tcpBytes)
	if options.TS {
		segment -= header.TCPOptionTSLength + 2
	}
	return 4 * max(segment, 512)
}

// open dials, and lets the guest know how that went: by the rest of the handshake, a reset or an ICMP error.
func (f *tcpFlow) open(syn *buffer.View, packetBytes int) {
	if f.flow != nil {
		host, err := f.dial()
		if err != nil {
			syn.Release()
			f.failed(err)
			return
		}
		f.host = host
	}
	stack, err := f.session.ensureStack(f)
	if err != nil {
		syn.Release()
		f.failed(err)
		return
	}
	if !stack.inject(syn, packetBytes) || !f.offered.Load() {
		// The guest is too deep in debt, or the stack still holds its last connection from this port. It will ask again.
		f.finish(reasonUnreachable, false)
		return
	}
	select {
	case request := <-f.arrived:
		f.accept(request)
	case <-f.ctx.Done():
		// Cut: the stack goes with all it holds.
		f.finish(reasonCut, false)
	}
}

func (f *tcpFlow) dial() (net.Conn, error) {
	ctx, cancel := context.WithTimeout(f.ctx, dialTimeout)
	defer cancel()
	host, err := f.session.guest.outside.Dial(ctx, "tcp4", f.key.to.String())
	if err != nil {
		return nil, err
	}
	if f.reachedHost(host) {
		_ = host.Close()
		return nil, errHostAddress
	}
	return host, nil
}

var errHostAddress = errors.New("an address the host has only just got")

// reachedHost: did the connection end on this very machine, though the policy doesn't know the address as one of its own?
// Then the host got the address since it was last looked at.
func (f *tcpFlow) reachedHost(host net.Conn) bool {
	local, remote := addrOf(host.LocalAddr()), addrOf(host.RemoteAddr())
	if local != remote || !local.IsValid() {
		return false
	}
	outside := f.session.guest.outside
	if outside.Host == nil || outside.Host.Owns(remote) || outside.Host.Refresh() != nil {
		return false
	}
	return !f.stillAllowed(f.session.guest.policy.Load())
}

func addrOf(addr net.Addr) netip.Addr {
	if tcp, ok := addr.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// failed tells the guest why there is no connection.
func (f *tcpFlow) failed(err error) {
	s, timeout := f.session, net.Error(nil)
	switch {
	case errors.Is(err, errHostAddress):
		s.resetAttempt(f.quote)
		f.finish(policy.ReasonHostAddress, true)
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ECONNRESET):
		s.send(resetSYN(f.quote))
		f.finish(reasonRefusedThere, false)
	case errors.Is(err, unix.ENETUNREACH):
		s.send(unreachable(f.quote, codeNetUnreachable))
		f.finish(reasonUnreachable, false)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		s.send(unreachable(f.quote, codeHostUnreachable))
		f.finish(reasonTimeout, false)
	case errors.Is(err, unix.EHOSTUNREACH):
		s.send(unreachable(f.quote, codeHostUnreachable))
		f.finish(reasonUnreachable, false)
	default:
		// Nothing a guest could do about it: descriptors used up, a firewall of the host, cut off meanwhile.
		s.send(resetSYN(f.quote))
		f.finish(reasonUnreachable, false)
	}
}

// accept goes on when the guest's SYN reached its stack.
func (f *tcpFlow) accept(request *tcp.ForwarderRequest) {
	guest := f.session.guest
	f.buffers = guest.buffers.take(bufferBytes)
	defer guest.buffers.give(f.buffers)
	var queue waiter.Queue
	endpoint, err := accepted(request, &queue, f.buffers)
	if err != nil {
		f.finish(reasonTimeout, false)
		return
	}
	// Whoever ends the flow from outside ends both connections with a reset.
	stop := context.AfterFunc(f.ctx, func() {
		f.session.guarded("cut", func() {
			abort(f.host)
			endpoint.Abort()
		})
	})
	reason, refused := f.carry(endpoint, &queue)
	if f.host != nil {
		_ = f.host.Close()
	}
	endpoint.Close()
	linger(f.ctx, endpoint, &queue)
	stop()
	f.finish(reason, refused)
}

// carry moves bytes until both sides are done or one is broken.
func (f *tcpFlow) carry(endpoint tcpip.Endpoint, queue *waiter.Queue) (reason string, refused bool) {
	if f.flow == nil {
		f.session.resolve(gonet.NewTCPConn(queue, endpoint))
		return "", false
	}
	if f.verdict.Inspect {
		return f.carryInspected(endpoint, gonet.NewTCPConn(queue, endpoint))
	}
	if host, ok := f.host.(*net.TCPConn); ok {
		f.pump(endpoint, queue, host)
		return "", false
	}
	f.copyBoth(gonet.NewTCPConn(queue, endpoint), gonet.NewTCPConn(queue, endpoint).CloseWrite)
	return "", false
}

func (f *tcpFlow) carryInspected(endpoint tcpip.Endpoint, conn *gonet.TCPConn) (reason string, refused bool) {
	names := f.verdict.Names
	// By the policy of now: a connection may outlive the one it began under.
	allow := func(name string) (string, bool) { return f.session.guest.policy.Load().Shown(name, f.key.to, names) }
	stream, err := peek.Inspect(f.ctx, conn, allow, peek.Options{})
	if err == nil {
		f.shown(stream.Name, stream.Rule)
		err = f.copyBoth(stream, stream.CloseWrite)
	}
	var refusal *peek.Refusal
	if !errors.As(err, &refusal) {
		return "", false
	}
	abort(f.host)
	endpoint.Abort()
	if refusal.Name != "" {
		f.flow.mu.Lock()
		f.name = refusal.Name
		f.flow.mu.Unlock()
	}
	return refusal.Reason, true
}

// linger waits until the guest has all it is owed, took too long for it, or is cut off: memory it makes the gateway hold
// keeps counting as its connection.
func linger(ctx context.Context, endpoint tcpip.Endpoint, queue *waiter.Queue) {
	entry, ended := waiter.NewChannelEntry(waiter.EventHUp | waiter.EventErr)
	queue.EventRegister(&entry)
	defer queue.EventUnregister(&entry)
	heard, lastHeard := uint64(0), time.Now()
	for {
		switch tcp.EndpointState(endpoint.State()) {
		// The guest's end is known here: FIN-WAIT-2 is what gVisor makes of a connection whose last segment it sent twice.
		case tcp.StateTimeWait, tcp.StateClose, tcp.StateError, tcp.StateFinWait2:
			return
		}
		if stats, ok := endpoint.Stats().(*tcp.Stats); ok && stats.SegmentsReceived.Value() != heard {
			heard, lastHeard = stats.SegmentsReceived.Value(), time.Now()
		}
		if time.Since(lastHeard) > lingerFor {
			endpoint.Abort()
			return
		}
		select {
		case <-ended:
		case <-time.After(lingerPoll):
		case <-ctx.Done():
			endpoint.Abort()
			return
		}
	}
}

// abort closes a connection of the host with a reset.
func abort(host net.Conn) {
	if host == nil {
		return
	}
	if tcp, ok := host.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = host.Close()
}

// cut ends the flow from outside, with resets both ways. It is on record when cut returns; the flow's own goroutine does the
// rest.
func (f *tcpFlow) cut(reason string) {
	if f.flow != nil {
		f.end(reason, false)
	}
	f.cancel()
}

func (f *tcpFlow) finish(reason string, refused bool) {
	f.cancel()
	abort(f.host)
	f.session.removeTCP(f)
	if f.flow == nil {
		f.session.guest.account.End()
		return
	}
	f.end(reason, refused)
}
