package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
)

// allEvents reads the log, a few at a time, and wants its numbers to follow one
// another from first on.
func allEvents(t testing.TB, db *DB, first int64) (all []Event) {
	t.Helper()
	for cursor := int64(0); ; cursor = all[len(all)-1].Number {
		part, err := db.Events().After(t.Context(), cursor, 3)
		must(t, err)
		if len(part) == 0 {
			return all
		}
		for _, e := range part {
			if want := first + int64(len(all)); e.Number != want {
				t.Fatalf("event %d follows %d", e.Number, want-1)
			}
			all = append(all, e)
		}
	}
}

func eventNames(list []Event) string {
	var names []string
	for _, e := range list {
		names = append(names, string(e.Kind)+" "+e.Name)
	}
	return strings.Join(names, ", ")
}

// An event is in the log if its change is stored, and only then.
func TestEventGoesWithItsChange(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		e := Event{At: at(1), Kind: CallEvent, Name: "iam:CreateUser", Actor: "arn:aws:iam::1:user/ann", ActorID: "AIDA1", Subject: "arn:aws:iam::1:user/bob",
			Request: "r-1", Source: "192.0.2.1", Details: json.RawMessage(`{"path":"/"}`)}
		must(t, db.Update(ctx, func(tx *Tx) error {
			return errors.Join(tx.IAM().CreateUser(ctx, testUser("bob")), tx.Events().Append(ctx, e))
		}))
		no := errors.New("no")
		if err := db.Update(ctx, func(tx *Tx) error {
			must(t, tx.Events().Append(ctx, Event{Kind: CallEvent, Name: "undone"}))
			return no
		}); !errors.Is(err, no) {
			t.Fatal(err)
		}
		denied := e
		denied.Error, denied.Details = sallyport.AccessDeniedException, nil
		must(t, db.Events().Append(ctx, denied))
		must(t, db.Events().Append(ctx, Event{At: at(2), Kind: CallEvent, Name: strings.Repeat("n", 5000), Subject: "a\x00b", Details: json.RawMessage(`"` + strings.Repeat("x", maxEventDetails) + `"`)}))

		all := allEvents(t, db, 1)
		if len(all) != 3 {
			t.Fatalf("%d events: %+v", len(all), all)
		}
		e.Number, denied.Number = 1, 2
		for i, want := range []Event{e, denied} {
			if got := all[i]; fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		}
		if got := all[2]; len(got.Name) > maxEventText+len("…") || got.Subject != "a\ufffdb" || !strings.Contains(string(got.Details), "omitted") {
			t.Errorf("a long event: %+v", got)
		}
		if last, err := db.Events().Last(ctx); err != nil || last != 3 {
			t.Errorf("the last is %d, %v", last, err)
		}
	})
}

// The change that a call makes leaves the call's event, once, wherever the change is
// made; what else is written meanwhile is no change of the call's.
func TestCallLeavesItsEvent(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		node := register(t, db, sallyport.Node{}, sallyport.Activation{})
		must(t, db.Events().Append(t.Context(), Event{Kind: ServerEvent, Name: "mark"}))
		begin, err := db.Events().Last(t.Context())
		must(t, err)

		ctx, call := WithCall(t.Context(), Event{At: at(1), Kind: CallEvent, Name: "iam:CreateUser", Request: "r-1"})
		if _, err := db.IAM().User(ctx, "ann"); err == nil || call.Stored() {
			t.Errorf("a read left the event: %v", err)
		}
		db.Ping(ctx, node.ID, at(2))
		must(t, db.Flush(ctx))
		wantCode(t, db.IAM().Delete(ctx, User("ann")), sallyport.NoSuchEntity, "")
		if call.Stored() {
			t.Error("a change that failed left the event")
		}
		CallOn(ctx, "arn:aws:iam::1:user/ann")
		CallOn(ctx, "arn:aws:iam::1:user/second")
		must(t, db.IAM().CreateUser(ctx, testUser("ann")))
		must(t, db.IAM().PutInlinePolicy(ctx, User("ann"), "own", "{}"))
		if !call.Stored() {
			t.Error("the event was not left")
		}
		list, err := db.Events().After(ctx, begin, 0)
		must(t, err)
		if len(list) != 1 || list[0].Subject != "arn:aws:iam::1:user/ann" || list[0].Request != "r-1" {
			t.Errorf("events: %+v", list)
		}
	})
}

// What is read by cursor is in the order of commits: a reader that has seen an event
// never misses an earlier one, however many write at once.
func TestReaderMissesNoEvent(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		const writers, each = 8, 25
		var writing sync.WaitGroup
		for w := range writers {
			writing.Go(func() {
				for i := range each {
					err := db.Update(ctx, func(tx *Tx) error {
						// Appended first, and other statements after it: the number is
						// taken at the end.
						if err := tx.Events().Append(ctx, Event{Kind: CallEvent, Name: fmt.Sprint(w, " ", i)}); err != nil {
							return err
						}
						_, err := tx.Meta().set(ctx, fmt.Sprint("k", w, i), []byte("x"))
						return err
					})
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		deadline := time.Now().Add(time.Minute)
		for cursor := int64(0); cursor < writers*each; {
			list, err := db.Events().After(ctx, cursor, 0)
			must(t, err)
			for _, e := range list {
				if e.Number != cursor+1 {
					t.Fatalf("event %d was read after %d", e.Number, cursor)
				}
				cursor = e.Number
			}
			if t.Failed() || time.Now().After(deadline) {
				t.Fatalf("read up to %d", cursor)
			}
		}
		writing.Wait()
	})
}

// Sessions and nodes leave events when their state changes; what does not change it
// leaves none.
func TestStatesLeaveEvents(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		node := register(t, db, sallyport.Node{}, sallyport.Activation{Name: "rack"})
		for i := range 3 {
			db.Ping(ctx, node.ID, at(i))
			must(t, db.Flush(ctx))
			db.SetOnline(ctx, node.ID, true, at(10+i))
			must(t, db.Flush(ctx))
			db.Trouble(ctx, node.ID, sallyport.Trouble{At: at(20 + i), Reason: "Its clock is slow."})
			must(t, db.Flush(ctx))
		}
		s := testSession(5, "ann", node.ID)
		s.Kind = "Port"
		must(t, db.Sessions().Insert(ctx, &SessionRecord{Session: s}))
		must(t, db.Sessions().SetAccess(ctx, s.ID, s.Epoch, Access{Client: "c"}))
		must(t, s.Advance(sallyport.Connected, at(6)))
		must(t, db.Sessions().Advance(ctx, s))
		must(t, db.Sessions().Advance(ctx, s)) // saved again
		must(t, s.Advance(sallyport.Terminating, at(7)))
		s.Cause = "Ended by bob."
		must(t, db.Sessions().Advance(ctx, s))
		must(t, s.Advance(sallyport.Terminated, at(8)))
		must(t, db.Sessions().Seal(ctx, s, Log{}))
		must(t, db.Nodes().MarkAllOffline(ctx))
		must(t, db.Nodes().MarkAllOffline(ctx))
		must(t, db.Nodes().Deregister(ctx, node.ID))

		all := allEvents(t, db, 1)
		want := "node Registered, node Online, node Trouble, session Connecting, session Connected, session Terminating, session Terminated, node AllOffline, node Deregistered"
		if got := eventNames(all); got != want {
			t.Fatalf("events:\n got %s\nwant %s", got, want)
		}
		if e := all[3]; e.Actor != s.Owner || e.ActorID != s.Root || e.Subject != s.ID.String() || !e.At.Equal(at(5)) || !strings.Contains(string(e.Details), `"kind":"Port"`) {
			t.Errorf("Connecting: %+v %s", e, e.Details)
		}
		if e := all[6]; !e.At.Equal(at(8)) || !strings.Contains(string(e.Details), "Ended by bob.") {
			t.Errorf("Terminated: %+v %s", e, e.Details)
		}
	})
}

// Old events go, in steps, and new ones and their numbers stay.
func TestForgetEvents(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		const old = forgetTogether*2 + 7
		must(t, db.Update(ctx, func(tx *Tx) error {
			for i := range old + 3 {
				if err := tx.Events().Append(ctx, Event{At: at(i), Kind: ServerEvent, Name: "x"}); err != nil {
					return err
				}
			}
			return nil
		}))
		n, err := db.Events().Forget(ctx, at(old))
		if err != nil || n != old {
			t.Errorf("forgot %d, %v, want %d", n, err, old)
		}
		if left := allEvents(t, db, old+1); len(left) != 3 {
			t.Errorf("%d are left", len(left))
		}
		if n, err := db.Events().Forget(ctx, at(old+100)); err != nil || n != 3 {
			t.Errorf("forgot %d, %v", n, err)
		}
		must(t, db.Events().Append(context.Background(), Event{Kind: ServerEvent, Name: "next"}))
		if left := allEvents(t, db, old+4); len(left) != 1 {
			t.Errorf("after all were forgotten: %+v", left)
		}
	})
}

// What is forgotten is the beginning of the log, also when the clock was wrong meanwhile:
// one event whose time is far ahead keeps no others.
func TestForgetEventsOfAWrongClock(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		const old = forgetTogether*2 + 7
		must(t, db.Update(ctx, func(tx *Tx) error {
			for i := range old + 3 {
				when := at(i)
				if i == 0 || i == forgetTogether+1 {
					when = at(1_000_000)
				}
				if err := tx.Events().Append(ctx, Event{At: when, Kind: ServerEvent, Name: "x"}); err != nil {
					return err
				}
			}
			return nil
		}))
		if n, err := db.Events().Forget(ctx, at(old)); err != nil || n != old {
			t.Errorf("forgot %d, %v, want %d", n, err, old)
		}
		if left := allEvents(t, db, old+1); len(left) != 3 {
			t.Errorf("%d are left", len(left))
		}
	})
}
