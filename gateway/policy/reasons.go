package policy

// Reasons of refusals, as they stand in the flow log.
const (
	ReasonNoRule          = "no-rule"          // public or named by the operator, but no rule has it
	ReasonProtocol        = "protocol"         // a rule has the address, but not for this protocol
	ReasonPort            = "port"             // a rule has the address, but not this port
	ReasonNotResolved     = "not-resolved"     // there are domain rules, but none resolved to this address (or the answer died)
	ReasonForeignResolver = "foreign-resolver" // DNS or DNS over TLS past the gateway while names are listed
	ReasonLoopback        = "loopback"
	ReasonLinkLocal       = "link-local"
	ReasonMetadata        = "metadata"
	ReasonMulticast       = "multicast"
	ReasonHostAddress     = "host-address"
	ReasonPrivate         = "private"
	ReasonReserved        = "reserved"
	ReasonIPv6            = "ipv6"

	// Of names:
	ReasonDNSOff    = "dns-off"
	ReasonNotListed = "not-listed"
)
