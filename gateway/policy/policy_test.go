package policy

import (
	"net/netip"
	"testing"
	"time"

	"rekindle/gateway/names"
)

func testHost(t *testing.T, reachable ...string) *Host {
	t.Helper()
	config := HostConfig{
		Addresses: []netip.Addr{netip.MustParseAddr("8.8.4.4")},
		Interfaces: func() ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("10.9.0.7"), netip.MustParseAddr("::1")}, nil
		},
	}
	for _, prefix := range reachable {
		config.Reachable = append(config.Reachable, netip.MustParsePrefix(prefix))
	}
	host, err := NewHost(config)
	if err != nil {
		t.Fatal(err)
	}
	return host
}

func mustParse(t *testing.T, host *Host, raw string) *Policy {
	t.Helper()
	p, err := Parse([]byte(raw), host)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const internetOnly = `{"dns":"open","rules":[{"id":"net","kind":"internet","protocols":["tcp","udp","icmp"]}]}`

func TestInternetIsEveryPublicAddressAndNoOther(t *testing.T) {
	p := mustParse(t, testHost(t), internetOnly)
	for _, c := range []struct{ first, last, reason string }{
		{"0.0.0.0", "0.255.255.255", ReasonLoopback},
		{"1.0.0.0", "9.255.255.255", ""},
		{"10.0.0.0", "10.255.255.255", ReasonPrivate},
		{"11.0.0.0", "100.63.255.255", ""},
		{"100.64.0.0", "100.127.255.255", ReasonPrivate},
		{"100.128.0.0", "126.255.255.255", ""},
		{"127.0.0.0", "127.255.255.255", ReasonLoopback},
		{"128.0.0.0", "169.253.255.255", ""},
		{"169.254.0.0", "169.254.255.255", ReasonLinkLocal},
		{"169.255.0.0", "172.15.255.255", ""},
		{"172.16.0.0", "172.31.255.255", ReasonPrivate},
		{"172.32.0.0", "191.255.255.255", ""},
		{"192.0.0.0", "192.0.0.255", ReasonReserved},
		{"192.0.1.0", "192.0.1.255", ""},
		{"192.0.2.0", "192.0.2.255", ReasonReserved},
		{"192.0.3.0", "192.88.98.255", ""},
		{"192.88.99.0", "192.88.99.255", ReasonReserved},
		{"192.88.100.0", "192.167.255.255", ""},
		{"192.168.0.0", "192.168.255.255", ReasonPrivate},
		{"192.169.0.0", "198.17.255.255", ""},
		{"198.18.0.0", "198.19.255.255", ReasonReserved},
		{"198.20.0.0", "198.51.99.255", ""},
		{"198.51.100.0", "198.51.100.255", ReasonReserved},
		{"198.51.101.0", "203.0.112.255", ""},
		{"203.0.113.0", "203.0.113.255", ReasonReserved},
		{"203.0.114.0", "223.255.255.255", ""},
		{"224.0.0.0", "239.255.255.255", ReasonMulticast},
		{"240.0.0.0", "255.255.255.254", ReasonReserved},
		{"255.255.255.255", "255.255.255.255", ReasonMulticast},
		{"169.254.169.254", "169.254.169.254", ReasonMetadata},
		{"168.63.129.16", "168.63.129.16", ReasonMetadata},
		{"100.100.100.200", "100.100.100.200", ReasonMetadata},
		{"192.0.0.192", "192.0.0.192", ReasonMetadata},
		{"10.9.0.7", "10.9.0.7", ReasonHostAddress},
		{"8.8.4.4", "8.8.4.4", ReasonHostAddress},
		{"::1", "::1", ReasonIPv6},
		{"2001:4860:4860::8888", "fe80::1", ReasonIPv6},
		{"::ffff:127.0.0.1", "::ffff:127.0.0.1", ReasonLoopback},
		{"::ffff:1.1.1.1", "::ffff:9.9.9.9", ""},
	} {
		for _, addr := range []string{c.first, c.last} {
			for _, protocol := range []Protocol{TCP, UDP, ICMP} {
				port := uint16(443)
				if protocol == ICMP {
					port = 0
				}
				v := p.Connect(protocol, netip.AddrPortFrom(netip.MustParseAddr(addr), port), nil, time.Time{})
				if v.Allowed != (c.reason == "") || v.Reason != c.reason {
					t.Errorf("%s %s: %+v, want %q", protocol, addr, v, c.reason)
				}
				if v.Allowed && v.Rule != "net" {
					t.Errorf("%s %s: rule %q", protocol, addr, v.Rule)
				}
			}
		}
	}
}

func TestAnInternetRuleGivesItsPortsOnly(t *testing.T) {
	p := mustParse(t, testHost(t), `{"dns":"open","rules":[
		{"id":"web","kind":"internet","protocols":["tcp"],"ports":[[443,443],[8000,8100]]},
		{"id":"ping","kind":"internet","protocols":["icmp"]}]}`)
	check(t, p, TCP, "1.1.1.1:443", "web", "")
	check(t, p, TCP, "1.1.1.1:8100", "web", "")
	check(t, p, ICMP, "1.1.1.1:0", "ping", "")
	check(t, p, TCP, "10.0.0.1:443", "", ReasonPrivate)
	for _, to := range []string{"1.1.1.1:80", "1.1.1.1:8101", "1.1.1.1:0"} {
		if v := p.Connect(TCP, netip.MustParseAddrPort(to), nil, time.Now()); v.Allowed {
			t.Errorf("%s is allowed by %s", to, v.Rule)
		}
	}
}

func TestReachableOpensPrivateAddressesButNeverTheHostOrItsLink(t *testing.T) {
	p := mustParse(t, testHost(t, "10.0.0.0/8", "203.0.113.0/24", "100.64.0.0/10"), internetOnly)
	check(t, p, TCP, "10.1.2.3:80", "net", "")
	check(t, p, TCP, "203.0.113.1:80", "net", "")
	check(t, p, TCP, "10.9.0.7:80", "", ReasonHostAddress)
	check(t, p, TCP, "100.100.100.200:80", "", ReasonMetadata)
	check(t, p, TCP, "192.168.0.1:80", "", ReasonPrivate)

	p = mustParse(t, testHost(t, "10.9.0.7/32"), internetOnly)
	check(t, p, TCP, "10.9.0.7:80", "net", "")
	check(t, p, TCP, "10.9.0.8:80", "", ReasonPrivate)
}

func TestWhatIsNeverReachableCantBeMadeSo(t *testing.T) {
	for _, prefix := range []string{"127.0.0.0/8", "127.0.0.1/32", "169.254.0.0/16", "169.254.169.254/32", "0.0.0.0/0", "224.0.0.0/4", "192.0.0.0/24", "168.63.129.16/32", "255.255.255.255/32", "fd00::/8", "10.0.0.1/8"} {
		host := HostConfig{Interfaces: func() ([]netip.Addr, error) { return nil, nil }, Reachable: []netip.Prefix{netip.MustParsePrefix(prefix)}}
		if _, err := NewHost(host); err == nil {
			t.Errorf("%s was taken", prefix)
		}
	}
}

func TestACIDRRuleOpensWhatItNames(t *testing.T) {
	p := mustParse(t, testHost(t), `{"dns":"open","rules":[
		{"id":"db","kind":"cidr","cidr":"10.9.0.0/16","protocols":["tcp"],"ports":[[5432,5433],[80,80]]},
		{"id":"ping","kind":"cidr","cidr":"10.8.0.0/16","protocols":["icmp"],"ports":[]},
		{"id":"nat","kind":"cidr","cidr":"100.64.0.0/10","protocols":["udp"],"ports":[[0,65535]]},
		{"id":"doc","kind":"cidr","cidr":"8.8.4.0/24","protocols":["tcp"],"ports":[[1,65535]]}]}`)
	check(t, p, TCP, "10.9.1.1:5432", "db", "")
	check(t, p, TCP, "10.9.1.1:5433", "db", "")
	check(t, p, TCP, "10.9.1.1:5434", "", ReasonPort)
	check(t, p, TCP, "10.9.1.1:5431", "", ReasonPort)
	check(t, p, TCP, "10.9.1.1:80", "db", "")
	check(t, p, UDP, "10.9.1.1:80", "", ReasonProtocol)
	check(t, p, ICMP, "10.9.1.1:0", "", ReasonProtocol)
	check(t, p, ICMP, "10.8.1.1:0", "ping", "")
	check(t, p, TCP, "10.8.1.1:80", "", ReasonProtocol)
	check(t, p, TCP, "10.9.0.7:80", "", ReasonHostAddress)
	check(t, p, TCP, "8.8.4.4:80", "", ReasonHostAddress)
	check(t, p, TCP, "8.8.4.5:80", "doc", "")
	check(t, p, TCP, "8.8.8.8:80", "", ReasonNoRule)
	check(t, p, TCP, "11.0.0.1:80", "", ReasonNoRule)
	check(t, p, UDP, "100.64.0.1:0", "", ReasonPort)
	check(t, p, UDP, "100.64.0.1:65535", "nat", "")
	check(t, p, UDP, "100.100.100.200:53", "", ReasonMetadata)
}

func TestAHostAddressIsOpenOnlyWhereItIsNamedAlone(t *testing.T) {
	raw := `{"dns":"open","rules":[{"id":"it","kind":"cidr","cidr":"10.9.0.7/32","protocols":["tcp"],"ports":[[80,80]]}]}`
	check(t, mustParse(t, testHost(t), raw), TCP, "10.9.0.7:80", "it", "")
	wide := `{"dns":"open","rules":[{"id":"wide","kind":"cidr","cidr":"10.9.0.0/24","protocols":["tcp"],"ports":[[80,80]]}]}`
	check(t, mustParse(t, testHost(t), wide), TCP, "10.9.0.7:80", "", ReasonHostAddress)
	check(t, mustParse(t, testHost(t, "10.9.0.7/32"), wide), TCP, "10.9.0.7:80", "wide", "")
}

func TestAddressesTheHostGetsLaterAreRefusedFromThenOn(t *testing.T) {
	own := []netip.Addr{}
	host, err := NewHost(HostConfig{Interfaces: func() ([]netip.Addr, error) { return own, nil }})
	if err != nil {
		t.Fatal(err)
	}
	p := mustParse(t, host, internetOnly)
	check(t, p, TCP, "5.6.7.8:80", "net", "")
	own = append(own, netip.MustParseAddr("5.6.7.8"))
	if err := host.Refresh(); err != nil {
		t.Fatal(err)
	}
	check(t, p, TCP, "5.6.7.8:80", "", ReasonHostAddress)
}

const listed = `{"dns":"listed","rules":[
	{"id":"api","kind":"domain","name":"api.example.com","ports":[[443,443],[80,80]],"content":"tls-or-http"},
	{"id":"all","kind":"domain","name":"*.example.com","ports":[[443,443]],"content":"tls-or-http"},
	{"id":"smtp","kind":"domain","name":"mail.example.net","ports":[[1,1024]],"content":"opaque"},
	{"id":"in","kind":"domain","name":"db.example.net","ports":[[5432,5432]],"content":"opaque","within":["10.1.0.0/16"]}]}`

func TestADomainRuleOpensAddressesWhileTheirAnswerLives(t *testing.T) {
	p := mustParse(t, testHost(t), listed)
	now := time.Unix(1_000_000, 0)
	table := names.New()
	to := netip.MustParseAddrPort("93.184.216.34:443")
	if v := p.Connect(TCP, to, table, now); v.Allowed || v.Reason != ReasonNotResolved {
		t.Errorf("before: %+v", v)
	}
	table.Learn(to.Addr(), "api.example.com", time.Minute, now)
	v := p.Connect(TCP, to, table, now)
	if !v.Allowed || v.Rule != "api" || !v.Inspect || len(v.Names) != 1 || v.Names[0] != "api.example.com" {
		t.Errorf("living: %+v", v)
	}
	if v := p.Connect(TCP, to, table, now.Add(62*time.Second)); v.Allowed || v.Reason != ReasonNotResolved {
		t.Errorf("dead: %+v", v)
	}
	if v := p.Judge(TCP, to, v.Names); !v.Allowed {
		t.Errorf("an open flow judged again: %+v", v)
	}
}

func TestADomainRuleGivesItsPortsAndProtocolsOnly(t *testing.T) {
	p := mustParse(t, testHost(t), listed)
	for _, c := range []struct {
		protocol          Protocol
		to, name          string
		rule, reason      string
		inspect, expected bool
	}{
		{TCP, "9.9.9.9:80", "api.example.com", "api", "", true, true},
		{TCP, "9.9.9.9:80", "b.example.com", "", ReasonPort, false, false},
		{TCP, "9.9.9.9:443", "a.b.example.com", "all", "", true, true},
		{UDP, "9.9.9.9:443", "api.example.com", "", ReasonProtocol, false, false},
		{ICMP, "9.9.9.9:0", "mail.example.net", "", ReasonProtocol, false, false},
		{UDP, "9.9.9.9:123", "mail.example.net", "smtp", "", false, true},
		{TCP, "9.9.9.9:25", "mail.example.net", "smtp", "", false, true},
		{TCP, "9.9.9.9:853", "mail.example.net", "", ReasonForeignResolver, false, false},
		{UDP, "9.9.9.9:53", "mail.example.net", "", ReasonForeignResolver, false, false},
		{TCP, "10.1.2.3:5432", "db.example.net", "in", "", false, true},
		{TCP, "10.2.2.3:5432", "db.example.net", "", ReasonPrivate, false, false},
		{TCP, "10.1.2.3:443", "api.example.com", "", ReasonPrivate, false, false},
		{TCP, "127.0.0.1:443", "api.example.com", "", ReasonLoopback, false, false},
		{TCP, "8.8.4.4:443", "api.example.com", "", ReasonHostAddress, false, false},
		{TCP, "9.9.9.9:443", "example.com", "", ReasonNotResolved, false, false},
		{TCP, "9.9.9.9:443", "badexample.com", "", ReasonNotResolved, false, false},
	} {
		v := p.Judge(c.protocol, netip.MustParseAddrPort(c.to), []string{c.name})
		if v.Allowed != c.expected || v.Rule != c.rule || v.Reason != c.reason || v.Inspect != c.inspect {
			t.Errorf("%s %s as %s: %+v", c.protocol, c.to, c.name, v)
		}
	}
}

func TestANameCanOnlyBeShownAtAnAddressThatWasItsRules(t *testing.T) {
	p := mustParse(t, testHost(t), listed)
	to := netip.MustParseAddrPort("9.9.9.9:443")
	for _, c := range []struct {
		name     string
		resolved []string
		rule     string
	}{
		{"api.example.com", []string{"api.example.com"}, "api"},
		{"API.Example.COM.", []string{"api.example.com"}, "api"},
		{"b.example.com", []string{"c.example.com"}, "all"},
		{"b.example.com", []string{"mail.example.net"}, ""},
		{"api.example.com", nil, ""},
		{"evil.com", []string{"api.example.com"}, ""},
		{"example.com", []string{"api.example.com"}, ""},
		{"mail.example.net", []string{"mail.example.net"}, ""},
		{"9.9.9.9", []string{"api.example.com"}, ""},
		{"", []string{"api.example.com"}, ""},
		{"*.example.com", []string{"api.example.com"}, ""},
		{".example.com", []string{"api.example.com"}, ""},
	} {
		if rule, ok := p.Shown(c.name, to, c.resolved); rule != c.rule || ok != (c.rule != "") {
			t.Errorf("%q at %v: %q %v", c.name, c.resolved, rule, ok)
		}
	}
	if _, ok := p.Shown("b.example.com", netip.MustParseAddrPort("9.9.9.9:80"), []string{"b.example.com"}); ok {
		t.Error("shown at a port the rule doesn't have")
	}
}

func TestARuleThatDoesntLookInsideWinsOverOneThatDoes(t *testing.T) {
	p := mustParse(t, testHost(t), `{"dns":"listed","rules":[
		{"id":"seen","kind":"domain","name":"*.example.com","ports":[[443,443]],"content":"tls-or-http"},
		{"id":"blind","kind":"domain","name":"raw.example.com","ports":[[443,443]],"content":"opaque"},
		{"id":"net","kind":"cidr","cidr":"9.9.9.0/24","protocols":["tcp"],"ports":[[443,443]]}]}`)
	v := p.Judge(TCP, netip.MustParseAddrPort("9.9.8.9:443"), []string{"a.example.com", "raw.example.com"})
	if !v.Allowed || v.Inspect || v.Rule != "blind" || v.Names[0] != "raw.example.com" {
		t.Errorf("%+v", v)
	}
	v = p.Judge(TCP, netip.MustParseAddrPort("9.9.9.9:443"), []string{"a.example.com"})
	if !v.Allowed || v.Inspect || v.Rule != "net" {
		t.Errorf("%+v", v)
	}
}

func TestResolverPortsOpenInListedModeOnlyWhereTheyAreNamedAlone(t *testing.T) {
	raw := func(dns, ports string) string {
		return `{"dns":"` + dns + `","rules":[{"id":"r","kind":"cidr","cidr":"10.1.0.0/16","protocols":["tcp","udp"],"ports":` + ports + `},
			{"id":"net","kind":"internet","protocols":["tcp","udp"]}]}`
	}
	for _, port := range []string{"53", "853"} {
		check(t, mustParse(t, testHost(t), raw("open", "[[0,65535]]")), UDP, "10.1.0.1:"+port, "r", "")
		check(t, mustParse(t, testHost(t), raw("open", "[[0,65535]]")), UDP, "9.9.9.9:"+port, "net", "")
		for _, mode := range []string{"listed", "off"} {
			check(t, mustParse(t, testHost(t), raw(mode, "[[0,65535]]")), UDP, "10.1.0.1:"+port, "", ReasonForeignResolver)
			check(t, mustParse(t, testHost(t), raw(mode, "[[53,53],[853,853]]")), TCP, "10.1.0.1:"+port, "r", "")
			check(t, mustParse(t, testHost(t), raw(mode, "[[0,65535]]")), TCP, "9.9.9.9:"+port, "", ReasonForeignResolver)
		}
	}
}

func TestAnEmptyPolicyAllowsNothing(t *testing.T) {
	p := mustParse(t, testHost(t, "10.0.0.0/8"), `{"dns":"off","rules":[]}`)
	check(t, p, TCP, "9.9.9.9:443", "", ReasonNoRule)
	check(t, p, TCP, "10.1.1.1:443", "", ReasonPrivate)
	if _, reason := p.Resolvable("example.com"); reason != ReasonDNSOff {
		t.Error(reason)
	}
}

func check(t *testing.T, p *Policy, protocol Protocol, to, rule, reason string) {
	t.Helper()
	v := p.Connect(protocol, netip.MustParseAddrPort(to), nil, time.Time{})
	if v.Allowed != (reason == "") || v.Reason != reason || v.Rule != rule {
		t.Errorf("%s %s: %+v, want rule %q reason %q", protocol, to, v, rule, reason)
	}
}
