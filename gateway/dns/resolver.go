package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	maxFlights   = 1024
	maxCached    = 4096
	flightLimit  = 4500 * time.Millisecond
	defaultPause = 2 * time.Second
)

var (
	errBusy       = errors.New("too many queries wait for upstreams")
	errNoUpstream = errors.New("there is no upstream")
	errTimeout    = errors.New("no upstream answered")
)

// ResolverConfig: zero values give the defaults.
type ResolverConfig struct {
	Upstreams []netip.AddrPort
	// AttemptTimeout is how long one upstream is waited for before the next is asked. Default 2 s.
	AttemptTimeout time.Duration
	// Dial reaches upstreams; nil: the host's network.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Now is the clock of caches and budgets; nil: time.Now.
	Now func() time.Time
}

// Resolver asks the upstreams; one per gateway, shared by all guests, safe for concurrent use.
type Resolver struct {
	upstreams atomic.Pointer[[]netip.AddrPort]
	// preferred is the upstream that answered last.
	preferred atomic.Uint32
	attempt   time.Duration
	dial      func(ctx context.Context, network, address string) (net.Conn, error)
	now       func() time.Time

	mu      sync.Mutex
	flights map[question]*flight
	cache   map[question]*answer
}

type question struct {
	name  string
	asked dnsmessage.Type
}

// flight is one question on its way; all who ask it meanwhile wait for the same.
type flight struct {
	landed chan struct{}
	answer *answer
	err    error
}

// NewResolver refuses upstreams that are no addresses; none at all is taken, and every query then fails.
func NewResolver(config ResolverConfig) (*Resolver, error) {
	r := &Resolver{
		attempt: config.AttemptTimeout, dial: config.Dial, now: config.Now,
		flights: map[question]*flight{}, cache: map[question]*answer{},
	}
	if r.attempt == 0 {
		r.attempt = defaultPause
	}
	if r.dial == nil {
		r.dial = new(net.Dialer).DialContext
	}
	if r.now == nil {
		r.now = time.Now
	}
	return r, r.SetUpstreams(config.Upstreams)
}

// SetUpstreams replaces them from the next query on.
func (r *Resolver) SetUpstreams(upstreams []netip.AddrPort) error {
	for _, upstream := range upstreams {
		if !upstream.IsValid() || upstream.Port() == 0 {
			return fmt.Errorf("upstream %s is no address and port", upstream)
		}
	}
	copied := append([]netip.AddrPort(nil), upstreams...)
	r.upstreams.Store(&copied)
	return nil
}

// resolve gives what is known or asks. The answer is shared: callers don't change it.
func (r *Resolver) resolve(ctx context.Context, name string, asked dnsmessage.Type) (*answer, error) {
	q := question{name, asked}
	r.mu.Lock()
	if known, cached := r.cache[q]; cached {
		if known.expires.After(r.now()) {
			r.mu.Unlock()
			return known, nil
		}
		delete(r.cache, q)
	}
	going, flies := r.flights[q]
	if !flies {
		if len(r.flights) >= maxFlights {
			r.mu.Unlock()
			return nil, errBusy
		}
		going = &flight{landed: make(chan struct{})}
		r.flights[q] = going
		go r.fly(q, going)
	}
	r.mu.Unlock()
	select {
	case <-going.landed:
		return going.answer, going.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// fly outlives the guest that began it: others may wait for it too. Its own deadline ends it.
func (r *Resolver) fly(q question, going *flight) {
	ctx, cancel := context.WithTimeout(context.Background(), flightLimit)
	defer cancel()
	going.answer, going.err = r.ask(ctx, q)
	r.mu.Lock()
	delete(r.flights, q)
	if going.err == nil {
		going.answer.expires = r.now().Add(going.answer.ttl)
		if going.answer.ttl > 0 {
			r.keep(q, going.answer)
		}
	}
	r.mu.Unlock()
	close(going.landed)
}

// keep makes room by what is dead among a few, or else by any: a map gives them in random order.
func (r *Resolver) keep(q question, known *answer) {
	if len(r.cache) >= maxCached {
		looked, now := 0, r.now()
		for other, entry := range r.cache {
			if looked++; looked > 32 && len(r.cache) < maxCached {
				break
			}
			if looked > 32 || !entry.expires.After(now) {
				delete(r.cache, other)
			}
		}
	}
	r.cache[q] = known
}

// ask follows a chain that an upstream left unfinished.
func (r *Resolver) ask(ctx context.Context, q question) (*answer, error) {
	found, err := r.askUpstreams(ctx, q)
	if err != nil {
		return nil, err
	}
	for {
		target, open := found.open(q.asked)
		if !open {
			return found, nil
		}
		rest, err := r.askUpstreams(ctx, question{target, q.asked})
		if err != nil {
			return nil, err
		}
		if len(rest.chain) == 0 && len(rest.records) == 0 && rest.soa == nil && rest.rcode == dnsmessage.RCodeSuccess {
			return found, nil
		}
		if err := found.join(rest); err != nil {
			return nil, err
		}
	}
}

// askUpstreams goes on from the one that answered last; a single one gets a second try, since datagrams are lost.
func (r *Resolver) askUpstreams(ctx context.Context, q question) (*answer, error) {
	upstreams := *r.upstreams.Load()
	if len(upstreams) == 0 {
		return nil, errNoUpstream
	}
	begin := r.preferred.Load()
	var failure error
	for try := range max(2, uint32(len(upstreams))) {
		at := (begin + try) % uint32(len(upstreams))
		attempt, cancel := context.WithTimeout(ctx, r.attempt)
		found, err := r.exchange(attempt, upstreams[at], q)
		cancel()
		if err == nil {
			r.preferred.Store(at)
			return found, nil
		}
		failure = err
		if ctx.Err() != nil {
			break
		}
	}
	if errors.Is(failure, context.DeadlineExceeded) || isTimeout(failure) {
		return nil, fmt.Errorf("%w: %w", errTimeout, failure)
	}
	return nil, failure
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
