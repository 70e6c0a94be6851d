package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

const (
	maxNameLen  = 253
	maxLabelLen = 63
)

// NormalName gives a host name in the one spelling the gateway uses: lower case, no dot at the end. False for what is no
// host name: empty labels, other characters than letters, digits, "-" and "_", too long, or an address.
func NormalName(name string) (string, bool) {
	name = lowerASCII(strings.TrimSuffix(name, "."))
	return name, checkName(name) == nil
}

// lowerASCII isn't strings.ToLower, which makes an ASCII letter of the Kelvin sign.
func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r - 'A' + 'a'
		}
		return r
	}, s)
}

// parsePattern reads the name of a rule.
func parsePattern(written string) (string, error) {
	name := lowerASCII(written)
	if strings.HasSuffix(name, ".") {
		return "", errors.New("leave out the dot at the end")
	}
	bare := strings.TrimPrefix(name, "*.")
	if strings.Contains(bare, "*") {
		return "", errors.New("a * can only stand for all names below one, as in *.example.com")
	}
	if err := checkName(bare); err != nil {
		return "", err
	}
	return name, nil
}

func checkName(name string) error {
	if name == "" || len(name) > maxNameLen {
		return fmt.Errorf("a name has 1 to %d characters", maxNameLen)
	}
	last := ""
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > maxLabelLen {
			return fmt.Errorf("between dots there must be 1 to %d characters", maxLabelLen)
		}
		for _, c := range []byte(label) {
			if !isNameByte(c) {
				return errors.New("only letters, digits, - and _ are taken; write other scripts as xn--…")
			}
		}
		if label[0] == '-' || label[len(label)-1] == '-' {
			return errors.New("a part can't begin or end with -")
		}
		last = label
	}
	// An address, also in the short forms of inet_aton, ends in a number; no name does.
	if strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x") {
		return errors.New("that is an address; use a cidr rule")
	}
	return nil
}

func isNameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// matching gives the domain rules that have a (normal) name, the exact ones first.
func (p *Policy) matching(name string) []*rule {
	if p.domainRules == 0 {
		return nil
	}
	found := append([]*rule(nil), p.exact[name]...)
	if isForeignResolver(name) {
		// A wildcard that happens to have a resolver below it must not undo what the list is for. Naming it is another thing.
		return found
	}
	for rest := name; ; {
		_, parent, more := strings.Cut(rest, ".")
		if !more {
			return found
		}
		found = append(found, p.below[parent]...)
		rest = parent
	}
}

// Match is the domain rule a name may be resolved for.
type Match struct {
	Rule string
	// Pattern is the rule's name.
	Pattern string
	// Below is what stands in place of a wildcard's star; empty when the rule is for the name itself.
	Below string
}

// Match gives the rule for a normal name, an exact one before a wildcard, the nearest wildcard before a farther one.
func (p *Policy) Match(name string) (Match, bool) {
	rules := p.matching(name)
	if len(rules) == 0 {
		return Match{}, false
	}
	r := rules[0]
	match := Match{Rule: r.id, Pattern: r.name}
	if suffix, wild := strings.CutPrefix(r.name, "*"); wild {
		match.Below = strings.TrimSuffix(name, suffix)
	}
	return match, true
}

// Answer: may the guest be told this address for a normal name? Only if it could be let through to it: that is what stops
// DNS rebinding. The reason is set when not.
func (p *Policy) Answer(name string, addr netip.Addr) (reason string, ok bool) {
	addr = addr.Unmap()
	is := classify(p.host.ranges, addr)
	if is.never {
		return is.reason, false
	}
	own := p.host.owns(addr)
	if is.reason == "" && !own || p.host.opens(p.host.config.Reachable, addr) {
		return "", true
	}
	for _, r := range p.addressRules {
		if p.host.opens(r.prefixes, addr) {
			return "", true
		}
	}
	for _, r := range p.matching(name) {
		if p.host.opens(r.prefixes, addr) {
			return "", true
		}
	}
	if own {
		return ReasonHostAddress, false
	}
	return is.reason, false
}

// Resolvable: may the guest ask for this normal name at all?
func (p *Policy) Resolvable(name string) (match Match, reason string) {
	match, listed := p.Match(name)
	switch {
	case p.dns == DNSOff:
		return match, ReasonDNSOff
	case p.dns == DNSListed && !listed && isForeignResolver(name):
		return match, ReasonForeignResolver
	case p.dns == DNSListed && !listed:
		return match, ReasonNotListed
	}
	return match, ""
}
