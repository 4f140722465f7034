package kms

import (
	"bytes"
	"testing"

	"github.com/google/uuid"
)

// A ciphertext that a stranger sends names a key by its ID or names none; what is
// left of it is what is to be opened. Nothing panics.
func FuzzSealedBy(f *testing.F) {
	id := uuid.MustParse("01234567-89ab-cdef-0123-456789abcdef")
	whole := append(append([]byte{format}, id[:]...), "sealed"...)
	f.Add(whole)
	f.Add(whole[:headLen])
	f.Add(whole[:headLen-1])
	f.Add([]byte{format})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, blob []byte) {
		name := sealedBy(blob)
		if name == "" {
			if len(blob) > headLen && blob[0] == format {
				t.Error("a ciphertext of ours names no key")
			}
			return
		}
		named, err := uuid.Parse(name)
		if err != nil || !bytes.Equal(blob, append(append([]byte{format}, named[:]...), blob[headLen:]...)) || len(blob[headLen:]) == 0 {
			t.Errorf("%x names %s, %v", blob, name, err)
		}
	})
}
