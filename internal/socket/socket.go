// Package socket carries messages over a WebSocket: text to open a channel,
// then frames.
//
// It is where the WebSocket library is known, and all that the rest of the
// house needs of it: dial and accept, whole messages with a limit on their
// size, pings, and a close that does not wait. Compression is off, because
// frames are often encrypted and the peers never ask for it. The library is
// gorilla's: a message of ours is one write of it, and a connection at rest
// holds no buffer for writing, which is most of what an idle agent would cost
// the server.
//
// A Conn may be read by one goroutine and written by many. A goroutine must be
// reading it at all times, or pings go unanswered; amazon-ssm-agent hangs up
// six seconds after one that did.
package socket

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/sallyport/sallyport/internal/rawio"
	"github.com/sallyport/sallyport/internal/wire"
)

const (
	// maxText bounds the text message that opens a channel.
	maxText = 16 << 10

	// What is read at once when little is expected; larger messages are read
	// into place.
	readBuffer = 1 << 10

	// writeBuffer is borrowed for each write. A stream's largest message fits.
	writeBuffer = 64 << 10

	// pongWithin is how long an answer to a ping may wait for the socket.
	pongWithin = 5 * time.Second

	// farewell is how long Close waits for the other end's.
	farewell = time.Second
)

var writeBuffers sync.Pool

// A Conn is one WebSocket.
type Conn struct {
	ws    *websocket.Conn
	buf   []byte        // of ReadFrame
	turn  chan struct{} // held by the goroutine that writes a message: holds one token
	pongs chan struct{} // an answer to a ping: holds one token

	reading sync.Mutex    // held while a goroutine reads
	ended   chan struct{} // closed when a read has failed
	end     sync.Once
}

var upgrader = websocket.Upgrader{ReadBufferSize: readBuffer, WriteBufferSize: writeBuffer, WriteBufferPool: &writeBuffers}

// Accept upgrades a request. Afterwards the handler should return: a goroutine
// that outlives it costs less memory than the handler does, and r's context is
// of no more use.
func Accept(w http.ResponseWriter, r *http.Request) (*Conn, error) {
	ws, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return nil, fmt.Errorf("accept websocket: %w", err)
	}
	return newConn(ws), nil
}

func newConn(ws *websocket.Conn) *Conn {
	c := &Conn{ws: ws, turn: make(chan struct{}, 1), pongs: make(chan struct{}, 1), ended: make(chan struct{})}
	ws.SetReadLimit(wire.MaxFrame)
	ws.SetPingHandler(func(text string) error {
		// One that finds no room in time is lost, and the peer will ask again. A
		// socket that cannot be written any more is of no use to read either: its
		// peer has heard the last of us.
		err := ws.WriteControl(websocket.PongMessage, []byte(text), time.Now().Add(pongWithin))
		if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
			return nil
		}
		return err
	})
	ws.SetPongHandler(func(string) error {
		select {
		case c.pongs <- struct{}{}:
		default:
		}
		return nil
	})
	return c
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
// transport decides whom to trust and through which proxy to go. A server that
// answered something else gives a [HandshakeError]; what it answered, if it did,
// has the headers returned.
func Dial(ctx context.Context, by *http.Transport, url string, header http.Header) (*Conn, http.Header, error) {
	dial := by.DialContext
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	stop := func() bool { return true }
	d := websocket.Dialer{
		Proxy: by.Proxy, TLSClientConfig: by.TLSClientConfig,
		ReadBufferSize: readBuffer, WriteBufferSize: writeBuffer, WriteBufferPool: &writeBuffers,
		// The library heeds the context's deadline, and not its end.
		NetDialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			if err == nil {
				conn = rawio.Wrap(conn)
				stop = context.AfterFunc(ctx, func() { conn.Close() })
			}
			return conn, err
		},
	}
	if at, ok := strings.CutPrefix(url, "http"); ok { // and https
		url = "ws" + at
	}
	ws, resp, err := d.DialContext(ctx, url, header)
	stop()
	switch {
	case err == nil && ctx.Err() != nil:
		ws.Close()
		return nil, nil, context.Cause(ctx)
	case err == nil:
		return newConn(ws), resp.Header, nil
	case ctx.Err() != nil:
		return nil, nil, fmt.Errorf("open websocket: %w", context.Cause(ctx))
	case resp != nil:
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
		return nil, resp.Header, &HandshakeError{resp.StatusCode, strings.TrimSpace(string(body)), err}
	}
	return nil, nil, fmt.Errorf("open websocket: %w", err)
}

// next returns the next message's opcode and what it is read from. The caller
// has reading.
func (c *Conn) next(ctx context.Context) (opcode int, r io.Reader, done func(error) error, err error) {
	stop := context.AfterFunc(ctx, func() { c.ws.NetConn().SetReadDeadline(time.Unix(1, 0)) })
	done = func(err error) error {
		stop()
		if err == nil {
			return nil
		}
		c.end.Do(func() { close(c.ended) })
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
	opcode, r, err = c.ws.NextReader()
	return opcode, r, done, err
}

// ReadText returns the next message, which must be text and short.
func (c *Conn) ReadText(ctx context.Context) ([]byte, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	opcode, r, done, err := c.next(ctx)
	if err != nil {
		return nil, done(err)
	}
	b, err := io.ReadAll(io.LimitReader(r, maxText+1))
	switch {
	case err != nil:
	case opcode != websocket.TextMessage:
		err = errors.New("the first message is not text")
	case len(b) > maxText:
		err = fmt.Errorf("the first message is longer than %d bytes", maxText)
	}
	if err := done(err); err != nil {
		return nil, err
	}
	return b, nil
}

// WriteText sends b as text.
func (c *Conn) WriteText(ctx context.Context, b []byte) error {
	return c.write(ctx, websocket.TextMessage, b)
}

// AppendFrame appends the next message to b, text or binary: agents take
// either for a frame, and so do we. When ctx ends, so does the read, and the
// socket can only be written after that.
func (c *Conn) AppendFrame(ctx context.Context, b []byte) ([]byte, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	_, r, done, err := c.next(ctx)
	for err == nil {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		var n int
		n, err = r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
	}
	if err == io.EOF { // of the message
		err = nil
	}
	return b, done(err)
}

// ReadFrame returns the next message, which is good until the next call.
func (c *Conn) ReadFrame(ctx context.Context) (b []byte, err error) {
	c.buf, err = c.AppendFrame(ctx, c.buf[:0])
	return c.buf, err
}

// WriteFrame sends b as one binary message. When ctx ends before it is sent the
// socket is of no more use.
func (c *Conn) WriteFrame(ctx context.Context, b []byte) error {
	return c.write(ctx, websocket.BinaryMessage, b)
}

func (c *Conn) write(ctx context.Context, opcode int, b []byte) error {
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-c.turn }()
	stop := context.AfterFunc(ctx, func() { c.Drop() }) // half a message cannot be taken back
	defer stop()
	err := c.ws.WriteMessage(opcode, b)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

// ErrSilent is why a socket was given up whose peer answers no pings.
var ErrSilent = errors.New("the peer does not answer pings")

// KeepAlive pings the peer at every interval, and returns [ErrSilent] if an
// answer takes longer than patience. A goroutine must be reading meanwhile.
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

// A transport is what the system knows of a connection's peer.
type transport struct {
	answers bool // the peer's system answers ours
	stuck   bool // the peer takes nothing: what was written waits here
}

// KeepAliveSlow is KeepAlive for a peer that may take nothing for a long time, as a
// terminal that is stopped: the peer answers a ping when it has read all that was
// sent before. An answer is waited for while the peer's system answers ours, which a
// peer that is dead does not for longer than five minutes. Where ours cannot tell,
// this is KeepAlive.
func (c *Conn) KeepAliveSlow(ctx context.Context, interval, patience time.Duration) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		if t := transportOf(c.ws.NetConn(), patience); t.answers && t.stuck {
			continue // a ping that cannot be written in time would be the end of the socket
		}
		err := c.Ping(ctx, patience)
		for errors.Is(err, ErrSilent) {
			t := transportOf(c.ws.NetConn(), patience)
			switch {
			case !t.answers:
				return err
			case t.stuck: // the ping may not have been written
				err = nil
			default:
				err = c.pong(ctx, patience)
			}
		}
		if err != nil {
			return err
		}
	}
}

// Ping pings the peer once, and returns [ErrSilent] if the answer takes longer
// than patience. A goroutine must be reading meanwhile. Ping is for one goroutine at
// a time.
func (c *Conn) Ping(ctx context.Context, patience time.Duration) error {
	select {
	case <-c.pongs: // late, to a ping before
	default:
	}
	if err := c.ws.WriteControl(websocket.PingMessage, []byte("keepalive"), time.Now().Add(patience)); err != nil {
		if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
			return ErrSilent
		}
		return err
	}
	return c.pong(ctx, patience)
}

// pong waits for the answer to a ping.
func (c *Conn) pong(ctx context.Context, patience time.Duration) error {
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-c.pongs:
		return nil
	case <-late.C:
		return ErrSilent
	case <-c.ended:
		return net.ErrClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Close says goodbye with a reason, waits for the answer no longer than a
// moment, and lets go. Reasons are shown to people who look at the wire.
func (c *Conn) Close(reason string) error {
	if len(reason) > 120 { // RFC 6455, section 5.5: a control frame has 125 bytes
		reason = reason[:120]
	}
	deadline := time.Now().Add(farewell)
	text := websocket.FormatCloseMessage(websocket.CloseNormalClosure, strings.ToValidUTF8(reason, ""))
	if c.ws.WriteControl(websocket.CloseMessage, text, deadline) == nil {
		// What was sent is only sure to arrive if what comes is read first.
		c.ws.NetConn().SetReadDeadline(deadline)
		c.reading.Lock() // until the deadline, if another goroutine reads
		for {
			if _, _, err := c.ws.NextReader(); err != nil {
				break
			}
		}
		c.reading.Unlock()
	}
	return c.ws.Close()
}

// Drop lets go without a word.
func (c *Conn) Drop() error {
	conn := c.ws.NetConn()
	if t, ok := conn.(*tls.Conn); ok { // whose Close has one, and waits to say it
		conn = t.NetConn()
	}
	return conn.Close()
}
