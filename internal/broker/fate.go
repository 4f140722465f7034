package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/panics"
	"github.com/sallyport/sallyport/internal/record"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/wire"
)

// How a session ends: its fate is decided once, made durable, told to both ends, and
// then the session is sealed and forgotten.

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
		err := tx.Jobs().Add(ctx, store.Item{Kind: SealJob, Name: s.id.String(), Due: time.Now().Add(sealAgain)})
		if errors.Is(err, store.ErrQueueFull) { // the end does not wait for it: Tidy makes the recording
			s.out.Error("recording not queued", sallyport.LogErr, err)
			return nil
		}
		return err
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
