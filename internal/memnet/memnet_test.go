package memnet

import (
	"bytes"
	"errors"
	"io"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// What is written is read, once, in order, and then the end of it.
func TestConnCarriesBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1, nil)
		l := n.NewLocal()
		near, err := l.Dial()
		if err != nil {
			t.Fatal(err)
		}
		far, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		sent := make([]byte, 300_000)
		for i := range sent {
			sent[i] = byte(i * i >> 5)
		}
		go func() {
			near.Write(sent[:200_000])
			near.Write(sent[200_000:])
			near.(*Conn).CloseWrite()
		}()
		got, err := io.ReadAll(far)
		if err != nil || !bytes.Equal(got, sent) {
			t.Errorf("read %d of %d bytes, and not those that were written: %v", len(got), len(sent), err)
		}
		near.Close()
		far.Close()
		l.Close()
		if n.Open() != 0 {
			t.Errorf("%d ends are open", n.Open())
		}
	})
}

// connected is a host, and the two ends of a connection from it.
func connected(t *testing.T) (h *Host, near, far *Conn) {
	t.Helper()
	n := New(1, nil)
	l := n.Listen()
	h = n.NewHost("host", 10*time.Millisecond, 0)
	conn, err := h.Dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	other, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return h, conn.(*Conn), other.(*Conn)
}

// A stalled link carries nothing, and everything once it goes on.
func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, near, far := connected(t)
		h.Stall(true)
		near.Write([]byte("late"))
		far.SetReadDeadline(time.Now().Add(time.Hour))
		b := make([]byte, 8)
		if n, err := far.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read %q, %v over a stalled link", b[:n], err)
		}
		h.Stall(false)
		far.SetReadDeadline(time.Now().Add(time.Second))
		if n, err := far.Read(b); err != nil || string(b[:n]) != "late" {
			t.Errorf("read %q, %v", b[:n], err)
		}
	})
}

// What is on its way is lost with a connection that is cut, and both ends hear of
// it.
func TestCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, near, far := connected(t)
		near.Write([]byte("lost"))
		h.Cut(time.Time{})
		for _, c := range []*Conn{near, far} {
			if n, err := c.Read(make([]byte, 8)); n > 0 || !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("read %d bytes, %v", n, err)
			}
		}
	})
}

// A connection that is lost silently tells neither end.
func TestLose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, near, far := connected(t)
		h.Lose(time.Time{})
		if _, err := near.Write([]byte("lost")); err != nil {
			t.Errorf("write: %v", err)
		}
		far.SetReadDeadline(time.Now().Add(time.Hour))
		if n, err := far.Read(make([]byte, 8)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read %d bytes, %v", n, err)
		}
	})
}

// An end that is closed with something to be read resets the connection, and
// what it has just sent is lost; otherwise that arrives.
func TestCloseWithUnreadInput(t *testing.T) {
	for _, unread := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			_, near, far := connected(t)
			if unread {
				far.Write([]byte("unread"))
				time.Sleep(time.Second)
			}
			near.Write([]byte("last"))
			near.Close()
			got, err := io.ReadAll(far)
			if unread && (len(got) > 0 || !errors.Is(err, syscall.ECONNRESET)) || !unread && (string(got) != "last" || err != nil) {
				t.Errorf("unread %v: read %q, %v", unread, got, err)
			}
		})
	}
}
