package dns

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

func silent(asked) [][]byte { return nil }

func TestFailureOfUpstreamsIsServerFailure(t *testing.T) {
	rcode := func(code dnsmessage.RCode) func(q asked) [][]byte {
		return func(q asked) [][]byte { return q.reply(func(m *dnsmessage.Message) { m.RCode = code }) }
	}
	for _, c := range []struct {
		what   string
		say    func(q asked) [][]byte
		reason string
	}{
		{"silence", silent, ReasonTimeout},
		{"SERVFAIL", rcode(dnsmessage.RCodeServerFailure), ReasonUpstream},
		{"REFUSED", rcode(dnsmessage.RCodeRefused), ReasonUpstream},
		{"NOTIMP", rcode(dnsmessage.RCodeNotImplemented), ReasonUpstream},
		{"noise", func(asked) [][]byte { return [][]byte{[]byte("noise"), nil} }, ReasonTimeout},
		{"a cut record", func(q asked) [][]byte {
			wire := q.reply(nil, a(q.name, 30, "93.184.216.34"))[0]
			return [][]byte{wire[:len(wire)-2]}
		}, ReasonUpstream},
		{"too many records", func(q asked) [][]byte {
			var all []dnsmessage.Resource
			for range maxReadRecords + 1 {
				all = append(all, a(q.name, 30, "93.184.216.34"))
			}
			return q.reply(func(m *dnsmessage.Message) { m.Truncated = !q.tcp }, all...)
		}, ReasonUpstream},
	} {
		b := startGuest(t, openPolicy, startUpstream(t, c.say))
		if c.reason == ReasonTimeout {
			b.r.attempt = 50 * time.Millisecond
		}
		outcome, got := b.ask("www.example.org", dnsmessage.TypeA)
		if got.RCode != dnsmessage.RCodeServerFailure || outcome.Reason != c.reason || !outcome.Allowed || b.table.Len() != 0 {
			t.Errorf("%s: %+v", c.what, outcome)
		}
	}
	b := startGuest(t, openPolicy)
	if outcome, got := b.ask("www.example.org", dnsmessage.TypeA); got.RCode != dnsmessage.RCodeServerFailure || outcome.Reason != ReasonNoUpstream {
		t.Errorf("no upstream: %+v", outcome)
	}
}

func TestTheNextUpstreamIsAskedAndThenPreferred(t *testing.T) {
	dead := startUpstream(t, silent)
	failing := startUpstream(t, func(q asked) [][]byte {
		return q.reply(func(m *dnsmessage.Message) { m.RCode = dnsmessage.RCodeServerFailure })
	})
	good := startUpstream(t, everyName("93.184.216.34", 30))
	b := startGuest(t, openPolicy, dead, failing, good)
	b.r.attempt = 500 * time.Millisecond
	for _, name := range []string{"a.example.org", "b.example.org"} {
		if outcome, _ := b.ask(name, dnsmessage.TypeA); len(outcome.Answers) != 1 {
			t.Errorf("%s: %+v", name, outcome)
		}
	}
	if n := len(dead.questions()); n != 1 {
		t.Errorf("the dead one was asked %d times", n)
	}
}

func TestOneLostDatagramIsSentAgain(t *testing.T) {
	lost := false
	u := startUpstream(t, func(q asked) [][]byte {
		if !lost {
			lost = true
			return nil
		}
		return everyName("93.184.216.34", 30)(q)
	})
	b := startGuest(t, openPolicy, u)
	b.r.attempt = 500 * time.Millisecond
	if outcome, _ := b.ask("a.example.org", dnsmessage.TypeA); len(outcome.Answers) != 1 {
		t.Errorf("%+v", outcome)
	}
}

func TestForgedAnswersArePassedOver(t *testing.T) {
	forge := func(q asked, change func(m *dnsmessage.Message)) []byte {
		return q.reply(change, a(q.name, 30, "6.6.6.6"))[0]
	}
	u := startUpstream(t, func(q asked) [][]byte {
		return [][]byte{
			forge(q, func(m *dnsmessage.Message) { m.ID++ }),
			forge(q, func(m *dnsmessage.Message) { m.Response = false }),
			forge(q, func(m *dnsmessage.Message) { m.Questions = nil }),
			forge(q, func(m *dnsmessage.Message) { m.Questions = question1("evil.com", dnsmessage.TypeA).Questions }),
			forge(q, func(m *dnsmessage.Message) { m.Questions = question1(q.name, dnsmessage.TypeTXT).Questions }),
			forge(q, func(m *dnsmessage.Message) { m.Questions = append(m.Questions, m.Questions[0]) }),
			everyName("93.184.216.34", 30)(q)[0],
		}
	})
	b := startGuest(t, openPolicy, u)
	if outcome, got := b.ask("www.example.org", dnsmessage.TypeA); !slices.Equal(addresses(got), []string{"93.184.216.34"}) {
		t.Errorf("%+v", outcome)
	}
}

func TestAnAnswerInAnotherSpellingIsAskedAgainOverTCP(t *testing.T) {
	u := startUpstream(t, func(q asked) [][]byte {
		addr := "6.6.6.6"
		if q.tcp {
			addr = "93.184.216.34"
		}
		return q.reply(func(m *dnsmessage.Message) { m.Questions = question1(q.name, q.kind).Questions }, a(q.name, 30, addr))
	})
	b := startGuest(t, openPolicy, u)
	if outcome, got := b.ask("a-name-long-enough-to-be-spelled-otherwise.example.org", dnsmessage.TypeA); !slices.Equal(addresses(got), []string{"93.184.216.34"}) {
		t.Errorf("%+v", outcome)
	}
}

func TestUpstreamsWithoutEDNSAreAskedWithout(t *testing.T) {
	u := startUpstream(t, func(q asked) [][]byte {
		if q.edns {
			return q.reply(func(m *dnsmessage.Message) { m.RCode, m.Questions = dnsmessage.RCodeFormatError, nil })
		}
		return everyName("93.184.216.34", 30)(q)
	})
	b := startGuest(t, openPolicy, u)
	if outcome, _ := b.ask("a.example.org", dnsmessage.TypeA); len(outcome.Answers) != 1 {
		t.Errorf("%+v", outcome)
	}
}

func TestIdsPortsAndSpellingsDiffer(t *testing.T) {
	u := startUpstream(t, everyName("93.184.216.34", 0))
	b := startGuest(t, openPolicy, u)
	ids, spellings := map[uint16]bool{}, map[string]bool{}
	for range 20 {
		b.ask("a-rather-long-name.example.org", dnsmessage.TypeA)
	}
	for _, q := range u.questions() {
		ids[q.message.ID], spellings[q.spelled] = true, true
		if strings.ToLower(q.spelled) != "a-rather-long-name.example.org." {
			t.Error(q.spelled)
		}
	}
	if len(ids) < 18 || len(spellings) < 15 {
		t.Errorf("%d ids, %d spellings", len(ids), len(spellings))
	}
}

func TestUpstreamsAreReadFromTheHost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	text := "# comment\nsearch corp.example\nnameserver 192.0.2.53\nnameserver fe80::1%eth0\nnameserver nonsense\nnameserver\noptions rotate\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := SystemUpstreams(path)
	want := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53"), netip.MustParseAddrPort("[fe80::1%eth0]:53")}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v %v", got, err)
	}
	if _, err := SystemUpstreams(path + "x"); err == nil {
		t.Error("a file that isn't there was read")
	}
	if _, err := NewResolver(ResolverConfig{Upstreams: []netip.AddrPort{{}}}); err == nil {
		t.Error("an upstream without an address was taken")
	}
}
