package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/xtaci/smux"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/mux"
	"github.com/sallyport/sallyport/internal/panics"
	"github.com/sallyport/sallyport/internal/strictjson"
	"github.com/sallyport/sallyport/internal/wire"
)

// errTerminated is why a port session ends whose client has had enough.
var errTerminated = errors.New("the client ended the session")

// servePort connects the client's end to a port, of this machine or of one that
// it reaches. Many connections share the session if both ends can do so, each
// end deciding for itself by the other's version; otherwise there is one at a
// time. (Stock: agent/session/plugins/port.)
func (s *session) servePort() (*int, error) {
	var p wire.PortProperties
	if err := strictjson.Unmarshal(s.task.DocumentContent.Properties, &p); err != nil {
		return nil, fmt.Errorf("the properties of the port session cannot be read: %w", err)
	}
	if p.PortNumber == "" {
		return nil, errors.New("the properties of the port session name no port")
	}
	to, err := s.destinations(p.Host, p.PortNumber)
	if err != nil {
		return nil, err
	}
	forward := p.Type == wire.LocalPortForwarding
	var offers []string
	if forward {
		offers = []string{wire.CapMux2}
	}
	c, err := s.shake(s.task.DocumentContent.Properties, offers...)
	if err != nil {
		return nil, err
	}
	ctx, end := context.WithCancelCause(s.ctx)
	defer end(nil)
	if forward && sallyport.CompareVersions(c.version, "1.1.70") >= 0 {
		err = s.multiplex(ctx, end, to, mux.Options{
			Own:       slices.Contains(c.takes, wire.CapMux2),
			KeepAlive: sallyport.CompareVersions(c.version, "1.2.331.0") <= 0,
		})
	} else {
		err = s.single(ctx, end, to, forward)
	}
	if errors.Is(context.Cause(ctx), errTerminated) && s.ctx.Err() == nil {
		err = nil
	}
	return nil, err
}

// A pipe is the stream as smux wants it.
type pipe struct {
	*io.PipeReader
	s   *session
	ctx context.Context
}

// Write is called by smux, in a goroutine of its own.
func (p pipe) Write(b []byte) (int, error) {
	err := panics.Run(func() error { return p.s.stream.Send(p.ctx, wire.KindOutput, b) })
	if panics.Is(err) {
		p.s.panicked(err)
	}
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

// multiplex connects every stream the client opens.
func (s *session) multiplex(ctx context.Context, end context.CancelCauseFunc, to []netip.AddrPort, o mux.Options) error {
	in, out := io.Pipe()
	session, err := mux.Server(pipe{in, s, ctx}, o)
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	defer func() {
		session.Close()
		in.Close()
		end(nil)
		all.Wait()
	}()
	stop := context.AfterFunc(ctx, func() { session.Close() })
	defer stop()
	all.Go(func() {
		s.guard(func() { s.feedMux(ctx, end, out) })
	})
	for {
		stream, err := session.AcceptStream()
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return fmt.Errorf("the client's end of the port session broke: %w", err)
		}
		leave, ok := s.agent.enterConnection(&s.connections)
		if !ok {
			s.log.Warn("connection refused: this session, or all of this node's, have as many as they may")
			s.refuse(ctx, stream, o)
			continue
		}
		all.Go(func() {
			defer leave()
			s.guard(func() { s.connect(ctx, stream, to, o) })
		})
	}
}

// refuse tells the client that a stream it has opened reaches no port.
func (s *session) refuse(ctx context.Context, stream *smux.Stream, o mux.Options) {
	s.stream.SendMessage(ctx, wire.KindFlag, wire.FlagConnectToPortError.Payload())
	mux.Refuse(stream, o)
}

// feedMux hands what the client sends to out, which smux reads.
func (s *session) feedMux(ctx context.Context, end context.CancelCauseFunc, out *io.PipeWriter) {
	for {
		m, err := s.receive(ctx)
		if err != nil {
			end(err)
			out.CloseWithError(err)
			return
		}
		if m.flag == wire.FlagTerminateSession {
			end(errTerminated)
			out.Close()
			return
		}
		if _, err := out.Write(m.bytes); err != nil {
			return // the session is over
		}
	}
}

// connect joins a stream that the client has opened to the port.
func (s *session) connect(ctx context.Context, stream *smux.Stream, to []netip.AddrPort, o mux.Options) {
	conn, err := s.dial(ctx, to)
	if err != nil {
		s.log.Debug("port not reached", sallyport.LogErr, err)
		s.refuse(ctx, stream, o)
		return
	}
	s.log.Debug("port connected", sallyport.LogAddr, conn.RemoteAddr().String())
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := mux.Join(stream, conn, o); err != nil {
		s.panicked(err)
	}
}

// A received is a message of a port session: bytes, or a flag.
type received struct {
	bytes []byte // good until the next
	flag  wire.Flag
}

// receive returns the next message that matters.
func (s *session) receive(ctx context.Context) (received, error) {
	for {
		m, err := s.next(ctx)
		if err != nil {
			return received{}, err
		}
		switch m.Kind {
		case wire.KindOutput:
			return received{bytes: m.Payload}, nil
		case wire.KindFlag:
			if f, err := wire.ReadFlag(m.Payload); err == nil {
				return received{flag: f}, nil
			}
		}
	}
}

// single connects one connection at a time: for SSH the only one, for a local
// port one after another, each made when its first byte comes. The first is made
// at once, because some servers speak first.
func (s *session) single(ctx context.Context, end context.CancelCauseFunc, to []netip.AddrPort, again bool) error {
	var (
		conn    net.Conn
		over    atomic.Bool // conn has ended by itself
		reading sync.WaitGroup
	)
	hangUp := func() {
		if conn != nil {
			conn.Close()
			reading.Wait()
			conn = nil
		}
	}
	defer hangUp()
	connect := func() error {
		c, err := s.dial(ctx, to)
		if err != nil {
			//lint:ignore ST1005 AWS's words, which people search for
			return fmt.Errorf("Unable to connect to specified port: %w", err)
		}
		conn = c
		over.Store(false)
		reading.Go(func() {
			stop := context.AfterFunc(ctx, func() { c.Close() })
			defer stop()
			s.guard(func() { s.say(ctx, c) })
			over.Store(true)
			if !again {
				end(io.EOF)
			}
		})
		return nil
	}
	if err := connect(); err != nil {
		return err
	}
	for {
		m, err := s.receive(ctx)
		if err == io.EOF {
			return nil // the port's side has hung up, and the client has heard it all
		}
		if err != nil {
			return err
		}
		switch {
		case m.flag == wire.FlagTerminateSession:
			end(errTerminated)
			return errTerminated
		case m.flag == wire.FlagDisconnectToPort:
			hangUp()
			continue
		case m.flag != 0:
			continue
		}
		if conn == nil || again && over.Load() {
			hangUp()
			if err := connect(); err != nil {
				return err
			}
		}
		conn.Write(m.bytes) // if it fails, the reader finds out why
	}
}

// say sends what a connection says, until it says no more.
func (s *session) say(ctx context.Context, c io.Reader) {
	b := make([]byte, readSize)
	for {
		n, err := c.Read(b[:s.readSize()])
		if n > 0 && s.stream.Send(ctx, wire.KindOutput, b[:n]) != nil || err != nil {
			return
		}
	}
}
