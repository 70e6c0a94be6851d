// Package guest is the network one microVM sees: a gateway, a resolver and whatever its policy lets it reach.
//
// A frame is screened (screen.go), then TCP goes to a network stack of the guest's own (netstack.go) and from there to
// connections of the host (tcpflow.go, pump.go); datagrams go to sockets of the host (datagram.go); DNS is answered here.
//
// Invariants: nothing a guest sends reaches another guest's state; what it can make the gateway hold is bounded; a verdict of
// its policy precedes every packet that leaves.
package guest

import "net/netip"

const (
	// MTU: an IPv4 packet of 65,535 bytes and less for the rounding that offsets and alignment want.
	MTU = 65_520

	guestMAC   = "\x02\x52\x4b\x00\x00\x02"
	gatewayMAC = "\x02\x52\x4b\x00\x00\x01"

	dnsPort = 53
)

// guestAddress and gatewayAddress are what every guest believes in.
func guestAddress() netip.Addr   { return netip.AddrFrom4([4]byte{192, 0, 0, 2}) }
func gatewayAddress() netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 0, 1}) }

// isResolver: the two addresses DNS is answered at.
func isResolver(addr netip.Addr) bool {
	switch addr.As4() {
	case [4]byte{169, 254, 53, 53}, [4]byte{169, 254, 169, 253}:
		return true
	}
	return false
}
