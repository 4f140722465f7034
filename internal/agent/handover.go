package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/pty"
	"github.com/sallyport/sallyport/internal/wire"
)

// HandoverVersion is what one program writes for the next, and only the same is
// read. It goes up when a program of before would misunderstand.
const HandoverVersion = 1

// holdWithin is how long sessions may take to stop where they are. One that is
// no shell ends instead, which takes its command a moment.
const holdWithin = 15 * time.Second

// An Upgrade is how an agent makes way for another program in the same process,
// which is how its next version goes on with its shells: they stay children of
// this process, and their terminals stay open.
//
//	Asked ──▶ Ready ──▶ hold every session ──▶ write down ──▶ Exec ──▶ Inherited
//	           │ no                                            │ failed
//	           └──▶ nothing has happened                       └──▶ go on
//
// A shell goes on as after a lost network: what it says meanwhile waits in its
// terminal, what is typed waits at the control plane, and no byte is lost or
// repeated. Its session may be at any point of its life: about to start, or
// ended and not yet reported.
//
// Ports, and commands that have no terminal, cannot be handed over: what they
// have under way is in connections and pipes. Nor can a handshake. They end: the
// client is told why and can connect again at once. To wait for them would put the
// upgrade off for as long as one tunnel is open. They alone are lost if Exec fails
// though Ready found nothing wrong.
type Upgrade struct {
	// Asked has a value each time the operator asks for an upgrade, with a signal.
	Asked <-chan os.Signal

	// Ready says what is wrong with the program that is to follow, before
	// anything is given up for it.
	Ready func(context.Context) error

	// Exec becomes that program, which inherits a file with what it needs to
	// know, to be its Inherited, and terminals that are descriptors. It returns
	// only if it fails.
	Exec func(state *os.File, terminals []int) error
}

var (
	errHeld     = errors.New("the session is being handed over")
	errUpgraded = errors.New("the agent was upgraded; connect again")
)

// held reports whether a context ended because sessions are handed over.
func held(ctx context.Context) bool { return errors.Is(context.Cause(ctx), errHeld) }

func (s *session) isHeld() bool { return held(s.ctx) }

// A handover is what one program leaves to the next.
type handover struct {
	Version  int
	Sessions []handed
	Over     []string // the sessions that have ended, whose repeats must be known for such
}

// A handed is a session between two programs. State is understood by programs
// of the same version; the rest by all, so that any can end what it cannot go
// on with.
type handed struct {
	ID       sallyport.SessionID
	Terminal *pty.Held `json:",omitempty"` // nil while the shell has not started
	State    json.RawMessage

	state sessionState
	shell Terminal
}

// A sessionState is what a session knows that its terminal does not. What a new
// kind of session needs is a new field.
type sessionState struct {
	Task     wire.AgentTaskPayload
	Stream   datachannel.State
	Ahead    []datachannel.Message   `json:",omitempty"`
	Size     wire.Size               // the last that was asked for
	DataKey  []byte                  `json:",omitempty"` // of an encrypted session, once there is one
	Untyped  []byte                  `json:",omitempty"` // acknowledged, and not typed
	Unsent   []byte                  `json:",omitempty"` // read from the terminal, and not sent
	Complete *wire.AgentTaskComplete `json:",omitempty"` // the session is over, and the control plane has not acknowledged that
}

// leave hands the session over. What served it has ended.
func (s *session) leave() error {
	st := sessionState{Task: s.task, Ahead: s.ahead, Size: s.size, DataKey: s.dataKey, Untyped: s.untyped, Unsent: s.unsent, Complete: s.complete}
	var err error
	if st.Stream, err = s.stream.State(); err != nil {
		s.giveUp()
		return err
	}
	s.agent.keep(handed{ID: s.id, state: st, shell: s.shell})
	return nil
}

// giveUp lets go of a shell that cannot go on.
func (s *session) giveUp() {
	if s.shell != nil {
		s.shell.Close()
	}
}

// takeUp makes a new session what another was.
func (s *session) takeUp(h handed) error {
	st := h.state
	s.shell, s.complete = h.shell, st.Complete
	s.ahead, s.size, s.untyped, s.unsent = st.Ahead, st.Size, st.Untyped, st.Unsent
	if s.complete != nil {
		s.restored, s.ended = st.Stream.Sends != "", st.Stream.Ending
		if !s.restored { // the end is all that is left to report
			return nil
		}
		return s.stream.Restore(st.Stream)
	}
	if s.dataKey = st.DataKey; s.dataKey != nil {
		c, err := datachannel.NewCipher(wire.TypeOutputStreamData, s.dataKey)
		if err != nil {
			return err
		}
		s.stream.Encrypt(c)
	}
	if s.shell == nil && s.size.Cols > 0 {
		s.sizes <- s.size
	}
	return s.stream.Restore(st.Stream)
}

// keep has a session handed over. If it was too slow for that, it goes on.
func (a *Agent) keep(h handed) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.holding {
		a.handed = append(a.handed, h)
		delete(a.sessions, h.ID.String())
		return
	}
	a.resume(h, nil)
}

// resume goes on with a session, or ends it if something is wrong with it. The
// caller holds mu.
func (a *Agent) resume(h handed, wrong error) {
	s := newSession(a, h.ID, h.state.Task, a.era)
	if err := s.takeUp(h); wrong == nil {
		wrong = err
	}
	if wrong != nil {
		s.broken = fmt.Errorf("the agent was upgraded, and could not go on with this session: %w", wrong)
	}
	if s.shell != nil {
		s.shell.Release()
	}
	a.launch(s)
}

// beginEra has sessions live until the next time they are held, or alive ends.
func (a *Agent) beginEra(alive context.Context) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.era, a.hold = context.WithCancelCause(alive)
	a.holding = false
	for _, h := range a.handed {
		a.resume(h, nil)
	}
	a.handed = nil
}

// upgradeWhenAsked starts the new program each time the operator asks. If that
// succeeds it does not return.
func (a *Agent) upgradeWhenAsked(alive context.Context) {
	for {
		select {
		case <-alive.Done():
			return
		case <-a.Upgrade.Asked:
		}
		err := a.Upgrade.Ready(alive)
		if err == nil {
			err = a.upgrade(alive)
		}
		a.Log.Error("agent not upgraded", sallyport.LogErr, err)
	}
}

// upgrade makes way. It returns only if that fails, and all goes on.
func (a *Agent) upgrade(alive context.Context) error {
	defer a.beginEra(alive)
	if err := a.holdAll(); err != nil {
		return err
	}
	if alive.Err() != nil { // the new program would not get the signal that stops this one
		return context.Cause(alive)
	}
	return a.makeWay()
}

// holdAll stops every session where it is, or ends it.
func (a *Agent) holdAll() error {
	a.mu.Lock()
	a.holding = true
	a.hold(errHeld)
	var live []*session
	for _, s := range a.sessions {
		if s != nil {
			live = append(live, s)
		}
	}
	a.mu.Unlock()
	late := time.NewTimer(holdWithin)
	defer late.Stop()
	for _, s := range live {
		select {
		case <-s.over:
		case <-late.C:
			return fmt.Errorf("session %s did not stop in %v", s.id, holdWithin)
		}
	}
	return nil
}

// makeWay writes down what is to be handed over, and becomes the next program.
// It returns only if that fails.
func (a *Agent) makeWay() error {
	a.mu.Lock()
	doc := handover{Version: HandoverVersion, Sessions: a.handed}
	doc.Over = slices.Collect(maps.Keys(a.sessions))
	a.mu.Unlock()
	var terminals []int
	for i := range doc.Sessions {
		h := &doc.Sessions[i]
		if err := h.describe(); err != nil {
			return fmt.Errorf("hand session %s over: %w", h.ID, err)
		}
		if h.Terminal != nil {
			terminals = append(terminals, h.Terminal.FD)
		}
	}
	file, err := a.machine().NamelessFile(a.State)
	if err != nil {
		return fmt.Errorf("hand over: %w", err)
	}
	defer file.Close()
	if err = json.NewEncoder(file).Encode(doc); err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil {
		return fmt.Errorf("hand over: %w", err)
	}
	a.Log.Info("agent making way", "sessions", len(doc.Sessions))
	return a.Upgrade.Exec(file, terminals)
}

// describe makes h fit to be written.
func (h *handed) describe() (err error) {
	if h.shell != nil {
		held, err := h.shell.Held()
		if err != nil {
			return err
		}
		h.Terminal = &held
	}
	h.State, err = json.Marshal(h.state)
	return err
}

// inherit goes on with what the program before left.
func (a *Agent) inherit() {
	if a.Inherited == nil {
		return
	}
	defer a.Inherited.Close()
	var doc handover
	if err := json.NewDecoder(a.Inherited).Decode(&doc); err != nil {
		a.Log.Error("sessions lost", sallyport.LogErr, fmt.Errorf("read what the agent before left: %w", err))
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range doc.Over {
		a.forget(id)
	}
	for _, h := range doc.Sessions {
		a.resume(h, h.read(a.machine(), doc.Version))
	}
	a.Log.Info("agent took over", "sessions", len(doc.Sessions))
}

// read takes up what was written. Also when it returns an error, the terminal is
// set if there is one, so that the caller can close it.
func (h *handed) read(m Machine, version int) (err error) {
	if h.Terminal != nil {
		if h.shell, err = m.TakeUp(*h.Terminal); err != nil {
			return err
		}
	}
	if version != HandoverVersion {
		return fmt.Errorf("the version before it hands over in way %d, and this one takes over in way %d", version, HandoverVersion)
	}
	return json.Unmarshal(h.State, &h.state)
}
