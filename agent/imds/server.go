package imds

import (
	"bufio"
	"errors"
	"fmt"
	"log"
	"net"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// roleName is what the service lists, whatever the role is called; during a build too. GUESS: build-role-name
	roleName    = "execution_role"
	tokenPath   = "/latest/api/token"
	rolesPath   = "/latest/meta-data/iam/security-credentials"
	tokenHeader = "x-aws-ec2-metadata-token"
	ttlHeader   = "x-aws-ec2-metadata-token-ttl-seconds"
	maxTTL      = 21_600

	maxConnections = 128
	idleLimit      = 30 * time.Second
	// An app that asks and does not read must not keep the credentials from being withdrawn.
	writeLimit = time.Second
	closeLimit = time.Second
)

type server struct {
	vault  *vault
	tokens *tokens
	slots  chan struct{}
}

func newServer(vault *vault, tokens *tokens) *server {
	return &server{vault: vault, tokens: tokens, slots: make(chan struct{}, maxConnections)}
}

// serve runs until the listener is closed. More connections than there are slots wait in the kernel.
func (s *server) serve(listener net.Listener) {
	for {
		s.slots <- struct{}{}
		conn, err := listener.Accept()
		if err != nil {
			<-s.slots
			if errors.Is(err, net.ErrClosed) {
				return
			}
			log.Printf("imds: %v", err)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		go func() {
			defer func() { <-s.slots }()
			defer conn.Close()
			s.converse(conn.(*net.TCPConn))
		}()
	}
}

func (s *server) converse(conn *net.TCPConn) {
	reader := bufio.NewReaderSize(conn, maxHeadBytes)
	for {
		if conn.SetReadDeadline(time.Now().Add(idleLimit)) != nil {
			return
		}
		q, err := readRequest(reader)
		if errors.Is(err, errMalformed) {
			q = &request{last: true}
			_ = conn.SetWriteDeadline(time.Now().Add(writeLimit))
			_ = refuse(conn, q, 400, "Bad Request", nil)
			return
		}
		if err != nil || conn.SetWriteDeadline(time.Now().Add(writeLimit)) != nil {
			return
		}
		if s.answer(conn, q) != nil {
			return
		}
		if q.last {
			letClose(conn)
			return
		}
	}
}

// letClose waits for the other side to close first: whoever does keeps the port busy for a minute, and an app that then wants
// port 80 for itself would not get it.
func letClose(conn *net.TCPConn) {
	_ = conn.SetReadDeadline(time.Now().Add(closeLimit))
	_, _ = conn.Read(make([]byte, 1))
}

// answer gives the statuses of EC2's service; what else it knows is left out. GUESS: metadata-answers
func (s *server) answer(conn *net.TCPConn, q *request) error {
	if _, forwarded := q.headers["x-forwarded-for"]; forwarded {
		return refuse(conn, q, 403, "Forbidden", nil)
	}
	switch q.method {
	case "PUT":
		if q.path != tokenPath {
			return refuse(conn, q, 405, "Method Not Allowed", []string{"Allow: GET, HEAD"})
		}
		return s.giveToken(conn, q)
	case "GET", "HEAD":
		if q.path == tokenPath {
			return refuse(conn, q, 405, "Method Not Allowed", []string{"Allow: PUT"})
		}
		if !s.tokens.valid(q.headers[tokenHeader]) {
			return refuse(conn, q, 401, "Unauthorized", nil)
		}
		return s.get(conn, q)
	default:
		return refuse(conn, q, 405, "Method Not Allowed", []string{"Allow: GET, HEAD, PUT"})
	}
}

func (s *server) giveToken(conn *net.TCPConn, q *request) error {
	text := q.headers[ttlHeader]
	ttl, err := strconv.ParseUint(text, 10, 16)
	if err != nil || ttl < 1 || ttl > maxTTL {
		return refuse(conn, q, 400, "Bad Request", nil)
	}
	token := s.tokens.make(time.Duration(ttl) * time.Second)
	return text200(conn, q, token, ttlHeader+": "+strconv.FormatUint(ttl, 10))
}

func (s *server) get(conn *net.TCPConn, q *request) error {
	switch q.path {
	case rolesPath, rolesPath + "/":
		if !s.vault.isEmpty() {
			return text200(conn, q, roleName)
		}
	case rolesPath + "/" + roleName:
		err := s.vault.send(
			func(length int) error { return head(conn, q, 200, "OK", length, nil) },
			func(file int, offset *int64, length int) error {
				if q.method == "HEAD" {
					return nil
				}
				return sendFile(conn, file, offset, length)
			},
		)
		if !errors.Is(err, errNone) {
			return err
		}
	}
	return refuse(conn, q, 404, "Not Found", nil)
}

// sendFile hands the pages of the file to the socket by reference.
func sendFile(conn *net.TCPConn, file int, offset *int64, length int) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	err = raw.Write(func(socket uintptr) bool {
		for length > 0 {
			n, err := unix.Sendfile(int(socket), file, offset, length)
			switch {
			case err == unix.EINTR:
			case err == unix.EAGAIN:
				return false
			case err != nil:
				failure = err
				return true
			case n == 0:
				failure = errors.New("the credentials are cut short")
				return true
			default:
				length -= n
			}
		}
		return true
	})
	return errors.Join(err, failure)
}

func text200(conn net.Conn, q *request, body string, headers ...string) error {
	return write(conn, q, 200, "OK", body, headers)
}

func refuse(conn net.Conn, q *request, status int, reason string, headers []string) error {
	return write(conn, q, status, reason, fmt.Sprintf("%d - %s\n", status, reason), headers)
}

func write(conn net.Conn, q *request, status int, reason, body string, headers []string) error {
	text := headText(q, status, reason, len(body), headers)
	if q.method != "HEAD" {
		text = append(text, body...)
	}
	_, err := conn.Write(text)
	return err
}

func head(conn net.Conn, q *request, status int, reason string, length int, headers []string) error {
	_, err := conn.Write(headText(q, status, reason, length, headers))
	return err
}

func headText(q *request, status int, reason string, length int, headers []string) []byte {
	text := fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n", status, reason, length)
	if q.last {
		text = append(text, "Connection: close\r\n"...)
	}
	for _, line := range headers {
		text = append(append(text, line...), "\r\n"...)
	}
	return append(text, "\r\n"...)
}
