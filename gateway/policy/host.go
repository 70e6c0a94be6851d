package policy

import (
	"context"
	"net/netip"
	"time"
)

// Host is what the operator and the machine say of addresses: shared by all policies, refreshed while they live.
type Host struct{}

// HostConfig comes from the gateway's --config.
type HostConfig struct {
	// Reachable counts as internet though it is not public.
	Reachable []netip.Prefix
	// Addresses are the host's besides those of its interfaces.
	Addresses []netip.Addr
	// Interfaces lists the addresses of the host's interfaces; nil: those of the machine.
	Interfaces func() ([]netip.Addr, error)
}

// NewHost reads the interfaces once. It refuses a reachable range that touches what is never reachable.
func NewHost(config HostConfig) (*Host, error) {
	return nil, errNotYet
}

// Refresh reads the interfaces again. On failure the addresses known so far stay.
func (h *Host) Refresh() error { return errNotYet }

// Watch refreshes every interval until ctx ends; failed is told of failures and may be nil.
func (h *Host) Watch(ctx context.Context, interval time.Duration, failed func(error)) {}
