package network

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Of linux/inet_diag.h and linux/sock_diag.h. The older form of the request lists both address families in one walk.
const (
	listTCP     = 18
	destroy     = 21
	rowBytes    = 72
	socketBytes = 48
)

// openStates are those in which somebody may still wait for the other end: all but listening, closed and waiting for
// stragglers.
const openStates = 1<<unix.BPF_TCP_ESTABLISHED | 1<<unix.BPF_TCP_SYN_SENT | 1<<unix.BPF_TCP_FIN_WAIT1 | 1<<unix.BPF_TCP_FIN_WAIT2 |
	1<<unix.BPF_TCP_CLOSE_WAIT | 1<<unix.BPF_TCP_LAST_ACK | 1<<unix.BPF_TCP_CLOSING

// tcpSocket is what the kernel knows a socket by; id is passed back as it came.
type tcpSocket struct {
	family byte
	id     [socketBytes]byte
}

func withKernel[T any](work func(*netlink) (T, error)) (T, error) {
	sockets, err := openNetlink(unix.NETLINK_INET_DIAG)
	if err != nil {
		return *new(T), err
	}
	defer sockets.close()
	return work(sockets)
}

// cutAll ends the TCP connections that lead out of the guest: their other ends know nothing of a guest that was stopped,
// and of one that was cloned they know too much. Who reads from one gets ECONNABORTED. It returns how many.
func cutAll(sockets *netlink) (int, error) {
	found, err := outgoing(sockets)
	if err != nil {
		return 0, err
	}
	for _, socket := range found {
		// One that ended meanwhile is as good as cut.
		if err := sockets.change(destroy, 0, destroyMessage(socket)); err != nil && !errors.Is(err, unix.ENOENT) {
			return 0, fmt.Errorf("cut a connection: %w", err)
		}
	}
	return len(found), nil
}

func outgoing(sockets *netlink) ([]tcpSocket, error) {
	body := make([]byte, 4+socketBytes, 4+socketBytes+8)
	body = native.AppendUint32(body, openStates)
	body = native.AppendUint32(body, 0)
	var found []tcpSocket
	if err := sockets.list(listTCP, body, func(row []byte) {
		if len(row) < rowBytes {
			return
		}
		socket := tcpSocket{family: row[0]}
		copy(socket.id[:], row[4:])
		if socket.leavesGuest() {
			found = append(found, socket)
		}
	}); err != nil {
		return nil, fmt.Errorf("list connections: %w", err)
	}
	return found, nil
}

// leavesGuest is false for connections that begin and end in the guest, on whatever address of its own.
func (s *tcpSocket) leavesGuest() bool {
	from, to := s.address(4), s.address(20)
	return !to.IsLoopback() && from != to
}

func (s *tcpSocket) address(at int) netip.Addr {
	if s.family == unix.AF_INET6 {
		return netip.AddrFrom16([16]byte(s.id[at : at+16])).Unmap()
	}
	return netip.AddrFrom4([4]byte(s.id[at : at+4]))
}

func destroyMessage(socket tcpSocket) []byte {
	body := []byte{socket.family, unix.IPPROTO_TCP, 0, 0}
	body = native.AppendUint32(body, openStates)
	return append(body, socket.id[:]...)
}
