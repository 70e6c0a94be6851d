package imds

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
)

// sealOverhead is what sealing adds to a document: GCM's tag.
const sealOverhead = 16

// keyInfo binds the derived key to this use of it.
const keyInfo = "rekindle credentials 1"

// offer is a key pair for one push. Whoever finds the push in the guest's memory later has no key to open it with.
type offer struct {
	public  []byte
	private *ecdh.PrivateKey
}

func newOffer() (*offer, error) {
	o := &offer{public: make([]byte, 32)}
	var failure error
	erased(func() {
		private, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			failure = err
			return
		}
		copy(o.public, private.PublicKey().Bytes())
		o.private = private
	})
	if failure != nil {
		return nil, fmt.Errorf("make a key: %w", failure)
	}
	return o, nil
}

var errSealed = errors.New("the credentials cannot be opened")

// open decrypts into the memory behind into, which has room for it, and forgets the key. The reasons of failures are not
// told apart.
func (o *offer) open(into, hostKey, sealed []byte) (n int, err error) {
	if cap(into) < len(sealed)-sealOverhead {
		return 0, errSealed
	}
	erased(func() {
		private := o.private
		o.private = nil
		host, failure := ecdh.X25519().NewPublicKey(hostKey)
		if private == nil || failure != nil {
			err = errSealed
			return
		}
		aead, failure := openerOf(private, host, o.public, hostKey)
		if failure != nil {
			err = errSealed
			return
		}
		// The key is used once, so its nonce need not vary.
		opened, failure := aead.Open(into, make([]byte, aead.NonceSize()), sealed, nil)
		if failure != nil {
			err = errSealed
			return
		}
		n = len(opened)
	})
	return n, err
}

func openerOf(private *ecdh.PrivateKey, host *ecdh.PublicKey, guestKey, hostKey []byte) (cipher.AEAD, error) {
	shared, err := private.ECDH(host)
	if err != nil {
		return nil, err
	}
	salt := append(append(make([]byte, 0, 64), guestKey...), hostKey...)
	key, err := hkdf.Key(sha256.New, shared, salt, keyInfo, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
