// Package imds serves the microVM's role credentials to the app as the instance metadata service does (version 2 only), at
// 169.254.169.254. The host pushes them sealed for a key made here for that one push (spec/agent-protocol.md, §4).
//
// Invariant: the credentials lie open in one piece of memory alone, the vault's; once Clear has returned no copy of ours is
// left anywhere in the guest, kernel included. What the app made of them is the app's.
package imds

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"rekindle/agent/link"
)

// Service keeps and serves the credentials of one guest.
type Service struct {
	vault       *vault
	tokens      *tokens
	erasesFreed bool

	mu sync.Mutex
	// The key of an offer that was not taken up yet.
	offered *offer
	// Keys were let go of, and are not collected yet.
	littered bool
}

// collectDelay keeps the collection out of the way of the app's first answers; a snapshot that comes sooner does it itself.
const collectDelay = 3 * time.Second

// New makes a service without credentials; nobody is served before Listen.
func New() (*Service, error) {
	vault, err := newVault()
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	kernelLine, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	erasesFreed := slices.Contains(strings.Fields(string(kernelLine)), "init_on_free=1")
	return &Service{vault: vault, tokens: newTokens(), erasesFreed: erasesFreed}, nil
}

// Listen gives the guest the address and serves it until the listener is closed.
func (s *Service) Listen(ctx context.Context) (net.Listener, error) {
	if err := addAddress(loopbackIndex, address); err != nil {
		return nil, fmt.Errorf("add %v: %w", net.IP(address[:]), err)
	}
	listener, err := listen(ctx)
	if err != nil {
		return nil, err
	}
	go newServer(s.vault, s.tokens).serve(listener)
	return listener, nil
}

// Renew makes the tokens of an earlier life worthless: those of a snapshot are known to all its clones.
func (s *Service) Renew() { s.tokens.renew() }

// OfferAnswer carries the public key, 32 bytes, and whether this guest erases memory when it is freed: what the app's
// processes learned may otherwise be found in a snapshot after their end.
type OfferAnswer struct {
	Key         []byte `json:"key"`
	ErasesFreed bool   `json:"erasesFreed"`
}

// Offer serves `credentials.offer`: the key the next push is to be sealed for. An earlier one is void.
func (s *Service) Offer(context.Context, struct{}) (OfferAnswer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	offered, err := newOffer()
	if err != nil {
		return OfferAnswer{}, err
	}
	s.offered = offered
	if !s.littered {
		s.littered = true
		time.AfterFunc(collectDelay, s.collect)
	}
	return OfferAnswer{Key: offered.public, ErasesFreed: s.erasesFreed}, nil
}

// SetRequest is a push: the host's public key, and the document sealed.
type SetRequest struct {
	Key    []byte `json:"key"`
	Sealed []byte `json:"sealed"`
}

// Set serves `credentials.set`. A key is good for one push.
func (s *Service) Set(_ context.Context, r SetRequest) (struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	offered := s.offered
	s.offered = nil
	if offered == nil {
		return struct{}{}, link.Errorf(link.CodeInvalid, "credentials were not offered a key")
	}
	if len(r.Sealed) > vaultBytes+sealOverhead {
		return struct{}{}, link.Errorf(link.CodeInvalid, "credentials of %d bytes", len(r.Sealed))
	}
	err := s.vault.put(func(into []byte) (int, error) { return offered.open(into, r.Key, r.Sealed) })
	if err != nil {
		return struct{}{}, link.Errorf(link.CodeInvalid, "%v", err)
	}
	return struct{}{}, nil
}

// Clear serves `credentials.clear`.
func (s *Service) Clear(context.Context, struct{}) (struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offered = nil
	s.vault.clear()
	s.tokens.renew()
	if s.littered {
		s.littered = false
		collectErased()
	}
	return struct{}{}, nil
}

// collect zeroes what is left on the heap of keys that were let go of inside erased calls.
func (s *Service) collect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.littered {
		return
	}
	// An offer that waits for its push is collected by the next.
	if s.offered != nil {
		time.AfterFunc(collectDelay, s.collect)
		return
	}
	s.littered = false
	collectErased()
}
