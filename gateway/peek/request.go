package peek

import (
	"bufio"
	"bytes"
	"errors"
	"slices"
	"strconv"
	"strings"
)

const (
	maxHeadBytes   = 65536
	maxHeadFields  = 256
	maxMethodBytes = 32
	maxLineBytes   = 256 // of a chunk's size
)

// request is an HTTP/1 request's head, read in the one way all servers read it, or refused.
type request struct {
	method, target, version string
	host                    string
	fields                  []field
	// length is of the body; -1: chunked.
	length  int64
	upgrade bool
	// last: nothing may come after this request, since it can't be known where it will begin.
	last bool
}

type field struct{ name, value string }

// readRequest reads a head. A line ends in CRLF, nothing is folded, no name has a space after it: wherever servers differ in
// what they forgive, a guest could show us one request and the server another.
func readRequest(reader *bufio.Reader) (*request, error) {
	left := maxHeadBytes
	line, err := readLine(reader, &left)
	if err != nil {
		return nil, err
	}
	r := &request{}
	if err := r.parseLine(line); err != nil {
		return nil, err
	}
	for {
		line, err := readLine(reader, &left)
		if err != nil {
			return nil, err
		}
		if line == "" {
			return r, r.settle()
		}
		one, err := parseField(line)
		if err != nil {
			return nil, err
		}
		if len(r.fields) == maxHeadFields {
			return nil, refuse(ReasonHTTPBad)
		}
		r.fields = append(r.fields, one)
	}
}

// readLine gives a line without its CRLF, and counts it off what is left for all.
func readLine(reader *bufio.Reader, left *int) (string, error) {
	var line []byte
	for {
		part, err := reader.ReadSlice('\n')
		if *left -= len(part); *left < 0 {
			return "", refuse(ReasonHTTPBad)
		}
		line = append(line, part...)
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return "", err
		}
	}
	text, ended := bytes.CutSuffix(line, []byte("\r\n"))
	if !ended || bytes.ContainsAny(text, "\r\x00") {
		return "", refuse(ReasonHTTPBad)
	}
	return string(text), nil
}

func (r *request) parseLine(line string) error {
	parts := strings.Split(line, " ")
	if len(parts) != 3 || !strings.HasPrefix(parts[2], "HTTP/") {
		return refuse(ReasonNotTLSOrHTTP)
	}
	r.method, r.target, r.version = parts[0], parts[1], parts[2]
	switch {
	case r.version == "HTTP/2.0":
		return refuse(ReasonHTTP2)
	case r.version != "HTTP/1.1" && r.version != "HTTP/1.0", len(r.method) > maxMethodBytes, !allTokens(r.method), r.target == "":
		return refuse(ReasonHTTPBad)
	case r.method == "CONNECT":
		return &Refusal{Reason: ReasonHTTPConnect, Name: printable(r.target)}
	}
	for _, c := range []byte(r.target) {
		if c <= ' ' || c == 0x7f || c == '#' {
			return refuse(ReasonHTTPBad)
		}
	}
	return nil
}

func parseField(line string) (field, error) {
	name, value, ok := strings.Cut(line, ":")
	if !ok || name == "" || !allTokens(name) {
		return field{}, refuse(ReasonHTTPBad)
	}
	value = strings.Trim(value, " \t")
	for _, c := range []byte(value) {
		if c < ' ' && c != '\t' || c == 0x7f {
			return field{}, refuse(ReasonHTTPBad)
		}
	}
	return field{name, value}, nil
}

// settle finds host and body, and takes out what is between two neighbours only.
func (r *request) settle() error {
	hosts, lengths, codings := r.take("host"), r.take("content-length"), r.take("transfer-encoding")
	for _, one := range r.fields {
		// Servers that put fields into variables take "_" for "-".
		if slices.Contains([]string{"host", "content-length", "transfer-encoding"}, strings.ReplaceAll(strings.ToLower(one.name), "_", "-")) {
			return refuse(ReasonHTTPDoubtful)
		}
	}
	if len(hosts) == 0 {
		return refuse(ReasonHTTPNoHost)
	}
	if len(hosts) > 1 || len(lengths) > 1 || len(codings) > 1 || len(lengths) > 0 && len(codings) > 0 {
		return refuse(ReasonHTTPDoubtful)
	}
	r.host = hosts[0]
	if err := r.settleTarget(); err != nil {
		return err
	}
	if len(codings) == 1 {
		if !strings.EqualFold(codings[0], "chunked") || r.version != "HTTP/1.1" {
			return refuse(ReasonHTTPDoubtful)
		}
		r.length = -1
	}
	if len(lengths) == 1 {
		length, err := strconv.ParseUint(lengths[0], 10, 62)
		if err != nil || strings.Trim(lengths[0], "0123456789") != "" {
			return refuse(ReasonHTTPDoubtful)
		}
		r.length = int64(length)
	}
	return r.settleConnection()
}

// settleTarget makes every target the path of the Host field.
func (r *request) settleTarget() error {
	if r.target[0] == '/' || r.target == "*" && r.method == "OPTIONS" {
		return nil
	}
	const scheme = "http://"
	if len(r.target) < len(scheme) || !strings.EqualFold(r.target[:len(scheme)], scheme) {
		return refuse(ReasonHTTPBad)
	}
	rest := r.target[len(scheme):]
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	if !strings.EqualFold(rest[:end], r.host) {
		return refuse(ReasonHTTPDoubtful)
	}
	r.target = rest[end:]
	if !strings.HasPrefix(r.target, "/") {
		r.target = "/" + r.target
	}
	return nil
}

// settleConnection keeps of Connection what has one meaning. A server could be made to drop any field named there, Host too.
// An upgrade to HTTP/2 is left out, as servers may (the connection then stays HTTP/1); one to WebSocket goes through.
func (r *request) settleConnection() error {
	var kept []string
	for _, value := range r.take("connection") {
		for option := range strings.SplitSeq(value, ",") {
			option = strings.ToLower(strings.Trim(option, " \t"))
			if slices.Contains([]string{"close", "keep-alive", "te"}, option) && !slices.Contains(kept, option) {
				kept = append(kept, option)
			}
			r.upgrade = r.upgrade || option == "upgrade"
		}
	}
	r.take("proxy-connection")
	r.take("keep-alive")
	r.take("http2-settings")
	upgrades := r.take("upgrade")
	if len(upgrades) > 1 {
		return refuse(ReasonHTTPDoubtful)
	}
	switch {
	case len(upgrades) == 0 || strings.EqualFold(upgrades[0], "h2c") || !r.upgrade:
		r.upgrade = false
	case !strings.EqualFold(upgrades[0], "websocket") || r.length != 0 || r.method != "GET" || r.version != "HTTP/1.1":
		return refuse(ReasonHTTPUpgrade)
	default:
		kept = []string{"Upgrade"}
		r.fields = append(r.fields, field{"Upgrade", "websocket"})
	}
	if r.has("expect") {
		// A server that refuses to go on may or may not read the body all the same: what comes after it has no certain place.
		kept = []string{"close"}
		r.last = true
	}
	if len(kept) > 0 {
		r.fields = append(r.fields, field{"Connection", strings.Join(kept, ", ")})
	}
	return nil
}

// take removes a field, and gives its values.
func (r *request) take(name string) []string {
	var values []string
	r.fields = slices.DeleteFunc(r.fields, func(one field) bool {
		if !strings.EqualFold(one.name, name) {
			return false
		}
		values = append(values, one.value)
		return true
	})
	return values
}

func (r *request) has(name string) bool {
	return slices.ContainsFunc(r.fields, func(one field) bool { return strings.EqualFold(one.name, name) })
}

// hostName is the host without its port; what is no name is for the policy to refuse.
func (r *request) hostName() (string, error) {
	name, port, hasPort := strings.Cut(r.host, ":")
	if hasPort && (len(port) > 5 || strings.Trim(port, "0123456789") != "") {
		return "", &Refusal{Reason: ReasonName, Name: printable(r.host)}
	}
	if name == "" {
		return "", refuse(ReasonHTTPNoHost)
	}
	return name, nil
}

// head writes the request anew.
func (r *request) head() []byte {
	var out bytes.Buffer
	out.WriteString(r.method + " " + r.target + " " + r.version + "\r\nHost: " + r.host + "\r\n")
	for _, one := range r.fields {
		out.WriteString(one.name + ": " + one.value + "\r\n")
	}
	switch {
	case r.length < 0:
		out.WriteString("Transfer-Encoding: chunked\r\n")
	case r.length > 0 || r.method != "GET" && r.method != "HEAD" && !r.upgrade:
		out.WriteString("Content-Length: " + strconv.FormatInt(r.length, 10) + "\r\n")
	}
	out.WriteString("\r\n")
	return out.Bytes()
}

func allTokens(text string) bool {
	for i := range len(text) {
		if !isToken(text[i]) {
			return false
		}
	}
	return text != ""
}

// isToken: RFC 9110 §5.6.2.
func isToken(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}
