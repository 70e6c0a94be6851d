package dns

import (
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

func noise(bytes int) []byte {
	source := rand.New(rand.NewPCG(1, uint64(bytes)))
	all := make([]byte, bytes)
	for i := range all {
		all[i] = byte(source.Uint32())
	}
	return all
}

func TestNamesThatCarryBytesAreRefusedBelowAWildcard(t *testing.T) {
	u := startUpstream(t, everyName("93.184.216.34", 30))
	b := startGuest(t, listedPolicy, u)
	base := strings.ToLower(strings.TrimRight(base32.StdEncoding.EncodeToString(noise(35)), "="))
	for _, below := range []string{
		base, // iodine's way
		"z" + base + "." + base + "." + base,
		hex.EncodeToString(noise(30)), // dnscat2's way
		hex.EncodeToString(noise(16)),
		"dnscat." + hex.EncodeToString(noise(24)),
		strings.Repeat("word-", 10) + "a." + strings.Repeat("word-", 10) + "a",
		"a.b.c.d.e.f.g",
	} {
		if outcome, _ := b.ask(below+".example.net", dnsmessage.TypeA); outcome.Reason != ReasonTunnel || outcome.Rule != "wild" {
			t.Errorf("%s: %+v", below, outcome)
		}
	}
	if outcome, _ := b.ask("\xc1\xe2\xfa.example.net", dnsmessage.TypeA); outcome.Reason != ReasonName {
		t.Errorf("iodine's raw labels: %+v", outcome)
	}
	if n := len(u.questions()); n != 0 {
		t.Errorf("%d went upstream", n)
	}
	for _, below := range []string{
		"www", "my-company-production-artifacts-and-logs-eu-central-1", "0198a7c2-5a3b-7c1e-9a44-0f2b6c1d9e10.lambda-microvm",
		"d111111abcdef8", "bucket.s3.eu-central-1", "xn--bcher-kva", "_dmarc", "r3---sn-4g5e6nzz", "a-very-long-project-name-git-main-some-team-name",
		"internationalizationandlocalizationteam",
	} {
		if outcome, _ := b.ask(below+".example.net", dnsmessage.TypeA); outcome.Reason != "" {
			t.Errorf("%s: %+v", below, outcome)
		}
	}
}

func TestDifferentNamesBelowAWildcardAreCountedAMinute(t *testing.T) {
	b := startGuest(t, listedPolicy, startUpstream(t, everyName("93.184.216.34", 30)))
	refused := func(format string, n int) int {
		count := 0
		for i := range n {
			if outcome, _ := b.ask(fmt.Sprintf(format, i), dnsmessage.TypeA); outcome.Reason == ReasonVolume {
				count++
			}
		}
		return count
	}
	if n := refused("h%d.example.net", wildcardNames); n != 0 {
		t.Errorf("%d of the allowed were refused", n)
	}
	if n := refused("h%d.example.net", wildcardNames); n != 0 {
		t.Errorf("%d were refused the second time", n)
	}
	if n := refused("more%d.example.net", 10); n != 10 {
		t.Errorf("%d of 10 more were refused", n)
	}
	if outcome, _ := b.ask("api.example.com", dnsmessage.TypeA); outcome.Reason != "" {
		t.Errorf("a fixed name was refused: %+v", outcome)
	}
	b.advance(budgetWindow)
	if n := refused("more%d.example.net", 10); n != 0 {
		t.Errorf("%d were refused a minute later", n)
	}
}

func TestBytesBelowAWildcardAreCountedAMinute(t *testing.T) {
	b := startGuest(t, listedPolicy, startUpstream(t, everyName("93.184.216.34", 30)))
	total := 0
	for i := range 50 {
		below := fmt.Sprintf("w%04d.%s", i, strings.Repeat("word-", 10)+"x")
		if outcome, _ := b.ask(below+".example.net", dnsmessage.TypeA); outcome.Reason == "" {
			total += len(below)
		}
	}
	if total > wildcardBytes || total < wildcardBytes-100 {
		t.Errorf("%d bytes of names went upstream", total)
	}
}

func TestAnOpenGuestCantTunnelFastThroughOneDomain(t *testing.T) {
	b := startGuest(t, openPolicy, startUpstream(t, everyName("93.184.216.34", 30)))
	bytes := 0
	for i := range 400 {
		label := strings.ToLower(hex.EncodeToString(noise(30 + i%2)))
		name := fmt.Sprintf("%s.%s.n%d.t.evil.co.uk", label, label, i)
		if outcome, _ := b.ask(name, dnsmessage.TypeTXT); outcome.Reason == "" {
			bytes += len(name)
		}
	}
	if bytes > domainBytes*11/10 || bytes == 0 {
		t.Errorf("%d bytes of names went upstream in a minute", bytes)
	}
	if outcome, _ := b.ask("www.good.co.uk", dnsmessage.TypeA); outcome.Reason != "" {
		t.Errorf("another domain under the same public suffix: %+v", outcome)
	}
}

func TestTheBudgetItselfIsBounded(t *testing.T) {
	var b budget
	now := time.Unix(1_000_000, 0)
	let := 0
	for i := range 5000 {
		if b.charge(fmt.Sprintf("d%d.example", i), fmt.Sprintf("d%d.example", i), 1, domainNames, domainBytes, now) == "" {
			let++
		}
	}
	if let != guestDomains || len(b.groups) != guestDomains {
		t.Errorf("%d names, %d groups", let, len(b.groups))
	}
	for i := range 5000 {
		b.charge("d1.example", fmt.Sprintf("x%d.d1.example", i), 1, 10*domainNames, domainBytes, now)
	}
	if b.names > guestNames {
		t.Errorf("%d names", b.names)
	}
}

func TestNamesOfTheMinuteBeforeCostNothing(t *testing.T) {
	var b budget
	now := time.Unix(1_000_000, 0)
	charge := func(name string) string { return b.charge("k", name, 60, 10, 100, now) }
	if charge("a") != "" || charge("b") == "" {
		t.Fatal("the bytes weren't counted")
	}
	now = now.Add(budgetWindow)
	if charge("b") != "" || charge("a") != "" {
		t.Error("a name of the minute before was counted again")
	}
	now = now.Add(3 * budgetWindow)
	if charge("b") != "" || charge("a") == "" {
		t.Error("a name of long ago was free")
	}
}
