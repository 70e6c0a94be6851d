package names

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"
)

func at(seconds float64) time.Time {
	return time.Unix(1_000_000, 0).Add(time.Duration(seconds * float64(time.Second)))
}

func TestAnAddressStandsForItsNamesWhileTheAnswerLives(t *testing.T) {
	addr := netip.MustParseAddr("203.0.113.9")
	for _, c := range []struct {
		what  string
		ttl   time.Duration
		after float64
		lives bool
	}{
		{"fresh", 60 * time.Second, 0, true},
		{"until its end", 60 * time.Second, 60.9, true},
		{"past its end", 60 * time.Second, 61, false},
		{"no time at all is raised to the floor", 0, 5.9, true},
		{"the floor ends", 0, 6, false},
		{"a negative time is raised too", -time.Hour, 5, true},
		{"a day is cut to the cap", 24 * time.Hour, 3600, true},
		{"the cap ends", 24 * time.Hour, 3601, false},
	} {
		table := New()
		table.Learn(addr, "a.example", c.ttl, at(0))
		if got := len(table.Lookup(addr, at(c.after))) == 1; got != c.lives {
			t.Errorf("%s: lives = %v", c.what, got)
		}
	}
}

func TestAnAnswerGivenAgainProlongsAndNeverShortens(t *testing.T) {
	addr := netip.MustParseAddr("203.0.113.9")
	table := New()
	table.Learn(addr, "a.example", 100*time.Second, at(0))
	table.Learn(addr, "a.example", 10*time.Second, at(1))
	if len(table.Lookup(addr, at(90))) != 1 {
		t.Error("the shorter answer cut the longer one")
	}
	table.Learn(addr, "b.example", 100*time.Second, at(90))
	if got := table.Lookup(addr, at(102)); !slices.Equal(got, []string{"b.example"}) {
		t.Errorf("after the first name died: %v", got)
	}
}

func TestMappedAddressesAreTheSameAddress(t *testing.T) {
	table := New()
	table.Learn(netip.MustParseAddr("::ffff:203.0.113.9"), "a.example", time.Minute, at(0))
	if len(table.Lookup(netip.MustParseAddr("203.0.113.9"), at(1))) != 1 {
		t.Error("not found")
	}
}

func TestAHostileZoneCantGrowTheTable(t *testing.T) {
	table := New()
	base := netip.MustParseAddr("203.0.113.9")
	table.Learn(base, "keep.example", time.Hour, at(0))
	for i := range maxAddresses * 2 {
		addr := netip.AddrFrom4([4]byte{20, byte(i >> 16), byte(i >> 8), byte(i)})
		table.Learn(addr, "flood.example", time.Minute, at(1))
	}
	if table.Len() != maxAddresses {
		t.Errorf("%d addresses", table.Len())
	}
	if len(table.Lookup(base, at(2))) != 1 {
		t.Error("the longest living answer was pushed out")
	}
	for i := range maxNamesPerAddress * 2 {
		table.Learn(base, fmt.Sprintf("n%d.example", i), time.Minute, at(2))
	}
	if got := len(table.Lookup(base, at(3))); got != maxNamesPerAddress {
		t.Errorf("%d names", got)
	}
	if !slices.Contains(table.Lookup(base, at(3)), "keep.example") {
		t.Error("the longest living name was pushed out")
	}
}

func TestDeadAddressesMakeRoomFirst(t *testing.T) {
	table := New()
	for i := range maxAddresses {
		table.Learn(netip.AddrFrom4([4]byte{20, 0, byte(i >> 8), byte(i)}), "a.example", time.Second, at(0))
	}
	table.Learn(netip.MustParseAddr("203.0.113.9"), "b.example", time.Second, at(100))
	if table.Len() != 1 {
		t.Errorf("%d addresses", table.Len())
	}
}

func TestClearForgets(t *testing.T) {
	table := New()
	addr := netip.MustParseAddr("203.0.113.9")
	table.Learn(addr, "a.example", time.Hour, at(0))
	table.Clear()
	if table.Lookup(addr, at(0)) != nil {
		t.Error("still there")
	}
}

func TestManyMayUseATableAtOnce(t *testing.T) {
	table := New()
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for i := range 500 {
				addr := netip.AddrFrom4([4]byte{20, 0, 0, byte(i)})
				table.Learn(addr, fmt.Sprintf("w%d.example", worker), time.Minute, at(float64(i)))
				for _, name := range table.Lookup(addr, at(float64(i))) {
					_ = name[0]
				}
			}
		})
	}
	all.Wait()
}
