package datachannel

import (
	"time"

	"github.com/sallyport/sallyport/internal/wire"
)

// Between our own ends an acknowledgement of bytes waits for more to
// acknowledge, but not for longer, nor for more, than this. A person who types
// fast then has few acknowledgements in the way of their echo; what is not
// bytes, and may be the last that is sent, is acknowledged at once.
const (
	reportAfter = 25 * time.Millisecond
	reportEvery = 128 << 10
)

// A receiver is the half of a stream that receives. The stream's mutex guards
// it.
type receiver struct {
	expected int64           // the next message in order
	ready    queue[*held]    // in order, not yet received
	early    map[int64]*held // ahead of order
	unacked  queue[*held]    // in either, as they came; some acknowledged since
	bytes    struct {        // of frames
		ready, early int
		acked        int // in either
	}

	acks []wire.Ack // to be written, one for each message

	// Of our own kind of acknowledgement, which stands for many.
	report   bool          // one is due
	reportAt time.Duration // or will be then
	fresh    int           // bytes it would be news of
	freed    int           // bytes received since the last one
	lastID   wire.ID       // of the message before expected
}

// A held message has come and has not been received.
type held struct {
	kind  wire.Kind
	data  *buffer
	seq   int64
	id    wire.ID
	size  int
	acked bool
}

func (r *receiver) init() {
	r.reportAt = never
}

// pending reports whether there is an acknowledgement to write.
func (r *receiver) pending(now time.Duration) bool {
	return len(r.acks) > 0 || r.report || r.reportAt <= now
}

// take takes in a message of the stream, and reports whether there is
// something to receive that there was not.
func (r *receiver) take(f wire.Frame, now time.Duration, own bool, limit int) (came bool) {
	size := wire.Overhead + len(f.Payload)
	switch ahead := f.Seq - r.expected; {
	case f.Seq < 0:
		return false
	case ahead < 0:
		r.again(f, own)
		return false
	case ahead == 0:
		if r.ready.n > 0 && r.bytes.ready+size > 2*limit {
			return false
		}
		m := r.hold(f, size)
		r.append(m)
		r.allow(m, now, own, limit)
		r.follow()
		return true
	default:
		if m := r.early[f.Seq]; m != nil {
			if m.acked {
				r.ack(f.Seq, f.ID)
			}
			return false
		}
		if ahead > maxAhead || r.bytes.early+size > limit {
			return false
		}
		m := r.hold(f, size)
		if r.early == nil {
			r.early = make(map[int64]*held)
		}
		r.early[f.Seq] = m
		r.bytes.early += size
		r.allow(m, now, own, limit)
		return false
	}
}

func (r *receiver) hold(f wire.Frame, size int) *held {
	data := newBuffer(len(f.Payload))
	data.b = append(data.b, f.Payload...)
	return &held{kind: f.Kind, data: data, seq: f.Seq, id: f.ID, size: size}
}

func (r *receiver) append(m *held) {
	r.ready.push(m)
	r.bytes.ready += m.size
	r.expected++
	r.lastID = m.id
}

// allow acknowledges m if there is room for it, and otherwise when there is.
func (r *receiver) allow(m *held, now time.Duration, own bool, limit int) {
	if r.bytes.acked > 0 && r.bytes.acked+m.size > limit {
		r.unacked.push(m)
		return
	}
	m.acked = true
	r.bytes.acked += m.size
	if !own || r.early[m.seq] == m { // ours stands for those in order only
		r.ack(m.seq, m.id)
		return
	}
	r.tell(m.kind, m.size, now)
}

// tell has an acknowledgement of ours stand for a message more, soon.
func (r *receiver) tell(kind wire.Kind, size int, now time.Duration) {
	r.fresh += size
	if r.fresh >= reportEvery || kind != wire.KindOutput && kind != wire.KindStdErr {
		r.report = true
	} else if r.reportAt == never {
		r.reportAt = now + reportAfter
	}
}

// isNext reports whether message seq is the one to be received next, with none
// before it.
func (r *receiver) isNext(seq int64) bool { return seq == r.expected && r.ready.n == 0 }

// pass takes in a message that is next and has been received already, and
// reports whether others that came early can be received now.
func (r *receiver) pass(f wire.Frame, now time.Duration, own bool, limit int) (came bool) {
	size := wire.Overhead + len(f.Payload)
	r.expected++
	r.lastID = f.ID
	if own {
		r.tell(f.Kind, size, now)
	} else {
		r.ack(f.Seq, f.ID)
	}
	r.free(size, own, limit)
	r.follow()
	return r.ready.n > 0
}

// follow appends the messages that came before their turn, and whose turn it is
// now.
func (r *receiver) follow() {
	for r.early[r.expected] != nil {
		m := r.early[r.expected]
		delete(r.early, m.seq)
		r.bytes.early -= m.size
		r.append(m)
	}
}

// again answers a message that came before. The acknowledgement was lost, or
// is on its way, or is being withheld.
func (r *receiver) again(f wire.Frame, own bool) {
	first := r.expected - int64(r.ready.n)
	if f.Seq >= first && !(*r.ready.at(int(f.Seq - first))).acked {
		return
	}
	if own {
		r.report = true
		return
	}
	r.ack(f.Seq, f.ID)
}

func (r *receiver) ack(seq int64, id wire.ID) {
	if len(r.acks) < maxAcks {
		r.acks = append(r.acks, wire.Ack{Seq: seq, ID: id})
	}
}

// pop returns the next message in order.
func (r *receiver) pop(own bool, limit int) *held {
	m := r.ready.pop()
	r.bytes.ready -= m.size
	if m.acked {
		r.bytes.acked -= m.size
	} else {
		m.acked = true
		r.acknowledged(m, own)
	}
	for r.unacked.n > 0 {
		m := *r.unacked.at(0)
		if !m.acked {
			if r.bytes.acked > 0 && r.bytes.acked+m.size > limit {
				break
			}
			m.acked = true
			r.bytes.acked += m.size
			r.acknowledged(m, own)
		}
		r.unacked.pop()
	}
	r.free(m.size, own, limit)
	return m
}

// free notes that size bytes have been received.
func (r *receiver) free(size int, own bool, limit int) {
	r.freed += size
	if own && r.freed >= limit/4 {
		r.report = true // the sender may be waiting for credit
	}
}

func (r *receiver) acknowledged(m *held, own bool) {
	if own {
		r.report = true
		return
	}
	r.ack(m.seq, m.id)
}

// takeAcks appends to list the acknowledgements that are due.
func (r *receiver) takeAcks(list []wire.Ack, now time.Duration, t wire.Type, own bool, limit int) []wire.Ack {
	list = append(list, r.acks...)
	r.acks = r.acks[:0]
	if own && (r.report || r.reportAt <= now) {
		list = append(list, r.through(limit))
	}
	if r.report || r.reportAt <= now {
		r.report, r.reportAt, r.fresh, r.freed = false, never, 0, 0
	}
	for i := range list {
		list[i].Type = t
	}
	return list
}

// through makes the acknowledgement of everything in order that may be
// acknowledged, with the room there is beyond it.
func (r *receiver) through(limit int) wire.Ack {
	last, id, room := r.expected-1, r.lastID, limit-r.bytes.ready
	if r.unacked.n > 0 {
		for i := range r.ready.n {
			if m := *r.ready.at(i); !m.acked {
				last, id = m.seq-1, wire.ID{}
				room = 0
				break
			}
		}
	}
	if r.ready.n == 0 {
		room = max(room, bigChunk+wire.Overhead) // an empty buffer takes a message of any size
	}
	return wire.Ack{ID: id, Seq: last, Through: true, Window: int64(max(room, 0))}
}
