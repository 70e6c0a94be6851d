package peek

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// script is a guest that sends what is written down, in pieces, and ends.
type script struct {
	net.Conn
	text   *bytes.Reader
	pieces int
	wrote  bytes.Buffer
}

func guestSends(text string, pieces int) *script {
	return &script{text: bytes.NewReader([]byte(text)), pieces: pieces}
}

func (s *script) Read(p []byte) (int, error)      { return s.text.Read(p[:min(len(p), s.pieces)]) }
func (s *script) Write(p []byte) (int, error)     { return s.wrote.Write(p) }
func (s *script) SetReadDeadline(time.Time) error { return nil }
func (s *script) Close() error                    { return nil }

// allowed knows api.example.com and all below example.net.
func allowed(name string) (string, bool) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	switch {
	case name == "api.example.com":
		return "api", true
	case strings.HasSuffix(name, ".example.net"):
		return "wild", true
	}
	return "", false
}

// run gives what the server would get and the word it ended with, "" for a clean end.
func run(text string, pieces int) (*Stream, string, string) {
	stream, err := Inspect(context.Background(), guestSends(text, pieces), allowed, Options{})
	if err != nil {
		return nil, "", word(err)
	}
	out, err := io.ReadAll(stream)
	return stream, string(out), word(err)
}

func word(err error) string {
	var refusal *Refusal
	if errors.As(err, &refusal) {
		return refusal.Reason
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

// clientHello is what Go's own client sends first.
func clientHello(t testing.TB, config *tls.Config) []byte {
	t.Helper()
	near, far := net.Pipe()
	defer far.Close()
	go func() {
		_ = tls.Client(near, config).Handshake()
		near.Close()
	}()
	buffer := make([]byte, 65536)
	n, err := far.Read(buffer)
	if err != nil {
		t.Fatal(err)
	}
	return buffer[:n]
}

// inRecords cuts a hello's one record in several.
func inRecords(hello []byte, size int) []byte {
	var out []byte
	for body := hello[5:]; len(body) > 0; {
		n := min(size, len(body))
		out = append(out, 22, 3, 1, byte(n>>8), byte(n))
		out = append(out, body[:n]...)
		body = body[n:]
	}
	return out
}

type extension struct {
	kind uint16
	body []byte
}

func sni(entries ...[]byte) extension {
	list := bytes.Join(entries, nil)
	return extension{0, append([]byte{byte(len(list) >> 8), byte(len(list))}, list...)}
}

func hostEntry(name string) []byte {
	return append([]byte{0, byte(len(name) >> 8), byte(len(name))}, name...)
}

// makeHello writes a client hello by hand.
func makeHello(extensions ...extension) []byte {
	var all []byte
	for _, one := range extensions {
		all = append(all, byte(one.kind>>8), byte(one.kind), byte(len(one.body)>>8), byte(len(one.body)))
		all = append(all, one.body...)
	}
	body := append([]byte{3, 3}, make([]byte, 32)...)
	body = append(body, 0, 0, 2, 0x13, 1, 1, 0)
	if extensions != nil {
		body = append(body, byte(len(all)>>8), byte(len(all)))
		body = append(body, all...)
	}
	message := append([]byte{1, byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}, body...)
	return append([]byte{22, 3, 1, byte(len(message) >> 8), byte(len(message))}, message...)
}
