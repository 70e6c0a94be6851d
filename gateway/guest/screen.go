package guest

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

const (
	etherBytes = 14
	etherIPv4  = 0x0800
	etherARP   = 0x0806
	etherIPv6  = 0x86dd

	ipBytes      = 20
	tcpBytes     = 20
	udpBytes     = 8
	echoBytes    = 8
	arpBytes     = 28
	protoICMP    = 1
	protoTCP     = 6
	protoUDP     = 17
	arpRequest   = 1
	flagDontFrag = 0x4000
)

// What is dropped, in the words of the flow log.
const (
	dropMAC       = "spoofed-mac"
	dropAddress   = "spoofed-address"
	dropOptions   = "ip-options"
	dropFragment  = "fragment"
	dropARP       = "arp-flood"
	dropIPv6      = "ipv6"
	dropProtocol  = "protocol"
	dropMalformed = "malformed"
)

// packet is a frame that passed: an IPv4 packet from the guest's own address, or an ARP request for the gateway's.
type packet struct {
	arp bool
	// ip is the whole IPv4 packet without the padding of its frame; payload what follows its header.
	ip, payload []byte
	protocol    byte
	to          netip.Addr
}

// screen checks a frame of a guest. drop is why it goes no further; "" with arp false and ip nil is a frame to ignore.
func screen(frame []byte) (p packet, drop string) {
	if len(frame) < etherBytes {
		return packet{}, dropMalformed
	}
	kind := binary.BigEndian.Uint16(frame[12:])
	// Whatever address it claims, IPv6 is what a guest's kernel tries first: tell it apart from spoofing.
	if kind == etherIPv6 {
		return packet{}, dropIPv6
	}
	if string(frame[6:12]) != guestMAC {
		return packet{}, dropMAC
	}
	switch kind {
	case etherARP:
		return screenARP(frame[etherBytes:])
	case etherIPv4:
		if to := string(frame[:6]); to != gatewayMAC && frame[0]&1 == 0 {
			return packet{}, dropMAC
		}
		return screenIPv4(frame[etherBytes:])
	}
	return packet{}, dropMalformed
}

func screenARP(arp []byte) (packet, string) {
	// Hardware Ethernet, protocol IPv4, their address lengths.
	if len(arp) < arpBytes || string(arp[:6]) != "\x00\x01\x08\x00\x06\x04" {
		return packet{}, dropMalformed
	}
	if string(arp[8:14]) != guestMAC {
		return packet{}, dropMAC
	}
	from := netip.AddrFrom4([4]byte(arp[14:18]))
	about := netip.AddrFrom4([4]byte(arp[24:28]))
	if from != guestAddress() && from != netip.IPv4Unspecified() {
		return packet{}, dropAddress
	}
	// A probe whether the guest's own address is taken and an announcement of it get no answer: it isn't.
	asks := binary.BigEndian.Uint16(arp[6:]) == arpRequest && from == guestAddress() && about == gatewayAddress()
	return packet{arp: asks}, ""
}

func screenIPv4(ip []byte) (packet, string) {
	if len(ip) < ipBytes || ip[0]>>4 != 4 || ip[0]&0xf < ipBytes/4 {
		return packet{}, dropMalformed
	}
	if ip[0]&0xf != ipBytes/4 {
		return packet{}, dropOptions
	}
	total := int(binary.BigEndian.Uint16(ip[2:]))
	if total < ipBytes || total > len(ip) || checksum.Checksum(ip[:ipBytes], 0) != 0xffff {
		return packet{}, dropMalformed
	}
	if netip.AddrFrom4([4]byte(ip[12:16])) != guestAddress() {
		return packet{}, dropAddress
	}
	// Anything but "don't fragment" set: more fragments, an offset, the reserved bit.
	if binary.BigEndian.Uint16(ip[6:])&^flagDontFrag != 0 {
		return packet{}, dropFragment
	}
	p := packet{
		ip:       ip[:total],
		payload:  ip[ipBytes:total],
		protocol: ip[9],
		to:       netip.AddrFrom4([4]byte(ip[16:20])),
	}
	if !wellFormed(p) {
		return packet{}, dropMalformed
	}
	return p, ""
}

// wellFormed looks at the header inside, so that nobody after it reads beyond its end.
func wellFormed(p packet) bool {
	switch p.protocol {
	case protoTCP:
		if len(p.payload) < tcpBytes {
			return false
		}
		header := int(p.payload[12]>>4) * 4
		return header >= tcpBytes && header <= len(p.payload)
	case protoUDP:
		if len(p.payload) < udpBytes {
			return false
		}
		length := int(binary.BigEndian.Uint16(p.payload[4:]))
		return length >= udpBytes && length <= len(p.payload)
	case protoICMP:
		return len(p.payload) >= echoBytes
	}
	return true
}

// sourcePort and destinationPort are for TCP and UDP.
func (p packet) sourcePort() uint16      { return binary.BigEndian.Uint16(p.payload) }
func (p packet) destinationPort() uint16 { return binary.BigEndian.Uint16(p.payload[2:]) }

// datagram is the inside of a UDP packet.
func (p packet) datagram() []byte {
	return p.payload[udpBytes:binary.BigEndian.Uint16(p.payload[4:])]
}
