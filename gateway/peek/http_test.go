package peek

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

const hostLine = "Host: api.example.com\r\n"

func TestRequestsForAllowedHostsAreWrittenAnew(t *testing.T) {
	for _, c := range []struct{ what, sent, written string }{
		{"a plain one", "GET /a?b=c HTTP/1.1\r\nAccept: */*\r\nhost:  API.example.com\t\r\n\r\n", "GET /a?b=c HTTP/1.1\r\nHost: API.example.com\r\nAccept: */*\r\n\r\n"},
		{"a port", "GET / HTTP/1.1\r\nHost: api.example.com:8080\r\n\r\n", "GET / HTTP/1.1\r\nHost: api.example.com:8080\r\n\r\n"},
		{"version 1.0", "GET / HTTP/1.0\r\n" + hostLine + "\r\n", "GET / HTTP/1.0\r\n" + hostLine + "\r\n"},
		{"absolute", "GET HTTP://api.example.com/x HTTP/1.1\r\n" + hostLine + "\r\n", "GET /x HTTP/1.1\r\n" + hostLine + "\r\n"},
		{"absolute, bare", "GET http://api.example.com HTTP/1.1\r\n" + hostLine + "\r\n", "GET / HTTP/1.1\r\n" + hostLine + "\r\n"},
		{"absolute, query only", "GET http://api.example.com?q HTTP/1.1\r\n" + hostLine + "\r\n", "GET /?q HTTP/1.1\r\n" + hostLine + "\r\n"},
		{"OPTIONS *", "OPTIONS * HTTP/1.1\r\n" + hostLine + "\r\n", "OPTIONS * HTTP/1.1\r\n" + hostLine + "Content-Length: 0\r\n\r\n"},
		{"a body", "POST / HTTP/1.1\r\n" + hostLine + "Content-Length: 5\r\n\r\nhello", "POST / HTTP/1.1\r\n" + hostLine + "Content-Length: 5\r\n\r\nhello"},
		{"chunks", "POST / HTTP/1.1\r\n" + hostLine + "Transfer-Encoding: Chunked\r\n\r\n5;ext=1\r\nhello\r\n00A \r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n",
			"POST / HTTP/1.1\r\n" + hostLine + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\na\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n"},
		{"several, to several hosts", "POST / HTTP/1.1\r\n" + hostLine + "Content-Length: 2\r\n\r\nhi\r\nGET /2 HTTP/1.1\r\nHost: x.example.net\r\n\r\nHEAD /3 HTTP/1.1\r\n" + hostLine + "\r\n",
			"POST / HTTP/1.1\r\n" + hostLine + "Content-Length: 2\r\n\r\nhiGET /2 HTTP/1.1\r\nHost: x.example.net\r\n\r\nHEAD /3 HTTP/1.1\r\n" + hostLine + "\r\n"},
		{"fields between neighbours", "GET / HTTP/1.1\r\n" + hostLine + "Connection: Keep-Alive, X-Api-Key, host\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nX-Api-Key: 1\r\n\r\n",
			"GET / HTTP/1.1\r\n" + hostLine + "X-Api-Key: 1\r\nConnection: keep-alive\r\n\r\n"},
		{"an upgrade to HTTP/2 is left out", "GET / HTTP/1.1\r\n" + hostLine + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n", "GET / HTTP/1.1\r\n" + hostLine + "\r\n"},
		{"expecting to go on makes it the last", "PUT / HTTP/1.1\r\n" + hostLine + "Expect: 100-continue\r\nContent-Length: 2\r\n\r\nhi", "PUT / HTTP/1.1\r\n" + hostLine + "Expect: 100-continue\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi"},
	} {
		for _, pieces := range []int{1, 3, 1 << 20} {
			stream, out, reason := run(c.sent, pieces)
			if reason != "" || out != c.written {
				t.Errorf("%s: %q %q", c.what, reason, out)
				break
			}
			if stream.Protocol != "http" || stream.Rule != "api" || !strings.HasPrefix(stream.Name, "api.example.com") {
				t.Errorf("%s: %+v", c.what, stream)
			}
		}
	}
}

func TestRequestsThatMightReachAnotherHostAreRefused(t *testing.T) {
	get := "GET / HTTP/1.1\r\n"
	post := "POST / HTTP/1.1\r\n" + hostLine
	for _, c := range []struct{ what, sent, reason string }{
		{"another host", get + "Host: evil.com\r\n\r\n", ReasonName},
		{"no host", get + "\r\n", ReasonHTTPNoHost},
		{"an empty host", get + "Host:\r\n\r\n", ReasonHTTPNoHost},
		{"only a port", get + "Host: :80\r\n\r\n", ReasonHTTPNoHost},
		{"no host in 1.0", "GET / HTTP/1.0\r\n\r\n", ReasonHTTPNoHost},
		{"an address", get + "Host: 93.184.216.34\r\n\r\n", ReasonName},
		{"a user", get + "Host: api.example.com@evil.com\r\n\r\n", ReasonName},
		{"a path", get + "Host: api.example.com/../evil.com\r\n\r\n", ReasonName},
		{"a port that is none", get + "Host: api.example.com:80@evil.com\r\n\r\n", ReasonName},
		{"two hosts", get + hostLine + "Host: evil.com\r\n\r\n", ReasonHTTPDoubtful},
		{"the same host twice", get + hostLine + hostLine + "\r\n", ReasonHTTPDoubtful},
		{"a host folded", get + "Host:\r\n api.example.com\r\n\r\n", ReasonHTTPBad},
		{"a fold after it", get + hostLine + " .evil.com\r\n\r\n", ReasonHTTPBad},
		{"a space before the colon", get + "Host : evil.com\r\n" + hostLine + "\r\n", ReasonHTTPBad},
		{"a tab before the name", get + "\tHost: evil.com\r\n" + hostLine + "\r\n", ReasonHTTPBad},
		{"absolute for another", "GET http://evil.com/ HTTP/1.1\r\n" + hostLine + "\r\n", ReasonHTTPDoubtful},
		{"absolute with a user", "GET http://api.example.com@evil.com/ HTTP/1.1\r\n" + hostLine + "\r\n", ReasonHTTPDoubtful},
		{"absolute with another port", "GET http://api.example.com:81/ HTTP/1.1\r\n" + hostLine + "\r\n", ReasonHTTPDoubtful},
		{"absolute with TLS", "GET https://api.example.com/ HTTP/1.1\r\n" + hostLine + "\r\n", ReasonHTTPBad},
		{"no path", "GET api.example.com HTTP/1.1\r\n" + hostLine + "\r\n", ReasonHTTPBad},
		{"CONNECT", "CONNECT evil.com:443 HTTP/1.1\r\n" + hostLine + "\r\n", ReasonHTTPConnect},
		{"HTTP/2 from the start", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ReasonHTTP2},
		{"another upgrade", get + hostLine + "Connection: upgrade\r\nUpgrade: tcp\r\n\r\n", ReasonHTTPUpgrade},
		{"two upgrades", get + hostLine + "Connection: upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n\r\n", ReasonHTTPDoubtful},
		{"a list of upgrades", get + hostLine + "Connection: upgrade\r\nUpgrade: websocket, tcp\r\n\r\n", ReasonHTTPUpgrade},
		{"an upgrade with a body", post + "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\nabc", ReasonHTTPUpgrade},
		{"a later upgrade", get + hostLine + "\r\n" + get + hostLine + "Connection: upgrade\r\nUpgrade: websocket\r\n\r\n", ReasonHTTPUpgrade},
		{"two lengths", post + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", ReasonHTTPDoubtful},
		{"the same length twice", post + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", ReasonHTTPDoubtful},
		{"a list of lengths", post + "Content-Length: 3, 3\r\n\r\nabc", ReasonHTTPDoubtful},
		{"a signed length", post + "Content-Length: +3\r\n\r\nabc", ReasonHTTPDoubtful},
		{"a hexadecimal length", post + "Content-Length: 0x3\r\n\r\nabc", ReasonHTTPDoubtful},
		{"an underlined length", post + "Content-Length: 1_0\r\n\r\nabc", ReasonHTTPDoubtful},
		{"an endless length", post + "Content-Length: 99999999999999999999\r\n\r\nabc", ReasonHTTPDoubtful},
		{"an empty length", post + "Content-Length:\r\n\r\n", ReasonHTTPDoubtful},
		{"length and chunks", post + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ReasonHTTPDoubtful},
		{"chunks twice", post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ReasonHTTPDoubtful},
		{"another coding", post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", ReasonHTTPDoubtful},
		{"a coding with a tail", post + "Transfer-Encoding: chunked;x\r\n\r\n0\r\n\r\n", ReasonHTTPDoubtful},
		{"a coding in 1.0", "POST / HTTP/1.0\r\n" + hostLine + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ReasonHTTPDoubtful},
		{"an underlined coding", post + "Transfer_Encoding: chunked\r\nContent-Length: 0\r\n\r\n", ReasonHTTPDoubtful},
		{"a vertical tab in the coding", post + "Transfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n", ReasonHTTPBad},
		{"a bare LF", "GET / HTTP/1.1\n" + hostLine + "\r\n", ReasonHTTPBad},
		{"a bare CR", get + "X: a\rHost: evil.com\r\n" + hostLine + "\r\n", ReasonHTTPBad},
		{"a NUL", get + "X: a\x00\r\n" + hostLine + "\r\n", ReasonHTTPBad},
		{"a field without colon", get + "Host\r\n\r\n", ReasonHTTPBad},
		{"a field without name", get + ": x\r\n" + hostLine + "\r\n", ReasonHTTPBad},
		{"an endless head", get + "X: " + strings.Repeat("x", maxHeadBytes) + "\r\n\r\n", ReasonHTTPBad},
		{"endless fields", get + strings.Repeat("X: x\r\n", maxHeadFields+1) + hostLine + "\r\n", ReasonHTTPBad},
		{"a control in the target", "GET /\x01 HTTP/1.1\r\n" + hostLine + "\r\n", ReasonHTTPBad},
		{"a tab for a space", "GET\t/ HTTP/1.1\r\n" + hostLine + "\r\n", ReasonNotTLSOrHTTP},
		{"two spaces", "GET  / HTTP/1.1\r\n" + hostLine + "\r\n", ReasonNotTLSOrHTTP},
		{"HTTP/0.9", "GET /\r\n", ReasonNotTLSOrHTTP},
		{"another version", "GET / HTTP/1.2\r\n" + hostLine + "\r\n", ReasonHTTPBad},
		{"SSH", "SSH-2.0-OpenSSH_9.2\r\n", ReasonNotTLSOrHTTP},
		{"a Redis command", "*1\r\n$4\r\nPING\r\n", ReasonNotTLSOrHTTP},
		{"a Postgres start", "\x00\x00\x00\x08\x04\xd2\x16\x2f", ReasonNotTLSOrHTTP},
		{"an MQTT start", "\x10\x0c\x00\x04MQTT", ReasonNotTLSOrHTTP},
		{"an empty line first", "\r\n" + get + hostLine + "\r\n", ReasonNotTLSOrHTTP},
		{"the second for another host", get + hostLine + "\r\n" + get + "Host: evil.com\r\n\r\n", ReasonName},
		{"one behind a body", post + "Content-Length: 2\r\n\r\nhiGET / HTTP/1.1\r\nHost: evil.com\r\n\r\n", ReasonName},
		{"one behind chunks", post + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: evil.com\r\n\r\n", ReasonName},
		{"anything behind an expectation", post + "Expect: 100-continue\r\nContent-Length: 2\r\n\r\nhiGET / HTTP/1.1\r\n" + hostLine + "\r\n", ReasonHTTPDoubtful},
		{"a chunk size that is none", post + "Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n", ReasonHTTPBad},
		{"a chunk size without end", post + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("0", 300) + "\r\n\r\n", ReasonHTTPBad},
		{"a chunk size beyond counting", post + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n\r\n", ReasonHTTPBad},
		{"a chunk longer than said", post + "Transfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n", ReasonHTTPBad},
		{"a chunk ended by LF", post + "Transfer-Encoding: chunked\r\n\r\n2\nhi\r\n0\r\n\r\n", ReasonHTTPBad},
		{"a host in the trailers", post + "Transfer-Encoding: chunked\r\n\r\n0\r\nHost: evil.com\r\n\r\n", ReasonHTTPDoubtful},
		{"half a body", post + "Content-Length: 5\r\n\r\nhi", io.ErrUnexpectedEOF.Error()},
		{"half chunks", post + "Transfer-Encoding: chunked\r\n\r\n5\r\nhi", io.ErrUnexpectedEOF.Error()},
		{"half a second head", get + hostLine + "\r\nGET / HT", io.ErrUnexpectedEOF.Error()},
	} {
		for _, pieces := range []int{1, 1 << 20} {
			_, out, reason := run(c.sent, pieces)
			if reason != c.reason {
				t.Errorf("%s: %q, want %q", c.what, reason, c.reason)
			}
			if strings.Contains(out, "evil") {
				t.Errorf("%s: %q went to the server", c.what, out)
			}
		}
	}
}

func TestAWebSocketIsLetThroughOnceTheServerSwitched(t *testing.T) {
	upgrade := "GET /ws HTTP/1.1\r\n" + hostLine + "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: x\r\n\r\n"
	written := "GET /ws HTTP/1.1\r\n" + hostLine + "Sec-WebSocket-Key: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
	evil := "GET / HTTP/1.1\r\nHost: evil.com\r\n\r\n"
	good := "GET / HTTP/1.1\r\n" + hostLine + "\r\n"
	for _, c := range []struct{ what, answer, rest, written, reason string }{
		{"switched", "HTTP/1.1 101 Switching Protocols\r\nX: y\r\n\r\n\x81\x05", "\x81\x85frame", "\x81\x85frame", ""},
		{"switched after a hint", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 101 Go\r\n\r\n", evil, evil, ""},
		{"not switched", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", evil, "", ReasonName},
		{"not switched, and a good request", "HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n", good, good, ""},
		{"a 101 in the body only", "HTTP/1.1 400 No\r\n\r\nHTTP/1.1 101 Go\r\n\r\n", evil, "", ReasonName},
		{"no HTTP", "220 smtp.example.com\r\n\r\nHTTP/1.1 101 Go\r\n\r\n", evil, "", ReasonName},
	} {
		for _, pieces := range []int{1, 1 << 20} {
			stream, err := Inspect(context.Background(), guestSends(upgrade+c.rest, pieces), allowed, Options{})
			if err != nil {
				t.Fatal(err)
			}
			head := make([]byte, len(written))
			if _, err := io.ReadFull(stream, head); err != nil || string(head) != written {
				t.Fatalf("%q %v", head, err)
			}
			for i := 0; i < len(c.answer); i += min(pieces, len(c.answer)) {
				_, _ = stream.Write([]byte(c.answer[i:min(i+pieces, len(c.answer))]))
			}
			out, err := io.ReadAll(stream)
			if string(out) != c.written || word(err) != c.reason {
				t.Errorf("%s: %q %v", c.what, out, err)
			}
		}
	}
}

func FuzzHTTP(f *testing.F) {
	f.Add("GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\nGET / HTTP/1.1\r\nHost: evil.com\r\n\r\n")
	f.Add("POST http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\nHEAD / HTTP/1.0\r\nhost: a.example.net:80\r\n\r\n")
	f.Add("PUT / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 3\r\nConnection: close, x\r\nExpect: 100-continue\r\n\r\nabc")
	f.Fuzz(func(t *testing.T, sent string) {
		stream, err := Inspect(context.Background(), guestSends(sent, 1<<20), allowed, Options{})
		if err != nil || stream.Protocol != "http" {
			return
		}
		// A server that never switches.
		_, _ = stream.Write([]byte("HTTP/1.1 200 OK\r\n\r\n"))
		out, err := io.ReadAll(stream)
		clean := err == nil
		// Go's own server must find allowed hosts only in what we let through, and no less of requests.
		server := bufio.NewReader(strings.NewReader(string(out)))
		for {
			request, err := http.ReadRequest(server)
			if errors.Is(err, io.EOF) || err != nil && !clean {
				return
			}
			if err != nil {
				if strings.Contains(err.Error(), "parse") || strings.Contains(err.Error(), "invalid") {
					return // a target that Go's URLs don't take
				}
				t.Fatalf("%q of %q: %v", out, sent, err)
			}
			host, _, _ := strings.Cut(request.Host, ":")
			if _, ok := allowed(host); !ok {
				t.Fatalf("%q of %q: %q", out, sent, request.Host)
			}
			if _, err := io.Copy(io.Discard, request.Body); err != nil && clean {
				t.Fatalf("%q of %q: body: %v", out, sent, err)
			}
		}
	})
}
