package broker

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/panics"
	"github.com/sallyport/sallyport/internal/record"
	"github.com/sallyport/sallyport/internal/wire"
)

// A Conn is one end's socket. Its methods return promptly once their context
// is done.
type Conn interface {
	// AppendFrame appends the next frame to b and returns it. An error is final:
	// the socket is of no more use.
	AppendFrame(ctx context.Context, b []byte) ([]byte, error)

	// WriteFrame sends a frame.
	WriteFrame(ctx context.Context, frame []byte) error
}

// Why an end's socket is closed.
var (
	errReplaced = errors.New("the same end has opened another socket")
	errOver     = errors.New("the session is over")
	errBroke    = errors.New("code of the server panicked, which the log has in a line of its own")
)

// Bounds of what waits for a socket besides stream data. An acknowledgement that
// finds no room is dropped: it is remembered, and its frame will be repeated
// and answered.
const (
	maxControl  = 256 << 10 // bytes of acknowledgements and notices
	maxAckFrame = 4 << 10   // of an acknowledgement: AWS's have 300 bytes
	maxEndFrame = 8 << 10   // of a node's last message
	maxRepeats  = 64        // frames

	// maxSeq is the highest number of a message. Nothing sends as many.
	maxSeq = 1 << 62
)

// A side is one of the two ends of a session.
type side uint8

const (
	person side = iota
	node
)

func (s side) other() side { return 1 - s }

func (s side) String() string { return [...]string{"person", "node"}[s] }

// stream is the type of the stream messages the side sends.
func (s side) stream() wire.Type {
	return [...]wire.Type{wire.TypeInputStreamData, wire.TypeOutputStreamData}[s]
}

// joined and left are what the log says when the side attaches and detaches.
func (s side) joined() record.What {
	return [...]record.What{record.PersonJoined, record.NodeJoined}[s]
}

func (s side) left() record.What {
	return [...]record.What{record.PersonLeft, record.NodeLeft}[s]
}

// An end is one side's socket while it is attached. Its session's mu guards
// it, save what says otherwise.
type end struct {
	side    side
	conn    Conn // read by the one goroutine of pump, written by the one that has set writing
	caps    []string
	process wire.Process    // of a node's agent
	ctx     context.Context // the socket's
	cancel  context.CancelCauseFunc

	// first is the number of the first stream message on this socket; -1 before
	// it. An end of ours begins a socket with the oldest message that it has no
	// acknowledgement of, so it has one of all before.
	first int64

	control      [][]byte // acknowledgements and notices, sent before stream data
	controlBytes int
	repeats      []sending // held frames whose sender repeated them
	writing      bool      // a goroutine is writing to conn; one at a time, or frames would change places
	closedAt     time.Time // when channel_closed was written, after all else; zero before
	wake         chan struct{}
	done         chan struct{} // closed when both goroutines have returned
}

// says queues a control frame, and wakes the writer.
func (e *end) says(frame []byte) {
	if e == nil || len(frame) == 0 || e.controlBytes+len(frame) > maxControl {
		return
	}
	e.control = append(e.control, frame)
	e.controlBytes += len(frame)
	e.stir()
}

func (e *end) stir() {
	select {
	case e.wake <- struct{}{}:
	default: // it has yet to see the last one, which will do
	}
}

func (e *end) can(capability string) bool { return e != nil && slices.Contains(e.caps, capability) }

// encode writes a frame that the broker made itself. It returns nil, which is
// not sent, if the frame is longer than a frame may be. What strangers chose of
// its payload is bounded where they chose it: see [Broker.Start], [acceptable]
// and [Broker.Complete].
func encode(f wire.Frame) []byte {
	b, err := f.AppendBinary(nil)
	if err != nil {
		return nil
	}
	return b
}

// What is kept of the capabilities that an end announces. An end of ours
// announces six.
const (
	maxCapabilities = 32
	maxCapability   = 64
)

// acceptable is what is kept of the capabilities that an end announces: the
// first few, less those that are no names. They are passed on to the other end.
func acceptable(capabilities []string) (kept []string) {
	for _, c := range capabilities[:min(len(capabilities), maxCapabilities)] {
		if c != "" && len(c) <= maxCapability && strings.IndexFunc(c, func(r rune) bool { return r <= ' ' || r > '~' }) < 0 {
			kept = append(kept, c)
		}
	}
	return kept
}

// acceptableProcess is what is kept of the names that an agent gives itself.
func acceptableProcess(p wire.Process) wire.Process {
	if len(p.Instance) > maxCapability || len(p.Place) > maxCapability {
		return wire.Process{}
	}
	return p
}

// attach makes conn the side's socket and carries frames until it fails, is
// replaced, or the session is over, which is a nil error. By then its
// goroutines have returned.
func (s *session) attach(ctx context.Context, at side, conn Conn, caps []string, process wire.Process) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	e := &end{side: at, conn: conn, caps: acceptable(caps), process: acceptableProcess(process), ctx: ctx, cancel: cancel, first: -1, wake: make(chan struct{}, 1), done: make(chan struct{})}
	defer s.vacate(e)

	for { // the socket it replaces must be silent before ours is heard
		old, err := s.enter(e)
		if err != nil {
			return err
		}
		if old == nil {
			break
		}
		old.cancel(errReplaced)
		select {
		case <-old.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}

	writer := make(chan error, 1)
	go func() {
		err := s.write(ctx, e)
		cancel(err)
		writer <- err
	}()
	err := s.pump(ctx, e)
	closedByPeer := context.Cause(ctx) == nil
	cancel(err)
	if werr := <-writer; errors.Is(werr, errOver) {
		err = werr // the cause; pump only saw its context end
	}
	s.detach(e, err, closedByPeer)
	if panics.Is(err) {
		s.broke(err)
		return errBroke
	}
	if errors.Is(err, errOver) || closedByPeer && !s.closedAt(e).IsZero() {
		return nil
	}
	return err
}

// enter makes e its side's end, unless there is another, which it returns.
func (s *session) enter(e *end) (old *end, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.ends[e.side]; old != nil {
		return old, nil
	}
	return nil, s.join(e)
}

// vacate detaches e if detach did not, because e failed before or code of ours
// panicked, and closes e.done, for which the end that replaces e waits.
func (s *session) vacate(e *end) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ends[e.side] == e {
		s.ends[e.side] = nil
		s.detachedSince[e.side] = time.Now()
	}
	close(e.done)
}

// broke ends a session in which code of ours panicked.
func (s *session) broke(err error) {
	s.out.Error("session panicked", sallyport.LogErr, err, panics.Stack(err))
	s.mu.Lock()
	defer s.mu.Unlock()
	fate := sallyport.Terminated
	if s.rec.State() == sallyport.Connecting {
		fate = sallyport.Failed
	}
	s.beginEnd(fate, "The server met an error of its own in this session. Its operator's log has the details.")
}

// unlocked calls f without mu, which the caller holds.
func (s *session) unlocked(f func() error) error {
	s.mu.Unlock()
	defer s.mu.Lock()
	return f()
}

// closedAt is when e was sent channel_closed; zero before.
func (s *session) closedAt(e *end) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return e.closedAt
}

// pump owns the reads of e's socket. It always keeps reading, so that pings
// are answered and a stock agent, which has six seconds of patience, stays.
func (s *session) pump(ctx context.Context, e *end) (err error) {
	defer panics.Recover(&err)
	buf := getBuffer(4 << 10)
	for {
		frame, err := e.conn.AppendFrame(ctx, buf.b[:0])
		buf.b = frame
		if err != nil {
			buf.put()
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return fmt.Errorf("read from %s: %w", e.side, err)
		}
		size := len(frame)
		kept, err := s.receive(e, buf)
		if err != nil {
			if !kept {
				buf.put()
			}
			return err
		}
		if kept || cap(buf.b) > 4<<10 && 8*size < cap(buf.b) {
			if !kept {
				buf.put()
			}
			buf = getBuffer(max(size, 4<<10))
		}
	}
}

// receive deals with one frame from e. It reports whether it kept the buffer.
// A frame that makes no sense is dropped, as both of AWS's programs do.
func (s *session) receive(e *end, buf *buffer) (kept bool, err error) {
	frame := buf.b
	head, err := wire.Peek(frame)
	if err != nil {
		s.b.dropped.Add(1)
		return false, nil
	}
	switch head.Type {
	case e.side.stream():
		return s.receiveStream(e, head, buf)
	case wire.TypeAcknowledge:
		ack, err := wire.ReadAck(frame[head.Payload:])
		if err != nil || ack.Seq < -1 || len(frame) > maxAckFrame {
			s.b.dropped.Add(1)
			return false, nil
		}
		s.receiveAck(e, ack, frame)
	case wire.TypeAgentSessionState:
		var state wire.AgentSessionState
		if e.side == node && unmarshal(frame, &state) == nil && state.SessionState == "Terminating" {
			s.nodeGoing()
		}
	}
	return false, nil
}

// A reception is what becomes of a stream message.
type reception uint8

const (
	dealtWith reception = iota
	unwelcome           // there is no room now: it is not acknowledged, and its sender repeats it
	tooMuch             // the lane is at its hard bound: the session ends
	logged              // it is kept in the log alone
	inHand              // it is kept in memory too
)

// greet answers a stream message that came before, takes the last message of a
// node, and says what becomes of one that is new.
func (s *session) greet(e *end, head wire.Head, frame []byte) reception {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.first < 0 && head.Seq <= maxSeq {
		e.first = head.Seq
	}
	if e.side == node && s.endKept() && head.Seq <= s.endSeq {
		e.says(s.endAck())
		return dealtWith
	}
	l := &s.lanes[e.side]
	switch l.look(head.Seq) {
	case isAcked:
		// Its acknowledgement was lost, or is on its way.
		e.says(encode(wire.Ack{Type: head.Type, ID: head.ID, Seq: head.Seq}.Frame(time.Now())))
		return dealtWith
	case isHeld:
		if to := s.ends[e.side.other()]; to != nil && len(to.repeats) < maxRepeats && head.Seq < s.unsentFrom(to) {
			to.repeats = l.again(to.repeats, head.Seq)
			to.stir()
		}
		return dealtWith
	}
	switch {
	case e.side == node && head.Kind == wire.KindEnd && e.can(wire.CapEnd):
		s.receiveEnd(e, head, frame)
		return dealtWith
	case e.side == node && l.bytes > hardCap:
		return tooMuch
	case len(l.held) >= maxHeld || head.Seq < 0 || head.Seq > maxSeq,
		e.side == person && (l.bytes > typedAhead || s.fate != 0),
		e.side == node && (s.endSeq >= 0 || s.fate != 0 && !s.byNode): // after the end, output is neither recorded nor sent to the client
		return unwelcome
	case e.side == node && l.memory > inMemory && s.spills():
		return logged
	case e.side == node && l.memory > 2*inMemory:
		return unwelcome
	}
	return inHand
}

func (s *session) receiveStream(e *end, head wire.Head, buf *buffer) (kept bool, err error) {
	frame := buf.b
	l := &s.lanes[e.side]
	how := s.greet(e, head, frame)
	switch how {
	case dealtWith:
		return false, nil
	case tooMuch:
		s.end("The client was away for too long: what the node said no longer fits.")
		return false, errOver
	case unwelcome:
		s.b.dropped.Add(1)
		return false, nil
	}

	// Written before it is passed on. Only this goroutine takes frames into
	// this lane, so nothing has changed when mu is taken again.
	h := &held{seq: head.Seq, size: len(frame)}
	if s.sums[e.side] != nil { // of this goroutine alone
		s.sums.add(e.side, head, frame[head.Payload:])
	}
	full := !s.flow && s.log.Size() > s.b.Limits.recording()
	switch {
	case full && e.side == node && s.isUnlogged(true) && how == inHand:
	case e.side == node && !full && s.isUnlogged(false) && how == inHand:
	case full && e.side == person:
	case e.side == node:
		h.at, err = s.log.Append(record.Entry{At: time.Now(), What: record.NodeFrame, Body: frame})
	case head.Kind == wire.KindSize:
		_, err = s.log.Append(record.Entry{At: time.Now(), What: record.PersonFrame, Body: frame})
	}
	if err != nil {
		s.unloggable(err)
		return false, errOver
	}
	if how == inHand {
		h.frame, kept = buf.fit()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	passed := l.hold(h)
	s.carried[e.side] += int64(len(frame) - head.Payload)
	s.stirred = time.Now()
	if to := s.ends[e.side.other()]; to != nil {
		if passed && len(to.repeats) < maxRepeats {
			to.repeats = append(to.repeats, h.send())
		}
		if !s.passOn(to, l, h) {
			to.stir()
		}
	}
	if e.side == node && s.early != nil && head.Seq == s.missing { // one of the messages that the end waits for
		if head, err := wire.Peek(s.early); err == nil {
			s.receiveEnd(e, head, s.early)
		}
	}
	s.regulate(e.side == person)
	return kept, nil
}

// isUnlogged reports whether what the node says is in the log only while it must
// wait. That is so from the moment on when the log is full, if it ever is: then
// the session ends, or its recording does.
func (s *session) isUnlogged(full bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !full || s.unlogged {
		return s.unlogged
	}
	s.unlogged = true
	s.note("the recording ends here: it has " + size(s.log.Size()) + ", which is all it may have")
	if s.b.Limits.EndAtRecording {
		s.beginEnd(sallyport.Terminated, "The session's recording has "+size(s.b.Limits.recording())+", which is all it may have, and the server is to end sessions then.")
	} else if to := s.ends[person]; to.can(wire.CapNotices) {
		to.says(encode(wire.SallyportNotice{Text: "the recording of this session is full: what is shown from here on is not recorded"}.Frame(time.Now())))
	}
	return true
}

// spills reports whether what a client cannot take yet may wait in the log: not of
// a flow, nor once the log has all it may have. The node is paused then, and
// repeats what does not fit. The caller holds mu.
func (s *session) spills() bool { return !s.flow && s.log.Size() <= s.b.Limits.recording() }

// receiveEnd deals with the last message of the node's stream. It is taken once
// all before it is here; until then it is set aside. The caller holds mu.
func (s *session) receiveEnd(e *end, head wire.Head, frame []byte) {
	var msg wire.End
	l := &s.lanes[node]
	switch {
	case s.endSeq >= 0 || head.Seq < 0 || head.Seq > maxSeq || head.Seq <= l.newest || len(frame) > maxEndFrame || unmarshal(frame, &msg) != nil:
		s.b.dropped.Add(1)
		return
	case s.fate != 0 && !s.byNode: // ended by something else before, and not for its client any more
		s.endSeq, s.endID, s.nodeDone = head.Seq, head.ID, true
		if s.committed {
			e.says(s.endAck())
		}
		s.look()
		return
	}
	if missing := l.missing(e.first, head.Seq); missing < head.Seq {
		s.early, s.missing = slices.Clone(frame), missing
		return
	}
	buf := getBuffer(len(frame))
	buf.b = append(buf.b[:0], frame...)
	l.hold(&held{seq: head.Seq, size: len(frame), frame: buf})
	s.early, s.endSeq, s.endID = nil, head.Seq, head.ID
	s.nodeDone = true
	if s.fate == 0 {
		s.endedByNode(msg)
	}
	s.look()
}

// endKept reports whether the node need not keep its stream any more: it is
// whole here and on disk, or the session ended otherwise before. The caller holds
// mu.
func (s *session) endKept() bool { return s.kept || s.endSeq >= 0 && s.committed && !s.byNode }

// endAck acknowledges all of the node's stream.
func (s *session) endAck() []byte {
	return encode(wire.Ack{Type: wire.TypeOutputStreamData, ID: s.endID, Seq: s.endSeq, Through: true}.Frame(time.Now()))
}

// unsentFrom is the number from which on the node's stream is not sent to an
// end: its last message is for clients that know it, once it is on disk, and if
// it is how the session ended. The caller holds mu.
func (s *session) unsentFrom(to *end) int64 {
	if to.side == person && s.endSeq >= 0 && !s.sendsEnd(to) {
		return s.endSeq
	}
	return math.MaxInt64
}

// sendsEnd reports whether the node's last message is sent to e. The caller
// holds mu.
func (s *session) sendsEnd(e *end) bool {
	return s.endSeq >= 0 && s.committed && s.byNode && e.can(wire.CapEnd)
}

// passOn writes h, which has just joined the lane, at once and from here, if
// that cannot wait: nothing is to be sent before it, and so little of the lane
// is unacknowledged that the system takes more. A keystroke and its echo are
// spared the way through the writer, which is a thread to be woken on another
// processor. It reports false if it is the writer's. The caller holds mu, which
// is released meanwhile.
func (s *session) passOn(to *end, l *lane, h *held) bool {
	if to.writing || !to.closedAt.IsZero() || h.frame == nil || len(to.control) > 0 || len(to.repeats) > 0 || l.bytes > atOnce ||
		l.cursor != len(l.held)-1 || l.held[l.cursor] != h {
		return false
	}
	to.writing = true
	l.cursor++
	out := h.send()
	defer func() {
		out.done()
		to.writing = false
	}()
	if err := s.unlocked(func() error { return s.send(to.ctx, to, out.frame.b) }); err != nil {
		to.cancel(err)
	}
	if len(to.control) > 0 || len(to.repeats) > 0 || l.cursor < len(l.held) || s.fate != 0 {
		to.stir() // for what has come meanwhile
	}
	return true
}

// receiveAck passes on that e has what the other end sent.
func (s *session) receiveAck(e *end, ack wire.Ack, frame []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &s.lanes[e.side.other()]
	before := l.acked
	l.ack(ack)
	if to := s.ends[e.side.other()]; to != nil && !(to.side == node && s.endKept()) {
		to.says(slices.Clone(frame))
	}
	if l.acked != before && s.ackAt.IsZero() {
		s.ackAt = time.Now().Add(ackDelay)
		s.look()
	}
	if e.side == person && l.acked != before {
		s.takenAt = time.Now()
		if s.fate != 0 {
			if s.endSeq >= 0 && l.acked >= s.endSeq && s.sendsEnd(e) {
				s.told = true
			}
			e.stir()
		}
	}
	s.regulate(e.side == person)
}

// regulate tells the node to pause when too much waits for the person, and to
// go on when there is room. One of AWS's is paused while the person is away, or
// it would repeat itself all the time; ours knows how much there is room for, and
// what it says until then is here if its shell ends. What is forwarded to a
// stock agent un-pauses it, so after that it is told again.
func (s *session) regulate(forwardedToNode bool) {
	to := s.ends[node]
	if to == nil || s.unpausable {
		return
	}
	waiting, high := s.lanes[node].bytes, highWater
	if !s.spills() {
		high = inMemory
	}
	switch {
	case !s.paused && (waiting > high || s.attachedOnce[person] && s.ends[person] == nil && !to.can(wire.CapThrough)),
		s.paused && forwardedToNode && waiting > lowWater:
		s.paused = true
		to.says(encode(wire.Bare(wire.TypePausePublication, time.Now())))
	case s.paused && s.ends[person] != nil && waiting <= lowWater:
		s.paused = false
		to.says(encode(wire.Bare(wire.TypeStartPublication, time.Now())))
	}
}

// write owns the writes of e's socket: control frames first, so that an
// acknowledgement is never stuck behind output, then the lane in order. After
// channel_closed it writes nothing, and returns when drainGrace is over: the
// client closes the socket before that. Closed from here, with input of the
// client's unread, it would be reset, and what was written last be lost.
func (s *session) write(ctx context.Context, e *end) (err error) {
	defer panics.Recover(&err)
	var scratch []byte
	var batch []sending
	for {
		control, last := s.takeToWrite(e, &batch)
		if len(control) == 0 && len(batch) == 0 {
			if err := s.sleep(ctx, e); err != nil {
				return err
			}
			continue
		}
		err := s.writeAll(ctx, e, control, batch, &scratch)
		s.written(e, batch, last && err == nil)
		if err != nil {
			return err
		}
	}
}

// takeToWrite takes what is to be written to e: control frames and stream
// messages or, when there are none and the session is over, the last word, which
// is then the only control frame. It takes nothing while passOn writes, which
// wakes the writer if it has to, nor after the last word.
func (s *session) takeToWrite(e *end, batch *[]sending) (control [][]byte, last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*batch = (*batch)[:0]
	if e.writing || !e.closedAt.IsZero() {
		return nil, false
	}
	control, e.control, e.controlBytes = e.control, nil, 0
	*batch = append(*batch, e.repeats...)
	e.repeats = e.repeats[:0]
	l := &s.lanes[e.side.other()]
	*batch = l.take(*batch, 16, s.unsentFrom(e))
	if e.side == person && s.endSeq >= 0 && l.cursor > 0 && l.held[l.cursor-1].seq == s.endSeq {
		s.endSent = true
	}
	if len(control) == 0 && len(*batch) == 0 {
		if word := s.lastWord(e); word != nil {
			control, last = [][]byte{word}, true
		}
	}
	e.writing = len(control) > 0 || len(*batch) > 0
	return control, last
}

// written releases what has been written to e. The last word is noted, if it was
// that.
func (s *session) written(e *end, batch []sending, last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.writing = false
	for i, out := range batch {
		out.done()
		batch[i] = sending{}
	}
	if last {
		e.closedAt = time.Now()
	}
	if s.fate != 0 && e.side == node {
		s.look() // run decides whether the session can be finished now
	}
}

// sleep waits until the writer is woken, or a client that was told that the
// session is over has had its time to close the socket.
func (s *session) sleep(ctx context.Context, e *end) error {
	var late <-chan time.Time
	if at := s.closedAt(e); !at.IsZero() {
		timer := time.NewTimer(time.Until(at.Add(drainGrace)))
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-late:
		return errOver
	case <-e.wake:
		return nil
	}
}

func (s *session) writeAll(ctx context.Context, e *end, control [][]byte, batch []sending, scratch *[]byte) error {
	for _, frame := range control {
		if err := s.send(ctx, e, frame); err != nil {
			return err
		}
	}
	for _, out := range batch {
		if out.frame != nil { // the buffer is not reused while users counts this writer
			if err := s.send(ctx, e, out.frame.b); err != nil {
				return err
			}
			continue
		}
		var err error
		if *scratch, err = s.log.ReadBody((*scratch)[:0], out.at); err != nil {
			return err
		}
		if err := s.send(ctx, e, *scratch); err != nil {
			return err
		}
	}
	return nil
}

// send writes one frame as it is, but for a checksum that only an end of ours
// understands, where a program of AWS's has taken the place of one.
func (s *session) send(ctx context.Context, e *end, frame []byte) error {
	if !e.can(wire.CapChecksum) && wire.HasChecksum(frame) {
		head, err := wire.Peek(frame)
		if err != nil {
			return err
		}
		frame = slices.Clone(frame)
		wire.Digest(frame, head)
	}
	if err := e.conn.WriteFrame(ctx, frame); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return fmt.Errorf("write to %s: %w", e.side, err)
	}
	return nil
}

// unmarshal reads a message for us, digest and all.
func unmarshal(frame []byte, v any) error {
	f, err := wire.Decode(frame)
	if err != nil {
		return err
	}
	return f.Unmarshal(v)
}

// peer tells e, if it is an end of ours, what the other end can do.
func (e *end) peer(other *end) {
	if e == nil || len(e.caps) == 0 || other == nil {
		return
	}
	e.says(encode(wire.SallyportPeer{Capabilities: other.caps, Version: sallyport.Version}.Frame(time.Now())))
}
