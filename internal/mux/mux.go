// Package mux answers how many connections share one stream: the part of a
// port session that is the same at both of its ends.
//
//	connection ──▶ ┌──────┐   one datachannel.Stream   ┌──────┐ ──▶ dial
//	connection ──▶ │Client│ ═════════════════════════▶ │Server│ ──▶ dial
//	connection ──▶ └──────┘                            └──────┘ ──▶ dial
//
// The protocol is xtaci's smux, as AWS's programs speak it: version 1, the
// library's default sizes, the person's end opens streams and the node's
// accepts them. (session-manager-plugin portsession/muxportforwarding.go;
// amazon-ssm-agent plugins/port/port_mux.go.) Version 1 has two faults: a
// connection that its program does not read stops all the others once 4 MiB of it wait, and
// an end of file closes a connection in both directions. Two ends of ours agree
// on version 2, which has neither; they do so in the handshake, with
// wire.CapMux2.
//
// The package does not know what the bytes travel in, or who is dialled.
package mux

import (
	"cmp"
	"errors"
	"io"
	"net"
	"sync"

	"github.com/xtaci/smux"

	"github.com/sallyport/sallyport/internal/panics"
)

// Options are what the two ends have agreed on. They must be the same at both.
type Options struct {
	// Own says that both ends are ours: connections wait only for themselves,
	// and one that has ended in one direction goes on in the other.
	Own bool

	// KeepAlive has each end send a word every ten seconds and give up after
	// thirty without one. AWS's programs leave it out if the other is recent
	// (agent 3.1.1511, plugin 1.2.331), because it defeats the idle timeout.
	KeepAlive bool
}

func (o Options) config() *smux.Config {
	c := smux.DefaultConfig()
	c.KeepAliveDisabled = !o.KeepAlive
	if o.Own {
		c.Version = 2
		c.MaxStreamBuffer = 512 << 10 // what one connection may have on the way
		c.MaxFrameSize = 64<<10 - 256 // with its header, one message of the stream, and not one and a bit
	}
	return c
}

// Client is the client's end, over a stream of bytes to the node's.
func Client(over io.ReadWriteCloser, o Options) (*smux.Session, error) {
	return smux.Client(over, o.config())
}

// Server is the node's end.
func Server(over io.ReadWriteCloser, o Options) (*smux.Session, error) {
	return smux.Server(over, o.config())
}

// Join carries bytes between a stream and a connection until both directions
// have ended, and closes both. Between two ends of ours each direction ends by
// itself, and the end of file is passed on; otherwise the first to end takes
// the other with it, which is all that AWS's programs can say to each other.
//
// Closing either from outside ends it too. The error is a panic on the way.
func Join(stream *smux.Stream, conn net.Conn, o Options) error {
	defer stream.Close()
	defer conn.Close()
	var both sync.WaitGroup
	var in, out error
	guard := func(panicked *error, f func()) {
		both.Go(func() {
			*panicked = panics.Run(func() error {
				f()
				return nil
			})
			if *panicked != nil {
				stream.Close()
				conn.Close()
			}
		})
	}
	guard(&in, func() {
		_, err := io.Copy(conn, stream)
		switch {
		case !o.Own:
			stream.Close()
			conn.Close()
		case closeWrite(conn) != nil || err != nil && !errors.Is(err, io.EOF):
			// The connection takes no more. What the other end still sends
			// must go somewhere, or it would wait for ever to send it.
			conn.Close()
			io.Copy(io.Discard, stream)
		}
	})
	guard(&out, func() {
		io.Copy(stream, conn)
		if o.Own {
			stream.CloseWrite()
			return
		}
		stream.Close()
		conn.Close()
	})
	both.Wait()
	return cmp.Or(in, out)
}

// Refuse ends a stream whose connection could not be made. It returns when the
// other end has nothing more to send, which is at once if that is AWS's.
func Refuse(stream *smux.Stream, o Options) {
	defer stream.Close()
	if o.Own {
		stream.CloseWrite()
		io.Copy(io.Discard, stream)
	}
}

// closeWrite passes an end of file on. A connection that has no half-close is
// closed.
func closeWrite(conn net.Conn) error {
	if c, ok := conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return conn.Close()
}
