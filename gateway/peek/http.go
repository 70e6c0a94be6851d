package peek

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
)

// httpFilter lets HTTP/1 requests through one after the other, each written anew after its host was found good. Answers go
// back as they come; only that to a WebSocket upgrade is looked at, since it says what the guest's next bytes are.
type httpFilter struct {
	stream *Stream
	reader *bufio.Reader
	allow  Allow
	ready  []byte
	place  place
	// left is of a body or chunk.
	left     int64
	requests int
	last     bool

	upgrading bool
	answered  chan struct{}
	answer    upgradeAnswer
}

// place is where in the guest's bytes the filter stands.
type place int

const (
	atHead place = iota
	inBody
	atChunk
	inChunk
	atAnswer // of an upgrade
	inRaw
)

func (s *Stream) beginHTTP(reader *bufio.Reader, allow Allow) error {
	f := &httpFilter{stream: s, reader: reader, allow: allow, answered: make(chan struct{})}
	s.filter = f
	return f.request()
}

func (f *httpFilter) Read(p []byte) (int, error) {
	for {
		if len(f.ready) > 0 {
			n := copy(p, f.ready)
			f.ready = f.ready[n:]
			if len(f.ready) == 0 {
				f.ready = nil
			}
			return n, nil
		}
		switch f.place {
		case inRaw:
			if f.reader.Buffered() > 0 {
				return f.reader.Read(p)
			}
			return f.stream.Conn.Read(p)
		case inBody, inChunk:
			n, err := f.reader.Read(p[:min(int64(len(p)), f.left)])
			if f.left -= int64(n); f.left == 0 {
				f.bodyEnds()
			}
			return n, cut(err)
		default:
			if err := f.step(); err != nil {
				return 0, err
			}
		}
	}
}

// step brings the filter to where there are bytes for the server.
func (f *httpFilter) step() error {
	switch f.place {
	case atHead:
		if f.last {
			return f.end()
		}
		return f.nextRequest()
	case atChunk:
		return f.chunk()
	case atAnswer:
		if err := f.stream.await(f.answered); err != nil {
			return err
		}
		// A server that didn't switch reads what comes next as requests, and so do we.
		f.place = atHead
		if f.answer.switched {
			f.place = inRaw
		}
		return nil
	}
	return nil
}

// end waits for the guest's end: where more would begin can't be known.
func (f *httpFilter) end() error {
	if _, err := f.reader.Peek(1); err != nil {
		return err
	}
	return refuse(ReasonHTTPDoubtful)
}

func (f *httpFilter) nextRequest() error {
	// One empty line before a request is an old habit after a body.
	if line, err := f.reader.Peek(2); err == nil && string(line) == "\r\n" {
		_, _ = f.reader.Discard(2)
	}
	if _, err := f.reader.Peek(1); err != nil {
		return err
	}
	return cut(f.request())
}

func (f *httpFilter) request() error {
	r, err := readRequest(f.reader)
	if err != nil {
		return err
	}
	name, err := r.hostName()
	if err != nil {
		return err
	}
	rule, err := approve(f.allow, name)
	if err != nil {
		return err
	}
	if f.requests == 0 {
		f.stream.Name, f.stream.Rule = printable(strings.ToLower(name)), rule
	}
	f.requests++
	if r.upgrade && f.requests > 1 {
		// Which of the answers is that to the upgrade isn't counted. Clients open a connection of its own for it.
		return refuse(ReasonHTTPUpgrade)
	}
	f.ready, f.last, f.left = r.head(), r.last, r.length
	switch {
	case r.upgrade:
		f.upgrading, f.place = true, atAnswer
	case r.length < 0:
		f.place = atChunk
	case r.length > 0:
		f.place = inBody
	default:
		f.place = atHead
	}
	return nil
}

// bodyEnds is after the last byte of a body, or of a chunk.
func (f *httpFilter) bodyEnds() {
	if f.place == inChunk {
		f.place = atChunk
		return
	}
	f.place = atHead
}

// chunk writes a chunk's size anew, without extensions; behind the last one the trailers.
func (f *httpFilter) chunk() error {
	var out bytes.Buffer
	if f.left == 0 {
		end := 2
		line, err := readLine(f.reader, &end)
		if err != nil || line != "" {
			return cut(orRefuse(err))
		}
		out.WriteString("\r\n")
	}
	most := maxLineBytes
	line, err := readLine(f.reader, &most)
	if err != nil {
		return cut(err)
	}
	digits, _, _ := strings.Cut(line, ";")
	digits = strings.TrimRight(digits, " \t")
	if digits == "" || len(digits) > 15 || strings.Trim(digits, "0123456789abcdefABCDEF") != "" {
		return refuse(ReasonHTTPBad)
	}
	size, err := strconv.ParseInt(digits, 16, 62)
	if err != nil {
		return refuse(ReasonHTTPBad)
	}
	out.WriteString(strconv.FormatInt(size, 16) + "\r\n")
	f.left, f.place = size, inChunk
	if size == 0 {
		if err := f.trailers(&out); err != nil {
			return cut(err)
		}
		f.place = atHead
	}
	f.ready = out.Bytes()
	return nil
}

func (f *httpFilter) trailers(out *bytes.Buffer) error {
	left := maxHeadBytes
	for range maxHeadFields {
		line, err := readLine(f.reader, &left)
		if err != nil {
			return err
		}
		if line == "" {
			out.WriteString("\r\n")
			return nil
		}
		one, err := parseField(line)
		if err != nil {
			return err
		}
		if slices.Contains([]string{"host", "content-length", "transfer-encoding", "connection", "upgrade", "trailer"}, strings.ReplaceAll(strings.ToLower(one.name), "_", "-")) {
			return refuse(ReasonHTTPDoubtful)
		}
		out.WriteString(one.name + ": " + one.value + "\r\n")
	}
	return refuse(ReasonHTTPBad)
}

func orRefuse(err error) error {
	if err == nil {
		return refuse(ReasonHTTPBad)
	}
	return err
}

// cut: an end in the middle is no end.
func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (f *httpFilter) sees(p []byte) {
	if !f.upgrading || f.answer.known {
		return
	}
	if len(p) == 0 {
		f.answer.known = true
		close(f.answered)
	} else if f.answer.read(p) {
		close(f.answered)
	}
}

// upgradeAnswer reads a server's first bytes until it is known whether it switched protocols.
type upgradeAnswer struct {
	known, switched bool
	head            []byte
}

func (a *upgradeAnswer) read(p []byte) bool {
	a.head = append(a.head, p...)
	for {
		end := bytes.Index(a.head, []byte("\r\n\r\n"))
		if end < 0 {
			a.known = len(a.head) > maxHeadBytes
			return a.known
		}
		status := string(a.head[:min(end, len("HTTP/1.1 101"))])
		interim := strings.HasPrefix(status, "HTTP/1.1 1")
		if interim && status != "HTTP/1.1 101" {
			a.head = a.head[end+4:]
			continue
		}
		a.known, a.switched, a.head = true, interim, nil
		return true
	}
}
