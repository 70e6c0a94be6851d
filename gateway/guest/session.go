package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"rekindle/gateway/policy"
	"rekindle/gateway/wire"
)

const (
	// A guest needs one ARP answer a minute.
	arpPerSecond, arpBurst = 10, 50
	// uselessPerSecond are frames that were dropped or refused before the guest's link is read more slowly: a flood costs its
	// sender, not the processor of all.
	uselessPerSecond, uselessBurst = 2_000, 10_000
	// stackIdle is how long the stack of a guest without connections is kept.
	stackIdle = time.Minute
)

// session is a guest's link and everything that lives no longer than it.
type session struct {
	guest  *Guest
	conn   *wire.Conn
	ctx    context.Context
	cancel context.CancelFunc

	arp, useless *rate.Limiter
	// penalty is how long the next frame has to wait, in nanoseconds.
	penalty atomic.Int64
	queries atomic.Int32

	mu        sync.Mutex
	tcp       map[tcpKey]*tcpFlow
	datagrams map[datagramKey]*datagramFlow
	stack     *netstack
	// idle drops the stack; stopped while there are connections.
	idle *time.Timer
}

func newSession(ctx context.Context, g *Guest, socket *net.UnixConn) (*session, error) {
	conn, err := wire.NewConn(socket)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	return &session{
		guest:   g,
		conn:    conn,
		ctx:     ctx,
		cancel:  cancel,
		arp:     rate.NewLimiter(arpPerSecond, arpBurst),
		useless: rate.NewLimiter(uselessPerSecond, uselessBurst),
	}, nil
}

// run serves the link until it ends.
func (s *session) run() error {
	defer s.close()
	stop := context.AfterFunc(s.ctx, func() { _ = s.conn.Close() })
	defer stop()
	var err error
	s.guarded("link", func() {
		err = s.conn.Receive(func(frame *buffer.View) {
			if kept := s.take(frame); !kept {
				frame.Release()
			}
			s.slowDown()
		})
	})
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("the guest's link broke: %w", err)
	}
	return nil
}

// close ends the link and all flows. It waits for none of them.
func (s *session) close() {
	s.cancel()
	_ = s.conn.Close()
	s.cut()
}

// cut resets all flows. What arrives for them afterwards meets no stack, or a new one, and is reset.
func (s *session) cut() {
	s.mu.Lock()
	stack := s.stack
	flows := make([]interface{ cut(reason string) }, 0, len(s.tcp)+len(s.datagrams))
	for _, f := range s.tcp {
		flows = append(flows, f)
	}
	for _, f := range s.datagrams {
		flows = append(flows, f)
	}
	s.tcp, s.datagrams, s.stack = nil, nil, nil
	if s.idle != nil {
		s.idle.Stop()
	}
	s.mu.Unlock()
	for _, f := range flows {
		f.cut(reasonCut)
	}
	if stack != nil {
		go stack.destroy()
	}
}

// ensureStack gives the session's stack, made with the first connection.
func (s *session) ensureStack(f *tcpFlow) (*netstack, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := f.ctx.Err(); err != nil {
		return nil, err
	}
	if s.stack == nil {
		stack, err := newNetstack(s.conn, s)
		if err != nil {
			return nil, err
		}
		s.stack = stack
	}
	return s.stack, nil
}

func (s *session) addTCP(f *tcpFlow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tcp == nil {
		s.tcp = make(map[tcpKey]*tcpFlow)
	}
	s.tcp[f.key] = f
	if s.idle != nil {
		s.idle.Stop()
	}
}

// removeTCP begins to wait for the next connection when it was the last: a guest without any costs no stack.
func (s *session) removeTCP(f *tcpFlow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tcp[f.key] != f {
		return
	}
	delete(s.tcp, f.key)
	if len(s.tcp) > 0 || s.stack == nil {
		return
	}
	if s.idle == nil {
		s.idle = time.AfterFunc(stackIdle, s.dropStack)
		return
	}
	s.idle.Reset(stackIdle)
}

func (s *session) dropStack() {
	s.mu.Lock()
	var stack *netstack
	if len(s.tcp) == 0 {
		stack, s.stack = s.stack, nil
	}
	s.mu.Unlock()
	if stack != nil {
		s.guarded("idle stack", stack.destroy)
	}
}

func (s *session) tcpFlow(key tcpKey) *tcpFlow {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tcp[key]
}

func (s *session) offer(key tcpKey) {
	if f := s.tcpFlow(key); f != nil {
		f.offered.Store(true)
	}
}

// accept hands a connection to the goroutine that made the host's side of it.
func (s *session) accept(key tcpKey, request *tcp.ForwarderRequest) {
	if f := s.tcpFlow(key); f != nil {
		select {
		case f.arrived <- request:
			return
		default:
		}
	}
	request.Complete(true)
}

// judgeAgain ends the flows that a new policy refuses.
func (s *session) judgeAgain(p *policy.Policy) {
	s.mu.Lock()
	var refused []interface{ cut(reason string) }
	for _, f := range s.tcp {
		if f.flow != nil && !f.flow.stillAllowed(p) {
			refused = append(refused, f)
		}
	}
	for _, f := range s.datagrams {
		if !f.flow.stillAllowed(p) {
			refused = append(refused, f)
		}
	}
	s.mu.Unlock()
	for _, f := range refused {
		f.cut(reasonPolicy)
	}
}

// Why flows end that don't end by themselves.
const (
	reasonCut          = "cut"
	reasonPolicy       = "policy-changed"
	reasonUnreachable  = "unreachable"
	reasonRefusedThere = "connection-refused"
	reasonTimeout      = "timeout"
	reasonUnsupported  = "unsupported"
	reasonIdle         = "idle"
)

// take handles one frame; kept says that it belongs to the stack now.
func (s *session) take(frame *buffer.View) (kept bool) {
	p, drop := screen(frame.AsSlice())
	switch {
	case drop != "":
		s.drop(drop)
	case p.arp:
		if !s.arp.Allow() {
			s.drop(dropARP)
			return false
		}
		s.send(arpReply())
	case p.ip == nil:
	case p.protocol == protoTCP:
		return s.takeTCP(p, frame)
	case p.protocol == protoUDP:
		s.takeUDP(p)
	case p.protocol == protoICMP:
		s.takeICMP(p)
	default:
		s.drop(dropProtocol)
		s.refuse(p, codeAdminProhibited)
	}
	return false
}

func (s *session) drop(what string) {
	s.guest.counted.dropped.Add(1)
	s.guest.log.Drop(what, 1)
	s.wasted()
}

// refuse answers a packet with an ICMP error.
func (s *session) refuse(p packet, code byte) {
	s.wasted()
	if frame := unreachable(p.quote(), code); frame != nil {
		s.send(frame)
	}
}

// wasted counts a frame that came to nothing.
func (s *session) wasted() {
	if reservation := s.useless.Reserve(); reservation.OK() {
		s.penalty.Store(int64(reservation.Delay()))
	}
}

// slowDown lets the link wait while too much that comes through it is useless.
func (s *session) slowDown() {
	if s.penalty.Load() == 0 {
		return
	}
	timer := time.NewTimer(time.Duration(s.penalty.Swap(0)))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.ctx.Done():
	}
}

// send gives a frame of ours to the guest; when that fails the link is about to end.
func (s *session) send(frame []byte) { _ = s.conn.Send(frame) }

// start runs work in a goroutine, guarded.
func (s *session) start(what string, work func()) {
	s.guest.outside.crew.do(func() { s.guarded(what, work) })
}

// guarded keeps a bug met by one guest's traffic from ending the network of all: only this guest is cut off.
func (s *session) guarded(what string, work func()) {
	defer func() {
		if problem := recover(); problem != nil {
			s.guest.logger.Error("cut off after a panic", "in", what, "panic", problem, "stack", string(debug.Stack()))
			// Whoever panicked may hold locks that cutting needs.
			go s.close()
		}
	}()
	work()
}
