package rawio

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"
)

// pair is both ends of a connection, wrapped.
func pair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l = Listen(l)
	defer l.Close()
	a, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	a = Wrap(a)
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func TestConnCarriesEverythingBothWays(t *testing.T) {
	a, b := pair(t)
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<17) // more than any buffer between them holds
	var all sync.WaitGroup
	for _, end := range [][2]net.Conn{{a, b}, {b, a}} {
		all.Go(func() {
			if n, err := end[0].Write(want); n != len(want) || err != nil {
				t.Errorf("Write = %d, %v", n, err)
			}
			end[0].(interface{ CloseWrite() error }).CloseWrite()
		})
		all.Go(func() {
			got, err := io.ReadAll(end[1])
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("read %d bytes, %v", len(got), err)
			}
		})
	}
	all.Wait()
}

// What callers look at in an error is as it is without us.
func TestConnErrors(t *testing.T) {
	a, b := pair(t)
	a.SetReadDeadline(time.Unix(1, 0))
	var timeout net.Error
	if _, err := a.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the deadline: %v", err)
	}
	a.SetReadDeadline(time.Time{})

	done := make(chan error)
	go func() {
		_, err := a.Read(make([]byte, 1))
		done <- err
	}()
	a.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("a read that Close ended: %v", err)
	}
	if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a write after Close: %v", err)
	}
	if _, err := b.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after the other end closed: %v", err)
	}
	var op *net.OpError
	for range 1000 { // until the system knows that the other end is closed
		if _, err := b.Write(make([]byte, 1<<16)); err != nil {
			if !errors.As(err, &op) || op.Op != "write" || op.Addr == nil {
				t.Errorf("a write to nobody: %#v", err)
			}
			return
		}
	}
	t.Error("writes to nobody succeed")
}

func TestFile(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := NewFile(r)
	if err != nil {
		t.Fatal(err)
	}
	out, err := NewFile(w)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1<<20)
	if n := in.ReadNow(b); n != 0 {
		t.Errorf("read %d bytes of nothing", n)
	}
	sent := out.WriteNow(b)
	if sent == 0 || sent == len(b) || out.WriteNow(b) != 0 {
		t.Errorf("a pipe took %d bytes at once", sent)
	}
	got := 0
	for got < sent {
		n, err := in.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		got += n + in.ReadNow(b[:10])
	}
	if got != sent {
		t.Errorf("read %d bytes of %d", got, sent)
	}
	in.SetReadDeadline(time.Unix(1, 0))
	if _, err := in.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the deadline: %v", err)
	}
	in.SetReadDeadline(time.Time{})
	done := make(chan error)
	go func() {
		_, err := in.Read(b)
		done <- err
	}()
	in.Close()
	if err := <-done; !errors.Is(err, os.ErrClosed) {
		t.Errorf("a read that Close ended: %v", err)
	}
	if _, err := out.Write(b); err == nil {
		t.Error("wrote to nobody")
	}
	out.Close()
}

// What is written by many goroutines is not mixed up.
func TestConnManyWriters(t *testing.T) {
	a, b := pair(t)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() { a.Write(bytes.Repeat([]byte{byte('a' + i)}, 1<<16)) })
	}
	go func() { all.Wait(); a.Close() }()
	got, err := io.ReadAll(b)
	if err != nil || len(got) != 8<<16 {
		t.Fatalf("read %d bytes, %v", len(got), err)
	}
	for i := 0; i < len(got); i += 1 << 16 {
		if !bytes.Equal(got[i:i+1<<16], bytes.Repeat(got[i:i+1], 1<<16)) {
			t.Error("two writes are mixed up")
		}
	}
}
