// Package quick makes system calls on sockets that never block without telling Go's scheduler, which otherwise hands the
// processor to another thread whenever copying a long frame takes longer than its patience of 20 µs.
package quick

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrAgain means that the call would block.
var ErrAgain = errors.New("it would block")

// maxSlices of one call, so that their descriptions fit on the stack.
const maxSlices = 128

// Read is read(2) on a socket that doesn't block. Zero bytes without an error are the end.
func Read(fd int, into []byte) (int, error) {
	return call(unix.SYS_READ, fd, unsafe.Pointer(unsafe.SliceData(into)), len(into))
}

// Write is write(2) on a socket that doesn't block.
func Write(fd int, from []byte) (int, error) {
	return call(unix.SYS_WRITE, fd, unsafe.Pointer(unsafe.SliceData(from)), len(from))
}

// Readv is readv(2) on a socket that doesn't block.
func Readv(fd int, into [][]byte) (int, error) {
	return vector(unix.SYS_READV, fd, into)
}

// Writev is writev(2) on a socket that doesn't block. Of more than 128 slices it writes the first 128.
func Writev(fd int, from [][]byte) (int, error) {
	return vector(unix.SYS_WRITEV, fd, from)
}

func vector(number uintptr, fd int, slices [][]byte) (int, error) {
	var vectors [maxSlices]unix.Iovec
	n := 0
	for _, slice := range slices {
		if n == maxSlices {
			break
		}
		if len(slice) == 0 {
			continue
		}
		vectors[n].Base = unsafe.SliceData(slice)
		vectors[n].SetLen(len(slice))
		n++
	}
	return call(number, fd, unsafe.Pointer(&vectors), n)
}

func call(number uintptr, fd int, pointer unsafe.Pointer, length int) (int, error) {
	for {
		n, _, errno := unix.RawSyscall(number, uintptr(fd), uintptr(pointer), uintptr(length))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, ErrAgain
		default:
			return 0, errno
		}
	}
}
