package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
)

// ErrOutOfTurn is within the error of [Sessions.Advance] when the session, as
// stored, cannot have come to the state it is to have: another caller has
// written it since.
var ErrOutOfTurn = errors.New("the stored session cannot come to that state")

// ErrFenced is within the error of a method that writes a session which another
// server has taken up since: see [Sessions.TakeUp].
var ErrFenced = errors.New("another server has taken the session up")

// What is known of a session's recording.
const (
	RecordingOpen     = "open"     // the session is on, and its log is being written
	RecordingSealed   = "sealed"   // the recording is made
	RecordingUnsealed = "unsealed" // the session is over, and its log could not be made a recording yet
)

// A SessionRecord is a session, and what a server that restarts needs to take
// it up where it was left.
type SessionRecord struct {
	*sallyport.Session

	Parameters json.RawMessage // of its document, as StartSession had them; nil is none
	Access     Access
	Resume     json.RawMessage // the broker's own; the store does not look inside
	Log        Log             // zero until the session is sealed
	Recording  string          // [RecordingOpen] and so on; empty if it is not known
}

// Access says who may attach to a session.
type Access struct {
	Token     sallyport.SecretHash // of the person's token
	Client    string               // the client id the token is bound to; empty may be one too
	Bound     bool                 // the token has been used, and is Client's
	NodeToken sallyport.SecretHash // of the node's token
}

// A Log describes a session's sealed log.
type Log struct {
	Size int64
	Hash []byte
}

const sessionColumns = `id, owner, owner_id, root, basis, node, document, reason, started, max_duration, state, ended, cause, exit_status, kind, run_as, mfa, epoch`
const recordColumns = sessionColumns + `, parameters, token, client, bound, node_token, resume, log_size, log_hash, recording`

func scanSession(s scanner) (*sallyport.Session, error) { return scanSessionAnd(s) }

func scanSessionAnd(s scanner, more ...any) (*sallyport.Session, error) {
	var v sallyport.Session
	var id, basis, node, state string
	var started, maxDuration, ended int64
	var exit, mfa sql.NullInt64
	if err := s.Scan(append([]any{&id, &v.Owner, &v.OwnerID, &v.Root, &basis, &node, &v.Document, &v.Reason, &started, &maxDuration, &state, &ended, &v.Cause, &exit, &v.Kind, &v.RunAs, &mfa, &v.Epoch}, more...)...); err != nil {
		return nil, err
	}
	var err error
	if v.ID, err = sallyport.ParseSessionID(id); err != nil {
		return nil, err
	}
	if v.Node, err = sallyport.ParseNodeID(node); err != nil {
		return nil, err
	}
	at, err := sallyport.ParseState(state)
	if err != nil {
		return nil, err
	}
	v.Basis = strings.Fields(basis)
	v.MFA = fromMillis(mfa.Int64)
	v.Started, v.MaxDuration = fromMillis(started), time.Duration(maxDuration)*time.Millisecond
	if exit.Valid {
		status := int(exit.Int64)
		v.ExitStatus = &status
	}
	return sallyport.RestoreSession(v, at, fromMillis(ended))
}

func scanRecord(s scanner) (*SessionRecord, error) {
	var r SessionRecord
	var parameters, resume string
	var token, nodeToken []byte
	session, err := scanSessionAnd(s, &parameters, &token, &r.Access.Client, &r.Access.Bound, &nodeToken, &resume, &r.Log.Size, &r.Log.Hash, &r.Recording)
	if err != nil {
		return nil, err
	}
	r.Session = session
	copy(r.Access.Token[:], token)
	copy(r.Access.NodeToken[:], nodeToken)
	r.Parameters, r.Resume = fromText(parameters), fromText(resume)
	if len(r.Log.Hash) == 0 {
		r.Log.Hash = nil
	}
	return &r, nil
}

func fromText(s string) json.RawMessage {
	if s == "" {
		return nil
	}
	return json.RawMessage(s)
}

func noSession(id sallyport.SessionID) error {
	return sallyport.Errorf(sallyport.DoesNotExistException, "There is no session %s. It may have ended long enough ago to be forgotten.", id)
}

func exitStatus(s *sallyport.Session) sql.NullInt64 {
	if s.ExitStatus == nil {
		return sql.NullInt64{}
	}
	return sql.NullInt64{Int64: int64(*s.ExitStatus), Valid: true}
}

func endedMillis(s *sallyport.Session) int64 {
	at, _ := s.Ended()
	return millis(at)
}

// Insert adds a session.
func (ss Sessions) Insert(ctx context.Context, r *SessionRecord) error {
	err := ss.write(ctx, func(tx *tx) error {
		_, err := tx.exec(`INSERT INTO sessions (`+recordColumns+`)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27)`,
			r.ID.String(), r.Owner, r.OwnerID, r.Root, strings.Join(r.Basis, " "), r.Node.String(), r.Document, clean(r.Reason), millis(r.Started), r.MaxDuration.Milliseconds(),
			r.State().String(), endedMillis(r.Session), clean(r.Cause), exitStatus(r.Session), clean(r.Kind), clean(r.RunAs), millis(r.MFA), r.Epoch,
			clean(string(r.Parameters)), r.Access.Token[:], clean(r.Access.Client), r.Access.Bound, r.Access.NodeToken[:],
			string(r.Resume), r.Log.Size, blob(r.Log.Hash), RecordingOpen)
		tx.leaves(stateEvent(r.Session, r.Started))
		return err
	})
	return wrap(err, "insert session %s", r.ID)
}

// stateEvent is the event of a session that has come to a state, at a time; zero is
// now.
func stateEvent(s *sallyport.Session, at time.Time) Event {
	e := Event{At: at, Kind: SessionEvent, Name: s.State().String(), Subject: s.ID.String()}
	if s.State() == sallyport.Connecting {
		e.Actor, e.ActorID = s.Owner, s.Root
		e.Details = details("node", s.Node.String(), "document", s.Document, "kind", s.Kind, "runAs", s.RunAs, "reason", s.Reason)
	} else {
		e.Details = details("node", s.Node.String(), "cause", s.Cause)
	}
	return e
}

// Get returns a session, on or over, or DoesNotExistException.
func (ss Sessions) Get(ctx context.Context, id sallyport.SessionID) (*SessionRecord, error) {
	r, err := scanRecord(ss.q().QueryRowContext(ctx, `SELECT `+recordColumns+` FROM sessions WHERE id = $1`, id.String()))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, noSession(id)
	}
	if err != nil {
		return nil, fmt.Errorf("read session %s: %w", id, translate(err))
	}
	return r, nil
}

// before lists, for each state, the states a session may have been in some
// time before, itself included unless it is final. It asks the vocabulary, so
// that there is one list of what may follow what.
var before = func() map[sallyport.State][]sallyport.State {
	const first, last = sallyport.Connecting, sallyport.Failed
	at := time.Unix(1, 0)
	reach := map[sallyport.State][]sallyport.State{}
	var walk func(from, here sallyport.State)
	walk = func(from, here sallyport.State) {
		if slices.Contains(reach[here], from) {
			return
		}
		reach[here] = append(reach[here], from)
		for to := first; to <= last; to++ {
			if s, err := sallyport.RestoreSession(sallyport.Session{}, here, time.Time{}); err == nil && s.Advance(to, at) == nil {
				walk(from, to)
			}
		}
	}
	for from := first; from <= last; from++ {
		if !from.Final() {
			walk(from, from)
		}
	}
	return reach
}()

// Advance writes a session's state, cause, end and exit status, if the
// session as stored may come to that state, by any number of steps; else the
// error is [ErrOutOfTurn]. So a session that is over stays so, also if an earlier
// state is written late.
func (ss Sessions) Advance(ctx context.Context, s *sallyport.Session) error {
	return ss.advance(ctx, s, nil)
}

// Seal is [Sessions.Advance] for a session's final state, with what is
// known of its log, as one step.
func (ss Sessions) Seal(ctx context.Context, s *sallyport.Session, log Log) error {
	return ss.advance(ctx, s, &log)
}

func (ss Sessions) advance(ctx context.Context, s *sallyport.Session, log *Log) error {
	err := ss.write(ctx, func(tx *tx) error {
		var w where
		set := "state = " + w.arg(s.State().String()) + ", ended = " + w.arg(endedMillis(s)) +
			", cause = " + w.arg(clean(s.Cause)) + ", exit_status = " + w.arg(exitStatus(s))
		if log != nil {
			recording := RecordingSealed
			if len(log.Hash) == 0 {
				recording = RecordingUnsealed
			}
			set += ", log_size = " + w.arg(log.Size) + ", log_hash = " + w.arg(blob(log.Hash)) + ", recording = " + w.arg(recording)
		}
		w.add("id = ?", s.ID.String())
		w.add("epoch = ?", s.Epoch)
		var from []string
		for _, b := range before[s.State()] {
			from = append(from, b.String())
		}
		w.in("state", from)
		update := `UPDATE sessions SET ` + set + ` WHERE ` + w.String()
		same := w.args
		other := w.arg(s.State().String())
		n, err := tx.exec(update+` AND state <> `+other, w.args...)
		if err == nil && n == 1 {
			at, _ := s.Ended()
			tx.leaves(stateEvent(s, at))
			return nil
		}
		if err == nil { // it is in that state already, or may not come to it
			n, err = tx.exec(update, same...)
		}
		if err != nil || n == 1 {
			return err
		}
		var state string
		var epoch int64
		err = tx.row(`SELECT state, epoch FROM sessions WHERE id = $1`, s.ID.String()).Scan(&state, &epoch)
		if errors.Is(err, sql.ErrNoRows) {
			return noSession(s.ID)
		}
		if err != nil {
			return err
		}
		if epoch != s.Epoch {
			return ErrFenced
		}
		return fmt.Errorf("from %s to %v: %w", state, s.State(), ErrOutOfTurn)
	})
	return wrap(err, "update session %s", s.ID)
}

// SetLog writes what is known of the log of a session that is over, whose
// recording was made later.
func (ss Sessions) SetLog(ctx context.Context, id sallyport.SessionID, log Log) error {
	err := ss.write(ctx, func(tx *tx) error {
		n, err := tx.exec(`UPDATE sessions SET log_size = $2, log_hash = $3, recording = $4 WHERE id = $1 AND ended <> 0`,
			id.String(), log.Size, blob(log.Hash), RecordingSealed)
		if err != nil || n == 1 {
			return err
		}
		if err := tx.row(`SELECT count(*) FROM sessions WHERE id = $1`, id.String()).Scan(&n); err != nil {
			return err
		}
		if n == 0 {
			return noSession(id)
		}
		return fmt.Errorf("it is not over: %w", ErrOutOfTurn)
	})
	return wrap(err, "set log of session %s", id)
}

// SetAccess changes who may attach to a session that is not over. The caller has
// the session under an epoch.
func (ss Sessions) SetAccess(ctx context.Context, id sallyport.SessionID, epoch int64, a Access) error {
	err := ss.write(ctx, func(tx *tx) error {
		n, err := tx.exec(`UPDATE sessions SET token = $3, client = $4, bound = $5, node_token = $6 WHERE id = $1 AND epoch = $2 AND ended = 0`,
			id.String(), epoch, a.Token[:], clean(a.Client), a.Bound, a.NodeToken[:])
		if err != nil || n == 1 {
			return err
		}
		var now int64
		err = tx.row(`SELECT epoch FROM sessions WHERE id = $1`, id.String()).Scan(&now)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return noSession(id)
		case err != nil:
			return err
		case now != epoch:
			return ErrFenced
		}
		return fmt.Errorf("it is over: %w", ErrOutOfTurn)
	})
	return wrap(err, "set access to session %s", id)
}

// TakeUp is Unfinished for a server that starts: each of the sessions is its own
// from then on, under an epoch that no other server had. What an earlier server
// still writes of them is refused with [ErrFenced].
func (ss Sessions) TakeUp(ctx context.Context) (list []*SessionRecord, err error) {
	err = ss.write(ctx, func(tx *tx) (err error) {
		if _, err := tx.exec(`UPDATE sessions SET epoch = epoch + 1 WHERE ended = 0`); err != nil {
			return err
		}
		list, err = Sessions{scope{ss.db, tx}}.Unfinished(tx.ctx)
		return err
	})
	return list, wrap(err, "take up sessions")
}

// Unfinished returns every session that is not over, oldest first: what a
// server that starts has to take up or end.
func (ss Sessions) Unfinished(ctx context.Context) ([]*SessionRecord, error) {
	list, err := collect(ctx, ss.q(), scanRecord, `SELECT `+recordColumns+` FROM sessions WHERE ended = 0 ORDER BY started, id`)
	return list, wrap(translate(err), "list unfinished sessions")
}

// A SessionFilter says which sessions are wanted: those that match every field
// that is not zero. The fields are the filters of DescribeSessions.
type SessionFilter struct {
	InvokedAfter  time.Time // started then or later
	InvokedBefore time.Time // started before
	Node          sallyport.NodeID
	Owner         string // an ARN
	State         sallyport.State
	ID            sallyport.SessionID
}

// Active lists sessions that are not over, newest first.
func (ss Sessions) Active(ctx context.Context, f SessionFilter, page Page) ([]*sallyport.Session, Cursor, error) {
	if f.State.Final() {
		return nil, "", nil
	}
	upto, err := f.upto("active sessions", page)
	if err != nil {
		return nil, "", err
	}
	var states []sallyport.State // any
	if f.State != 0 {
		states = []sallyport.State{f.State}
	}
	query, args := ss.sessionQuery(f, "ended = 0", states, upto, page.limit()+1)
	return ss.listSessions(ctx, "active sessions", page, query, args)
}

// History lists sessions that are over, newest first by when they started.
//
// Every page is read off an index and costs what it returns, however long the
// history is and wherever in it the page lies: whether owner and node are
// given chooses one of four indexes, in each of which a final state's sessions
// lie in order of time, and the two states are merged.
func (ss Sessions) History(ctx context.Context, f SessionFilter, page Page) ([]*sallyport.Session, Cursor, error) {
	if f.State != 0 && !f.State.Final() {
		return nil, "", nil
	}
	upto, err := f.upto("session history", page)
	if err != nil {
		return nil, "", err
	}
	states := []sallyport.State{sallyport.Terminated, sallyport.Failed}
	if f.State != 0 {
		states = []sallyport.State{f.State}
	}
	query, args := ss.sessionQuery(f, "ended > 0", states, upto, page.limit()+1)
	return ss.listSessions(ctx, "session history", page, query, args)
}

// A moment is a place among sessions in order of time: those before it sort
// before (started, id).
type moment struct {
	started int64
	id      string
}

// upto returns where a page begins, going back: after the cursor's session,
// or at InvokedBefore, whichever is earlier; nil for now.
func (f *SessionFilter) upto(list string, page Page) (*moment, error) {
	started, id, more, err := page.placeTime(list)
	if err != nil {
		return nil, err
	}
	var m *moment
	if more {
		m = &moment{started, id}
	}
	if b := millisUp(f.InvokedBefore); b != 0 && (m == nil || b <= m.started) {
		m = &moment{b, ""} // no id sorts before the empty one
	}
	return m, nil
}

// millisUp is millis, rounded up: the first stored moment that is not before t.
func millisUp(t time.Time) int64 {
	ms := millis(t)
	if ms != 0 && time.UnixMilli(ms).Before(t) {
		ms++
	}
	return ms
}

// sessionQuery returns the query for one page, newest first.
func (ss Sessions) sessionQuery(f SessionFilter, which string, states []sallyport.State, upto *moment, limit int) (string, []any) {
	var w where
	index := "sessions_history"
	if f.Owner != "" {
		w.add("owner = ?", f.Owner)
		index += "_owner"
	}
	if !f.Node.IsZero() {
		w.add("node = ?", f.Node.String())
		index += "_node"
	}
	if which == "ended = 0" {
		index = "sessions_active"
	}
	if !f.ID.IsZero() {
		w.add("id = ?", f.ID.String())
		index = "" // the id's own
	}
	if after := millisUp(f.InvokedAfter); after != 0 {
		w.add("started >= ?", after)
	}
	if upto != nil {
		w.add("(started, id) < (?, ?)", upto.started, upto.id)
	}
	w.conds = append(w.conds, which)
	order, most := ` ORDER BY started DESC, id DESC LIMIT `, w.arg(limit)
	one := func(cond string) string {
		return `SELECT ` + sessionColumns + ` FROM sessions` + ss.db.dialect.using(index) + ` WHERE ` + w.String() + cond + order + most
	}
	switch len(states) {
	case 0:
		return one(""), w.args
	case 1:
		query := one(" AND state = " + w.arg(states[0].String()))
		return query, w.args
	}
	// Each half stops by itself when it has a page; half of the rows read at
	// most are thrown away.
	var halves []string
	for i, s := range states {
		halves = append(halves, `SELECT * FROM (`+one(" AND state = "+w.arg(s.String()))+`) AS half`+strconv.Itoa(i))
	}
	return strings.Join(halves, " UNION ALL ") + order + most, w.args
}

func (ss Sessions) listSessions(ctx context.Context, list string, page Page, query string, args []any) ([]*sallyport.Session, Cursor, error) {
	sessions, err := collect(ctx, ss.q(), scanSession, query, args...)
	if err != nil {
		return nil, "", fmt.Errorf("list %s: %w", list, translate(err))
	}
	sessions, next := cut(sessions, page, func(s *sallyport.Session) Cursor {
		return newCursor(list, strconv.FormatInt(millis(s.Started), 10), s.ID.String())
	})
	return sessions, next, nil
}

// forgetTogether bounds what one transaction deletes, so that others who want
// to write wait no longer than that.
const forgetTogether = 500

// Forget deletes sessions that ended before then, and returns how many.
// If it fails part of the way, what it deleted stays deleted.
func (ss Sessions) Forget(ctx context.Context, then time.Time) (forgotten int64, err error) {
	for _, state := range []sallyport.State{sallyport.Terminated, sallyport.Failed} {
		for {
			var n int64
			err := ss.write(ctx, func(tx *tx) (err error) {
				// What ended before then started before then, so the walk down
				// the index is short of what is kept.
				n, err = tx.exec(`DELETE FROM sessions WHERE id IN (
					SELECT id FROM sessions WHERE ended > 0 AND state = $1 AND started < $2 AND ended < $2 ORDER BY started LIMIT $3)`,
					state.String(), millis(then), forgetTogether)
				return err
			})
			if err != nil {
				return forgotten, fmt.Errorf("forget history: %w", err)
			}
			forgotten += n
			if n < forgetTogether {
				break
			}
		}
	}
	return forgotten, nil
}
