package broker

import (
	"cmp"
	"slices"

	"github.com/sallyport/sallyport/internal/wire"
)

// How much of a lane is kept where.
const (
	// inMemory is how many bytes of buffers a lane keeps in memory. What comes
	// beyond is read back from the session's log when its turn comes. An end of
	// ours has no more than this on its way (datachannel.DefaultSendBuffer), so
	// what passes between ends that keep up is never read back.
	inMemory = 2 << 20

	// highWater is where a node is told to pause, and lowWater where it is told
	// to go on. Ends of ours never reach it: their windows are smaller.
	highWater = 4 << 20
	lowWater  = 1 << 20

	// hardCap is how much a client's absence may cost in log: a stock agent
	// that does not heed a pause is ended here.
	hardCap = 256 << 20

	// typedAhead is how much a client may send to a node that is away. It is
	// kept in memory alone; beyond it frames are dropped unacknowledged, and
	// come again.
	typedAhead = 4 << 20

	// atOnce is how much of a lane may be unacknowledged while a socket is sure
	// to take more without waiting: less than the least a system keeps for one.
	atOnce = 8 << 10

	// maxHeld bounds the frames of a lane, also where all are small. A stock agent
	// keeps 100,000 itself.
	maxHeld = 120_000

	// maxSpans bounds what a lane remembers of acknowledgements out of order.
	// One that would need more is dropped, and its frame stays held.
	maxSpans = 1024
)

// A lane is one direction of a session: the frames one end has sent that the
// other has not acknowledged, by sequence number. It is guarded by its
// session's mu.
//
//	acknowledged │ held: sent on this socket │ held: still to send
//	             0                         cursor
//
// Frames are passed on as they came, never renumbered. The lane remembers what
// was acknowledged, so that it can answer an end whose acknowledgement was
// lost and which would otherwise repeat itself for ever.
type lane struct {
	held   []*held // ascending
	cursor int     // held[cursor] is the next to be sent on the receiver's socket
	bytes  int     // of the frames held
	memory int     // of the buffers that hold them
	newest int64   // the highest sequence number seen; -1 if none
	acked  int64   // every number up to it has been acknowledged; -1 if none
	later  []span  // acknowledged numbers beyond it: ascending, with gaps between
}

// A span is the numbers from first to last.
type span struct{ first, last int64 }

// A held frame waits to be acknowledged.
type held struct {
	seq   int64
	size  int     // of the frame
	frame *buffer // nil if it is only in the log
	at    int64   // where in the log; 0 if it is not there
}

func newLane() lane { return lane{newest: -1, acked: -1} }

// A sight is what a lane knows of a sequence number.
type sight uint8

const (
	isNew   sight = iota
	isHeld        // it came before, and was not acknowledged
	isAcked       // it came before, and was
)

func (l *lane) look(seq int64) sight {
	switch {
	case seq > l.newest:
		return isNew
	case seq <= l.acked || l.span(seq) >= 0:
		return isAcked
	case l.find(seq) >= 0:
		return isHeld
	}
	return isNew // it fills a gap
}

// find returns the index of the held frame seq, or -1.
func (l *lane) find(seq int64) int {
	i, ok := slices.BinarySearchFunc(l.held, seq, func(h *held, seq int64) int { return cmp.Compare(h.seq, seq) })
	if !ok {
		return -1
	}
	return i
}

// span returns the index of the span that seq is in, or -1.
func (l *lane) span(seq int64) int {
	i, ok := slices.BinarySearchFunc(l.later, seq, func(s span, seq int64) int {
		switch {
		case s.last < seq:
			return -1
		case s.first > seq:
			return 1
		}
		return 0
	})
	if !ok {
		return -1
	}
	return i
}

// missing returns the first number from first on that was neither acknowledged nor
// is held, or end, if there is none before that.
func (l *lane) missing(first, end int64) int64 {
	next := max(first, l.acked+1)
	for next < end {
		if i := l.span(next); i >= 0 {
			next = l.later[i].last + 1
			continue
		}
		i := l.find(next)
		if i < 0 {
			return next
		}
		for ; i < len(l.held) && l.held[i].seq == next; i++ {
			next++
		}
	}
	return end
}

// hold takes a new frame in. It reports whether the frame belongs before some
// that have been sent on the receiver's socket already, so that take will not
// return it.
func (l *lane) hold(h *held) (passed bool) {
	i := len(l.held)
	if h.seq <= l.newest {
		i, _ = slices.BinarySearchFunc(l.held, h.seq, func(h *held, seq int64) int { return cmp.Compare(h.seq, seq) })
	}
	l.held = slices.Insert(l.held, i, h)
	l.bytes += h.size
	if h.frame != nil {
		h.frame.users = 1
		l.memory += cap(h.frame.b)
	}
	l.newest = max(l.newest, h.seq)
	if passed = i < l.cursor; passed {
		l.cursor++
	}
	return passed
}

// ack releases what a acknowledges. An acknowledgement of a number that is not
// held is of no matter.
func (l *lane) ack(a wire.Ack) {
	switch {
	case a.Seq > l.newest || a.Seq <= l.acked:
	case a.Through:
		for len(l.held) > 0 && l.held[0].seq <= a.Seq {
			l.drop(0)
		}
		l.acked = a.Seq
	default:
		i := l.find(a.Seq)
		if i < 0 || !l.mark(a.Seq) {
			return
		}
		l.drop(i)
	}
	for len(l.later) > 0 && l.later[0].first <= l.acked+1 {
		l.acked = max(l.acked, l.later[0].last)
		l.later = l.later[1:]
	}
	if len(l.later) == 0 {
		l.later = nil
	}
}

// mark notes that seq, which is beyond acked, was acknowledged. It reports false
// if there is no room for that.
func (l *lane) mark(seq int64) bool {
	if seq == l.acked+1 {
		l.acked = seq
		return true
	}
	i, _ := slices.BinarySearchFunc(l.later, seq, func(s span, seq int64) int { return cmp.Compare(s.first, seq) })
	joinsLeft, joinsRight := i > 0 && l.later[i-1].last == seq-1, i < len(l.later) && l.later[i].first == seq+1
	switch {
	case joinsLeft && joinsRight:
		l.later[i-1].last = l.later[i].last
		l.later = slices.Delete(l.later, i, i+1)
	case joinsLeft:
		l.later[i-1].last = seq
	case joinsRight:
		l.later[i].first = seq
	case len(l.later) >= maxSpans:
		return false
	default:
		l.later = slices.Insert(l.later, i, span{seq, seq})
	}
	return true
}

// drop removes held[i] and releases its buffer.
func (l *lane) drop(i int) {
	h := l.held[i]
	if i == 0 {
		l.held[0] = nil
		l.held = l.held[1:]
	} else {
		l.held = slices.Delete(l.held, i, i+1)
	}
	if i < l.cursor {
		l.cursor--
	}
	l.bytes -= h.size
	if h.frame != nil {
		l.memory -= cap(h.frame.b)
		h.frame.release()
	}
}

// clear removes all frames and releases their buffers.
func (l *lane) clear() {
	for len(l.held) > 0 {
		l.drop(0)
	}
}

// release gives the buffer back once neither the lane nor a writer uses it.
func (buf *buffer) release() {
	if buf.users--; buf.users == 0 {
		buf.put()
	}
}

// A sending is a held frame that a writer is about to send: from its buffer, or
// from the log.
type sending struct {
	frame *buffer // nil: it is in the log
	at    int64
}

func (h *held) send() sending {
	if h.frame != nil {
		h.frame.users++
	}
	return sending{h.frame, h.at}
}

// done gives up the writer's use of the frame. The caller holds the session's mu.
func (o sending) done() {
	if o.frame != nil {
		o.frame.release()
	}
}

// take appends the next frames to send to batch, up to n and without those from
// number end on, and moves the cursor past them.
func (l *lane) take(batch []sending, n int, end int64) []sending {
	for ; n > 0 && l.cursor < len(l.held) && l.held[l.cursor].seq < end; n-- {
		batch = append(batch, l.held[l.cursor].send())
		l.cursor++
	}
	return batch
}

// again appends a held frame to batch that was sent on this socket before: its
// sender has repeated it, and the receiver may have had no place for it then.
func (l *lane) again(batch []sending, seq int64) []sending {
	if i := l.find(seq); i >= 0 && i < l.cursor {
		return append(batch, l.held[i].send())
	}
	return batch // it is still to be sent anyway
}
