package datachannel

import (
	"fmt"
	"math"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
)

// Three goroutines move a stream. Run's own reads, and never writes, so that
// two ends with full sockets cannot wait for each other. The goroutine that calls
// Send writes the message, with no hop between. The pump writes the rest:
// acknowledgements, what must be sent again, and what could not be sent when
// it was numbered.

func (s *Stream) read(l *link) error {
	for {
		b, err := l.conn.ReadFrame(l.ctx)
		if err != nil {
			return fmt.Errorf("read frame: %w", err)
		}
		s.handle(b)
	}
}

// handle acts on one frame. What cannot be read is dropped, as AWS's programs
// do: if it was of the stream it will be sent again.
func (s *Stream) handle(b []byte) {
	decode := wire.Decode
	if s.receives() == wire.TypeInputStreamData {
		decode = wire.DecodeInput
	}
	f, err := decode(b)
	if err != nil {
		return
	}
	switch f.Type {
	case s.receives():
		s.handleMessage(f)
	case s.Sends:
		// our own voice
	case wire.TypeAcknowledge:
		if ack, err := wire.ReadAck(f.Payload); err == nil {
			s.handleAck(ack)
		}
	case wire.TypePausePublication, wire.TypeStartPublication:
		s.mu.Lock()
		s.paused = f.Type == wire.TypePausePublication
		token(s.wake)
		s.mu.Unlock()
	default:
		if f.Type == wire.TypeSallyportPeer {
			var peer wire.SallyportPeer
			if f.Unmarshal(&peer) == nil {
				s.SetPeer(peer.Capabilities)
			}
		}
		if s.Control != nil {
			s.Control(f)
		}
	}
}

func (s *Stream) handleMessage(f wire.Frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	came := false
	if taken := s.offer(&f); taken > 0 && taken == len(f.Payload) {
		came = s.receiver.pass(f, now, s.through, s.ReceiveBuffer)
	} else {
		f.Payload = f.Payload[max(taken, 0):]
		came = s.receiver.take(f, now, s.through, s.ReceiveBuffer)
	}
	if came {
		token(s.came)
	}
	if s.receiver.pending(now) {
		token(s.wake)
	} else {
		s.wakeBy(s.receiver.reportAt)
	}
}

// offer has Direct take what it can of a message that is next, and returns how
// much that was. The caller holds mu, which is let go meanwhile: this goroutine
// alone takes messages in, and there are none that Receive could give out.
func (s *Stream) offer(f *wire.Frame) (taken int) {
	if s.Direct == nil || len(f.Payload) == 0 || !s.receiver.isNext(f.Seq) || s.last != nil || s.closed {
		return 0
	}
	s.mu.Unlock()
	defer s.mu.Lock()
	if s.cipher.Load() != nil && sealed(f.Kind) {
		return s.offerOpened(f)
	}
	return min(s.Direct(Message{f.Kind, f.Payload}), len(f.Payload))
}

func (s *Stream) handleAck(a wire.Ack) {
	s.mu.Lock()
	defer s.mu.Unlock()
	stalled := s.sender.unsent()
	s.sender.acknowledge(a, s.now(), s.through)
	if s.sender.bytes <= s.SendBuffer/4*3 {
		s.room.ring()
	}
	if s.sender.queue.n == 0 {
		s.idle.ring()
	}
	if stalled {
		token(s.wake) // there may be credit for it now
	}
	s.wakeBy(s.sender.resendAt)
}

// transmit writes what has not been on this socket yet, in order, up to and
// including message last. One goroutine at a time does so; another that comes
// leaves it to that one. What is left is the pump's: a Send does not carry
// others' messages after its own, and the pump has acknowledgements to write.
func (s *Stream) transmit(l *link, last int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sender.busy {
		return
	}
	s.sender.busy = true
	defer func() { s.sender.busy = false }()
	for s.link == l && l.ctx.Err() == nil && !s.isPaused() {
		if s.sender.mark > last {
			if s.sender.unsent() {
				token(s.wake)
			}
			break
		}
		frame := s.sender.first(s.now(), s.through, s.ending)
		if frame == nil {
			break
		}
		s.wakeBy(s.sender.resendAt)
		s.writeUnlocked(l, frame)
	}
	if s.link != nil && s.link != l {
		token(s.wake) // the new socket's pump saw busy and did nothing: it runs again
	}
}

// writeUnlocked writes a frame and releases it. The caller holds mu, which is
// let go meanwhile.
func (s *Stream) writeUnlocked(l *link, frame *buffer) {
	l.users.Add(1) // before Run can wait for it: s.link is still l
	s.mu.Unlock()
	defer func() {
		l.users.Done()
		s.mu.Lock()
		frame.release()
	}()
	if err := l.conn.WriteFrame(l.ctx, frame.b); err != nil {
		l.fail(fmt.Errorf("write frame: %w", err))
	}
}

// dues takes the acknowledgements that are due and the frames that must be sent
// again. Last is the newest message that may be written.
func (s *Stream) dues(acks []wire.Ack, lost []*buffer) (_ []wire.Ack, _ []*buffer, last int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	acks = s.receiver.takeAcks(acks, now, s.receives(), s.through, s.ReceiveBuffer)
	if !s.isPaused() {
		lost = s.sender.lost(lost, now, s.through)
	}
	s.acking = len(acks) > 0
	return acks, lost, s.sender.next() - 1
}

// isPaused reports whether what is sent has to wait for the peer to resume it. The caller holds mu.
func (s *Stream) isPaused() bool { return s.paused && !s.ending }

func (s *Stream) pump(l *link) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var (
		acks    []wire.Ack
		lost    []*buffer
		scratch []byte
		payload []byte
	)
	for {
		var last int64
		acks, lost, last = s.dues(acks[:0], lost[:0])
		var err error
		for _, a := range acks {
			payload = a.AppendJSON(payload[:0])
			f := wire.NewFrame(wire.TypeAcknowledge, payload, time.Now())
			f.Flags = wire.Alone
			if scratch, err = f.AppendBinary(scratch[:0]); err == nil {
				err = l.conn.WriteFrame(l.ctx, scratch)
			}
			if err != nil {
				break
			}
		}
		for _, frame := range lost {
			if err == nil {
				err = l.conn.WriteFrame(l.ctx, frame.b)
			}
		}
		s.mu.Lock()
		s.acking = false
		for _, frame := range lost {
			frame.release()
		}
		s.mu.Unlock()
		if err != nil {
			l.fail(fmt.Errorf("write frame: %w", err))
			return
		}
		s.transmit(l, last)

		s.mu.Lock()
		now := s.now()
		s.alarm = never
		if s.receiver.pending(now) {
			s.alarm = 0
		}
		s.alarm = min(s.alarm, s.receiver.reportAt)
		if !s.isPaused() {
			s.alarm = min(s.alarm, s.sender.resendAt, s.sender.probeAt)
		}
		wait := s.alarm - now
		s.mu.Unlock()
		if l.ctx.Err() != nil {
			return
		}
		if wait <= 0 {
			continue
		}
		timer.Reset(min(wait, time.Duration(math.MaxInt64)/2))
		select {
		case <-l.ctx.Done():
			return
		case <-s.wake:
		case <-timer.C:
		}
	}
}
