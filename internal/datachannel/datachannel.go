// Package datachannel carries a stream between the two ends of a session: what
// one end sends, the other receives, in order and once.
//
// Under it is a chain of sockets and a relay, any of which may go away and be
// replaced. A [Stream] outlives them. It numbers what it sends and keeps a copy
// until the other end acknowledges it; what it receives it puts in order, drops
// if it has had it before, and acknowledges:
//
//	Send ──▶ number, keep ──▶ ┌──────┐ ──▶ order, drop repeats ──▶ Receive
//	           ▲              │ Conn │              │
//	           └─ acknowledge ◀──────┘ ◀── acknowledge
//
// Both ends are the same code. The other end may be AWS's instead, which
// decides most of what is done here: see DESIGN.md. Between two of ours, once
// each knows of the other ([Stream.SetPeer]), messages are larger, one
// acknowledgement stands for many, and the receiver says how much it has room
// for.
//
// A Stream promises:
//
//   - What was sent is received, in order and once, as long as the ends are
//     joined by one Conn after another. No Conn need deliver anything.
//   - It holds no more than Stream.SendBuffer and Stream.ReceiveBuffer allow.
//     When the other end falls behind, Send waits; nothing is dropped.
//   - It never floods: what is sent again is bounded, and ever more rarely sent.
//
// It outlives its process too, if that writes down its [State] between two
// sockets for another to go on from.
//
// What the messages mean, who speaks first, and whether they are encrypted, with
// what key ([Stream.Encrypt]), is for the ends.
package datachannel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/internal/panics"
	"github.com/sallyport/sallyport/internal/wire"
)

// Defaults, and what bounds a stranger.
const (
	DefaultSendBuffer    = 2 << 20
	DefaultReceiveBuffer = 4 << 20

	// stockChunk is how much of a stream AWS's programs put in a message, and
	// all that some other clients have room for. bigChunk is ours.
	stockChunk = 1 << 10
	bigChunk   = 64<<10 - wire.Overhead

	// maxAhead is how far beyond the next message one may be and still be
	// kept. The stock agent keeps as many (agent/session/config/config.go).
	maxAhead = 100_000

	// maxAcks bounds the acknowledgements waiting for the socket. One that
	// does not fit is made good when its message is sent again.
	maxAcks = 4096

	// quiet is how much may be unacknowledged while a socket is sure to take
	// more at once: less than the least the system keeps for one.
	quiet = 8 << 10
)

// ErrClosed is what a closed stream answers.
var ErrClosed = errors.New("stream closed")

// Capabilities are what an end that uses this package may announce.
func Capabilities() []string { return []string{wire.CapBigFrames, wire.CapThrough, wire.CapChecksum} }

// A Conn is a socket that carries whole frames. It may lose, repeat or reorder
// them. When ctx ends, both methods return.
type Conn interface {
	// ReadFrame returns the next frame, which is good until the next call.
	ReadFrame(ctx context.Context) ([]byte, error)

	// WriteFrame writes one frame, and keeps none of it. It may be called by
	// several goroutines at once.
	WriteFrame(ctx context.Context, frame []byte) error
}

// A Message is one message of a stream.
type Message struct {
	Kind    wire.Kind
	Payload []byte // good until the next Receive
}

// A Stream is one end of a session's data channel. Set its exported fields
// before first use.
//
// One goroutine at a time may Run, one may Receive, any number may Send.
type Stream struct {
	// Sends is what this end's messages are: TypeOutputStreamData at the
	// node's, TypeInputStreamData at the person's. It receives the other.
	Sends wire.Type

	// SendBuffer is how many bytes of frames may wait to be acknowledged
	// before Send waits too. 0 means DefaultSendBuffer.
	SendBuffer int

	// ReceiveBuffer is how many bytes of frames are acknowledged before they
	// are received. 0 means DefaultReceiveBuffer. As many again are kept
	// without being acknowledged, for a peer that takes no notice, and as many
	// out of order.
	ReceiveBuffer int

	// Control is called with every message that is not the stream's own:
	// channel_closed, agent_session_state, sallyport_peer (which the stream
	// has then acted on), and messages of unknown types. It is called from
	// Run, between the messages it came between, and holds Run up: it must
	// not wait. The frame's payload is good until it returns. Nil ignores them.
	Control func(wire.Frame)

	// Direct, if it is not nil, is offered a message before Receive is, when
	// Receive has returned none that its caller may still be busy with. It is
	// called from Run, holds Run up, and must not wait: it says how many bytes
	// of the payload it has taken without waiting. Receive returns the rest, or
	// the whole message if that is less than 0. It saves a keystroke the way
	// through another goroutine, which on a machine at rest is a thread to be
	// woken on another processor.
	Direct func(Message) (taken int)

	cipher atomic.Pointer[Cipher]

	setup sync.Once
	birth time.Time     // times below are durations since
	wake  chan struct{} // the pump has something to do: holds one token
	came  chan struct{} // Receive has something to return: holds one token
	turn  chan struct{} // held by the Send whose message is next: holds one token

	mu       sync.Mutex
	link     *link // the socket, while there is one
	alarm    time.Duration
	closed   bool
	paused   bool // by pause_publication
	ending   bool // the last message is numbered: neither a pause nor a lack of credit holds what is left
	acking   bool // the pump is writing acknowledgements
	through  bool // the peer batches acknowledgements and gives credit
	big      bool // the peer takes big frames
	checksum bool // and reads checksums
	sender   sender
	receiver receiver
	room     bell // there is room to send
	idle     bell // everything sent is acknowledged
	settled  bell // everything that came is received, and done with
	last     *buffer
}

// A link is one Run: a socket, and what ends it.
type link struct {
	conn  Conn
	ctx   context.Context
	fail  context.CancelCauseFunc
	users sync.WaitGroup // Sends that are writing to conn
}

const never = time.Duration(math.MaxInt64)

func (s *Stream) init() {
	s.setup.Do(func() {
		if s.Sends != wire.TypeInputStreamData && s.Sends != wire.TypeOutputStreamData {
			panic("datachannel: Stream.Sends is not a type of stream")
		}
		if s.SendBuffer == 0 {
			s.SendBuffer = DefaultSendBuffer
		}
		if s.ReceiveBuffer == 0 {
			s.ReceiveBuffer = DefaultReceiveBuffer
		}
		s.birth = time.Now()
		s.wake = make(chan struct{}, 1)
		s.came = make(chan struct{}, 1)
		s.turn = make(chan struct{}, 1)
		s.alarm = never
		s.sender.init()
		s.receiver.init()
	})
}

func (s *Stream) receives() wire.Type {
	if s.Sends == wire.TypeInputStreamData {
		return wire.TypeOutputStreamData
	}
	return wire.TypeInputStreamData
}

// Run moves the stream over conn until conn fails, ctx ends or the stream is
// closed, which alone is no error. It closes nothing, and no longer uses conn
// when it returns. A panic, on the way or in Control or Direct, is an error too.
//
// The stream survives. Run it again over another Conn, and everything that was
// not acknowledged is sent again at once, in order.
func (s *Stream) Run(ctx context.Context, conn Conn) error {
	s.init()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	l := &link{conn: conn, ctx: ctx, fail: fail}
	if err := s.attach(l); err != nil {
		if errors.Is(err, ErrClosed) {
			return nil
		}
		return err
	}
	l.users.Go(func() {
		err := panics.Run(func() error {
			s.pump(l)
			return nil
		})
		if err != nil {
			fail(err)
		}
	})
	fail(panics.Run(func() error { return s.read(l) }))
	s.detach()
	l.users.Wait()
	if err := context.Cause(ctx); !errors.Is(err, ErrClosed) {
		return err
	}
	return nil
}

func (s *Stream) attach(l *link) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	if s.link != nil {
		return errors.New("run stream: it is running")
	}
	s.link = l
	s.paused = false // as with the stock agent: the peer that paused the old socket may be gone
	s.sender.rewind()
	s.receiver.report = s.through // the peer may have missed the last one
	return nil
}

func (s *Stream) detach() {
	s.mu.Lock()
	s.link = nil
	s.mu.Unlock()
}

// Send sends p, cut into as many messages as the other end likes, and returns
// when they are numbered and kept: not when they have arrived, for which see
// [Stream.Flush]. It waits while SendBuffer is full, until ctx ends. It also
// writes to the socket, and takes as long as the socket does.
//
// Only bytes are cut: a message of another kind goes out whole.
func (s *Stream) Send(ctx context.Context, kind wire.Kind, p []byte) error {
	for len(p) > 0 {
		n := len(p)
		if kind == wire.KindOutput || kind == wire.KindStdErr {
			n = min(n, s.Chunk())
		}
		if err := s.SendMessage(ctx, kind, p[:n]); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// Chunk is how many bytes Send puts in a message now. It is for those who read
// what they send, so that messages are full.
func (s *Stream) Chunk() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	chunk := stockChunk
	if s.big {
		chunk = bigChunk
	}
	if s.cipher.Load() != nil {
		chunk -= sealing
	}
	return chunk
}

// takeTurn waits until no other goroutine sends. The caller gives the turn back by
// receiving from s.turn.
func (s *Stream) takeTurn(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// SendMessage sends one message, whole, as [Stream.Send] does. One that is
// empty is not sent: AWS's programs cannot read it.
func (s *Stream) SendMessage(ctx context.Context, kind wire.Kind, p []byte) error {
	s.init()
	if len(p) == 0 {
		return nil
	}
	p = s.seal(kind, p)
	if err := s.takeTurn(ctx); err != nil {
		return err
	}
	defer func() { <-s.turn }()

	seq, err := s.waitForRoom(ctx, wire.Overhead+len(p))
	if err != nil {
		return err
	}
	return s.number(seq, kind, p)
}

// SendLast sends the last message of the stream, as [Stream.SendMessage] does,
// but without waiting for room. What has not been written by then is written even if
// the other end has no room for it: it is at most SendBuffer, and a relay between the
// two keeps it. Nothing may be sent after it.
func (s *Stream) SendLast(ctx context.Context, kind wire.Kind, p []byte) error {
	s.init()
	p = s.seal(kind, p)
	if err := s.takeTurn(ctx); err != nil {
		return err
	}
	defer func() { <-s.turn }()
	s.mu.Lock()
	s.ending = true
	seq := s.sender.next()
	token(s.wake)
	s.mu.Unlock()
	return s.number(seq, kind, p)
}

// number makes p message seq, keeps it and writes it. The caller has the turn.
func (s *Stream) number(seq int64, kind wire.Kind, p []byte) (err error) {
	f := wire.NewFrame(s.Sends, p, time.Now())
	f.Seq, f.Kind = seq, kind
	s.mu.Lock()
	f.Checksum = s.checksum
	s.mu.Unlock()
	if seq == 0 && s.Sends == wire.TypeOutputStreamData {
		f.Flags = wire.SYN // as the stock agent, and not the stock client, does
	}
	frame := newBuffer(wire.Overhead + len(p))
	if frame.b, err = f.AppendBinary(frame.b); err != nil {
		frame.release()
		return fmt.Errorf("send message: %w", err)
	}

	l, err := s.push(frame)
	if l != nil {
		s.transmit(l, seq)
	}
	return err
}

// push keeps a frame until it is acknowledged. It returns the link to write it
// to, or nil if that is the pump's to do.
func (s *Stream) push(frame *buffer) (*link, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		frame.release()
		return nil, ErrClosed
	}
	s.sender.push(frame)
	l := s.link
	if l != nil && !s.through && (s.acking || len(s.receiver.acks) > 0) {
		// What we answer is acknowledged first, as stock agents do: a stock
		// client's port session ends if another message comes right after the
		// handshake's last.
		token(s.wake)
		l = nil
	}
	return l, nil
}

// TrySend sends p as one message if that can be done without waiting, neither
// for room nor for the socket, and reports whether it has: nothing else is being
// sent, and so little is unacknowledged that the system takes more at once. It
// is for a goroutine that must not wait and can leave the message to one that may.
func (s *Stream) TrySend(kind wire.Kind, p []byte) bool {
	s.init()
	if len(p) == 0 || len(p) > stockChunk {
		return false
	}
	s.mu.Lock()
	idle := s.link != nil && !s.isPaused() && !s.sender.busy && !s.sender.unsent() && s.sender.bytes <= quiet && s.sender.end < s.sender.limit
	s.mu.Unlock()
	if !idle {
		return false
	}
	select {
	case s.turn <- struct{}{}:
	default:
		return false
	}
	defer func() { <-s.turn }()
	p = s.seal(kind, p)
	size := wire.Overhead + len(p)
	s.mu.Lock()
	room := !s.closed && (s.sender.bytes == 0 || s.sender.bytes+size <= s.SendBuffer)
	seq := s.sender.next()
	s.mu.Unlock()
	return room && s.number(seq, kind, p) == nil
}

// waitForRoom waits until size bytes may be kept, and says which message they
// will be. The caller has the turn.
func (s *Stream) waitForRoom(ctx context.Context, size int) (seq int64, err error) {
	for {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return 0, ErrClosed
		}
		if s.sender.bytes == 0 || s.sender.bytes+size <= s.SendBuffer {
			seq = s.sender.next()
			s.mu.Unlock()
			return seq, nil
		}
		room := s.room.wait()
		s.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// Flush waits until everything sent has been acknowledged.
func (s *Stream) Flush(ctx context.Context) error {
	return s.await(ctx, &s.idle, func() bool { return s.sender.queue.n == 0 })
}

// Settle waits until Receive has returned everything that has come in order,
// and has been called again after that.
func (s *Stream) Settle(ctx context.Context) error {
	return s.await(ctx, &s.settled, func() bool { return s.receiver.ready.n == 0 && s.last == nil })
}

// await waits until done, which is asked under mu, whenever b has rung. Of a
// stream that is closed before that it returns ErrClosed.
func (s *Stream) await(ctx context.Context, b *bell, done func() bool) error {
	s.init()
	for {
		s.mu.Lock()
		if done() || s.closed {
			defer s.mu.Unlock()
			if done() {
				return nil
			}
			return ErrClosed
		}
		rung := b.wait()
		s.mu.Unlock()
		select {
		case <-rung:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Unsent reports whether some of what was sent has not been written to a socket
// yet.
func (s *Stream) Unsent() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sender.unsent()
}

// Progress returns how many messages were given to the stream, and how many of
// the first of them were acknowledged.
func (s *Stream) Progress() (acknowledged, sent int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sender.base, s.sender.next()
}

// Receive returns the next message, waiting for it until ctx ends. When the
// stream is closed it returns what had come by then, and after that io.EOF. A
// message that cannot be opened is [ErrSealed], and is gone.
func (s *Stream) Receive(ctx context.Context) (Message, error) {
	s.init()
	for {
		m, came, closed := s.pop()
		if came {
			return s.open(m)
		}
		if closed {
			return Message{}, io.EOF
		}
		select {
		case <-s.came:
		case <-ctx.Done():
			return Message{}, context.Cause(ctx)
		}
	}
}

// pop takes the next message, if one has come.
func (s *Stream) pop() (m Message, came, closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last != nil {
		s.last.release()
		s.last = nil
	}
	if s.receiver.ready.n == 0 {
		s.settled.ring()
		return m, false, s.closed
	}
	next := s.receiver.pop(s.through, s.ReceiveBuffer)
	s.last = next.data
	if s.receiver.pending(s.now()) {
		token(s.wake)
	}
	return Message{next.kind, next.data.b}, true, s.closed
}

// SetPeer says what the other end can do: what it announced, as a
// sallyport_peer message relayed it, which the stream also reads for itself.
// An end that has not been heard of is AWS's. It may change: messages already
// numbered keep their size.
func (s *Stream) SetPeer(capabilities []string) {
	s.init()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.big = slices.Contains(capabilities, wire.CapBigFrames)
	s.through = slices.Contains(capabilities, wire.CapThrough)
	s.checksum = slices.Contains(capabilities, wire.CapChecksum)
	s.receiver.report = s.through // at once: it says how much there is room for
	s.sender.limit = math.MaxInt64
	token(s.wake)
}

// Close ends the stream: Run returns, Send answers ErrClosed, Receive returns
// what has come and then io.EOF. Nothing sent is waited for.
func (s *Stream) Close() {
	s.init()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	if s.link != nil {
		s.link.fail(ErrClosed)
	}
	s.room.ring()
	s.idle.ring()
	s.settled.ring()
	token(s.came)
}

func (s *Stream) now() time.Duration { return time.Since(s.birth) }

// wakeBy has the pump look around no later than at. The caller holds mu.
func (s *Stream) wakeBy(at time.Duration) {
	if at < s.alarm {
		s.alarm = at // once is enough: the pump sets it anew before it sleeps
		token(s.wake)
	}
}

// token leaves a token in a channel that holds one.
func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// A bell wakes everyone who waits for it. Its owner's mutex guards it.
type bell struct{ c chan struct{} }

func (b *bell) wait() <-chan struct{} {
	if b.c == nil {
		b.c = make(chan struct{})
	}
	return b.c
}

func (b *bell) ring() {
	if b.c != nil {
		close(b.c)
		b.c = nil
	}
}
