package imds

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"sync"
	"time"
)

const (
	tokenKeyBytes = 32
	// Time of expiry, random, and half a SHA-256: 56 characters, as the service's.
	tokenStampBytes  = 8
	tokenRandomBytes = 17
	tokenMacBytes    = 16
	tokenBytes       = tokenStampBytes + tokenRandomBytes + tokenMacBytes
)

// tokens makes and checks session tokens without keeping any: each carries its expiry and a seal over it.
type tokens struct {
	now func() time.Time

	mu  sync.Mutex
	key [tokenKeyBytes]byte
}

func newTokens() *tokens {
	t := &tokens{now: time.Now}
	t.renew()
	return t
}

// renew makes all tokens invalid. rand.Read does not fail: the runtime ends the program instead.
func (t *tokens) renew() {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, _ = rand.Read(t.key[:])
}

func (t *tokens) make(lifetime time.Duration) string {
	body := make([]byte, tokenStampBytes+tokenRandomBytes, tokenBytes)
	binary.BigEndian.PutUint64(body, uint64(t.now().Add(lifetime).UnixMilli()))
	_, _ = rand.Read(body[tokenStampBytes:])
	return base64.URLEncoding.EncodeToString(append(body, t.mac(body)...))
}

func (t *tokens) valid(token string) bool {
	bytes, err := base64.URLEncoding.DecodeString(token)
	if err != nil || len(bytes) != tokenBytes {
		return false
	}
	body, mac := bytes[:tokenBytes-tokenMacBytes], bytes[tokenBytes-tokenMacBytes:]
	if !hmac.Equal(mac, t.mac(body)) {
		return false
	}
	return t.now().UnixMilli() < int64(binary.BigEndian.Uint64(body))
}

func (t *tokens) mac(body []byte) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	hash := hmac.New(sha256.New, t.key[:])
	hash.Write(body)
	return hash.Sum(nil)[:tokenMacBytes]
}
