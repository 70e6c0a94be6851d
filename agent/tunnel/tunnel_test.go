package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestALoopbackServerOfEitherFamilyIsReached(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			t.Skipf("this machine has no %s", address)
		}
		defer listener.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		conn, err := dial(ctx, listener.Addr().(*net.TCPAddr).Port)
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		conn.Close()
	}
}

func TestReadingGivesBytesThenTheEnd(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		server, err := listener.Accept()
		if err != nil {
			return
		}
		_, _ = server.Write([]byte("hello"))
		server.Close()
	}()
	conn, err := dial(context.Background(), listener.Addr().(*net.TCPAddr).Port)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	for buffer := make([]byte, 3); ; {
		n, err := readQuick(raw, buffer)
		if err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		got = append(got, buffer[:n]...)
	}
	if string(got) != "hello" {
		t.Errorf("got %q", got)
	}
}

func TestADroppedHostResetsOnlyAppsThatOweAnAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		asked bool
		want  error
	}{
		"an app that was asked sees a reset":       {true, syscall.ECONNRESET},
		"an app that answered sees an orderly end": {false, io.EOF},
	} {
		t.Run(name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			conn, err := dial(context.Background(), listener.Addr().(*net.TCPAddr).Port)
			if err != nil {
				t.Fatal(err)
			}
			app, err := listener.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer app.Close()
			tunnel := &tunnel{conn: conn}
			tunnel.asked.Store(c.asked)
			tunnel.drop()
			if _, err := app.Read(make([]byte, 1)); !errors.Is(err, c.want) {
				t.Errorf("the app read %v, not %v", err, c.want)
			}
		})
	}
}

func TestAListenerWithAFullQueueIsTriedUntilItAccepts(t *testing.T) {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(socket)
	if err := unix.Bind(socket, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(socket, 0); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(socket)
	if err != nil {
		t.Fatal(err)
	}
	port := name.(*unix.SockaddrInet4).Port
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	// A backlog of 0 is one place.
	first, err := dial(ctx, port)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	second := make(chan error, 1)
	go func() {
		conn, err := dial(ctx, port)
		if err == nil {
			conn.Close()
		}
		second <- err
	}()
	select {
	case err := <-second:
		t.Fatalf("there was a place: %v", err)
	case <-time.After(2 * firstKnock):
	}
	accepted, _, err := unix.Accept(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(accepted)
	if err := <-second; err != nil {
		t.Error(err)
	}
}
