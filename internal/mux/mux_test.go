package mux

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/xtaci/smux"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ends joins a client and a server over a pipe. Each connection to the client's
// listener is carried to the server, which dials target.
func ends(t *testing.T, o Options, target string) (dial func() *net.TCPConn) {
	t.Helper()
	near, far := net.Pipe()
	client, err := Client(near, o)
	if err != nil {
		t.Fatal(err)
	}
	server, err := Server(far, o)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			stream, err := server.AcceptStream()
			if err != nil {
				return
			}
			conn, err := net.Dial("tcp", target)
			if err != nil {
				all.Go(func() { Refuse(stream, o) })
				continue
			}
			all.Go(func() { Join(stream, conn, o) })
		}
	})
	listener := listen(t)
	all.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			var stream *smux.Stream
			if stream, err = client.OpenStream(); err != nil {
				conn.Close()
				return
			}
			all.Go(func() { Join(stream, conn, o) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		client.Close()
		server.Close()
		all.Wait()
	})
	return func() *net.TCPConn {
		t.Helper()
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn.(*net.TCPConn)
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// serve has every connection to the address it returns handled by f.
func serve(t *testing.T, f func(*net.TCPConn)) string {
	t.Helper()
	l := listen(t)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				f(conn.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	return l.Addr().String()
}

func both(t *testing.T, test func(t *testing.T, o Options)) {
	t.Run("with an end of AWS's", func(t *testing.T) { test(t, Options{}) })
	t.Run("with an end of AWS's that wants to hear we live", func(t *testing.T) { test(t, Options{KeepAlive: true}) })
	t.Run("between ends of ours", func(t *testing.T) { test(t, Options{Own: true}) })
}

func TestManyConnectionsArriveWhole(t *testing.T) {
	both(t, func(t *testing.T, o Options) {
		echo := serve(t, func(c *net.TCPConn) { io.Copy(c, c) })
		dial := ends(t, o, echo)
		var all sync.WaitGroup
		for i := range 8 {
			conn := dial()
			all.Go(func() {
				want := bytes.Repeat([]byte{byte('a' + i)}, 1<<20)
				go conn.Write(want)
				got := make([]byte, len(want))
				if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, want) {
					t.Errorf("connection %d: %v", i, err)
				}
				conn.Close()
			})
		}
		all.Wait()
	})
}

// A program that sends its question, says that this was all of it, and then
// reads the answer: HTTP/1.0 clients do, and nc -N.
func TestHalfClosedConnectionsGoOn(t *testing.T) {
	count := serve(t, func(c *net.TCPConn) {
		n, _ := io.Copy(io.Discard, c)
		io.WriteString(c, "got "+string(rune('0'+n)))
	})
	conn := ends(t, Options{Own: true}, count)()
	io.WriteString(conn, "hello")
	conn.CloseWrite()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "got 5" {
		t.Errorf("answer %q, %v", got, err)
	}
}

// A connection that is not read delays no other.
func TestAStuckConnectionHoldsUpNoOther(t *testing.T) {
	release := make(chan struct{})
	var once sync.Once
	target := serve(t, func(c *net.TCPConn) {
		first := make([]byte, 1)
		io.ReadFull(c, first)
		if first[0] == 's' {
			<-release
			return
		}
		c.Write([]byte("alive"))
	})
	t.Cleanup(func() { once.Do(func() { close(release) }) })
	dial := ends(t, Options{Own: true}, target)
	stuck := dial()
	stuck.Write([]byte{'s'})
	go stuck.Write(make([]byte, 64<<20))
	conn := dial()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	conn.Write([]byte{'q'})
	got := make([]byte, 5)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "alive" {
		t.Errorf("answer %q, %v", got, err)
	}
	once.Do(func() { close(release) })
}

// What is sent to a connection that has gone does not hold its sender up.
func TestASenderOutlivesTheConnectionItSendsTo(t *testing.T) {
	refused := listen(t)
	refused.Close()
	tests := []struct{ name, target string }{
		{"it was reset", serve(t, func(c *net.TCPConn) { c.SetLinger(0) })},
		{"nobody was there", refused.Addr().String()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			conn := ends(t, Options{Own: true}, tt.target)()
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			io.ReadAll(conn)
			_, err := conn.Write(make([]byte, 8<<20))
			if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
				t.Error("the sender waits for a connection that has gone")
			}
		})
	}
}
