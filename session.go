package sallyport

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A SessionID names one session: its owner's short name, a hyphen, and 17 hex
// digits, as in "alice-0c4f1e9ab27d3355e". The zero SessionID names nothing.
type SessionID struct{ s string }

var sessionIDPattern = regexp.MustCompile(`^[\w+=,.@-]{1,78}-[0-9a-f]{17}$`)

// ParseSessionID is the only way to turn text into a SessionID, so one that is
// not zero is always well formed and may reach a path.
func ParseSessionID(s string) (SessionID, error) {
	if !sessionIDPattern.MatchString(s) {
		return SessionID{}, Errorf(ValidationException, "%q is not a session ID. They look like alice-0c4f1e9ab27d3355e.", Clip(s, 96))
	}
	return SessionID{s}, nil
}

// NewSessionID makes an ID that no session has had. It begins with the short
// name of owner, less any character an ID may not have.
func NewSessionID(owner string) SessionID {
	name := strings.Map(func(r rune) rune {
		if r < 128 && (r == '_' || strings.ContainsRune("+=,.@-", r) ||
			'0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z') {
			return r
		}
		return -1
	}, owner)
	if name == "" {
		name = "session"
	}
	return SessionID{name[:min(len(name), 78)] + "-" + hex17()}
}

func (id SessionID) String() string { return id.s }

// IsZero reports whether id names nothing.
func (id SessionID) IsZero() bool { return id.s == "" }

// MarshalText writes the ID.
func (id SessionID) MarshalText() ([]byte, error) { return []byte(id.s), nil }

// UnmarshalText refuses what [ParseSessionID] refuses.
func (id *SessionID) UnmarshalText(b []byte) (err error) {
	*id, err = ParseSessionID(string(b))
	return err
}

// A State is how far a session has come. The names are AWS's SessionStatus.
type State uint8

const (
	Connecting   State = iota + 1 // token issued; the node has not answered yet
	Connected                     // both ends attached
	Disconnected                  // the person's end is gone and may come back
	Terminating                   // told to stop; the shell is being reaped
	Terminated                    // over, and in the history
	Failed                        // over; the node or the person never came
)

var stateNames = [...]string{
	Connecting: "Connecting", Connected: "Connected", Disconnected: "Disconnected",
	Terminating: "Terminating", Terminated: "Terminated", Failed: "Failed",
}

// ParseState reads the name of a state, as AWS spells it.
func ParseState(s string) (State, error) {
	if i := slices.Index(stateNames[:], s); s != "" && i > 0 {
		return State(i), nil
	}
	return 0, Errorf(ValidationException, "%q is not the status of a session. They are %s.", Clip(s, 32), strings.Join(stateNames[1:], ", "))
}

func (s State) String() string {
	if int(s) < len(stateNames) && s > 0 {
		return stateNames[s]
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// Final reports whether s leads nowhere: the session is history.
func (s State) Final() bool { return s == Terminated || s == Failed }

// next lists where each state may lead. Terminated and Failed lead nowhere.
var next = map[State][]State{
	Connecting:   {Connected, Terminating, Failed},
	Connected:    {Disconnected, Terminating},
	Disconnected: {Connected, Terminating},
	Terminating:  {Terminated},
}

// A Session is one person's use of one node, from the asking to the record.
//
// Its state moves only through [Session.Advance], so any Session you are
// handed is one that could have happened.
type Session struct {
	ID       SessionID
	Owner    string   // ARN of the principal who started it
	OwnerID  string   // the principal's user ID, as ${aws:userid} has it
	Root     string   // [Principal.Root] of who started it: the identity that owns it
	Basis    []string // [Principal.Basis] of who started it: when one is gone, the session ends
	Node     NodeID
	Document string // the session document's name
	Reason   string // why, in the owner's words; may be empty
	Started  time.Time

	Kind  string    // the type of its document: Standard_Stream, Port and so on; empty if it is not known
	RunAs string    // the node's user that Run As names; empty is the agent's own
	MFA   time.Time // when its owner had shown a second factor; zero if they had not, or if it is not known

	// Epoch is how many servers have had the session, this one included. What a
	// server stores under an earlier epoch is refused.
	Epoch int64

	MaxDuration time.Duration // 0: no limit

	// Cause is why it ended, or is ending: a sentence for its owner and for
	// the history. Empty while it is on, and when its shell simply ended.
	Cause string

	// ExitStatus is the program's, where the node said; nil where it did not.
	ExitStatus *int

	state State
	ended time.Time // zero until the state is final
}

// NewSession returns a session that who has asked for and that has not been
// answered yet.
func NewSession(id SessionID, who *Principal, node NodeID, document string, at time.Time) *Session {
	return &Session{
		ID: id, Owner: who.ARN, OwnerID: who.ID, Root: who.Root, Basis: who.Basis,
		Node: node, Document: document, Started: at, MFA: who.MFA, Epoch: 1, state: Connecting,
	}
}

// RestoreSession gives s, read from a store, the state it was stored with.
func RestoreSession(s Session, state State, ended time.Time) (*Session, error) {
	if state < Connecting || state > Failed || state.Final() == ended.IsZero() {
		return nil, fmt.Errorf("session %s cannot have been %v and ended at %v", s.ID, state, ended)
	}
	s.state, s.ended = state, ended
	return &s, nil
}

// State is how far the session has come.
func (s *Session) State() State { return s.state }

// Ended reports when the session reached its final state, if it has.
func (s *Session) Ended() (at time.Time, over bool) { return s.ended, !s.ended.IsZero() }

// Advance moves the session to state to, at time at. A session that may not go
// there is left as it was.
func (s *Session) Advance(to State, at time.Time) error {
	if !slices.Contains(next[s.state], to) {
		return fmt.Errorf("session %s cannot go from %v to %v", s.ID, s.state, to)
	}
	s.state = to
	if to.Final() {
		s.ended = at
	}
	return nil
}

// Clip returns s, or its first n bytes and an ellipsis, so that what a
// stranger sent can be quoted back without being repeated whole.
func Clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}
