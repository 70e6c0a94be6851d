package imds

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	servedPort = 80
	// tcpmux, which nobody serves.
	boundPort = 1
)

// The parts of bpf(2) used here.
const (
	bpfMapCreate  = 0
	bpfMapUpdate  = 2
	bpfProgLoad   = 5
	bpfLinkCreate = 28

	bpfMapTypeSockmap    = 15
	bpfProgTypeSkLookup  = 30
	bpfAttachSkLookup    = 36
	bpfPseudoMapFd       = 1
	bpfFuncMapLookup     = 1
	bpfFuncSkRelease     = 86
	bpfFuncSkAssign      = 124
	skPass               = 1
	skLookupFamily       = 8
	skLookupProtocol     = 12
	skLookupLocalAddress = 40
	skLookupLocalPort    = 60
)

// listen gives a listener for connections to port 80 of the address. It is bound to another port, and a program of the
// kernel's socket lookup finds it for port 80: a listener bound to that port of one address would keep the app from listening
// on it at all addresses.
func listen(ctx context.Context) (net.Listener, error) {
	var config net.ListenConfig
	// Multipath sockets cannot be in a socket map.
	config.SetMultipathTCP(false)
	listener, err := config.Listen(ctx, "tcp4", hostPort(boundPort))
	if err != nil {
		return nil, err
	}
	if err := lookUpAs(listener.(*net.TCPListener), servedPort); err != nil {
		return nil, errors.Join(fmt.Errorf("serve port %d: %w", servedPort, err), listener.Close())
	}
	return listener, nil
}

// lookUpAs holds for the life of the process: the link's descriptor is never closed.
func lookUpAs(listener *net.TCPListener, port int) error {
	raw, err := listener.SyscallConn()
	if err != nil {
		return err
	}
	sockets, err := bpf(bpfMapCreate, &mapCreate{kind: bpfMapTypeSockmap, keySize: 4, valueSize: 8, entries: 1})
	if err != nil {
		return fmt.Errorf("socket map: %w", err)
	}
	defer unix.Close(sockets)
	var failure error
	err = raw.Control(func(socket uintptr) {
		var pinned runtime.Pinner
		defer pinned.Unpin()
		key, value := new(uint32), uint64(socket)
		update := &mapUpdate{fd: uint32(sockets), key: pin(&pinned, key), value: pin(&pinned, &value)}
		_, failure = bpf(bpfMapUpdate, update)
	})
	if err := errors.Join(err, failure); err != nil {
		return fmt.Errorf("socket map: %w", err)
	}
	program, err := loadProgram(lookupProgram(sockets, port))
	if err != nil {
		return fmt.Errorf("lookup program: %w", err)
	}
	defer unix.Close(program)
	network, err := unix.Open("/proc/self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(network)
	_, err = bpf(bpfLinkCreate, &linkCreate{program: uint32(program), target: uint32(network), attach: bpfAttachSkLookup})
	return err
}

// instruction is one of the kernel's virtual machine, as in linux/bpf.h.
type instruction struct {
	code      uint8
	registers uint8 // source << 4 | destination
	offset    int16
	immediate int32
}

// lookupProgram: is it TCP over IPv4 to our address and port, then take the socket in the map, else go on as always.
func lookupProgram(sockets, port int) []instruction {
	const (
		load, store, move, moveK, addK = 0x61, 0x62, 0xbf, 0xb7, 0x07
		ifNot, ifEqual                 = 0x56, 0x15
		call, exit, loadMap            = 0x85, 0x95, 0x18
	)
	// As the kernel's 32-bit load sees the bytes of the address.
	wanted := *(*int32)(unsafe.Pointer(&[4]byte{address[0], address[1], address[2], address[3]}))
	to := func(destination, source uint8) uint8 { return source<<4 | destination }
	return []instruction{
		{move, to(6, 1), 0, 0},
		{load, to(2, 6), skLookupFamily, 0},
		{ifNot, to(2, 0), 20, unix.AF_INET},
		{load, to(2, 6), skLookupProtocol, 0},
		{ifNot, to(2, 0), 18, unix.IPPROTO_TCP},
		{load, to(2, 6), skLookupLocalAddress, 0},
		{ifNot, to(2, 0), 16, wanted},
		{load, to(2, 6), skLookupLocalPort, 0},
		{ifNot, to(2, 0), 14, int32(port)},
		{store, to(10, 0), -4, 0},
		{loadMap, to(1, bpfPseudoMapFd), 0, int32(sockets)},
		{},
		{move, to(2, 10), 0, 0},
		{addK, to(2, 0), 0, -4},
		{call, 0, 0, bpfFuncMapLookup},
		{ifEqual, to(0, 0), 7, 0},
		{move, to(7, 0), 0, 0},
		{move, to(1, 6), 0, 0},
		{move, to(2, 7), 0, 0},
		{moveK, to(3, 0), 0, 0},
		{call, 0, 0, bpfFuncSkAssign},
		{move, to(1, 7), 0, 0},
		{call, 0, 0, bpfFuncSkRelease},
		{moveK, to(0, 0), 0, skPass},
		{exit, 0, 0, 0},
	}
}

func loadProgram(instructions []instruction) (int, error) {
	var pinned runtime.Pinner
	defer pinned.Unpin()
	return bpf(bpfProgLoad, &progLoad{
		kind: bpfProgTypeSkLookup, count: uint32(len(instructions)), attach: bpfAttachSkLookup,
		instructions: pin(&pinned, &instructions[0]),
		license:      pin(&pinned, new(byte)),
	})
}

// pin gives an address that the kernel may read as a number: what it points to stays where it is until unpinned.
func pin[T any](pinned *runtime.Pinner, pointer *T) uint64 {
	pinned.Pin(pointer)
	return uint64(uintptr(unsafe.Pointer(pointer)))
}

// The kernel's union of arguments, one struct per command; what follows is zero.
type (
	mapCreate struct {
		kind, keySize, valueSize, entries, flags uint32
	}
	mapUpdate struct {
		fd    uint32
		_     uint32
		key   uint64
		value uint64
		flags uint64
	}
	progLoad struct {
		kind, count  uint32
		instructions uint64
		license      uint64
		logLevel     uint32
		logSize      uint32
		logBuffer    uint64
		kernel       uint32
		flags        uint32
		name         [16]byte
		ifindex      uint32
		attach       uint32
	}
	linkCreate struct {
		program, target, attach, flags uint32
	}
)

func bpf[Arguments any](command uintptr, arguments *Arguments) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(unsafe.Pointer(arguments)), unsafe.Sizeof(*arguments))
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}
