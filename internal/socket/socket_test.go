package socket

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
)

// pair joins two ends through a real server.
func pair(t *testing.T) (server, client *Conn) {
	t.Helper()
	accepted := make(chan *Conn, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := Accept(w, r)
		if err != nil {
			t.Error(err)
			close(accepted)
			return
		}
		accepted <- c
	}))
	t.Cleanup(s.Close)
	client, _, err := Dial(t.Context(), new(http.Transport), s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	server = <-accepted
	t.Cleanup(func() { client.Drop(); server.Drop() })
	return server, client
}

func TestMessages(t *testing.T) {
	server, client := pair(t)
	if err := client.WriteText(t.Context(), []byte(`{"MessageSchemaVersion":"1.0"}`)); err != nil {
		t.Fatal(err)
	}
	if b, err := server.ReadText(t.Context()); err != nil || string(b) != `{"MessageSchemaVersion":"1.0"}` {
		t.Fatalf("ReadText = %q, %v", b, err)
	}
	for _, n := range []int{0, 1, 120, 1144, wire.MaxFrame} {
		sent := bytes.Repeat([]byte{byte(n)}, n)
		wrote := make(chan error, 1)
		go func() { wrote <- client.WriteFrame(t.Context(), sent) }()
		got, err := server.AppendFrame(t.Context(), []byte("before"))
		if err != nil || !bytes.Equal(got, append([]byte("before"), sent...)) {
			t.Fatalf("%d bytes: got %d, %v", n, len(got), err)
		}
		if err := <-wrote; err != nil {
			t.Fatal(err)
		}
	}
}

// No peer makes a Conn hold more than a frame.
func TestLimits(t *testing.T) {
	t.Run("a frame too long", func(t *testing.T) {
		server, client := pair(t)
		go client.WriteFrame(t.Context(), make([]byte, wire.MaxFrame+1))
		if b, err := server.ReadFrame(t.Context()); err == nil {
			t.Errorf("read %d bytes", len(b))
		}
	})
	t.Run("a first message too long", func(t *testing.T) {
		server, client := pair(t)
		go client.WriteText(t.Context(), make([]byte, maxText+1))
		if b, err := server.ReadText(t.Context()); err == nil {
			t.Errorf("read %d bytes", len(b))
		}
	})
	t.Run("a first message that is not text", func(t *testing.T) {
		server, client := pair(t)
		go client.WriteFrame(t.Context(), []byte("{}"))
		if b, err := server.ReadText(t.Context()); err == nil {
			t.Errorf("read %q", b)
		}
	})
}

func TestRefusal(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "<AccessDeniedException>", http.StatusForbidden)
	}))
	defer s.Close()
	_, _, err := Dial(t.Context(), new(http.Transport), s.URL, nil)
	refusal, ok := errors.AsType[*HandshakeError](err)
	if !ok || refusal.Status != 403 || refusal.Body != "<AccessDeniedException>" {
		t.Errorf("Dial = %v", err)
	}
}

// A peer that stopped answering is noticed, one that answers is not.
func TestKeepAlive(t *testing.T) {
	server, client := pair(t)
	ctx, cancel := context.WithCancel(t.Context())
	reading := make(chan struct{})
	go func() { // answers pings by reading
		defer close(reading)
		client.ReadFrame(ctx)
	}()
	go server.ReadFrame(t.Context())
	errs := make(chan error, 1)
	go func() { errs <- server.KeepAlive(t.Context(), 5*time.Millisecond, time.Second) }()
	select {
	case err := <-errs:
		t.Fatalf("given up on a peer that answers: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	cancel() // and then no goroutine reads
	<-reading
	if err := <-errs; err == nil {
		t.Error("a peer that is gone was not noticed")
	}
}

// A socket that cannot answer a ping is of no use to read either: its peer would
// take it for dead, and it would stay registered as what the peer is reached by.
func TestPongThatCannotBeWritten(t *testing.T) {
	server, client := pair(t)
	if err := server.ws.NetConn().(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	go client.Ping(t.Context(), time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if b, err := server.ReadFrame(ctx); err == nil || ctx.Err() != nil {
		t.Errorf("read %q, %v", b, err)
	}
}
