package quick

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

func TestBytesGoThroughEveryCall(t *testing.T) {
	ours, theirs := pair(t)
	if n, err := Writev(ours, [][]byte{[]byte("ab"), nil, []byte("cde")}); n != 5 || err != nil {
		t.Fatalf("Writev: %d %v", n, err)
	}
	if n, err := Write(ours, []byte("fg")); n != 2 || err != nil {
		t.Fatalf("Write: %d %v", n, err)
	}
	first, second := make([]byte, 3), make([]byte, 2)
	if n, err := Readv(theirs, [][]byte{first, second}); n != 5 || err != nil || string(first)+string(second) != "abcde" {
		t.Errorf("Readv: %d %v %q %q", n, err, first, second)
	}
	if n, err := Read(theirs, first); n != 2 || err != nil || string(first[:2]) != "fg" {
		t.Errorf("Read: %d %v %q", n, err, first)
	}
}

func TestNothingBlocks(t *testing.T) {
	ours, theirs := pair(t)
	if _, err := Read(ours, make([]byte, 1)); !errors.Is(err, ErrAgain) {
		t.Errorf("reading nothing: %v", err)
	}
	for {
		if _, err := Write(ours, make([]byte, 1<<16)); errors.Is(err, ErrAgain) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	_ = unix.Close(theirs)
	if _, err := Write(ours, []byte("x")); !errors.Is(err, unix.EPIPE) {
		t.Errorf("writing to nobody: %v", err)
	}
}

func TestManySlicesAreWrittenInPart(t *testing.T) {
	ours, _ := pair(t)
	slices := make([][]byte, maxSlices+5)
	for i := range slices {
		slices[i] = []byte("x")
	}
	if n, err := Writev(ours, slices); n != maxSlices || err != nil {
		t.Errorf("Writev: %d %v", n, err)
	}
}

func pair(t *testing.T) (int, int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fds[0]) })
	return fds[0], fds[1]
}
