package imds

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

const loopbackIndex = 1

// address is where metadata services are looked for.
var address = [4]byte{169, 254, 169, 254}

// addAddress adds one IPv4 address, without a network around it, to an interface. Over netlink, because the older way would
// take the address's class for a netmask and with it all link-local addresses, those of the DNS servers included.
func addAddress(index int, ip [4]byte) error {
	socket, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	if err := unix.Sendto(socket, addressRequest(index, ip), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(socket, answer, 0)
	if err != nil {
		return err
	}
	messages, err := syscall.ParseNetlinkMessage(answer[:n])
	if err != nil {
		return err
	}
	for _, message := range messages {
		if message.Header.Type != unix.NLMSG_ERROR || len(message.Data) < 4 {
			continue
		}
		code := int32(binary.NativeEndian.Uint32(message.Data))
		if code == 0 || syscall.Errno(-code) == unix.EEXIST {
			return nil
		}
		return syscall.Errno(-code)
	}
	return errors.New("the kernel did not answer")
}

func addressRequest(index int, ip [4]byte) []byte {
	order := binary.NativeEndian
	body := []byte{unix.AF_INET, 32, unix.IFA_F_PERMANENT, unix.RT_SCOPE_HOST}
	body = order.AppendUint32(body, uint32(index))
	for _, attribute := range []uint16{unix.IFA_LOCAL, unix.IFA_ADDRESS} {
		body = order.AppendUint16(body, 8)
		body = order.AppendUint16(body, attribute)
		body = append(body, ip[:]...)
	}
	request := order.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	request = order.AppendUint16(request, unix.RTM_NEWADDR)
	request = order.AppendUint16(request, unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE)
	request = order.AppendUint32(request, 1)
	request = order.AppendUint32(request, 0)
	return append(request, body...)
}

func hostPort(port int) string {
	return fmt.Sprintf("%d.%d.%d.%d:%d", address[0], address[1], address[2], address[3], port)
}
