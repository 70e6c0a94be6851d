package policy

import (
	"strings"
	"testing"
)

func TestAPolicyThatCantBeReadWholeIsRefusedWithASentence(t *testing.T) {
	rule := func(r string) string { return `{"dns":"open","rules":[` + r + `]}` }
	domain := func(name string) string {
		return rule(`{"id":"d","kind":"domain","name":"` + name + `","ports":[[443,443]],"content":"opaque"}`)
	}
	cidr := func(cidr string) string {
		return rule(`{"id":"c","kind":"cidr","cidr":"` + cidr + `","protocols":["tcp"],"ports":[[1,2]]}`)
	}
	for _, c := range []struct{ raw, says string }{
		{``, "must be an object"},
		{`null`, "must be an object"},
		{`[]`, "must be an object"},
		{`{"dns":"open"}`, `"rules" is missing`},
		{`{"rules":[]}`, `"dns" is missing`},
		{`{"dns":"open","rules":[],"extra":1}`, `"extra" is unknown`},
		{`{"dns":"open","Rules":[],"rules":[]}`, `"Rules" is unknown`},
		{`{"dns":"open","dns":"off","rules":[]}`, `"dns" is given twice`},
		{`{"dns":"all","rules":[]}`, "dns: it must be one of"},
		{`{"dns":null,"rules":[]}`, "dns: it must be one of"},
		{`{"dns":"open","rules":null}`, "must be a list"},
		{`{"dns":"open","rules":{}}`, "must be a list"},
		{`{"dns":"open","rules":[]} {}`, "after its end"},
		{`{"dns":"open","rules":[]`, "no JSON"},
		{rule(`1`), "rule 1: it must be an object"},
		{rule(`{}`), "kind: it must be one of"},
		{rule(`{"id":"x","kind":"all"}`), "kind: it must be one of"},
		{rule(`{"id":"x","kind":"internet","Kind":"cidr","protocols":["tcp"]}`), "rule 1"},
		{rule(`{"id":"x","kind":"internet"}`), `"protocols" is missing`},
		{rule(`{"id":"x","kind":"internet","protocols":[]}`), "none given"},
		{rule(`{"id":"x","kind":"internet","protocols":["sctp"]}`), "must be one of"},
		{rule(`{"id":"x","kind":"internet","protocols":["tcp","tcp"]}`), "twice"},
		{rule(`{"id":"x","kind":"internet","protocols":["tcp"],"ports":[]}`), "ports: none given"},
		{rule(`{"id":"x","kind":"internet","protocols":["tcp"],"ports":[443]}`), "ports: each must be two"},
		{rule(`{"id":"x","kind":"internet","protocols":["tcp"],"cidr":"1.0.0.0/8"}`), `"cidr" is unknown`},
		{rule(`{"id":"","kind":"internet","protocols":["tcp"]}`), "id: it must have"},
		{rule(`{"id":1,"kind":"internet","protocols":["tcp"]}`), "id: it must be a string"},
		{rule(`{"id":"a\nb","kind":"internet","protocols":["tcp"]}`), "printable"},
		{rule(`{"id":"` + strings.Repeat("x", 257) + `","kind":"internet","protocols":["tcp"]}`), "id: it must have"},
		{cidr("10.0.0.0"), "no address range"},
		{cidr("10.0.0.0/33"), "no address range"},
		{cidr("10.0.0.1/8"), "write 10.0.0.0/8"},
		{cidr("fd00::/8"), "IPv4 only"},
		{cidr("::ffff:10.0.0.0/104"), "IPv4 only"},
		{cidr("0.0.0.0/0"), "touches"},
		{cidr("0.0.0.0/32"), "touches"},
		{cidr("127.0.0.0/8"), "touches loopback"},
		{cidr("126.0.0.0/7"), "touches loopback"},
		{cidr("169.254.0.0/16"), "touches"},
		{cidr("169.254.169.254/32"), "touches a metadata service"},
		{cidr("168.0.0.0/7"), "touches link-local"},
		{cidr("168.63.129.16/32"), "touches Azure"},
		{cidr("224.0.0.0/4"), "touches multicast"},
		{cidr("239.1.1.1/32"), "touches multicast"},
		{cidr("255.255.255.255/32"), "touches broadcast"},
		{cidr("192.0.0.0/24"), "guests' own link"},
		{rule(`{"id":"c","kind":"cidr","cidr":"10.0.0.0/8","protocols":["tcp"],"ports":[]}`), "ports: none given"},
		{rule(`{"id":"c","kind":"cidr","cidr":"10.0.0.0/8","protocols":["tcp"],"ports":[[1]]}`), "two whole numbers"},
		{rule(`{"id":"c","kind":"cidr","cidr":"10.0.0.0/8","protocols":["tcp"],"ports":[[1,2,3]]}`), "two whole numbers"},
		{rule(`{"id":"c","kind":"cidr","cidr":"10.0.0.0/8","protocols":["tcp"],"ports":[[1.5,2]]}`), "two whole numbers"},
		{rule(`{"id":"c","kind":"cidr","cidr":"10.0.0.0/8","protocols":["tcp"],"ports":[[2,1]]}`), "no range"},
		{rule(`{"id":"c","kind":"cidr","cidr":"10.0.0.0/8","protocols":["tcp"],"ports":[[-1,1]]}`), "no range"},
		{rule(`{"id":"c","kind":"cidr","cidr":"10.0.0.0/8","protocols":["tcp"],"ports":[[1,65536]]}`), "no range"},
		{rule(`{"id":"c","kind":"cidr","cidr":"10.0.0.0/8","protocols":["tcp"],"ports":1}`), "must be a list"},
		{domain(""), "name"},
		{domain("*"), "a * can only"},
		{domain("a.*.example.com"), "a * can only"},
		{domain("*a.example.com"), "a * can only"},
		{domain("*.*.example.com"), "a * can only"},
		{domain("*."), "dot at the end"},
		{domain("example.com."), "dot at the end"},
		{domain("exa mple.com"), "only letters"},
		{domain("bücher.example"), "only letters"},
		{domain("a..b"), "between dots"},
		{domain(strings.Repeat("a", 64) + ".com"), "between dots"},
		{domain(strings.Repeat("a.", 127) + "com"), "a name has"},
		{domain("10.0.0.1"), "that is an address"},
		{domain("*.1"), "that is an address"},
		{domain("-a.com"), "begin or end"},
		{rule(`{"id":"d","kind":"domain","name":"a.com","ports":[],"content":"opaque"}`), "ports: none given"},
		{rule(`{"id":"d","kind":"domain","name":"a.com","ports":[[1,1]],"content":"tls"}`), "content: it must be one of"},
		{rule(`{"id":"d","kind":"domain","name":"a.com","ports":[[1,1]],"content":"opaque","within":["127.0.0.0/8"]}`), "within: 127.0.0.0/8 touches"},
		{rule(`{"id":"d","kind":"domain","name":"a.com","ports":[[1,1]],"content":"opaque","within":"10.0.0.0/8"}`), "within: it must be a list"},
		{rule(`{"id":"d","kind":"domain","name":"a.com","ports":[[1,1]],"content":"opaque","protocols":["tcp"]}`), `"protocols" is unknown`},
	} {
		p, err := Parse([]byte(c.raw), testHost(t))
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", c.raw, err, c.says)
		}
		if p != nil {
			t.Errorf("%s: gave a policy all the same", c.raw)
		}
	}
}

func TestTooManyRulesAreRefused(t *testing.T) {
	rules := strings.Repeat(`{"id":"x","kind":"internet","protocols":["tcp"]},`, maxRules) + `{"id":"x","kind":"internet","protocols":["tcp"]}`
	if _, err := Parse([]byte(`{"dns":"open","rules":[`+rules+`]}`), testHost(t)); err == nil {
		t.Error("taken")
	}
}

func TestDomainNamesOfRulesAreTakenInAnyCase(t *testing.T) {
	p := mustParse(t, testHost(t), `{"dns":"listed","rules":[{"id":"d","kind":"domain","name":"*.Example.COM","ports":[[443,443]],"content":"opaque"}]}`)
	if _, reason := p.Resolvable("a.example.com"); reason != "" {
		t.Error(reason)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(listed))
	f.Add([]byte(internetOnly))
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := Parse(raw, testHost(t))
		if (p == nil) == (err == nil) {
			t.Fatalf("%v %v", p, err)
		}
	})
}
