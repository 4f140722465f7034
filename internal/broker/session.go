package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/panics"
	"github.com/sallyport/sallyport/internal/record"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/wire"
)

// A session is one that is on: what the store has of it, its two lanes, its two
// ends and the clock it lives by.
//
//	                 ┌──────── session ────────┐
//	person's socket ─┤ pump ▶ lane ▶ write     ├─ node's socket
//	                 │     write ◀ lane ◀ pump │
//	                 └────────── log ──────────┘
//
// One goroutine, run, owns its life: it dispatches, times out, saves and
// finishes. Each attached end has two more, pump and write.
type session struct {
	b   *Broker
	id  sallyport.SessionID
	log *record.Log
	out *slog.Logger

	task       wire.AgentTaskPayload // what the node is told to start
	unpausable bool                  // a NonInteractive command aborts when it is paused
	unlogged   bool                  // what a port session carries is in the log only while it must wait
	awaited    bool                  // the node is told when the client is there, because it would wait for an answer
	idle       time.Duration         // 0: no limit

	kick chan struct{} // run should look again; holds one
	over chan struct{} // closed when the session is saved as over

	// mu guards all below, and lanes and ends in whole.
	mu      sync.Mutex
	rec     *sallyport.Session
	access  store.Access // who may attach; the store has the same
	lanes   [2]lane      // by the side that sends
	ends    [2]*end
	came    [2]bool      // the side has been here
	carried [2]int64     // bytes of stream payload, by the side that sent them
	gone    [2]time.Time // since when it has not
	paused  bool         // the node was told to

	stirred    time.Time // when stream data last arrived for the first time
	warned     time.Time // the end that the person was last warned of
	dispatched int       // how often the node was told
	dispatchAt time.Time // when it is told, or given up on, next
	goingAt    time.Time // when the node said it was about to end
	nodeDone   bool      // the node has said that it is over
	told       bool      // the person was told so, after all the rest

	fate     sallyport.State // Terminated or Failed, once it is ending
	endingAt time.Time
	tellNode bool // channel_closed is due on the node's control channel
	unsaved  bool // rec is ahead of the store

	ackTimer *time.Timer
	noted    [2]int64 // how far the log has acknowledgements, by lane
}

// look has run look again.
func (s *session) look() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// run lives the session's life, until it is over and saved or ctx is done.
func (s *session) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for panicked := 0; ; {
		select {
		case <-ctx.Done():
			err := panics.Run(func() error {
				s.suspend(context.Cause(ctx))
				return nil
			})
			if err != nil {
				s.out.Error("session panicked", sallyport.LogErr, err, panics.Stack(err))
			}
			return
		case <-timer.C:
		case <-s.kick:
		}
		var wait time.Duration
		var finished bool
		err := panics.Run(func() error {
			wait, finished = s.step(ctx)
			return nil
		})
		if err != nil {
			s.broke(err)
			if panicked++; panicked == maxPanics {
				s.abandon()
				return
			}
			wait = saveAgain
		}
		if finished {
			return
		}
		timer.Reset(wait)
	}
}

// maxPanics is how many panics of run end a session whatever its state. The
// first ends it as any other cause does.
const maxPanics = 3

// abandon gives up a session whose end panics too. The store keeps it as it is,
// for the next server, which may be of another version.
func (s *session) abandon() {
	s.out.Error("session abandoned")
	err := panics.Run(func() error {
		s.release(errOver)
		if s.log != nil {
			s.log.Close()
		}
		return nil
	})
	if err != nil {
		s.out.Error("session panicked", sallyport.LogErr, err, panics.Stack(err))
	}
	s.b.forget(s)
	close(s.over)
}

// step does what is due and says when to look again.
func (s *session) step(ctx context.Context) (wait time.Duration, finished bool) {
	next, dispatch, tell, finish, save := s.decide(time.Now())
	switch {
	case finish:
		if s.finish(ctx) {
			return 0, true
		}
		return saveAgain, false
	case dispatch:
		s.dispatch(ctx)
	case tell:
		s.tell(ctx)
	}
	if save && !s.save(ctx) {
		return saveAgain, false
	}
	return max(time.Until(next), time.Millisecond), false
}

// decide says what is due.
func (s *session) decide(now time.Time) (next time.Time, dispatch, tell, finish, save bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next = s.judge(now)
	dispatch = s.fate == 0 && !s.came[node] && s.dispatched < dispatchTries && !now.Before(s.dispatchAt) && (s.came[person] || !s.awaited)
	if dispatch {
		s.dispatched++
		s.dispatchAt = now.Add(s.b.dispatchAgain())
		next = s.dispatchAt
	}
	tell = s.tellNode
	s.tellNode = false
	finish = s.fate != 0 && s.mayFinish(now)
	save = s.unsaved && !finish
	return next, dispatch, tell, finish, save
}

// How patient a session is, where the operator has no say.
const (
	dispatchTries = 3
	endGrace      = 10 * time.Second // for the node to say that the shell is reaped
	drainGrace    = 5 * time.Second  // for the person to take what was shown last
	owedGrace     = time.Minute      // for one who was away when the shell ended to come back for the rest
	warnBefore    = time.Minute      // an end by the clock, or a fifth of what it allows
	goingGrace    = 2 * time.Second  // between a node's Terminating and its agent_task_complete
	saveAgain     = time.Second      // after the store refused
	ackDelay      = 20 * time.Millisecond
)

// judge ends the session if its time has come, and otherwise says when to
// judge it next. The caller holds mu.
func (s *session) judge(now time.Time) (next time.Time) {
	next = now.Add(time.Hour)
	due := func(at time.Time) bool {
		if !now.Before(at) {
			return true
		}
		if at.Before(next) {
			next = at
		}
		return false
	}
	if s.fate != 0 {
		due(s.endingAt.Add(drainGrace))
		due(s.endingAt.Add(endGrace))
		due(s.endingAt.Add(owedGrace))
		return next
	}
	id := s.rec.Node.String()
	switch state := s.rec.State(); state {
	case sallyport.Connecting:
		if told := s.came[person] || !s.awaited; told && !s.came[node] && due(s.dispatchAt) && s.dispatched >= dispatchTries {
			s.beginEnd(sallyport.Failed, id+" did not answer. Its agent was asked "+times(s.dispatched)+" to start the session.")
		} else if !s.came[person] && due(s.rec.Started.Add(s.b.clientWait())) {
			s.beginEnd(sallyport.Failed, "No client connected in "+s.b.clientWait().String()+".")
		}
	default:
		s.warn(now, due)
		switch {
		case s.rec.MaxDuration > 0 && due(s.rec.Started.Add(s.rec.MaxDuration)):
			s.beginEnd(sallyport.Terminated, "The session reached its maximum duration of "+s.rec.MaxDuration.String()+".")
		case s.idle > 0 && s.ends[person] != nil && due(s.stirred.Add(s.idle)): // a person who is away has a grace of their own
			s.beginEnd(sallyport.Terminated, "The session was idle for "+s.idle.String()+".")
		case s.ends[node] == nil && due(s.gone[node].Add(s.b.nodeGrace())):
			s.beginEnd(sallyport.Terminated, "The connection to "+id+" was lost and did not come back in "+s.b.nodeGrace().String()+".")
		case s.ends[person] == nil && due(s.gone[person].Add(s.b.personGrace())):
			s.beginEnd(sallyport.Terminated, "The client was away for "+s.b.personGrace().String()+".")
		case !s.goingAt.IsZero() && due(s.goingAt.Add(goingGrace)):
			s.beginEnd(sallyport.Terminated, "")
		}
	}
	return next
}

// warn tells the person, a while before it, that the session will be cut off.
// It is heard by clients of ours. The caller holds mu.
func (s *session) warn(now time.Time, due func(time.Time) bool) {
	if !s.ends[person].can(wire.CapNotices) {
		return
	}
	say := func(from time.Time, limit time.Duration, text string) {
		end, before := from.Add(limit), min(warnBefore, limit/5)
		if limit > 0 && !s.warned.Equal(end) && due(end.Add(-before)) {
			s.warned = end
			left := max(end.Sub(now), 0).Round(time.Second)
			s.ends[person].says(encode(wire.SallyportNotice{Text: fmt.Sprintf(text, left, limit)}.Frame(now)))
		}
	}
	say(s.stirred, s.idle, "this session ends in %v, unless something is typed or shown: it has been idle, and may be for %v")
	say(s.rec.Started, s.rec.MaxDuration, "this session ends in %v: it may last %v")
}

// mayFinish reports whether nobody has to be waited for any more.
func (s *session) mayFinish(now time.Time) bool {
	nodeGone := s.nodeDone || !s.came[node] && s.rec.State() == sallyport.Connecting || !now.Before(s.endingAt.Add(endGrace))
	personGone := s.ends[person] == nil || !now.Before(s.endingAt.Add(drainGrace))
	if s.owed() {
		personGone = !now.Before(s.endingAt.Add(owedGrace))
	}
	return nodeGone && personGone
}

// owed reports whether the shell has ended by itself and said what its person,
// who lost the connection, has not had. The caller holds mu.
func (s *session) owed() bool {
	return s.fate == sallyport.Terminated && s.rec.Cause == "" && s.came[person] && !s.told && len(s.lanes[node].held) > 0
}

// beginEnd has the session end, for a cause: a sentence, or "" if its shell
// simply ended. The caller holds mu. A session ends once.
func (s *session) beginEnd(fate sallyport.State, cause string) {
	if s.fate != 0 {
		return
	}
	now := time.Now()
	s.rec.Cause = cause
	if fate == sallyport.Terminated {
		if err := s.rec.Advance(sallyport.Terminating, now); err != nil { // every state that is not final may
			s.out.Error("session ends out of turn", sallyport.LogErr, err)
		}
	}
	s.fate, s.endingAt, s.unsaved = fate, now, true
	if !s.nodeDone {
		s.ends[node].says(s.closedFrame(false))
		s.tellNode = true
	}
	if e := s.ends[person]; e != nil {
		e.stir()
	}
	s.look()
}

// end is beginEnd for those who do not hold mu.
func (s *session) end(cause string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.beginEnd(sallyport.Terminated, cause)
}

// unloggable ends a session whose log cannot be written: what is not logged is
// not relayed.
func (s *session) unloggable(err error) {
	s.out.Error("session log failed", sallyport.LogErr, err)
	s.end("The session's log cannot be written on the server, so the session cannot go on.")
}

// closedFrame is channel_closed as an end is sent it.
func (s *session) closedFrame(withStatus bool) []byte {
	msg := wire.ChannelClosed{SessionId: s.id.String(), DestinationId: s.rec.Node.String(), Output: sallyport.Clip(s.rec.Cause, 1000)}
	if withStatus {
		msg.ExitStatus = s.rec.ExitStatus
	}
	return encode(msg.Frame(time.Now()))
}

// lastWord is the last frame for e, once everything else has been sent: nil
// while the session goes on. Only a person is told last of all; the node is
// told at once. The caller holds mu.
func (s *session) lastWord(e *end) []byte {
	if s.fate == 0 || e.side == node {
		return nil
	}
	return s.closedFrame(e.can(wire.CapExitStatus))
}

// nodeGoing notes that the node says it is about to end.
func (s *session) nodeGoing() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.goingAt.IsZero() {
		s.goingAt = time.Now()
		s.look()
	}
}

// complete notes the node's word that the session is over there.
func (s *session) complete(msg wire.AgentTaskComplete) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nodeDone = true
	if s.fate == 0 {
		s.rec.ExitStatus = msg.ExitStatus
		fate, cause := sallyport.Terminated, ""
		if msg.FinalTaskStatus != "Success" {
			cause = tidy(msg.Output)
			if cause == "" {
				cause = "The agent on " + s.rec.Node.String() + " reported " + sallyport.Clip(msg.FinalTaskStatus, 32) + "."
			}
			if s.rec.State() == sallyport.Connecting {
				fate = sallyport.Failed
			}
		}
		s.beginEnd(fate, cause)
	}
	s.look()
}

// tidy takes a stock agent's frame off its error text, and what a terminal
// might act on out of it.
func tidy(output string) string {
	output = strings.ReplaceAll(output, "----------ERROR-------", "")
	output = strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' || r == 0x7f {
			return -1
		}
		return r
	}, output)
	return sallyport.Clip(strings.TrimSpace(output), 1000)
}

// joined makes e its side's end. The caller holds mu.
func (s *session) joined(e *end) error {
	if s.rec.State().Final() || s.log == nil || s.fate != 0 && e.side == person && !s.owed() {
		return errOver
	}
	now := time.Now()
	s.ends[e.side] = e
	s.came[e.side] = true
	s.stirred = now
	s.lanes[e.side.other()].cursor = 0 // what was sent on its last socket and not acknowledged goes again
	other := s.ends[e.side.other()]
	e.peer(other)
	other.peer(e)
	if e.side == node {
		s.paused = false // a stock agent forgets a pause when it reconnects
		if s.fate != 0 {
			e.says(s.closedFrame(false))
		}
	}
	if s.ends[person] != nil && s.ends[node] != nil && s.fate == 0 && s.rec.State() != sallyport.Connected {
		if err := s.rec.Advance(sallyport.Connected, now); err != nil {
			return err
		}
		s.unsaved = true
	}
	s.regulate(false)
	s.note(e.side.String() + " connected")
	s.look()
	return nil
}

// left notes that e is no longer there.
func (s *session) left(e *end, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range e.repeats {
		h.release()
	}
	e.repeats = nil
	if s.ends[e.side] == e {
		s.ends[e.side] = nil
		s.gone[e.side] = time.Now()
	}
	if e.side == person && s.fate == 0 && s.rec.State() == sallyport.Connected {
		if err := s.rec.Advance(sallyport.Disconnected, time.Now()); err == nil {
			s.unsaved = true
		}
		s.regulate(false)
	}
	s.note(e.side.String() + " disconnected")
	if !errors.Is(why, errOver) && !errors.Is(why, errReplaced) {
		s.out.Debug("socket lost", "side", e.side.String(), sallyport.LogErr, why)
	}
	s.look()
}

// note puts an event in the log. If it cannot, the next frame will say so.
func (s *session) note(what string) {
	if s.log != nil {
		s.log.Append(record.Entry{At: time.Now(), What: record.Event, Body: []byte(what)})
	}
}

// noteAcks has the log learn, soon, how far each end has acknowledged. The
// caller holds mu.
func (s *session) noteAcks() {
	if s.ackTimer == nil {
		s.ackTimer = time.AfterFunc(ackDelay, func() {
			err := panics.Run(func() error {
				s.logAcks()
				return nil
			})
			if err != nil {
				s.broke(err)
			}
		})
	} else {
		s.ackTimer.Reset(ackDelay)
	}
}

func (s *session) logAcks() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for sender, what := range map[side]record.What{person: record.NodeAcked, node: record.PersonAcked} {
		if acked := s.lanes[sender].acked; acked != s.noted[sender] {
			s.noted[sender] = acked
			s.log.Append(record.Entry{At: time.Now(), What: what, Body: binary.BigEndian.AppendUint64(nil, uint64(acked))})
		}
	}
}

// replay rebuilds the lanes from a log, entry by entry.
func (s *session) replay(at int64, e record.Entry) {
	switch e.What {
	case record.NodeFrame:
		head, err := wire.Peek(e.Body)
		if err == nil && s.lanes[node].look(head.Seq) == isNew {
			s.lanes[node].hold(&held{seq: head.Seq, size: len(e.Body), at: at})
		}
	case record.PersonAcked, record.NodeAcked:
		if len(e.Body) != 8 {
			return
		}
		sender := node
		if e.What == record.NodeAcked {
			sender = person
		}
		l, seq := &s.lanes[sender], int64(binary.BigEndian.Uint64(e.Body))
		l.newest = max(l.newest, seq) // a person's frames are not in the log
		l.ack(wire.Ack{Seq: seq, Through: true})
	}
}

// encodeTask writes the message that tells a node to start a session. An error
// is the caller's to hear: it says how long the message may be.
func encodeTask(task wire.AgentTaskPayload) ([]byte, error) {
	frame, err := task.Frame(time.Now())
	if err != nil {
		return nil, err
	}
	b, err := frame.AppendBinary(nil)
	if errors.Is(err, wire.ErrTooLong) {
		return nil, sallyport.Errorf(sallyport.InvalidParameters,
			"The session's document, with its parameters filled in, takes %d bytes as the node is sent it, and may take %d. "+
				"Shorten the parameters, or have the command read what is long from a file on the node.", len(frame.Payload), wire.MaxPayload)
	}
	return b, err
}

// undispatchable ends a session that the node cannot be told of.
func (s *session) undispatchable(err error) {
	cause := "The session's document cannot be sent to the node."
	if sallyport.CodeOf(err) != "" {
		cause = sallyport.Public(err).Message
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	fate := sallyport.Terminated
	if s.rec.State() == sallyport.Connecting {
		fate = sallyport.Failed
	}
	s.beginEnd(fate, cause)
}

// dispatch tells the node to start the session.
func (s *session) dispatch(ctx context.Context) {
	frame, err := encodeTask(s.task)
	if err != nil {
		s.out.Error("session not dispatched", sallyport.LogNode, s.rec.Node, sallyport.LogErr, err)
		s.undispatchable(err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := s.b.Bus.Send(ctx, s.rec.Node, frame); err != nil {
		s.out.Warn("session not dispatched", sallyport.LogNode, s.rec.Node, sallyport.LogErr, err)
	}
}

// tell has the node's control channel hear that the session is over, in case
// its data channel is not there to hear it.
func (s *session) tell(ctx context.Context) {
	s.mu.Lock()
	frame := s.closedFrame(false)
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := s.b.Bus.Send(ctx, s.rec.Node, frame); err != nil {
		s.out.Debug("node not told of the end", sallyport.LogErr, err)
	}
}

// save writes the session's state to the store. A store that refuses, as on a
// full disk, is tried again; the session goes on meanwhile.
func (s *session) save(ctx context.Context) bool {
	s.mu.Lock()
	rec := *s.rec
	s.unsaved = false
	s.mu.Unlock()
	if err := s.b.Store.UpdateSession(ctx, &rec); err != nil {
		s.mu.Lock()
		s.unsaved = true
		s.mu.Unlock()
		if ctx.Err() == nil {
			s.out.Error("session not saved", sallyport.LogErr, err)
		}
		return false
	}
	return true
}

// finish seals the recording and saves the end. It reports false if that has
// to be tried again.
func (s *session) finish(ctx context.Context) bool {
	s.release(errOver)

	if s.log != nil {
		s.mu.Lock()
		if s.ackTimer != nil {
			s.ackTimer.Stop()
		}
		if s.unlogged {
			s.note(fmt.Sprintf("%d bytes to the node, %d bytes from it", s.carried[person], s.carried[node]))
		}
		s.mu.Unlock()
		s.log.Close()
	}
	var sealed record.Sealed
	err := panics.Run(func() (err error) { // what reads the log meets what strangers sent
		sealed, err = s.b.Shelf.Seal(s.id)
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.out.Error("recording not sealed", sallyport.LogErr, err, panics.Stack(err))
	}

	s.mu.Lock()
	if err := s.conclude(time.Now()); err != nil {
		s.out.Error("session ends out of turn", sallyport.LogErr, err)
	}
	rec := *s.rec
	s.mu.Unlock()
	// A server that is stopping saves this much: the log is sealed already.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := s.b.Store.SealSession(ctx, &rec, store.Log{Size: sealed.Size, Hash: sealed.SHA256}); err != nil {
		if ctx.Err() == nil {
			s.out.Error("end of session not saved", sallyport.LogErr, err)
		}
		return false
	}
	s.b.forget(s)
	close(s.over)
	at, _ := rec.Ended()
	s.out.Info("session ended", "state", rec.State().String(), sallyport.LogCause, rec.Cause, sallyport.LogDuration, at.Sub(rec.Started).Round(time.Millisecond))
	return true
}

// conclude brings a session to its final state: its fate, or Terminated if that
// is not open to it. The caller holds mu.
func (s *session) conclude(now time.Time) error {
	if s.rec.State().Final() || s.rec.Advance(s.fate, now) == nil {
		return nil
	}
	if s.rec.State() != sallyport.Terminating {
		if err := s.rec.Advance(sallyport.Terminating, now); err != nil {
			return err
		}
	}
	return s.rec.Advance(sallyport.Terminated, now)
}

// suspend lets go of a session because the server is stopping. It stays in the
// store as it is, and the next server goes on with it.
func (s *session) suspend(cause error) {
	s.release(cause)
	s.logAcks()
	s.mu.Lock()
	if s.ackTimer != nil {
		s.ackTimer.Stop()
	}
	unsaved := s.unsaved
	s.mu.Unlock()
	if unsaved {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		s.save(ctx)
	}
	if s.log != nil {
		s.log.Close()
	}
}

// release lets go of both ends, and returns when they have gone.
func (s *session) release(cause error) {
	s.mu.Lock()
	ends := s.ends
	s.mu.Unlock()
	for _, e := range ends {
		if e != nil {
			e.cancel(cause)
			<-e.done
		}
	}
}

func times(n int) string {
	switch n {
	case 1:
		return "once"
	case 2:
		return "twice"
	}
	return fmt.Sprintf("%d times", n)
}
