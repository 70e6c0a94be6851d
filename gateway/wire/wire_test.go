package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
)

func TestFramesOfEverySizeArriveWhole(t *testing.T) {
	ours, theirs := pair(t)
	var sent [][]byte
	for _, size := range []int{14, 15, 60, 1514, 8188, 8192, 65_534, MaxFrameBytes, 14, 40_000} {
		sent = append(sent, pattern(size))
	}
	go func() {
		for _, frame := range sent {
			_, _ = theirs.Write(encode(frame))
		}
		_ = theirs.Close()
	}()
	var got [][]byte
	err := ours.Receive(func(frame *buffer.View) {
		got = append(got, bytes.Clone(frame.AsSlice()))
		frame.Release()
	})
	if !errors.Is(err, io.EOF) {
		t.Fatalf("the link ended with %v", err)
	}
	if len(got) != len(sent) {
		t.Fatalf("%d of %d frames arrived", len(got), len(sent))
	}
	for i := range sent {
		if !bytes.Equal(sent[i], got[i]) {
			t.Errorf("frame %d of %d bytes arrived changed", i, len(sent[i]))
		}
	}
}

func TestAFrameOfImpossibleLengthEndsTheLink(t *testing.T) {
	for _, size := range []uint32{0, 13, MaxFrameBytes + 1, 1 << 31} {
		ours, theirs := pair(t)
		go func() { _, _ = theirs.Write(binary.BigEndian.AppendUint32(nil, size)) }()
		err := ours.Receive(func(frame *buffer.View) { t.Errorf("a frame of %d bytes came through", size) })
		if err == nil || errors.Is(err, io.EOF) {
			t.Errorf("a frame of %d bytes: %v", size, err)
		}
	}
}

func TestFramesOfManySendersStayWhole(t *testing.T) {
	ours, theirs := pair(t)
	const senders, each = 8, 200
	var group sync.WaitGroup
	for sender := range senders {
		group.Go(func() {
			for i := range each {
				frame := bytes.Repeat([]byte{byte(sender)}, 100+i*37)
				if err := ours.Send(frame); err != nil {
					t.Error(err)
				}
			}
		})
	}
	counts := make([]int, senders)
	for range senders * each {
		frame := decode(t, theirs)
		if !bytes.Equal(frame, bytes.Repeat(frame[:1], len(frame))) {
			t.Fatal("frames of two senders are mixed")
		}
		if want := 100 + counts[frame[0]]*37; len(frame) != want {
			t.Fatalf("sender %d: a frame of %d bytes came before that of %d", frame[0], len(frame), want)
		}
		counts[frame[0]]++
	}
	group.Wait()
}

func TestCloseEndsSendersThatWaitForAGuestThatNeverReads(t *testing.T) {
	ours, _ := pair(t)
	ended := make(chan error)
	for range 4 {
		go func() {
			for {
				if err := ours.Send(make([]byte, 60_000)); err != nil {
					ended <- err
					return
				}
			}
		}()
	}
	waitUntil(t, func() bool { return ours.out.stuck.Load() })
	_ = ours.Close()
	for range 4 {
		if err := <-ended; !errors.Is(err, ErrClosed) && !errors.Is(err, net.ErrClosed) {
			t.Errorf("Send ended with %v", err)
		}
	}
	waitUntil(t, func() bool { ours.out.mu.Lock(); defer ours.out.mu.Unlock(); return len(ours.out.queue) == 0 })
}

func TestAGuestThatFloodsAndNeverReadsIsNotReadEither(t *testing.T) {
	ours, theirs := pair(t)
	go func() {
		for ours.Send(make([]byte, 60_000)) == nil {
		}
	}()
	waitUntil(t, func() bool { return ours.out.stuck.Load() })
	received := make(chan int)
	go func() {
		n := 0
		_ = ours.Receive(func(frame *buffer.View) { n++; frame.Release() })
		received <- n
	}()
	_ = theirs.SetWriteDeadline(time.Now().Add(time.Second))
	batch := bytes.Repeat(encode(make([]byte, 60)), 1000)
	for {
		if _, err := theirs.Write(batch); errors.Is(err, os.ErrDeadlineExceeded) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	_ = ours.Close()
	if n := <-received; n > 2*framesWhileStuck {
		t.Errorf("%d frames were taken from a guest that doesn't read", n)
	}
}

func FuzzSplitter(f *testing.F) {
	f.Add(encode(make([]byte, 14)), int64(1))
	f.Add(append(encode(pattern(300)), 0, 0, 1), int64(2))
	f.Fuzz(func(t *testing.T, stream []byte, seed int64) {
		random := rand.New(rand.NewSource(seed))
		var split splitter
		defer split.release()
		var again []byte
		rest := stream
		for len(rest) > 0 {
			n, want := 0, 1+random.Intn(len(rest))
			for _, space := range split.room() {
				n += copy(space, rest[n:want])
			}
			rest = rest[n:]
			err := split.took(n, func(frame *buffer.View) {
				again = append(again, encode(frame.AsSlice())...)
				frame.Release()
			})
			if err != nil {
				return
			}
		}
		if !bytes.HasPrefix(stream, again) {
			t.Error("the frames are not those of the stream")
		}
	})
}

func pair(t *testing.T) (*Conn, *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	sockets := make([]*net.UnixConn, 2)
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "link")
		conn, err := net.FileConn(file)
		_ = file.Close()
		if err != nil {
			t.Fatal(err)
		}
		sockets[i] = conn.(*net.UnixConn)
	}
	ours, err := NewConn(sockets[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ours.Close(); _ = sockets[1].Close() })
	return ours, sockets[1]
}

func encode(frame []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)
}

func decode(t *testing.T, from io.Reader) []byte {
	t.Helper()
	var header [HeaderBytes]byte
	if _, err := io.ReadFull(from, header[:]); err != nil {
		t.Fatal(err)
	}
	frame := make([]byte, binary.BigEndian.Uint32(header[:]))
	if _, err := io.ReadFull(from, frame); err != nil {
		t.Fatal(err)
	}
	return frame
}

func pattern(size int) []byte {
	bytes := make([]byte, size)
	for i := range bytes {
		bytes[i] = byte(i*7 + size)
	}
	return bytes
}

func waitUntil(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it never came to that")
		}
	}
}
