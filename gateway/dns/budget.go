package dns

import (
	"hash/maphash"
	"math"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/publicsuffix"

	"rekindle/gateway/policy"
)

// Names carry bytes out to whoever serves a zone, whatever the answer is. A fixed name carries none; below a wildcard, or
// when every name may be asked, what can leave is bounded by how many different names and how many bytes of them are asked
// a minute. That is 34 bytes a second below a wildcard, 205 under one registered domain when names are open.
const (
	budgetWindow = time.Minute

	wildcardNames = 60
	wildcardBytes = 2048
	domainNames   = 300
	domainBytes   = 12288
	guestNames    = 2000
	guestDomains  = 1000

	maxBelowBytes  = 100
	maxBelowLabels = 6
	longRun        = 32
)

// budget counts a guest's different names in windows. Names of the window before are free, so that an app that goes round
// the same hosts isn't stopped. The zero value is ready.
type budget struct {
	mu      sync.Mutex
	began   time.Time
	seed    maphash.Seed
	groups  map[string]*group
	names   int
	earlier map[uint64]struct{}
}

type group struct {
	names map[uint64]struct{}
	bytes int
}

// spend gives the reason why a name can't be asked, or counts it.
func (b *budget) spend(name string, match policy.Match, mode policy.DNSMode, now time.Time) string {
	if mode == policy.DNSListed {
		if match.Below == "" {
			return ""
		}
		if looksEncoded(match.Below) {
			return ReasonTunnel
		}
		return b.charge(match.Pattern, name, len(match.Below), wildcardNames, wildcardBytes, now)
	}
	domain, err := publicsuffix.EffectiveTLDPlusOne(name)
	if err != nil {
		// A public suffix itself, or a name of one label.
		domain = name
	}
	return b.charge(domain, name, len(name)-len(domain), domainNames, domainBytes, now)
}

func (b *budget) charge(key, name string, cost, mostNames, mostBytes int, now time.Time) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turn(now)
	hash := maphash.String(b.seed, name)
	counted := b.groups[key]
	if counted == nil {
		if len(b.groups) >= guestDomains {
			return ReasonVolume
		}
		counted = &group{names: map[uint64]struct{}{}}
		b.groups[key] = counted
	}
	if _, again := counted.names[hash]; again {
		return ""
	}
	if _, known := b.earlier[hash]; known {
		cost = 0
	}
	if len(counted.names) >= mostNames || counted.bytes+cost > mostBytes || b.names >= guestNames {
		return ReasonVolume
	}
	counted.names[hash] = struct{}{}
	counted.bytes += cost
	b.names++
	return ""
}

func (b *budget) turn(now time.Time) {
	if b.groups != nil && now.Sub(b.began) < budgetWindow {
		return
	}
	if b.groups == nil {
		b.seed = maphash.MakeSeed()
	}
	b.earlier = nil
	if now.Sub(b.began) < 2*budgetWindow && b.names > 0 {
		b.earlier = make(map[uint64]struct{}, b.names)
		for _, counted := range b.groups {
			for hash := range counted.names {
				b.earlier[hash] = struct{}{}
			}
		}
	}
	b.began, b.groups, b.names = now, map[string]*group{}, 0
}

// looksEncoded: does what stands for a wildcard's star look like bytes rather than a name? People and machines part long
// names with hyphens; a long run that has digits or few vowels is base32, hex or the like.
func looksEncoded(below string) bool {
	if len(below) > maxBelowBytes || strings.Count(below, ".") >= maxBelowLabels {
		return true
	}
	for run := range strings.FieldsFuncSeq(below, func(r rune) bool { return r == '.' || r == '-' || r == '_' }) {
		if len(run) >= longRun && entropy(run) >= 3.0 && !wordy(run) {
			return true
		}
	}
	return false
}

// entropy is in bits a letter.
func entropy(run string) float64 {
	var counts [256]int
	for i := range len(run) {
		counts[run[i]]++
	}
	bits := 0.0
	for _, count := range counts {
		if count > 0 {
			share := float64(count) / float64(len(run))
			bits -= share * math.Log2(share)
		}
	}
	return bits
}

func wordy(run string) bool {
	vowels, digits := 0, 0
	for _, c := range run {
		switch {
		case strings.ContainsRune("aeiou", c):
			vowels++
		case '0' <= c && c <= '9':
			digits++
		}
	}
	return vowels*4 >= len(run) && digits*12 <= len(run)
}
