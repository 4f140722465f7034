package datachannel

import (
	"math"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
)

// How long to wait for an acknowledgement. The figures are AWS's
// (amazon-ssm-agent agent/session/config/config.go, and the plugin's
// src/config/config.go): both ends of theirs compute the same.
const (
	firstRTT = 100 * time.Millisecond
	firstRTO = 200 * time.Millisecond
	minVar   = 10 * time.Millisecond
	maxRTO   = time.Second

	// Theirs look every 100 ms, so nothing is ever sent again sooner.
	minRTO = 100 * time.Millisecond

	// Between our own ends nothing is lost but with a socket, and a new socket
	// begins with everything that was not acknowledged.
	minOwnRTO = time.Second
	maxOwnRTO = 10 * time.Second

	// How long to wait for credit before trying without.
	probeAfter = time.Second
)

// How many of the oldest messages may be sent again at a time. One that gets
// through doubles it, and has us look for more at once: what a gap swallowed
// is made good in a few round trips, and a peer that has only stopped reading
// is not flooded.
const (
	minResends = 4
	maxResends = 32
)

// A sender is the half of a stream that sends. The stream's mutex guards it.
type sender struct {
	queue queue[sent] // from the oldest that is not acknowledged
	base  int64       // the number of the first in queue
	mark  int64       // the number of the next to be written to this socket
	bytes int         // in queue and not acknowledged
	begin int64       // where in all bytes ever sent the queue begins
	end   int64       // and ends
	limit int64       // how far the receiver has room
	busy  bool        // a goroutine is in transmit

	srtt, rttvar, rto time.Duration
	sampled           bool // they are more than a guess
	resends           int
	resendAt          time.Duration // when to look for what is lost
	probeAt           time.Duration // when to try without credit
}

// A sent message is kept until it is acknowledged.
type sent struct {
	frame *buffer // nil once it is
	end   int64
	at    time.Duration // when it was last written
	due   time.Duration // when it is lost
	times int           // how often it was written
}

func (s *sender) init() {
	s.srtt, s.rto = firstRTT, firstRTO
	s.resends = minResends
	s.resendAt, s.probeAt = never, never
	s.limit = math.MaxInt64
}

func (s *sender) next() int64  { return s.base + int64(s.queue.n) }
func (s *sender) unsent() bool { return s.mark < s.next() }

func (s *sender) push(frame *buffer) {
	s.bytes += len(frame.b)
	s.end += int64(len(frame.b))
	s.queue.push(sent{frame: frame, end: s.end})
}

// rewind begins anew on another socket.
func (s *sender) rewind() {
	s.mark = s.base
	s.limit = math.MaxInt64 // until the receiver says
	s.resendAt, s.probeAt = never, never
	s.resends = minResends
}

// first returns the next frame to be written, or nil if there is none or no
// credit for it, which an ending stream does without. The caller releases it.
func (s *sender) first(now time.Duration, own, ending bool) *buffer {
	for ; s.unsent(); s.mark++ {
		e := s.queue.at(int(s.mark - s.base))
		if e.frame == nil {
			continue
		}
		if e.times == 0 && e.end > s.limit && !ending {
			// A receiver's word that it has room again may be lost. Without
			// anything else on its way, there is nothing to ask for it with.
			switch {
			case s.mark > s.base:
				return nil
			case s.probeAt == never:
				s.probeAt = now + probeAfter
				return nil
			case s.probeAt > now:
				return nil
			}
			s.limit = e.end
		}
		s.probeAt = never
		s.mark++
		s.written(e, now, own)
		return e.frame.retain()
	}
	return nil
}

// written notes that e is about to be written.
func (s *sender) written(e *sent, now time.Duration, own bool) {
	wait := max(s.rto, minRTO)
	most := maxRTO
	if own {
		wait, most = max(s.rto, minOwnRTO), maxOwnRTO
	}
	e.at = now
	e.due = now + min(wait<<min(e.times, 8), most)
	e.times++
	s.resendAt = min(s.resendAt, e.due)
}

// lost appends to list what must be sent again. The caller releases it.
func (s *sender) lost(list []*buffer, now time.Duration, own bool) []*buffer {
	if now < s.resendAt {
		return list
	}
	s.resendAt = never
	left, again := s.resends, false
	for seq := s.base; seq < s.mark && left > 0; seq++ {
		e := s.queue.at(int(seq - s.base))
		if e.frame == nil {
			continue
		}
		left--
		if e.due <= now {
			again = again || e.times > 1
			s.written(e, now, own)
			list = append(list, e.frame.retain())
		}
		s.resendAt = min(s.resendAt, e.due)
	}
	if again {
		s.resends = max(s.resends/2, 1) // that was no help
	}
	return list
}

// acknowledge removes what a acknowledges from the list. An acknowledgement of a
// message that was never sent is ignored.
func (s *sender) acknowledge(a wire.Ack, now time.Duration, own bool) {
	if a.Seq < -1 || a.Seq >= s.next() {
		return
	}
	if a.Seq >= s.base && s.queue.at(int(a.Seq-s.base)).times == 0 {
		return
	}
	if !a.Through {
		if a.Seq >= s.base {
			s.strike(a.Seq, now, own)
		}
		s.trim(a.Seq)
		return
	}
	edge := s.begin
	switch {
	case a.Seq < s.base-1:
		return // old news
	case a.Seq >= s.base:
		edge = s.queue.at(int(a.Seq - s.base)).end
		s.strike(a.Seq, now, own)
		for seq := s.base; seq < a.Seq; seq++ {
			s.strike(seq, never, own)
		}
		s.trim(a.Seq)
	}
	if own {
		limit := edge + min(max(a.Window, 0), 1<<40)
		if s.limit == math.MaxInt64 || limit > s.limit {
			s.limit, s.probeAt = limit, never
		}
	}
}

// strike marks one message as acknowledged, at now, or never if only by
// another's acknowledgement.
func (s *sender) strike(seq int64, now time.Duration, own bool) {
	e := s.queue.at(int(seq - s.base))
	if e.frame == nil {
		return
	}
	switch {
	case now == never:
	case e.times == 1: // of one sent twice we cannot say which arrived
		s.sample(now-e.at, own)
	case !s.sampled || now-e.at >= s.srtt/2: // or can we: this is not the first's, come late
		s.resends = min(s.resends*2, maxResends)
		s.resendAt = now
	}
	s.bytes -= len(e.frame.b)
	e.frame.release()
	e.frame = nil
}

// trim forgets what is acknowledged at the head of the queue.
//
// The stock client never acknowledges a message twice, so one whose
// acknowledgement was lost may stay for ever. But it would not have kept seq
// so far ahead of a message it had not had.
func (s *sender) trim(seq int64) {
	for s.queue.n > 0 && (s.queue.at(0).frame == nil || seq-s.base > maxAhead) {
		s.strike(s.base, never, false)
		s.begin = s.queue.at(0).end
		s.queue.pop()
		s.base++
	}
	s.mark = max(s.mark, s.base)
}

// sample learns from one round trip.
func (s *sender) sample(rtt time.Duration, own bool) {
	s.sampled = true
	s.rttvar = s.rttvar*3/4 + (s.srtt-rtt).Abs()/4
	s.srtt = s.srtt*7/8 + rtt/8
	s.rto = s.srtt + max(minVar, 4*s.rttvar)
	if !own {
		s.rto = min(s.rto, maxRTO)
	}
}
