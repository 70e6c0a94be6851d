package peek

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"
)

func TestATLSConnectionForAnAllowedNameGoesThroughAsItCame(t *testing.T) {
	hello := clientHello(t, &tls.Config{ServerName: "API.example.com", NextProtos: []string{"h2"}})
	rest := "\x17\x03\x03\x00\x05early\x15\x03\x03\x00\x02\x01\x00"
	for _, pieces := range []int{1, 7, 1 << 20} {
		for _, sent := range [][]byte{hello, inRecords(hello, 100), inRecords(hello, 33)} {
			stream, out, reason := run(string(sent)+rest, pieces)
			if reason != "" || out != string(sent)+rest {
				t.Fatalf("pieces of %d: %q", pieces, reason)
			}
			if stream.Name != "api.example.com" || stream.Rule != "api" || stream.Protocol != "tls" {
				t.Errorf("%+v", stream)
			}
		}
	}
}

func TestHellosThatShowNoAllowedNameAreRefused(t *testing.T) {
	good := makeHello(sni(hostEntry("api.example.com")))
	bend := func(change func(hello []byte)) []byte {
		bent := bytes.Clone(good)
		change(bent)
		return bent
	}
	for _, c := range []struct {
		what   string
		hello  []byte
		reason string
	}{
		{"control", good, ""},
		{"another name", makeHello(sni(hostEntry("evil.com"))), ReasonName},
		{"a name that only ends alike", makeHello(sni(hostEntry("evilapi.example.com"))), ReasonName},
		{"a NUL in the name", makeHello(sni(hostEntry("evil.com\x00.example.net.evil"))), ReasonName},
		{"no extensions", makeHello(), ReasonTLSNoName},
		{"no name", makeHello(extension{10, []byte{0, 2, 0, 29}}), ReasonTLSNoName},
		{"an empty name", makeHello(sni(hostEntry(""))), ReasonTLSMalformed},
		{"an empty list", makeHello(sni()), ReasonTLSMalformed},
		{"two names", makeHello(sni(hostEntry("api.example.com"), hostEntry("evil.com"))), ReasonTLSMalformed},
		{"a name of another kind", makeHello(sni([]byte{1, 0, 1, 'x'}, hostEntry("api.example.com"))), ReasonTLSMalformed},
		{"two name extensions", makeHello(sni(hostEntry("api.example.com")), sni(hostEntry("evil.com"))), ReasonTLSMalformed},
		{"any extension twice", makeHello(extension{10, nil}, sni(hostEntry("api.example.com")), extension{10, nil}), ReasonTLSMalformed},
		{"ECH", makeHello(sni(hostEntry("api.example.com")), extension{0xfe0d, []byte{0}}), ReasonTLSECH},
		{"a draft of ECH", makeHello(sni(hostEntry("api.example.com")), extension{0xfe0a, []byte{0}}), ReasonTLSECH},
		{"ESNI", makeHello(extension{0xffce, []byte{0}}), ReasonTLSECH},
		{"SSL 2", []byte("\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10"), ReasonTLSVersion},
		{"SSL 3 record", bend(func(h []byte) { h[2] = 0 }), ReasonTLSVersion},
		{"SSL 3 hello", bend(func(h []byte) { h[10] = 0 }), ReasonTLSVersion},
		{"a record of version 4", bend(func(h []byte) { h[1] = 4 }), ReasonTLSMalformed},
		{"no client hello", bend(func(h []byte) { h[5] = 2 }), ReasonTLSMalformed},
		{"a message longer than its record, and no more", bend(func(h []byte) { h[8]++ }), ReasonSilent},
		{"a message shorter than its record", bend(func(h []byte) { h[8]-- }), ReasonTLSMalformed},
		{"a huge message", bend(func(h []byte) { h[6] = 1 }), ReasonTLSMalformed},
		{"a session id too long", bend(func(h []byte) { h[43] = 200 }), ReasonTLSMalformed},
		{"an empty record", append([]byte{22, 3, 1, 0, 0}, good...), ReasonTLSMalformed},
		{"a byte a record", inRecords(good, 1), ReasonTLSMalformed},
		{"another record in between", append(append(bytes.Clone(inRecords(good, 40)[:45]), 21, 3, 1, 0, 2, 1, 0), inRecords(good, 40)[45:]...), ReasonTLSMalformed},
		{"a record of 16 KiB and one", append([]byte{22, 3, 1, 0x40, 1}, make([]byte, 16385)...), ReasonTLSMalformed},
		{"a hello over 16 KiB", append([]byte{22, 3, 1, 0x40, 0, 1, 0, 0x50, 0}, make([]byte, 20480)...), ReasonTLSMalformed},
		{"half a hello", good[:len(good)/2], ReasonSilent},
	} {
		_, out, reason := run(string(c.hello), 1<<20)
		if reason != c.reason || reason != "" && out != "" {
			t.Errorf("%s: %q, want %q, %d bytes came out", c.what, reason, c.reason, len(out))
		}
	}
}

func TestEveryCutOfAHelloIsRefused(t *testing.T) {
	hello := clientHello(t, &tls.Config{ServerName: "api.example.com"})
	for n := range len(hello) {
		if _, out, reason := run(string(hello[:n]), 1<<20); reason == "" || out != "" {
			t.Fatalf("%d of %d bytes went through", n, len(hello))
		}
	}
}

func TestNothingMayFollowTheHelloButWhatAClientSends(t *testing.T) {
	hello := string(makeHello(sni(hostEntry("api.example.com"))))
	for _, rest := range []string{"GET / HTTP/1.1\r\n\r\n", "\x18\x03\x03\x00\x01x", "\x17\x03\x03\xff\xffx"} {
		if _, _, reason := run(hello+rest, 1<<20); reason != ReasonTLSMalformed {
			t.Errorf("%q: %q", rest, reason)
		}
	}
}

func TestSilenceIsRefusedInTime(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	_, err := Inspect(context.Background(), near, allowed, Options{Timeout: time.Millisecond})
	if word(err) != ReasonSilent {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Inspect(ctx, near, allowed, Options{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// splice joins a client and a server through Inspect, and gives how the client's direction ended.
func splice(t *testing.T, guest net.Conn, server net.Conn) <-chan error {
	t.Helper()
	ended := make(chan error, 1)
	go func() {
		stream, err := Inspect(context.Background(), guest, allowed, Options{})
		if err != nil {
			guest.Close()
			server.Close()
			ended <- err
			return
		}
		go func() { _, _ = io.Copy(stream, server) }()
		_, err = io.Copy(server, stream)
		stream.Close()
		server.Close()
		ended <- err
	}()
	return ended
}

func serverCertificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"api.example.com"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestHandshakesOfEveryVersionGoThrough(t *testing.T) {
	certificate := serverCertificate(t)
	for _, c := range []struct {
		what           string
		client, server *tls.Config
	}{
		{"TLS 1.3", &tls.Config{}, &tls.Config{}},
		{"TLS 1.2", &tls.Config{MaxVersion: tls.VersionTLS12}, &tls.Config{}},
		{"TLS 1.3 with a second hello", &tls.Config{CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP384}}, &tls.Config{CurvePreferences: []tls.CurveID{tls.CurveP384}}},
		{"TLS 1.2 with a client certificate", &tls.Config{MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}}, &tls.Config{ClientAuth: tls.RequireAnyClientCert}},
	} {
		guest, guestFar := net.Pipe()
		serverNear, serverFar := net.Pipe()
		splice(t, guestFar, serverNear)
		c.server.Certificates = []tls.Certificate{certificate}
		go func() {
			server := tls.Server(serverFar, c.server)
			_, _ = io.Copy(server, server)
			server.Close()
		}()
		c.client.ServerName, c.client.InsecureSkipVerify = "api.example.com", true
		client := tls.Client(guest, c.client)
		if _, err := client.Write([]byte("hello")); err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		echo := make([]byte, 5)
		if _, err := io.ReadFull(client, echo); err != nil || string(echo) != "hello" {
			t.Errorf("%s: %q %v", c.what, echo, err)
		}
		guest.Close()
		serverFar.Close()
	}
}

func TestASecondHelloForAnotherNameIsRefused(t *testing.T) {
	retry := retryRandom()
	message := append([]byte{2, 0, 0, 40, 3, 3}, retry[:]...)
	message = append(message, 0, 0x13, 1, 0, 0, 0)
	asksAgain := append([]byte{22, 3, 3, 0, byte(len(message))}, message...)
	plain := bytes.Clone(asksAgain)
	plain[12] ^= 1
	first := makeHello(sni(hostEntry("api.example.com")))
	other := makeHello(sni(hostEntry("evil.com")))
	hidden := makeHello(sni(hostEntry("api.example.com")), extension{0xfe0d, nil})
	change := []byte{20, 3, 3, 0, 1, 1}
	for _, c := range []struct {
		what   string
		server []byte
		second []byte
		reason string
	}{
		{"the same name", asksAgain, first, ""},
		{"the same name after a change of ciphers", asksAgain, append(bytes.Clone(change), first...), ""},
		{"another name", asksAgain, other, ReasonTLSSecond},
		{"another name after a change of ciphers", asksAgain, append(bytes.Clone(change), other...), ReasonTLSSecond},
		{"another name in fragments", asksAgain, inRecords(other, 9), ReasonTLSSecond},
		{"ECH", asksAgain, hidden, ReasonTLSECH},
		{"no second asked for: sealed records look like anything", plain, other, ""},
		{"asked for byte by byte", asksAgain, other, ReasonTLSSecond},
	} {
		near, far := net.Pipe()
		go func() {
			// All at once: the second hello may be on its way before the server asked.
			_, _ = far.Write(append(bytes.Clone(first), c.second...))
			far.Close()
		}()
		stream, err := Inspect(context.Background(), discardWrites{near}, allowed, Options{})
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(first))
		if _, err := io.ReadFull(stream, got); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(c.what, "byte by byte") {
			for i := range c.server {
				_, _ = stream.Write(c.server[i : i+1])
			}
		} else {
			_, _ = stream.Write(c.server)
		}
		rest, err := io.ReadAll(stream)
		if word(err) != c.reason {
			t.Errorf("%s: %v", c.what, err)
		}
		if bytes.Contains(rest, []byte("evil.com")) != (c.reason == "" && bytes.Contains(c.second, []byte("evil.com"))) {
			t.Errorf("%s: %q went to the server", c.what, rest)
		}
	}
}

// discardWrites has a guest that takes all that is sent to it. Deadlines can be set when its other end is closed, as on a
// connection of TCP.
type discardWrites struct{ net.Conn }

func (d discardWrites) SetReadDeadline(at time.Time) error {
	_ = d.Conn.SetReadDeadline(at)
	return nil
}

func (d discardWrites) Write(p []byte) (int, error) { return len(p), nil }

func TestAReadThatWaitsForTheServerEndsWithWhatItWaitsFor(t *testing.T) {
	first := string(makeHello(sni(hostEntry("api.example.com"))))
	upgrade := "GET / HTTP/1.1\r\n" + hostLine + "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
	for _, sent := range []string{first + first, upgrade} {
		for _, c := range []struct {
			what string
			end  func(stream *Stream, cancel func())
			err  error
		}{
			{"closed", func(stream *Stream, _ func()) { stream.Close() }, net.ErrClosed},
			{"the flow cut", func(_ *Stream, cancel func()) { cancel() }, net.ErrClosed},
			{"the server done", func(stream *Stream, _ func()) { _ = stream.CloseWrite() }, nil},
		} {
			ctx, cancel := context.WithCancel(context.Background())
			stream, err := Inspect(ctx, guestSends(sent, 1<<20), allowed, Options{})
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan error)
			go func() {
				_, err := io.ReadAll(stream)
				ended <- err
			}()
			c.end(stream, cancel)
			if err := <-ended; !errors.Is(err, c.err) {
				t.Errorf("%s: %v", c.what, err)
			}
			cancel()
		}
	}
}

func FuzzHello(f *testing.F) {
	f.Add(clientHello(f, &tls.Config{ServerName: "api.example.com"}))
	f.Add(makeHello(sni(hostEntry("api.example.com"))))
	f.Add(inRecords(makeHello(sni(hostEntry("api.example.com"))), 50))
	f.Fuzz(func(t *testing.T, sent []byte) {
		if len(sent) == 0 || sent[0] != recordHandshake {
			return
		}
		stream, err := Inspect(context.Background(), guestSends(string(sent), 1<<20), allowed, Options{})
		if err != nil {
			return
		}
		// Go's own server must see the same name in what we let through.
		seen := serverSees(sent)
		if seen != "" && !strings.EqualFold(strings.TrimSuffix(seen, "."), strings.TrimSuffix(stream.Name, ".")) {
			t.Fatalf("we saw %q, the server %q", stream.Name, seen)
		}
	})
}

func serverSees(sent []byte) string {
	seen := ""
	stop := errors.New("seen")
	config := &tls.Config{GetConfigForClient: func(info *tls.ClientHelloInfo) (*tls.Config, error) {
		seen = info.ServerName
		return nil, stop
	}}
	_ = tls.Server(deadlineless{guestSends(string(sent), 1<<20)}, config).Handshake()
	return seen
}

type deadlineless struct{ *script }

func (deadlineless) SetDeadline(time.Time) error      { return nil }
func (deadlineless) SetWriteDeadline(time.Time) error { return nil }
