package guest

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"rekindle/gateway/policy"
)

// echoUDP answers every datagram with itself, in capitals.
func echoUDP(t *testing.T) string {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		buffer := make([]byte, 65_536)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo(bytes.ToUpper(buffer[:n]), from)
		}
	}()
	return conn.LocalAddr().String()
}

func TestDatagramsGoBothWaysAndCountAsOneFlow(t *testing.T) {
	b := newBench(t, openPolicy)
	b.dialTo(echoUDP(t))
	conn := newMachine(t, b.theirs).dialUDP(public(9))
	for _, text := range []string{"one", "two", strings.Repeat("x", 60_000)} {
		if _, err := conn.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		buffer := make([]byte, 65_536)
		n, err := conn.Read(buffer)
		if err != nil || string(buffer[:n]) != strings.ToUpper(text) {
			t.Fatalf("%d bytes came back for %d: %v", n, len(text), err)
		}
	}
	eventually(t, "all is counted", func() bool { return b.guest.Stats().BytesOut == 60_006 })
	if stats := b.guest.Stats(); stats.Flows != 1 || stats.BytesIn != 60_006 {
		t.Errorf("counted %+v", stats)
	}
	if b.hasStack() {
		t.Error("datagrams made a stack")
	}
	b.guest.Cut()
	if stats := b.guest.Stats(); stats.Flows != 0 {
		t.Errorf("a cut flow still counts: %+v", stats)
	}
}

func TestAClosedPortIsToldToTheGuest(t *testing.T) {
	b := newBench(t, openPolicy)
	closed, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	b.dialTo(closed.LocalAddr().String())
	b.sendFrame(outgoing(protoUDP, public(9).Addr(), udpInside(1000, 9, "x")))
	reply := b.receiveFrame(10 * time.Second)
	if reply == nil || reply[etherBytes+ipBytes] != icmpUnreachable || reply[etherBytes+ipBytes+1] != codePortUnreachable {
		t.Errorf("the answer is %x", reply)
	}
}

func TestTheFlowIdleForLongestMakesRoom(t *testing.T) {
	b := newBench(t, openPolicy)
	b.dialTo(echoUDP(t))
	session := b.guest.current()
	for port := range maxDatagrams + 10 {
		b.sendFrame(outgoing(protoUDP, public(9).Addr(), udpInside(uint16(2000+port), 9, "x")))
	}
	eventually(t, "all flows began", func() bool { return b.guest.Stats().FlowsInAll == maxDatagrams+10 })
	if flows := b.guest.Stats().Flows; flows != maxDatagrams {
		t.Errorf("%d flows are open", flows)
	}
	session.mu.Lock()
	_, first := session.datagrams[datagramKey{protocol: policy.UDP, port: 2000, to: public(9)}]
	session.mu.Unlock()
	if first {
		t.Error("the oldest flow is still there")
	}
}

func TestEchoRequestsAreForwardedWhereTheHostAllows(t *testing.T) {
	b := newBench(t, openPolicy)
	// Stands for a ping socket: it puts an id of its own into what it sends and answers.
	b.echoBy(func(ctx context.Context, address string) (net.Conn, error) {
		if address != public(0).Addr().String() {
			t.Errorf("an echo request went to %s", address)
		}
		server, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		go func() {
			defer func() { _ = server.Close() }()
			buffer := make([]byte, 2048)
			n, from, err := server.ReadFrom(buffer)
			if err != nil {
				return
			}
			buffer[0] = icmpEchoReply
			binary.BigEndian.PutUint16(buffer[4:], 999)
			_, _ = server.WriteTo(buffer[:n], from)
		}()
		return net.Dial("udp4", server.LocalAddr().String())
	})
	b.sendFrame(outgoing(protoICMP, public(0).Addr(), []byte{icmpEcho, 0, 0, 0, 0x12, 0x34, 0, 7, 'p'}))
	reply := b.receiveFrame(10 * time.Second)
	if reply == nil {
		t.Fatal("no answer")
	}
	icmp := reply[etherBytes+ipBytes:]
	if icmp[0] != icmpEchoReply || binary.BigEndian.Uint16(icmp[4:]) != 0x1234 || icmp[7] != 7 || icmp[8] != 'p' {
		t.Errorf("the answer is %x", icmp)
	}
}

func TestEchoRequestsAreRefusedWhereTheHostDoesNotAllow(t *testing.T) {
	b := newBench(t, openPolicy)
	b.sendFrame(outgoing(protoICMP, public(0).Addr(), []byte{icmpEcho, 0, 0, 0, 0x12, 0x34, 0, 7}))
	reply := b.receiveFrame(10 * time.Second)
	if reply == nil || reply[etherBytes+ipBytes] != icmpUnreachable || reply[etherBytes+ipBytes+1] != codeAdminProhibited {
		t.Errorf("the answer is %x", reply)
	}
	if stats := b.guest.Stats(); stats.Refused != 1 || stats.Flows != 0 {
		t.Errorf("counted %+v", stats)
	}
}

// upstreamDNS answers every question of type A with one address.
func upstreamDNS(t testing.TB, answer netip.Addr) string {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			var message dnsmessage.Message
			if message.Unpack(buffer[:n]) != nil {
				continue
			}
			message.Response, message.Additionals = true, nil
			message.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: message.Questions[0].Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET, TTL: 60},
				Body:   &dnsmessage.AResource{A: answer.As4()},
			}}
			packed, err := message.Pack()
			if err == nil {
				_, _ = conn.WriteTo(packed, from)
			}
		}
	}()
	return conn.LocalAddr().String()
}

func query(t testing.TB, name string) []byte {
	t.Helper()
	message := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	packed, err := message.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return packed
}

func answersOf(t testing.TB, wire []byte) []string {
	t.Helper()
	var message dnsmessage.Message
	if err := message.Unpack(wire); err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, answer := range message.Answers {
		if a, ok := answer.Body.(*dnsmessage.AResource); ok {
			found = append(found, netip.AddrFrom4(a.A).String())
		}
	}
	return found
}

func TestNamesAreResolvedAtBothAddressesOverUDPAndTCP(t *testing.T) {
	b := newBench(t, openPolicy)
	b.upstream = upstreamDNS(t, public(0).Addr())
	m := newMachine(t, b.theirs)
	for _, server := range []string{"169.254.53.53:53", "169.254.169.253:53"} {
		to := netip.MustParseAddrPort(server)
		conn := m.dialUDP(to)
		_, _ = conn.Write(query(t, "example.com."))
		buffer := make([]byte, 4096)
		n, err := conn.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		if got := answersOf(t, buffer[:n]); len(got) != 1 || got[0] != "93.184.216.34" {
			t.Errorf("%s over UDP: %v", server, got)
		}
		stream, err := m.dial(to)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			asked := query(t, "example.com.")
			_, _ = stream.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(asked))), asked...))
			n, err = stream.Read(buffer)
			if err != nil {
				t.Fatal(err)
			}
			if got := answersOf(t, buffer[2:n]); len(got) != 1 || got[0] != "93.184.216.34" {
				t.Errorf("%s over TCP: %v", server, got)
			}
		}
		_ = stream.Close()
	}
	if got := b.guest.Stats().Queries; got != 6 {
		t.Errorf("%d queries were counted", got)
	}
	eventually(t, "the resolver's connections are over", func() bool { return b.guest.account.Open() == 0 })
}

func TestADomainRuleOpensWhatTheGatewayResolvedForIt(t *testing.T) {
	b := newBench(t, `{"rules":[{"id":"d","kind":"domain","name":"example.com","ports":[[80,80]],"content":"opaque"}],"dns":"listed"}`)
	b.upstream = upstreamDNS(t, public(0).Addr())
	b.dialTo(serve(t, func(conn net.Conn) { _, _ = conn.Write([]byte("in")) }))
	m := newMachine(t, b.theirs)
	if _, err := m.dial(public(80)); err == nil {
		t.Fatal("an address nobody resolved was reached")
	}
	conn := m.dialUDP(netip.MustParseAddrPort("169.254.53.53:53"))
	_, _ = conn.Write(query(t, "example.com."))
	if _, err := conn.Read(make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	if _, err := m.dial(public(80)); err != nil {
		t.Errorf("what was resolved is refused: %v", err)
	}
	if _, err := m.dial(public(81)); err == nil {
		t.Error("another port is open too")
	}
}

func TestAnInspectedConnectionGoesToTheNameItShowsOrNowhere(t *testing.T) {
	b := newBench(t, `{"rules":[{"id":"d","kind":"domain","name":"example.com","ports":[[80,80]],"content":"tls-or-http"}],"dns":"listed"}`)
	b.upstream = upstreamDNS(t, public(0).Addr())
	b.dialTo(serve(t, func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 4096))
		_, _ = conn.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"))
	}))
	m := newMachine(t, b.theirs)
	resolver := m.dialUDP(netip.MustParseAddrPort("169.254.53.53:53"))
	_, _ = resolver.Write(query(t, "example.com."))
	if _, err := resolver.Read(make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	for host, good := range map[string]bool{"example.com": true, "evil.example": false} {
		conn, err := m.dial(public(80))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte("GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n"))
		got := make([]byte, 256)
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, err := conn.Read(got)
		if answered := err == nil && strings.HasPrefix(string(got[:n]), "HTTP/1.1 200"); answered != good {
			t.Errorf("%s: %q (%v)", host, got[:n], err)
		}
	}
	eventually(t, "the refusal is counted", func() bool { return b.guest.Stats().Refused == 1 })
}
