package guest

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"rekindle/gateway/wire"
)

const (
	nicID = 1

	// bufferBytes is what one connection may hold each way while the guest has few (see budget): 64 of the longest segments,
	// of which gVisor announces half as window. On a busy host a guest answers after milliseconds.
	bufferBytes = 64 * (MTU - ipBytes - tcpBytes)

	// maxHeldBytes of a guest's packets may wait in its stack, whatever it does to make them pile up.
	maxHeldBytes = 48 << 20
	// packetOverhead is about what the stack keeps of a packet besides its bytes.
	packetOverhead = 1024

	// The link loses nothing and reorders nothing, so nothing old arrives late.
	timeWait = 100 * time.Millisecond
	// A guest that acknowledges nothing for so long is gone: as much as half a handshake may take (1+2+4+8 s).
	maxRetransmit = 8 * time.Second
	userTimeout   = 2 * time.Minute
)

// tcpKey names a connection as the guest sees it.
type tcpKey struct {
	port uint16
	to   netip.AddrPort
}

// netstack is a guest's TCP: made with its first connection, dropped when it has had none for a while.
type netstack struct {
	stack *stack.Stack
	link  *link
	held  atomic.Int64
	// releases are what gives back the bytes of a packet, one a size class, so that no packet allocates a closure.
	releases [len(sizeClasses)]func()
}

// sizeClasses are what gVisor rounds buffers up to, a few of them taken together.
var sizeClasses = [...]int{256, 1024, 4096, 16_384, 65_536, 131_072}

// arrivals is told of connections: offer at once, when a SYN that begins one comes, accept then in a goroutine of its own.
type arrivals interface {
	offer(tcpKey)
	accept(tcpKey, *tcp.ForwarderRequest)
}

func newNetstack(conn *wire.Conn, arrivals arrivals) (*netstack, error) {
	n := &netstack{link: &link{conn: conn}}
	for i, size := range sizeClasses {
		n.releases[i] = func() { n.held.Add(-int64(size + packetOverhead)) }
	}
	n.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocolCUBIC},
	})
	if err := n.configure(arrivals); err != nil {
		n.stack.Close()
		return nil, fmt.Errorf("cannot set up the guest's stack: %w", err)
	}
	return n, nil
}

func (n *netstack) configure(arrivals arrivals) error {
	sack := tcpip.TCPSACKEnabled(true)
	// Buffers are what the guest's budget gives a connection, not what the stack thinks it could use.
	moderate := tcpip.TCPModerateReceiveBufferOption(false)
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: minBufferBytes, Default: bufferBytes, Max: bufferBytes}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: minBufferBytes, Default: bufferBytes, Max: bufferBytes}
	wait, linger := tcpip.TCPTimeWaitTimeoutOption(timeWait), tcpip.TCPLingerTimeoutOption(closedFor)
	maxRTO := tcpip.TCPMaxRTOOption(maxRetransmit)
	for _, option := range []tcpip.SettableTransportProtocolOption{&sack, &moderate, &receive, &send, &wait, &linger, &maxRTO} {
		if err := n.stack.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return fmt.Errorf("%T: %s", option, err)
		}
	}
	if err := n.stack.CreateNIC(nicID, n.link); err != nil {
		return fmt.Errorf("network card: %s", err)
	}
	// It answers as every address there is; what it is given was judged before.
	if err := n.stack.SetPromiscuousMode(nicID, true); err != nil {
		return fmt.Errorf("promiscuous mode: %s", err)
	}
	if err := n.stack.SetSpoofing(nicID, true); err != nil {
		return fmt.Errorf("spoofing: %s", err)
	}
	n.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nicID}})
	// Connections come to the forwarder after their slot was given, so its own limit is never met: it would drop in silence.
	forwarder := tcp.NewForwarder(n.stack, bufferBytes, 1<<30, func(request *tcp.ForwarderRequest) {
		arrivals.accept(keyOf(request.ID()), request)
	})
	n.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, func(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
		if !forwarder.HandlePacket(id, pkt) {
			return false
		}
		arrivals.offer(keyOf(id))
		return true
	})
	return nil
}

func keyOf(id stack.TransportEndpointID) tcpKey {
	to, _ := netip.AddrFromSlice(id.LocalAddress.AsSlice())
	return tcpKey{port: id.RemotePort, to: netip.AddrPortFrom(to, id.LocalPort)}
}

// inject takes a screened frame over. It is dropped when the guest already holds too much: TCP sends it again.
func (n *netstack) inject(frame *buffer.View, packetBytes int) (taken bool) {
	class := 0
	for class < len(sizeClasses)-1 && sizeClasses[class] < frame.Capacity() {
		class++
	}
	held := int64(sizeClasses[class] + packetOverhead)
	if n.held.Add(held) > maxHeldBytes {
		n.held.Add(-held)
		frame.Release()
		return false
	}
	frame.TrimFront(etherBytes)
	frame.CapLength(packetBytes)
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		Payload:   buffer.MakeWithView(frame),
		OnRelease: n.releases[class],
	})
	n.link.deliver(pkt)
	pkt.DecRef()
	return true
}

// accepted completes the handshake of a connection and gives it buffers of its own size.
func accepted(request *tcp.ForwarderRequest, queue *waiter.Queue, buffers int) (tcpip.Endpoint, tcpip.Error) {
	endpoint, err := request.CreateEndpoint(queue)
	request.Complete(err != nil)
	if err != nil {
		return nil, err
	}
	timeout := tcpip.TCPUserTimeoutOption(userTimeout)
	_ = endpoint.SetSockOpt(&timeout)
	options := endpoint.SocketOptions()
	options.SetDelayOption(false)
	if buffers != bufferBytes {
		options.SetReceiveBufferSize(int64(buffers), true)
	}
	// Set in any case: it keeps the stack from growing it.
	options.SetSendBufferSize(int64(buffers), true)
	return endpoint, nil
}

// destroy ends what still lives in the stack. It may wait for locks of the stack, so nobody waits for it.
func (n *netstack) destroy() {
	n.stack.Close()
	n.stack.Wait()
}

// link is the guest's network card as its stack sees it: no resolution, since there is one MAC address on the other side.
type link struct {
	conn       *wire.Conn
	dispatcher atomic.Pointer[stack.NetworkDispatcher]
}

func (l *link) deliver(pkt *stack.PacketBuffer) {
	if dispatcher := l.dispatcher.Load(); dispatcher != nil {
		(*dispatcher).DeliverNetworkPacket(ipv4.ProtocolNumber, pkt)
	}
}

// WritePackets queues: the stack holds locks of a connection here that its other goroutines spin on.
func (l *link) WritePackets(packets stack.PacketBufferList) (int, tcpip.Error) {
	for i, pkt := range packets.AsSlice() {
		if err := l.conn.SendPacket(pkt); errors.Is(err, wire.ErrFull) {
			return i, &tcpip.ErrNoBufferSpace{}
		} else if err != nil {
			return i, &tcpip.ErrClosedForSend{}
		}
	}
	return packets.Len(), nil
}

func (l *link) AddHeader(pkt *stack.PacketBuffer) {
	ether := pkt.LinkHeader().Push(etherBytes)
	copy(ether, guestMAC+gatewayMAC)
	ether[12], ether[13] = etherIPv4>>8, etherIPv4&0xff
}

func (l *link) Attach(dispatcher stack.NetworkDispatcher) {
	if dispatcher == nil {
		l.dispatcher.Store(nil)
		return
	}
	l.dispatcher.Store(&dispatcher)
}

func (l *link) IsAttached() bool      { return l.dispatcher.Load() != nil }
func (*link) MTU() uint32             { return MTU }
func (*link) SetMTU(uint32)           {}
func (*link) MaxHeaderLength() uint16 { return etherBytes }

// LinkAddress is that of this side.
func (*link) LinkAddress() tcpip.LinkAddress          { return gatewayMAC }
func (*link) SetLinkAddress(tcpip.LinkAddress)        {}
func (*link) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (*link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }
func (*link) Wait()                                   {}
func (*link) Close()                                  {}
func (*link) SetOnCloseAction(func())                 {}

// Capabilities: what comes through a unix socket was not damaged on the way, and a guest that lies in its own checksums
// harms itself.
func (*link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload
}
