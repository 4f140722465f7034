package clientcmd

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/mux"
	"github.com/sallyport/sallyport/internal/socket"
	"github.com/sallyport/sallyport/internal/wire"
)

// An end is the node's end of one session.
type end struct {
	*datachannel.Stream
	conn    *socket.Conn
	ctx     context.Context
	rest    []byte
	once    sync.Once
	version string // of its agent; "" is a new one
}

var ours = []string{wire.CapMux2, wire.CapStdin}

// shake shakes hands for a session of a kind, as an agent that offers this.
func (e *end) shake(kind string, properties any, offers []string) {
	props, _ := json.Marshal(properties)
	action, _ := json.Marshal(wire.SessionTypeRequest{SessionType: kind, Properties: props})
	e.tell(wire.KindHandshakeRequest, wire.HandshakeRequest{
		AgentVersion:           cmp.Or(e.version, "3.3.1142.0"),
		RequestedClientActions: []wire.RequestedClientAction{{ActionType: wire.ActionSessionType, ActionParameters: action}},
		Capabilities:           offers,
	})
	for m := e.next(); m.Kind != wire.KindHandshakeResponse; m = e.next() {
		if m.Kind == 0 {
			return
		}
	}
	e.tell(wire.KindHandshakeComplete, wire.HandshakeComplete{})
}

func (e *end) tell(kind wire.Kind, v any) {
	b, ok := v.([]byte)
	if !ok {
		b, _ = json.Marshal(v)
	}
	e.SendMessage(e.ctx, kind, b)
}

// next returns the next message, or one of no kind when there are no more.
func (e *end) next() datachannel.Message {
	m, err := e.Receive(e.ctx)
	if err != nil {
		return datachannel.Message{}
	}
	return datachannel.Message{Kind: m.Kind, Payload: bytes.Clone(m.Payload)}
}

// until returns what is sent before a flag, or all there is.
func (e *end) until(want wire.Flag) (sent []byte) {
	for {
		m := e.next()
		if f, err := wire.ReadFlag(m.Payload); m.Kind == 0 || m.Kind == wire.KindFlag && err == nil && f == want {
			return sent
		}
		sent = append(sent, m.Payload...)
	}
}

// close ends the session, once.
func (e *end) close(closed wire.ChannelClosed) {
	e.once.Do(func() {
		ctx, cancel := context.WithTimeout(e.ctx, 10*time.Second)
		defer cancel()
		e.Flush(ctx)
		b, _ := closed.Frame(time.Now()).AppendBinary(nil)
		e.conn.WriteFrame(ctx, b)
	})
}

func (e *end) Read(b []byte) (int, error) {
	for len(e.rest) == 0 {
		m, err := e.Receive(e.ctx)
		if err != nil {
			return 0, err
		}
		if f, err := wire.ReadFlag(m.Payload); m.Kind == wire.KindFlag && err == nil {
			switch f {
			case wire.FlagTerminateSession:
				return 0, net.ErrClosed
			case wire.FlagEndOfInput:
				return 0, io.EOF
			}
			continue
		}
		e.rest = bytes.Clone(m.Payload)
	}
	n := copy(b, e.rest)
	e.rest = e.rest[n:]
	return n, nil
}

func (e *end) Write(b []byte) (int, error) { return len(b), e.Send(e.ctx, wire.KindOutput, b) }
func (e *end) Close() error                { return nil }

// forward forwards to target until the person has had enough.
func (e *end) forward(target string, offers []string) {
	o := mux.Options{Own: slices.Contains(offers, wire.CapMux2)}
	session, err := mux.Server(e, o)
	if err != nil {
		return
	}
	defer session.Close()
	for {
		stream, err := session.AcceptStream()
		if err != nil {
			return
		}
		go func() {
			conn, err := net.Dial("tcp", target)
			if err != nil {
				mux.Refuse(stream, o)
				return
			}
			mux.Join(stream, conn, o)
		}()
	}
}

// answering has everyone who connects to the address it returns told a word.
func answering(t *testing.T, word string) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Write([]byte(word))
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}
