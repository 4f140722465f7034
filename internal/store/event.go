package store

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/sallyport/sallyport"
)

// Events is the event log: what was done, by whom, on what. It is written in the
// transaction of the change, and read by cursor.
type Events struct{ scope }

// Events returns the view of the event log.
func (v views) Events() Events { return Events(v) }

// An EventKind says what an event is about.
type EventKind string

const (
	CallEvent    EventKind = "call"    // a caller's API call; its name is the action: "iam:CreateUser"
	SessionEvent EventKind = "session" // a session came to a state, which is the name: "Connected"
	NodeEvent    EventKind = "node"    // Registered, Deregistered, Online, Offline, AllOffline, Trouble
	ServerEvent  EventKind = "server"  // what the server did by itself: KeyDeleted
)

// An Event is one entry of the event log. It holds no secrets: the caller of
// [Events.Append] sees to that.
//
// Events are management calls, decisions and changes of a session's or a node's
// state. A heartbeat or a poll is none.
type Event struct {
	Number  int64     // its place in the log, counting from 1; set by the store
	At      time.Time // zero is when it is appended
	Kind    EventKind
	Name    string
	Actor   string          // ARN of who did it; empty is the server itself
	ActorID string          // [sallyport.Principal.Root] of who did it
	Subject string          // what it was done to: an ARN, the ID of a session or of a node
	Request string          // x-amzn-RequestId of the call
	Source  string          // the address the call came from
	Error   sallyport.Code  // what the call was answered with; empty if it was done
	Details json.RawMessage // a JSON object; nil is none
}

// Bounds of an event. Longer text is clipped; longer details are left out, and
// {"omitted": …} says so.
const (
	maxEventText    = 2048 // bytes: an ARN has as many at most
	maxEventDetails = 16 << 10
)

func (e *Event) bound() {
	for _, s := range []*string{&e.Name, &e.Actor, &e.ActorID, &e.Subject, &e.Request, &e.Source} {
		*s = sallyport.Clip(clean(*s), maxEventText)
	}
	switch {
	case len(e.Details) == 0:
		e.Details = nil
	case len(e.Details) > maxEventDetails:
		e.Details = fmt.Appendf(nil, `{"omitted":"%d bytes"}`, len(e.Details))
	}
}

// Append adds an event to the log: within a transaction when that is committed,
// and if it is. Its number is not known before.
func (es Events) Append(ctx context.Context, e Event) error {
	return wrap(es.write(ctx, func(tx *tx) error {
		tx.leaves(e)
		return nil
	}), "append event %s", e.Name)
}

// leaves has the transaction append an event before it is committed.
func (t *tx) leaves(e Event) {
	if e.At.IsZero() {
		e.At = time.Now()
	}
	t.run.events = append(t.run.events[:len(t.run.events):len(t.run.events)], e)
}

// details writes the details of an event of the store's own, without those that
// are empty.
func details(pairs ...string) json.RawMessage {
	all := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			all[pairs[i]] = clean(pairs[i+1])
		}
	}
	b, _ := json.Marshal(all) // text can always be written
	return b
}

const eventColumns = `number, at, kind, name, actor, actor_id, subject, request, source, error, details`

// columns are the values of an event's columns but the first.
func (e *Event) columns() []any {
	return []any{millis(e.At), string(e.Kind), e.Name, e.Actor, e.ActorID, e.Subject, e.Request, e.Source, string(e.Error), clean(string(e.Details))}
}

// writeEvents writes the transaction's events, as its last statements: from the
// first of them on other transactions that have events wait for its commit. Where one
// statement can take the numbers and write the first event, they wait for a round
// trip less: most transactions have one event.
func (t *tx) writeEvents(d *dialect) error {
	list := t.run.events
	if len(list) == 0 {
		return nil
	}
	for i := range list {
		list[i].bound()
	}
	var number int64 // of the next event
	take := `UPDATE revisions SET number = number + $1 WHERE name = 'events' RETURNING number - $1 + 1`
	if d.nestedWrites {
		err := t.row(`WITH taken (number) AS (`+take+`) INSERT INTO events (`+eventColumns+`)
			SELECT number, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11 FROM taken RETURNING number`,
			append([]any{int64(len(list))}, list[0].columns()...)...).Scan(&number)
		if err != nil {
			return fmt.Errorf("number events, and write event %s: %w", list[0].Name, err)
		}
		list, number = list[1:], number+1
	} else if err := t.row(take, int64(len(list))).Scan(&number); err != nil {
		return fmt.Errorf("number events: %w", err)
	}
	for i := range list {
		_, err := t.exec(`INSERT INTO events (`+eventColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
			append([]any{number + int64(i)}, list[i].columns()...)...)
		if err != nil {
			return fmt.Errorf("write event %s: %w", list[i].Name, err)
		}
	}
	return nil
}

// maxEvents bounds one answer of [Events.After].
const maxEvents = 1000

// After returns up to limit events that follow the one with a number, in order: 0
// is the beginning. The number of the last is the next cursor. No more than 1,000
// are returned, and 0 means 100.
//
// An event that is not there yet has a higher number than all that are: numbers are
// given in the order of commits. The lowest may be missing: see [Events.Forget].
func (es Events) After(ctx context.Context, number int64, limit int) ([]Event, error) {
	list, err := collect(ctx, es.q(), func(s scanner) (e Event, err error) {
		var at int64
		var text string
		err = s.Scan(&e.Number, &at, &e.Kind, &e.Name, &e.Actor, &e.ActorID, &e.Subject, &e.Request, &e.Source, &e.Error, &text)
		e.At, e.Details = fromMillis(at), fromText(text)
		return e, err
	}, `SELECT `+eventColumns+`
		FROM events WHERE number > $1 ORDER BY number LIMIT $2`, number, min(Page{Limit: limit}.limit(), maxEvents))
	return list, wrap(translate(err), "read events")
}

// Last returns the number of the latest event; 0 if there never was one.
func (es Events) Last(ctx context.Context) (number int64, err error) {
	err = es.q().QueryRowContext(ctx, `SELECT number FROM revisions WHERE name = 'events'`).Scan(&number)
	return number, wrap(translate(err), "read the last event's number")
}

// Forget deletes the events up to the last that is from before then, oldest first, and
// returns how many. One whose time is later and that others from before then follow,
// as after a clock that was ahead, goes with them: no more than 500 such in a row. It
// does so in steps, so that others who want to write wait no longer than for one. If it
// fails part of the way, what it deleted stays deleted.
func (es Events) Forget(ctx context.Context, then time.Time) (forgotten int64, err error) {
	for {
		var n int64
		err := es.write(ctx, func(tx *tx) (err error) {
			n, err = tx.exec(`DELETE FROM events WHERE number <= (
				SELECT max(number) FROM events WHERE at < $1 AND number < (SELECT min(number) FROM events) + $2)`, millis(then), forgetTogether)
			return err
		})
		if err != nil {
			return forgotten, fmt.Errorf("forget events: %w", err)
		}
		forgotten += n
		if n == 0 {
			return forgotten, nil
		}
	}
}

// A call's event is left by the change that the call makes, in the change's own
// transaction, wherever that is made: the call's context says which event it is.

type callKey struct{}

// A CallInContext is an event that waits for its call's change.
type CallInContext struct {
	// mu guards all below.
	mu     sync.Mutex
	event  Event
	stored bool // or being stored
}

// WithCall returns a context of which the first change to be committed leaves e in
// the event log, in its transaction. A call that changes nothing leaves no event:
// the caller appends one, where the call is to leave one all the same, unless
// [CallInContext.Stored].
func WithCall(ctx context.Context, e Event) (context.Context, *CallInContext) {
	c := &CallInContext{event: e}
	return context.WithValue(ctx, callKey{}, c), c
}

// withoutCall returns a context whose changes are not its call's.
func withoutCall(ctx context.Context) context.Context {
	return context.WithValue(ctx, callKey{}, (*CallInContext)(nil))
}

// CallOn says what the call of ctx is about, if that is not known yet.
func CallOn(ctx context.Context, subject string) {
	if c, _ := ctx.Value(callKey{}).(*CallInContext); c != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.event.Subject == "" {
			c.event.Subject = subject
		}
	}
}

// Event returns the event as it is known by now.
func (c *CallInContext) Event() Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.event
}

// Stored reports whether a change was committed, and the event with it.
func (c *CallInContext) Stored() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stored
}

// take reports whether the caller's transaction is to leave the event of ctx, and
// returns what says whether it did.
func take(ctx context.Context) (e *Event, done func(stored bool)) {
	c, _ := ctx.Value(callKey{}).(*CallInContext)
	if c == nil {
		return nil, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stored {
		return nil, nil
	}
	c.stored = true
	now := c.event
	return &now, func(stored bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.stored = stored
	}
}
