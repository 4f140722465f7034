package datachannel

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/sallyport/sallyport/internal/wire"
)

// A State is what a [Stream] knows between two Runs, as values that can be
// written down: another Stream goes on from it as if nothing had happened. How
// fast the network is, it learns anew.
type State struct {
	Sends wire.Type
	// What the peer can do.
	Big, Through, Checksum bool

	Ending bool `json:",omitempty"` // the last of Sent is the last there is

	Base int64  // the number of the first of Sent
	Sent []Sent // and not acknowledged, or after one that is not

	Expected    int64 // the next message in order
	Last        wire.ID
	Ready       []Received // in order, before Expected
	Early       []Received
	Acknowledge []wire.Ack
}

// A Sent is a message on its way.
type Sent struct {
	Frame []byte // nil if it has been acknowledged
	Size  int    // of the frame
	Times int    // how often it was written
}

// A Received is a message that Receive has not returned.
type Received struct {
	Kind         wire.Kind
	Payload      []byte
	Seq          int64
	ID           wire.ID
	Acknowledged bool
}

// State returns the state of a stream that is not running, and on which no goroutine
// is in Send or Receive. A message that Receive returned is the caller's.
func (s *Stream) State() (State, error) {
	s.init()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.link != nil || s.closed {
		return State{}, errors.New("read state of stream: it is running, or closed")
	}
	r := &s.receiver
	st := State{
		Sends: s.Sends, Big: s.big, Through: s.through, Checksum: s.checksum, Ending: s.ending, Base: s.sender.base,
		Expected: r.expected, Last: r.lastID, Acknowledge: slices.Clone(r.acks),
	}
	begin := s.sender.begin
	for i := range s.sender.queue.n {
		e := s.sender.queue.at(i)
		m := Sent{Size: int(e.end - begin), Times: e.times}
		if e.frame != nil {
			m.Frame = slices.Clone(e.frame.b)
		}
		st.Sent = append(st.Sent, m)
		begin = e.end
	}
	for i := range r.ready.n {
		st.Ready = append(st.Ready, (*r.ready.at(i)).received())
	}
	for _, seq := range slices.Sorted(maps.Keys(r.early)) {
		st.Early = append(st.Early, r.early[seq].received())
	}
	return st, nil
}

func (m *held) received() Received {
	return Received{m.kind, slices.Clone(m.data.b), m.seq, m.id, m.acked}
}

// Restore makes a stream, before its first use, what another was.
func (s *Stream) Restore(st State) error {
	s.init()
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.Sends != s.Sends {
		return fmt.Errorf("restore stream: it sends %q, not %q", st.Sends, s.Sends)
	}
	s.big, s.through, s.checksum, s.ending = st.Big, st.Through, st.Checksum, st.Ending
	s.sender.base, s.sender.mark = st.Base, st.Base
	for i, m := range st.Sent {
		if err := s.sender.restore(m, s.Sends, st.Base+int64(i)); err != nil {
			return fmt.Errorf("restore stream: message %d sent: %w", st.Base+int64(i), err)
		}
	}
	if err := s.receiver.restore(st); err != nil {
		return fmt.Errorf("restore stream: %w", err)
	}
	if s.receiver.ready.n > 0 {
		token(s.came)
	}
	return nil
}

func (s *sender) restore(m Sent, t wire.Type, seq int64) error {
	if m.Size < wire.Overhead || m.Times < 0 {
		return fmt.Errorf("%d bytes, written %d times", m.Size, m.Times)
	}
	var frame *buffer
	if m.Frame != nil {
		f, err := wire.Decode(m.Frame)
		if err != nil {
			return err
		}
		if f.Type != t || f.Seq != seq || m.Size != len(m.Frame) {
			return fmt.Errorf("it is number %d, %d bytes of %s", f.Seq, len(m.Frame), f.Type)
		}
		frame = newBuffer(len(m.Frame))
		frame.b = append(frame.b, m.Frame...)
		s.bytes += m.Size
	}
	s.end += int64(m.Size)
	s.queue.push(sent{frame: frame, end: s.end, times: m.Times})
	return nil
}

func (r *receiver) restore(st State) error {
	r.expected = st.Expected - int64(len(st.Ready))
	for _, m := range st.Ready {
		if m.Seq != r.expected {
			return fmt.Errorf("message %d is where %d should be", m.Seq, r.expected)
		}
		r.append(r.rehold(m))
	}
	r.lastID = st.Last
	r.early = make(map[int64]*held, len(st.Early))
	for _, m := range st.Early {
		if m.Seq <= r.expected || m.Seq > r.expected+maxAhead {
			return fmt.Errorf("message %d is not ahead of %d", m.Seq, r.expected)
		}
		h := r.rehold(m)
		r.early[m.Seq] = h
		r.bytes.early += h.size
	}
	r.acks = slices.Clone(st.Acknowledge)
	return nil
}

// rehold holds a message as it was held.
func (r *receiver) rehold(m Received) *held {
	h := r.hold(wire.Frame{Kind: m.Kind, Payload: m.Payload, Seq: m.Seq, ID: m.ID}, wire.Overhead+len(m.Payload))
	if h.acked = m.Acknowledged; h.acked {
		r.bytes.acked += h.size
	} else {
		r.unacked.push(h)
	}
	return h
}
