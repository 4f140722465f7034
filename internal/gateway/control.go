package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/panics"
	"github.com/sallyport/sallyport/internal/socket"
	"github.com/sallyport/sallyport/internal/wire"
)

// How patient control channels are with each other.
const (
	probeWithin = 5 * time.Second // for an earlier channel to show that it lives
	judgeAgain  = time.Minute     // rights may depend on the time of day
)

// errSuperseded is why a control channel ends whose node has opened another.
var errSuperseded = errors.New("another control channel of this node was opened")

func (g *Gateway) openControl(w http.ResponseWriter, r *http.Request, text string) error {
	id, err := sallyport.ParseNodeID(text)
	if err != nil {
		return err
	}
	// Policy is asked again once the socket is open, and at intervals while it is.
	who, _, err := g.Admit(r, "ssmmessages:OpenControlChannel", func(*sallyport.Principal) []string { return nil })
	if err != nil {
		return err
	}
	if err := nodeOnly(who, id); err != nil {
		return err
	}
	remote := r.RemoteAddr
	return g.open(w, r, func(ctx context.Context, c *socket.Conn) {
		n := &channel{g: g, c: c, id: id, remote: remote, opened: time.Now(), log: g.Log.With(sallyport.LogNode, id, sallyport.LogRemote, remote)}
		n.serve(ctx)
	})
}

// A channel is one control channel, from its first message on.
type channel struct {
	g      *Gateway
	c      *socket.Conn
	id     sallyport.NodeID
	log    *slog.Logger
	remote string
	opened time.Time

	// instance names the agent's process; empty if the agent is AWS's, or one of
	// ours from before it said so.
	instance string
	cancel   context.CancelCauseFunc
	pinging  sync.Mutex // held by the one goroutine that pings

	// mu guards all below.
	mu    sync.Mutex
	holds bool                    // the node is reached by this channel
	has   *wire.SallyportSessions // which sessions the agent has, once it has said so
}

// Bounds of what one node has us hold.
const (
	maxChannels = 4    // control channels; the oldest is closed for another
	maxListed   = 1000 // sessions that an agent says that it has
)

// errTooMany is why a control channel ends whose node has opened maxChannels more.
var errTooMany = errors.New("this node has opened too many control channels")

// admitChannel counts n among its node's channels until done is called. The oldest
// is closed if there are too many.
func (g *Gateway) admitChannel(n *channel) (done func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.channels == nil {
		g.channels = map[sallyport.NodeID][]*channel{}
	}
	all := append(g.channels[n.id], n)
	if len(all) > maxChannels {
		oldest := all[0]
		if oldest == g.holders[n.id] { // the one that the node is reached by goes last
			oldest = all[1]
		}
		oldest.cancel(errTooMany)
	}
	g.channels[n.id] = all
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		left := slices.DeleteFunc(g.channels[n.id], func(c *channel) bool { return c == n })
		if g.channels[n.id] = left; len(left) == 0 {
			delete(g.channels, n.id)
		}
	}
}

// serve is the life of the channel.
func (n *channel) serve(ctx context.Context) {
	ctx, n.cancel = context.WithCancelCause(ctx)
	defer n.cancel(nil)
	var open wire.OpenControlChannel
	if err := hello(ctx, n.c, &open); err != nil {
		n.log.Debug("control channel refused", sallyport.LogErr, err)
		return
	}
	if err := n.g.Broker.CheckControlToken(n.id, open.TokenValue.Secret); err != nil {
		n.log.Warn("control channel refused", sallyport.LogErr, err)
		n.c.Close(sallyport.Public(err).Message)
		return
	}
	n.instance = sallyport.Clip(open.Instance, 64)
	defer n.g.admitChannel(n)()
	if open.RequireAcknowledgement {
		if err := write(ctx, n.c, wire.Bare(wire.TypeControlChannelReady, time.Now())); err != nil {
			return
		}
	}

	kept := make(chan struct{})
	go func() {
		defer close(kept)
		n.cancel(panics.Run(func() error { return n.keep(ctx) }))
	}()
	n.cancel(panics.Run(func() error { return n.listen(ctx) }))
	<-kept
	held := n.letGo()
	err := context.Cause(ctx)
	if panics.Is(err) {
		n.log.Error("socket panicked", sallyport.LogErr, err, panics.Stack(err))
	}
	if held && !n.g.Bus.Online(n.id) { // else it has opened another meanwhile
		n.g.Store.SetOnline(context.WithoutCancel(ctx), n.id, false, time.Now())
	}
	if errors.Is(err, errSuperseded) {
		n.c.Close(err.Error())
	}
	n.log.Info("node disconnected", sallyport.LogCause, err.Error())
}

// listen reads the channel's messages. It never waits for anything else, so that
// pings are answered.
func (n *channel) listen(ctx context.Context) error {
	for {
		b, err := n.c.ReadFrame(ctx)
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return err
		}
		n.g.Store.Ping(ctx, n.id, time.Now())
		frame, err := wire.Decode(b)
		if err != nil {
			continue
		}
		switch frame.Type { // the rest is telemetry, and what we have not asked for
		case wire.TypeSallyportSessions:
			var has wire.SallyportSessions
			if frame.Unmarshal(&has) == nil && len(has.Sessions) <= maxListed {
				n.hasSessions(has)
			}
		case wire.TypeAgentTaskComplete:
			answer, err := n.g.Broker.Complete(n.id, frame)
			if err != nil || answer == nil {
				continue
			}
			if err := n.c.WriteFrame(ctx, answer); err != nil {
				return err
			}
		}
	}
}

// hasSessions notes which sessions the agent has. Those of the node that it has
// not end, once the node is reached by this channel.
func (n *channel) hasSessions(has wire.SallyportSessions) {
	n.mu.Lock()
	n.has = &has
	holds := n.holds
	n.mu.Unlock()
	if holds {
		n.g.Broker.Lost(n.id, has)
	}
}

// ping pings the node once.
func (n *channel) ping(ctx context.Context, patience time.Duration) error {
	n.pinging.Lock()
	defer n.pinging.Unlock()
	return n.c.Ping(ctx, patience)
}

// hold makes this the channel that the node is reached by, unless another that
// lives is, of another process: that is returned.
func (n *channel) hold(ctx context.Context) (other *channel) {
	for {
		n.g.mu.Lock()
		other := n.g.holders[n.id]
		if other == nil || other == n {
			if n.g.holders == nil {
				n.g.holders = map[sallyport.NodeID]*channel{}
			}
			n.g.holders[n.id] = n
			n.g.mu.Unlock()
			n.begin()
			return nil
		}
		n.g.mu.Unlock()
		same := other.instance == n.instance || other.instance == "" || n.instance == ""
		if !same && !n.g.NewestWins && other.ping(ctx, probeWithin) == nil {
			return other
		}
		if ctx.Err() != nil {
			return other
		}
		other.letGo()
		other.cancel(errSuperseded)
	}
}

// begin ends the node's sessions that the agent's process does not have.
func (n *channel) begin() {
	n.mu.Lock()
	n.holds = true
	has := n.has
	n.mu.Unlock()
	if has != nil {
		n.g.Broker.Lost(n.id, *has)
	}
}

// letGo has the node not be reached by this channel, and reports whether it was.
func (n *channel) letGo() (held bool) {
	n.g.mu.Lock()
	defer n.g.mu.Unlock()
	if held = n.g.holders[n.id] == n; held {
		delete(n.g.holders, n.id)
	}
	return held
}

// keep pings the node and looks at its rights: it is on the bus while it has
// them, and no other channel is. It returns when the socket, or the node's
// registration, is gone.
func (n *channel) keep(ctx context.Context) error {
	detach := func() {}
	defer func() { detach() }()
	attached, said := false, ""
	var judged time.Time
	var revision uint64
	pings := time.NewTicker(pingEvery)
	defer pings.Stop()
	look := time.NewTimer(0)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-pings.C:
			if err := n.ping(ctx, pongWithin); err != nil {
				return err
			}
			n.g.Store.Ping(ctx, n.id, time.Now())
		case <-look.C:
			now := time.Now()
			newest := n.g.Store.IAM().Revision()
			if newest == revision && now.Sub(judged) < judgeAgain && (attached || said != "" && !n.isRival(said)) {
				look.Reset(lookAgain(attached))
				continue
			}
			lacks, err := n.g.Lacks(ctx, n.id)
			var rival *channel
			if err == nil && lacks == "" && !attached {
				if rival = n.hold(ctx); rival != nil {
					lacks = n.rivalry(rival)
				}
			}
			switch {
			case sallyport.CodeOf(err) == sallyport.InvalidInstanceID:
				n.c.Close("deregistered")
				return err
			case err != nil: // the store failed: the node's state stays as it is
				n.log.ErrorContext(ctx, "node's rights not read", sallyport.LogErr, err)
				look.Reset(lookAgain(attached))
				continue
			case lacks == "" && !attached:
				detach = n.g.Bus.Attach(n.id, n.c.WriteFrame)
				attached = true
				n.g.Store.SetOnline(ctx, n.id, true, now)
				n.log.InfoContext(ctx, "node connected")
			case lacks != "" && lacks != said:
				if attached {
					detach()
					attached = false
				}
				if rival == nil { // otherwise the node is online by the rival's channel
					n.letGo()
					n.g.Store.SetOnline(ctx, n.id, false, now)
				}
				n.g.Store.Trouble(ctx, n.id, sallyport.Trouble{At: now, Reason: lacks})
				n.log.WarnContext(ctx, "node parked", sallyport.LogCause, lacks)
				if rival != nil {
					rival.log.WarnContext(ctx, "node's identity is used twice", sallyport.LogCause, lacks)
					rival.tell(ctx, lacks)
					n.tell(ctx, lacks)
				}
			}
			said, judged, revision = lacks, now, newest
			look.Reset(lookAgain(attached))
		}
	}
}

func lookAgain(attached bool) time.Duration {
	if attached {
		return attachedLook
	}
	return parkedLook
}

// rivalry is what is said of two processes with one identity.
func (n *channel) rivalry(first *channel) string {
	return fmt.Sprintf("Two agents use the identity of %s at once: one at %s, connected since %s, and one at %s, which is kept out. "+
		"A machine that was cloned has to be registered anew (sallyport agent register --force); a second agent on one machine has to be stopped.",
		n.id, host(first.remote), first.opened.UTC().Format(time.RFC3339), host(n.remote))
}

// isRival reports whether lacks is that another channel holds the node, which is
// looked at again also if nothing in IAM has changed.
func (n *channel) isRival(lacks string) bool {
	n.g.mu.Lock()
	other := n.g.holders[n.id]
	n.g.mu.Unlock()
	return other == nil || lacks == n.rivalry(other)
}

// tell has the agent, if it is one of ours, log a sentence.
func (n *channel) tell(ctx context.Context, text string) {
	if n.instance == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, probeWithin)
	defer cancel()
	write(ctx, n.c, wire.SallyportNotice{Text: text}.Frame(time.Now()))
}

func host(remote string) string {
	if h, _, err := net.SplitHostPort(remote); err == nil {
		return h
	}
	return remote
}
