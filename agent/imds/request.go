package imds

import (
	"bufio"
	"errors"
	"io"
	"strconv"
	"strings"
)

const (
	// maxHeadBytes bounds one request's line and headers.
	maxHeadBytes = 8 << 10
	maxBodyBytes = 4 << 10
)

// request is what of a request matters here. The app is not trusted, so it is parsed strictly and in bounds.
type request struct {
	method, path string
	headers      map[string]string
	// The connection ends behind the answer.
	last bool
}

var errMalformed = errors.New("malformed request")

// readRequest reads one request with its body, which nobody wants. io.EOF when there is none any more.
func readRequest(r *bufio.Reader) (*request, error) {
	left := maxHeadBytes
	line, err := readLine(r, &left)
	if err != nil {
		return nil, err
	}
	method, rest, _ := strings.Cut(line, " ")
	target, version, _ := strings.Cut(rest, " ")
	if method == "" || !strings.HasPrefix(target, "/") || version != "HTTP/1.1" && version != "HTTP/1.0" {
		return nil, errMalformed
	}
	path, _, _ := strings.Cut(target, "?")
	q := &request{method: method, path: path, headers: map[string]string{}, last: version == "HTTP/1.0"}
	for {
		line, err := readLine(r, &left)
		if errors.Is(err, io.EOF) || err == nil && len(q.headers) > 100 {
			return nil, errMalformed
		}
		if err != nil {
			return nil, err
		}
		if line == "" {
			break
		}
		name, value, found := strings.Cut(line, ":")
		if !found || name == "" || strings.ContainsAny(name, " \t") {
			return nil, errMalformed
		}
		name = strings.ToLower(name)
		if _, twice := q.headers[name]; twice && name != "x-forwarded-for" {
			return nil, errMalformed
		}
		q.headers[name] = strings.Trim(value, " \t")
	}
	if strings.EqualFold(q.headers["connection"], "close") {
		q.last = true
	}
	return q, q.skipBody(r)
}

func (q *request) skipBody(r *bufio.Reader) error {
	if _, chunked := q.headers["transfer-encoding"]; chunked {
		return errMalformed
	}
	text, given := q.headers["content-length"]
	if !given {
		return nil
	}
	length, err := strconv.ParseUint(text, 10, 32)
	if err != nil || length > maxBodyBytes {
		return errMalformed
	}
	_, err = r.Discard(int(length))
	return err
}

func readLine(r *bufio.Reader, left *int) (string, error) {
	line, err := r.ReadSlice('\n')
	*left -= len(line)
	if errors.Is(err, bufio.ErrBufferFull) || *left < 0 {
		return "", errMalformed
	}
	if err != nil {
		if errors.Is(err, io.EOF) && len(line) > 0 {
			return "", errMalformed
		}
		return "", err
	}
	return strings.TrimSuffix(string(line[:len(line)-1]), "\r"), nil
}
