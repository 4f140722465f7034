package datachannel_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/wire"
)

func cipher(t *testing.T, sends wire.Type, key []byte) *datachannel.Cipher {
	t.Helper()
	c, err := datachannel.NewCipher(sends, key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestEncrypted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := text(1, datachannel.DataKeySize)
		s, person := node(), cipher(t, wire.TypeInputStreamData, key)
		r := attach(t, s)
		s.Encrypt(cipher(t, wire.TypeOutputStreamData, key))

		secret := bytes.Repeat([]byte("a secret "), 400)
		for kind, sealed := range map[wire.Kind]bool{wire.KindOutput: true, wire.KindStdErr: true, wire.KindExitCode: true, wire.KindHandshakeComplete: false} {
			if err := s.Send(t.Context(), kind, secret[:900]); err != nil {
				t.Fatal(err)
			}
			var got []byte
			for _, f := range r.frames() {
				r.ack(wire.Ack{Type: wire.TypeOutputStreamData, ID: f.ID, Seq: f.Seq})
				if sealed && bytes.Contains(f.Payload, secret[:9]) {
					t.Errorf("%v goes out as it is", kind)
				}
				p := f.Payload
				if sealed {
					var err error
					if p, err = person.Open(p); err != nil {
						t.Errorf("%v: %v", kind, err)
					}
				}
				got = append(got, p...)
			}
			if !bytes.Equal(got, secret[:900]) {
				t.Errorf("%v: %q", kind, got)
			}
		}

		// A stock client has room for 1,024 bytes.
		if err := s.Send(t.Context(), wire.KindOutput, secret); err != nil {
			t.Fatal(err)
		}
		for _, f := range r.frames() {
			if len(f.Payload) > 1024 {
				t.Errorf("a payload of %d bytes", len(f.Payload))
			}
		}

		// What is typed, in order; and then a message that was not sealed with the key.
		r.input(0, string(person.Seal([]byte("ls\r"))))
		receive(t, s, "ls\r")
		r.input(1, "rm -rf /\r")
		if _, err := s.Receive(t.Context()); !errors.Is(err, datachannel.ErrSealed) {
			t.Errorf("what was not sealed: %v", err)
		}
		touched := person.Seal([]byte("ls\r"))
		touched[len(touched)/2] ^= 1
		r.input(2, string(touched))
		if _, err := s.Receive(t.Context()); !errors.Is(err, datachannel.ErrSealed) {
			t.Errorf("what was touched: %v", err)
		}
		r.cut()
		s.Close()
	})
}

// Each end opens what the other has sealed, and not what it has itself: what is
// said cannot be sent back.
func TestCipherHasTwoHalves(t *testing.T) {
	key := text(2, datachannel.DataKeySize)
	agent, client := cipher(t, wire.TypeOutputStreamData, key), cipher(t, wire.TypeInputStreamData, key)
	p := agent.Seal([]byte("x"))
	if got, err := client.Open(p); err != nil || string(got) != "x" {
		t.Errorf("the client opens %q, %v", got, err)
	}
	if got, err := agent.Open(p); err == nil {
		t.Errorf("the agent opens its own: %q", got)
	}
	if len(p) != 1+28 || bytes.Equal(p, agent.Seal([]byte("x"))) {
		t.Errorf("sealed to %x, twice the same", p)
	}
	for _, n := range []int{0, 32, 63, 65} {
		if _, err := datachannel.NewCipher(wire.TypeOutputStreamData, make([]byte, n)); err == nil {
			t.Errorf("a key of %d bytes is taken", n)
		}
	}
}

// A nonce, what was sealed, and a tag, with the key's first half: as OpenSSL
// seals it. (openssl, python cryptography's AESGCM.)
func TestCipherIsAESGCM(t *testing.T) {
	key := bytes.Repeat([]byte{0}, datachannel.DataKeySize)
	sealed, err := hex.DecodeString("000000000000000000000000" + "cea7403d4d606b6e074ec5d3baf39d18" + "d0d1c8a799996bf0265b98b5d48ab919")
	if err != nil {
		t.Fatal(err)
	}
	got, err := cipher(t, wire.TypeInputStreamData, key).Open(sealed)
	if err != nil || !bytes.Equal(got, make([]byte, 16)) { // test case 14 of the GCM specification
		t.Errorf("opened %x, %v", got, err)
	}
}
