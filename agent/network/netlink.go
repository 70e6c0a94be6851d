package network

import (
	"encoding/binary"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

var native = binary.NativeEndian

// The kernel answers at once; a socket that stays silent must not hold up a restore.
const answerLimit = 2 * time.Second

// netlink is a socket to one of the kernel's tables.
type netlink struct {
	fd       int
	sequence uint32
	buffer   []byte
}

func openNetlink(protocol int) (*netlink, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	limit := unix.NsecToTimeval(answerLimit.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("netlink: %w", err)
	}
	return &netlink{fd: fd, buffer: make([]byte, 16<<10)}, nil
}

func (n *netlink) close() { unix.Close(n.fd) }

// change sends one request and waits for its acknowledgement.
func (n *netlink) change(kind, flags uint16, body []byte) error {
	if err := n.send(kind, flags|unix.NLM_F_ACK, body); err != nil {
		return err
	}
	return n.receive(func([]byte) {})
}

// list sends a request for a table and hands each of its rows over.
func (n *netlink) list(kind uint16, body []byte, row func([]byte)) error {
	if err := n.send(kind, unix.NLM_F_DUMP, body); err != nil {
		return err
	}
	return n.receive(row)
}

func (n *netlink) send(kind, flags uint16, body []byte) error {
	n.sequence++
	message := make([]byte, 0, unix.NLMSG_HDRLEN+len(body))
	message = native.AppendUint32(message, uint32(unix.NLMSG_HDRLEN+len(body)))
	message = native.AppendUint16(message, kind)
	message = native.AppendUint16(message, flags|unix.NLM_F_REQUEST)
	message = native.AppendUint32(message, n.sequence)
	message = native.AppendUint32(message, 0)
	return unix.Sendto(n.fd, append(message, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// receive reads until the end of a table or an acknowledgement.
func (n *netlink) receive(row func([]byte)) error {
	for {
		size, _, err := unix.Recvfrom(n.fd, n.buffer, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		done, err := n.messages(n.buffer[:size], row)
		if done || err != nil {
			return err
		}
	}
}

func (n *netlink) messages(rest []byte, row func([]byte)) (done bool, err error) {
	for len(rest) >= unix.NLMSG_HDRLEN {
		size := int(native.Uint32(rest))
		kind, sequence := native.Uint16(rest[4:]), native.Uint32(rest[8:])
		if size < unix.NLMSG_HDRLEN || size > len(rest) {
			return false, fmt.Errorf("netlink: a message of %d bytes", size)
		}
		body := rest[unix.NLMSG_HDRLEN:size]
		rest = rest[min(len(rest), (size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
		switch {
		case sequence != n.sequence:
		case kind == unix.NLMSG_DONE:
			return true, nil
		case kind == unix.NLMSG_ERROR:
			return true, refusal(body)
		default:
			row(body)
		}
	}
	return false, nil
}

func refusal(body []byte) error {
	if len(body) < 4 {
		return fmt.Errorf("netlink: an error without a number")
	}
	if number := -int32(native.Uint32(body)); number != 0 {
		return unix.Errno(number)
	}
	return nil
}

// attribute appends one netlink attribute.
func attribute(to []byte, kind uint16, value []byte) []byte {
	to = native.AppendUint16(to, uint16(unix.SizeofRtAttr+len(value)))
	to = native.AppendUint16(to, kind)
	to = append(to, value...)
	for len(to)%unix.RTA_ALIGNTO != 0 {
		to = append(to, 0)
	}
	return to
}
