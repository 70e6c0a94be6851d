package main

import (
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
)

type front struct {
	token   string
	appPort int
	link    *hostLink
	mu      sync.Mutex
	idle    []*stream
}

var (
	errRefused  = errors.New("refused")
	end         = []byte("\r\n\r\n")
	headBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 16384); return &b }}
)

func (f *front) serve(listener net.Listener, config *tls.Config) {
	for {
		plain, err := listener.Accept()
		if err != nil {
			return
		}
		go f.connection(tls.Server(plain, config))
	}
}

func (f *front) connection(client *tls.Conn) {
	buffer := headBuffers.Get().(*[]byte)
	in, answer := (*buffer)[:0], []byte(nil)
	var up *stream
	var err error
	for err == nil {
		var h head
		if in, h, err = readHead(client.Read, in, true); err != nil {
			break
		}
		if subtle.ConstantTimeCompare(h.token, []byte(f.token)) != 1 {
			_, _ = io.WriteString(client, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			break
		}
		if up == nil {
			up = f.stream()
		}
		if err = up.write(h.rewritten); err != nil {
			break
		}
		if in, err = body(in, h.length, client.Read, up.write); err != nil {
			break
		}
		if h.upgrade {
			up.onData = nil
			*buffer = (*buffer)[:0]
			headBuffers.Put(buffer)
			// A goroutine that took part in a handshake has a large stack.
			go splice(client, up)
			return
		}
		if answer, err = f.answer(client, up, answer); err != nil {
			break
		}
		f.keep(up)
		up = nil
	}
	_ = client.Close()
	if up != nil {
		up.close()
	}
}

func (f *front) stream() *stream {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.idle); n > 0 {
		s := f.idle[n-1]
		f.idle = f.idle[:n-1]
		return s
	}
	return f.link.open(f.appPort)
}

func (f *front) keep(s *stream) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.idle = append(f.idle, s)
}

// answer carries one answer with a length: its head and what came with it leave in one record.
func (f *front) answer(client *tls.Conn, up *stream, spare []byte) ([]byte, error) {
	got, err := up.take(spare)
	if err != nil {
		return nil, err
	}
	at := bytes.Index(got, end)
	if at < 0 {
		return nil, errRefused // a prototype: heads come whole
	}
	h, err := parse(got[:at+2], false)
	if err != nil {
		return nil, err
	}
	rest := got[at+4:]
	if _, err = client.Write(append(h.rewritten, rest...)); err != nil {
		return nil, err
	}
	for left := h.length - len(rest); left > 0; {
		if got, err = up.take(got); err != nil {
			return nil, err
		}
		if _, err = client.Write(got); err != nil {
			return nil, err
		}
		left -= len(got)
	}
	return got, nil
}

// splice waits for the client with one small goroutine, and for the app with none.
func splice(client *tls.Conn, up *stream) {
	var listen func()
	listen = func() {
		up.mu.Lock()
		if len(up.in) == 0 && !up.ended {
			up.onData = listen
			up.mu.Unlock()
			return
		}
		up.mu.Unlock()
		got, err := up.take(nil)
		if err == nil {
			_, err = client.Write(got)
		}
		if err != nil {
			_ = client.Close()
			return
		}
		listen()
	}
	go listen()
	for {
		// Waiting for one byte needs no buffer; what else came with it is there at once.
		var one [1]byte
		n, err := client.Read(one[:])
		if n > 0 {
			err = up.write(one[:n])
		}
		if err != nil {
			_ = client.Close()
			up.close()
			return
		}
	}
}

func body(in []byte, length int, read func([]byte) (int, error), write func([]byte) error) ([]byte, error) {
	take := min(length, len(in))
	if err := write(in[:take]); err != nil {
		return nil, err
	}
	left := length - take
	in = in[:copy(in, in[take:])]
	if left == 0 {
		return in, nil
	}
	block := make([]byte, 65536)
	for left > 0 {
		n, err := read(block[:min(left, len(block))])
		if err != nil {
			return nil, err
		}
		if err := write(block[:n]); err != nil {
			return nil, err
		}
		left -= n
	}
	return in, nil
}

type head struct {
	token     []byte
	length    int
	upgrade   bool
	rewritten []byte
}

// readHead reads until a head is whole, and leaves what is behind it at the front of `in`.
func readHead(read func([]byte) (int, error), in []byte, isRequest bool) ([]byte, head, error) {
	for {
		if at := bytes.Index(in, end); at >= 0 {
			h, err := parse(in[:at+2], isRequest)
			if h.token != nil {
				h.token = bytes.Clone(h.token)
			}
			return in[:copy(in, in[at+4:])], h, err
		}
		if len(in) == cap(in) {
			return nil, head{}, errRefused
		}
		n, err := read(in[len(in):cap(in)])
		if err != nil {
			return nil, head{}, err
		}
		in = in[:len(in)+n]
	}
}

// parse takes a head apart strictly and makes it anew without what is between two hops.
func parse(text []byte, isRequest bool) (head, error) {
	h := head{rewritten: make([]byte, 0, len(text)+64)}
	for i := 0; len(text) > 0; i++ {
		at := bytes.IndexByte(text, '\r')
		if at < 0 || at+1 >= len(text) || text[at+1] != '\n' {
			return h, errRefused
		}
		line := text[:at]
		text = text[at+2:]
		for _, c := range line {
			if c < 32 && c != '\t' || c == 127 {
				return h, errRefused
			}
		}
		if i == 0 {
			h.rewritten = append(append(h.rewritten, line...), '\r', '\n')
			continue
		}
		colon := bytes.IndexByte(line, ':')
		if colon <= 0 {
			return h, errRefused
		}
		if err := h.header(line, line[:colon], bytes.TrimSpace(line[colon+1:]), isRequest); err != nil {
			return h, err
		}
	}
	var id [16]byte
	_, _ = rand.Read(id[:])
	h.rewritten = append(h.rewritten, "x-amzn-requestid: "...)
	for _, b := range id {
		h.rewritten = append(h.rewritten, "0123456789abcdef"[b>>4], "0123456789abcdef"[b&15])
	}
	h.rewritten = append(h.rewritten, end...)
	return h, nil
}

func (h *head) header(line, name, value []byte, isRequest bool) error {
	is := func(other string) bool { return len(name) == len(other) && bytes.EqualFold(name, []byte(other)) }
	switch {
	case is("x-aws-proxy-auth"):
		h.token = value
		return nil
	case is("content-length"):
		n, err := strconv.Atoi(string(value))
		if err != nil || n < 0 {
			return errRefused
		}
		h.length = n
	case is("transfer-encoding"):
		return errRefused // a prototype: bodies have a length
	case is("upgrade"):
		h.upgrade = isRequest
	case is("connection"):
		if !h.upgrade && !bytes.EqualFold(value, []byte("upgrade")) {
			return nil
		}
	case len(name) > 12 && bytes.EqualFold(name[:12], []byte("x-aws-proxy-")):
		return nil
	}
	h.rewritten = append(append(h.rewritten, line...), '\r', '\n')
	return nil
}
