package guest

import (
	"encoding/binary"
	"io"
	"math/rand"
	"net"
	"testing"
	"time"

	"rekindle/gateway/limits"
)

func tcpInside(from, to uint16, flags byte, sequence, acknowledged uint32) []byte {
	tcp := binary.BigEndian.AppendUint16(nil, from)
	tcp = binary.BigEndian.AppendUint16(tcp, to)
	tcp = binary.BigEndian.AppendUint32(tcp, sequence)
	tcp = binary.BigEndian.AppendUint32(tcp, acknowledged)
	return append(tcp, 5<<4, flags, 0xff, 0xff, 0, 0, 0, 0)
}

func TestAFloodOfConnectionAttemptsHoldsNoMoreThanTheLimit(t *testing.T) {
	b := newBench(t, openPolicy)
	b.dialTo(serve(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }))
	go func() { _, _ = io.Copy(io.Discard, b.theirs) }()
	few, fast := int64(20), int64(100_000)
	config := b.config(openPolicy)
	config.Limits = limits.Limits{Connections: &few, NewConnectionsPerSecond: &fast}
	if err := b.guest.Configure(config); err != nil {
		t.Fatal(err)
	}
	const attempts = 3000
	for i := range attempts {
		b.sendFrame(outgoing(protoTCP, public(80).Addr(), tcpInside(uint16(1024+i), 80, tcpSYN, 1, 0)))
	}
	eventually(t, "all attempts were seen", func() bool {
		stats := b.guest.Stats()
		return stats.FlowsInAll+stats.Refused == attempts
	})
	if open := b.guest.account.Open(); open > few {
		t.Errorf("%d connections are open", open)
	}
	b.guest.Cut()
	eventually(t, "nothing is left", func() bool { return b.guest.account.Open() == 0 })
}

func TestAGuestCanMakeItsStackHoldNoMoreThanItsShare(t *testing.T) {
	b := newBench(t, openPolicy)
	stuck := make(chan struct{})
	t.Cleanup(func() { close(stuck) })
	b.dialTo(serve(t, func(net.Conn) { <-stuck }))
	m := newMachine(t, b.theirs)
	for range 40 {
		conn, err := m.dial(public(80))
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.Copy(conn, endless{}) }()
	}
	held := func() int64 {
		session := b.guest.current()
		session.mu.Lock()
		defer session.mu.Unlock()
		return session.stack.held.Load()
	}
	most, last := int64(0), int64(-1)
	eventually(t, "the buffers are full", func() bool {
		now := b.guest.Stats().BytesOut
		same := now == last
		last = now
		most = max(most, held())
		time.Sleep(100 * time.Millisecond)
		return same
	})
	if most > maxHeldBytes {
		t.Errorf("the stack holds %d bytes", most)
	}
	b.guest.Cut()
	eventually(t, "all is given back", func() bool {
		b.guest.buffers.mu.Lock()
		defer b.guest.buffers.mu.Unlock()
		return b.guest.account.Open() == 0 && b.guest.buffers.left == guestBufferBytes
	})
}

func TestGarbageEndsNothingButCounts(t *testing.T) {
	b := newBench(t, openPolicy)
	b.dialTo(serve(t, func(conn net.Conn) { _, _ = io.Copy(conn, conn) }))
	go func() { _, _ = io.Copy(io.Discard, b.theirs) }()
	random := rand.New(rand.NewSource(4))
	ports := []uint16{53, 80, 443}
	for i := range 4000 {
		inside := make([]byte, 20+random.Intn(60))
		_, _ = random.Read(inside)
		binary.BigEndian.PutUint16(inside, uint16(2000+i%8))
		binary.BigEndian.PutUint16(inside[2:], ports[i%3])
		protocol := []byte{protoTCP, protoTCP, protoUDP, protoICMP}[random.Intn(4)]
		to := public(80).Addr()
		if i%7 == 0 {
			to = gatewayAddress()
		}
		if protocol == protoTCP {
			inside[12] = byte(5+random.Intn(len(inside)/4-4)) << 4
			if random.Intn(2) == 0 {
				inside[13] = tcpSYN
			}
		}
		b.sendFrame(outgoing(protocol, to, inside))
	}
	eventually(t, "the link is still served", func() bool {
		before := b.guest.Stats().Dropped
		b.sendFrame(make([]byte, 14))
		return b.guest.Stats().Dropped > before || b.guest.Stats().Dropped > 0
	})
	if !b.guest.Stats().Connected {
		t.Error("the guest was cut off")
	}
}
