// Package network gives a guest its one way out: the network card behind which the host's gateway decides what may pass.
// Every guest is alike (spec/gateway-protocol.md §2), so that a snapshot fits whoever it is launched for.
package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

const (
	device     = "eth0"
	mtu        = 65_520
	prefixBits = 29
	// NameServer answers for the gateway; what it does not answer no other may.
	NameServer = "169.254.53.53"
)

var (
	address        = netip.MustParseAddr("192.0.0.2")
	gateway        = netip.MustParseAddr("192.0.0.1")
	gatewayHWAddr  = []byte{0x02, 0x52, 0x4b, 0x00, 0x00, 0x01}
	deviceSettings = []struct{ file, value string }{
		{"/proc/sys/net/ipv6/conf/" + device + "/disable_ipv6", "1"},
		// Without a link a connect fails at once, and is not left waiting for an answer that can't come.
		{"/proc/sys/net/ipv4/conf/" + device + "/ignore_routes_with_linkdown", "1"},
	}
)

// ErrNoDevice says that the guest has no network card.
var ErrNoDevice = errors.New("no network card")

// SetUp brings the card up with address, route and the gateway's hardware address.
func SetUp() error {
	card, err := net.InterfaceByName(device)
	if err != nil {
		return ErrNoDevice
	}
	for _, setting := range deviceSettings {
		if err := os.WriteFile(setting.file, []byte(setting.value), 0o644); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("network: %w", err)
		}
	}
	routes, err := openNetlink(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer routes.close()
	index := uint32(card.Index)
	for _, step := range []struct {
		what        string
		kind, flags uint16
		body        []byte
	}{
		{"address", unix.RTM_NEWADDR, unix.NLM_F_CREATE | unix.NLM_F_REPLACE, addressMessage(index)},
		{"link", unix.RTM_NEWLINK, 0, linkMessage(index)},
		{"neighbour", unix.RTM_NEWNEIGH, unix.NLM_F_CREATE | unix.NLM_F_REPLACE, neighbourMessage(index)},
		{"route", unix.RTM_NEWROUTE, unix.NLM_F_CREATE | unix.NLM_F_REPLACE, routeMessage(index)},
	} {
		if err := routes.change(step.kind, step.flags, step.body); err != nil {
			return fmt.Errorf("network: %s: %w", step.what, err)
		}
	}
	return nil
}

func addressMessage(index uint32) []byte {
	body := []byte{unix.AF_INET, prefixBits, 0, unix.RT_SCOPE_UNIVERSE}
	body = native.AppendUint32(body, index)
	body = attribute(body, unix.IFA_LOCAL, address.AsSlice())
	return attribute(body, unix.IFA_ADDRESS, address.AsSlice())
}

func linkMessage(index uint32) []byte {
	body := []byte{unix.AF_UNSPEC, 0, 0, 0}
	body = native.AppendUint32(body, index)
	body = native.AppendUint32(body, unix.IFF_UP)
	body = native.AppendUint32(body, unix.IFF_UP)
	return attribute(body, unix.IFLA_MTU, native.AppendUint32(nil, mtu))
}

// neighbourMessage spares a guest that was just restored the question who the gateway is.
func neighbourMessage(index uint32) []byte {
	body := []byte{unix.AF_INET, 0, 0, 0}
	body = native.AppendUint32(body, index)
	body = native.AppendUint16(body, unix.NUD_PERMANENT)
	body = append(body, 0, unix.RTN_UNICAST)
	body = attribute(body, unix.NDA_DST, gateway.AsSlice())
	return attribute(body, unix.NDA_LLADDR, gatewayHWAddr)
}

func routeMessage(index uint32) []byte {
	body := []byte{unix.AF_INET, 0, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST, 0, 0, 0, 0}
	body = attribute(body, unix.RTA_GATEWAY, gateway.AsSlice())
	return attribute(body, unix.RTA_OIF, native.AppendUint32(nil, index))
}
