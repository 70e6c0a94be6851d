package guest

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"rekindle/gateway/dns"
	"rekindle/gateway/flowlog"
	"rekindle/gateway/limits"
	"rekindle/gateway/names"
	"rekindle/gateway/policy"
)

// Outside is how guests' traffic leaves; the same for all of them.
type Outside struct {
	// Dial makes connections of the host: "tcp4" and "udp4".
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// DialEcho opens a ping socket to an address; nil, or an error, where the host doesn't let us have one.
	DialEcho func(ctx context.Context, address string) (net.Conn, error)
	// Resolver answers DNS.
	Resolver *dns.Resolver
	// Host knows its own addresses.
	Host *policy.Host
	// Buffers bounds what connections of all guests hold.
	Buffers *Budget
	Logger  *slog.Logger
	// crew works for all guests; New makes one where there is none.
	crew *crew
}

// Config is what a guest is attached with.
type Config struct {
	Policy *policy.Policy
	Limits limits.Limits
	Labels flowlog.Labels
}

// Guest is one microVM's network, with or without a machine connected to it.
type Guest struct {
	outside Outside
	log     *flowlog.Guest
	logger  *slog.Logger
	policy  atomic.Pointer[policy.Policy]
	account *limits.Account
	buffers *Budget
	names   *names.Table
	dns     *dns.Guest
	counted counters

	mu      sync.Mutex
	session *session
	closed  bool
}

type counters struct {
	flows, flowsInAll, refused, dropped, queries, bytesOut, bytesIn atomic.Int64
}

// Stats is the control protocol's.
type Stats struct {
	Flows      int64 `json:"flows"`
	FlowsInAll int64 `json:"flowsInAll"`
	Refused    int64 `json:"refused"`
	Dropped    int64 `json:"dropped"`
	Queries    int64 `json:"queries"`
	BytesOut   int64 `json:"bytesOut"`
	BytesIn    int64 `json:"bytesIn"`
	Connected  bool  `json:"connected"`
}

// New is a guest nobody is connected to yet. It takes log over.
func New(id string, outside Outside, log *flowlog.Guest, config Config) (*Guest, error) {
	if outside.crew == nil {
		outside.crew = &crew{}
	}
	g := &Guest{
		outside: outside,
		log:     log,
		logger:  outside.Logger.With("guest", id),
		account: limits.NewAccount(),
		buffers: NewBudget(guestBufferBytes, outside.Buffers),
		names:   names.New(),
	}
	if err := g.account.Set(config.Limits); err != nil {
		return nil, err
	}
	g.policy.Store(config.Policy)
	g.dns = outside.Resolver.NewGuest(g.names, g.account.Query)
	return g, nil
}

// Configure replaces all three and ends the flows that the new policy refuses. On an error all three stay.
func (g *Guest) Configure(config Config) error {
	if err := g.account.Set(config.Limits); err != nil {
		return err
	}
	g.log.SetLabels(config.Labels)
	g.policy.Store(config.Policy)
	if session := g.current(); session != nil {
		session.judgeAgain(config.Policy)
	}
	return nil
}

// Connected serves a machine's link until it ends. A machine connected before is cut off.
func (g *Guest) Connected(ctx context.Context, socket *net.UnixConn) error {
	session, err := newSession(ctx, g, socket)
	if err != nil {
		_ = socket.Close()
		return err
	}
	g.mu.Lock()
	closed, before := g.closed, g.session
	if !closed {
		g.session = session
	}
	g.mu.Unlock()
	if closed {
		session.close()
		return nil
	}
	if before != nil {
		before.close()
	}
	err = session.run()
	g.mu.Lock()
	if g.session == session {
		g.session = nil
	}
	g.mu.Unlock()
	return err
}

// Cut resets all flows.
func (g *Guest) Cut() {
	if session := g.current(); session != nil {
		session.cut()
	}
}

// Close cuts the guest off for ever.
func (g *Guest) Close() {
	g.mu.Lock()
	session := g.session
	g.closed, g.session = true, nil
	g.mu.Unlock()
	if session != nil {
		session.close()
	}
	g.log.Detach()
}

// Stats counts since the guest was attached; Flows and Connected are of now.
func (g *Guest) Stats() Stats {
	return Stats{
		Flows:      g.counted.flows.Load(),
		FlowsInAll: g.counted.flowsInAll.Load(),
		Refused:    g.counted.refused.Load(),
		Dropped:    g.counted.dropped.Load(),
		Queries:    g.counted.queries.Load(),
		BytesOut:   g.counted.bytesOut.Load(),
		BytesIn:    g.counted.bytesIn.Load(),
		Connected:  g.current() != nil,
	}
}

func (g *Guest) current() *session {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.session
}

// flow is what the log says of one, and what it is judged by when the policy changes.
type flow struct {
	guest    *Guest
	protocol policy.Protocol
	to       netip.AddrPort
	began    time.Time
	bytesOut atomic.Int64
	bytesIn  atomic.Int64

	mu      sync.Mutex
	verdict policy.Verdict
	name    string
	ended   bool
}

// begin judges a flow and takes its slot; nil when it is refused, which is logged.
func (g *Guest) begin(protocol policy.Protocol, to netip.AddrPort) *flow {
	now := time.Now()
	verdict := g.policy.Load().Connect(protocol, to, g.names, now)
	f := &flow{guest: g, protocol: protocol, to: to, began: now, verdict: verdict}
	if len(verdict.Names) > 0 {
		f.name = verdict.Names[0]
	}
	if !verdict.Allowed {
		f.logRefused(verdict.Reason)
		return nil
	}
	if reason := g.account.Begin(); reason != "" {
		f.logRefused(reason)
		return nil
	}
	g.counted.flows.Add(1)
	g.counted.flowsInAll.Add(1)
	return f
}

func (f *flow) logRefused(reason string) {
	f.guest.counted.refused.Add(1)
	f.guest.log.Flow(flowlog.Flow{Protocol: string(f.protocol), To: f.to, Name: f.name, Rule: f.verdict.Rule, Reason: reason})
}

// shown narrows an inspected flow to the name it asked for.
func (f *flow) shown(name, rule string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.name = name
	f.verdict.Rule = rule
	f.verdict.Names = []string{name}
}

// stillAllowed judges an open flow under a new policy.
func (f *flow) stillAllowed(p *policy.Policy) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	verdict := p.Judge(f.protocol, f.to, f.verdict.Names)
	// A flow nobody looked into can't be looked into from its middle.
	if !verdict.Allowed || (verdict.Inspect && !f.verdict.Inspect) {
		return false
	}
	f.verdict.Rule = verdict.Rule
	return true
}

// end logs the flow once and frees its slot. reason is why it ended if not by itself; refused is for what was found out only
// after it began.
func (f *flow) end(reason string, refused bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return
	}
	f.ended = true
	g := f.guest
	g.account.End()
	g.counted.flows.Add(-1)
	if refused {
		g.counted.refused.Add(1)
	}
	g.log.Flow(flowlog.Flow{
		Protocol: string(f.protocol),
		To:       f.to,
		Name:     f.name,
		Allowed:  !refused,
		Rule:     f.verdict.Rule,
		Reason:   reason,
		BytesOut: f.bytesOut.Load(),
		BytesIn:  f.bytesIn.Load(),
		Duration: time.Since(f.began),
	})
}

func (f *flow) countOut(n int) {
	f.bytesOut.Add(int64(n))
	f.guest.counted.bytesOut.Add(int64(n))
}

func (f *flow) countIn(n int) {
	f.bytesIn.Add(int64(n))
	f.guest.counted.bytesIn.Add(int64(n))
}
