// Package gateway answers who is at this socket: it opens the WebSockets of
// nodes and of people, and hands them on.
//
//	GET /v1/control-channel/NODE   a node, for as long as it is online
//	GET /v1/data-channel/SESSION   either end of a session
//
// A node signs the GET with its own credentials, and its ID in the path, in the
// credentials and in the first message must be one. A person may sign, and old
// clients of AWS's do not; what lets a person in is the token of the first
// message. Whose rights those are was decided in api, which [Gateway.Admit]
// asks; sessions are the broker's. The gateway knows no policy.
//
// A node that lacks a right is parked: connected, visible and not startable.
// Its rights are looked at again every few seconds, if anything has changed that
// they may depend on, and so are those of nodes that have them.
//
// A node is reached by one control channel. A later one takes the place of one
// that is dead, or of the same process; the earlier one is closed. Two processes
// that are there at once have one identity between them, as cloned machines do:
// both are named, and the one that came later is parked.
package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/broker"
	"github.com/sallyport/sallyport/internal/panics"
	"github.com/sallyport/sallyport/internal/route"
	"github.com/sallyport/sallyport/internal/socket"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/strictjson"
	"github.com/sallyport/sallyport/internal/wire"
)

// How patient sockets are.
const (
	helloWithin  = 10 * time.Second // for the first message
	pingEvery    = 25 * time.Second
	pongWithin   = 20 * time.Second
	parkedLook   = 2 * time.Second
	attachedLook = 10 * time.Second
)

// A Gateway opens sockets. Its fields are set before [Gateway.Run].
type Gateway struct {
	Realm  sallyport.Realm
	Broker *broker.Broker
	Bus    route.Bus
	Store  *store.DB
	Log    *slog.Logger

	// Admit returns the principal that signed a GET, nil if it is not signed; and why
	// policy denies the principal action on what on names, nil if it does not.
	Admit func(r *http.Request, action string, on func(who *sallyport.Principal) []string) (who *sallyport.Principal, denied, err error)

	// Lacks says, in a sentence, which right a node lacks; "" if none.
	Lacks func(ctx context.Context, node sallyport.NodeID) (string, error)

	// RequireSigned refuses people whose sockets are not signed. Old clients
	// of AWS's, before 1.2.764, do not sign.
	RequireSigned bool

	// NewestWins lets an agent take over a node that another process, or another
	// machine, is connected as. Otherwise the one that came later is parked.
	NewestWins bool

	// mu guards all below.
	mu       sync.Mutex
	ctx      context.Context // of Run; nil before and after
	sockets  sync.WaitGroup
	holders  map[sallyport.NodeID]*channel   // the control channels that nodes are reached by
	channels map[sallyport.NodeID][]*channel // all of each node, oldest first
}

// errStopped is why sockets end when the server stops. Ends of ours, and stock
// ones, come back.
var errStopped = errors.New("the server is stopping")

// Run lets sockets in until ctx is done, and returns when the last has gone.
func (g *Gateway) Run(ctx context.Context) error {
	parent := ctx
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(parent)) // so that the cause is ours
	g.mu.Lock()
	g.ctx = ctx
	g.mu.Unlock()
	<-parent.Done()
	g.mu.Lock()
	g.ctx = nil
	g.mu.Unlock()
	cancel(errStopped)
	g.sockets.Wait()
	return nil
}

// ServeHTTP opens a socket. It returns as soon as the socket is open, which
// frees the memory of the request.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var err error
	if id, ok := strings.CutPrefix(r.URL.Path, "/v1/control-channel/"); ok {
		err = panics.Run(func() error { return g.openControl(w, r, id) })
	} else if id, ok := strings.CutPrefix(r.URL.Path, "/v1/data-channel/"); ok {
		err = panics.Run(func() error { return g.openData(w, r, id) })
	} else {
		http.NotFound(w, r)
	}
	if err != nil {
		refuse(w, err)
		if sallyport.CodeOf(err) == "" {
			g.Log.ErrorContext(r.Context(), "socket not opened", sallyport.LogRemote, r.RemoteAddr, sallyport.LogErr, err, panics.Stack(err))
		}
	}
}

// refuse answers a GET that gets no socket. Stock agents look for the code as
// an element.
func refuse(w http.ResponseWriter, err error) {
	e := sallyport.Public(err)
	status := http.StatusForbidden
	if e.Code == sallyport.InternalServerError {
		status = http.StatusInternalServerError
	}
	http.Error(w, "<"+string(e.Code)+"> "+e.Message, status)
}

// open upgrades r and has serve run on the socket, in a goroutine of the
// gateway's. Serve ends the socket; so does a panic in it.
func (g *Gateway) open(w http.ResponseWriter, r *http.Request, serve func(ctx context.Context, c *socket.Conn)) error {
	g.mu.Lock()
	ctx := g.ctx
	if ctx != nil {
		g.sockets.Add(1)
	}
	g.mu.Unlock()
	if ctx == nil {
		return sallyport.Errorf(sallyport.ServiceUnavailableException, "The server is stopping. Try again in a moment.")
	}
	c, err := socket.Accept(w, r)
	if err != nil {
		g.sockets.Done()
		return nil // Accept has answered
	}
	remote := r.RemoteAddr // what else the request holds is not kept
	go func() {
		defer g.sockets.Done()
		defer c.Drop()
		err := panics.Run(func() error {
			serve(ctx, c)
			return nil
		})
		if err != nil {
			g.Log.Error("socket panicked", sallyport.LogRemote, remote, sallyport.LogErr, err, panics.Stack(err))
		}
	}()
	return nil
}

// hello reads the first message into v.
func hello(ctx context.Context, c *socket.Conn, v any) error {
	ctx, cancel := context.WithTimeout(ctx, helloWithin)
	defer cancel()
	b, err := c.ReadText(ctx)
	if err != nil {
		return err
	}
	return strictjson.Unmarshal(b, v)
}

// nodeOnly checks that the principal that signed is the node id names.
func nodeOnly(who *sallyport.Principal, id sallyport.NodeID) error {
	if who == nil {
		return sallyport.Errorf(sallyport.MissingAuthenticationToken, "The request is not signed. A node signs it with its own credentials.")
	}
	if who.Node != id {
		return sallyport.Errorf(sallyport.AccessDeniedException, "A channel of %s is its own alone.", id)
	}
	return nil
}

func write(ctx context.Context, c *socket.Conn, f wire.Frame) error {
	b, err := f.AppendBinary(nil)
	if err != nil {
		return err
	}
	return c.WriteFrame(ctx, b)
}

func (g *Gateway) openData(w http.ResponseWriter, r *http.Request, text string) error {
	id, err := sallyport.ParseSessionID(text)
	if err != nil {
		return err
	}
	who, denied, err := g.Admit(r, "ssmmessages:OpenDataChannel", func(who *sallyport.Principal) []string {
		names := []string{g.Realm.Session(id)}
		if who.Node.IsZero() { // whose session it is, the broker checks: only its owner gets in
			names = append(names, g.Realm.SessionNamed(who.ID+text[strings.LastIndexByte(text, '-'):]))
		}
		return names
	})
	if err != nil {
		return err
	}
	if denied != nil {
		return denied
	}
	if who == nil && g.RequireSigned {
		return sallyport.Errorf(sallyport.MissingAuthenticationToken, "The request is not signed, and this server requires it. Update the Session Manager plugin to 1.2.764 or later.")
	}
	return g.open(w, r, func(ctx context.Context, c *socket.Conn) { g.data(ctx, c, who, id) })
}

// data is the life of one end's socket.
func (g *Gateway) data(ctx context.Context, c *socket.Conn, who *sallyport.Principal, id sallyport.SessionID) {
	log := g.Log.With(sallyport.LogSession, id)
	var open wire.OpenDataChannel
	if err := hello(ctx, c, &open); err != nil {
		log.Debug("data channel refused", sallyport.LogErr, err)
		return
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	pinged, ofNode := make(chan struct{}), open.ClientInstanceId != "" || who != nil && !who.Node.IsZero()
	keepAlive := c.KeepAliveSlow // a person's terminal may be stopped for long
	if ofNode {
		keepAlive = c.KeepAlive
	}
	go func() {
		defer close(pinged)
		if err := panics.Run(func() error { return keepAlive(ctx, pingEvery, pongWithin) }); err != nil {
			cancel(err)
		}
	}()

	err := panics.Run(func() error {
		if ofNode {
			return g.joinNode(ctx, c, who, id, open)
		}
		return g.Broker.JoinPerson(ctx, who, id, open.TokenValue.Secret, open.ClientId, c, open.Capabilities)
	})
	cause := context.Cause(ctx)
	cancel(nil)
	<-pinged
	switch {
	case panics.Is(err) || panics.Is(cause):
		if !panics.Is(err) {
			err = cause
		}
		log.Error("socket panicked", sallyport.LogErr, err, panics.Stack(err))
	case err == nil:
		c.Close("the session is over")
	case sallyport.CodeOf(err) != "" && cause == nil:
		level := slog.LevelWarn
		if who == nil {
			level = slog.LevelDebug // a stranger causes it as often as it likes
		}
		log.Log(ctx, level, "data channel refused", sallyport.LogErr, err)
		// A close alone would be taken for a lost network, and tried again.
		e := sallyport.Public(err)
		closed := wire.ChannelClosed{SessionId: id.String(), Output: e.Message}
		if ended, ok := errors.AsType[*broker.Ended](err); ok && slices.Contains(open.Capabilities, wire.CapExitStatus) {
			closed.ExitStatus = ended.ExitStatus
		}
		write(context.WithoutCancel(ctx), c, closed.Frame(time.Now()))
		c.Close(string(e.Code))
	default:
		log.Debug("data channel lost", sallyport.LogErr, err)
	}
}

func (g *Gateway) joinNode(ctx context.Context, c *socket.Conn, who *sallyport.Principal, id sallyport.SessionID, open wire.OpenDataChannel) error {
	node, err := sallyport.ParseNodeID(open.ClientInstanceId)
	if err != nil {
		return err
	}
	if err := nodeOnly(who, node); err != nil {
		return err
	}
	if open.RequireAcknowledgement {
		if err := write(ctx, c, wire.Bare(wire.TypeDataChannelReady, time.Now())); err != nil {
			return err
		}
	}
	return g.Broker.JoinNode(ctx, node, id, open.TokenValue.Secret, c, open.Capabilities, open.Process)
}
