package guest

import (
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"rekindle/gateway/dns"
	"rekindle/gateway/flowlog"
	"rekindle/gateway/limits"
	"rekindle/gateway/policy"
	"rekindle/gateway/wire"
)

const (
	openPolicy   = `{"rules":[{"id":"all","kind":"internet","protocols":["tcp","udp","icmp"]}],"dns":"open"}`
	closedPolicy = `{"rules":[],"dns":"off"}`
)

// public is an address the policies above know as internet; the test's dialer leads it to where the test wants.
func public(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{93, 184, 216, 34}), port)
}

// bench is a guest and what its connections come out at.
type bench struct {
	t      testing.TB
	guest  *Guest
	host   *policy.Host
	theirs *net.UnixConn
	ended  chan error
	// upstream is where DNS comes out; set it before the first query.
	upstream string

	mu   sync.Mutex
	dial func(ctx context.Context, network, address string) (net.Conn, error)
	echo func(ctx context.Context, address string) (net.Conn, error)
}

func newBench(t testing.TB, rules string) *bench {
	t.Helper()
	host, err := policy.NewHost(policy.HostConfig{Interfaces: func() ([]netip.Addr, error) { return nil, nil }})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, host: host, ended: make(chan error, 8)}
	resolver, err := dns.NewResolver(dns.ResolverConfig{
		Upstreams: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")},
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, b.upstream)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	log, err := flowlog.Open(flowlog.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close(context.Background()) })
	records, err := log.Attach("test", flowlog.Labels{})
	if err != nil {
		t.Fatal(err)
	}
	b.dial = func(context.Context, string, string) (net.Conn, error) { return nil, unix.ECONNREFUSED }
	b.echo = func(context.Context, string) (net.Conn, error) { return nil, unix.EACCES }
	b.guest, err = New("test", Outside{
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			b.mu.Lock()
			dial := b.dial
			b.mu.Unlock()
			return dial(ctx, network, address)
		},
		DialEcho: func(ctx context.Context, address string) (net.Conn, error) {
			b.mu.Lock()
			echo := b.echo
			b.mu.Unlock()
			return echo(ctx, address)
		},
		Resolver: resolver,
		Logger:   slog.New(slog.NewTextHandler(io.Discard, nil)),
	}, records, b.config(rules))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.guest.Close)
	b.theirs = b.connect()
	return b
}

func (b *bench) config(rules string) Config {
	b.t.Helper()
	parsed, err := policy.Parse([]byte(rules), b.host)
	if err != nil {
		b.t.Fatal(err)
	}
	return Config{Policy: parsed, Limits: limits.Limits{}}
}

// dialTo lets connections of the network come out at an address of this machine.
func (b *bench) dialTo(address string) {
	b.dialBy(func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	})
}

func (b *bench) dialBy(dial func(ctx context.Context, network, address string) (net.Conn, error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dial = dial
}

func (b *bench) echoBy(echo func(ctx context.Context, address string) (net.Conn, error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.echo = echo
}

// connect plugs a machine in and gives its end of the cable.
func (b *bench) connect() *net.UnixConn {
	b.t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	ours, theirs := unixConn(b.t, fds[0]), unixConn(b.t, fds[1])
	b.t.Cleanup(func() { _ = theirs.Close() })
	before := b.guest.current()
	go func() { b.ended <- b.guest.Connected(context.Background(), ours) }()
	eventually(b.t, "the guest is connected", func() bool { now := b.guest.current(); return now != nil && now != before })
	return theirs
}

func (b *bench) hasStack() bool {
	session := b.guest.current()
	session.mu.Lock()
	defer session.mu.Unlock()
	return session.stack != nil
}

func unixConn(t testing.TB, fd int) *net.UnixConn {
	t.Helper()
	file := os.NewFile(uintptr(fd), "cable")
	defer func() { _ = file.Close() }()
	conn, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	return conn.(*net.UnixConn)
}

func (b *bench) sendFrame(frame []byte) {
	b.t.Helper()
	if _, err := b.theirs.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)); err != nil {
		b.t.Fatal(err)
	}
}

// receiveFrame gives nil when nothing comes for a while.
func (b *bench) receiveFrame(within time.Duration) []byte {
	b.t.Helper()
	_ = b.theirs.SetReadDeadline(time.Now().Add(within))
	var length [4]byte
	if _, err := io.ReadFull(b.theirs, length[:]); err != nil {
		return nil
	}
	frame := make([]byte, binary.BigEndian.Uint32(length[:]))
	if _, err := io.ReadFull(b.theirs, frame); err != nil {
		b.t.Fatal(err)
	}
	return frame
}

// machine is a guest's kernel: a second stack at the other end of the cable.
type machine struct {
	t     testing.TB
	stack *stack.Stack
	link  *cable
}

func newMachine(t testing.TB, socket *net.UnixConn) *machine {
	t.Helper()
	conn, err := wire.NewConn(socket)
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, link: &cable{link{conn: conn}}}
	m.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
	})
	sack := tcpip.TCPSACKEnabled(true)
	must(t, m.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &sack))
	must(t, m.stack.CreateNIC(nicID, m.link))
	address := tcpip.AddrFrom4(guestAddress().As4())
	must(t, m.stack.AddProtocolAddress(nicID, tcpip.ProtocolAddress{
		Protocol:          ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: address, PrefixLen: 29},
	}, stack.AddressProperties{}))
	m.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nicID}})
	go func() {
		_ = conn.Receive(func(frame *buffer.View) {
			ether := frame.AsSlice()
			if string(ether[:12]) != guestMAC+gatewayMAC || binary.BigEndian.Uint16(ether[12:]) != etherIPv4 {
				frame.Release()
				return
			}
			frame.TrimFront(etherBytes)
			pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(frame)})
			m.link.deliver(pkt)
			pkt.DecRef()
		})
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		m.stack.Destroy()
	})
	return m
}

func must(t testing.TB, err tcpip.Error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// cable is the machine's network card: the gateway's the other way round.
type cable struct{ link }

func (*cable) AddHeader(pkt *stack.PacketBuffer) {
	ether := pkt.LinkHeader().Push(etherBytes)
	copy(ether, gatewayMAC+guestMAC)
	ether[12], ether[13] = etherIPv4>>8, etherIPv4&0xff
}

func full(addr netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFrom4(addr.Addr().As4()), Port: addr.Port()}
}

func (m *machine) dial(to netip.AddrPort) (*gonet.TCPConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return gonet.DialContextTCP(ctx, m.stack, full(to), ipv4.ProtocolNumber)
}

func (m *machine) dialUDP(to netip.AddrPort) *gonet.UDPConn {
	m.t.Helper()
	remote := full(to)
	conn, err := gonet.DialUDP(m.stack, nil, &remote, ipv4.ProtocolNumber)
	if err != nil {
		m.t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	m.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// serve hands out the connections a listener of this machine gets.
func serve(t testing.TB, handle func(net.Conn)) string {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				handle(conn)
			}()
		}
	}()
	return listener.Addr().String()
}

func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it never came to that %s", what)
		}
	}
}
