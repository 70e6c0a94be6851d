package policy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// Host is what the operator and the machine say of addresses: shared by all policies, refreshed while they live.
type Host struct {
	config    HostConfig
	ranges    []specialRange
	addresses atomic.Pointer[map[netip.Addr]struct{}]
}

// HostConfig comes from the gateway's --config.
type HostConfig struct {
	// Reachable counts as internet though it is not public. Of the host's own addresses only those listed alone (/32) do.
	Reachable []netip.Prefix
	// Addresses are the host's besides those of its interfaces, such as the public one a NAT in front of it has.
	Addresses []netip.Addr
	// Interfaces lists the addresses of the host's interfaces; nil: those of the machine.
	Interfaces func() ([]netip.Addr, error)
}

// NewHost reads the interfaces once. It refuses a reachable range that touches what is never reachable.
func NewHost(config HostConfig) (*Host, error) {
	if config.Interfaces == nil {
		config.Interfaces = interfaceAddresses
	}
	host := &Host{config: config, ranges: specialRanges()}
	for _, prefix := range config.Reachable {
		if err := checkPrefix(host.ranges, prefix); err != nil {
			return nil, fmt.Errorf("reachable: %w", err)
		}
	}
	if err := host.Refresh(); err != nil {
		return nil, err
	}
	return host, nil
}

// Refresh reads the interfaces again. On failure the addresses known so far stay.
func (h *Host) Refresh() error {
	found, err := h.config.Interfaces()
	if err != nil {
		return fmt.Errorf("cannot list the host's addresses: %w", err)
	}
	addresses := make(map[netip.Addr]struct{}, len(found)+len(h.config.Addresses))
	for _, addr := range found {
		addresses[addr.Unmap()] = struct{}{}
	}
	for _, addr := range h.config.Addresses {
		addresses[addr.Unmap()] = struct{}{}
	}
	h.addresses.Store(&addresses)
	return nil
}

// Watch refreshes every interval until ctx ends; failed is told of failures and may be nil.
func (h *Host) Watch(ctx context.Context, interval time.Duration, failed func(error)) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if err := h.Refresh(); err != nil && failed != nil {
				failed(err)
			}
		}
	}
}

// Owns: is it an address of the host's own, as far as is known?
func (h *Host) Owns(addr netip.Addr) bool { return h.owns(addr.Unmap()) }

func (h *Host) owns(addr netip.Addr) bool {
	_, own := (*h.addresses.Load())[addr]
	return own
}

// opens: do these prefixes, written by the operator, open an address that is not public? One of the host's own needs a
// prefix of its own: nobody who opens 10.0.0.0/8 means the machine all guests run on.
func (h *Host) opens(prefixes []netip.Prefix, addr netip.Addr) bool {
	own := h.owns(addr)
	for _, prefix := range prefixes {
		if prefix.Contains(addr) && (!own || prefix.IsSingleIP()) {
			return true
		}
	}
	return false
}

// checkPrefix is for every range an operator writes.
func checkPrefix(ranges []specialRange, prefix netip.Prefix) error {
	if !prefix.IsValid() || !prefix.Addr().Is4() {
		return fmt.Errorf("%s is no IPv4 range; guests have IPv4 only", prefix)
	}
	if masked := prefix.Masked(); masked != prefix {
		return fmt.Errorf("%s has bits set beyond its length; write %s", prefix, masked)
	}
	if what, touches := touchesNever(ranges, prefix); touches {
		return fmt.Errorf("%s touches %s, which can't be opened; name narrower ranges, or use an internet rule for all public addresses", prefix, what)
	}
	return nil
}

func interfaceAddresses() ([]netip.Addr, error) {
	found, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	addresses := make([]netip.Addr, 0, len(found))
	for _, one := range found {
		if prefix, err := netip.ParsePrefix(one.String()); err == nil {
			addresses = append(addresses, prefix.Addr())
		}
	}
	return addresses, nil
}
