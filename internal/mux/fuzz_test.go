package mux

import (
	"bytes"
	"io"
	"sync"
	"testing"
)

// one is a stream that reads what a stranger sent, and discards all writes.
type one struct{ io.Reader }

func (one) Write(p []byte) (int, error) { return len(p), nil }
func (one) Close() error                { return nil }

// For every input the session ends when the stream ends, and every connection on it
// does.
func FuzzServer(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 3, 0, 0, 0, 1, 2, 3, 0, 3, 0, 0, 0, 'a', 'b', 'c', 1, 1, 0, 0, 3, 0, 0, 0}, false)
	f.Add([]byte{2, 0, 0, 0, 3, 0, 0, 0, 2, 4, 8, 0, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0}, true)
	f.Add([]byte{1, 9, 0xff, 0xff, 0, 0, 0, 0}, false)
	f.Fuzz(func(t *testing.T, b []byte, own bool) {
		s, err := Server(one{bytes.NewReader(b)}, Options{Own: own})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		var all sync.WaitGroup
		for opened := 0; ; opened++ {
			stream, err := s.AcceptStream()
			if err != nil {
				break
			}
			if 8*opened > len(b) {
				t.Fatal("more connections than headers")
			}
			all.Go(func() { io.Copy(io.Discard, stream) })
		}
		all.Wait()
	})
}
