// Package socket carries messages over a WebSocket: text to open a channel,
// then frames.
//
// It is where the WebSocket library is known, and all that the rest of the
// house needs of it: dial and accept, whole messages with a limit on their
// size, pings, and a close that does not wait. Compression is off, because
// frames are often encrypted and the peers never ask for it.
//
// A Conn may be read by one goroutine and written by many. Somebody must be
// reading it at all times, or pings go unanswered; amazon-ssm-agent hangs up
// six seconds after one that did.
package socket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/sallyport/sallyport/internal/wire"
)

// maxText bounds the text message that opens a channel.
const maxText = 16 << 10

// A Conn is one WebSocket.
type Conn struct {
	ws  *websocket.Conn
	buf []byte // of ReadFrame
}

// Accept upgrades a request. Afterwards the handler should return: a goroutine
// that outlives it costs less memory than the handler does, and r's context is
// of no more use.
func Accept(w http.ResponseWriter, r *http.Request) (*Conn, error) {
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return nil, fmt.Errorf("accept websocket: %w", err)
	}
	return newConn(ws), nil
}

func newConn(ws *websocket.Conn) *Conn {
	ws.SetReadLimit(wire.MaxFrame)
	return &Conn{ws: ws}
}

// A HandshakeError is a server's refusal to open a WebSocket.
type HandshakeError struct {
	Status int    // of HTTP
	Body   string // as much of it as is useful
	Err    error
}

func (e *HandshakeError) Error() string {
	if e.Body != "" {
		return fmt.Sprintf("open websocket: the server answered %d: %s", e.Status, e.Body)
	}
	return fmt.Sprintf("open websocket: the server answered %d", e.Status)
}

func (e *HandshakeError) Unwrap() error { return e.Err }

// Dial opens a WebSocket with the headers of a request signed for it. The
// client decides whom to trust and through which proxy to go. A server that
// answered something else gives a [HandshakeError].
func Dial(ctx context.Context, client *http.Client, url string, header http.Header) (*Conn, error) {
	ws, resp, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPClient: client, HTTPHeader: header})
	if err != nil {
		if resp != nil {
			body, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
			return nil, &HandshakeError{resp.StatusCode, strings.TrimSpace(string(body)), err}
		}
		return nil, fmt.Errorf("open websocket: %w", err)
	}
	return newConn(ws), nil
}

// ReadText returns the next message, which must be text and short.
func (c *Conn) ReadText(ctx context.Context) ([]byte, error) {
	typ, r, err := c.ws.Reader(ctx)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(r, maxText+1))
	switch {
	case err != nil:
		return nil, err
	case typ != websocket.MessageText:
		return nil, errors.New("the first message is not text")
	case len(b) > maxText:
		return nil, fmt.Errorf("the first message is longer than %d bytes", maxText)
	}
	return b, nil
}

// WriteText sends b as text.
func (c *Conn) WriteText(ctx context.Context, b []byte) error {
	return c.ws.Write(ctx, websocket.MessageText, b)
}

// AppendFrame appends the next message to b, whatever its opcode: agents take
// either for a frame, and so do we.
func (c *Conn) AppendFrame(ctx context.Context, b []byte) ([]byte, error) {
	_, r, err := c.ws.Reader(ctx)
	if err != nil {
		return b, err
	}
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			return b, err
		}
	}
}

// ReadFrame returns the next message, which is good until the next call.
func (c *Conn) ReadFrame(ctx context.Context) (b []byte, err error) {
	c.buf, err = c.AppendFrame(ctx, c.buf[:0])
	return c.buf, err
}

// WriteFrame sends b as one binary message.
func (c *Conn) WriteFrame(ctx context.Context, b []byte) error {
	return c.ws.Write(ctx, websocket.MessageBinary, b)
}

// ErrSilent is why a socket was given up whose peer answers no pings.
var ErrSilent = errors.New("the peer does not answer pings")

// KeepAlive pings the peer at every interval, and returns [ErrSilent] if an
// answer takes longer than patience. It needs somebody to be reading.
func (c *Conn) KeepAlive(ctx context.Context, interval, patience time.Duration) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		if err := c.Ping(ctx, patience); err != nil {
			return err
		}
	}
}

// Ping pings the peer once, and returns [ErrSilent] if the answer takes longer
// than patience. It needs somebody to be reading.
func (c *Conn) Ping(ctx context.Context, patience time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, ErrSilent)
	defer cancel()
	err := c.ws.Ping(ctx)
	if err != nil && context.Cause(ctx) != nil {
		err = context.Cause(ctx)
	}
	return err
}

// Close says goodbye with a reason, waits for the answer no longer than a
// moment, and lets go. Reasons are shown to people who look at the wire.
func (c *Conn) Close(reason string) error {
	if len(reason) > 120 { // RFC 6455, section 5.5: a control frame has 125 bytes
		reason = reason[:120]
	}
	return c.ws.Close(websocket.StatusNormalClosure, strings.ToValidUTF8(reason, ""))
}

// Drop lets go without a word.
func (c *Conn) Drop() error { return c.ws.CloseNow() }
