// Package dns answers the guests' DNS: wire bytes in, wire bytes out, one call a query. The gateway is the only resolver a
// guest needs, so its answers are what domain rules are enforced by.
//
// Invariants: nothing of a guest's message goes upstream but the name (in our own spelling) and the type; an address goes
// into an answer only if the policy could let the guest reach it; no name is resolved that the policy doesn't let resolve.
//
// Messages are read and written by golang.org/x/net/dns/dnsmessage, the parser of Go's own resolver: bounded, fuzzed, no
// dependencies. What it reads is still judged here record by record.
package dns

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"rekindle/gateway/names"
	"rekindle/gateway/policy"
)

// Reasons beside those of policy.Resolvable, as they stand in the flow log.
const (
	ReasonMalformed     = "malformed"
	ReasonRate          = "rate"             // more queries a second than the guest's limit
	ReasonBusy          = "busy"             // too many queries wait for upstreams
	ReasonType          = "type"             // a type (or class) that isn't answered in this mode
	ReasonName          = "name"             // no host name
	ReasonTunnel        = "tunnel"           // a name that is made to carry bytes
	ReasonVolume        = "volume"           // too many different names under one domain or rule
	ReasonPrivateAnswer = "private-answer"   // an address the guest may not reach was taken out (DNS rebinding)
	ReasonNoUpstream    = "no-upstream"      // the host has no resolver
	ReasonTimeout       = "upstream-timeout" // no upstream answered
	ReasonUpstream      = "upstream-failure" // they answered with failure, or nonsense
)

const (
	// handleTimeout is how long a guest waits at most; stub resolvers give up at five seconds.
	handleTimeout = 4500 * time.Millisecond
	// maxInFlight is how many queries of one guest wait at a time.
	maxInFlight = 64
)

// Guest is one guest's side: its names table and its budgets. Safe for concurrent use.
type Guest struct {
	resolver *Resolver
	table    *names.Table
	admit    func() bool
	inFlight atomic.Int32
	budget   budget
}

// NewGuest: admit is asked for every query and may be nil; false refuses it with reason "rate".
func (r *Resolver) NewGuest(table *names.Table, admit func() bool) *Guest {
	return &Guest{resolver: r, table: table, admit: admit}
}

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
	Wire []byte
	Name string
	Type string
	// Allowed: the policy let it be resolved, though that may have failed.
	Allowed bool
	Rule    string
	// Reason is set when refused or failed, and when some addresses were taken out of an answer (ReasonPrivateAnswer).
	Reason   string
	Answers  []netip.Addr
	Duration time.Duration
}

// Handle takes at most about five seconds (less if ctx ends) and never fails: what goes wrong is an answer too. It blocks, so
// the caller runs it in a goroutine per query; at most maxInFlight of one guest wait at a time, more get SERVFAIL at once.
func (g *Guest) Handle(ctx context.Context, query Query) Outcome {
	began := g.resolver.now()
	req, ok := parseRequest(query.Wire, query.TCP)
	if !ok {
		return Outcome{Reason: ReasonMalformed}
	}
	outcome := g.answer(ctx, req, query.Policy)
	outcome.Duration = g.resolver.now().Sub(began)
	return outcome
}

func (g *Guest) answer(ctx context.Context, req request, p *policy.Policy) Outcome {
	if req.malformed {
		return Outcome{Wire: req.reply(reply{rcode: dnsmessage.RCodeFormatError}), Reason: ReasonMalformed}
	}
	outcome := Outcome{Name: req.logName(), Type: typeName(req.question.Type)}
	if req.notImplemented {
		outcome.Reason = ReasonType
		outcome.Wire = req.reply(reply{rcode: dnsmessage.RCodeNotImplemented})
		return outcome
	}
	verdict := g.judge(req, p)
	outcome.Rule = verdict.rule
	if verdict.reason != "" {
		outcome.Reason = verdict.reason
		outcome.Wire = req.reply(reply{rcode: dnsmessage.RCodeRefused, blocked: verdict.reason})
		return outcome
	}
	outcome.Allowed = true
	if verdict.empty {
		outcome.Wire = req.reply(reply{})
		return outcome
	}
	if g.inFlight.Add(1) > maxInFlight {
		g.inFlight.Add(-1)
		return req.failed(outcome, errBusy)
	}
	defer g.inFlight.Add(-1)
	ctx, cancel := context.WithTimeout(ctx, handleTimeout)
	defer cancel()
	found, err := g.resolver.resolve(ctx, verdict.name, verdict.ask)
	if err != nil {
		return req.failed(outcome, err)
	}
	return g.give(req, p, verdict, found, outcome)
}

// give hands out what may be handed out, and notes which addresses the name opens.
func (g *Guest) give(req request, p *policy.Policy, verdict verdict, found *answer, outcome Outcome) Outcome {
	now := g.resolver.now()
	lives := names.ClampTTL(found.expires.Sub(now))
	rep := reply{rcode: found.rcode, chain: found.chain, soa: found.soa, lives: lives}
	if req.question.Type == verdict.ask {
		rep.records = found.records
	}
	if verdict.ask != dnsmessage.TypeA {
		outcome.Wire = req.reply(rep)
		return outcome
	}
	rep.records = nil
	withheld := false
	for _, record := range found.records {
		body, ok := record.Body.(*dnsmessage.AResource)
		if !ok {
			continue
		}
		addr := netip.AddrFrom4(body.A)
		if _, ok := p.Answer(verdict.name, addr); !ok {
			withheld = true
			continue
		}
		if req.question.Type == dnsmessage.TypeA {
			rep.records = append(rep.records, record)
			outcome.Answers = append(outcome.Answers, addr)
			g.table.Learn(addr, verdict.name, lives, now)
		}
	}
	if withheld && req.question.Type == dnsmessage.TypeA {
		outcome.Reason = ReasonPrivateAnswer
		if len(rep.records) == 0 {
			outcome.Allowed = false
			rep = reply{rcode: dnsmessage.RCodeRefused, blocked: ReasonPrivateAnswer}
		}
	}
	outcome.Wire = req.reply(rep)
	return outcome
}

func (req request) failed(outcome Outcome, err error) Outcome {
	outcome.Reason = ReasonUpstream
	switch {
	case errors.Is(err, errBusy):
		outcome.Reason = ReasonBusy
	case errors.Is(err, errNoUpstream):
		outcome.Reason = ReasonNoUpstream
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.Is(err, errTimeout):
		outcome.Reason = ReasonTimeout
	}
	outcome.Wire = req.reply(reply{rcode: dnsmessage.RCodeServerFailure})
	return outcome
}
