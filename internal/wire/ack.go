package wire

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/sallyport/sallyport/internal/strictjson"
)

// An Ack is the payload of an acknowledge message: this one arrived.
//
// AWS's programs acknowledge one message at a time and look at nothing in an
// acknowledgement but the sequence number. Between ends of ours one
// acknowledgement may stand for many, and then says how much more is welcome.
type Ack struct {
	Type Type  // of the message acknowledged
	ID   ID    // of the message acknowledged; AWS's programs never look
	Seq  int64 // of the message acknowledged

	// Through, which is ours, acknowledges every message up to and including
	// Seq, not that one alone. Seq is -1 if there has been none yet.
	Through bool

	// Window goes with Through: how many bytes of frames, headers and all, the
	// receiver has room for beyond message Seq.
	Window int64
}

// Frame makes the message. Its own sequence number is 0, always.
func (a Ack) Frame(now time.Time) Frame {
	f := NewFrame(TypeAcknowledge, a.AppendJSON(nil), now)
	f.Flags = Alone
	return f
}

// AppendJSON appends the payload to b, as AWS's programs write it.
func (a Ack) AppendJSON(b []byte) []byte {
	b = append(b, `{"AcknowledgedMessageType":`...)
	b = strconv.AppendQuote(b, string(a.Type)) // JSON too, for the ASCII a Type may be
	b = append(b, `,"AcknowledgedMessageId":"`...)
	b = a.ID.append(b)
	b = append(b, `","AcknowledgedMessageSequenceNumber":`...)
	b = strconv.AppendInt(b, a.Seq, 10)
	b = append(b, `,"IsSequentialMessage":true`...)
	if a.Through {
		b = append(b, `,"Through":true,"Window":`...)
		b = strconv.AppendInt(b, a.Window, 10)
	}
	return append(b, '}')
}

// ReadAck reads the payload of an acknowledge message. It does not allocate if
// the payload looks as AWS's programs and ours write it.
func ReadAck(payload []byte) (Ack, error) {
	if a, ok := scanAck(payload); ok {
		return a, nil
	}
	// Members spelled in another case, escapes, numbers as text, members we
	// have not heard of: encoding/json reads what AWS's programs would.
	var p struct {
		AcknowledgedMessageType           string
		AcknowledgedMessageId             string
		AcknowledgedMessageSequenceNumber *Int
		Through                           bool
		Window                            Int
	}
	if err := strictjson.Unmarshal(payload, &p); err != nil {
		return Ack{}, fmt.Errorf("parse %s: %w", TypeAcknowledge, err)
	}
	if p.AcknowledgedMessageSequenceNumber == nil {
		return Ack{}, errors.New("parse acknowledge: no sequence number")
	}
	id, _ := parseID(p.AcknowledgedMessageId)
	return Ack{
		Type:    intern([]byte(p.AcknowledgedMessageType)),
		ID:      id,
		Seq:     int64(*p.AcknowledgedMessageSequenceNumber),
		Through: p.Through,
		Window:  int64(p.Window),
	}, nil
}

// scanAck reads the one shape of JSON that acknowledgements have in practice,
// and says so if this is not it.
func scanAck(b []byte) (a Ack, ok bool) {
	s := scanner{b: b, ok: true}
	s.want('{')
	const seq = 1 << 2
	for seen, member := 0, 0; s.ok; seen |= member {
		name := s.text()
		s.want(':')
		switch string(name) {
		case "AcknowledgedMessageType":
			a.Type, member = intern(s.text()), 1<<0
		case "AcknowledgedMessageId":
			a.ID, _ = parseID(s.text())
			member = 1 << 1
		case "AcknowledgedMessageSequenceNumber":
			a.Seq, member = s.number(), seq
		case "IsSequentialMessage":
			s.truth()
			member = 1 << 3
		case "Through":
			a.Through, member = s.truth(), 1<<4
		case "Window":
			a.Window, member = s.number(), 1<<5
		default:
			return Ack{}, false
		}
		if seen&member != 0 { // which is refused, the long way round
			return Ack{}, false
		}
		if s.next() == ',' {
			s.at++
			continue
		}
		s.want('}')
		return a, s.ok && (seen|member)&seq != 0 && s.next() == 0 && s.at == len(s.b)
	}
	return Ack{}, false
}

// A scanner reads tokens of JSON until one is not what was hoped for, and
// remembers that one was not.
type scanner struct {
	b  []byte
	at int
	ok bool
}

// next skips blank space and returns the byte after it, or 0 at the end.
func (s *scanner) next() byte {
	for s.at < len(s.b) {
		switch c := s.b[s.at]; c {
		case ' ', '\t', '\r', '\n':
			s.at++
		default:
			return c
		}
	}
	return 0
}

func (s *scanner) want(c byte) {
	if s.next() != c {
		s.ok = false
		return
	}
	s.at++
}

// text reads a string that has nothing in it to interpret.
func (s *scanner) text() []byte {
	s.want('"')
	for from := s.at; s.ok && s.at < len(s.b); s.at++ {
		switch c := s.b[s.at]; {
		case c == '"':
			s.at++
			return s.b[from : s.at-1]
		case c < ' ' || c >= 0x7f || c == '\\':
			s.ok = false
		}
	}
	s.ok = false
	return nil
}

// number reads a whole number that cannot overflow.
func (s *scanner) number() (n int64) {
	sign := int64(1)
	if s.next() == '-' {
		sign = -1
		s.at++
	}
	from := s.at
	for s.at < len(s.b) && '0' <= s.b[s.at] && s.b[s.at] <= '9' {
		n = n*10 + int64(s.b[s.at]-'0')
		s.at++
		if s.at-from > 18 {
			s.ok = false
			return 0
		}
	}
	if s.at == from || s.b[from] == '0' && s.at > from+1 {
		s.ok = false
	}
	return sign * n // what follows the digits is the caller's to refuse
}

func (s *scanner) truth() bool {
	s.next()
	for _, word := range [...]string{"true", "false"} {
		if rest := s.b[s.at:]; len(rest) >= len(word) && string(rest[:len(word)]) == word {
			s.at += len(word)
			return word == "true"
		}
	}
	s.ok = false
	return false
}
