package guest

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"rekindle/gateway/dns"
	"rekindle/gateway/flowlog"
	"rekindle/gateway/policy"
)

func newHub(t testing.TB, upstream string) (hub *Hub, dir string, config Config) {
	t.Helper()
	dir = t.TempDir()
	host, err := policy.NewHost(policy.HostConfig{Interfaces: func() ([]netip.Addr, error) { return nil, nil }})
	if err != nil {
		t.Fatal(err)
	}
	log, err := flowlog.Open(flowlog.Config{Dir: filepath.Join(dir, "flows")})
	if err != nil {
		t.Fatal(err)
	}
	resolver, err := dns.NewResolver(dns.ResolverConfig{
		Upstreams: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")},
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, upstream)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := policy.Parse([]byte(openPolicy), host)
	if err != nil {
		t.Fatal(err)
	}
	hub, err = NewHub(dir, log, Outside{Dial: new(net.Dialer).DialContext, Resolver: resolver, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		hub.Close()
		_ = log.Close(context.Background())
	})
	return hub, dir, Config{Policy: parsed}
}

func TestAnAttachedGuestHasASocketInAFolderOfItsOwn(t *testing.T) {
	hub, dir, config := newHub(t, "")
	long := strings.Repeat("g", 128)
	for _, id := range []string{"a", "mvm-1.x_Y", long} {
		socket, err := hub.Attach(id, config)
		if err != nil {
			t.Fatal(err)
		}
		if socket != filepath.Join(dir, "net", id, "net.sock") {
			t.Errorf("the socket of %s is %s", id, socket)
		}
		for path, mode := range map[string]fs.FileMode{filepath.Dir(socket): fs.ModeDir | 0o711, socket: fs.ModeSocket | 0o666} {
			if found, err := os.Stat(path); err != nil || found.Mode() != mode {
				t.Errorf("%s: %v %v", path, found.Mode(), err)
			}
		}
	}
	if found, _ := os.Stat(filepath.Join(dir, "net")); found.Mode().Perm() != 0o700 {
		t.Errorf("anybody can reach the guests' sockets: %v", found.Mode())
	}
	if got := hub.Guests(); len(got) != 3 || got[0] != "a" {
		t.Errorf("the guests are %v", got)
	}
}

func TestAttachAndDetachMayBeRepeated(t *testing.T) {
	hub, dir, config := newHub(t, "")
	first, err := hub.Attach("a", config)
	if err != nil {
		t.Fatal(err)
	}
	machine, err := net.Dial("unix", first)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the machine is connected", func() bool { s, _ := hub.Stats("a"); return s.Connected })
	again, err := hub.Attach("a", config)
	if err != nil || again != first {
		t.Errorf("attached again: %s %v", again, err)
	}
	if s, _ := hub.Stats("a"); !s.Connected {
		t.Error("attaching again cut the machine off")
	}
	for range 2 {
		if err := hub.Detach("a"); err != nil {
			t.Error(err)
		}
	}
	if _, err := io.ReadAll(machine); err != nil {
		t.Errorf("the machine's link ended with %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "net", "a")); err == nil {
		t.Error("the folder is still there")
	}
	if _, err := hub.Stats("a"); err == nil {
		t.Error("a detached guest has statistics")
	}
}

func TestTheSocketOfAGatewayThatWasKilledIsReplacedInItsFolder(t *testing.T) {
	hub, dir, config := newHub(t, "")
	folder := filepath.Join(dir, "net", "a")
	if err := os.MkdirAll(folder, 0o711); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(folder)
	if err != nil {
		t.Fatal(err)
	}
	old, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(folder, "net.sock"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	old.SetUnlinkOnClose(false)
	_ = old.Close()
	socket, err := hub.Attach("a", config)
	if err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(folder); err != nil || !os.SameFile(before, after) {
		t.Error("a machine that has the old folder mounted can't find the new socket")
	}
	if _, err := net.Dial("unix", socket); err != nil {
		t.Error(err)
	}
}

func TestImpossibleGuestIDsAreRefused(t *testing.T) {
	hub, _, config := newHub(t, "")
	for _, id := range []string{"", ".", "..", "../a", "a/b", "-a", "a\x00", strings.Repeat("a", 129), "ä"} {
		if _, err := hub.Attach(id, config); err == nil {
			t.Errorf("%q was attached", id)
		}
		if err := hub.Detach(id); err == nil {
			t.Errorf("%q was detached", id)
		}
	}
}

// Measured in one process with the machines' ends of the cables, so it is an upper bound.
func TestAnIdleGuestCostsLittle(t *testing.T) {
	const guests, most = 200, 300 << 10
	hub, _, config := newHub(t, upstreamDNS(t, public(0).Addr()))
	before := memoryInUse()
	for i := range guests {
		socket, err := hub.Attach(fmt.Sprintf("g%d", i), config)
		if err != nil {
			t.Fatal(err)
		}
		cable, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = cable.Close() }()
		b := bench{t: t, theirs: cable.(*net.UnixConn)}
		b.sendFrame(arpFor(gatewayAddress()))
		if b.receiveFrame(20*time.Second) == nil {
			t.Fatal("no answer to ARP")
		}
		asked := query(t, fmt.Sprintf("host%d.example.com.", i))
		udp := binary.BigEndian.AppendUint16(nil, 4000)
		udp = binary.BigEndian.AppendUint16(udp, dnsPort)
		udp = binary.BigEndian.AppendUint16(udp, uint16(udpBytes+len(asked)))
		b.sendFrame(outgoing(protoUDP, netip.MustParseAddr("169.254.53.53"), append(append(udp, 0, 0), asked...)))
		if b.receiveFrame(20*time.Second) == nil {
			t.Fatal("no answer to a query")
		}
	}
	each := (memoryInUse() - before) / guests
	t.Logf("%d bytes a guest", each)
	if each > most {
		t.Errorf("an idle guest costs %d bytes", each)
	}
}

func memoryInUse() uint64 {
	var stats runtime.MemStats
	for range 2 {
		runtime.GC()
	}
	runtime.ReadMemStats(&stats)
	return stats.HeapInuse + stats.StackInuse
}
