package simulation

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/asciicast"
	"github.com/sallyport/sallyport/internal/client"
	"github.com/sallyport/sallyport/internal/store"
)

// An Invariant is what holds after every run.
type Invariant string

const (
	// What was shown, recorded and read is the beginning of what was said, byte
	// for byte.
	Prefix Invariant = "prefix"

	// Every session in the store is over.
	Finished Invariant = "finished"

	// The cause that the store has is true. None means that the program ended by
	// itself, and then its status is the program's.
	Cause Invariant = "cause"

	// The client hears how its session ended, and it hears what the store says.
	Told Invariant = "told"

	// When the program ended by itself, the person has seen all it said, the
	// recording has it all, and the program had all that was typed.
	Complete Invariant = "complete"

	// The store has the size and the hash of the recording that there is.
	Sealed Invariant = "sealed"

	// Nothing is left: programs, connections, files, sessions of the broker.
	Empty Invariant = "empty"
)

// A Problem is an invariant that did not hold.
type Problem struct {
	Invariant Invariant
	Text      string
}

func (p Problem) String() string { return string(p.Invariant) + ": " + p.Text }

// A factKind is something that may be the cause of a session's end.
type factKind uint8

const (
	left       factKind = iota // a client left, or was killed
	terminated                 // an administrator ended a session
	agentGone                  // the agent was stopped or killed
	agentAway                  // and is there again
	lostPower                  // the server's machine lost its power
	full                       // the disk was full
)

type fact struct {
	kind    factKind
	session *Session // nil for what is not of one session
	at      time.Time
}

func (w *World) fact(kind factKind, s *Session) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.facts = append(w.facts, fact{kind, s, time.Now()})
}

// happened reports whether something happened, to s or to all, from shortly
// before s began until the store had its end.
func (w *World) happened(kind factKind, s *Session) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.facts {
		before, after := f.at.Before(s.Began.Add(-time.Minute)), !s.ended.IsZero() && f.at.After(s.ended)
		if f.kind == kind && (f.session == nil && !before && !after || f.session == s) {
			return true
		}
	}
	return false
}

// A trouble is a time in which something could not be reached.
type trouble struct {
	who      string // the agent, a client's host, or the server
	from, to time.Time
}

// Trouble notes that something cannot be reached for a time from now on.
func (w *World) Trouble(who string, long time.Duration) {
	now := time.Now()
	w.noteTrouble(trouble{who, now, now.Add(long)})
}

func (w *World) noteTrouble(t trouble) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.troubles = append(w.troubles, t)
}

// comeback is how long an end takes at most to be attached again after it can
// reach the server again: a pause between two attempts, an attempt that began just
// before, and the round trips of an attempt on the slowest link.
const comeback = 5 * time.Second

// outage is the longest time for which one of several could not be reached while
// s was on. Two troubles are one outage if the time between them is too short to
// come back in.
func (w *World) outage(s *Session, who ...string) (longest time.Duration) {
	w.mu.Lock()
	troubles := slices.Clone(w.troubles)
	w.mu.Unlock()
	slices.SortFunc(troubles, func(a, b trouble) int { return a.from.Compare(b.from) })
	var from, to time.Time
	for _, t := range troubles {
		if !slices.Contains(who, t.who) || !t.to.After(s.Began.Add(-comeback)) || !s.ended.IsZero() && !t.from.Before(s.ended) {
			continue
		}
		if t.from.After(to.Add(comeback)) {
			from = t.from
		}
		if t.to.After(to) {
			to = t.to
		}
		longest = max(longest, to.Add(comeback).Sub(from))
	}
	return longest
}

// How long each party waits before it gives up: the figures of the broker, the
// agent and the client.
const (
	nodeGrace    = 90 * time.Second // the server for an agent that was there
	dispatched   = 15 * time.Second // the server for an agent that was asked three times
	answerWithin = 15 * time.Second // the agent for an answer to its handshake
	unheard      = 30 * time.Second // the client for a session that it heard nothing of
)

// nodeAway reports whether the agent was away for longer than a session waits.
func (w *World) nodeAway(s *Session) bool {
	return w.happened(agentGone, s) || w.outage(s, "agent", "server") >= nodeGrace
}

// gaveUp reports whether the client could not get in for as long as it tries.
func (w *World) gaveUp(s *Session) bool {
	return s.Failure != nil && w.outage(s, s.Process.Host.Name(), "server") >= unheard
}

// clientAway reports whether the client is no more. No run of the faults keeps one
// that goes on trying away for as long as a session waits for it: 5 minutes.
func (w *World) clientAway(s *Session) bool { return w.happened(left, s) || w.gaveUp(s) }

// causes are the sentences that sessions end with, by what they contain, and
// what makes each true.
var causes = []struct {
	text string
	true func(w *World, s *Session) bool
}{
	{"Terminated by", func(w *World, s *Session) bool {
		return w.happened(terminated, s) || w.happened(left, s) || w.gaveUp(s)
	}},
	{"was idle for", func(w *World, s *Session) bool { return w.Idle > 0 && (s.Program == nil || s.Program.pauses(w.Idle)) }},
	{"log cannot be written", func(w *World, s *Session) bool { return w.happened(full, s) }},
	{"has lost its log", func(w *World, s *Session) bool { return w.happened(lostPower, s) }},
	{"client was away", (*World).clientAway},
	{"No client connected", (*World).clientAway},
	{"client ended the session", func(w *World, s *Session) bool { return w.happened(left, s) }},
	{"No answer from the client arrived", func(w *World, s *Session) bool { // the handshake
		return w.happened(left, s) || w.happened(agentGone, s) || w.outage(s, s.Process.Host.Name(), "agent", "server") >= answerWithin
	}},
	{"was lost and did not come back", (*World).nodeAway},
	{"did not answer", func(w *World, s *Session) bool {
		return w.happened(agentGone, s) || w.outage(s, "agent", "server") >= dispatched
	}},
	{"agent", func(w *World, s *Session) bool { return w.happened(agentGone, s) }},
}

// Settle waits until the store has no session that is on, no longer than a time.
func (w *World) Settle(limit time.Duration) {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(5 * time.Second) {
		on, err := w.Store().Sessions().Unfinished(context.Background())
		if err == nil && len(on) == 0 {
			return
		}
	}
}

// Check compares what every party of a session was told with what is true. The
// session is over.
func (w *World) Check(s *Session) (all []Problem) {
	bad := func(i Invariant, format string, args ...any) {
		all = append(all, Problem{i, s.name() + ": " + fmt.Sprintf(format, args...)})
	}
	rec, err := w.Store().Sessions().Get(context.Background(), s.ID)
	if err != nil {
		bad(Finished, "not in the store: %v", err)
		return all
	}
	s.ended, _ = rec.Ended()
	final := rec.State().Final()
	if !final {
		bad(Finished, "the store says %v", rec.State())
	}
	var truth Truth
	byItself := false
	if s.Program != nil {
		truth = s.Program.Truth()
		if s.Kind == Shell {
			truth.Output = append(w.Machine.Shown(s.ID), truth.Output...)
		}
		byItself = !truth.Ended.IsZero() && !truth.HungUp
	}
	simply := final && rec.Cause == "" // the store says that the program just ended

	// The cause.
	switch {
	case !final:
	case rec.Cause != "":
		if !w.isTrue(rec.Cause, s) {
			bad(Cause, "the store says %q, which did not happen", rec.Cause)
		}
	case s.Kind == Forward:
		if !w.happened(left, s) {
			bad(Cause, "the store names no cause, and the client did not leave")
		}
	case !byItself:
		bad(Cause, "the store names no cause, and the program did not end by itself")
	}
	if simply && byItself && (rec.ExitStatus == nil || *rec.ExitStatus != s.Program.Status) {
		bad(Cause, "the store has the status %s, and the program ended with %d", show(rec.ExitStatus), s.Program.Status)
	}

	// What the history says to whom it is shown.
	if final {
		all = append(all, w.checkHistory(s, rec)...)
	}

	// What the client was told.
	ended := false
	select {
	case <-s.done:
		ended = true
	default:
	}
	switch {
	case s.stdin == nil || s.gone: // it never came, or is no more
	case !ended:
		bad(Told, "the client was not told that the session is over")
	case s.Failure != nil && w.clientAway(s): // it has said so
	case s.Failure != nil:
		bad(Told, "the client failed: %v", s.Failure)
	case s.Ending.How == client.Left:
	case s.Ending.How != client.Closed && s.Ending.How != client.Expired:
		bad(Told, "the client ended in way %d, and was not told why", s.Ending.How)
	case final && (s.Ending.Output != rec.Cause || show(s.Ending.ExitStatus) != show(rec.ExitStatus)):
		bad(Told, "the client was told %q, status %s, and the store says %q, status %s", s.Ending.Output, show(s.Ending.ExitStatus), rec.Cause, show(rec.ExitStatus))
	}

	// The bytes.
	all = append(all, w.checkBytes(s, rec, truth, simply && byItself)...)
	return all
}

// checkHistory compares what DescribeSessions says of a session that is over with
// what the store has.
func (w *World) checkHistory(s *Session, rec *store.SessionRecord) []Problem {
	w.mu.Lock()
	history := w.history
	w.mu.Unlock()
	at := slices.IndexFunc(history, func(i client.SessionInfo) bool { return i.SessionID == s.ID.String() })
	if at < 0 {
		return []Problem{{Told, s.name() + ": the history does not have it"}}
	}
	if i := history[at]; i.Status != rec.State().String() || i.Details != rec.Cause {
		return []Problem{{Told, fmt.Sprintf("%s: the history says %s, %q, and the store %v, %q", s.name(), i.Status, i.Details, rec.State(), rec.Cause)}}
	}
	return nil
}

func show(status *int) string {
	if status == nil {
		return "none"
	}
	return fmt.Sprint(*status)
}

func (w *World) isTrue(cause string, s *Session) bool {
	for _, c := range causes {
		if strings.Contains(cause, c.text) {
			return c.true(w, s)
		}
	}
	return false
}

// checkBytes compares screen, recording and program. Complete says that the
// program ended by itself and the store agrees.
func (w *World) checkBytes(s *Session, rec *store.SessionRecord, truth Truth, complete bool) (all []Problem) {
	bad := func(i Invariant, format string, args ...any) {
		all = append(all, Problem{i, s.name() + ": " + fmt.Sprintf(format, args...)})
	}
	if s.Kind == Forward || s.Program == nil {
		return all // the test that connects checks its bytes
	}
	compare := func(what string, got, want []byte, whole bool) {
		if !bytes.HasPrefix(want, got) {
			bad(Prefix, "%s: %s", what, difference(got, want))
		} else if whole && len(got) < len(want) {
			bad(Complete, "%s: %d of %d bytes", what, len(got), len(want))
		}
	}
	// A client that could not stay, or came back too late, has seen a part.
	watched := s.stdin != nil && !s.gone && s.Failure == nil && !(s.Ending.How == client.Expired && w.clientAway(s))
	compare("screen", s.Out.Shown(), truth.Output, complete && watched)
	compare("standard error", s.Err.Shown(), truth.Errors, complete && watched)
	compare("input", truth.Input, s.sent.Shown(), false)

	out, errs, err := w.recording(s)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if complete {
			bad(Complete, "there is no recording")
		}
		return all
	case err != nil:
		bad(Sealed, "read recording: %v", err)
		return all
	}
	cast, err := w.Disk.Read(s.ID.String() + ".cast")
	if err != nil {
		bad(Sealed, "%v", err)
		return all
	}
	if sum := sha256.Sum256(cast); rec.Log.Size != int64(len(cast)) || !bytes.Equal(rec.Log.Hash, sum[:]) {
		bad(Sealed, "the store has a recording of %d bytes, %x, and it has %d bytes, %x", rec.Log.Size, rec.Log.Hash, len(cast), sum)
	}
	if last, want := lastMarker(cast), endMarker(rec); last != want && want != "" {
		bad(Told, "the recording ends with %q, and the history says %q", last, want)
	}
	if cuts := w.powerCuts(s); cuts > 0 {
		return append(all, w.checkGaps(s, cuts, truth, complete, out, errs)...)
	}
	compare("recording", out, truth.Output, complete)
	compare("recording of standard error", errs, truth.Errors, complete)
	if !bytes.HasPrefix(out, s.Out.Shown()) || !bytes.HasPrefix(errs, s.Err.Shown()) {
		bad(Complete, "the recording has %d and %d bytes, and the person was shown %d and %d", len(out), len(errs), len(s.Out.Shown()), len(s.Err.Shown()))
	}
	return all
}

// powerCuts counts how often the server's machine lost its power while s was on.
func (w *World) powerCuts(s *Session) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.facts {
		if f.kind == lostPower && !f.at.Before(s.Began) && (s.ended.IsZero() || !f.at.After(s.ended)) {
			n++
		}
	}
	return n
}

// checkGaps checks a recording that power cuts have taken from: each what was said
// in a moment, and no more than its log lost. What is left is as it was said and
// in order.
func (w *World) checkGaps(s *Session, cuts int, truth Truth, complete bool, out, errs []byte) (all []Problem) {
	for _, r := range []struct {
		what      string
		got, want []byte
	}{{"recording", out, truth.Output}, {"recording of standard error", errs, truth.Errors}} {
		if !isWithGaps(r.got, r.want, cuts, complete) {
			all = append(all, Problem{Prefix, fmt.Sprintf("%s: %s: %d of %d bytes are not what is left after %d power cuts: %s", s.name(), r.what, len(r.got), len(r.want), cuts, difference(r.got, r.want))})
		}
	}
	missing, lost := len(truth.Output)+len(truth.Errors)-len(out)-len(errs), w.Disk.Lost(s.ID.String()+".log")
	if complete && missing > lost {
		all = append(all, Problem{Complete, fmt.Sprintf("%s: the recording lacks %d bytes, and its log lost %d", s.name(), missing, lost)})
	}
	return all
}

// isWithGaps reports whether got is want without at most some pieces of it, and,
// unless it is to be whole, without its end.
func isWithGaps(got, want []byte, gaps int, whole bool) bool {
	n := common(got, want)
	got, want = got[n:], want[n:]
	switch {
	case len(got) == 0:
		return !whole || gaps > 0 || len(want) == 0
	case gaps == 0:
		return false
	case bytes.HasSuffix(want, got):
		return true
	case whole && gaps == 1: // the piece before the gap may end in what begins the one after it
		return false
	}
	next := got[:min(len(got), 64)]
	for at := bytes.Index(want, next); at >= 0; {
		if isWithGaps(got, want[at:], gaps-1, whole) {
			return true
		}
		further := bytes.Index(want[at+1:], next)
		if further < 0 {
			break
		}
		at += 1 + further
	}
	return false
}

// common is how many bytes a and b begin with alike.
func common(a, b []byte) (n int) {
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// recording returns what a session's recording shows, output and errors apart:
// on pipes, programs write errors in capitals.
func (w *World) recording(s *Session) (out, errs []byte, err error) {
	cast, err := w.Disk.Read(s.ID.String() + ".cast")
	if err != nil {
		return nil, nil, err
	}
	r, err := asciicast.NewReader(bytes.NewReader(cast))
	for err == nil {
		var e asciicast.Event
		if e, err = r.Next(); err == nil && e.Kind == "o" {
			out = append(out, e.Text...)
		}
	}
	if err != io.EOF {
		return nil, nil, err
	}
	if s.Kind == Exec {
		var rest []byte
		for _, b := range out {
			if b == ';' || 'A' <= b && b <= 'Z' {
				errs = append(errs, b)
			} else {
				rest = append(rest, b)
			}
		}
		out = rest
	}
	return out, errs, nil
}

// lastMarker is the text of the last line of a recording, if that is a marker.
func lastMarker(cast []byte) string {
	lines := bytes.Split(bytes.TrimSuffix(cast, []byte("\n")), []byte("\n"))
	var kind, text string
	if err := json.Unmarshal(lines[len(lines)-1], &[]any{new(float64), &kind, &text}); err != nil || kind != "m" {
		return ""
	}
	return text
}

// endMarker is the last marker that the recording of a session is to have: "" for
// one that has neither a cause nor a status.
func endMarker(rec *store.SessionRecord) string {
	switch {
	case rec.Cause != "" && rec.ExitStatus != nil:
		return fmt.Sprintf("ended with status %d: %s", *rec.ExitStatus, rec.Cause)
	case rec.Cause != "":
		return "ended: " + rec.Cause
	case rec.ExitStatus != nil:
		return fmt.Sprintf("ended with status %d", *rec.ExitStatus)
	}
	return ""
}

func difference(got, want []byte) string {
	for i := range got {
		if i == len(want) || got[i] != want[i] {
			return fmt.Sprintf("differs at byte %d: %.60q, want %.60q", i, got[i:], want[i:])
		}
	}
	return "the same"
}

// tidied is how long the server may take to seal logs that it could not seal at
// once: it tries every hour. found is how long an agent may take to notice that its
// connections were lost silently, and to be told what has ended.
const (
	tidied = time.Hour + 2*time.Minute
	found  = 3 * time.Minute
)

// CheckAll checks every session that was asked for, those whose answer was lost
// included. What is not right yet is given the time that it may take.
func (w *World) CheckAll() (all []Problem) {
	has := func(i Invariant) bool {
		return slices.ContainsFunc(all, func(p Problem) bool { return p.Invariant == i })
	}
	all = w.checkAll()
	if has(Empty) {
		time.Sleep(found)
		all = w.checkAll()
	}
	if has(Sealed) {
		time.Sleep(tidied)
		all = w.checkAll()
	}
	return all
}

func (w *World) checkAll() (all []Problem) {
	history, _, err := w.NewClient().Sessions(context.Background(), client.SessionQuery{History: true})
	if err != nil {
		all = append(all, Problem{Told, "the history cannot be read: " + err.Error()})
	}
	w.mu.Lock()
	w.history = history
	sessions := w.sessions
	w.mu.Unlock()
	for _, s := range sessions {
		all = append(all, w.Check(s)...)
	}
	on, err := w.Store().Sessions().Unfinished(context.Background())
	if err != nil {
		all = append(all, Problem{Finished, err.Error()})
	}
	for _, rec := range on {
		all = append(all, Problem{Finished, fmt.Sprintf("%s is %v", rec.ID, rec.State())})
	}
	if n := w.lastServer().running.Broker.Stats().Live; n != len(on) {
		all = append(all, Problem{Empty, fmt.Sprintf("the broker has %d sessions, and the store %d", n, len(on))})
	}
	if n := w.Machine.Running(); n > 0 && len(on) == 0 {
		all = append(all, Problem{Empty, fmt.Sprintf("%d programs run, and no session is on", n)})
	}
	for _, name := range w.Disk.Names() {
		id, isLog := strings.CutSuffix(name, ".log")
		if _, err := sallyport.ParseSessionID(id); isLog && err == nil && len(on) == 0 {
			all = append(all, Problem{Sealed, name + " was not sealed"})
		} else if strings.HasPrefix(name, ".seal-") {
			all = append(all, Problem{Empty, name + " is left on the disk"})
		}
	}
	return all
}
