package guest

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

const (
	twoNames = `{"rules":[
		{"id":"one","kind":"domain","name":"one.example","ports":[[80,80]],"content":"tls-or-http"},
		{"id":"two","kind":"domain","name":"two.example","ports":[[80,80]],"content":"tls-or-http"}],"dns":"listed"}`
	oneName = `{"rules":[{"id":"one","kind":"domain","name":"one.example","ports":[[80,80]],"content":"tls-or-http"}],"dns":"listed"}`
)

// web answers every request on every connection with its host.
func web(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(r.Host)) })}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return listener.Addr().String()
}

// ask gives the host a request for it reached; the connection's error when it was cut.
func ask(conn net.Conn, reader *bufio.Reader, host string) (int, error) {
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Write([]byte("GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n")); err != nil {
		return 0, err
	}
	answer, err := http.ReadResponse(reader, nil)
	if err != nil {
		return 0, err
	}
	return answer.StatusCode, answer.Body.Close()
}

func TestAnInspectedConnectionIsHeldToThePolicyOfNow(t *testing.T) {
	b := newBench(t, twoNames)
	b.dialTo(web(t))
	m := newMachine(t, b.theirs)
	for _, name := range []string{"one.example", "two.example"} {
		b.guest.names.Learn(public(0).Addr(), name, time.Minute, time.Now())
	}
	conn, err := m.dial(public(80))
	if err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	for _, host := range []string{"one.example", "two.example", "one.example"} {
		if status, err := ask(conn, reader, host); status != http.StatusOK {
			t.Fatalf("%s under the list that has it: %d (%v)", host, status, err)
		}
	}
	if err := b.guest.Configure(b.config(oneName)); err != nil {
		t.Fatal(err)
	}
	if status, err := ask(conn, reader, "one.example"); status != http.StatusOK {
		t.Fatalf("the connection for a name that is still listed was cut: %d (%v)", status, err)
	}
	if status, _ := ask(conn, reader, "two.example"); status == http.StatusOK {
		t.Error("an open connection reached a name that is listed no more")
	}
}

func TestAServerThatEndsWithoutAnswerToAnUpgradeLeavesNothingWaiting(t *testing.T) {
	b := newBench(t, oneName)
	b.dialTo(serve(t, func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 4096))
		_ = conn.(*net.TCPConn).CloseWrite()
		_, _ = io.ReadAll(conn)
	}))
	m := newMachine(t, b.theirs)
	b.guest.names.Learn(public(0).Addr(), "one.example", time.Minute, time.Now())
	conn, err := m.dial(public(80))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = conn.Write([]byte("GET / HTTP/1.1\r\nHost: one.example\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"))
	if _, err := io.ReadAll(conn); err != nil {
		t.Fatal(err)
	}
	// Nobody switched protocols, so this is a request, and judged at once.
	_, _ = conn.Write([]byte("GET / HTTP/1.1\r\nHost: two.example\r\n\r\n"))
	eventually(t, "what came after the upgrade is refused", func() bool { return b.guest.Stats().Refused == 1 })
}
