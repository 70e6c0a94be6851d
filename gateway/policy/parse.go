package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxRules     = 4096
	maxPerRule   = 256
	maxRuleIDLen = 256
)

// Parse reads a policy of the control protocol. Its errors are sentences for the operator.
//
// It is stricter than encoding/json: a member that is unknown, written twice or in other case is an error, since a rule that
// is half read is a hole.
func Parse(raw []byte, host *Host) (*Policy, error) {
	members, err := object(raw, "rules", "dns")
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	p := &Policy{host: host, exact: map[string][]*rule{}, below: map[string][]*rule{}}
	if p.dns, err = oneOf(members["dns"], DNSOpen, DNSListed, DNSOff); err != nil {
		return nil, fmt.Errorf("policy: dns: %w", err)
	}
	rules, err := list(members["rules"], maxRules)
	if err != nil {
		return nil, fmt.Errorf("policy: rules: %w", err)
	}
	for i, rawRule := range rules {
		r, err := parseRule(rawRule, host.ranges)
		if err != nil {
			return nil, fmt.Errorf("policy: rule %d: %w", i+1, err)
		}
		p.add(r)
	}
	return p, nil
}

func (p *Policy) add(r *rule) {
	switch r.kind {
	case kindInternet, kindCIDR:
		p.addressRules = append(p.addressRules, r)
	case kindDomain:
		p.domainRules++
		if suffix, wild := strings.CutPrefix(r.name, "*."); wild {
			p.below[suffix] = append(p.below[suffix], r)
		} else {
			p.exact[r.name] = append(p.exact[r.name], r)
		}
	}
}

func parseRule(raw json.RawMessage, ranges []specialRange) (*rule, error) {
	kind, err := kindOf(raw)
	if err != nil {
		return nil, err
	}
	var members map[string]json.RawMessage
	switch kind {
	case kindInternet:
		members, err = object(raw, "id", "kind", "protocols", "ports?")
	case kindCIDR:
		members, err = object(raw, "id", "kind", "cidr", "protocols", "ports")
	case kindDomain:
		members, err = object(raw, "id", "kind", "name", "ports", "content", "within?")
	}
	if err != nil {
		return nil, err
	}
	r := &rule{kind: kind}
	if r.id, err = text(members["id"]); err != nil {
		return nil, fmt.Errorf("id: %w", err)
	}
	if err := checkID(r.id); err != nil {
		return nil, err
	}
	if err := r.read(members, ranges); err != nil {
		return nil, fmt.Errorf("%q: %w", r.id, err)
	}
	return r, nil
}

func kindOf(raw json.RawMessage) (ruleKind, error) {
	var head struct {
		Kind json.RawMessage `json:"kind"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return "", errors.New("it must be an object")
	}
	kind, err := oneOf(head.Kind, kindInternet, kindCIDR, kindDomain)
	if err != nil {
		return "", fmt.Errorf("kind: %w", err)
	}
	return kind, nil
}

func (r *rule) read(members map[string]json.RawMessage, ranges []specialRange) error {
	var err error
	switch r.kind {
	case kindInternet:
		if r.protocols, err = parseProtocols(members["protocols"]); err != nil {
			return err
		}
		return r.readInternetPorts(members["ports"])
	case kindCIDR:
		if r.protocols, err = parseProtocols(members["protocols"]); err != nil {
			return err
		}
		if r.ports, err = parsePorts(members["ports"]); err != nil {
			return err
		}
		if len(r.ports) == 0 && (r.has(TCP) || r.has(UDP)) {
			return errors.New("ports: none given, so tcp and udp reach nothing; name some, or leave icmp as the only protocol")
		}
		prefix, err := parsePrefix(members["cidr"], ranges)
		if err != nil {
			return fmt.Errorf("cidr: %w", err)
		}
		r.prefixes = []netip.Prefix{prefix}
		return nil
	case kindDomain:
		return r.readDomain(members, ranges)
	}
	return fmt.Errorf("kind %q is unknown", r.kind)
}

// readInternetPorts: left out, all are meant.
func (r *rule) readInternetPorts(raw json.RawMessage) error {
	if raw == nil {
		r.ports = []portRange{{1, 65535}}
		return nil
	}
	var err error
	if r.ports, err = parsePorts(raw); err != nil {
		return err
	}
	if len(r.ports) == 0 {
		return errors.New("ports: none given; name some, or leave the member out for all")
	}
	return nil
}

func (r *rule) readDomain(members map[string]json.RawMessage, ranges []specialRange) error {
	written, err := text(members["name"])
	if err != nil {
		return fmt.Errorf("name: %w", err)
	}
	if r.name, err = parsePattern(written); err != nil {
		return fmt.Errorf("name %q: %w", written, err)
	}
	if r.ports, err = parsePorts(members["ports"]); err != nil {
		return err
	}
	if len(r.ports) == 0 {
		return errors.New("ports: none given; name at least one")
	}
	content, err := oneOf(members["content"], "tls-or-http", "opaque")
	if err != nil {
		return fmt.Errorf("content: %w", err)
	}
	r.inspect = content == "tls-or-http"
	if within, given := members["within"]; given {
		entries, err := list(within, maxPerRule)
		if err != nil {
			return fmt.Errorf("within: %w", err)
		}
		for _, entry := range entries {
			prefix, err := parsePrefix(entry, ranges)
			if err != nil {
				return fmt.Errorf("within: %w", err)
			}
			r.prefixes = append(r.prefixes, prefix)
		}
	}
	return nil
}

func parseProtocols(raw json.RawMessage) ([]Protocol, error) {
	entries, err := list(raw, 3)
	if err != nil {
		return nil, fmt.Errorf("protocols: %w", err)
	}
	if len(entries) == 0 {
		return nil, errors.New("protocols: none given; name tcp, udp or icmp")
	}
	var protocols []Protocol
	for _, entry := range entries {
		protocol, err := oneOf(entry, TCP, UDP, ICMP)
		if err != nil {
			return nil, fmt.Errorf("protocols: %w", err)
		}
		if slices.Contains(protocols, protocol) {
			return nil, fmt.Errorf("protocols: %s is named twice", protocol)
		}
		protocols = append(protocols, protocol)
	}
	return protocols, nil
}

func parsePorts(raw json.RawMessage) ([]portRange, error) {
	entries, err := list(raw, maxPerRule)
	if err != nil {
		return nil, fmt.Errorf("ports: %w", err)
	}
	var ports []portRange
	for _, entry := range entries {
		var pair []int
		if err := json.Unmarshal(entry, &pair); err != nil || len(pair) != 2 {
			return nil, errors.New("ports: each must be two whole numbers, [from, to]")
		}
		if pair[0] < 0 || pair[1] > 65535 || pair[0] > pair[1] {
			return nil, fmt.Errorf("ports: [%d, %d] is no range within 0 to 65535", pair[0], pair[1])
		}
		ports = append(ports, portRange{uint16(pair[0]), uint16(pair[1])})
	}
	return ports, nil
}

func parsePrefix(raw json.RawMessage, ranges []specialRange) (netip.Prefix, error) {
	written, err := text(raw)
	if err != nil {
		return netip.Prefix{}, err
	}
	prefix, err := netip.ParsePrefix(written)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is no address range; write it like 10.1.0.0/16", written)
	}
	return prefix, checkPrefix(ranges, prefix)
}

func checkID(id string) error {
	if id == "" || len(id) > maxRuleIDLen {
		return fmt.Errorf("id: it must have 1 to %d bytes", maxRuleIDLen)
	}
	for _, r := range id {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return errors.New("id: it must be printable")
		}
	}
	return nil
}

// object reads an object that has just these members, each once; a name that ends in "?" may be missing.
func object(raw []byte, allowed ...string) (map[string]json.RawMessage, error) {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return nil, errors.New("it must be an object")
	}
	members := map[string]json.RawMessage{}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return nil, fmt.Errorf("it is no JSON: %w", err)
		}
		name, _ := token.(string)
		if !slices.Contains(allowed, name) && !slices.Contains(allowed, name+"?") || strings.HasSuffix(name, "?") {
			return nil, fmt.Errorf("member %q is unknown", name)
		}
		if _, twice := members[name]; twice {
			return nil, fmt.Errorf("member %q is given twice", name)
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return nil, fmt.Errorf("member %q is no JSON: %w", name, err)
		}
		members[name] = value
	}
	if _, err := decoder.Token(); err != nil {
		return nil, fmt.Errorf("it is no JSON: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is something after its end")
	}
	for _, name := range allowed {
		if _, given := members[name]; !given && !strings.HasSuffix(name, "?") {
			return nil, fmt.Errorf("member %q is missing", name)
		}
	}
	return members, nil
}

func list(raw json.RawMessage, most int) ([]json.RawMessage, error) {
	var entries []json.RawMessage
	if err := json.Unmarshal(raw, &entries); err != nil || entries == nil {
		return nil, errors.New("it must be a list")
	}
	if len(entries) > most {
		return nil, fmt.Errorf("it has %d entries, at most %d are taken", len(entries), most)
	}
	return entries, nil
}

func text(raw json.RawMessage) (string, error) {
	var value *string
	if err := json.Unmarshal(raw, &value); err != nil || value == nil {
		return "", errors.New("it must be a string")
	}
	return *value, nil
}

func oneOf[T ~string](raw json.RawMessage, allowed ...T) (T, error) {
	value, err := text(raw)
	if err != nil || !slices.Contains(allowed, T(value)) {
		return "", fmt.Errorf("it must be one of %q", allowed)
	}
	return T(value), nil
}
