package dns

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"rekindle/gateway/policy"
)

func everyName(addr string, ttl uint32) func(q asked) [][]byte {
	return func(q asked) [][]byte {
		if q.kind != dnsmessage.TypeA {
			return q.reply(nil)
		}
		return q.reply(nil, a(strings.TrimSuffix(q.spelled, "."), ttl, addr))
	}
}

func TestAListedNameIsAnsweredAndOpensItsAddress(t *testing.T) {
	u := startUpstream(t, everyName("93.184.216.34", 30))
	b := startGuest(t, listedPolicy, u)
	outcome, got := b.ask("API.example.com", dnsmessage.TypeA)
	if !outcome.Allowed || outcome.Rule != "api" || outcome.Reason != "" || outcome.Name != "API.example.com" || outcome.Type != "A" || len(outcome.Answers) != 1 {
		t.Errorf("%+v", outcome)
	}
	if got.RCode != 0 || len(got.Answers) != 1 || got.Answers[0].Header.Name.String() != "API.example.com." || got.Answers[0].Header.TTL != 30 {
		t.Errorf("%+v", got)
	}
	if names := b.table.Lookup(netip.MustParseAddr("93.184.216.34"), b.now()); !slices.Equal(names, []string{"api.example.com"}) {
		t.Errorf("table: %v", names)
	}
	b.advance(32 * time.Second)
	if names := b.table.Lookup(netip.MustParseAddr("93.184.216.34"), b.now()); names != nil {
		t.Errorf("table after the answer died: %v", names)
	}
}

func TestNothingOfAGuestsMessageGoesUpstreamButNameAndType(t *testing.T) {
	u := startUpstream(t, everyName("93.184.216.34", 30))
	b := startGuest(t, openPolicy, u)
	m := withEDNS(question1("aBcDeFgHiJkLmNoPqRsTuVwXyZ.example.com", dnsmessage.TypeA), 4096)
	m.CheckingDisabled, m.AuthenticData = true, true
	m.Additionals[0].Body = &dnsmessage.OPTResource{Options: []dnsmessage.Option{{Code: 65001, Data: []byte("stolen")}}}
	b.send(m, false)
	seen := u.questions()
	if len(seen) != 1 {
		t.Fatalf("%d questions", len(seen))
	}
	q := seen[0]
	if q.message.CheckingDisabled || q.message.AuthenticData || q.message.ID == 4711 && q.spelled == m.Questions[0].Name.String() {
		t.Errorf("%+v", q.message)
	}
	if body, ok := q.message.Additionals[0].Body.(*dnsmessage.OPTResource); !ok || len(body.Options) != 0 {
		t.Errorf("%+v", q.message.Additionals)
	}
	if q.name != "abcdefghijklmnopqrstuvwxyz.example.com" {
		t.Error(q.name)
	}
}

func TestWhatIsRefusedIsRefusedHonestly(t *testing.T) {
	u := startUpstream(t, everyName("93.184.216.34", 30))
	for _, c := range []struct {
		raw, name string
		kind      dnsmessage.Type
		reason    string
	}{
		{listedPolicy, "example.com", dnsmessage.TypeA, policy.ReasonNotListed},
		{listedPolicy, "evil.com", dnsmessage.TypeAAAA, policy.ReasonNotListed},
		{listedPolicy, "evil.com", dnsmessage.TypeHTTPS, policy.ReasonNotListed},
		{listedPolicy, "example.net", dnsmessage.TypeA, policy.ReasonNotListed},
		{listedPolicy, "dns.google", dnsmessage.TypeA, policy.ReasonForeignResolver},
		{listedPolicy, "api.example.com", dnsmessage.TypeTXT, ReasonType},
		{listedPolicy, "api.example.com", dnsmessage.TypeMX, ReasonType},
		{listedPolicy, "api.example.com", dnsmessage.TypeCNAME, ReasonType},
		{listedPolicy, "api.example.com", dnsmessage.TypeNS, ReasonType},
		{listedPolicy, "api.example.com", dnsmessage.TypeSRV, ReasonType},
		{listedPolicy, "api.example.com", dnsmessage.TypeALL, ReasonType},
		{listedPolicy, "api.example.com", 10, ReasonType},
		{listedPolicy, "api.example.com", 65535, ReasonType},
		{listedPolicy, "x.example.net", dnsmessage.TypeAXFR, ReasonType},
		{openPolicy, "example.com", dnsmessage.TypeALL, ReasonType},
		{openPolicy, "example.com", dnsmessage.TypeAXFR, ReasonType},
		{openPolicy, "example.com", 251, ReasonType},
		{openPolicy, "example.com", 10, ReasonType},
		{openPolicy, "example.com", 65399, ReasonType},
		{openPolicy, "ex ample.com", dnsmessage.TypeA, ReasonName},
		{openPolicy, "\xff\x00.com", dnsmessage.TypeA, ReasonName},
		{openPolicy, "10.0.0.1", dnsmessage.TypeA, ReasonName},
		{openPolicy, "1.0.0.10.in-addr.arpa", dnsmessage.TypePTR, policy.ReasonPrivate},
		{openPolicy, "168.192.in-addr.arpa", dnsmessage.TypeSOA, policy.ReasonPrivate},
		{openPolicy, "1.0.0.127.in-addr.arpa", dnsmessage.TypePTR, policy.ReasonLoopback},
		{openPolicy, "99.216.184.93.in-addr.arpa", dnsmessage.TypePTR, policy.ReasonHostAddress},
		{openPolicy, "x.in-addr.arpa", dnsmessage.TypePTR, ReasonName},
		{openPolicy, "1.ip6.arpa", dnsmessage.TypePTR, policy.ReasonIPv6},
		{`{"dns":"off","rules":[]}`, "example.com", dnsmessage.TypeA, policy.ReasonDNSOff},
		{`{"dns":"off","rules":[]}`, canary, dnsmessage.TypeA, policy.ReasonDNSOff},
	} {
		b := startGuest(t, c.raw, u)
		outcome, got := b.send(withEDNS(question1(c.name, c.kind), 1232), false)
		if outcome.Allowed || outcome.Reason != c.reason || got.RCode != dnsmessage.RCodeRefused || len(got.Answers) != 0 {
			t.Errorf("%s %v: %+v %v", c.name, c.kind, outcome, got.RCode)
		}
		opt, ok := got.Additionals[0].Body.(*dnsmessage.OPTResource)
		if !ok || len(opt.Options) != 1 || opt.Options[0].Code != optionEDE || string(opt.Options[0].Data) != "\x00\x0f"+c.reason {
			t.Errorf("%s %v: no extended error: %+v", c.name, c.kind, got.Additionals)
		}
		if _, plain := b.ask(c.name, c.kind); len(plain.Additionals) != 0 {
			t.Errorf("%s: EDNS for one who doesn't speak it", c.name)
		}
	}
	if seen := u.questions(); len(seen) != 0 {
		t.Errorf("an upstream was asked: %v", seen)
	}
}

func TestOtherClassesAreRefused(t *testing.T) {
	b := startGuest(t, openPolicy, startUpstream(t, everyName("93.184.216.34", 30)))
	m := question1("version.bind", dnsmessage.TypeTXT)
	m.Questions[0].Class = dnsmessage.ClassCHAOS
	if outcome, got := b.send(m, false); outcome.Reason != ReasonType || got.RCode != dnsmessage.RCodeRefused {
		t.Errorf("%+v", outcome)
	}
}

func TestIPv6AndServiceRecordsAreAnsweredWithNothing(t *testing.T) {
	u := startUpstream(t, func(q asked) [][]byte {
		if q.name == "gone.example.net" {
			return q.reply(func(m *dnsmessage.Message) { m.RCode = dnsmessage.RCodeNameError })
		}
		return everyName("93.184.216.34", 30)(q)
	})
	for _, raw := range []string{openPolicy, listedPolicy} {
		b := startGuest(t, raw, u)
		for _, kind := range []dnsmessage.Type{dnsmessage.TypeAAAA, dnsmessage.TypeHTTPS, dnsmessage.TypeSVCB} {
			outcome, got := b.ask("x.example.net", kind)
			if !outcome.Allowed || outcome.Reason != "" || got.RCode != 0 || len(got.Answers) != 0 {
				t.Errorf("%v: %+v %+v", kind, outcome, got)
			}
		}
		if _, got := b.ask("gone.example.net", dnsmessage.TypeAAAA); got.RCode != dnsmessage.RCodeNameError {
			t.Errorf("AAAA of a name that doesn't exist: %v", got.RCode)
		}
		if outcome, got := b.ask(canary, dnsmessage.TypeA); got.RCode != 0 || len(got.Answers) != 0 || outcome.Reason != "" {
			t.Errorf("the canary: %+v", outcome)
		}
		if b.table.Len() != 0 {
			t.Error("an address was opened that nobody was told")
		}
	}
	for _, q := range u.questions() {
		if q.kind != dnsmessage.TypeA || q.name == canary {
			t.Errorf("asked upstream: %s %v", q.name, q.kind)
		}
	}
}

func TestAddressesAGuestMayNotReachAreTakenOut(t *testing.T) {
	for _, c := range []struct {
		raw, name   string
		says, gives []string
		reason      string
	}{
		{openPolicy, "a.example.org", []string{"93.184.216.34", "127.0.0.1"}, []string{"93.184.216.34"}, ReasonPrivateAnswer},
		{openPolicy, "a.example.org", []string{"169.254.169.254"}, nil, ReasonPrivateAnswer},
		{openPolicy, "a.example.org", []string{"10.0.0.1", "192.168.0.1", "0.0.0.0"}, nil, ReasonPrivateAnswer},
		{openPolicy, "a.example.org", []string{"93.184.216.99"}, nil, ReasonPrivateAnswer},
		{openPolicy, "a.example.org", []string{"10.7.0.1"}, []string{"10.7.0.1"}, ""},
		{listedPolicy, "api.example.com", []string{"10.1.0.1"}, nil, ReasonPrivateAnswer},
		{listedPolicy, "db.example.com", []string{"10.1.0.1", "10.2.0.1"}, []string{"10.1.0.1"}, ReasonPrivateAnswer},
		{listedPolicy, "db.example.com", []string{"10.1.0.1"}, []string{"10.1.0.1"}, ""},
	} {
		b := startGuest(t, c.raw, startUpstream(t, func(q asked) [][]byte {
			var all []dnsmessage.Resource
			for _, addr := range c.says {
				all = append(all, a(q.name, 30, addr))
			}
			return q.reply(nil, all...)
		}))
		outcome, got := b.ask(c.name, dnsmessage.TypeA)
		if !slices.Equal(addresses(got), c.gives) || outcome.Reason != c.reason || outcome.Allowed != (c.gives != nil) {
			t.Errorf("%s %v: %v %+v", c.name, c.says, addresses(got), outcome)
		}
		if c.gives == nil && got.RCode != dnsmessage.RCodeRefused {
			t.Errorf("%s %v: %v", c.name, c.says, got.RCode)
		}
		for _, addr := range c.says {
			held := len(b.table.Lookup(netip.MustParseAddr(addr), b.now())) > 0
			if held != slices.Contains(c.gives, addr) {
				t.Errorf("%s: table holds %s: %v", c.name, addr, held)
			}
		}
	}
}

func TestChainsAreFollowedAndWhatWasntAskedForIsLeftOut(t *testing.T) {
	u := startUpstream(t, func(q asked) [][]byte {
		return q.reply(func(m *dnsmessage.Message) {
			m.Authorities = []dnsmessage.Resource{record("example.com", dnsmessage.TypeNS, 9, &dnsmessage.NSResource{NS: dnsmessage.MustNewName("ns.evil.")})}
			m.Additionals = []dnsmessage.Resource{a("bank.example", 9999, "6.6.6.6")}
		}, a("edge.cdn.example", 20, "93.184.216.34"), cname("CDN.example", 300, "edge.cdn.example"), a("bank.example", 9999, "6.6.6.6"),
			cname("api.example.com", 10, "cdn.EXAMPLE"), record("edge.cdn.example", dnsmessage.TypeTXT, 9, &dnsmessage.TXTResource{TXT: []string{"x"}}))
	})
	b := startGuest(t, listedPolicy, u)
	outcome, got := b.ask("api.example.com", dnsmessage.TypeA)
	var shape []string
	for _, r := range got.Answers {
		shape = append(shape, fmt.Sprintf("%s %s %d", r.Header.Name, r.Header.Type, r.Header.TTL))
	}
	if want := []string{"api.example.com. TypeCNAME 10", "cdn.example. TypeCNAME 10", "edge.cdn.example. TypeA 10"}; !slices.Equal(shape, want) {
		t.Errorf("%q", shape)
	}
	if len(got.Authorities) != 0 || len(got.Additionals) != 0 || len(outcome.Answers) != 1 {
		t.Errorf("%+v", got)
	}
	if names := b.table.Lookup(netip.MustParseAddr("93.184.216.34"), b.now()); !slices.Equal(names, []string{"api.example.com"}) {
		t.Errorf("table: %v", names)
	}
}

func TestAnUnfinishedChainIsAskedToItsEndAndNoFurther(t *testing.T) {
	u := startUpstream(t, func(q asked) [][]byte {
		switch {
		case q.name == "api.example.com":
			return q.reply(nil, cname(q.name, 30, "one.example"))
		case q.name == "one.example":
			return q.reply(nil, a(q.name, 7, "93.184.216.34"))
		case strings.HasPrefix(q.name, "loop"):
			return q.reply(nil, cname(q.name, 30, q.name+"x"))
		case q.name == "self.example.net":
			return q.reply(nil, cname(q.name, 30, q.name))
		}
		return q.reply(nil)
	})
	b := startGuest(t, listedPolicy, u)
	if _, got := b.ask("api.example.com", dnsmessage.TypeA); len(got.Answers) != 2 || got.Answers[0].Header.TTL != 7 {
		t.Errorf("%+v", got.Answers)
	}
	for _, name := range []string{"loop.example.net", "self.example.net"} {
		if outcome, got := b.ask(name, dnsmessage.TypeA); got.RCode != dnsmessage.RCodeServerFailure || outcome.Reason != ReasonUpstream {
			t.Errorf("%s: %+v", name, outcome)
		}
	}
	if n := len(u.questions()); n > 2+10+2 {
		t.Errorf("%d questions", n)
	}
}

func TestManyAskingTheSameMakeOneQuestion(t *testing.T) {
	release := make(chan struct{})
	u := startUpstream(t, func(q asked) [][]byte {
		<-release
		return everyName("93.184.216.34", 30)(q)
	})
	b := startGuest(t, openPolicy, u)
	other := b.r.NewGuest(b.table, nil)
	wire, _ := (&dnsmessage.Message{Header: dnsmessage.Header{ID: 1}, Questions: question1("www.example.org", dnsmessage.TypeA).Questions}).Pack()
	var all sync.WaitGroup
	failed := make(chan Outcome, 20)
	for i := range 20 {
		guest := b.guest
		if i%2 == 0 {
			guest = other
		}
		all.Go(func() {
			if outcome := guest.Handle(context.Background(), Query{Wire: wire, Policy: b.p}); len(outcome.Answers) != 1 {
				failed <- outcome
			}
		})
	}
	close(release)
	all.Wait()
	close(failed)
	for outcome := range failed {
		t.Errorf("%+v", outcome)
	}
	if n := len(u.questions()); n != 1 {
		t.Errorf("%d questions", n)
	}
}

func TestAnswersAreKeptAsLongAsTheyLive(t *testing.T) {
	var ttl atomic.Uint32
	ttl.Store(60)
	u := startUpstream(t, func(q asked) [][]byte {
		if q.name == "none.example.org" {
			return q.reply(func(m *dnsmessage.Message) {
				m.RCode, m.Authorities = dnsmessage.RCodeNameError, []dnsmessage.Resource{soa(3600, 10)}
			})
		}
		return everyName("93.184.216.34", ttl.Load())(q)
	})
	b := startGuest(t, openPolicy, u)
	asks := func(name string, wantTTL uint32, questions int) {
		t.Helper()
		_, got := b.ask(name, dnsmessage.TypeA)
		records := append(got.Answers, got.Authorities...)
		if len(records) != 1 || records[0].Header.TTL != wantTTL {
			t.Errorf("%s: %+v", name, records)
		}
		if n := len(u.questions()); n != questions {
			t.Errorf("%s: %d questions, want %d", name, n, questions)
		}
	}
	asks("www.example.org", 60, 1)
	b.advance(50 * time.Second)
	asks("www.example.org", 10, 1)
	b.advance(7 * time.Second)
	asks("www.example.org", 5, 1)
	b.advance(3 * time.Second)
	asks("www.example.org", 60, 2)
	asks("none.example.org", 10, 3)
	asks("none.example.org", 10, 3)
	b.advance(10 * time.Second)
	asks("none.example.org", 10, 4)
	ttl.Store(0)
	asks("zero.example.org", 5, 5)
	asks("zero.example.org", 5, 6)
	ttl.Store(1 << 30)
	asks("ever.example.org", 3600, 7)
}

func TestTheCacheIsBounded(t *testing.T) {
	b := startGuest(t, openPolicy)
	b.r.mu.Lock()
	defer b.r.mu.Unlock()
	for i := range maxCached * 2 {
		b.r.keep(question{fmt.Sprintf("n%d.example", i), dnsmessage.TypeA}, &answer{expires: b.clock.Add(time.Hour)})
	}
	if len(b.r.cache) > maxCached {
		t.Errorf("%d entries", len(b.r.cache))
	}
}

func TestLongAnswersAreCutForDatagramsAndWholeOverTCP(t *testing.T) {
	u := startUpstream(t, func(q asked) [][]byte {
		if !q.tcp {
			return q.reply(func(m *dnsmessage.Message) { m.Truncated = true })
		}
		var all []dnsmessage.Resource
		for i := range 60 {
			all = append(all, a(q.name, 30, fmt.Sprintf("93.184.217.%d", i)))
		}
		return q.reply(nil, all...)
	})
	b := startGuest(t, openPolicy, u)
	outcome, got := b.ask("www.example.org", dnsmessage.TypeA)
	if len(outcome.Wire) > 512 || !got.Truncated || len(got.Answers) < 10 {
		t.Errorf("%d bytes, cut %v, %d answers", len(outcome.Wire), got.Truncated, len(got.Answers))
	}
	if _, got := b.send(withEDNS(question1("www.example.org", dnsmessage.TypeA), 1232), false); got.Truncated || len(got.Answers) != maxAnswerRecords {
		t.Errorf("EDNS: cut %v, %d answers", got.Truncated, len(got.Answers))
	}
	if _, got := b.send(question1("www.example.org", dnsmessage.TypeA), true); got.Truncated || len(got.Answers) != maxAnswerRecords {
		t.Errorf("TCP: cut %v, %d answers", got.Truncated, len(got.Answers))
	}
}

func TestOtherTypesAreAnsweredWhenNamesAreOpen(t *testing.T) {
	name := dnsmessage.MustNewName("mail.example.org.")
	bodies := map[dnsmessage.Type]dnsmessage.ResourceBody{
		dnsmessage.TypeMX:    &dnsmessage.MXResource{Pref: 1, MX: name},
		dnsmessage.TypeTXT:   &dnsmessage.TXTResource{TXT: []string{"v=spf1 -all"}},
		dnsmessage.TypeSRV:   &dnsmessage.SRVResource{Port: 1, Target: name},
		dnsmessage.TypeNS:    &dnsmessage.NSResource{NS: name},
		dnsmessage.TypePTR:   &dnsmessage.PTRResource{PTR: name},
		dnsmessage.TypeCNAME: &dnsmessage.CNAMEResource{CNAME: name},
		typeCAA:              &dnsmessage.UnknownResource{Type: typeCAA, Data: []byte("\x00\x05issueca.example")},
	}
	b := startGuest(t, openPolicy, startUpstream(t, func(q asked) [][]byte { return q.reply(nil, record(q.name, q.kind, 30, bodies[q.kind])) }))
	for kind, body := range bodies {
		outcome, got := b.ask("www.example.org", kind)
		if !outcome.Allowed || len(got.Answers) != 1 || got.Answers[0].Body.GoString() != body.GoString() {
			t.Errorf("%v: %+v %+v", kind, outcome, got.Answers)
		}
	}
}

func TestAGuestBeyondItsRateIsRefused(t *testing.T) {
	b := startGuest(t, openPolicy)
	b.guest = b.r.NewGuest(b.table, func() bool { return false })
	if outcome, got := b.ask("www.example.org", dnsmessage.TypeA); outcome.Reason != ReasonRate || got.RCode != dnsmessage.RCodeRefused {
		t.Errorf("%+v", outcome)
	}
}

func TestMessagesThatArentQueriesGetNoAnswerOrAFormatError(t *testing.T) {
	b := startGuest(t, openPolicy)
	good, _ := (&dnsmessage.Message{Header: dnsmessage.Header{ID: 7}, Questions: question1("www.example.org", dnsmessage.TypeA).Questions}).Pack()
	change := func(at int, value byte) []byte {
		bent := slices.Clone(good)
		bent[at] = value
		return bent
	}
	edns := func(m dnsmessage.Message) []byte { wire, _ := m.Pack(); return wire }
	twice := withEDNS(question1("a.example", dnsmessage.TypeA), 1232)
	twice.Additionals = append(twice.Additionals, twice.Additionals[0])
	for _, c := range []struct {
		what  string
		wire  []byte
		rcode int
	}{
		{"nothing", nil, -1},
		{"half a header", good[:11], -1},
		{"an answer", change(2, 0x80), -1},
		{"another operation", change(2, 0x28), 4},
		{"no question", change(5, 0), 1},
		{"two questions", change(5, 2), 1},
		{"a cut name", good[:20], 1},
		{"a pointer to itself", append(slices.Clone(good[:12]), 0xc0, 12, 0, 1, 0, 1), 1},
		{"a label too long", change(12, 0x7f), 1},
		{"answers in it", change(7, 1), 1},
		{"two OPTs", edns(twice), 1},
		{"too long", append(slices.Clone(good), make([]byte, 5000)...), 1},
	} {
		outcome := b.guest.Handle(context.Background(), Query{Wire: c.wire, Policy: b.p})
		if (outcome.Wire == nil) != (c.rcode < 0) || outcome.Allowed {
			t.Errorf("%s: %+v", c.what, outcome)
			continue
		}
		if c.rcode >= 0 && (int(outcome.Wire[3]&15) != c.rcode || binary.BigEndian.Uint16(outcome.Wire) != binary.BigEndian.Uint16(c.wire)) {
			t.Errorf("%s: % x", c.what, outcome.Wire)
		}
	}
	newer := withEDNS(question1("a.example", dnsmessage.TypeA), 1232)
	newer.Additionals[0].Header.TTL |= 1 << 16
	if outcome, got := b.send(newer, false); outcome.Wire[3]&15 != 0 || got.Additionals[0].Header.ExtendedRCode(0) != rcodeBadVersion {
		t.Errorf("EDNS version 1: %+v", got.Additionals)
	}
}

func FuzzHandle(f *testing.F) {
	u := startUpstream(f, everyName("93.184.216.34", 30))
	b := startGuest(f, openPolicy, u)
	for _, m := range []dnsmessage.Message{question1("www.example.org", dnsmessage.TypeA), withEDNS(question1("a.b", dnsmessage.TypeTXT), 512), question1("1.1.168.192.in-addr.arpa", dnsmessage.TypePTR)} {
		wire, _ := m.Pack()
		f.Add(wire, false)
	}
	f.Fuzz(func(t *testing.T, wire []byte, tcp bool) {
		outcome := b.guest.Handle(context.Background(), Query{Wire: wire, TCP: tcp, Policy: b.p})
		if outcome.Wire == nil {
			return
		}
		var got dnsmessage.Message
		if len(outcome.Wire) == 12 {
			return
		}
		if err := got.Unpack(outcome.Wire); err != nil {
			t.Fatalf("%x: %v", outcome.Wire, err)
		}
		if !tcp && len(outcome.Wire) > maxUDPBytes || got.ID != binary.BigEndian.Uint16(wire) {
			t.Fatalf("%+v", got)
		}
	})
}

func FuzzReadReply(f *testing.F) {
	q := question{"api.example.com", dnsmessage.TypeA}
	sent := sentQuestion{id: 7, name: dnsmessage.MustNewName("api.example.com."), stream: true}
	seed := asked{message: dnsmessage.Message{Header: dnsmessage.Header{ID: 7}, Questions: question1("api.example.com", dnsmessage.TypeA).Questions}}
	f.Add(seed.reply(nil, cname("api.example.com", 1, "b.example"), a("b.example", 1, "1.2.3.4"))[0])
	f.Add(seed.reply(func(m *dnsmessage.Message) {
		m.RCode, m.Authorities = dnsmessage.RCodeNameError, []dnsmessage.Resource{soa(1, 1)}
	})[0])
	f.Fuzz(func(t *testing.T, message []byte) {
		found, err := readReply(message, sent, q)
		if err != nil {
			return
		}
		if len(found.chain) > maxChain || len(found.records) > maxAnswerRecords || found.ttl > maxTTL {
			t.Fatalf("%+v", found)
		}
		req := request{question: dnsmessage.Question{Name: sent.name, Type: q.asked, Class: dnsmessage.ClassINET}, asked: true, size: minUDPBytes}
		if wire := req.reply(reply{chain: found.chain, records: found.records, soa: found.soa}); len(wire) > minUDPBytes {
			t.Fatalf("%d bytes", len(wire))
		}
	})
}
