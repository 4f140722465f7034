package datachannel

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"

	"github.com/sallyport/sallyport/internal/wire"
)

// DataKeySize is how many bytes the data key of an encrypted session has.
const DataKeySize = 64

// sealing is how much longer a payload is when it is sealed: a nonce of 12
// bytes before it, and a tag of 16 after it.
const sealing = 12 + 16

// ErrSealed is what Receive answers when a message cannot be opened: the other
// end has another key, or the message was changed between the two.
var ErrSealed = errors.New("the session is encrypted, and what came was not sealed with its key")

// A Cipher seals what one end says and opens what the other does, by
// AES-256-GCM. (amazon-ssm-agent agent/session/crypto, session-manager-plugin
// src/encryption.)
type Cipher struct{ seals, opens cipher.AEAD }

// NewCipher returns the cipher of the end that sends messages of type sends, of
// a session with a data key: its first half is for what the node says, its
// second for what the person does.
func NewCipher(sends wire.Type, dataKey []byte) (*Cipher, error) {
	if len(dataKey) != DataKeySize {
		return nil, fmt.Errorf("the session's data key has %d bytes, and should have %d", len(dataKey), DataKeySize)
	}
	var aeads [2]cipher.AEAD
	for i := range aeads {
		block, err := aes.NewCipher(dataKey[i*DataKeySize/2 : (i+1)*DataKeySize/2])
		if err != nil {
			return nil, err
		}
		if aeads[i], err = cipher.NewGCMWithRandomNonce(block); err != nil {
			return nil, err
		}
	}
	if sends == wire.TypeOutputStreamData {
		return &Cipher{aeads[0], aeads[1]}, nil
	}
	return &Cipher{aeads[1], aeads[0]}, nil
}

// Seal seals p, and Open opens what the other end sealed.
func (c *Cipher) Seal(p []byte) []byte          { return c.seals.Seal(nil, nil, p, nil) }
func (c *Cipher) Open(p []byte) ([]byte, error) { return c.opens.Open(nil, nil, p, nil) }

// sealed reports whether messages of a kind are: what a person sees and types.
// The rest, sizes among it, is not.
func sealed(kind wire.Kind) bool {
	return kind == wire.KindOutput || kind == wire.KindStdErr || kind == wire.KindExitCode
}

// Encrypt seals what is sent from now on and opens what is received, which is
// what both ends do from the end of the handshake in an encrypted session.
func (s *Stream) Encrypt(c *Cipher) { s.cipher.Store(c) }

// seal is p as it is sent.
func (s *Stream) seal(kind wire.Kind, p []byte) []byte {
	if c := s.cipher.Load(); c != nil && sealed(kind) {
		return c.Seal(p)
	}
	return p
}

// open is m as it was sent.
func (s *Stream) open(m Message) (Message, error) {
	c := s.cipher.Load()
	if c == nil || !sealed(m.Kind) {
		return m, nil
	}
	var err error
	if m.Payload, err = c.Open(m.Payload); err != nil {
		return m, ErrSealed
	}
	return m, nil
}

// offerOpened has Direct take what it can of a sealed message. What it leaves
// is sealed again, so that all that waits is alike.
func (s *Stream) offerOpened(f *wire.Frame) (taken int) {
	m, err := s.open(Message{f.Kind, f.Payload})
	if err != nil {
		return 0 // Receive will say so
	}
	taken = min(max(s.Direct(m), 0), len(m.Payload))
	switch {
	case taken == len(m.Payload):
		return len(f.Payload)
	case taken > 0:
		f.Payload = s.cipher.Load().opens.Seal(nil, nil, m.Payload[taken:], nil)
	}
	return 0
}
