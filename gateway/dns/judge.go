package dns

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/dns/dnsmessage"

	"rekindle/gateway/policy"
)

const typeCAA dnsmessage.Type = 257

// canary is asked by browsers: an answer without addresses keeps them from a resolver of their own, which would take the
// names out of the flow log.
const canary = "use-application-dns.net"

// verdict is what is done with a query.
type verdict struct {
	// reason: it is refused.
	reason string
	// empty: it is answered with nothing, and nobody is asked.
	empty bool
	rule  string
	name  string
	// ask is the type upstreams are asked for. For AAAA it is A: guests have IPv4 only, but should learn that a name doesn't exist.
	ask dnsmessage.Type
}

func (g *Guest) judge(req request, p *policy.Policy) verdict {
	if g.admit != nil && !g.admit() {
		return verdict{reason: ReasonRate}
	}
	name, ok := policy.NormalName(req.question.Name.String())
	if !ok {
		return verdict{reason: ReasonName}
	}
	match, reason := p.Resolvable(name)
	v := verdict{rule: match.Rule, reason: reason, name: name, ask: req.question.Type}
	if p.DNS() == policy.DNSOpen {
		// Any name is allowed; the rule it also has isn't what allows it.
		v.rule = ""
	}
	if name == canary && p.DNS() != policy.DNSOff {
		return verdict{empty: true, name: name}
	}
	if reason != "" {
		return v
	}
	if req.question.Class != dnsmessage.ClassINET {
		v.reason = ReasonType
		return v
	}
	switch req.question.Type {
	case dnsmessage.TypeA:
	case dnsmessage.TypeAAAA:
		v.ask = dnsmessage.TypeA
	case dnsmessage.TypeHTTPS, dnsmessage.TypeSVCB:
		// They carry addresses and the keys of encrypted client hellos; without them clients fall back to A.
		v.empty = true
	default:
		if p.DNS() != policy.DNSOpen || !answeredWhenOpen(req.question.Type) {
			v.reason = ReasonType
			return v
		}
	}
	if reason := reverseReason(name, p); reason != "" {
		v.reason = reason
		return v
	}
	v.reason = g.budget.spend(name, match, p.DNS(), g.resolver.now())
	return v
}

func answeredWhenOpen(asked dnsmessage.Type) bool {
	return slices.Contains([]dnsmessage.Type{
		dnsmessage.TypeCNAME, dnsmessage.TypeMX, dnsmessage.TypeTXT, dnsmessage.TypeSRV,
		dnsmessage.TypePTR, dnsmessage.TypeNS, dnsmessage.TypeSOA, typeCAA,
	}, asked)
}

// reverseReason keeps a guest from reading the operator's network out of its reverse zones.
func reverseReason(name string, p *policy.Policy) string {
	if name == "ip6.arpa" || strings.HasSuffix(name, ".ip6.arpa") {
		return policy.ReasonIPv6
	}
	reversed, below := strings.CutSuffix(name, ".in-addr.arpa")
	if !below {
		return ""
	}
	labels := strings.Split(reversed, ".")
	slices.Reverse(labels)
	var octets [4]byte
	for i, label := range labels[:min(len(labels), 4)] {
		octet, err := strconv.ParseUint(label, 10, 8)
		if err != nil {
			return ReasonName
		}
		octets[i] = byte(octet)
	}
	reason, _ := p.Answer(name, netip.AddrFrom4(octets))
	return reason
}

func typeName(asked dnsmessage.Type) string {
	switch asked {
	case typeCAA:
		return "CAA"
	case dnsmessage.TypeALL:
		return "ANY"
	case 10:
		return "NULL"
	case 251:
		return "IXFR"
	}
	if name, known := strings.CutPrefix(asked.String(), "Type"); known {
		return name
	}
	return "TYPE" + strconv.Itoa(int(asked))
}
