package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/panics"
	"github.com/sallyport/sallyport/internal/retry"
	"github.com/sallyport/sallyport/internal/socket"
	"github.com/sallyport/sallyport/internal/strictjson"
	"github.com/sallyport/sallyport/internal/wire"
)

// Why a session ends, other than that its shell did.
var errClosed = errors.New("the control plane closed the session")

// How patient a session is.
const (
	peerWithin     = 20 * time.Millisecond // for the other end to be known for one of ours
	sizeWithin     = 40 * time.Millisecond // for an end of ours to say how large its terminal is
	flushWithin    = 2 * time.Second       // for the last output, as the stock agent, where the control plane does not keep it
	unsentWithin   = time.Minute           // for what such a control plane has not had of it
	announceWithin = 2 * time.Minute       // for the end to be acknowledged on the control channel
	announceAfter  = stopWithin / 2        // after an agent began to stop, for its data channels alone to report ends
	openRetryLast  = 5 * time.Second       // between tries to open the data channel
	readSize       = 32 << 10              // of the terminal's output; a pty gives 4 KiB at most at once, and often less
)

// A session is one shell, command or port, and the stream to the person at it.
//
// Three goroutines serve it: carry moves the stream over one socket after
// another, one feeds what is received to the program or port, and run, which
// owns the session, sends what that says and sees to the end.
//
// The end is the stream's last message, a [wire.End], where the control plane
// keeps it; run then waits until it is acknowledged, on as many data channels as
// that takes. To a control plane that does not, the end is reported on the
// control channel after the stream has been written (announce). It is reported
// there too when the control plane itself has closed the session.
type session struct {
	agent  *Agent
	id     sallyport.SessionID
	task   wire.AgentTaskPayload
	log    *slog.Logger
	ctx    context.Context // of what the session is for
	end    context.CancelCauseFunc
	stream *datachannel.Stream

	line     context.Context // carry's: it goes on after ctx, until the end has been told
	hangUp   context.CancelCauseFunc
	carried  bool // carry was started
	carrying sync.WaitGroup
	hearing  context.Context // within ctx: until nothing more is received
	deafen   context.CancelFunc

	relay atomic.Pointer[[]string] // what the control plane can do; nil before the first data channel

	peer     chan struct{} // closed when the other end is known to be ours
	peerOnce sync.Once
	opened   chan struct{} // closed when the first data channel is open
	openOnce sync.Once

	sizes chan wire.Size // the first size, for the terminal to start with

	ahead []datachannel.Message // what came during the handshake; the shell, command or port takes it first

	connections atomic.Int64 // of a port session

	riding  atomic.Bool            // a data channel is open
	keeping atomic.Pointer[keeper] // of the end, once there is one

	term   atomic.Pointer[Terminal] // once there is one that takes what is typed
	behind atomic.Int64             // how many pieces of what was typed are on their way to it

	// What a program that takes the session over needs; see handover.go.
	// serveShell and what it waits for own it, and run once that has ended.
	left     bool                    // it is to be handed over
	shell    Terminal                // once there is one
	dataKey  []byte                  // of an encrypted session, once there is one
	size     wire.Size               // the last that was asked for
	untyped  []byte                  // received, and not typed
	unsent   []byte                  // read from the terminal, and not sent
	said     *int64                  // how many messages the stream had when its output was over, if more came
	complete *wire.AgentTaskComplete // how it ended, once it has
	ended    bool                    // that is in the stream
	restored bool                    // the stream is another program's
	broken   error                   // why it cannot be taken over

	era  context.Context // ends with errHeld when sessions are handed over
	over chan struct{}   // closed when run has returned
}

func newSession(a *Agent, id sallyport.SessionID, task wire.AgentTaskPayload, era context.Context) *session {
	s := &session{
		agent: a, id: id, task: task, log: a.Log.With(sallyport.LogSession, id.String()),
		peer: make(chan struct{}), opened: make(chan struct{}), sizes: make(chan wire.Size, 1),
		era: era, over: make(chan struct{}),
	}
	s.ctx, s.end = context.WithCancelCause(era)
	s.hearing, s.deafen = context.WithCancel(s.ctx)
	s.line, s.hangUp = context.WithCancelCause(context.WithoutCancel(era))
	s.stream = &datachannel.Stream{Sends: wire.TypeOutputStreamData, Control: s.hear, Direct: s.typeNow}
	return s
}

// hear is told what is not the stream's own.
func (s *session) hear(f wire.Frame) {
	switch f.Type {
	case wire.TypeChannelClosed:
		s.close()
	case wire.TypeSallyportPeer:
		var peer wire.SallyportPeer
		if f.Unmarshal(&peer) == nil && len(peer.Capabilities) > 0 {
			s.peerOnce.Do(func() { close(s.peer) })
		}
	}
}

// errPanicked is why a session ends in which code of the agent's panicked.
//
//lint:ignore ST1005 a sentence for the person
var errPanicked = errors.New("The agent met an error of its own in this session. Its log on the node has the details.")

// panicked ends the session for a panic that was recovered from.
func (s *session) panicked(err error) {
	s.log.Error("session panicked", sallyport.LogErr, err, panics.Stack(err))
	s.end(errPanicked)
}

// guard runs f, and has a panic in it end the session and nothing else. Every
// goroutine of a session runs in it.
func (s *session) guard(f func()) {
	err := panics.Run(func() error {
		f()
		return nil
	})
	if err != nil {
		s.panicked(err)
	}
}

// close ends the session because the control plane says that it is over.
func (s *session) close() {
	s.end(errClosed)
	s.hangUp(errClosed)
}

// run is the session's life, or as much of it as this program has.
func (s *session) run() {
	defer close(s.over)
	defer s.end(nil)
	var watching sync.WaitGroup
	watching.Go(func() { s.guard(s.watch) })
	defer watching.Wait()
	defer s.hangUp(nil)

	takenUp := s.complete != nil
	if !takenUp {
		if err := s.agent.reserveEnd(s.id); err != nil { // a full disk is a reason to open a session
			s.log.Warn("no room reserved for the end of a session: it is lost if the agent ends before the control plane answers", sallyport.LogErr, err)
		}
		status, err := s.serve()
		if s.left {
			s.hangUp(errHeld)
			s.carrying.Wait()
			if err = s.leave(); err == nil {
				return
			}
		}
		s.complete = s.completion(status, err)
		s.log.Info("session ended", "status", s.complete.FinalTaskStatus, sallyport.LogCause, cause(err, s.ctx))
	} else if s.restored {
		s.startCarrying()
	}
	if s.complete.Messages == nil {
		_, sent := s.stream.Progress()
		s.complete.Messages = cmp.Or(s.said, &sent)
	}
	kept := s.keepEnd(takenUp)
	how, announced := s.deliverWhileStopping()
	handOver := held(s.line)
	if !handOver {
		s.stream.Close()
	}
	s.carrying.Wait()
	switch {
	case how == acknowledged:
	case handOver && s.leave() == nil:
		how = handedOver
	case !announced:
		how = s.announce(context.WithoutCancel(s.era), stopWithin)
	}
	kept.finish(how)
}

// deliverWhileStopping delivers the end of the stream. If the agent stops
// meanwhile and the control plane has not acknowledged the end after
// announceAfter, the end is announced too: announced. The agent would otherwise
// wait stopWithin for one and then for the other.
func (s *session) deliverWhileStopping() (how delivery, announced bool) {
	ctx, told := context.WithCancel(context.WithoutCancel(s.era))
	defer told()
	delivering, done := context.WithCancel(ctx)
	var announcing sync.WaitGroup
	announcing.Go(func() {
		s.guard(func() {
			if !s.isStopping(delivering) {
				return
			}
			announced = true
			if how = s.announce(ctx, stopWithin-announceAfter); how == acknowledged {
				s.hangUp(errStopping)
			}
		})
	})
	delivered := s.deliver()
	if done(); delivered {
		told()
	}
	announcing.Wait()
	if delivered {
		how = acknowledged
	}
	return how, announced
}

// isStopping waits until the agent has been stopping for announceAfter, and
// reports false if ctx ended before, or the session is handed over.
func (s *session) isStopping(ctx context.Context) bool {
	select {
	case <-s.era.Done():
	case <-ctx.Done():
		return false
	}
	if held(s.era) {
		return false
	}
	timer := time.NewTimer(announceAfter)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// acknowledged returns how many of the first messages of the stream were
// acknowledged, its end not counted: no less than before. s.complete is set.
func (s *session) acknowledged(before int64) int64 {
	n, _ := s.stream.Progress()
	return min(max(n, before), *s.complete.Messages)
}

// watch ends the line when sessions are handed over, and a while after the
// agent has begun to stop.
func (s *session) watch() {
	select {
	case <-s.era.Done():
	case <-s.line.Done():
		return
	}
	if held(s.era) {
		s.hangUp(errHeld)
		return
	}
	late := time.NewTimer(stopWithin)
	defer late.Stop()
	select {
	case <-late.C:
		s.hangUp(context.Cause(s.era))
	case <-s.line.Done():
	}
}

// completion is how the session ended, after serve returned status and err.
func (s *session) completion(status *int, err error) *wire.AgentTaskComplete {
	done := &wire.AgentTaskComplete{
		SchemaVersion: 1, TaskId: s.id.String(), Topic: string(wire.TypeAgentTaskComplete),
		FinalTaskStatus: "Success", InstanceId: s.agent.reg.Node.String(),
	}
	if err != nil && s.isHeld() {
		err = errUpgraded
	}
	why := context.Cause(s.ctx)
	switch {
	case err == nil:
		done.ExitStatus = status
	case errors.Is(why, datachannel.ErrSealed), errors.Is(why, errStopping), errors.Is(why, errPanicked):
		done.FinalTaskStatus, done.Output = "Failed", why.Error()
	case err == errUpgraded:
		done.FinalTaskStatus, done.Output = "Failed", err.Error()
	case why != nil: // the control plane ended it, which is a success
	default:
		done.FinalTaskStatus, done.Output = "Failed", err.Error()
		done.ExitStatus = status // of what could not be started
	}
	done.Output = reported(done.Output)
	return done
}

// reported is as much of a cause as is reported: it may quote a command of any
// length. Printable, it is at most twice as long as JSON, and fits into the last
// message of a stream, which the control plane takes up to 8 KiB of.
func reported(cause string) string { return sallyport.Clip(sallyport.Printable(cause), 2000) }

// deliver sends the end of the stream, and returns when the control plane has
// acknowledged it, or knows without it: then it reports true. False is for an
// end that is left to announce.
func (s *session) deliver() (told bool) {
	if !s.carried {
		return false
	}
	select {
	case <-s.opened:
	case <-s.line.Done():
	}
	caps := s.relay.Load()
	if caps == nil || errors.Is(context.Cause(s.ctx), errClosed) {
		return false
	}
	if !slices.Contains(*caps, wire.CapEnd) {
		s.flush()
		return false
	}
	if !s.ended {
		b, err := strictjson.Marshal(wire.End{
			Failed: s.complete.FinalTaskStatus != "Success", Output: reported(s.complete.Output), ExitStatus: s.complete.ExitStatus,
		})
		if err == nil {
			err = s.stream.SendLast(s.line, wire.KindEnd, b)
		}
		if err != nil {
			return false
		}
		s.ended = true
	}
	return s.stream.Flush(s.line) == nil
}

// announce reports on the control channel that the session is over, until ctx
// ends, and returns what became of that. An agent that stops does so no longer
// than a time.
func (s *session) announce(ctx context.Context, stopping time.Duration) delivery {
	ctx, cancel := context.WithTimeout(ctx, announceWithin)
	defer cancel()
	if s.era.Err() != nil && !held(s.era) {
		ctx, cancel = context.WithTimeout(ctx, stopping)
		defer cancel()
	}
	defer context.AfterFunc(s.era, func() {
		if held(s.era) {
			cancel()
		}
	})()
	msg := *s.complete
	msg.Acknowledged = s.acknowledged(msg.Acknowledged)
	switch {
	case s.agent.complete(ctx, msg):
		return acknowledged
	case held(s.era):
		s.agent.keep(handed{ID: s.id, state: sessionState{Task: s.task, Complete: &msg}})
		return handedOver
	}
	s.log.Warn("end of session not delivered: the control plane does not answer; it is reported later", "status", msg.FinalTaskStatus, "exit", exitText(msg.ExitStatus))
	return undelivered
}

func exitText(status *int) string {
	if status == nil {
		return "unknown"
	}
	return strconv.Itoa(*status)
}

func cause(err error, ctx context.Context) string {
	if c := context.Cause(ctx); c != nil && !held(ctx) {
		return c.Error()
	}
	if err != nil {
		return err.Error()
	}
	return "it ended"
}

// serve does what the session is for, and returns the exit status of what ran,
// if anything did. An error is for the person if the session's context goes on,
// and of no matter otherwise.
func (s *session) serve() (status *int, err error) {
	kind := s.task.DocumentContent.SessionType
	serve := map[string]func() (*int, error){
		"": s.serveShell, shellSession: s.serveShell, interactiveSession: s.serveShell,
		commandSession: s.serveCommand, portSession: s.servePort,
	}[kind]
	switch {
	case s.broken != nil:
		s.giveUp()
		return nil, s.broken
	case serve == nil:
		//lint:ignore ST1005 AWS's words, which people search for
		return nil, fmt.Errorf("Plugin with name %s is not supported by this version of ssm agent, please update to latest version. Step name: %s", kind, kind)
	}
	s.startCarrying()
	defer s.deafen()
	if s.shell == nil {
		select {
		case <-s.opened:
		case <-s.ctx.Done():
			s.left = s.isHeld() && s.hasTerminal()
			return nil, context.Cause(s.ctx)
		}
	}
	err = panics.Run(func() (err error) {
		status, err = serve()
		return err
	})
	if panics.Is(err) {
		s.left = false
		if s.shell != nil {
			s.shell.Close()
			s.shell = nil
		}
		s.panicked(err)
	}
	return status, err
}

// The types of sessions. (Session document schema, sessionType.)
const (
	shellSession       = "Standard_Stream"
	interactiveSession = "InteractiveCommands"
	commandSession     = "NonInteractiveCommands"
	portSession        = "Port"
)

// hasTerminal reports whether it is a session on a terminal.
func (s *session) hasTerminal() bool {
	switch s.task.DocumentContent.SessionType {
	case "", shellSession, interactiveSession:
		return true
	}
	return false
}

// readSize is how much to read at once, so that messages are full.
func (s *session) readSize() int {
	chunk := min(s.stream.Chunk(), readSize)
	return readSize / chunk * chunk
}

// flush waits, for a while, until the client has everything, and for longer until
// the control plane has been written it. It is for a control plane that does not
// keep the end of a stream.
func (s *session) flush() {
	for last := time.Now().Add(unsentWithin); ; {
		ctx, cancel := context.WithTimeout(s.line, flushWithin)
		err := s.stream.Flush(ctx)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || s.line.Err() != nil || !s.stream.Unsent() || time.Now().After(last) {
			return
		}
	}
}

func (s *session) startCarrying() {
	s.carried = true
	s.carrying.Go(func() { s.guard(s.carry) })
}

// carry moves the stream over one data channel after another, until the stream
// is closed or the control plane says that the session is over. The shell runs
// on meanwhile.
func (s *session) carry() {
	wait := retry.Backoff{First: firstRetry, Soon: soonRetry, Last: openRetryLast}
	for {
		conn, err := s.open()
		if err == nil {
			wait.Reset()
			s.openOnce.Do(func() { close(s.opened) })
			err = s.ride(conn)
			conn.Drop()
			if err == nil {
				return // the stream is closed
			}
		}
		if s.line.Err() != nil {
			return
		}
		if panics.Is(err) {
			s.panicked(err)
			return
		}
		if over(err) {
			s.close()
			return
		}
		s.log.Warn("data channel lost", sallyport.LogErr, err)
		s.agent.client.HTTP.CloseIdleConnections() // as when the control channel is lost
		if !s.agent.pause(s.line, wait.Next()) {
			return
		}
	}
}

// over reports whether the control plane says that there is no such session any
// more.
func over(err error) bool {
	return err != nil && strings.Contains(err.Error(), "Session is already terminated")
}

// ride carries the stream over one socket.
func (s *session) ride(conn *socket.Conn) error {
	ctx, cancel := context.WithCancelCause(s.line)
	defer cancel(nil)
	alive := make(chan struct{})
	go func() {
		defer close(alive)
		s.guard(func() {
			if err := conn.KeepAlive(ctx, pingEvery, pongWithin); err != nil {
				cancel(err)
			}
		})
	}()
	s.riding.Store(true)
	err := s.stream.Run(ctx, conn)
	s.riding.Store(false)
	if k := s.keeping.Load(); k != nil && err != nil {
		k.write()
	}
	if err != nil {
		if c := context.Cause(ctx); c != nil {
			err = c
		}
	} else if b, ferr := (wire.AgentSessionState{SchemaVersion: 1, SessionState: "Terminating", SessionId: s.id.String()}).Frame(time.Now()).AppendBinary(nil); ferr == nil {
		conn.WriteFrame(ctx, b) // the stream was closed: the shell has ended
	}
	cancel(err)
	<-alive
	return err
}

// open opens a data channel: CreateDataChannel, the socket, and our first words.
func (s *session) open() (*socket.Conn, error) {
	path := "/v1/data-channel/" + s.id.String()
	channel, err := s.agent.client.CreateChannel(s.line, path, createChannel{MessageSchemaVersion: "1.0", RequestId: uuid.NewString(), ClientId: uuid.NewString()})
	if err != nil {
		return nil, fmt.Errorf("create data channel: %w", err)
	}
	s.relay.Store(&channel.Capabilities)
	conn, err := s.agent.client.Socket(s.line, path+"?role=publish_subscribe", "ssmmessages")
	if err != nil {
		return nil, fmt.Errorf("open data channel: %w", err)
	}
	b, err := json.Marshal(wire.OpenDataChannel{
		MessageSchemaVersion: "1.0", RequestId: uuid.NewString(), TokenValue: wire.NewToken(channel.Token),
		ClientInstanceId: s.agent.reg.Node.String(), Capabilities: append(datachannel.Capabilities(), wire.CapExitStatus, wire.CapEnd), Process: s.agent.process(),
	})
	if err == nil {
		err = conn.WriteText(s.line, b)
	}
	if err == nil {
		b, err = wire.AgentSessionState{SchemaVersion: 1, SessionState: "Connected", SessionId: s.id.String()}.Frame(time.Now()).AppendBinary(nil)
	}
	if err == nil {
		err = conn.WriteFrame(s.line, b)
	}
	if err != nil {
		conn.Drop()
		return nil, fmt.Errorf("open data channel: %w", err)
	}
	return conn, nil
}
