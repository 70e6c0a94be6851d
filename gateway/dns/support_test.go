package dns

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"rekindle/gateway/names"
	"rekindle/gateway/policy"
)

// asked is a question that reached the upstream double.
type asked struct {
	name, spelled string
	kind          dnsmessage.Type
	tcp, edns     bool
	message       dnsmessage.Message
}

// upstream is a DNS server on loopback. say gives the messages to send for a question; none is silence.
type upstream struct {
	at  netip.AddrPort
	say func(q asked) [][]byte

	mu   sync.Mutex
	seen []asked
}

func startUpstream(t testing.TB, say func(q asked) [][]byte) *upstream {
	t.Helper()
	packets, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(packets.LocalAddr().String())
	streams, err := net.Listen("tcp4", at.String())
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{at: at, say: say}
	var all sync.WaitGroup
	all.Go(func() {
		buffer := make([]byte, 65536)
		for {
			n, from, err := packets.ReadFrom(buffer)
			if err != nil {
				return
			}
			for _, message := range u.answer(buffer[:n], false) {
				_, _ = packets.WriteTo(message, from)
			}
		}
	})
	all.Go(func() {
		for {
			conn, err := streams.Accept()
			if err != nil {
				return
			}
			u.serve(conn)
		}
	})
	t.Cleanup(func() {
		packets.Close()
		streams.Close()
		all.Wait()
	})
	return u
}

func (u *upstream) serve(conn net.Conn) {
	defer conn.Close()
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return
	}
	message := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(conn, message); err != nil {
		return
	}
	for _, reply := range u.answer(message, true) {
		_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
	}
}

func (u *upstream) answer(wire []byte, tcp bool) [][]byte {
	q := asked{tcp: tcp}
	if q.message.Unpack(wire) != nil || len(q.message.Questions) != 1 {
		return nil
	}
	q.spelled = q.message.Questions[0].Name.String()
	q.name, q.kind, q.edns = fold(q.message.Questions[0].Name), q.message.Questions[0].Type, len(q.message.Additionals) > 0
	u.mu.Lock()
	u.seen = append(u.seen, q)
	u.mu.Unlock()
	return u.say(q)
}

func (u *upstream) questions() []asked {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.seen)
}

// reply packs an answer to a question; change may bend it.
func (q asked) reply(change func(m *dnsmessage.Message), answers ...dnsmessage.Resource) [][]byte {
	message := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: q.message.ID, Response: true, RecursionAvailable: true},
		Questions: q.message.Questions, Answers: answers,
	}
	if change != nil {
		change(&message)
	}
	wire, err := message.Pack()
	if err != nil {
		panic(err)
	}
	return [][]byte{wire}
}

func record(name string, kind dnsmessage.Type, ttl uint32, body dnsmessage.ResourceBody) dnsmessage.Resource {
	return dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name + "."), Type: kind, Class: dnsmessage.ClassINET, TTL: ttl}, Body: body}
}

func a(name string, ttl uint32, addr string) dnsmessage.Resource {
	return record(name, dnsmessage.TypeA, ttl, &dnsmessage.AResource{A: netip.MustParseAddr(addr).As4()})
}

func cname(name string, ttl uint32, target string) dnsmessage.Resource {
	return record(name, dnsmessage.TypeCNAME, ttl, &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(target + ".")})
}

func soa(ttl, least uint32) dnsmessage.Resource {
	return record("example.com", dnsmessage.TypeSOA, ttl, &dnsmessage.SOAResource{NS: dnsmessage.MustNewName("ns."), MBox: dnsmessage.MustNewName("m."), MinTTL: least})
}

// bench is a guest with everything behind it.
type bench struct {
	t     testing.TB
	guest *Guest
	table *names.Table
	p     *policy.Policy
	r     *Resolver
	mu    sync.Mutex
	clock time.Time
}

const openPolicy = `{"dns":"open","rules":[{"id":"net","kind":"internet","protocols":["tcp"]},{"id":"lan","kind":"cidr","cidr":"10.7.0.0/16","protocols":["tcp"],"ports":[[1,9]]}]}`

const listedPolicy = `{"dns":"listed","rules":[
	{"id":"api","kind":"domain","name":"api.example.com","ports":[[443,443]],"content":"tls-or-http"},
	{"id":"in","kind":"domain","name":"db.example.com","ports":[[443,443]],"content":"tls-or-http","within":["10.1.0.0/16"]},
	{"id":"wild","kind":"domain","name":"*.example.net","ports":[[443,443]],"content":"tls-or-http"}]}`

func startGuest(t testing.TB, rawPolicy string, upstreams ...*upstream) *bench {
	t.Helper()
	host, err := policy.NewHost(policy.HostConfig{Interfaces: func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr("93.184.216.99")}, nil }})
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.Parse([]byte(rawPolicy), host)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, table: names.New(), p: p, clock: time.Unix(1_000_000, 0)}
	config := ResolverConfig{Now: b.now, AttemptTimeout: 4 * time.Second}
	for _, u := range upstreams {
		config.Upstreams = append(config.Upstreams, u.at)
	}
	if b.r, err = NewResolver(config); err != nil {
		t.Fatal(err)
	}
	b.guest = b.r.NewGuest(b.table, nil)
	return b
}

func (b *bench) now() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.clock
}

func (b *bench) advance(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clock = b.clock.Add(d)
}

func question1(name string, kind dnsmessage.Type) dnsmessage.Message {
	return dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 4711, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name + "."), Type: kind, Class: dnsmessage.ClassINET}},
	}
}

func withEDNS(m dnsmessage.Message, size int) dnsmessage.Message {
	var header dnsmessage.ResourceHeader
	header.Name = dnsmessage.MustNewName(".")
	_ = header.SetEDNS0(size, 0, false)
	m.Additionals = []dnsmessage.Resource{{Header: header, Body: &dnsmessage.OPTResource{}}}
	return m
}

// send gives the outcome and its message read again.
func (b *bench) send(m dnsmessage.Message, tcp bool) (Outcome, dnsmessage.Message) {
	b.t.Helper()
	wire, err := m.Pack()
	if err != nil {
		b.t.Fatal(err)
	}
	outcome := b.guest.Handle(context.Background(), Query{Wire: wire, TCP: tcp, Policy: b.p})
	var got dnsmessage.Message
	if err := got.Unpack(outcome.Wire); err != nil {
		b.t.Fatalf("the answer can't be read: %v", err)
	}
	if got.ID != m.ID || !got.Response {
		b.t.Fatalf("it is no answer: %+v", got.Header)
	}
	return outcome, got
}

func (b *bench) ask(name string, kind dnsmessage.Type) (Outcome, dnsmessage.Message) {
	b.t.Helper()
	return b.send(question1(name, kind), false)
}

func addresses(m dnsmessage.Message) []string {
	var found []string
	for _, record := range m.Answers {
		if body, ok := record.Body.(*dnsmessage.AResource); ok {
			found = append(found, netip.AddrFrom4(body.A).String())
		}
	}
	return found
}
