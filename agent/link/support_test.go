package link

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// pipePort is one end of a net.Pipe as a Port that, like the guest's, never ends while the host is away.
type pipePort struct{ conn net.Conn }

func (p pipePort) Read(buffer []byte, limit time.Duration) (int, error) {
	deadline := time.Time{}
	if limit > 0 {
		deadline = time.Now().Add(limit)
	}
	_ = p.conn.SetReadDeadline(deadline)
	n, err := p.conn.Read(buffer)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		err = nil
	}
	return n, err
}

func (p pipePort) Write(b []byte) (int, error) {
	n, err := p.conn.Write(b)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		_ = p.conn.SetWriteDeadline(time.Time{})
		err = nil
	}
	return n, err
}

func (p pipePort) Interrupt() { _ = p.conn.SetWriteDeadline(time.Unix(1, 0)) }

type frame struct {
	kind    frameType
	stream  uint32
	payload []byte
}

type host struct {
	t        *testing.T
	conn     net.Conn
	restored []Restore
	failWith error
	mu       sync.Mutex
}

var (
	secretA = strings.Repeat("a", 64)
	secretB = strings.Repeat("b", 64)
	nonce1  = strings.Repeat("1", 32)
	nonce2  = strings.Repeat("2", 32)
)

func serve(t *testing.T, handler Handler) *host {
	ours, theirs := net.Pipe()
	h := &host{t: t, conn: ours}
	server := NewServer(pipePort{theirs}, handler, func(step Restore) error {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.restored = append(h.restored, step)
		return h.failWith
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve()
	}()
	t.Cleanup(func() {
		ours.Close()
		<-done
	})
	_ = ours.SetDeadline(time.Now().Add(20 * time.Second))
	return h
}

func preambleBytes(nonce, secret string, restore *restoreStep) []byte {
	body, _ := json.Marshal(preamble{nonce, secret, restore})
	return append(binary.BigEndian.AppendUint32([]byte(preambleMagic), uint32(len(body))), body...)
}

func step(wallClockMs int64) *restoreStep {
	return &restoreStep{WallClockMs: wallClockMs, Seed: base64.StdEncoding.EncodeToString(make([]byte, 32)), NextSecret: secretB}
}

func (h *host) write(b []byte) {
	h.t.Helper()
	if _, err := h.conn.Write(b); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) send(kind frameType, stream uint32, payload string) {
	h.t.Helper()
	h.write(appendFrame(nil, kind, stream, []byte(payload)))
}

// answer skips what precedes the answer with the nonce, as the host does.
func (h *host) answer(nonce string) answer {
	h.t.Helper()
	var seen []byte
	for {
		one := make([]byte, 1)
		if _, err := io.ReadFull(h.conn, one); err != nil {
			h.t.Fatalf("no answer: %v", err)
		}
		seen = append(seen, one...)
		if !bytes.HasSuffix(seen, []byte(answerMagic)) {
			continue
		}
		length := make([]byte, 4)
		_, _ = io.ReadFull(h.conn, length)
		body := make([]byte, binary.BigEndian.Uint32(length))
		_, _ = io.ReadFull(h.conn, body)
		var a answer
		if err := json.Unmarshal(body, &a); err == nil && a.Nonce == nonce {
			return a
		}
	}
}

func (h *host) open(nonce, secret string, restore *restoreStep) answer {
	h.t.Helper()
	h.write(preambleBytes(nonce, secret, restore))
	return h.answer(nonce)
}

func (h *host) next() frame {
	h.t.Helper()
	head := make([]byte, headerBytes)
	if _, err := io.ReadFull(h.conn, head); err != nil {
		h.t.Fatalf("no frame: %v", err)
	}
	payload := make([]byte, binary.BigEndian.Uint32(head[8:]))
	_, _ = io.ReadFull(h.conn, payload)
	return frame{frameType(head[0]), binary.BigEndian.Uint32(head[4:]), payload}
}

func (h *host) expect(kind frameType, stream uint32, payload string) {
	h.t.Helper()
	got := h.next()
	if got.kind != kind || got.stream != stream || !strings.HasPrefix(string(got.payload), payload) {
		h.t.Fatalf("frame is %d on %d %.80q, not %d on %d %q", got.kind, got.stream, got.payload, kind, stream, payload)
	}
}

// ping proves that the session lives and that nothing else is under way.
func (h *host) ping() {
	h.t.Helper()
	h.send(framePing, 0, "12345678")
	h.expect(framePong, 0, "12345678")
}

func echo(_ context.Context, stream *Stream, _ []byte) {
	_ = stream.Accept()
	var spare []byte
	for {
		got, err := stream.Receive(spare)
		if err != nil {
			stream.End()
			return
		}
		if _, err := stream.Write(got); err != nil {
			return
		}
		stream.Consumed(len(got))
		spare = got
	}
}

func refuse(context.Context, *Stream, []byte) {}

// block keeps its stream until that ends.
func block(ctx context.Context, stream *Stream, _ []byte) {
	_ = stream.Accept()
	<-ctx.Done()
}
