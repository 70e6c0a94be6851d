package guest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rekindle/gateway/limits"
)

func TestBytesGoBothWaysUnchangedAndTheEndOfEachSideReachesTheOther(t *testing.T) {
	b := newBench(t, openPolicy)
	upload, download := random(5<<20), random(7<<20)
	b.dialTo(serve(t, func(conn net.Conn) {
		go func() {
			_, _ = conn.Write(download)
			_ = conn.(*net.TCPConn).CloseWrite()
		}()
		got, _ := io.ReadAll(conn)
		if sha256.Sum256(got) != sha256.Sum256(upload) {
			t.Errorf("%d bytes arrived at the host, not what was sent", len(got))
		}
	}))
	m := newMachine(t, b.theirs)
	conn, err := m.dial(public(80))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = conn.Write(upload)
		_ = conn.CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if err != nil || sha256.Sum256(got) != sha256.Sum256(download) {
		t.Errorf("%d bytes arrived at the guest, not what was sent (%v)", len(got), err)
	}
	eventually(t, "the flow ended", func() bool { return b.guest.Stats().Flows == 0 })
	stats := b.guest.Stats()
	if stats.BytesOut != int64(len(upload)) || stats.BytesIn != int64(len(download)) || stats.FlowsInAll != 1 {
		t.Errorf("counted %+v", stats)
	}
}

func TestTheHostCanGoOnSendingAfterTheGuestEnded(t *testing.T) {
	b := newBench(t, openPolicy)
	b.dialTo(serve(t, func(conn net.Conn) {
		all, _ := io.ReadAll(conn)
		_, _ = conn.Write(bytes.ToUpper(all))
	}))
	conn, err := newMachine(t, b.theirs).dial(public(80))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = conn.Write([]byte("question"))
	_ = conn.CloseWrite()
	if got, err := io.ReadAll(conn); string(got) != "QUESTION" {
		t.Errorf("the answer is %q (%v)", got, err)
	}
}

func TestARefusedConnectionIsResetAtOnceAndCostsNoStack(t *testing.T) {
	b := newBench(t, closedPolicy)
	b.dialBy(func(context.Context, string, string) (net.Conn, error) {
		t.Error("a refused connection was dialed")
		return nil, unix.ECONNREFUSED
	})
	_, err := newMachine(t, b.theirs).dial(public(80))
	if err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("the guest's connect ended with %v", err)
	}
	if b.guest.Stats().Refused != 1 || b.guest.Stats().FlowsInAll != 0 {
		t.Errorf("counted %+v", b.guest.Stats())
	}
	if b.hasStack() {
		t.Error("a stack was made")
	}
}

func TestAConnectionTheHostRefusesIsRefusedToTheGuest(t *testing.T) {
	b := newBench(t, openPolicy)
	_, err := newMachine(t, b.theirs).dial(public(80))
	if err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("the guest's connect ended with %v", err)
	}
}

func TestAnUnreachableHostIsToldToTheGuestAtOnce(t *testing.T) {
	for _, reason := range []error{unix.EHOSTUNREACH, unix.ENETUNREACH, os.ErrDeadlineExceeded, context.DeadlineExceeded, unix.EMFILE} {
		b := newBench(t, openPolicy)
		b.dialBy(func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Err: reason}
		})
		began := time.Now()
		if _, err := newMachine(t, b.theirs).dial(public(80)); err == nil || time.Since(began) > 5*time.Second {
			t.Errorf("%v: the guest's connect ended with %v after %s", reason, err, time.Since(began))
		}
	}
}

func TestAResetOfEitherSideReachesTheOther(t *testing.T) {
	b := newBench(t, openPolicy)
	ended := make(chan error, 1)
	b.dialTo(serve(t, func(conn net.Conn) {
		one := make([]byte, 1)
		if _, err := conn.Read(one); err == nil && one[0] == 'r' {
			_ = conn.(*net.TCPConn).SetLinger(0)
			return
		}
		_, err := conn.Read(one)
		ended <- err
	}))
	m := newMachine(t, b.theirs)
	reset, err := m.dial(public(80))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = reset.Write([]byte("r"))
	if _, err := io.ReadAll(reset); err == nil {
		t.Error("the host's reset came as an orderly end")
	}
	live, err := m.dial(public(80))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = live.Write([]byte("l"))
	eventually(t, "the byte arrived", func() bool { return b.guest.Stats().BytesOut == 2 })
	b.guest.Cut()
	if err := <-ended; !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the host's side of a cut flow ended with %v", err)
	}
	if _, err := io.ReadAll(live); err == nil {
		t.Error("the guest's side of a cut flow came to an orderly end")
	}
	if b.guest.Stats().Flows != 0 {
		t.Error("a cut flow still counts")
	}
}

func TestAGuestThatDoesNotReadHoldsOnlyItsOwnConnectionUp(t *testing.T) {
	b := newBench(t, openPolicy)
	sent := make(chan int64, 1)
	b.dialTo(serve(t, func(conn net.Conn) {
		one := make([]byte, 1)
		_, _ = conn.Read(one)
		if one[0] == 'e' {
			_, _ = conn.Write(one)
			return
		}
		_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
		n, _ := io.Copy(conn, endless{})
		sent <- n
	}))
	m := newMachine(t, b.theirs)
	lazy, err := m.dial(public(80))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = lazy.Write([]byte("x"))
	eventually(t, "bytes come", func() bool { return b.guest.Stats().BytesIn > 0 })
	echo, err := m.dial(public(80))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = echo.Write([]byte("e"))
	if got, err := io.ReadAll(echo); string(got) != "e" {
		t.Errorf("the other connection got %q (%v)", got, err)
	}
	<-sent
	if in := b.guest.Stats().BytesIn; in > 16<<20 {
		t.Errorf("%d bytes were taken for a guest that doesn't read", in)
	}
}

func TestANewPolicyEndsWhatItRefusesAndNothingElse(t *testing.T) {
	b := newBench(t, `{"rules":[
		{"id":"a","kind":"cidr","cidr":"10.0.0.0/8","protocols":["tcp"],"ports":[[80,80]]},
		{"id":"all","kind":"internet","protocols":["tcp"]}],"dns":"open"}`)
	b.dialTo(serve(t, func(conn net.Conn) { _, _ = io.Copy(conn, conn) }))
	m := newMachine(t, b.theirs)
	kept, err := m.dial(public(443))
	if err != nil {
		t.Fatal(err)
	}
	private := netip.MustParseAddrPort("10.1.2.3:80")
	lost, err := m.dial(private)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.guest.Configure(b.config(openPolicy)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(lost); err == nil {
		t.Error("the refused connection came to an orderly end")
	}
	_, _ = kept.Write([]byte("on"))
	got := make([]byte, 2)
	if _, err := io.ReadFull(kept, got); err != nil {
		t.Errorf("the allowed connection is gone: %v", err)
	}
	if _, err := m.dial(private); err == nil {
		t.Error("the old policy still lets connections through")
	}
}

func TestAReplacedMachineLosesItsConnectionsAndTheNewOneHasAll(t *testing.T) {
	b := newBench(t, openPolicy)
	b.dialTo(serve(t, func(conn net.Conn) { _, _ = io.Copy(conn, conn) }))
	if _, err := newMachine(t, b.theirs).dial(public(80)); err != nil {
		t.Fatal(err)
	}
	again := newMachine(t, b.connect())
	if err := <-b.ended; err != nil {
		t.Errorf("the first machine's link ended with %v", err)
	}
	if b.guest.Stats().Flows != 0 {
		t.Errorf("flows of the first machine live on: %+v", b.guest.Stats())
	}
	conn, err := again.dial(public(80))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = conn.Write([]byte("hello"))
	got := make([]byte, 5)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "hello" {
		t.Errorf("got %q (%v)", got, err)
	}
}

func TestConnectionsBeyondTheLimitAreReset(t *testing.T) {
	b := newBench(t, openPolicy)
	b.dialTo(serve(t, func(conn net.Conn) { _, _ = io.Copy(conn, conn) }))
	two := int64(2)
	config := b.config(openPolicy)
	config.Limits = limits.Limits{Connections: &two}
	if err := b.guest.Configure(config); err != nil {
		t.Fatal(err)
	}
	m := newMachine(t, b.theirs)
	for range 2 {
		if _, err := m.dial(public(80)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.dial(public(80)); err == nil {
		t.Error("a third connection was made")
	}
}

func TestAPanicCutsOffTheGuestItHappenedTo(t *testing.T) {
	b := newBench(t, openPolicy)
	b.dialBy(func(context.Context, string, string) (net.Conn, error) { panic("a bug") })
	b.sendFrame(outgoing(protoTCP, public(80).Addr(), tcpInside(4000, 80, tcpSYN, 1, 0)))
	<-b.ended
	eventually(t, "the guest is cut off", func() bool { return !b.guest.Stats().Connected })
}

type endless struct{}

func (endless) Read(into []byte) (int, error) { return len(into), nil }

func random(n int) []byte {
	bytes := make([]byte, n)
	_, _ = rand.New(rand.NewSource(int64(n))).Read(bytes)
	return bytes
}
