package guest

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"

	"rekindle/gateway/dns"
	"rekindle/gateway/flowlog"
)

const (
	// maxQueries of one guest are under way at once; what comes beyond is lost, as datagrams may be.
	maxQueries = 128
	// maxQueryBytes is far more than a name, a type and all options a resolver sends.
	maxQueryBytes = 4096
	// A TCP connection to the resolver may be idle for so long.
	resolverIdle = 10 * time.Second
)

func (s *session) takeQuery(p packet) {
	message := p.datagram()
	if len(message) > maxQueryBytes {
		s.drop(dropMalformed)
		return
	}
	if s.queries.Add(1) > maxQueries {
		s.queries.Add(-1)
		s.wasted()
		return
	}
	message = slices.Clone(message)
	from, port := netip.AddrPortFrom(p.to, dnsPort), p.sourcePort()
	s.start("resolver", func() {
		defer s.queries.Add(-1)
		if answer := s.answer(message, false); answer != nil {
			s.send(udpReply(from, port, answer))
		}
	})
}

// answer asks the resolver and logs what it says; nil: the message was no query.
func (s *session) answer(message []byte, tcp bool) []byte {
	g := s.guest
	outcome := g.dns.Handle(s.ctx, dns.Query{Wire: message, TCP: tcp, Policy: g.policy.Load()})
	if outcome.Wire == nil {
		s.drop(dropMalformed)
		return nil
	}
	g.counted.queries.Add(1)
	if !outcome.Allowed {
		g.counted.refused.Add(1)
	}
	g.log.Query(flowlog.Query{
		Name:     outcome.Name,
		Type:     outcome.Type,
		Allowed:  outcome.Allowed,
		Rule:     outcome.Rule,
		Reason:   outcome.Reason,
		Answers:  outcome.Answers,
		Duration: outcome.Duration,
	})
	return outcome.Wire
}

// resolve serves a TCP connection to the resolver: messages after their length, one at a time.
func (s *session) resolve(conn net.Conn) {
	var length [2]byte
	for {
		_ = conn.SetDeadline(time.Now().Add(resolverIdle))
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			return
		}
		size := int(binary.BigEndian.Uint16(length[:]))
		if size > maxQueryBytes {
			s.drop(dropMalformed)
			return
		}
		message := make([]byte, size)
		if _, err := io.ReadFull(conn, message); err != nil {
			return
		}
		answer := s.answer(message, true)
		if answer == nil {
			return
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			return
		}
	}
}
