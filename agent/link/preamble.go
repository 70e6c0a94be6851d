package link

import (
	"bytes"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
)

// Generation of the protocol this agent speaks; kept in every snapshot's manifest.
const Generation = 1

const (
	preambleMagic    = "\x00RKLINK1"
	answerMagic      = "\x00RKACKN1"
	maxPreambleBytes = 4096
	preambleHead     = len(preambleMagic) + 4
	nonceBytes       = 16
	secretBytes      = 32
)

// Restore is what has to be done before anything else after a snapshot was loaded.
type Restore struct {
	WallClockMs int64
	Seed        []byte
}

type preamble struct {
	Nonce   string       `json:"nonce"`
	Secret  string       `json:"secret"`
	Restore *restoreStep `json:"restore"`
}

type restoreStep struct {
	WallClockMs int64  `json:"wallClockMs"`
	Seed        string `json:"seed"`
	NextSecret  string `json:"nextSecret"`
}

type answer struct {
	Nonce      string  `json:"nonce"`
	Generation int     `json:"generation"`
	Error      *string `json:"error"`
}

// preambleLength tells how long the preamble is that these bytes begin with: 0 when they begin with none, and 0 with
// wanting set when more of them are needed to tell.
func preambleLength(b []byte) (length int, wanting bool) {
	head := min(len(b), len(preambleMagic))
	if head == 0 || string(b[:head]) != preambleMagic[:head] {
		return 0, false
	}
	if len(b) < preambleHead {
		return 0, true
	}
	body := binary.BigEndian.Uint32(b[len(preambleMagic):])
	if body > maxPreambleBytes {
		return 0, false
	}
	length = preambleHead + int(body)
	if len(b) < length {
		return 0, true
	}
	return length, false
}

func parsePreamble(body []byte) (*preamble, error) {
	var p preamble
	if err := json.Unmarshal(body, &p); err != nil {
		return nil, err
	}
	if !isHex(p.Nonce, nonceBytes) || !isHex(p.Secret, secretBytes) {
		return nil, errors.New("nonce or secret is malformed")
	}
	return &p, nil
}

// restore checks the restore step's shape; it comes from the holder of the secret, but a clock set to 1970 hurts as much.
func (s *restoreStep) restore() (Restore, error) {
	seed, err := base64.StdEncoding.DecodeString(s.Seed)
	if err != nil {
		return Restore{}, fmt.Errorf("seed: %w", err)
	}
	if len(seed) < 32 || len(seed) > 256 {
		return Restore{}, fmt.Errorf("seed has %d bytes", len(seed))
	}
	if s.WallClockMs <= 0 {
		return Restore{}, fmt.Errorf("wall clock %d", s.WallClockMs)
	}
	if !isHex(s.NextSecret, secretBytes) {
		return Restore{}, errors.New("next secret is malformed")
	}
	return Restore{WallClockMs: s.WallClockMs, Seed: seed}, nil
}

func isHex(text string, size int) bool {
	if len(text) != 2*size {
		return false
	}
	_, err := hex.DecodeString(text)
	return err == nil
}

func sameSecret(a, b string) bool {
	return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}

func encodeAnswer(nonce string, failure error) []byte {
	a := answer{Nonce: nonce, Generation: Generation}
	if failure != nil {
		text := failure.Error()
		text = text[:min(len(text), 512)]
		a.Error = &text
	}
	// Strings and numbers only: cannot fail.
	body, _ := json.Marshal(a)
	var out bytes.Buffer
	out.WriteString(answerMagic)
	_ = binary.Write(&out, binary.BigEndian, uint32(len(body)))
	out.Write(body)
	return out.Bytes()
}
