package guest

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

const (
	icmpEchoReply    = 0
	icmpUnreachable  = 3
	icmpEcho         = 8
	icmpTimeExceeded = 11

	codeNetUnreachable  = 0
	codeHostUnreachable = 1
	codePortUnreachable = 3
	codeAdminProhibited = 13

	tcpFIN = 1 << 0
	tcpSYN = 1 << 1
	tcpRST = 1 << 2
	tcpACK = 1 << 4

	// quoteBytes of a packet is what an ICMP error repeats of it.
	quoteBytes = ipBytes + 8

	timeToLive = 64
)

// quote is the beginning of a packet an ICMP error may have to be sent about later.
type quote [quoteBytes]byte

func (p packet) quote() (q quote) {
	copy(q[:], p.ip)
	return q
}

// newFrame is a frame for the guest with room for payload bytes behind the IPv4 header.
func newFrame(from netip.Addr, protocol byte, payload int) (frame, inside []byte) {
	frame = make([]byte, etherBytes+ipBytes+payload)
	copy(frame, guestMAC+gatewayMAC)
	binary.BigEndian.PutUint16(frame[12:], etherIPv4)
	ip := frame[etherBytes : etherBytes+ipBytes]
	ip[0] = 4<<4 | ipBytes/4
	binary.BigEndian.PutUint16(ip[2:], uint16(ipBytes+payload))
	binary.BigEndian.PutUint16(ip[6:], flagDontFrag)
	ip[8], ip[9] = timeToLive, protocol
	source, destination := from.As4(), guestAddress().As4()
	copy(ip[12:], source[:])
	copy(ip[16:], destination[:])
	binary.BigEndian.PutUint16(ip[10:], ^checksum.Checksum(ip, 0))
	return frame, frame[etherBytes+ipBytes:]
}

// sumInside is the checksum over the pseudo header and what follows the IPv4 header of a frame.
func sumInside(frame []byte) uint16 {
	ip := frame[etherBytes:]
	inside := ip[ipBytes:]
	sum := checksum.Checksum(ip[12:20], 0)
	sum = checksum.Combine(sum, uint16(ip[9]))
	sum = checksum.Combine(sum, uint16(len(inside)))
	return ^checksum.Checksum(inside, sum)
}

func arpReply() []byte {
	frame := make([]byte, etherBytes+arpBytes)
	copy(frame, guestMAC+gatewayMAC)
	binary.BigEndian.PutUint16(frame[12:], etherARP)
	gateway, guest := gatewayAddress().As4(), guestAddress().As4()
	reply := "\x00\x01\x08\x00\x06\x04\x00\x02" + gatewayMAC + string(gateway[:]) + guestMAC + string(guest[:])
	copy(frame[etherBytes:], reply)
	return frame
}

func udpReply(from netip.AddrPort, port uint16, payload []byte) []byte {
	frame, udp := newFrame(from.Addr(), protoUDP, udpBytes+len(payload))
	binary.BigEndian.PutUint16(udp, from.Port())
	binary.BigEndian.PutUint16(udp[2:], port)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	copy(udp[udpBytes:], payload)
	sum := sumInside(frame)
	if sum == 0 {
		sum = 0xffff // zero would say that there is none
	}
	binary.BigEndian.PutUint16(udp[6:], sum)
	return frame
}

// echoReply gives an answer of the host's ping socket back under the guest's own id.
func echoReply(from netip.Addr, id uint16, answer []byte) []byte {
	frame, icmp := newFrame(from, protoICMP, len(answer))
	copy(icmp, answer)
	icmp[0], icmp[1], icmp[2], icmp[3] = icmpEchoReply, 0, 0, 0
	binary.BigEndian.PutUint16(icmp[4:], id)
	binary.BigEndian.PutUint16(icmp[2:], ^checksum.Checksum(icmp, 0))
	return frame
}

// unreachable is an ICMP error about a packet of the guest, nil where none may be sent: about errors, to many.
func unreachable(about quote, code byte) []byte {
	to := netip.AddrFrom4([4]byte(about[16:20]))
	limited := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	if to.IsMulticast() || to == limited || (about[9] == protoICMP && about[ipBytes] != icmpEcho) {
		return nil
	}
	frame, icmp := newFrame(gatewayAddress(), protoICMP, echoBytes+quoteBytes)
	icmp[0], icmp[1] = icmpUnreachable, code
	copy(icmp[echoBytes:], about[:])
	binary.BigEndian.PutUint16(icmp[2:], ^checksum.Checksum(icmp, 0))
	return frame
}

// reset answers a TCP segment of no connection (RFC 9293, 3.10.7.1); nil for a segment that is a reset itself.
func reset(p packet) []byte {
	header := int(p.payload[12]>>4) * 4
	flags := p.payload[13]
	if flags&tcpRST != 0 {
		return nil
	}
	length := uint32(len(p.payload) - header)
	if flags&tcpSYN != 0 {
		length++
	}
	if flags&tcpFIN != 0 {
		length++
	}
	var q quote
	copy(q[:], p.ip)
	return resetFor(q, flags, length, p.payload)
}

// resetSYN answers a connection attempt.
func resetSYN(about quote) []byte {
	return resetFor(about, tcpSYN, 1, about[ipBytes:])
}

func resetFor(about quote, flags byte, length uint32, tcp []byte) []byte {
	frame, out := newFrame(netip.AddrFrom4([4]byte(about[16:20])), protoTCP, tcpBytes)
	copy(out[0:2], tcp[2:4])
	copy(out[2:4], tcp[0:2])
	out[12] = tcpBytes / 4 << 4
	if flags&tcpACK != 0 {
		copy(out[4:8], tcp[8:12])
		out[13] = tcpRST
	} else {
		binary.BigEndian.PutUint32(out[8:], binary.BigEndian.Uint32(tcp[4:])+length)
		out[13] = tcpRST | tcpACK
	}
	binary.BigEndian.PutUint16(out[16:], sumInside(frame))
	return frame
}
