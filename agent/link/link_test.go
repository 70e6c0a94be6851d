package link

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

func TestAnAgentWithoutSecretAdoptsTheFirst(t *testing.T) {
	h := serve(t, echo)
	if a := h.open(nonce1, secretA, nil); a.Error != nil || a.Generation != Generation {
		t.Fatalf("answer is %+v", a)
	}
	h.ping()
	h.write(preambleBytes(nonce2, secretB, nil)) // nobody's: it breaks the frames instead
	h.expect(frameReset, 0, "closed: protocol")
	h.open(nonce2, secretA, nil)
	h.ping()
}

func TestARestoreIsDoneBeforeTheAnswerAndReplacesTheSecret(t *testing.T) {
	h := serve(t, echo)
	h.open(nonce1, secretA, nil)
	h.open(nonce2, secretA, step(1000))
	if len(h.restored) != 1 || h.restored[0].WallClockMs != 1000 || len(h.restored[0].Seed) != 32 {
		t.Fatalf("restored %+v", h.restored)
	}
	h.write(preambleBytes(nonce1, secretA, nil))
	h.expect(frameReset, 0, "closed")
	h.open(nonce1, secretB, nil)
	h.ping()
}

func TestARepeatedPreambleRepeatsTheAnswerAndNotTheRestore(t *testing.T) {
	h := serve(t, echo)
	h.open(nonce1, secretA, nil)
	h.open(nonce2, secretA, step(1000))
	if a := h.open(nonce2, secretA, step(1000)); a.Error != nil {
		t.Fatalf("answer is %+v", a)
	}
	if len(h.restored) != 1 {
		t.Fatalf("restored %d times", len(h.restored))
	}
	// With a new nonce the clock of back then is not set once more either.
	h.open(nonce1, secretB, step(1000))
	if len(h.restored) != 1 {
		t.Fatalf("restored %d times", len(h.restored))
	}
	h.open(nonce2, secretB, step(2000))
	if len(h.restored) != 2 {
		t.Fatalf("restored %d times", len(h.restored))
	}
	h.ping()
}

func TestAFailedRestoreIsAnsweredAndLeavesNoSession(t *testing.T) {
	h := serve(t, echo)
	h.open(nonce1, secretA, nil)
	h.failWith = errors.New("no clock")
	if a := h.open(nonce2, secretA, step(1000)); a.Error == nil || *a.Error != "no clock" {
		t.Fatalf("answer is %+v", a)
	}
	h.send(framePing, 0, "12345678") // unanswered
	h.failWith = nil
	if a := h.open(nonce2, secretA, step(1000)); a.Error != nil {
		t.Fatalf("answer is %+v", a)
	}
	h.ping()
}

func TestAMalformedRestoreIsRefused(t *testing.T) {
	for name, change := range map[string]func(*restoreStep){
		"clock":  func(s *restoreStep) { s.WallClockMs = -1 },
		"seed":   func(s *restoreStep) { s.Seed = "AAAA" },
		"base64": func(s *restoreStep) { s.Seed = "!" },
		"secret": func(s *restoreStep) { s.NextSecret = "x" },
	} {
		t.Run(name, func(t *testing.T) {
			h := serve(t, echo)
			s := step(1000)
			change(s)
			if a := h.open(nonce1, secretA, s); a.Error == nil {
				t.Fatal("it was taken")
			}
			if len(h.restored) != 0 {
				t.Fatal("something was restored")
			}
		})
	}
}

func TestANewPreambleDropsTheOldSessionInMidFrame(t *testing.T) {
	ended := make(chan struct{})
	h := serve(t, func(ctx context.Context, stream *Stream, request []byte) {
		if string(request) == "block" {
			block(ctx, stream, nil)
			close(ended)
			return
		}
		echo(ctx, stream, request)
	})
	h.open(nonce1, secretA, nil)
	h.send(frameOpen, 1, "block")
	h.expect(frameAccept, 1, "")
	h.write(appendHeader(nil, frameData, 1, 1000)) // and never the bytes
	h.open(nonce2, secretA, nil)
	<-ended
	h.ping()
	h.send(frameOpen, 1, "echo") // the number is free again
	h.expect(frameAccept, 1, "")
}

func TestNothingOfAnOldSessionFollowsTheAnswer(t *testing.T) {
	h := serve(t, func(_ context.Context, stream *Stream, _ []byte) {
		_ = stream.Accept()
		for {
			if _, err := stream.Write(bytes.Repeat([]byte("old"), 10_000)); err != nil {
				return
			}
		}
	})
	h.open(nonce1, secretA, nil)
	for id := range uint32(8) {
		h.send(frameOpen, id+1, "{}")
	}
	for range 20 { // the writer now hangs in a write nobody reads
		h.next()
	}
	h.open(nonce2, secretA, nil)
	h.ping()
}

func TestAPreambleInPiecesIsTaken(t *testing.T) {
	h := serve(t, echo)
	whole := preambleBytes(nonce1, secretA, nil)
	for _, at := range [][2]int{{0, 5}, {5, 11}, {11, 40}, {40, len(whole)}} {
		h.write(whole[at[0]:at[1]])
	}
	h.answer(nonce1)
	h.ping()
}

func TestAPreambleBehindTheBeginningOfALostOneIsTaken(t *testing.T) {
	h := serve(t, echo)
	h.write(preambleBytes(nonce1, secretA, nil)[:50])
	h.open(nonce2, secretA, nil)
	h.ping()
}

func TestBytesThatLookLikeAPreambleAreDataAfterAWhile(t *testing.T) {
	h := serve(t, echo)
	h.open(nonce1, secretA, nil)
	h.send(frameOpen, 1, "{}")
	h.expect(frameAccept, 1, "")
	forged := preambleMagic + "\x00\x00\x10\x00{"
	h.write(appendHeader(nil, frameData, 1, len(forged)))
	h.write([]byte(forged)) // at the start of a read, its rest never comes
	h.expect(frameData, 1, forged)
	h.ping()
}

func TestDataIsEchoedBeyondTheFirstCredit(t *testing.T) {
	h := serve(t, echo)
	h.open(nonce1, secretA, nil)
	h.send(frameOpen, 7, "{}")
	const total = 3 * InitialCreditBytes
	go func() {
		chunk := strings.Repeat("x", 64_000)
		_, _ = h.conn.Write(appendFrame(nil, frameData, 7, []byte(chunk)))
	}()
	sent, received, credit := 64_000, 0, InitialCreditBytes-64_000
	for received < total {
		f := h.next()
		switch f.kind {
		case frameData:
			received += len(f.payload)
			grant := binary.BigEndian.AppendUint32(nil, uint32(len(f.payload)))
			go h.conn.Write(appendFrame(nil, frameCredit, 7, grant))
		case frameCredit:
			credit += int(binary.BigEndian.Uint32(f.payload))
		case frameReset:
			t.Fatalf("reset: %s", f.payload)
		}
		if n := min(credit, total-sent, 60_000); n > 0 {
			sent += n
			credit -= n
			go h.conn.Write(appendFrame(nil, frameData, 7, make([]byte, n)))
		}
	}
}

func TestWhatATakerLeavesIsReceivedBehindWhatItTook(t *testing.T) {
	var got []byte
	taken := 0
	h := serve(t, func(_ context.Context, stream *Stream, _ []byte) {
		// The taker is called only while the receiver waits, so nobody else touches got.
		stream.TakeBy(func(part []byte) int {
			n := min(len(part), 40_000)
			got = append(got, part[:n]...)
			taken += n
			return n
		})
		_ = stream.Accept()
		var spare []byte
		for {
			part, err := stream.Receive(spare)
			if err != nil {
				break
			}
			got = append(got, part...)
			stream.Consumed(len(part))
			spare = part
		}
		stream.End()
	})
	h.open(nonce1, secretA, nil)
	h.send(frameOpen, 1, "{}")
	h.expect(frameAccept, 1, "")
	want := make([]byte, 3*InitialCreditBytes)
	for i := range want {
		want[i] = byte(i >> 10)
	}
	for sent, credit := 0, InitialCreditBytes; sent < len(want); {
		n := min(credit, len(want)-sent, 60_000)
		h.send(frameData, 1, string(want[sent:sent+n]))
		sent += n
		credit -= n
		for credit == 0 {
			credit += int(binary.BigEndian.Uint32(h.next().payload))
		}
	}
	h.send(frameEnd, 1, "")
	for h.next().kind != frameEnd {
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("got %d bytes, and not those sent", len(got))
	}
	if taken == 0 || taken == len(want) {
		t.Fatalf("%d of them were taken", taken)
	}
}

func TestMoreThanGrantedResetsTheStreamOnly(t *testing.T) {
	h := serve(t, block)
	h.open(nonce1, secretA, nil)
	h.send(frameOpen, 3, "{}")
	h.expect(frameAccept, 3, "")
	for range InitialCreditBytes / maxPayloadBytes {
		h.send(frameData, 3, strings.Repeat("x", maxPayloadBytes))
	}
	h.ping()
	h.send(frameData, 3, "x")
	h.expect(frameReset, 3, "flow")
	h.send(frameData, 3, "x") // crossed with the reset
	h.ping()
}

func TestASenderWithoutCreditWaitsAndTheOthersDoNot(t *testing.T) {
	h := serve(t, func(ctx context.Context, stream *Stream, request []byte) {
		_ = stream.Accept()
		if string(request) == "much" {
			_, _ = stream.Write(make([]byte, InitialCreditBytes+1))
		}
		_, _ = stream.Write([]byte("end"))
		stream.End()
	})
	h.open(nonce1, secretA, nil)
	h.send(frameOpen, 1, "much")
	h.expect(frameAccept, 1, "")
	for got := 0; got < InitialCreditBytes; {
		got += len(h.next().payload)
	}
	h.ping()
	h.send(frameOpen, 2, "little")
	h.expect(frameAccept, 2, "")
	h.expect(frameData, 2, "end")
	h.expect(frameEnd, 2, "")
	h.write(appendFrame(nil, frameCredit, 1, []byte{0, 0, 0, 1}))
	if f := h.next(); f.stream != 1 || len(f.payload) != 1 {
		t.Fatalf("frame is %+v", f)
	}
}

func TestAtMost4096StreamsAreOpen(t *testing.T) {
	h := serve(t, block)
	h.open(nonce1, secretA, nil)
	for id := range uint32(MaxStreams) {
		h.send(frameOpen, id+1, "{}")
		h.expect(frameAccept, id+1, "")
	}
	h.send(frameOpen, MaxStreams+1, "{}")
	h.expect(frameReset, MaxStreams+1, "failed")
	h.send(frameReset, 1, "cancelled: ")
	h.send(frameOpen, MaxStreams+2, "{}")
	h.expect(frameAccept, MaxStreams+2, "")
}

func TestAHandlerThatEndsNothingOrPanicsResetsItsStreamOnly(t *testing.T) {
	h := serve(t, func(ctx context.Context, stream *Stream, request []byte) {
		if string(request) == "panic" {
			panic("boom")
		}
	})
	h.open(nonce1, secretA, nil)
	h.send(frameOpen, 1, "panic")
	h.expect(frameReset, 1, "failed: the agent failed: boom")
	h.send(frameOpen, 2, "{}")
	h.expect(frameReset, 2, "closed")
	h.ping()
}

func TestWhatComesForAServedCallIsIgnored(t *testing.T) {
	h := serve(t, func(_ context.Context, stream *Stream, _ []byte) {
		_ = stream.Accept()
		stream.End()
	})
	h.open(nonce1, secretA, nil)
	h.send(frameOpen, 1, "{}")
	h.expect(frameAccept, 1, "")
	h.expect(frameEnd, 1, "")
	h.send(frameData, 1, "x")
	h.send(frameEnd, 1, "")
	h.send(frameReset, 1, "cancelled")
	h.ping()
}

func TestAFrameThatBreaksTheRulesEndsTheSession(t *testing.T) {
	for name, bad := range map[string][]byte{
		"unknown type":       appendHeader(nil, 9, 1, 0),
		"reserved bytes":     {7, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8},
		"agent's own frame":  appendFrame(nil, frameAccept, 1, nil),
		"stream 0":           appendFrame(nil, frameOpen, 0, []byte("{}")),
		"ping on a stream":   appendFrame(nil, framePing, 1, make([]byte, 8)),
		"short ping":         appendFrame(nil, framePing, 0, make([]byte, 7)),
		"huge payload":       appendHeader(nil, frameData, 1, maxPayloadBytes+1),
		"short credit":       appendFrame(nil, frameCredit, 1, []byte{1}),
		"used stream number": append(appendFrame(nil, frameOpen, 1, []byte("{}")), appendFrame(nil, frameOpen, 1, []byte("{}"))...),
	} {
		t.Run(name, func(t *testing.T) {
			h := serve(t, block)
			h.open(nonce1, secretA, nil)
			go h.conn.Write(bad)
			f := h.next()
			if f.kind == frameAccept {
				f = h.next()
			}
			if f.kind != frameReset || f.stream != 0 {
				t.Fatalf("frame is %+v", f)
			}
			h.open(nonce2, secretA, nil)
			h.ping()
		})
	}
}

func TestAHostThatNeverReadsEndsItsSession(t *testing.T) {
	s := newSession(refuse, nil)
	defer s.end(nil)
	var err error
	for n := 0; err == nil && n < maxControlBytes; n++ {
		err = s.frame(framePing, 0, make([]byte, 8))
	}
	if !errors.Is(err, errProtocol) {
		t.Fatal("it may ping for ever")
	}
}

// FuzzServer feeds anything at all; the server must neither panic nor hang, and a good preamble must bring it back.
func FuzzServer(f *testing.F) {
	f.Add(preambleBytes(nonce1, secretA, step(5)))
	f.Add(append(preambleBytes(nonce1, secretA, nil), appendFrame(nil, frameOpen, 1, []byte("{}"))...))
	f.Add([]byte(preambleMagic))
	f.Fuzz(func(t *testing.T, input []byte) {
		ours, theirs := net.Pipe()
		server := NewServer(pipePort{theirs}, echo, func(Restore) error { return nil })
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = server.Serve()
		}()
		found := make(chan struct{})
		go func() {
			seen, one := []byte{}, make([]byte, 4096)
			for !bytes.Contains(seen, []byte(nonce2)) {
				n, err := ours.Read(one)
				if err != nil {
					return
				}
				seen = append(seen, one[:n]...)
			}
			close(found)
			_, _ = io.Copy(io.Discard, ours)
		}()
		_ = ours.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = ours.Write(input)
		for _, secret := range []string{secretA, secretB} {
			_, _ = ours.Write(preambleBytes(nonce2, secret, nil))
		}
		// Inputs that set a secret nobody else knows are rightly deaf.
		if !bytes.Contains(input, []byte(preambleMagic)) {
			select {
			case <-found:
			case <-time.After(10 * time.Second):
				t.Error("no session after garbage")
			}
		}
		ours.Close()
		<-done
	})
}
