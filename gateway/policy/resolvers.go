package policy

import "strings"

// isForeignResolver knows public resolvers that speak DNS over HTTPS or TLS, and relays to them. The list is no wall: in
// listed mode an address can't be reached that wasn't resolved for a rule, and a wildcard rule seldom has a resolver below it.
// It is for those that do (*.google.com has dns.google.com, *.icloud.com has mask.icloud.com).
func isForeignResolver(name string) bool {
	switch name {
	case "dns.google", "dns.google.com", "dns64.dns.google", "8888.google", "google-public-dns-a.google.com", "google-public-dns-b.google.com",
		"one.one.one.one", "1dot1dot1dot1.cloudflare-dns.com", "cloudflare-dns.com", "warp.plus",
		"dns.quad9.net", "dns9.quad9.net", "dns10.quad9.net", "dns11.quad9.net", "dns12.quad9.net",
		"doh.opendns.com", "doh.familyshield.opendns.com", "doh.sandbox.opendns.com", "dns.opendns.com", "doh.umbrella.com", "dns.umbrella.com",
		"doh.cleanbrowsing.org", "doh.dns.sb", "dot.sb", "doh.sb", "doh.li", "doh.mullvad.net", "dns.mullvad.net", "base.dns.mullvad.net", "adblock.dns.mullvad.net",
		"dns.nextdns.io", "dns.controld.com", "freedns.controld.com", "dns.adguard.com", "dns-family.adguard.com", "dns-unfiltered.adguard.com",
		"dns.alidns.com", "doh.pub", "dot.pub", "doh.360.cn", "dot.360.cn", "doh.dns.apple.com", "mask.icloud.com", "mask-h2.icloud.com",
		"doh.xfinity.com", "dot.xfinity.com", "dns.twnic.tw", "doh.ffmuc.net", "dns.digitale-gesellschaft.ch", "doh.applied-privacy.net",
		"public.dns.iij.jp", "doh.tiar.app", "dns.switch.ch", "dns0.eu", "zero.dns0.eu", "kids.dns0.eu", "dns.sse.cisco.com", "wikimedia-dns.org":
		return true
	}
	for _, parent := range []string{".cloudflare-dns.com", ".cloudflare-gateway.com", ".dns.nextdns.io", ".dns.controld.com", ".adguard-dns.com", ".dns.google"} {
		if strings.HasSuffix(name, parent) {
			return true
		}
	}
	return false
}
