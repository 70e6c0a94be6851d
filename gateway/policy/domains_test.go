package policy

import (
	"net/netip"
	"testing"
)

func TestNamesAreFoundByTheNearestRule(t *testing.T) {
	p := mustParse(t, testHost(t), `{"dns":"listed","rules":[
		{"id":"far","kind":"domain","name":"*.example.com","ports":[[443,443]],"content":"opaque"},
		{"id":"near","kind":"domain","name":"*.eu.example.com","ports":[[443,443]],"content":"opaque"},
		{"id":"own","kind":"domain","name":"www.eu.example.com","ports":[[443,443]],"content":"opaque"},
		{"id":"goog","kind":"domain","name":"*.google.com","ports":[[443,443]],"content":"opaque"},
		{"id":"doh","kind":"domain","name":"dns.quad9.net","ports":[[443,443]],"content":"opaque"}]}`)
	for _, c := range []struct{ name, rule, below, reason string }{
		{"www.eu.example.com", "own", "", ""},
		{"a.eu.example.com", "near", "a", ""},
		{"a.b.eu.example.com", "near", "a.b", ""},
		{"eu.example.com", "far", "eu", ""},
		{"example.com", "", "", ReasonNotListed},
		{"com", "", "", ReasonNotListed},
		{"notexample.com", "", "", ReasonNotListed},
		{"maps.google.com", "goog", "maps", ""},
		{"dns.google.com", "", "", ReasonForeignResolver},
		{"dns.google", "", "", ReasonForeignResolver},
		{"mozilla.cloudflare-dns.com", "", "", ReasonForeignResolver},
		{"dns.quad9.net", "doh", "", ""},
	} {
		match, reason := p.Resolvable(c.name)
		if match.Rule != c.rule || match.Below != c.below || reason != c.reason {
			t.Errorf("%s: %+v %q", c.name, match, reason)
		}
	}
}

func TestAnswersGiveOnlyAddressesTheGuestCouldBeLetThroughTo(t *testing.T) {
	host := testHost(t, "172.20.0.0/16")
	p := mustParse(t, host, `{"dns":"open","rules":[
		{"id":"net","kind":"internet","protocols":["tcp"]},
		{"id":"lan","kind":"cidr","cidr":"10.7.0.0/16","protocols":["tcp"],"ports":[[80,80]]},
		{"id":"in","kind":"domain","name":"*.corp.example","ports":[[443,443]],"content":"opaque","within":["192.168.5.0/24","10.9.0.0/16"]}]}`)
	for _, c := range []struct{ name, addr, reason string }{
		{"a.example", "93.184.216.34", ""},
		{"a.example", "10.1.1.1", ReasonPrivate},
		{"a.example", "10.7.1.1", ""},
		{"a.example", "172.20.1.1", ""},
		{"a.example", "192.168.5.1", ReasonPrivate},
		{"x.corp.example", "192.168.5.1", ""},
		{"x.corp.example", "192.168.6.1", ReasonPrivate},
		{"x.corp.example", "10.9.0.7", ReasonHostAddress},
		{"x.corp.example", "10.9.0.8", ""},
		{"x.corp.example", "127.0.0.1", ReasonLoopback},
		{"x.corp.example", "169.254.169.254", ReasonMetadata},
		{"a.example", "8.8.4.4", ReasonHostAddress},
		{"a.example", "0.0.0.0", ReasonLoopback},
		{"a.example", "::ffff:10.1.1.1", ReasonPrivate},
	} {
		if reason, ok := p.Answer(c.name, netip.MustParseAddr(c.addr)); reason != c.reason || ok != (c.reason == "") {
			t.Errorf("%s %s: %q %v", c.name, c.addr, reason, ok)
		}
	}
}

func TestNormalNamesAreHostNamesOnly(t *testing.T) {
	for name, want := range map[string]string{
		"Example.COM.": "example.com", "a_b.example": "a_b.example", "localhost": "localhost", "xn--bcher-kva.example": "xn--bcher-kva.example",
		"": "", ".": "", "a..b": "", ".a": "", "a b": "", "bücher.example": "", "127.0.0.1": "", "0x7f.1": "", "1": "", "a.0x7f000001": "",
		"-a.example": "", "a-.example": "", "*.example": "", "a:80": "", "[::1]": "", "a.b..": "", "\u212aelvin.example": "",
	} {
		if got, ok := NormalName(name); ok && got != want || ok != (want != "") {
			t.Errorf("%q: %q %v", name, got, ok)
		}
	}
}
