package dns

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// maxStrays is how many datagrams that aren't the answer are passed over; more is somebody guessing.
	maxStrays        = 64
	maxUpstreamBytes = 16384
)

var (
	errTruncated = errors.New("the answer is truncated")
	errSpelling  = errors.New("the answer spells the name otherwise")
	errNoEDNS    = errors.New("the upstream doesn't know EDNS")
)

// exchange asks one upstream: by datagram, and by TCP when the answer is cut, or when it gives back the name in a spelling
// that isn't ours (the random spelling is what a forger must guess besides the id and the port).
func (r *Resolver) exchange(ctx context.Context, upstream netip.AddrPort, q question) (*answer, error) {
	found, err := r.overUDP(ctx, upstream, q, true)
	if errors.Is(err, errNoEDNS) {
		found, err = r.overUDP(ctx, upstream, q, false)
	}
	if errors.Is(err, errTruncated) || errors.Is(err, errSpelling) {
		return r.overTCP(ctx, upstream, q)
	}
	return found, err
}

func (r *Resolver) overUDP(ctx context.Context, upstream netip.AddrPort, q question, edns bool) (*answer, error) {
	wire, sent, err := packQuestion(q, edns)
	if err != nil {
		return nil, err
	}
	// A socket of its own for each: its port is random, and connected it takes datagrams of the upstream only.
	conn, err := r.connect(ctx, "udp", upstream)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if _, err := conn.Write(wire); err != nil {
		return nil, fmt.Errorf("upstream %s: %w", upstream, err)
	}
	buffer := make([]byte, maxUDPBytes)
	for range maxStrays {
		n, err := conn.Read(buffer)
		if err != nil {
			return nil, fmt.Errorf("upstream %s: %w", upstream, err)
		}
		found, err := readReply(buffer[:n], sent, q)
		if errors.Is(err, errStray) {
			continue
		}
		return found, err
	}
	return nil, errors.New("too many datagrams that answer something else")
}

func (r *Resolver) overTCP(ctx context.Context, upstream netip.AddrPort, q question) (*answer, error) {
	wire, sent, err := packQuestion(q, false)
	if err != nil {
		return nil, err
	}
	conn, err := r.connect(ctx, "tcp", upstream)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	framed := append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...)
	if _, err := conn.Write(framed); err != nil {
		return nil, fmt.Errorf("upstream %s: %w", upstream, err)
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, fmt.Errorf("upstream %s: %w", upstream, err)
	}
	size := int(binary.BigEndian.Uint16(length[:]))
	if size > maxUpstreamBytes {
		return nil, fmt.Errorf("upstream %s: an answer of %d bytes", upstream, size)
	}
	message := make([]byte, size)
	if _, err := io.ReadFull(conn, message); err != nil {
		return nil, fmt.Errorf("upstream %s: %w", upstream, err)
	}
	sent.stream = true
	return readReply(message, sent, q)
}

func (r *Resolver) connect(ctx context.Context, network string, upstream netip.AddrPort) (net.Conn, error) {
	conn, err := r.dial(ctx, network, upstream.String())
	if err != nil {
		return nil, fmt.Errorf("upstream %s: %w", upstream, err)
	}
	deadline, bounded := ctx.Deadline()
	if !bounded {
		deadline = time.Now().Add(defaultPause)
	}
	if err := conn.SetDeadline(deadline); err != nil {
		conn.Close()
		return nil, fmt.Errorf("upstream %s: %w", upstream, err)
	}
	return conn, nil
}

// sentQuestion is what an answer must give back.
type sentQuestion struct {
	id     uint16
	name   dnsmessage.Name
	stream bool
}

func packQuestion(q question, edns bool) ([]byte, sentQuestion, error) {
	var random [2 + 32]byte
	// crypto/rand never fails: it ends the process rather than give what can be guessed.
	_, _ = rand.Read(random[:])
	name, err := dnsmessage.NewName(mixCase(q.name, random[2:]) + ".")
	if err != nil {
		return nil, sentQuestion{}, fmt.Errorf("name %q: %w", q.name, err)
	}
	sent := sentQuestion{id: binary.BigEndian.Uint16(random[:2]), name: name}
	message := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: sent.id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: name, Type: q.asked, Class: dnsmessage.ClassINET}},
	}
	if edns {
		message.Additionals = []dnsmessage.Resource{ednsRecord(reply{})}
	}
	wire, err := message.Pack()
	if err != nil {
		return nil, sentQuestion{}, fmt.Errorf("name %q: %w", q.name, err)
	}
	return wire, sent, nil
}

func mixCase(name string, random []byte) string {
	mixed := []byte(name)
	for i, c := range mixed {
		if 'a' <= c && c <= 'z' && random[i/8%len(random)]>>(i%8)&1 == 1 {
			mixed[i] = c - 'a' + 'A'
		}
	}
	return string(mixed)
}

var errStray = errors.New("it answers something else")

func readReply(message []byte, sent sentQuestion, q question) (*answer, error) {
	var parser dnsmessage.Parser
	header, err := parser.Start(message)
	if err != nil || !header.Response || header.ID != sent.id || header.OpCode != 0 {
		return nil, errStray
	}
	asked, err := parser.Question()
	if err != nil {
		// Servers that know no EDNS may leave out the question as well.
		if header.RCode == dnsmessage.RCodeFormatError && !sent.stream {
			return nil, errNoEDNS
		}
		return nil, errStray
	}
	if _, err := parser.Question(); !errors.Is(err, dnsmessage.ErrSectionDone) {
		return nil, errStray
	}
	if asked.Type != q.asked || asked.Class != dnsmessage.ClassINET || fold(asked.Name) != fold(sent.name) {
		return nil, errStray
	}
	if asked.Name.String() != sent.name.String() && !sent.stream {
		return nil, errSpelling
	}
	switch {
	case header.Truncated && !sent.stream:
		return nil, errTruncated
	case header.Truncated:
		return nil, errors.New("the answer is truncated over TCP")
	case header.RCode == dnsmessage.RCodeSuccess, header.RCode == dnsmessage.RCodeNameError:
		return readAnswer(header, &parser, q.name, q.asked)
	case !sent.stream && (header.RCode == dnsmessage.RCodeFormatError || header.RCode == dnsmessage.RCodeNotImplemented):
		return nil, errNoEDNS
	}
	return nil, fmt.Errorf("the upstream answered with code %d", header.RCode)
}
