// Package peek looks into connections that a domain rule with content "tls-or-http" let through: the name a TLS client or an
// HTTP request asks for must be one of the policy, or the connection ends.
//
// Invariants: no byte goes to the server before a name was found good; what goes there has one reading only, and names
// nothing else. HTTP requests are written anew for that, TLS goes through as it came.
//
// What it can't see: the inside of TLS. A server that serves a foreign Host behind an allowed server name (domain fronting)
// is not noticed; the flow log has the server name. An encrypted client hello is refused, and so is the empty one that some
// browsers send to look alike (Chromium: --disable-features=EncryptedClientHello).
package peek

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"
)

// Reasons of refusals, as they stand in the flow log.
const (
	ReasonSilent       = "silent"        // nothing (or not enough) came in time: the server would speak first, or nobody
	ReasonNotTLSOrHTTP = "not-tls-http"  // use content "opaque" for other protocols
	ReasonTLSMalformed = "tls-malformed" // no client hello a server would take
	ReasonTLSVersion   = "tls-version"   // SSL 2 or 3
	ReasonTLSNoName    = "tls-no-name"   // no server name, so nothing to check
	ReasonTLSECH       = "tls-ech"       // the real server name is encrypted
	ReasonTLSSecond    = "tls-second"    // a second client hello asks for another name
	ReasonHTTPBad      = "http-malformed"
	ReasonHTTPDoubtful = "http-ambiguous" // two servers could read it in two ways (request smuggling)
	ReasonHTTPNoHost   = "http-no-host"
	ReasonHTTPConnect  = "http-connect"
	ReasonHTTPUpgrade  = "http-upgrade"
	ReasonHTTP2        = "http2" // HTTP/2 without TLS
	ReasonName         = "name-mismatch"
)

const (
	defaultTimeout = 10 * time.Second
	// answerTimeout is how long a guest's next bytes may wait for a server's answer that decides how they are to be read.
	answerTimeout = time.Minute
)

// Refusal is why a connection was ended. It comes from Inspect and, later, from Stream's Read.
type Refusal struct {
	// Reason is one word of the Reason constants, for the flow log.
	Reason string
	// Name is what the guest asked for, if it came to that.
	Name string
}

func (r *Refusal) Error() string { return "refused: " + r.Reason }

func refuse(reason string) error { return &Refusal{Reason: reason} }

// Allow gives the rule for a name, as policy.Shown does.
type Allow func(name string) (rule string, ok bool)

// Options: zero values give the defaults.
type Options struct {
	// Timeout is for the first bytes up to a whole ClientHello or request head. Default 10 s.
	Timeout time.Duration
}

// Stream is the guest's connection after its first name was found good. It is a net.Conn for the core's splice:
// Read gives what may go to the server (all that was read before included) and fails with a *Refusal (reset both sides then)
// when the guest breaks the rules later; Write gives the server's bytes to the guest. Both directions must go through it,
// one reader and one writer. Read can wait for what Write sees; Close ends that.
type Stream struct {
	net.Conn
	// Name and Rule are the first ones shown.
	Name, Rule string
	// Protocol is "tls" or "http".
	Protocol string

	filter filter
	gone   chan struct{}
	// over is the flow's end.
	over  <-chan struct{}
	close sync.Once
}

// filter stands between guest and server.
type filter interface {
	// Read gives what may go to the server.
	Read(p []byte) (int, error)
	// sees is told what comes from the server; none: it sends no more.
	sees(p []byte)
}

// Inspect reads from guest until it knows the name. Errors are *Refusal, or the connection's own. The connection stays the
// caller's, whatever comes out. ctx is the whole flow's: its end also ends a Read of the stream that waits for the server.
func Inspect(ctx context.Context, guest net.Conn, allow Allow, options Options) (*Stream, error) {
	timeout := options.Timeout
	if timeout == 0 {
		timeout = defaultTimeout
	}
	if err := guest.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = guest.SetReadDeadline(time.Now()) })
	stream := &Stream{Conn: guest, gone: make(chan struct{}), over: ctx.Done()}
	err := stream.begin(allow)
	if !stop() {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, early(err)
	}
	return stream, guest.SetReadDeadline(time.Time{})
}

// early names what went wrong before anything was known.
func early(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return refuse(ReasonSilent)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return refuse(ReasonSilent)
	}
	return err
}

func (s *Stream) begin(allow Allow) error {
	reader := bufio.NewReaderSize(s.Conn, 4096)
	first, err := reader.Peek(1)
	if err != nil {
		return err
	}
	switch {
	case first[0] == recordHandshake:
		s.Protocol = "tls"
		return s.beginTLS(reader, allow)
	case first[0]&0x80 != 0:
		// Two bytes of length with the top bit set, then the type: an SSL 2 hello.
		if head, err := reader.Peek(3); err == nil && head[2] == 1 {
			return refuse(ReasonTLSVersion)
		}
	case isToken(first[0]):
		s.Protocol = "http"
		return s.beginHTTP(reader, allow)
	}
	return refuse(ReasonNotTLSOrHTTP)
}

func (s *Stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	return s.filter.Read(p)
}

func (s *Stream) Write(p []byte) (int, error) {
	if len(p) > 0 {
		s.filter.sees(p)
	}
	return s.Conn.Write(p)
}

// CloseWrite tells the guest that the server sends no more, where the connection can. It ends a Read that waits for what the
// server would have said; use it rather than the connection's own.
func (s *Stream) CloseWrite() error {
	s.filter.sees(nil)
	if half, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Close also ends a Read that waits for the server.
func (s *Stream) Close() error {
	s.close.Do(func() { close(s.gone) })
	return s.Conn.Close()
}

// await waits for what the server's bytes decide.
func (s *Stream) await(decided <-chan struct{}) error {
	select {
	case <-decided:
		return nil
	default:
	}
	timer := time.NewTimer(answerTimeout)
	defer timer.Stop()
	select {
	case <-decided:
		return nil
	case <-s.gone:
		return net.ErrClosed
	case <-s.over:
		return net.ErrClosed
	case <-timer.C:
		return refuse(ReasonSilent)
	}
}

// approve asks for the rule of a name.
func approve(allow Allow, name string) (string, error) {
	rule, ok := allow(name)
	if !ok {
		return "", &Refusal{Reason: ReasonName, Name: printable(name)}
	}
	return rule, nil
}

// printable keeps a guest's text fit for a log.
func printable(name string) string {
	name = name[:min(len(name), 255)]
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, name)
}
