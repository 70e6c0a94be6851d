// Package policy says what a guest may reach: the egress rules of src/engine/egress.ts, read strictly and judged per
// connection and per name. It does no I/O but reading the host's own addresses.
//
// Invariant: what no rule allows is refused, and some addresses are refused whatever the rules say (specialRanges).
package policy

import (
	"net/netip"
	"slices"
	"time"

	"rekindle/gateway/names"
)

// Protocol is what a rule names.
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
	// Rule is the id of the rule that allows. With Inspect it is the first that may; Shown gives the one that does.
	Rule string
	// Reason is one word of the Reason constants when refused.
	Reason string
	// Inspect: the connection must show (peek) that it is for a name for which Policy.Shown gives a rule.
	Inspect bool
	// Names are those the guest resolved to the address; Names[0] is what the flow log names.
	Names []string
}

// Policy is immutable and safe for concurrent use.
type Policy struct {
	host         *Host
	dns          DNSMode
	addressRules []*rule
	exact, below map[string][]*rule
	domainRules  int
}

type ruleKind string

const (
	kindInternet ruleKind = "internet"
	kindCIDR     ruleKind = "cidr"
	kindDomain   ruleKind = "domain"
)

type rule struct {
	id        string
	kind      ruleKind
	protocols []Protocol
	ports     []portRange
	// prefixes are the one of a cidr rule, or what a domain rule's name may resolve to besides public addresses.
	prefixes []netip.Prefix
	name     string
	inspect  bool
}

type portRange struct{ from, to uint16 }

// DNS is the policy's mode.
func (p *Policy) DNS() DNSMode { return p.dns }

// Connect judges a new connection (or the first packet of a UDP flow, or an ICMP echo, with port 0).
func (p *Policy) Connect(protocol Protocol, to netip.AddrPort, table *names.Table, now time.Time) Verdict {
	var resolved []string
	if table != nil {
		resolved = table.Lookup(to.Addr(), now)
	}
	return p.Judge(protocol, to, resolved)
}

// Judge is Connect for names already known: for an open flow under a new policy give the Names of its first verdict
// (for an inspected one only the name it showed), since an open connection outlives the answer it was made by.
func (p *Policy) Judge(protocol Protocol, to netip.AddrPort, resolved []string) Verdict {
	addr := to.Addr().Unmap()
	is := classify(p.host.ranges, addr)
	if is.never {
		return Verdict{Reason: is.reason}
	}
	refusal := p.defaultRefusal(addr, is)
	for _, r := range p.addressRules {
		if !p.covers(r, addr, is) {
			continue
		}
		reason := p.fits(r, protocol, to.Port())
		if reason == "" {
			return Verdict{Allowed: true, Rule: r.id, Names: resolved}
		}
		refusal = reason
	}
	allowed, reason := p.judgeDomains(protocol, netip.AddrPortFrom(addr, to.Port()), is, resolved)
	if allowed.Allowed {
		return allowed
	}
	if reason != "" {
		refusal = reason
	}
	return Verdict{Reason: refusal, Names: resolved}
}

// judgeDomains prefers a rule that doesn't look into the connection: what one rule gives, another can't take.
func (p *Policy) judgeDomains(protocol Protocol, to netip.AddrPort, is class, resolved []string) (Verdict, string) {
	var inspected Verdict
	refusal := ""
	for _, name := range resolved {
		for _, r := range p.matching(name) {
			if !p.covers(r, to.Addr(), is) {
				continue
			}
			reason := p.fits(r, protocol, to.Port())
			switch {
			case reason != "":
				refusal = reason
			case !r.inspect:
				return Verdict{Allowed: true, Rule: r.id, Names: first(name, resolved)}, ""
			case !inspected.Allowed:
				inspected = Verdict{Allowed: true, Rule: r.id, Inspect: true, Names: first(name, resolved)}
			}
		}
	}
	return inspected, refusal
}

// Shown gives the rule that lets an inspected connection to an address go to the name it showed. The rule must be one the
// address was resolved for (verdict.Names), so that a name can't be shown at an address that was never its own.
func (p *Policy) Shown(name string, to netip.AddrPort, resolved []string) (id string, ok bool) {
	name, ok = NormalName(name)
	if !ok {
		return "", false
	}
	addr := to.Addr().Unmap()
	is := classify(p.host.ranges, addr)
	if is.never {
		return "", false
	}
	for _, r := range p.matching(name) {
		if !r.inspect || !p.covers(r, addr, is) || p.fits(r, TCP, to.Port()) != "" {
			continue
		}
		for _, other := range resolved {
			if slices.Contains(p.matching(other), r) {
				return r.id, true
			}
		}
	}
	return "", false
}

// covers: is the address one a rule is about?
func (p *Policy) covers(r *rule, addr netip.Addr, is class) bool {
	if r.kind == kindCIDR {
		// An address of the host's own that the operator listed alone is open to every rule that has it.
		return p.host.opens(r.prefixes, addr) || r.prefixes[0].Contains(addr) && p.host.opens(p.host.config.Reachable, addr)
	}
	public := is.reason == "" && !p.host.owns(addr)
	return public || p.host.opens(p.host.config.Reachable, addr) || p.host.opens(r.prefixes, addr)
}

// fits gives the reason why a rule that covers an address doesn't let through to it.
func (p *Policy) fits(r *rule, protocol Protocol, port uint16) string {
	switch {
	case !r.has(protocol):
		return ReasonProtocol
	case protocol == ICMP:
		return ""
	case port == 0 || !r.hasPort(port):
		return ReasonPort
	case p.dns != DNSOpen && (port == 53 || port == 853) && !r.namesPort(port):
		return ReasonForeignResolver
	}
	return ""
}

func (r *rule) has(protocol Protocol) bool {
	if r.kind == kindDomain {
		// What can't be looked into isn't let through unlooked: QUIC has its server name under encryption.
		return protocol == TCP || protocol == UDP && !r.inspect
	}
	return slices.Contains(r.protocols, protocol)
}

func (r *rule) hasPort(port uint16) bool {
	return slices.ContainsFunc(r.ports, func(ports portRange) bool { return ports.from <= port && port <= ports.to })
}

// namesPort: is the port meant, or only one of many? While names are listed a resolver of the guest's own choice would be a
// way around the list, so its ports open only to a rule that names them.
func (r *rule) namesPort(port uint16) bool {
	return slices.Contains(r.ports, portRange{port, port})
}

func (p *Policy) defaultRefusal(addr netip.Addr, is class) string {
	switch {
	case p.host.owns(addr):
		return ReasonHostAddress
	case is.reason != "":
		return is.reason
	case p.domainRules > 0:
		return ReasonNotResolved
	}
	return ReasonNoRule
}

func first(name string, all []string) []string {
	sorted := []string{name}
	for _, other := range all {
		if other != name {
			sorted = append(sorted, other)
		}
	}
	return sorted
}
