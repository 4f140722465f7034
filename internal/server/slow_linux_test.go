package server

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"crypto/tls"

	"github.com/sallyport/sallyport/internal/rawio"
	"github.com/sallyport/sallyport/internal/socket"
	"github.com/sallyport/sallyport/internal/wire"
)

// Through all that the server's connections are wrapped in, the system is asked about
// a client that takes nothing, and the client is kept; see socket.KeepAliveSlow.
func TestStoppedTerminalIsKept(t *testing.T) {
	accepted := make(chan *socket.Conn, 1)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := socket.Accept(w, r)
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.StartTLS() // for its certificate
	config := s.TLS.Clone()
	web := &http.Server{Handler: s.Config.Handler}
	go web.Serve(tls.NewListener(bounded(rawio.Listen(l), leastConnections), config))
	defer web.Close()
	defer s.Close()
	join := func() *socket.Conn {
		t.Helper()
		client, _, err := socket.Dial(t.Context(), s.Client().Transport.(*http.Transport), "https://"+l.Addr().String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Drop() })
		server := <-accepted
		t.Cleanup(func() { server.Drop() })
		go server.ReadFrame(t.Context())
		go func() {
			for server.WriteFrame(t.Context(), make([]byte, wire.MaxFrame)) == nil {
			}
		}()
		return server
	}
	const every, patience = 10 * time.Millisecond, 300 * time.Millisecond
	kept := make(chan error, 1)
	go func() { kept <- join().KeepAliveSlow(t.Context(), every, patience) }()
	for range 3 {
		if err := join().KeepAlive(t.Context(), every, patience); !errors.Is(err, socket.ErrSilent) {
			t.Fatalf("one that has to answer pings: %v", err)
		}
	}
	select {
	case err := <-kept:
		t.Errorf("a client that takes nothing was given up: %v", err)
	default:
	}
}
