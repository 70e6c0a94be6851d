// Package limits is what one guest may use of the gateway: how many connections, how fast it makes them, bytes a second each
// way, DNS queries a second. A guest at its limit waits or is refused; its neighbours don't notice.
package limits

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Limits as they come over the control socket (EgressLimits in src/engine/egress.ts); nil is the default.
type Limits struct {
	Connections             *int64 `json:"connections"`
	NewConnectionsPerSecond *int64 `json:"newConnectionsPerSecond"`
	BytesPerSecondOut       *int64 `json:"bytesPerSecondOut"`
	BytesPerSecondIn        *int64 `json:"bytesPerSecondIn"`
	QueriesPerSecond        *int64 `json:"queriesPerSecond"`
}

const (
	// defaultConnections at once, of all protocols: a busy build or crawler stays below, descriptors of a host suffice for
	// hundreds of guests.
	defaultConnections = 1024
	// defaultNewConnections a second is what a load test needs and a port scan of a /16 takes minutes with.
	defaultNewConnections = 500
	// defaultQueries a second is far above any resolver library's and too little for a tunnel worth having.
	defaultQueries = 50
	// Bandwidth is not limited by default: the host's operator knows the uplink, the gateway doesn't.

	// maxLimit keeps arithmetic far from overflow.
	maxLimit = 1 << 40
	// minBurstBytes lets the longest piece that moves at once through any bandwidth limit.
	minBurstBytes = 64 << 10
)

// Account keeps one guest to its limits. Safe for concurrent use; Set may come at any time.
type Account struct {
	open  atomic.Int64
	gauge atomic.Pointer[gauge]
}

type gauge struct {
	connections              int64
	starts, queries, out, in *rate.Limiter
}

// NewAccount has the defaults until Set.
func NewAccount() *Account {
	a := &Account{}
	a.gauge.Store(Limits{}.gauge())
	return a
}

// Check says what is wrong with limits.
func (l Limits) Check() error {
	for _, one := range []struct {
		name  string
		value *int64
		least int64
	}{
		{"connections", l.Connections, 0},
		{"newConnectionsPerSecond", l.NewConnectionsPerSecond, 0},
		{"bytesPerSecondOut", l.BytesPerSecondOut, 1},
		{"bytesPerSecondIn", l.BytesPerSecondIn, 1},
		{"queriesPerSecond", l.QueriesPerSecond, 0},
	} {
		if one.value != nil && (*one.value < one.least || *one.value > maxLimit) {
			return fmt.Errorf("limits: %s is %d; give %d to %d, or leave it out", one.name, *one.value, one.least, int64(maxLimit))
		}
	}
	return nil
}

// Set replaces the limits; what was left out gets its default again.
func (a *Account) Set(limits Limits) error {
	if err := limits.Check(); err != nil {
		return err
	}
	a.gauge.Store(limits.gauge())
	return nil
}

func (l Limits) gauge() *gauge {
	return &gauge{
		connections: orDefault(l.Connections, defaultConnections),
		starts:      perSecond(orDefault(l.NewConnectionsPerSecond, defaultNewConnections)),
		queries:     perSecond(orDefault(l.QueriesPerSecond, defaultQueries)),
		out:         bandwidth(l.BytesPerSecondOut),
		in:          bandwidth(l.BytesPerSecondIn),
	}
}

// Query takes one query's worth; false: the guest asks too fast.
func (a *Account) Query() bool { return a.gauge.Load().queries.Allow() }

// Begin takes a connection's slot; End gives it back. The word says why it wasn't given.
func (a *Account) Begin() (refusal string) {
	gauge := a.gauge.Load()
	if a.open.Add(1) > gauge.connections {
		a.open.Add(-1)
		return ReasonConnections
	}
	if !gauge.starts.Allow() {
		a.open.Add(-1)
		return ReasonConnectionRate
	}
	return ""
}

// End gives a slot back that Begin gave.
func (a *Account) End() { a.open.Add(-1) }

// Open is how many connections hold a slot.
func (a *Account) Open() int64 { return a.open.Load() }

// Reasons of refusals, as they stand in the flow log.
const (
	ReasonConnections    = "connections"
	ReasonConnectionRate = "connection-rate"
)

// WaitOut waits until n bytes may have left the guest; WaitIn is the other way.
func (a *Account) WaitOut(ctx context.Context, n int) error { return wait(ctx, a.gauge.Load().out, n) }

// WaitIn waits until n bytes may go to the guest.
func (a *Account) WaitIn(ctx context.Context, n int) error { return wait(ctx, a.gauge.Load().in, n) }

// AllowOut is for packets, which are dropped rather than kept waiting.
func (a *Account) AllowOut(n int) bool { return a.gauge.Load().out.AllowN(time.Now(), n) }

func wait(ctx context.Context, limiter *rate.Limiter, n int) error {
	if limiter.Limit() == rate.Inf {
		return nil
	}
	for n > 0 {
		piece := min(n, limiter.Burst())
		if err := limiter.WaitN(ctx, piece); err != nil {
			return fmt.Errorf("waiting for bandwidth: %w", err)
		}
		n -= piece
	}
	return nil
}

// perSecond allows a burst of two seconds' worth.
func perSecond(n int64) *rate.Limiter { return rate.NewLimiter(rate.Limit(n), int(2*n)) }

// bandwidth allows a burst of a tenth of a second's worth.
func bandwidth(bytesPerSecond *int64) *rate.Limiter {
	if bytesPerSecond == nil {
		return rate.NewLimiter(rate.Inf, 0)
	}
	return rate.NewLimiter(rate.Limit(*bytesPerSecond), int(max(*bytesPerSecond/10, minBurstBytes)))
}

func orDefault(value *int64, otherwise int64) int64 {
	if value == nil {
		return otherwise
	}
	return *value
}
