package sallyport

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// A Secret is a key or a token. The zero Secret is empty.
//
// It cannot be printed, logged or marshalled by accident. The text sits in a
// closure because fmt reads straight through unexported fields, and a Secret
// is often inside one.
type Secret struct{ reveal func() string }

// NewSecret wraps s.
func NewSecret(s string) Secret { return Secret{func() string { return s }} }

// GenerateSecret returns 256 random bits as 43 characters of unpadded
// base64url.
func GenerateSecret() Secret {
	return NewSecret(base64.RawURLEncoding.EncodeToString(randomBytes(32)))
}

// GenerateSecretKey returns 240 random bits as 40 characters of base64, which is
// how programs know an AWS secret access key.
func GenerateSecretKey() Secret {
	return NewSecret(base64.StdEncoding.EncodeToString(randomBytes(30)))
}

// Reveal returns the text. Call it where the secret is sent, and only there.
func (s Secret) Reveal() string {
	if s.reveal == nil {
		return ""
	}
	return s.reveal()
}

// Empty reports whether there is nothing to hide.
func (s Secret) Empty() bool { return s.Reveal() == "" }

// Equal compares two secrets in constant time for their length.
func (s Secret) Equal(t Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(t.Reveal())) == 1
}

// Hash returns what may be stored in a secret's place: enough to recognise it
// again, and of no use to a thief. It is meant for generated secrets, which
// cannot be guessed, not for passwords.
func (s Secret) Hash() SecretHash { return sha256.Sum256([]byte(s.Reveal())) }

// A SecretHash recognises one [Secret]. The zero SecretHash recognises none.
type SecretHash [sha256.Size]byte

// Matches reports in constant time whether h was made from s.
func (h SecretHash) Matches(s Secret) bool {
	got := s.Hash()
	return h != SecretHash{} && subtle.ConstantTimeCompare(h[:], got[:]) == 1
}

func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, "[secret]") }

// LogValue keeps the secret out of logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue("[secret]") }

// MarshalText refuses: code that sends a secret calls Reveal.
func (s Secret) MarshalText() ([]byte, error) {
	return nil, errors.New("a secret may not be marshalled")
}
