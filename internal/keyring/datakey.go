package keyring

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// A Sealer is a KMS key: it seals what is small, data keys above all, so that
// it can be opened later by the same key and with the same context.
//
// Open's error has [ErrWrongKey] within if what was given was altered, or was
// sealed by another key or with another context. Any other error is that the
// key could not be asked.
type Sealer interface {
	Seal(ctx context.Context, plaintext []byte, with Context) ([]byte, error)
	Open(ctx context.Context, sealed []byte, with Context) ([]byte, error)
}

// A Context is an encryption context: what is sealed is bound to it, and it is
// not secret. (KMS Developer Guide, "Encryption context".)
type Context map[string]string

// With returns c and one entry more, which wins.
func (c Context) With(key, value string) Context {
	all := maps.Clone(c)
	if all == nil {
		all = Context{}
	}
	all[key] = value
	return all
}

// bytes is the same for the same entries, and for no others: each text after
// its length, in order of keys.
func (c Context) bytes() []byte {
	b := []byte("sallyport context\x00")
	for _, key := range slices.Sorted(maps.Keys(c)) {
		for _, text := range []string{key, c[key]} {
			b = binary.BigEndian.AppendUint32(b, uint32(len(text)))
			b = append(b, text...)
		}
	}
	return b
}

// NewMaterial returns what a new KMS key is made of: 32 random bytes.
func NewMaterial() []byte { return freshRoot() }

// Material returns the KMS key that is made of these 32 bytes. It seals by
// AES-256-GCM, with a random nonce, so no more than 2³² things; see [Box].
//
//	offset  size  field
//	     0     1  format: 1
//	     1    12  nonce
//	    13     n  ciphertext
//	  13+n    16  tag
func Material(material []byte) (Sealer, error) {
	if len(material) != rootSize {
		return nil, fmt.Errorf("a KMS key is made of %d bytes, not %d", rootSize, len(material))
	}
	block, err := aes.NewCipher(material)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return materialKey{aead}, err
}

type materialKey struct{ aead cipher.AEAD }

func (k materialKey) Seal(_ context.Context, plaintext []byte, with Context) ([]byte, error) {
	return k.aead.Seal([]byte{format}, nil, plaintext, with.bytes()), nil
}

func (k materialKey) Open(_ context.Context, sealed []byte, with Context) ([]byte, error) {
	if len(sealed) < 1 || sealed[0] != format {
		return nil, errNotSealed
	}
	plaintext, err := k.aead.Open(nil, nil, sealed[1:], with.bytes())
	if err != nil {
		return nil, errNotSealed
	}
	return plaintext, nil
}

var errNotSealed = fmt.Errorf("it was altered, or sealed with another key or context: %w", ErrWrongKey)

// NewDataKey returns n random bytes.
func NewDataKey(n int) []byte {
	key := make([]byte, n)
	rand.Read(key)
	return key
}

// errUnknownStore is for a name of a key store that is none of the server's.
var errUnknownStore = errors.New("it is no key store of this server's")

// Stores are the outside KMSes that the server was told of, by name.
type Stores map[string]Store

// A Store is an outside KMS. It knows its keys by names of its own.
type Store interface {
	Key(name string) Sealer
}

// Key returns a key of a store's.
func (s Stores) Key(store, name string) (Sealer, error) {
	outside, ok := s[store]
	if !ok {
		return nil, fmt.Errorf("key store %q: %w", store, errUnknownStore)
	}
	return outside.Key(name), nil
}
