package policy

import (
	"net/netip"
	"slices"
)

// class is what an address is, whatever rules say. Source: IANA IPv4 Special-Purpose Address Registry; of its ranges those
// marked globally reachable that are anycast relays (AS112, AMT) count as public.
type class struct {
	// reason is why it isn't public; empty: it is.
	reason string
	// never: no rule and no operator opens it.
	never bool
}

type specialRange struct {
	prefix netip.Prefix
	class  class
	what   string
}

// specialRanges are looked through in order: the narrower of two comes first.
func specialRanges() []specialRange {
	never := func(prefix, reason, what string) specialRange {
		return specialRange{netip.MustParsePrefix(prefix), class{reason, true}, what}
	}
	closed := func(prefix, reason, what string) specialRange {
		return specialRange{netip.MustParsePrefix(prefix), class{reason, false}, what}
	}
	return []specialRange{
		// Metadata services outside link-local are single addresses: a range around them may be named, they stay closed.
		never("169.254.169.254/32", ReasonMetadata, "a metadata service"),
		never("168.63.129.16/32", ReasonMetadata, "Azure's metadata service"),
		never("100.100.100.200/32", ReasonMetadata, "Alibaba's metadata service"),
		never("192.0.0.192/32", ReasonMetadata, "Oracle's metadata service"),

		never("0.0.0.0/8", ReasonLoopback, "this host (0.0.0.0/8)"),
		never("127.0.0.0/8", ReasonLoopback, "loopback (127.0.0.0/8)"),
		never("169.254.0.0/16", ReasonLinkLocal, "link-local and metadata (169.254.0.0/16)"),
		never("192.0.0.0/29", ReasonReserved, "the guests' own link (192.0.0.0/29)"),
		never("224.0.0.0/4", ReasonMulticast, "multicast (224.0.0.0/4)"),
		never("255.255.255.255/32", ReasonMulticast, "broadcast (255.255.255.255)"),

		closed("10.0.0.0/8", ReasonPrivate, ""),
		closed("172.16.0.0/12", ReasonPrivate, ""),
		closed("192.168.0.0/16", ReasonPrivate, ""),
		closed("100.64.0.0/10", ReasonPrivate, ""),
		closed("192.0.0.0/24", ReasonReserved, ""),
		closed("192.0.2.0/24", ReasonReserved, ""),
		closed("192.88.99.0/24", ReasonReserved, ""),
		closed("198.18.0.0/15", ReasonReserved, ""),
		closed("198.51.100.0/24", ReasonReserved, ""),
		closed("203.0.113.0/24", ReasonReserved, ""),
		closed("240.0.0.0/4", ReasonReserved, ""),
	}
}

// touchesNever names what a range reaches into that nobody can open. Single metadata addresses are carved out of a wider
// range instead of forbidding it.
func touchesNever(ranges []specialRange, prefix netip.Prefix) (what string, touches bool) {
	for _, special := range ranges {
		if !special.class.never || !special.prefix.Overlaps(prefix) {
			continue
		}
		if special.class.reason == ReasonMetadata && prefix.Bits() < special.prefix.Bits() {
			continue
		}
		return special.what, true
	}
	return "", false
}

func classify(ranges []specialRange, addr netip.Addr) class {
	if !addr.Is4() {
		return class{ReasonIPv6, true}
	}
	at := slices.IndexFunc(ranges, func(special specialRange) bool { return special.prefix.Contains(addr) })
	if at < 0 {
		return class{}
	}
	return ranges[at].class
}
