package simulation

import (
	"bytes"
	"io"
	"testing"
	"testing/synctest"
)

// What is written is read, once, in order, and then the end of it.
func TestConnCarriesBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(NewLog(), 1)
		l := n.NewLocal()
		near, err := l.Dial()
		if err != nil {
			t.Fatal(err)
		}
		far, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		sent := pattern(300_000, 5)
		go func() {
			near.Write(sent[:200_000])
			near.Write(sent[200_000:])
			near.(*Conn).CloseWrite()
		}()
		got, err := io.ReadAll(far)
		if err != nil || !bytes.Equal(got, sent) {
			t.Errorf("%d of %d bytes, %v: %s", len(got), len(sent), err, difference(got, sent))
		}
		near.Close()
		far.Close()
		l.Close()
		if n.Open() != 0 {
			t.Errorf("%d ends are open", n.Open())
		}
	})
}
