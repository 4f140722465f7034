// Package keyring answers one question: may this be opened, and with what?
//
// A keyring holds the root keys of one control plane. Nothing is sealed with a
// root key itself: each purpose has keys of its own, derived from the roots, so
// that what was sealed for one purpose cannot be opened for another.
//
//	root keys            v1        v2 ◀── the newest seals
//	                      │         │
//	HKDF-SHA-256          ├─────┐   ├─────┐
//	                      ▼     ▼   ▼     ▼
//	[Box] "access-key"   v1     │  v2     │
//	[Box] "session-token"      v1        v2 ◀── any that is held opens
//
// What is sealed says which version sealed it, so rotation is: add a version,
// seal anew at leisure, drop the old one. The format, which the version and the
// associated data are bound into:
//
//	offset  size  field
//	     0     1  format: 1
//	     1     4  version of the root key, big-endian
//	     5    12  nonce, random
//	    17     n  AES-256-GCM ciphertext
//	  17+n    16  tag
//
// The root keys come from a file or an environment variable, as text: one key a
// line, its version, a colon and 32 bytes in base64. The file belongs outside
// the backup of the state: with it, the backup can be opened.
//
// A Keyring and its Boxes never change once made and may be used from any
// goroutine.
package keyring

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// A Keyring holds the root keys of one control plane.
type Keyring struct {
	roots  map[uint32][]byte
	newest uint32

	mu    sync.Mutex
	boxes map[string]*Box
}

const (
	rootSize  = 32
	format    = 1
	headerLen = 1 + 4
	overhead  = headerLen + 12 + 16

	// maxRoots bounds what a key file may ask us to hold. Rotating monthly,
	// it is five years of versions that were not dropped.
	maxRoots = 64
)

// ErrWrongKey is within the error of [Box.Open] and [Keyring.Verify] when what
// was given is whole but none of our keys may open it, or not for this.
var ErrWrongKey = errors.New("no key that we hold opens it")

// Generate returns a keyring with one fresh root key that is written nowhere:
// what it seals dies with the process. For keys that last, see [CreateFile].
func Generate() *Keyring {
	return newKeyring(map[uint32][]byte{1: freshRoot()})
}

// Parse reads root keys as a key file has them: one a line, or separated by
// commas or spaces. Lines that begin with # are comments.
func Parse(text string) (*Keyring, error) {
	roots := map[uint32][]byte{}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		for _, word := range strings.FieldsFunc(line, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\r' || r == '\n' }) {
			// The word is never quoted back: it may be a key with a slip in it.
			v, b64, ok := strings.Cut(word, ":")
			version, err := strconv.ParseUint(v, 10, 32)
			if !ok || err != nil || version == 0 {
				return nil, fmt.Errorf("root key %d is not a version, a colon and a key; write it as 1:<32 bytes in base64>", len(roots)+1)
			}
			key, err := base64.StdEncoding.DecodeString(b64)
			if err != nil || len(key) != rootSize {
				return nil, fmt.Errorf("root key version %d is not 32 bytes in base64; restore the key from your copy of it", version)
			}
			if _, dup := roots[uint32(version)]; dup {
				return nil, fmt.Errorf("root key version %d is given twice; keep the one that was there first, and give the other a version above all the rest", version)
			}
			if len(roots) == maxRoots {
				return nil, fmt.Errorf("more than %d root keys are given; drop the oldest versions", maxRoots)
			}
			roots[uint32(version)] = key
		}
	}
	if len(roots) == 0 {
		return nil, errors.New("there is no root key in it; restore it from your copy, or, if no database has been used with it yet, delete it and start again")
	}
	return newKeyring(roots), nil
}

func newKeyring(roots map[uint32][]byte) *Keyring {
	return &Keyring{
		roots:  roots,
		newest: slices.Max(slices.Collect(maps.Keys(roots))),
		boxes:  map[string]*Box{},
	}
}

func freshRoot() []byte {
	key := make([]byte, rootSize)
	rand.Read(key) // never fails, by its contract
	return key
}

// Newest is the version of the root key that seals.
func (k *Keyring) Newest() uint32 { return k.newest }

// For returns the box for one purpose, a constant such as "session-token". It
// derives keys the first time; callers may keep the box or ask each time.
func (k *Keyring) For(purpose string) *Box {
	k.mu.Lock()
	defer k.mu.Unlock()
	if b := k.boxes[purpose]; b != nil {
		return b
	}
	b := &Box{newest: k.newest, aeads: make(map[uint32]cipher.AEAD, len(k.roots))}
	for version, root := range k.roots {
		b.aeads[version] = derive(root, purpose)
	}
	k.boxes[purpose] = b
	return b
}

// derive cannot fail: every size in it is a constant of ours.
func derive(root []byte, purpose string) cipher.AEAD {
	key, err := hkdf.Key(sha256.New, root, nil, "sallyport "+purpose, rootSize)
	if err != nil {
		panic(err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return aead
}

// checkText is what a key-check value seals. Its content does not matter, only
// that it can be opened.
var checkText = []byte("this database belongs to this root key")

// Check returns a value to be kept beside what the keyring seals, so that
// [Keyring.Verify] can later tell whether it is the right keyring.
func (k *Keyring) Check() []byte { return k.For("check").Seal(checkText, nil) }

// Verify reports whether check was made by this keyring, with any version it
// still holds.
func (k *Keyring) Verify(check []byte) error {
	got, err := k.For("check").Open(check, nil)
	if err == nil && !bytes.Equal(got, checkText) {
		err = ErrWrongKey
	}
	if err != nil {
		return fmt.Errorf("the root key is not the one this database was started with; give the key it had (every version it had, if it was rotated), from your copy of it: %w", err)
	}
	return nil
}

// A Box seals and opens for one purpose. It costs about a microsecond.
//
// Nonces are random, so one root key version should seal no more than 2³²
// things for one purpose: a thousand a second for 49 days. Rotate before.
type Box struct {
	newest uint32
	aeads  map[uint32]cipher.AEAD
}

// Seal encrypts plaintext with the newest key. Open needs the same associated data,
// which is not kept in it.
func (b *Box) Seal(plaintext, associated []byte) []byte {
	out := make([]byte, headerLen, overhead+len(plaintext))
	out[0] = format
	binary.BigEndian.PutUint32(out[1:], b.newest)
	return b.aeads[b.newest].Seal(out, nil, plaintext, bind(out, associated))
}

// Open returns what was sealed, if it was sealed by this box's purpose and keys
// with the same associated data and has not been changed since.
func (b *Box) Open(sealed, associated []byte) ([]byte, error) {
	if len(sealed) < overhead || sealed[0] != format {
		return nil, fmt.Errorf("what is to be opened was not sealed by us, or was cut short: %d bytes", len(sealed))
	}
	version := binary.BigEndian.Uint32(sealed[1:])
	aead := b.aeads[version]
	if aead == nil {
		return nil, fmt.Errorf("it was sealed with root key version %d, which is not among ours; add that version to the root keys: %w", version, ErrWrongKey)
	}
	plaintext, err := aead.Open(nil, nil, sealed[headerLen:], bind(sealed[:headerLen], associated))
	if err != nil {
		return nil, fmt.Errorf("it was altered, or sealed for something else or with another root key of version %d: %w", version, ErrWrongKey)
	}
	return plaintext, nil
}

// Version is the root key version that sealed, or 0 if sealed is not ours.
func Version(sealed []byte) uint32 {
	if len(sealed) < overhead || sealed[0] != format {
		return 0
	}
	return binary.BigEndian.Uint32(sealed[1:])
}

func bind(header, associated []byte) []byte {
	return append(append(make([]byte, 0, headerLen+len(associated)), header[:headerLen]...), associated...)
}
