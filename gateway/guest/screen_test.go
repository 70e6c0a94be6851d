package guest

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

// outgoing is a frame as a guest's kernel makes it.
func outgoing(protocol byte, to netip.Addr, inside []byte) []byte {
	frame, payload := newFrame(guestAddress(), protocol, len(inside))
	copy(frame, gatewayMAC+guestMAC)
	copy(payload, inside)
	destination := to.As4()
	copy(frame[etherBytes+16:], destination[:])
	sumHeader(frame)
	return frame
}

func sumHeader(frame []byte) {
	ip := frame[etherBytes : etherBytes+ipBytes]
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], ^checksum.Checksum(ip, 0))
}

func udpInside(from, to uint16, payload string) []byte {
	udp := binary.BigEndian.AppendUint16(nil, from)
	udp = binary.BigEndian.AppendUint16(udp, to)
	udp = binary.BigEndian.AppendUint16(udp, uint16(udpBytes+len(payload)))
	return append(append(udp, 0, 0), payload...)
}

func arpFor(about netip.Addr) []byte {
	frame := make([]byte, etherBytes+arpBytes)
	copy(frame, "\xff\xff\xff\xff\xff\xff"+guestMAC+"\x08\x06")
	from, to := guestAddress().As4(), about.As4()
	copy(frame[etherBytes:], "\x00\x01\x08\x00\x06\x04\x00\x01"+guestMAC+string(from[:])+"\x00\x00\x00\x00\x00\x00"+string(to[:]))
	return frame
}

func TestWhatAGuestMayNotSendIsDroppedByItsKind(t *testing.T) {
	good := func() []byte { return outgoing(protoUDP, public(1).Addr(), udpInside(1000, 2000, "hello")) }
	changed := func(change func(frame []byte)) []byte {
		frame := good()
		change(frame)
		sumHeader(frame)
		return frame
	}
	cases := map[string]struct {
		frame []byte
		drop  string
	}{
		"a good packet":           {good(), ""},
		"padding":                 {append(good(), make([]byte, 18)...), ""},
		"nothing":                 {nil, dropMalformed},
		"a header alone":          {good()[:etherBytes], dropMalformed},
		"a foreign source MAC":    {changed(func(f []byte) { f[11] = 9 }), dropMAC},
		"a foreign target MAC":    {changed(func(f []byte) { f[5] = 9 }), dropMAC},
		"a foreign address":       {changed(func(f []byte) { f[etherBytes+15] = 3 }), dropAddress},
		"the gateway's address":   {changed(func(f []byte) { f[etherBytes+15] = 1 }), dropAddress},
		"options":                 {changed(func(f []byte) { f[etherBytes] = 0x46 }), dropOptions},
		"more fragments":          {changed(func(f []byte) { f[etherBytes+6] = 0x20 }), dropFragment},
		"an offset":               {changed(func(f []byte) { f[etherBytes+7] = 1 }), dropFragment},
		"the reserved flag":       {changed(func(f []byte) { f[etherBytes+6] = 0x80 }), dropFragment},
		"a wrong checksum":        {func() []byte { f := good(); f[etherBytes+10]++; return f }(), dropMalformed},
		"more than there is":      {changed(func(f []byte) { f[etherBytes+2] = 0xff }), dropMalformed},
		"less than a header":      {changed(func(f []byte) { f[etherBytes+3] = 19 }), dropMalformed},
		"version 6 in version 4":  {changed(func(f []byte) { f[etherBytes] = 0x65 }), dropMalformed},
		"a UDP length too long":   {changed(func(f []byte) { f[etherBytes+ipBytes+4] = 1 }), dropMalformed},
		"a UDP length too short":  {changed(func(f []byte) { f[etherBytes+ipBytes+5] = 7 }), dropMalformed},
		"IPv6":                    {changed(func(f []byte) { f[12], f[13] = 0x86, 0xdd }), dropIPv6},
		"an unknown kind":         {changed(func(f []byte) { f[12], f[13] = 0x88, 0x99 }), dropMalformed},
		"a short TCP header":      {outgoing(protoTCP, public(1).Addr(), make([]byte, 19)), dropMalformed},
		"a TCP offset too long":   {outgoing(protoTCP, public(1).Addr(), append(make([]byte, 12), 0xf0, 2, 0, 0, 0, 0, 0, 0)), dropMalformed},
		"a TCP offset too short":  {outgoing(protoTCP, public(1).Addr(), append(make([]byte, 12), 0x40, 2, 0, 0, 0, 0, 0, 0)), dropMalformed},
		"a short echo":            {outgoing(protoICMP, public(1).Addr(), make([]byte, 7)), dropMalformed},
		"ARP":                     {arpFor(gatewayAddress()), ""},
		"ARP of a foreign MAC":    {func() []byte { f := arpFor(gatewayAddress()); f[etherBytes+13] = 7; return f }(), dropMAC},
		"ARP of a foreign sender": {func() []byte { f := arpFor(gatewayAddress()); f[etherBytes+17] = 7; return f }(), dropAddress},
		"short ARP":               {arpFor(gatewayAddress())[:40], dropMalformed},
	}
	for name, one := range cases {
		p, drop := screen(one.frame)
		if drop != one.drop {
			t.Errorf("%s: dropped as %q, want %q", name, drop, one.drop)
		}
		if drop == "" && !p.arp && p.ip == nil {
			t.Errorf("%s is ignored", name)
		}
	}
}

func TestDroppedFramesAreCountedAndTheLinkGoesOn(t *testing.T) {
	b := newBench(t, closedPolicy)
	spoofed := outgoing(protoUDP, public(1).Addr(), udpInside(1, 2, ""))
	spoofed[11] = 9
	b.sendFrame(spoofed)
	b.sendFrame(arpFor(gatewayAddress()))
	reply := b.receiveFrame(10 * time.Second)
	if string(reply) != string(arpReply()) {
		t.Errorf("the answer is %x", reply)
	}
	if got := b.guest.Stats().Dropped; got != 1 {
		t.Errorf("%d frames were dropped", got)
	}
}

func TestARPIsAnsweredForTheGatewayOnlyAndNotToAFlood(t *testing.T) {
	b := newBench(t, closedPolicy)
	b.sendFrame(arpFor(netip.MustParseAddr("192.0.0.3")))
	b.sendFrame(arpFor(guestAddress()))
	const asked = 3 * arpBurst
	for range asked {
		b.sendFrame(arpFor(gatewayAddress()))
	}
	eventually(t, "the flood is dropped", func() bool { return b.guest.Stats().Dropped > arpBurst })
	answers := 0
	for b.receiveFrame(200*time.Millisecond) != nil {
		answers++
	}
	if dropped := int(b.guest.Stats().Dropped); answers+dropped != asked {
		t.Errorf("%d answers and %d drops of %d requests", answers, dropped, asked)
	}
}

func TestRefusedPacketsAreAnsweredHonestly(t *testing.T) {
	b := newBench(t, closedPolicy)
	for name, inside := range map[string][]byte{
		"udp":  outgoing(protoUDP, public(9).Addr(), udpInside(1000, 9, "x")),
		"echo": outgoing(protoICMP, public(9).Addr(), []byte{icmpEcho, 0, 0, 0, 0, 1, 0, 1}),
		"sctp": outgoing(132, public(9).Addr(), make([]byte, 16)),
	} {
		b.sendFrame(inside)
		reply := b.receiveFrame(10 * time.Second)
		if reply == nil {
			t.Errorf("%s: no answer", name)
			continue
		}
		icmp := reply[etherBytes+ipBytes:]
		if reply[etherBytes+9] != protoICMP || icmp[0] != icmpUnreachable || icmp[1] != codeAdminProhibited {
			t.Errorf("%s: the answer is %x", name, icmp)
		}
		if string(icmp[echoBytes:]) != string(inside[etherBytes:etherBytes+quoteBytes]) {
			t.Errorf("%s: the answer quotes another packet", name)
		}
		if checksum.Checksum(icmp, 0) != 0xffff || checksum.Checksum(reply[etherBytes:etherBytes+ipBytes], 0) != 0xffff {
			t.Errorf("%s: the answer's checksums are wrong", name)
		}
	}
}

func TestNothingIsAnsweredToManyOrToErrors(t *testing.T) {
	b := newBench(t, closedPolicy)
	b.sendFrame(outgoing(protoUDP, netip.MustParseAddr("224.0.0.251"), udpInside(5353, 5353, "x")))
	b.sendFrame(outgoing(protoUDP, netip.MustParseAddr("255.255.255.255"), udpInside(68, 67, "x")))
	b.sendFrame(outgoing(protoICMP, public(1).Addr(), make([]byte, 64)))
	b.sendFrame(arpFor(gatewayAddress()))
	if reply := b.receiveFrame(10 * time.Second); string(reply) != string(arpReply()) {
		t.Errorf("something was answered: %x", reply)
	}
}

func TestASegmentOfNoConnectionIsReset(t *testing.T) {
	b := newBench(t, openPolicy)
	segment := make([]byte, 24)
	binary.BigEndian.PutUint16(segment, 4000)
	binary.BigEndian.PutUint16(segment[2:], 80)
	binary.BigEndian.PutUint32(segment[8:], 777)
	segment[12], segment[13] = 5<<4, tcpACK
	b.sendFrame(outgoing(protoTCP, public(80).Addr(), segment))
	reply := b.receiveFrame(10 * time.Second)
	if reply == nil {
		t.Fatal("no answer")
	}
	out := reply[etherBytes+ipBytes:]
	if out[13] != tcpRST || binary.BigEndian.Uint32(out[4:]) != 777 || binary.BigEndian.Uint16(out[2:]) != 4000 {
		t.Errorf("the answer is %x", out)
	}
	segment[13] = tcpRST
	b.sendFrame(outgoing(protoTCP, public(80).Addr(), segment))
	b.sendFrame(arpFor(gatewayAddress()))
	if reply := b.receiveFrame(10 * time.Second); string(reply) != string(arpReply()) {
		t.Errorf("a reset was answered: %x", reply)
	}
}

func FuzzScreen(f *testing.F) {
	f.Add(outgoing(protoUDP, public(1).Addr(), udpInside(1, 2, "x")))
	f.Add(outgoing(protoTCP, public(1).Addr(), append(make([]byte, 12), 0x50, 2, 0, 0, 0, 0, 0, 0)))
	f.Add(outgoing(protoICMP, public(1).Addr(), make([]byte, 8)))
	f.Add(arpFor(gatewayAddress()))
	f.Fuzz(func(t *testing.T, frame []byte) {
		p, drop := screen(frame)
		if drop != "" || p.ip == nil {
			return
		}
		quoted := p.quote()
		_ = unreachable(quoted, codeHostUnreachable)
		switch p.protocol {
		case protoTCP:
			_, _, _ = p.sourcePort(), p.destinationPort(), pieceBytes(p)
			_ = reset(p)
			_ = resetSYN(quoted)
		case protoUDP:
			_ = p.datagram()
		}
	})
}
