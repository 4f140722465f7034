package store

import (
	"context"
	"testing"

	"github.com/sallyport/sallyport"
)

// onEachB is onEach for benchmarks.
func onEachB(b *testing.B, bench func(b *testing.B, db *DB)) {
	for _, engine := range []string{"SQLite", "PostgreSQL"} {
		b.Run(engine, func(b *testing.B) { bench(b, open(b, engines[engine](b))) })
	}
}

// A page of 50 out of a million sessions, at both ends of the history and
// under every filter.
func BenchmarkHistoryOfAMillion(b *testing.B) {
	onEachB(b, func(b *testing.B, db *DB) {
		makeHistory(b, db, 1_000_000, 100, 1000)
		for name, f := range historyFilters() {
			b.Run(name, func(b *testing.B) { benchHistory(b, db, f, Page{Limit: 50}) })
		}
		deep := newCursor("session history", "1700000005000000", "ann-00000000000000000") // 5,000 s after the first
		b.Run("last page", func(b *testing.B) { benchHistory(b, db, SessionFilter{}, Page{Limit: 50, After: deep}) })
	})
}

func benchHistory(b *testing.B, db *DB, f SessionFilter, p Page) {
	for b.Loop() {
		if _, _, err := db.Sessions().History(b.Context(), f, p); err != nil {
			b.Fatal(err)
		}
	}
}

// Sessions saved a second, by one caller and by many. SQLite's are on the disk;
// the throwaway PostgreSQL's are not, so its figures say nothing of a real one.
func BenchmarkInsertSession(b *testing.B) {
	insert := func(ctx context.Context, b *testing.B, db *DB) {
		s := testSession(0, "ann", sallyport.NewNodeID())
		if err := db.Sessions().Insert(ctx, &SessionRecord{Session: s}); err != nil {
			b.Error(err)
		}
	}
	onEachB(b, func(b *testing.B, db *DB) {
		b.Run("alone", func(b *testing.B) {
			for b.Loop() {
				insert(b.Context(), b, db)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "sessions/s")
		})
		b.Run("together", func(b *testing.B) {
			b.SetParallelism(64)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					insert(b.Context(), b, db)
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "sessions/s")
		})
	})
}

// What one authorization reads when no answer is cached.
func BenchmarkGrants(b *testing.B) {
	onEachB(b, func(b *testing.B, db *DB) {
		ctx := b.Context()
		must(b, db.IAM().CreateUser(ctx, sallyport.User{Name: "ann", Path: "/", ID: "AIDA1", Created: at(0)}))
		must(b, db.IAM().CreateGroup(ctx, sallyport.Group{Name: "ops", Path: "/", ID: "AGPA1", Created: at(0)}))
		must(b, db.IAM().AddUserToGroup(ctx, "ops", "ann"))
		for _, name := range []string{"a", "b", "c", "d", "e"} {
			must(b, db.IAM().PutInlinePolicy(ctx, User("ann"), name, "{}"))
			must(b, db.IAM().PutInlinePolicy(ctx, Group("ops"), name, "{}"))
		}
		for b.Loop() {
			if g, err := db.IAM().Grants(ctx, User("ann")); err != nil || len(g.Policies) != 10 {
				b.Fatal(g, err)
			}
		}
	})
}

// A signature's first question.
func BenchmarkCredential(b *testing.B) {
	onEachB(b, func(b *testing.B, db *DB) {
		ctx := b.Context()
		must(b, db.IAM().CreateAccessKey(ctx, sallyport.AccessKey{ID: "AKIA1", Active: true, Created: at(0)}, sallyport.GenerateSecret()))
		for b.Loop() {
			if _, err := db.IAM().Credential(ctx, "AKIA1"); err != nil {
				b.Fatal(err)
			}
		}
	})
}
