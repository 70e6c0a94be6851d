// Package peek looks into connections that a domain rule with content "tls-or-http" let through: the name a TLS client or an
// HTTP request asks for must be one of the policy, or the connection ends.
//
// What it can't see: the inside of TLS. A server that serves a foreign Host behind an allowed server name (domain fronting)
// is not noticed; the flow log has the server name.
package peek

import (
	"context"
	"net"
	"time"
)

// Refusal is why a connection was ended. It comes from Inspect and, later, from Stream's Read.
type Refusal struct {
	// Reason is one word of the Reason constants, for the flow log.
	Reason string
	// Name is what the guest asked for, if it came to that.
	Name string
}

func (r *Refusal) Error() string { return "refused: " + r.Reason }

// Options: zero values give the defaults.
type Options struct {
	// Timeout is for the first bytes up to a whole ClientHello or request head. Default 10 s.
	Timeout time.Duration
}

// Stream is the guest's connection after its first name was found good. It is a net.Conn for the core's splice:
// Read gives what may go to the server (all that was read before included) and fails with a *Refusal (reset both sides then)
// when the guest breaks the rules later; Write gives the server's bytes to the guest. Both directions must go through it.
type Stream struct {
	net.Conn
	// Name and Rule are the first ones shown.
	Name, Rule string
	// Protocol is "tls" or "http".
	Protocol string
}

// Inspect reads from guest until it knows the name. allow gives the rule for a name (policy.Shown). Errors are *Refusal, or
// the connection's own.
func Inspect(ctx context.Context, guest net.Conn, allow func(name string) (rule string, ok bool), options Options) (*Stream, error) {
	return nil, &Refusal{Reason: "not-yet"}
}
