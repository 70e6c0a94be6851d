// Package dns answers the guests' DNS: wire bytes in, wire bytes out, one call a query. The gateway is the only resolver a
// guest needs, so its answers are what domain rules are enforced by.
//
// Invariants: nothing of a guest's message goes upstream but the name (in our own spelling) and the type; an address goes
// into an answer only if the policy could let the guest reach it; no name is resolved that the policy doesn't let resolve.
package dns

import (
	"context"
	"net/netip"
	"time"

	"rekindle/gateway/names"
	"rekindle/gateway/policy"
)

// Resolver asks the upstreams; one per gateway, shared by all guests, safe for concurrent use.
type Resolver struct{}

// ResolverConfig: zero values give the defaults.
type ResolverConfig struct {
	Upstreams []netip.AddrPort
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

func NewResolver(config ResolverConfig) (*Resolver, error) { return &Resolver{}, nil }

// Guest is one guest's side: its names table and its budgets. Safe for concurrent use.
type Guest struct{}

// NewGuest: admit is asked for every query and may be nil; false refuses it with reason "rate".
func (r *Resolver) NewGuest(table *names.Table, admit func() bool) *Guest { return &Guest{} }

// Query is one message of a guest.
type Query struct {
	// Wire is the message without TCP's length prefix.
	Wire []byte
	// TCP: the answer may be as long as a message can be.
	TCP    bool
	Policy *policy.Policy
}

// Outcome is the answer and what the flow log says of it.
type Outcome struct {
	// Wire is the answer, without TCP's length prefix; nil: the message was no query and gets none (count it as malformed).
	Wire    []byte
	Name    string
	Type    string
	Allowed bool
	Rule    string
	// Reason is set when refused or failed, and when addresses were taken out of an allowed answer ("private-answer").
	Reason   string
	Answers  []netip.Addr
	Duration time.Duration
}

// Handle takes at most about five seconds (less if ctx ends) and never fails: what goes wrong is an answer too. It blocks, so
// the caller runs it in a goroutine per query; at most maxInFlight of one guest wait at a time, more get SERVFAIL at once.
func (g *Guest) Handle(ctx context.Context, query Query) Outcome { return Outcome{} }
