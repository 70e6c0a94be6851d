// Package policy says what a guest may reach: the egress rules of src/engine/egress.ts, read strictly and judged per
// connection and per name. It does no I/O but reading the host's own addresses.
//
// Invariant: what no rule allows is refused, and some addresses are refused whatever the rules say (see Class).
package policy

import (
	"net/netip"
	"time"

	"rekindle/gateway/names"
)

// Protocol is what a rule names: "tcp", "udp" or "icmp".
type Protocol string

const (
	TCP  Protocol = "tcp"
	UDP  Protocol = "udp"
	ICMP Protocol = "icmp"
)

// DNSMode is which names a guest may ask for.
type DNSMode string

const (
	DNSOpen   DNSMode = "open"
	DNSListed DNSMode = "listed"
	DNSOff    DNSMode = "off"
)

// Verdict is what is decided of one connection, and what the flow log says of it.
type Verdict struct {
	Allowed bool
	// Rule is the id of the rule that allows. With Inspect it is the first that may; peek gives the one that does.
	Rule string
	// Reason is one word of the Reason constants when refused.
	Reason string
	// Inspect: the connection must show (peek) that it is for a name for which Policy.Shown gives a rule.
	Inspect bool
	// Names are those of domain rules that the address was resolved for; Names[0] is what the flow log names.
	Names []string
}

// Policy is immutable and safe for concurrent use.
type Policy struct {
	host *Host
	dns  DNSMode
}

// Parse reads a policy of the control protocol. Its errors are sentences for the operator.
func Parse(raw []byte, host *Host) (*Policy, error) {
	return nil, errNotYet
}

// DNS is the policy's mode.
func (p *Policy) DNS() DNSMode { return p.dns }

// Connect judges a new connection (or the first packet of a UDP flow, or an ICMP echo, with port 0).
func (p *Policy) Connect(protocol Protocol, to netip.AddrPort, table *names.Table, now time.Time) Verdict {
	return p.Judge(protocol, to, table.Lookup(to.Addr(), now))
}

// Judge is Connect for names already known: for an open flow under a new policy give the Names of its first verdict
// (for an inspected one only the name it showed), since an open connection outlives the answer it was made by.
func (p *Policy) Judge(protocol Protocol, to netip.AddrPort, resolved []string) Verdict {
	return Verdict{Reason: ReasonNoRule}
}

// Shown gives the rule that lets an inspected connection to an address go to the name it showed. The rule must be one the
// address was resolved for (verdict.Names), so that a name can't be shown at an address that was never its own.
func (p *Policy) Shown(name string, to netip.AddrPort, resolved []string) (rule string, ok bool) {
	return "", false
}
