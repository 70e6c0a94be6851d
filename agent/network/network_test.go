package network

import (
	"net"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTheKernelListsAConnectionOfThisProcess(t *testing.T) {
	sockets, err := openNetlink(unix.NETLINK_INET_DIAG)
	if err != nil {
		t.Skip(err)
	}
	defer sockets.close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	connection, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	local := connection.LocalAddr().(*net.TCPAddr).AddrPort()
	seen := 0
	body := make([]byte, 4+socketBytes+8)
	native.PutUint32(body[4+socketBytes:], openStates)
	err = sockets.list(listTCP, body, func(row []byte) {
		socket := tcpSocket{family: row[0]}
		copy(socket.id[:], row[4:])
		port := uint16(socket.id[0])<<8 | uint16(socket.id[1])
		if socket.address(4) == local.Addr() && port == local.Port() {
			seen++
			if socket.leavesGuest() {
				t.Error("a loopback connection counts as leaving")
			}
		}
	})
	if err == unix.ENOENT {
		t.Skip("this kernel has no inet_diag")
	}
	if err != nil || seen != 1 {
		t.Fatalf("seen %d times, error %v", seen, err)
	}
}

func TestOnlyConnectionsToElsewhereLeaveTheGuest(t *testing.T) {
	for _, c := range []struct {
		family   byte
		from, to string
		leaves   bool
	}{
		{unix.AF_INET, "192.0.0.2", "203.0.113.9", true},
		{unix.AF_INET6, "::ffff:192.0.0.2", "::ffff:203.0.113.9", true},
		{unix.AF_INET, "127.0.0.1", "127.0.0.1", false},
		{unix.AF_INET, "127.0.0.1", "127.0.0.53", false},
		{unix.AF_INET6, "::1", "::1", false},
		{unix.AF_INET6, "::ffff:127.0.0.1", "::ffff:127.0.0.1", false},
		{unix.AF_INET, "192.0.0.2", "192.0.0.2", false},
		{unix.AF_INET, "169.254.169.254", "169.254.169.254", false},
	} {
		socket := tcpSocket{family: c.family}
		copy(socket.id[4:], netip.MustParseAddr(c.from).AsSlice())
		copy(socket.id[20:], netip.MustParseAddr(c.to).AsSlice())
		if socket.leavesGuest() != c.leaves {
			t.Errorf("%s to %s: leaves is %v", c.from, c.to, !c.leaves)
		}
	}
}

func TestNothingIsAskedWhileTheCardHasSentNothing(t *testing.T) {
	counter, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer counter.Close()
	_, _ = counter.WriteString("12\n")
	c := &Connections{sent: counter, quietAt: "12\n"}
	if cut, err := c.Cut(); cut != 0 || err != nil {
		t.Fatal(cut, err)
	}
	_, _ = counter.WriteAt([]byte("13"), 0)
	c.quietAt = "12\n"
	if c.count() == c.quietAt {
		t.Fatal("a packet went by unseen")
	}
	if (&Connections{}).count() != "" {
		t.Fatal("a guest without a card counts")
	}
}

func TestABrokenAnswerOfTheKernelIsAnError(t *testing.T) {
	n := &netlink{sequence: 1}
	for _, bytes := range [][]byte{
		native.AppendUint32(nil, 4),
		append(native.AppendUint32(nil, 400), make([]byte, 12)...),
	} {
		if len(bytes) < unix.NLMSG_HDRLEN {
			bytes = append(bytes, make([]byte, unix.NLMSG_HDRLEN-len(bytes))...)
		}
		if _, err := n.messages(bytes, func([]byte) {}); err == nil {
			t.Errorf("%v passed", bytes)
		}
	}
}

func TestSetUpSaysThatThereIsNoCard(t *testing.T) {
	if _, err := os.Stat("/sys/class/net/" + device); err == nil {
		t.Skip("this machine has a card of that name")
	}
	if err := SetUp(); err != ErrNoDevice {
		t.Fatal(err)
	}
}
