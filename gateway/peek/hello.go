package peek

import (
	"bufio"
	"encoding/binary"
	"io"
)

const (
	recordChangeCipher = 20
	recordAlert        = 21
	recordHandshake    = 22
	recordData         = 23

	maxRecordBytes = 16384
	// maxSealedBytes is a record with what encryption adds.
	maxSealedBytes = maxRecordBytes + 2048
	maxHelloBytes  = 16384
	// maxHelloRecords: a hello may be cut in many records, but not in a byte each.
	maxHelloRecords = 64

	extensionServerName = 0
	extensionESNI       = 0xffce
)

// hello is a client hello: the bytes it came in, and the name in it.
type hello struct {
	raw  []byte
	name string
}

// readHello reads a client hello over as many records as it has.
func readHello(reader *bufio.Reader) (hello, error) {
	var h hello
	var message []byte
	for range maxHelloRecords {
		var head [5]byte
		if _, err := io.ReadFull(reader, head[:]); err != nil {
			return hello{}, err
		}
		length := int(binary.BigEndian.Uint16(head[3:]))
		switch {
		case head[0] != recordHandshake, head[1] != 3, length == 0, length > maxRecordBytes, len(message)+length > maxHelloBytes:
			return hello{}, refuse(ReasonTLSMalformed)
		case head[2] == 0:
			return hello{}, refuse(ReasonTLSVersion)
		}
		at := len(h.raw) + len(head)
		h.raw = append(append(h.raw, head[:]...), make([]byte, length)...)
		if _, err := io.ReadFull(reader, h.raw[at:]); err != nil {
			return hello{}, err
		}
		message = append(message, h.raw[at:]...)
		if message[0] != 1 {
			return hello{}, refuse(ReasonTLSMalformed)
		}
		if len(message) < 4 {
			continue
		}
		whole := 4 + int(message[1])<<16 + int(binary.BigEndian.Uint16(message[2:]))
		if whole > maxHelloBytes || len(message) > whole {
			return hello{}, refuse(ReasonTLSMalformed)
		}
		if len(message) == whole {
			var err error
			h.name, err = parseHello(message[4:])
			return h, err
		}
	}
	return hello{}, refuse(ReasonTLSMalformed)
}

// parseHello gives the server name of a hello's body (RFC 8446 §4.1.2, RFC 6066 §3), and refuses what leaves a doubt of it.
func parseHello(body []byte) (string, error) {
	c := cursor(body)
	version, ok := c.take(2)
	if !ok {
		return "", refuse(ReasonTLSMalformed)
	}
	if version[0] != 3 || version[1] == 0 {
		return "", refuse(ReasonTLSVersion)
	}
	_, random := c.take(32)
	session, hasSession := c.vector(1)
	ciphers, hasCiphers := c.vector(2)
	methods, hasMethods := c.vector(1)
	if !random || !hasSession || !hasCiphers || !hasMethods || len(session) > 32 || len(ciphers) < 2 || len(ciphers)%2 != 0 || len(methods) == 0 {
		return "", refuse(ReasonTLSMalformed)
	}
	if len(c) == 0 {
		return "", refuse(ReasonTLSNoName)
	}
	extensions, ok := c.vector(2)
	if !ok || len(c) != 0 {
		return "", refuse(ReasonTLSMalformed)
	}
	return parseExtensions(extensions)
}

func parseExtensions(c cursor) (string, error) {
	name, encrypted := "", false
	seen := map[uint16]bool{}
	for len(c) > 0 {
		head, ok := c.take(2)
		if !ok {
			return "", refuse(ReasonTLSMalformed)
		}
		kind := binary.BigEndian.Uint16(head)
		value, ok := c.vector(2)
		if !ok || seen[kind] {
			return "", refuse(ReasonTLSMalformed)
		}
		seen[kind] = true
		switch {
		case kind == extensionServerName:
			if name, ok = parseServerName(value); !ok {
				return "", refuse(ReasonTLSMalformed)
			}
		// Encrypted client hello as it is, and in its drafts.
		case kind >= 0xfe08 && kind <= 0xfe0d, kind == extensionESNI:
			encrypted = true
		}
	}
	switch {
	case encrypted:
		return "", &Refusal{Reason: ReasonTLSECH, Name: printable(name)}
	case name == "":
		return "", refuse(ReasonTLSNoName)
	}
	return name, nil
}

// parseServerName wants one host name and nothing else; no client sends more, and servers differ in which they take.
func parseServerName(value cursor) (string, bool) {
	list, ok := value.vector(2)
	if !ok || len(value) != 0 {
		return "", false
	}
	kind, ok := list.take(1)
	if !ok || kind[0] != 0 {
		return "", false
	}
	name, ok := list.vector(2)
	return string(name), ok && len(list) == 0 && len(name) > 0
}

// cursor takes from the front of bytes, and never beyond their end.
type cursor []byte

func (c *cursor) take(n int) ([]byte, bool) {
	if len(*c) < n {
		return nil, false
	}
	taken := (*c)[:n]
	*c = (*c)[n:]
	return taken, true
}

// vector takes a length of so many bytes, and what it counts.
func (c *cursor) vector(lengthBytes int) (cursor, bool) {
	head, ok := c.take(lengthBytes)
	if !ok {
		return nil, false
	}
	length := 0
	for _, b := range head {
		length = length<<8 | int(b)
	}
	return c.take(length)
}
