package broker

import (
	"slices"
	"sync"

	"github.com/sallyport/sallyport/internal/wire"
)

// How much of a lane is kept where.
const (
	// inMemory is how many bytes of frames a lane keeps in memory. What comes
	// beyond is read back from the session's log when its turn comes. An end of
	// ours has no more than this on its way (datachannel.DefaultSendBuffer), so
	// what passes between ends that keep up is never read back.
	inMemory = 2 << 20

	// highWater is where a node is told to pause, and lowWater where it is told
	// to go on. Ends of ours never reach it: their windows are smaller.
	highWater = 4 << 20
	lowWater  = 1 << 20

	// hardCap is how much a person's absence may cost in log: a stock agent
	// that does not heed a pause is ended here.
	hardCap = 256 << 20

	// typedAhead is how much a person may type to a node that is away. It is
	// kept in memory alone; beyond it frames are dropped unacknowledged, and
	// come again.
	typedAhead = 4 << 20

	// atOnce is how much of a lane may be unacknowledged while a socket is sure
	// to take more without waiting: less than the least a system keeps for one.
	atOnce = 8 << 10

	// maxHeld bounds the frames of a lane, whatever their size. A stock agent
	// keeps 100,000 itself.
	maxHeld = 120_000
)

// A lane is one direction of a session: the frames one end has sent that the
// other has not acknowledged, in the order they came. It is guarded by its
// session's mu.
//
//	acknowledged │ held: sent on this socket │ held: still to send
//	             0                         cursor
//
// Frames are passed on as they came, never renumbered. The lane remembers what
// was acknowledged, so that it can answer an end whose acknowledgement was
// lost and which would otherwise repeat itself for ever.
type lane struct {
	held   []*held
	cursor int   // held[cursor] is the next to be sent on the receiver's socket
	bytes  int   // of all that is held
	memory int   // of those whose frames are in memory
	newest int64 // the highest sequence number seen; -1 if none
	acked  int64 // every number up to it has been acknowledged; -1 if none
	sparse map[int64]struct{}
}

// A held frame waits to be acknowledged.
type held struct {
	seq   int64
	size  int
	frame *[]byte // from frames; nil if it is only in the log
	at    int64   // where in the log, if it is
	refs  int     // the lane, and a writer that is sending it
}

func newLane() lane { return lane{newest: -1, acked: -1} }

// frames recycles buffers, so that a session at full speed makes no garbage.
var frames = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// A sight is what a lane knows of a sequence number.
type sight uint8

const (
	isNew   sight = iota
	isHeld        // it came before, and was not acknowledged
	isAcked       // it came before, and was
)

func (l *lane) look(seq int64) sight {
	if seq > l.newest {
		return isNew
	}
	if _, ok := l.sparse[seq]; ok || seq <= l.acked {
		return isAcked
	}
	if slices.ContainsFunc(l.held, func(h *held) bool { return h.seq == seq }) {
		return isHeld
	}
	return isNew // it fills a gap
}

// hold takes a new frame to the end of the lane.
func (l *lane) hold(h *held) {
	h.refs = 1
	l.held = append(l.held, h)
	l.bytes += h.size
	if h.frame != nil {
		l.memory += h.size
	}
	l.newest = max(l.newest, h.seq)
}

// ack releases what a acknowledges.
func (l *lane) ack(a wire.Ack) {
	if a.Seq > l.newest {
		return // nobody has sent that yet
	}
	if a.Through {
		for len(l.held) > 0 && l.held[0].seq <= a.Seq {
			l.drop(0)
		}
		for i := 0; i < len(l.held); { // in case they came out of order
			if l.held[i].seq <= a.Seq {
				l.drop(i)
			} else {
				i++
			}
		}
		l.acked = max(l.acked, a.Seq)
		for seq := range l.sparse {
			if seq <= l.acked {
				delete(l.sparse, seq)
			}
		}
	} else if a.Seq > l.acked {
		if i := slices.IndexFunc(l.held, func(h *held) bool { return h.seq == a.Seq }); i >= 0 {
			l.drop(i)
		}
		if a.Seq > l.acked+1 {
			if l.sparse == nil {
				l.sparse = map[int64]struct{}{}
			}
			l.sparse[a.Seq] = struct{}{}
			return
		}
		l.acked = a.Seq
	}
	for {
		if _, ok := l.sparse[l.acked+1]; !ok {
			return
		}
		l.acked++
		delete(l.sparse, l.acked)
	}
}

// drop lets go of held[i].
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
		l.memory -= h.size
	}
	h.release()
}

// release gives the frame's memory back once neither the lane nor a writer has
// a use for it.
func (h *held) release() {
	if h.refs--; h.refs == 0 && h.frame != nil {
		frames.Put(h.frame)
		h.frame = nil
	}
}

// take returns the next frames to send, up to n, and moves the cursor past
// them. The caller releases each.
func (l *lane) take(batch []*held, n int) []*held {
	for ; n > 0 && l.cursor < len(l.held); n-- {
		h := l.held[l.cursor]
		h.refs++
		batch = append(batch, h)
		l.cursor++
	}
	return batch
}

// again moves a frame that is held to the writer once more: its sender has
// repeated it, and the receiver may have had no place for it the first time.
func (l *lane) again(batch []*held, seq int64) []*held {
	for _, h := range l.held[:min(l.cursor, len(l.held))] {
		if h.seq == seq {
			h.refs++
			return append(batch, h)
		}
	}
	return batch // it is still to be sent anyway
}
