package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	openersAtOnce = 16
	openTimeout   = 60 * time.Second
)

type endpoint struct {
	Port  int    `json:"port"`
	Token string `json:"token"`
}

// hold obeys lines of its input: a number opens so many WebSockets more, spread over the endpoints, and says so with `open`;
// `lost` prints how many of those that are open have been closed by the other side; `close` closes all.
func hold(ca, endpointsJSON string) error {
	var endpoints []endpoint
	if err := json.Unmarshal([]byte(endpointsJSON), &endpoints); err != nil || len(endpoints) == 0 {
		return fmt.Errorf("no endpoints in %q", endpointsJSON)
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	config := &tls.Config{RootCAs: roots, ServerName: "localhost", NextProtos: []string{"http/1.1"}}
	var held []*tls.Conn
	var lost atomic.Int64
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		switch line := lines.Text(); line {
		case "lost":
			fmt.Println(lost.Load())
		case "close":
			for _, socket := range held {
				_ = socket.NetConn().Close()
			}
			held = nil
			fmt.Println("closed")
		default:
			opened, err := openMany(line, endpoints, config, &lost)
			if err != nil {
				return err
			}
			held = append(held, opened...)
			fmt.Println("open")
		}
	}
	return nil
}

func openMany(count string, endpoints []endpoint, config *tls.Config, lost *atomic.Int64) ([]*tls.Conn, error) {
	wanted, err := integers([]string{count})
	if err != nil {
		return nil, err
	}
	sockets := make([]*tls.Conn, wanted[0])
	errs := make([]error, openersAtOnce)
	var next atomic.Int64
	var openers sync.WaitGroup
	for opener := range openersAtOnce {
		openers.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(sockets)) && errs[opener] == nil; i = next.Add(1) - 1 {
				sockets[i], errs[opener] = openOne(endpoints[int(i)%len(endpoints)], config)
			}
		})
	}
	openers.Wait()
	for _, socket := range sockets {
		if socket != nil {
			go func() {
				_, err := socket.Read(make([]byte, 1))
				if !errors.Is(err, net.ErrClosed) {
					lost.Add(1)
				}
			}()
		}
	}
	return sockets, errors.Join(errs...)
}

func openOne(to endpoint, config *tls.Config) (*tls.Conn, error) {
	plain, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", to.Port), openTimeout)
	if err != nil {
		return nil, err
	}
	socket := tls.Client(plain, config)
	_ = socket.SetDeadline(time.Now().Add(openTimeout))
	const asked = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x"
	_, err = fmt.Fprintf(socket, "GET / HTTP/1.1\r\nHost: localhost\r\nX-aws-proxy-auth: %s\r\n%s\r\n\r\n", to.Token, asked)
	answer := make([]byte, 4096)
	n := 0
	if err == nil {
		n, err = socket.Read(answer)
	}
	if err != nil || !strings.HasPrefix(string(answer[:n]), "HTTP/1.1 101 ") {
		_ = plain.Close()
		return nil, fmt.Errorf("the upgrade was answered %q: %v", answer[:n], err)
	}
	return socket, socket.SetDeadline(time.Time{})
}
