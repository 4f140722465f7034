package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/sallyport/sallyport"
)

func testSession(started int, owner string, node sallyport.NodeID) *sallyport.Session {
	return sallyport.NewSession(sallyport.NewSessionID(owner), &sallyport.Principal{
		ARN: "arn:aws:iam::123456789012:user/" + owner, ID: "AIDA" + strings.ToUpper(owner), Root: "AIDA" + strings.ToUpper(owner),
		Basis: []string{"AKIA" + strings.ToUpper(owner), "AIDA" + strings.ToUpper(owner)},
	}, node, "SSM-SessionManagerRunShell", at(started))
}

var sameSession = cmp.Options{
	cmp.AllowUnexported(sallyport.Session{}, sallyport.SessionID{}, sallyport.NodeID{}),
	cmpopts.EquateEmpty(),
}

func TestSessionIsKeptWhole(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		s := testSession(5, "ann", sallyport.NewNodeID())
		s.Reason, s.MaxDuration = "routine \x00 \xff work ✓", 90*time.Minute
		s.Kind, s.RunAs, s.MFA = "Standard_Stream", "deploy", at(3)
		r := &SessionRecord{
			Session:    s,
			Parameters: json.RawMessage(`{"portNumber":["80"]}`),
			Access:     Access{Token: sallyport.GenerateSecret().Hash(), Client: "c-1", Bound: true, NodeToken: sallyport.GenerateSecret().Hash()},
			Resume:     json.RawMessage(`{"acked":7}`),
			Recording:  RecordingOpen,
		}
		must(t, db.Sessions().Insert(ctx, r))
		s.Reason = "routine \ufffd \ufffd work ✓" // what no database takes is replaced

		check := func() {
			t.Helper()
			got, err := db.Sessions().Get(ctx, s.ID)
			must(t, err)
			if d := cmp.Diff(r, got, sameSession); d != "" {
				t.Errorf("stored (-) and read (+) differ:\n%s", d)
			}
		}
		check()

		r.Access = Access{Token: sallyport.GenerateSecret().Hash()}
		must(t, db.Sessions().SetAccess(ctx, s.ID, s.Epoch, r.Access))
		must(t, s.Advance(sallyport.Connected, at(6)))
		must(t, db.Sessions().Advance(ctx, s))
		check()

		must(t, s.Advance(sallyport.Terminating, at(7)))
		s.Cause = "Ended by bob."
		must(t, db.Sessions().Advance(ctx, s))
		check()

		status := 130
		must(t, s.Advance(sallyport.Terminated, at(8)))
		s.ExitStatus = &status
		r.Log, r.Recording = Log{Size: 1 << 40, Hash: []byte{1, 2, 3}}, RecordingSealed
		must(t, db.Sessions().Seal(ctx, s, r.Log))
		check()
	})
}

func TestSessionNotThere(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		s := testSession(0, "ann", sallyport.NewNodeID())
		_, err := db.Sessions().Get(ctx, s.ID)
		wantCode(t, err, sallyport.DoesNotExistException, s.ID.String())
		wantCode(t, db.Sessions().Advance(ctx, s), sallyport.DoesNotExistException, s.ID.String())
		wantCode(t, db.Sessions().SetAccess(ctx, s.ID, s.Epoch, Access{}), sallyport.DoesNotExistException, s.ID.String())
	})
}

// inState returns a session in a state, and how it got there.
func inState(t testing.TB, s sallyport.Session, state sallyport.State) *sallyport.Session {
	t.Helper()
	var ended time.Time
	if state.Final() {
		ended = s.Started.Add(time.Millisecond)
	}
	r, err := sallyport.RestoreSession(s, state, ended)
	must(t, err)
	return r
}

// With two writers at once, what is stored only moves as sessions move.
func TestStoredSessionNeverGoesBack(t *testing.T) {
	// One letter a state, as the states are declared; what is stored, and all
	// that it may come to.
	allowed := map[sallyport.State]string{
		sallyport.Connecting:   "Connecting Connected Disconnected Terminating Terminated Failed",
		sallyport.Connected:    "Connected Disconnected Terminating Terminated",
		sallyport.Disconnected: "Connected Disconnected Terminating Terminated",
		sallyport.Terminating:  "Terminating Terminated",
		sallyport.Terminated:   "",
		sallyport.Failed:       "",
	}
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		for from := sallyport.Connecting; from <= sallyport.Failed; from++ {
			for to := sallyport.Connecting; to <= sallyport.Failed; to++ {
				s := testSession(0, "ann", sallyport.NewNodeID())
				must(t, db.Sessions().Insert(ctx, &SessionRecord{Session: inState(t, *s, from)}))
				err := db.Sessions().Advance(ctx, inState(t, *s, to))
				switch may := slices.Contains(strings.Fields(allowed[from]), to.String()); {
				case may && err != nil:
					t.Errorf("%v to %v: %v", from, to, err)
				case !may && !errors.Is(err, ErrOutOfTurn):
					t.Errorf("%v to %v: %v, want ErrOutOfTurn", from, to, err)
				case !may:
					got, err := db.Sessions().Get(ctx, s.ID)
					must(t, err)
					if got.State() != from {
						t.Errorf("%v to %v was refused, and stored", from, to)
					}
				}
			}
		}
	})
}

func TestNoEndAttachesToASessionThatIsOver(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		s := inState(t, *testSession(0, "ann", sallyport.NewNodeID()), sallyport.Terminated)
		must(t, db.Sessions().Insert(t.Context(), &SessionRecord{Session: s}))
		if err := db.Sessions().SetAccess(t.Context(), s.ID, s.Epoch, Access{Client: "late"}); !errors.Is(err, ErrOutOfTurn) {
			t.Errorf("SetAccess = %v, want ErrOutOfTurn", err)
		}
	})
}

func TestUnfinishedSessionsAreFoundAgain(t *testing.T) {
	onEachDSN(t, func(t *testing.T, dsn string) {
		ctx := t.Context()
		db, err := Open(ctx, dsn)
		must(t, err)
		var want []*SessionRecord
		for state := sallyport.Connecting; state <= sallyport.Failed; state++ {
			s := inState(t, *testSession(int(state), "ann", sallyport.NewNodeID()), state)
			r := &SessionRecord{Session: s, Access: Access{Token: sallyport.GenerateSecret().Hash()}, Resume: json.RawMessage(`{}`), Recording: RecordingOpen}
			must(t, db.Sessions().Insert(ctx, r))
			if !state.Final() {
				want = append(want, r)
			}
		}
		must(t, db.Close())

		got, err := open(t, dsn).Sessions().Unfinished(ctx)
		must(t, err)
		if d := cmp.Diff(want, got, sameSession); d != "" {
			t.Error(d)
		}
	})
}

// Both lists, under every filter and page size, are what sorting and
// filtering everything would give.
func TestSessionListsAgainstModel(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		var all []*sallyport.Session
		owners := []string{"ann", "ann-marie", "bob"}
		nodes := []sallyport.NodeID{sallyport.NewNodeID(), sallyport.NewNodeID(), sallyport.NewNodeID()}
		for i := range 120 {
			// Many share a millisecond, so that the order by id is met too.
			s := testSession(i/7, owners[i*i%3], nodes[i*7%3])
			s = inState(t, *s, sallyport.State(1+i*5%6))
			all = append(all, s)
			must(t, db.Sessions().Insert(ctx, &SessionRecord{Session: s}))
		}
		slices.SortFunc(all, func(a, b *sallyport.Session) int {
			if d := b.Started.Compare(a.Started); d != 0 {
				return d
			}
			return strings.Compare(b.ID.String(), a.ID.String())
		})

		rapid.Check(t, func(rt *rapid.T) {
			maybe := func(name string) bool { return rapid.IntRange(0, 2).Draw(rt, name) == 0 }
			var f SessionFilter
			if maybe("owner?") {
				f.Owner = rapid.SampledFrom(all).Draw(rt, "owner").Owner
			}
			if maybe("node?") {
				f.Node = rapid.SampledFrom(append(nodes, sallyport.NewNodeID())).Draw(rt, "node")
			}
			if maybe("state?") {
				f.State = sallyport.State(rapid.IntRange(1, 6).Draw(rt, "state"))
			}
			if maybe("after?") {
				f.InvokedAfter = at(rapid.IntRange(-1, 20).Draw(rt, "after")).Add(time.Duration(rapid.IntRange(0, 1).Draw(rt, "after ns")))
			}
			if maybe("before?") {
				f.InvokedBefore = at(rapid.IntRange(-1, 20).Draw(rt, "before")).Add(time.Duration(rapid.IntRange(0, 1).Draw(rt, "before ns")))
			}
			if rapid.IntRange(0, 9).Draw(rt, "id?") == 0 {
				f.ID = rapid.SampledFrom(all).Draw(rt, "id").ID
			}
			limit := rapid.IntRange(4, 60).Draw(rt, "limit")

			for name, list := range map[string]func(context.Context, SessionFilter, Page) ([]*sallyport.Session, Cursor, error){
				"Active": db.Sessions().Active, "History": db.Sessions().History,
			} {
				var want []string
				for _, s := range all {
					if s.State().Final() == (name == "History") &&
						(f.Owner == "" || s.Owner == f.Owner) && (f.Node.IsZero() || s.Node == f.Node) &&
						(f.State == 0 || s.State() == f.State) && (f.ID.IsZero() || s.ID == f.ID) &&
						!s.Started.Before(f.InvokedAfter) && (f.InvokedBefore.IsZero() || s.Started.Before(f.InvokedBefore)) {
						want = append(want, s.ID.String())
					}
				}
				var got []string
				for _, s := range pages(t, limit, func(p Page) ([]*sallyport.Session, Cursor, error) { return list(ctx, f, p) }) {
					got = append(got, s.ID.String())
				}
				if d := cmp.Diff(want, got); d != "" {
					rt.Fatalf("%s %+v by %d: (-want +got)\n%s", name, f, limit, d)
				}
			}
		})
	})
}

func TestCursorIsGoodForItsListOnly(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		for i := range 2 {
			s := testSession(i, "ann", sallyport.NewNodeID())
			must(t, db.Sessions().Insert(ctx, &SessionRecord{Session: s}))
		}
		_, next, err := db.Sessions().Active(ctx, SessionFilter{}, Page{Limit: 1})
		must(t, err)
		for _, after := range []Cursor{next, "x", "AAAA", "!", newCursor("session history", "x", "y"), newCursor("session history"), newCursor("session history", "1", "\xff")} {
			_, _, err := db.Sessions().History(ctx, SessionFilter{}, Page{After: after})
			wantCode(t, err, sallyport.InvalidNextToken, "page token")
		}
	})
}

func TestForgetHistory(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		keep := map[sallyport.SessionID]bool{}
		for i := range 20 {
			s := testSession(i*10, "ann", sallyport.NewNodeID())
			state := []sallyport.State{sallyport.Terminated, sallyport.Failed, sallyport.Connected}[i%3]
			s = inState(t, *s, state) // ends 1 ms after it started
			must(t, db.Sessions().Insert(ctx, &SessionRecord{Session: s}))
			keep[s.ID] = state == sallyport.Connected || i >= 10
		}
		// One that began long ago and ended lately is recent history.
		long, err := sallyport.RestoreSession(*testSession(0, "ann", sallyport.NewNodeID()), sallyport.Terminated, at(1000))
		must(t, err)
		must(t, db.Sessions().Insert(ctx, &SessionRecord{Session: long}))
		keep[long.ID] = true

		n, err := db.Sessions().Forget(ctx, at(100))
		must(t, err)
		forgotten := 0
		for id, kept := range keep {
			if !kept {
				forgotten++
			}
			if _, err := db.Sessions().Get(ctx, id); (err == nil) != kept {
				t.Errorf("%s: kept = %v, want %v", id, err == nil, kept)
			}
		}
		if n != int64(forgotten) {
			t.Errorf("ForgetHistory says %d, and forgot %d", n, forgotten)
		}
	})
}

// makeHistory puts n ended sessions into the store, a second apart, the first
// at time 0, of so many owners on so many nodes. One in ten failed.
func makeHistory(t testing.TB, db *DB, n, owners, nodes int) {
	t.Helper()
	ctx := t.Context()
	hex := map[string]string{
		"SQLite":     `printf('%017x', (i))`,
		"PostgreSQL": `lpad(to_hex((i)), 17, '0')`,
	}[db.Engine()]
	must(t, db.transact(ctx, func(tx *tx) error {
		_, err := tx.exec(`WITH RECURSIVE seq (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM seq WHERE i < $1)
			INSERT INTO sessions (`+recordColumns+`)
			SELECT 'ann-' || `+hex+`, 'arn:aws:iam::123456789012:user/u' || CAST(i % `+strconv.Itoa(owners)+` AS TEXT), 'AIDA', 'AIDA', 'AKIA AIDA',
				'mi-' || `+strings.ReplaceAll(hex, "(i)", "(i % "+strconv.Itoa(nodes)+")")+`,
				'SSM-SessionManagerRunShell', 'a reason of some length, as people give', CAST($2 AS BIGINT) + CAST(i AS BIGINT) * 1000, 0,
				CASE WHEN i % 10 = 7 THEN 'Failed' ELSE 'Terminated' END, CAST($2 AS BIGINT) + CAST(i AS BIGINT) * 1000 + 500, '', NULL, 'Standard_Stream', '', 0, 1,
				'', $3, '', FALSE, $3, '', 0, $3, 'sealed' FROM seq`, n-1, millis(at(0)), []byte{})
		return err
	}))
	if db.Engine() == "PostgreSQL" { // which does so by itself; SQLite never does
		_, err := db.write.ExecContext(ctx, `ANALYZE`)
		must(t, err)
	}
}

// historyFilters has every filter that chooses an index of its own.
func historyFilters() map[string]SessionFilter {
	owner := "arn:aws:iam::123456789012:user/u7"
	node, err := sallyport.ParseNodeID(fmt.Sprintf("mi-%017x", 7))
	if err != nil {
		panic(err)
	}
	fs := map[string]SessionFilter{}
	for i := range 16 {
		var f SessionFilter
		var name []string
		if i&1 != 0 {
			f.Owner, name = owner, append(name, "owner")
		}
		if i&2 != 0 {
			f.Node, name = node, append(name, "node")
		}
		if i&4 != 0 {
			f.State, name = sallyport.Failed, append(name, "state")
		}
		if i&8 != 0 {
			f.InvokedAfter, f.InvokedBefore, name = at(1_000_000), at(4_000_000), append(name, "between")
		}
		fs[strings.Join(append(name, "page"), " ")] = f
	}
	return fs
}

// A page of history is read off an index, in order, from where it begins: no
// filter and no place in the list makes it scan or sort.
func TestHistoryPagesOffAnIndex(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		makeHistory(t, db, 5_000, 10, 20)
		explain := map[string]string{"SQLite": "EXPLAIN QUERY PLAN ", "PostgreSQL": "EXPLAIN "}[db.Engine()]
		filters := historyFilters()
		if len(filters) != 16 {
			t.Fatalf("%d filters, want 16", len(filters))
		}
		for name, f := range filters {
			first, next, err := db.Sessions().History(ctx, f, Page{Limit: 20})
			must(t, err)
			if len(first) != 20 {
				t.Errorf("%s: first page has %d sessions, want 20", name, len(first))
			}
			states := []sallyport.State{sallyport.Terminated, sallyport.Failed}
			if f.State != 0 {
				states = []sallyport.State{f.State}
			}
			for _, p := range []Page{{}, {After: next}} {
				upto, err := f.upto("session history", p)
				must(t, err)
				query, args := db.Sessions().sessionQuery(f, "ended > 0", states, upto, 21)
				plan, err := collect(ctx, db.read, func(s scanner) (line string, err error) {
					if db.Engine() == "SQLite" {
						var id, parent, unused int
						return line, s.Scan(&id, &parent, &unused, &line)
					}
					return line, s.Scan(&line)
				}, explain+query, args...)
				must(t, err)
				if db.Engine() == "SQLite" {
					checkSQLitePlan(t, name, f, plan)
				} else {
					checkPostgresPlan(t, name, plan)
				}
			}
		}
	})
}

// checkSQLitePlan wants one search for each state, each of the one index that
// has these filters as its first columns. What it does with the two halves'
// rows, a page of each at the most, does not matter.
func checkSQLitePlan(t *testing.T, name string, f SessionFilter, plan []string) {
	t.Helper()
	want := "SEARCH sessions USING INDEX sessions_history"
	var columns []string
	if f.Owner != "" {
		want, columns = want+"_owner", append(columns, "owner=?")
	}
	if !f.Node.IsZero() {
		want, columns = want+"_node", append(columns, "node=?")
	}
	want += " (" + strings.Join(append(columns, "state=?"), " AND ")
	searches := 0
	for i, line := range plan {
		switch {
		case strings.HasPrefix(line, want):
			searches++
		case line == "SCAN half0", line == "SCAN half1":
		case strings.HasPrefix(line, "USE TEMP B-TREE") && strings.HasPrefix(plan[i-1], "SCAN half"):
		case strings.Contains(line, "sessions"), strings.HasPrefix(line, "USE TEMP B-TREE"):
			t.Errorf("%s: %q in\n%s", name, line, strings.Join(plan, "\n"))
		}
	}
	if wants := map[bool]int{true: 2, false: 1}[f.State == 0]; searches != wants {
		t.Errorf("%s: %d searches of %q, want %d:\n%s", name, searches, want, wants, strings.Join(plan, "\n"))
	}
}

func checkPostgresPlan(t *testing.T, name string, plan []string) {
	t.Helper()
	text := strings.Join(plan, "\n")
	if strings.Contains(text, "Seq Scan") || !strings.Contains(text, "sessions_history") {
		t.Errorf("%s:\n%s", name, text)
	}
}

// Many callers at once each get their own verdict, and what they saved.
func TestManyWritersAtOnce(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		taken := testSession(0, "ann", sallyport.NewNodeID())
		must(t, db.Sessions().Insert(ctx, &SessionRecord{Session: taken}))
		var writers sync.WaitGroup
		for i := range 200 {
			writers.Go(func() {
				if i%4 == 0 { // a mistake among them spoils nothing
					if err := db.Sessions().Insert(ctx, &SessionRecord{Session: taken}); err == nil {
						t.Error("a session was saved twice")
					}
					return
				}
				s := testSession(i, "ann", sallyport.NewNodeID())
				if err := db.Sessions().Insert(ctx, &SessionRecord{Session: s}); err != nil {
					t.Error(err)
				}
				if _, err := db.Sessions().Get(ctx, s.ID); err != nil {
					t.Errorf("a session that was saved: %v", err)
				}
			})
		}
		writers.Wait()
	})
}

// A caller who has gone is not waited for, and its write is not made.
func TestCallerWhoHasGone(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("gone")
		cancel(gone)
		s := testSession(0, "ann", sallyport.NewNodeID())
		if err := db.Sessions().Insert(ctx, &SessionRecord{Session: s}); !errors.Is(err, gone) {
			t.Errorf("Insert = %v, want the cause of its context", err)
		}
		_, err := db.Sessions().Get(t.Context(), s.ID)
		wantCode(t, err, sallyport.DoesNotExistException, "no session")
	})
}

// A server that takes the unfinished sessions up has them alone: what one that had
// them before still writes is refused, and changes nothing.
func TestTakenUpSessionsAreFenced(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		old, over := testSession(0, "ann", sallyport.NewNodeID()), testSession(1, "ann", sallyport.NewNodeID())
		must(t, db.Sessions().Insert(ctx, &SessionRecord{Session: old}))
		must(t, db.Sessions().Insert(ctx, &SessionRecord{Session: over}))
		must(t, over.Advance(sallyport.Failed, at(2)))
		must(t, db.Sessions().Seal(ctx, over, Log{}))
		if r, err := db.Sessions().Get(ctx, over.ID); err != nil || r.Recording != RecordingUnsealed {
			t.Errorf("a session without a hash: %+v, %v", r, err)
		}

		taken, err := db.Sessions().TakeUp(ctx)
		must(t, err)
		if len(taken) != 1 || taken[0].ID != old.ID || taken[0].Epoch != old.Epoch+1 {
			t.Fatalf("taken up: %+v", taken)
		}
		must(t, old.Advance(sallyport.Connected, at(3)))
		for name, err := range map[string]error{
			"Advance":   db.Sessions().Advance(ctx, old),
			"Seal":      db.Sessions().Seal(ctx, old, Log{}),
			"SetAccess": db.Sessions().SetAccess(ctx, old.ID, old.Epoch, Access{Client: "old"}),
		} {
			if !errors.Is(err, ErrFenced) {
				t.Errorf("%s of the earlier server: %v", name, err)
			}
		}
		r, err := db.Sessions().Get(ctx, old.ID)
		if err != nil || r.State() != sallyport.Connecting || r.Access.Client != "" {
			t.Errorf("the earlier server's writes were kept: %+v, %v", r, err)
		}
		now := taken[0].Session
		must(t, now.Advance(sallyport.Connected, at(4)))
		must(t, db.Sessions().Advance(ctx, now))
		if r, err := db.Sessions().Get(ctx, over.ID); err != nil || r.Epoch != 1 {
			t.Errorf("a session that was over: %+v, %v", r, err)
		}
	})
}
