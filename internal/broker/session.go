package broker

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
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

// mayFinish reports whether neither end has to be waited for any more. The
// caller holds mu.
func (s *session) mayFinish(now time.Time) bool {
	nodeGone := s.nodeDone || !s.attachedOnce[node] && s.fate == sallyport.Failed || !now.Before(s.endingAt.Add(endGrace))
	personGone := s.ends[person] == nil || !now.Before(later(s.endingAt, s.committedAt).Add(drainGrace))
	if s.owed() {
		personGone = !now.Before(s.owedUntil())
	}
	if e := s.ends[node]; e != nil && (len(e.control) > 0 || e.writing) && now.Before(s.endingAt.Add(endGrace)) {
		return false // the client's last acknowledgement may still arrive
	}
	return nodeGone && personGone
}

// owed reports whether the node has ended the session and the client has not
// been told so, and all that came before. The caller holds mu.
func (s *session) owed() bool {
	return s.fate == sallyport.Terminated && s.byNode && !s.told && s.log != nil
}

// owedUntil is when a client that is owed the end is given up: as late as one is
// that is away from a session that goes on. The caller holds mu.
func (s *session) owedUntil() time.Time {
	switch {
	case !s.attachedOnce[person]:
		return later(s.rec.Started, s.takenUp).Add(s.b.clientWait())
	case s.ends[person] == nil && s.endSent:
		// The end was written to its socket: it has it, or it reconnects.
		return s.detachedSince[person].Add(min(s.b.personGrace(), returnPerson))
	case s.ends[person] == nil:
		return s.lostAt(person)
	}
	return later(s.endingAt, s.takenAt).Add(s.b.personGrace())
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// repeatLast sends the oldest frame again that a client has not acknowledged for
// a while, once the node has been told that all of them are here, and does not
// do so any more. The caller holds mu.
func (s *session) repeatLast(now time.Time, due func(time.Time) bool) {
	e, l := s.ends[person], &s.lanes[node]
	if e == nil || !s.endKept() || len(l.held) == 0 || l.cursor == 0 || len(e.repeats) > 0 || !due(later(later(s.endingAt, s.takenAt), s.repeatedAt).Add(repeatAfter)) {
		return
	}
	s.repeatedAt = now
	e.repeats = l.again(e.repeats, l.held[0].seq)
	e.stir()
}

// beginEnd decides that the session ends, and why: a sentence, or "" if its
// shell simply ended. The caller holds mu. A session ends once.
func (s *session) beginEnd(fate sallyport.State, cause string) {
	if s.fate != 0 {
		return
	}
	now := time.Now()
	s.rec.Cause = cause
	if fate == sallyport.Terminated && s.rec.State() != sallyport.Terminating {
		if err := s.rec.Advance(sallyport.Terminating, now); err != nil { // allowed from every state that is not final
			s.out.Error("session ends out of turn", sallyport.LogErr, err)
		}
	}
	s.fate, s.endingAt, s.endedAt, s.unsaved = fate, now, now, true
	s.ending.Store(true)
	s.takenAt = now
	if !s.nodeDone {
		s.ends[node].says(s.closedFrame(false))
		s.tellNode = true
	}
	s.look()
}

// endedByNode decides that the session ends as the last message of the node's
// stream says. The caller holds mu.
func (s *session) endedByNode(msg wire.End) {
	s.byNode = true
	s.rec.ExitStatus = msg.ExitStatus
	cause := ""
	if msg.Failed {
		if cause = tidy(msg.Output); cause == "" {
			cause = "The agent on " + s.rec.Node.String() + " ended the session without saying why."
		}
	}
	s.beginEnd(s.nodesFate(cause), cause)
}

// nodesFate is what a session comes to that the node ended for a cause: one that
// did not begin has failed. The caller holds mu.
func (s *session) nodesFate(cause string) sallyport.State {
	if cause != "" && s.rec.State() == sallyport.Connecting {
		return sallyport.Failed
	}
	return sallyport.Terminated
}

// endAsReported decides that the session ends as the node reported on its
// control channel. The caller holds mu.
func (s *session) endAsReported() {
	msg := s.reported
	s.nodeDone, s.byNode = true, true
	s.rec.ExitStatus = msg.ExitStatus
	cause := ""
	switch {
	case msg.FinalTaskStatus != "Success":
		if cause = tidy(msg.Output); cause == "" {
			cause = "The agent on " + s.rec.Node.String() + " reported " + tidy(sallyport.Clip(msg.FinalTaskStatus, 32)) + "."
		}
	case msg.ExitStatus == nil:
		cause = s.silentEnd()
	}
	if cause == "" && s.lacks(msg) {
		cause = "What ran on " + s.rec.Node.String() + " has ended, and its agent was stopped before the last of its output was sent: that is lost."
	}
	s.beginEnd(s.nodesFate(cause), cause)
}

// lacks reports whether some of the node's stream never came, as an agent of ours
// reports its length. The caller holds mu.
func (s *session) lacks(msg *wire.AgentTaskComplete) bool {
	return msg.Messages != nil && s.lanes[node].missing(msg.Acknowledged, *msg.Messages) < *msg.Messages
}

// silentEnd is the cause of an end without an exit status. An agent of AWS's
// never says one; one of ours does, unless it was stopped. The caller holds mu.
func (s *session) silentEnd() string {
	if s.hasStatus && s.task.DocumentContent.SessionType != "Port" {
		return "The agent on " + s.rec.Node.String() + " ended the session without saying how its program ended."
	}
	return ""
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
	s.end(logFailed)
}

// logFailed is the cause of a session's end whose log cannot be written.
const logFailed = "The session's log cannot be written on the server, so the session cannot go on."

// lost ends a session that the agent's process has not, if it is the process that
// had the session, or one that has come after that.
func (s *session) lost(to wire.Process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fate != 0 || !s.attachedOnce[node] || s.process.Place == "" || to.Place != s.process.Place {
		return
	}
	cause := "The agent on " + s.rec.Node.String() + " was stopped or restarted, and has lost the session; what ran in it may run on."
	if to.Instance == s.process.Instance {
		cause = "The session had ended on " + s.rec.Node.String() + ", and how was lost with the server that was told."
	}
	s.nodeDone, s.byNode = true, true
	s.beginEnd(sallyport.Terminated, cause)
}

// A fate is how a session ended, as the log has it.
type fate struct {
	State      string
	Cause      string `json:",omitempty"`
	ExitStatus *int   `json:",omitempty"`
	ByNode     bool   `json:",omitempty"`
	EndSeq     int64  // -1 if the node's stream has no last message
	Told       bool   `json:",omitempty"` // in a log that took no acknowledgements any more: the client was told
}

// commit writes to disk how the session ends, and what of the node's stream is
// not there yet, and then has both ends told. It reports false if that has to be
// tried again.
//
// What cannot be stored is not told. The log of a session on a full disk takes
// nothing any more but its last entry, for which it has a reserve; a log that
// takes not even that leaves the store, which may be on another disk. If both
// fail, the client hears no more than that.
func (s *session) commit(ctx context.Context) bool {
	if err := s.b.Store.StillClaimed(ctx); err != nil {
		s.out.Error("end of session not told", sallyport.LogErr, err)
		return false
	}
	whole, kept, err := s.logEnd()
	if err != nil && whole {
		err = s.logLast(err)
		kept = err == nil
		if err != nil && s.save(ctx) {
			err = nil
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.out.Error("end of session not stored", sallyport.LogErr, err)
		if time.Since(s.endingAt) >= uncommitted {
			s.unstored(whole)
		}
		return false
	}
	s.committed, s.committedAt = true, time.Now()
	if kept && s.log != nil && s.endSeq >= 0 {
		s.kept = true
		s.ends[node].says(s.endAck())
	}
	if e := s.ends[person]; e != nil {
		e.stir()
	}
	return true
}

// unstored deals with an end that could not be stored for a while. One of a node
// whose stream is not whole in the log is given up for one that can be stored
// without it; for one that cannot be stored at all the client is told to wait. The
// caller holds mu.
func (s *session) unstored(whole bool) {
	e := s.ends[person]
	switch {
	case !whole:
		s.byNode, s.rec.ExitStatus, s.unsaved = false, nil, true
		s.rec.Cause = logFailed
	case !s.waitTold && e.can(wire.CapNotices):
		s.waitTold = true
		e.says(encode(wire.SallyportNotice{Text: "the session has ended, and the server's disk takes nothing: how it ended is told when it can be stored"}.Frame(time.Now())))
	}
}

// logEnd appends the end to the log, after what of the node's stream is in memory
// alone, and syncs it: kept. If it cannot, whole reports whether the end can be
// stored alone: the log has all of the node's stream, or the client does.
func (s *session) logEnd() (whole, kept bool, err error) {
	if s.log == nil {
		return true, true, nil
	}
	unwritten, end := s.unwritten()
	defer s.doneWriting(unwritten)
	for _, h := range unwritten {
		at, err := s.log.Append(record.Entry{At: time.Now(), What: record.NodeFrame, Body: h.frame.b})
		if err != nil {
			return !end.ByNode || h.seq == end.EndSeq && !s.log.SyncFailed() || s.hasAll(end), false, err
		}
		s.wrote(h, at)
	}
	body, err := json.Marshal(end)
	if err == nil {
		_, err = s.log.Append(record.Entry{At: time.Now(), What: record.Fate, Body: body})
	}
	if err == nil {
		err = s.log.Sync()
	}
	if err != nil {
		return !end.ByNode || !s.log.SyncFailed() || s.hasAll(end), false, err
	}
	return true, true, nil
}

// hasAll reports whether the client has acknowledged all of the node's stream but
// its end.
func (s *session) hasAll(end fate) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lanes[node].acked >= end.EndSeq-1
}

// logLast writes the end over the log's reserve. why is why it was not appended.
func (s *session) logLast(why error) error {
	s.mu.Lock()
	end := s.asFate()
	s.mu.Unlock()
	body, err := json.Marshal(end)
	if err == nil {
		err = s.log.AppendLast(record.Entry{At: time.Now(), What: record.Fate, Body: body})
	}
	if err != nil {
		return errors.Join(why, err)
	}
	s.out.Warn("end of session written over its log's reserve", sallyport.LogErr, why)
	return nil
}

// keepTold has a log that takes no acknowledgements any more, as on a full disk,
// know that the client was told of the end: a server that follows, if this one is
// killed before the end is saved, would wait for the client to come back.
func (s *session) keepTold() {
	if s.log == nil {
		return
	}
	why := s.log.Failed()
	s.mu.Lock()
	due := why != nil && s.committed && s.told && !s.toldKept
	s.toldKept = s.toldKept || due
	s.mu.Unlock()
	if !due {
		return
	}
	if err := s.logLast(why); err != nil {
		s.out.Error("session log failed", sallyport.LogErr, err)
	}
}

// asFate is how the session ends. The caller holds mu.
func (s *session) asFate() fate {
	return fate{State: s.fate.String(), Cause: s.rec.Cause, ExitStatus: s.rec.ExitStatus, ByNode: s.byNode, EndSeq: s.endSeq, Told: s.toldKept}
}

// unwritten lists the frames of a node's stream that is whole that are in memory
// alone, each with one user more, and how the session ends.
func (s *session) unwritten() (frames []*held, end fate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.endSeq >= 0 {
		for _, h := range s.lanes[node].held {
			if h.at == 0 && h.frame != nil {
				h.frame.users++
				frames = append(frames, h)
			}
		}
	}
	return frames, s.asFate()
}

// wrote notes where in the log h is.
func (s *session) wrote(h *held, at int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h.at = at
}

// doneWriting releases what unwritten listed.
func (s *session) doneWriting(frames []*held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range frames {
		h.frame.release()
	}
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
// while the session goes on, or its end is not on disk, or e has yet to
// acknowledge the node's last message. Only a person is told last of all; the
// node is told at once. The caller holds mu.
func (s *session) lastWord(e *end) []byte {
	if s.fate == 0 || !s.committed || e.side == node || s.sendsEnd(e) && len(s.lanes[node].held) > 0 {
		return nil
	}
	return s.closedFrame(e.can(wire.CapExitStatus))
}

// nodeGoing notes that the node says it is about to end.
func (s *session) nodeGoing() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.goingAt.IsZero() && s.endSeq < 0 {
		s.goingAt = time.Now()
		s.look()
	}
}

// complete notes the node's report, on its control channel, that the session is
// over there. What it said last may still be on its data channel. It reports
// whether ack may be sent now: an agent of ours keeps the end until then, so it is
// answered once the end is on disk. One of AWS's keeps nothing, and is answered
// at once.
func (s *session) complete(msg wire.AgentTaskComplete, ack []byte) (now bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fate != 0 {
		s.nodeDone = true
	} else if s.reported == nil {
		s.reported, s.reportedAt = &msg, time.Now()
	}
	s.look()
	if now = s.committed || msg.Messages == nil; !now {
		s.reportAck = ack
	}
	return now
}

// answerReport acknowledges the node's report of the end, which is on disk now. An
// agent that does not get it reports again, and is answered then.
func (s *session) answerReport(ctx context.Context) {
	s.mu.Lock()
	ack := s.reportAck
	s.reportAck = nil
	s.mu.Unlock()
	if ack == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := s.b.Bus.Send(ctx, s.rec.Node, ack); err != nil {
		s.out.Debug("report of the end not acknowledged", sallyport.LogErr, err)
	}
}

// tidy takes a stock agent's frame off its error text, and makes it printable.
func tidy(output string) string {
	output = strings.ReplaceAll(output, "----------ERROR-------", "")
	return sallyport.Clip(strings.TrimSpace(sallyport.Printable(output)), 1000)
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

// sealAgain is when a recording that could not be made is tried again.
const sealAgain = time.Minute

// finish seals the recording and saves the end; the log stays until that is
// done. It reports false if it has to be tried again.
func (s *session) finish(ctx context.Context) bool {
	s.release(errOver)

	if err := s.conclude(time.Now()); err != nil {
		s.out.Error("session ends out of turn", sallyport.LogErr, err)
	}
	if s.log != nil {
		s.log.Close()
	}
	var sealed record.Sealed
	sealErr := panics.Run(func() (err error) { // what reads the log meets what strangers sent
		sealed, err = s.b.Shelf.Seal(s.id)
		return err
	})
	if sealErr != nil && !errors.Is(sealErr, fs.ErrNotExist) {
		s.out.Error("recording not sealed", sallyport.LogErr, sealErr, panics.Stack(sealErr))
	}
	rec := s.copy()

	// A server that is stopping saves this much: the log is sealed already.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err := s.b.Store.Update(ctx, func(tx *store.Tx) error {
		if err := tx.Sessions().Seal(ctx, &rec, store.Log{Size: sealed.Size, Hash: sealed.SHA256}); err != nil {
			return err
		}
		if sealErr == nil || errors.Is(sealErr, fs.ErrNotExist) {
			return nil
		}
		return tx.Jobs().Add(ctx, store.Item{Kind: SealJob, Name: s.id.String(), Due: time.Now().Add(sealAgain)})
	})
	if err != nil && !errors.Is(err, store.ErrOutOfTurn) { // out of turn, an earlier try was carried out after all
		s.out.Error("end of session not saved", sallyport.LogErr, err)
		return false
	}
	if sealErr == nil {
		if err := s.b.Shelf.Discard(s.id, sealed); err != nil {
			s.out.Error("session log not removed", sallyport.LogErr, err)
		}
	}
	s.clear()
	s.b.forget(s)
	close(s.over)
	at, _ := rec.Ended()
	s.out.Info("session ended", "state", rec.State().String(), sallyport.LogCause, rec.Cause, sallyport.LogDuration, at.Sub(rec.Started).Round(time.Millisecond))
	return true
}

// conclude brings a session to its final state: its fate, or Terminated if that
// is not open to it.
func (s *session) conclude(now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rec.State().Final() {
		return nil
	}
	if s.log != nil && s.flow {
		s.note(fmt.Sprintf("%d bytes to the node, %d bytes from it", s.carried[person], s.carried[node]) + s.sums.String())
	}
	if n := len(s.lanes[node].held); s.log != nil && n > 0 && !s.told {
		s.note(fmt.Sprintf("the client has not acknowledged the last %s of what the node said", messages(n)))
	}
	if !s.endedAt.IsZero() {
		now = s.endedAt
	}
	if s.rec.Advance(s.fate, now) == nil {
		return nil
	}
	if s.rec.State() != sallyport.Terminating {
		if err := s.rec.Advance(sallyport.Terminating, now); err != nil {
			return err
		}
	}
	return s.rec.Advance(sallyport.Terminated, now)
}

// copy is the session as it is now.
func (s *session) copy() sallyport.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return *s.rec
}

// clear releases what the lanes hold.
func (s *session) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.lanes {
		s.lanes[i].clear()
	}
}

// suspend leaves a session to the next server, because this one is stopping. It
// stays in the store as it is.
func (s *session) suspend(cause error) {
	s.release(cause)
	if s.settle() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		s.save(ctx)
	}
	if s.log != nil {
		s.log.Close()
	}
}

// settle has the log learn of acknowledgements, releases what the lanes hold, and
// reports whether the store has to know of the session.
func (s *session) settle() (unsaved bool) {
	s.clear()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.log != nil {
		s.logAcks()
	}
	return s.unsaved
}

// release closes both ends' sockets, lets no other end attach, and returns when
// the ends' goroutines have.
func (s *session) release(cause error) {
	s.mu.Lock()
	s.released = cause
	ends := s.ends
	s.mu.Unlock()
	for _, e := range ends {
		if e != nil {
			e.cancel(cause)
			<-e.done
		}
	}
}

func messages(n int) string {
	if n == 1 {
		return "message"
	}
	return fmt.Sprintf("%d messages", n)
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
