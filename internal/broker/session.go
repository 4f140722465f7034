package broker

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
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
//
// # The end
//
// A session's end is decided once: fate, with its cause and exit status. It is
// written to the log, and that synced (commit), before the client is told or
// the node's last message is acknowledged, and it is the log that a restarted
// server believes. So what the client was told is what the history says.
//
// An end of ours at the node sends its exit status as the last message of its
// stream, and keeps the stream until it is acknowledged. That is done when the
// whole stream is in the log, and the node is then free. A session that the
// node ended is held for its client (owed) until the client has acknowledged
// the last message or, if it does not know that one, has been sent all and has
// closed its socket.
type session struct {
	b   *Broker
	id  sallyport.SessionID
	log *record.Log // nil if it is lost
	out *slog.Logger

	task       wire.AgentTaskPayload // what the node is told to start
	unpausable bool                  // a NonInteractive command aborts when it is paused
	flow       bool                  // it carries a port's bytes, or a file's, and no screen
	awaited    bool                  // the node is told when the client is there, because it would wait for an answer
	idle       time.Duration         // 0: no limit

	launched atomic.Bool // it has been stored; before that nothing finds it
	ending   atomic.Bool // fate is decided

	kick chan struct{} // run should look again; holds one
	over chan struct{} // closed when the session is saved as over

	// accessTurn holds one token while access is changed, in the store and then
	// here. Its holder may wait for the database, which a holder of mu may not, and
	// takes mu only after it.
	accessTurn chan struct{}

	// mu guards all below, and lanes and ends in whole. It is never held over
	// the database, nor over a sync of the log.
	mu            sync.Mutex
	rec           *sallyport.Session
	access        store.Access // who may attach; the store has the same
	lanes         [2]lane      // by the side that sends
	ends          [2]*end
	released      error        // why no end may attach any more; nil while one may
	attachedOnce  [2]bool      // the side has attached at least once
	detachedSince [2]time.Time // while the side is detached and attachedOnce
	carried       [2]int64     // bytes of stream payload, by the side that sent them
	unlogged      bool         // what the node says is in the log only while it must wait
	paused        bool         // the node was told to

	// takenUp is when an earlier server's session was taken up; zero for our
	// own. Ends that were detached before have a while from then on to attach.
	takenUp time.Time

	stirred    time.Time // when stream data last arrived for the first time
	warned     time.Time // the end that the person was last warned of
	awayTold   bool      // the person was told that the node is away
	notice     string    // for the person, who has not been told it; empty is none
	dispatched int       // how often the node was told
	dispatchAt time.Time // when it is told, or given up on, next

	// How the node's stream ended. A node that does not send an end says that
	// it is going, on the data channel, and reports the end on its control
	// channel, on which it may be faster than what it last said.
	process wire.Process // of the agent that the node's end was of last
	endSeq  int64        // the number of its last message; -1 while there is none
	endSent bool         // it was written to a client's socket
	missing int64        // with early: the first number that has not come
	endID   wire.ID
	sums    sums // of a file copy

	early      []byte                  // the last message, while some before it are missing
	goingAt    time.Time               // when it said that it was about to end
	reported   *wire.AgentTaskComplete // what it reported, while the session goes on
	reportedAt time.Time
	reportAck  []byte // the answer to a report, for when the end is on disk; nil is none
	nodeDone   bool   // what ran on the node has ended
	hasStatus  bool   // the node's agent says exit statuses

	fate        sallyport.State // Terminated or Failed, once it is decided
	byNode      bool            // by the node's stream having ended
	endingAt    time.Time       // from when on the ends are waited for
	endedAt     time.Time       // when fate was decided, by this server or an earlier one
	committedAt time.Time       // when committed was set

	committed  bool      // fate is on disk
	waitTold   bool      // the client was told that it is waited for
	kept       bool      // the node's whole stream is in the log, on disk, and acknowledged
	takenAt    time.Time // when the person last acknowledged something for the first time
	repeatedAt time.Time // when the oldest frame was last sent again
	told       bool      // the person has been told of the end, and of all before it
	toldKept   bool      // a log that has failed says so too
	tellNode   bool      // channel_closed is due on the node's control channel
	unsaved    bool      // rec is ahead of the store

	ackAt time.Time // when acknowledgements are to be written to the log; zero if it has them all
	noted [2]int64  // the highest acknowledged number in the log, by lane
}

// look makes run re-evaluate the session. It never blocks.
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

// maxPanics is how many panics of run end a session in every state. The
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
	due := s.decide(time.Now())
	// The node is told first: on a full disk its program must end all the same.
	switch {
	case due.dispatch:
		s.dispatch(ctx)
	case due.tell:
		s.tell(ctx)
	}
	if due.commit {
		if !s.commit(ctx) {
			return saveAgain, false
		}
		s.answerReport(ctx)
	}
	s.keepTold()
	switch finish, save := s.mayEnd(time.Now()); {
	case finish && s.finish(ctx):
		return 0, true
	case finish, save && !s.save(ctx):
		return saveAgain, false
	}
	return max(time.Until(due.next), time.Millisecond), false
}

// A decision is what is due for a session.
type decision struct {
	next                   time.Time // when to decide again
	dispatch, tell, commit bool
}

// decide says what is due, and has the log learn of acknowledgements if that is.
func (s *session) decide(now time.Time) (due decision) {
	s.mu.Lock()
	defer s.mu.Unlock()
	due.next = s.judge(now)
	due.dispatch = s.fate == 0 && !s.attachedOnce[node] && s.dispatched < dispatchTries && !now.Before(s.dispatchAt) && (s.attachedOnce[person] || !s.awaited)
	if due.dispatch {
		s.dispatched++
		s.dispatchAt = now.Add(s.b.dispatchAgain())
		due.next = s.dispatchAt
	}
	due.tell = s.tellNode
	s.tellNode = false
	due.commit = s.fate != 0 && !s.committed
	switch {
	case s.ackAt.IsZero():
	case now.Before(s.ackAt):
		if s.ackAt.Before(due.next) {
			due.next = s.ackAt
		}
	default:
		s.logAcks()
	}
	return due
}

// mayEnd reports whether the session can be finished now and, if not, whether
// the store has to know of it.
func (s *session) mayEnd(now time.Time) (finish, save bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	finish = s.fate != 0 && s.committed && s.mayFinish(now)
	return finish, s.unsaved && !finish
}

// How patient a session is, where the operator has no say.
const (
	dispatchTries = 3
	endGrace      = 10 * time.Second // for the node to say that the shell is reaped
	drainGrace    = 5 * time.Second  // for the person to take what was shown last, and to close the socket
	reportGrace   = 10 * time.Second // for a node that has reported the end to finish its data channel
	goingGrace    = 2 * time.Second  // between a stock node's Terminating and its agent_task_complete
	returnGrace   = 30 * time.Second // for a node that had been lost when the server stopped, to come back to the next
	returnPerson  = 2 * time.Minute  // the same for a person
	repeatAfter   = 5 * time.Second  // for the person to acknowledge what the node does not repeat any more
	warnBefore    = time.Minute      // an end by the clock, or a fifth of what it allows
	awayAfter     = 2 * time.Second  // before the person is told that the node is away
	saveAgain     = time.Second      // after the store refused
	ackDelay      = 20 * time.Millisecond

	// uncommitted is for how long an end that cannot be stored is tried before the
	// client hears that it is waited for, or that the log failed.
	uncommitted = 5 * time.Second
)

// lostAt is when a side that is detached has been so for too long. The caller
// holds mu.
func (s *session) lostAt(at side) time.Time {
	grace, again := s.b.nodeGrace(), returnGrace
	if at == person {
		grace, again = s.b.personGrace(), returnPerson
	}
	lost := s.detachedSince[at].Add(grace)
	if back := s.takenUp.Add(min(grace, again)); !s.takenUp.IsZero() && lost.Before(back) {
		return back
	}
	return lost
}

func (s *session) isAway(at side) bool { return s.attachedOnce[at] && s.ends[at] == nil }

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
		due(later(s.endingAt, s.committedAt).Add(drainGrace))
		due(s.endingAt.Add(endGrace))
		if s.owed() {
			due(s.owedUntil())
			s.repeatLast(now, due)
		}
		return next
	}
	s.warn(now, due)
	id := s.rec.Node.String()
	connecting := s.rec.State() == sallyport.Connecting
	switch {
	case s.reported != nil && (s.ends[node] == nil || !s.goingAt.IsZero() || due(s.reportedAt.Add(reportGrace))):
		s.endAsReported()
	case connecting && (s.attachedOnce[person] || !s.awaited) && !s.attachedOnce[node] && due(s.dispatchAt) && s.dispatched >= dispatchTries:
		s.beginEnd(sallyport.Failed, id+" did not answer. Its agent was asked "+times(s.dispatched)+" to start the session.")
	case connecting && !s.attachedOnce[person] && due(s.rec.Started.Add(s.b.clientWait())):
		s.beginEnd(sallyport.Failed, "No client connected in "+s.b.clientWait().String()+".")
	case s.rec.MaxDuration > 0 && due(s.rec.Started.Add(s.rec.MaxDuration)):
		s.beginEnd(sallyport.Terminated, "The session reached its maximum duration of "+s.rec.MaxDuration.String()+".")
	case !connecting && s.idle > 0 && s.ends[person] != nil && due(s.stirred.Add(s.idle)): // for a client that is away personGrace counts instead
		s.beginEnd(sallyport.Terminated, "The session was idle for "+s.idle.String()+".")
	case s.isAway(node) && due(s.lostAt(node)):
		s.nodeDone = true // the session does not wait for it again; if it comes back, it is told of the end
		s.beginEnd(sallyport.Terminated, "The connection to "+id+" was lost and did not come back in "+s.b.nodeGrace().String()+".")
	case s.isAway(person) && due(s.lostAt(person)):
		s.beginEnd(sallyport.Terminated, "The client was away for "+s.b.personGrace().String()+".")
	case !s.goingAt.IsZero() && due(s.goingAt.Add(s.goingGrace())):
		s.byNode = true
		s.beginEnd(sallyport.Terminated, s.silentEnd())
	}
	return next
}

// goingGrace is how long a node that announced its end may take to report it. An
// agent of ours repeats the report on each control channel until it is acknowledged,
// so its status is waited for; one of AWS's may never report, and reports no status.
func (s *session) goingGrace() time.Duration {
	if s.hasStatus {
		return s.b.nodeGrace()
	}
	return goingGrace
}

// warn tells the person, a while before it, that the session will be cut off,
// and that the node is away. It is heard by clients of ours. The caller holds
// mu.
func (s *session) warn(now time.Time, due func(time.Time) bool) {
	to := s.ends[person]
	if !to.can(wire.CapNotices) {
		return
	}
	notice := func(format string, args ...any) {
		to.says(encode(wire.SallyportNotice{Text: fmt.Sprintf(format, args...)}.Frame(now)))
	}
	id := s.rec.Node.String()
	switch {
	case s.isAway(node) && !s.awayTold && due(s.detachedSince[node].Add(awayAfter)):
		s.awayTold = true
		notice("the node %s is away: its connection is lost; the session goes on when it is back, and ends if that takes longer than %v", id, s.b.nodeGrace())
	case s.ends[node] != nil && s.awayTold:
		s.awayTold = false
		notice("the node %s is back", id)
	}
	if s.rec.State() == sallyport.Connecting {
		return
	}
	say := func(from time.Time, limit time.Duration, text string) {
		end, before := from.Add(limit), min(warnBefore, limit/5)
		if limit > 0 && !s.warned.Equal(end) && due(end.Add(-before)) {
			s.warned = end
			left := max(end.Sub(now), 0).Round(time.Second)
			notice(text, left, limit)
		}
	}
	say(s.stirred, s.idle, "this session ends in %v, unless something is typed or shown: it has been idle, and may be for %v")
	say(s.rec.Started, s.rec.MaxDuration, "this session ends in %v: it may last %v")
}

// join makes e its side's end. The caller holds mu.
func (s *session) join(e *end) error {
	if s.released != nil {
		return s.released
	}
	if s.rec.State().Final() || s.log == nil || s.fate != 0 && s.committed && e.side == person && !s.owed() {
		return errOver
	}
	now := time.Now()
	s.ends[e.side] = e
	s.attachedOnce[e.side] = true
	s.stirred = now
	s.lanes[e.side.other()].cursor = 0 // what was sent on its last socket and not acknowledged goes again
	other := s.ends[e.side.other()]
	e.peer(other)
	other.peer(e)
	if e.side == person {
		s.takenAt = now
		s.waitTold = false
		if s.notice != "" && e.can(wire.CapNotices) {
			e.says(encode(wire.SallyportNotice{Text: s.notice}.Frame(now)))
			s.notice = ""
		}
	} else {
		s.paused = false // a stock agent forgets a pause when it reconnects
		s.process = e.process
		s.hasStatus = e.can(wire.CapExitStatus)
		switch {
		case s.endKept():
			e.says(s.endAck())
		case s.fate != 0 && s.endSeq < 0:
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
	body, err := json.Marshal(e.process)
	if err != nil {
		return err
	}
	s.log.Append(record.Entry{At: now, What: e.side.joined(), Body: body})
	s.look()
	return nil
}

// detach notes that e is no longer there, and why. If the peer closed its
// socket after it was sent channel_closed, it has all there was.
func (s *session) detach(e *end, why error, closedByPeer bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, out := range e.repeats {
		out.done()
	}
	e.repeats = nil
	now := time.Now()
	if s.ends[e.side] == e {
		s.ends[e.side] = nil
		s.detachedSince[e.side] = now
	}
	if e.side == person && !e.closedAt.IsZero() {
		s.told = s.told || closedByPeer || len(s.lanes[node].held) == 0 && errors.Is(why, errOver)
	}
	if e.side == person && s.fate == 0 && s.rec.State() == sallyport.Connected {
		if err := s.rec.Advance(sallyport.Disconnected, now); err == nil {
			s.unsaved = true
		}
		s.regulate(false)
	}
	if !errors.Is(why, errStopped) { // the next server starts the side's grace anew
		s.log.Append(record.Entry{At: now, What: e.side.left()})
	}
	if !errors.Is(why, errOver) && !errors.Is(why, errReplaced) {
		s.out.Debug("socket lost", "side", e.side.String(), sallyport.LogErr, why)
	}
	s.look()
}

// note puts an event in the log. If it cannot, the next frame will say so.
func (s *session) note(what string) {
	s.log.Append(record.Entry{At: time.Now(), What: record.Event, Body: []byte(what)})
}

// logAcks has the log learn how far each end has acknowledged. The caller holds
// mu.
func (s *session) logAcks() {
	s.ackAt = time.Time{}
	for sender, what := range map[side]record.What{person: record.NodeAcked, node: record.PersonAcked} {
		if acked := s.lanes[sender].acked; acked != s.noted[sender] {
			s.noted[sender] = acked
			s.log.Append(record.Entry{At: time.Now(), What: what, Body: binary.BigEndian.AppendUint64(nil, uint64(acked))})
		}
	}
}

// A replayed is what a log says of a session.
type replayed struct {
	joined  [2]bool      // the side has attached
	left    [2]time.Time // when it detached last; zero if it had not
	process wire.Process // of the node's end that attached last
	ended   *fate
	endAt   time.Time
}

// replay rebuilds the lanes from a log, entry by entry, and what else r has.
func (s *session) replay(r *replayed, at int64, e record.Entry) {
	switch e.What {
	case record.NodeFrame:
		head, err := wire.Peek(e.Body)
		if err == nil && head.Seq >= 0 && s.lanes[node].look(head.Seq) == isNew {
			s.lanes[node].hold(&held{seq: head.Seq, size: len(e.Body), at: at})
			if head.Kind == wire.KindEnd {
				s.endID = head.ID
			}
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
	case record.PersonJoined, record.NodeJoined:
		at := person
		if e.What == record.NodeJoined {
			at = node
		}
		r.joined[at], r.left[at] = true, time.Time{}
		if at == node {
			r.process = wire.Process{}
			json.Unmarshal(e.Body, &r.process) // a log of before has none
		}
	case record.PersonLeft:
		r.left[person] = e.At
	case record.NodeLeft:
		r.left[node] = e.At
	case record.Fate:
		var f fate
		if json.Unmarshal(e.Body, &f) == nil {
			r.ended, r.endAt = &f, e.At
		}
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

// saving is the session as it is about to be saved.
func (s *session) saving() sallyport.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unsaved = false
	return *s.rec
}

// save writes the session's state to the store. A store that refuses, as on a
// full disk, is tried again; the session goes on meanwhile.
func (s *session) save(ctx context.Context) bool {
	rec := s.saving()
	if rec.State().Final() {
		return true // finish saves it, with what is known of the log
	}
	if err := s.b.Store.Sessions().Advance(ctx, &rec); err != nil && !errors.Is(err, store.ErrOutOfTurn) {
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
