// Package names remembers which addresses the gateway resolved for which names, for one guest.
//
// It is how a domain rule reaches a connection: a guest dials an address, and the address stands for the names it was
// given out for while that answer lives. Names are kept, not rules, so that a new policy judges them afresh.
//
// Invariant: an address that no living answer holds stands for no name, and a hostile zone can't grow the table.
package names

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// TTLFloor and TTLCap bound how long an answer lives; the guest is told the same time, see ClampTTL.
	TTLFloor = 5 * time.Second
	TTLCap   = time.Hour

	// grace is for the way of the answer to the guest: what it may still use by its own clock must still be open here.
	grace = time.Second

	maxAddresses       = 2048
	maxNamesPerAddress = 32
)

// ClampTTL is the time an answer lives, for the guest and for the table alike.
func ClampTTL(ttl time.Duration) time.Duration {
	return min(max(ttl, TTLFloor), TTLCap)
}

// Table is safe for concurrent use.
type Table struct {
	mu        sync.Mutex
	addresses map[netip.Addr][]entry
}

type entry struct {
	name    string
	expires time.Time
}

func New() *Table {
	return &Table{}
}

// Learn notes that name (lower case, without the last dot) was answered with addr for ttl, which it clamps.
func (t *Table) Learn(addr netip.Addr, name string, ttl time.Duration, now time.Time) {
	addr = addr.Unmap()
	expires := now.Add(ClampTTL(ttl) + grace)

	t.mu.Lock()
	defer t.mu.Unlock()
	if t.addresses == nil {
		t.addresses = make(map[netip.Addr][]entry)
	}
	entries, known := t.addresses[addr]
	if !known && len(t.addresses) >= maxAddresses {
		t.makeRoom(now)
	}
	t.addresses[addr] = with(living(entries, now), entry{name: name, expires: expires})
}

// Lookup gives the names addr stands for now, in no order; none is the usual answer.
func (t *Table) Lookup(addr netip.Addr, now time.Time) []string {
	addr = addr.Unmap()
	t.mu.Lock()
	defer t.mu.Unlock()
	entries, known := t.addresses[addr]
	if !known {
		return nil
	}
	entries = living(entries, now)
	if len(entries) == 0 {
		delete(t.addresses, addr)
		return nil
	}
	t.addresses[addr] = entries
	found := make([]string, len(entries))
	for i, e := range entries {
		found[i] = e.name
	}
	return found
}

// Clear forgets everything.
func (t *Table) Clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.addresses = nil
}

// Len is how many addresses are held, living or not.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.addresses)
}

// makeRoom drops what died, or else the address that would die first.
func (t *Table) makeRoom(now time.Time) {
	var first netip.Addr
	var firstDies time.Time
	for addr, entries := range t.addresses {
		dies := lastExpiry(entries)
		if !dies.After(now) {
			delete(t.addresses, addr)
			continue
		}
		if !first.IsValid() || dies.Before(firstDies) {
			first, firstDies = addr, dies
		}
	}
	if len(t.addresses) >= maxAddresses {
		delete(t.addresses, first)
	}
}

func lastExpiry(entries []entry) time.Time {
	var last time.Time
	for _, e := range entries {
		if e.expires.After(last) {
			last = e.expires
		}
	}
	return last
}

func living(entries []entry, now time.Time) []entry {
	kept := entries[:0]
	for _, e := range entries {
		if e.expires.After(now) {
			kept = append(kept, e)
		}
	}
	return kept
}

// with adds or prolongs; of too many names the one that dies first makes room.
func with(entries []entry, added entry) []entry {
	soonest := 0
	for i, e := range entries {
		if e.name == added.name {
			if added.expires.After(e.expires) {
				entries[i].expires = added.expires
			}
			return entries
		}
		if e.expires.Before(entries[soonest].expires) {
			soonest = i
		}
	}
	if len(entries) >= maxNamesPerAddress {
		entries[soonest] = added
		return entries
	}
	return append(entries, added)
}
