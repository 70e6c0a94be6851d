package guest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// DialEcho opens a ping socket, which hosts let those have whose group is in net.ipv4.ping_group_range. Its kernel puts an
// id of its own into what is sent and gives only the answers to that.
func DialEcho(_ context.Context, address string) (net.Conn, error) {
	to, err := netip.ParseAddr(address)
	if err != nil {
		return nil, fmt.Errorf("cannot send echo requests: %w", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMP)
	if err != nil {
		return nil, fmt.Errorf("cannot open a ping socket: %w", err)
	}
	file := os.NewFile(uintptr(fd), "echo")
	defer func() { _ = file.Close() }()
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: to.As4()}); err != nil {
		return nil, fmt.Errorf("cannot reach %s: %w", to, err)
	}
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, fmt.Errorf("cannot use a ping socket: %w", err)
	}
	return conn, nil
}
