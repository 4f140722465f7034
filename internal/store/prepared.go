package store

import (
	"context"
	"database/sql"
	"sync"
)

// maxPrepared bounds the statements that are kept prepared. Most queries are
// constants of this package, a few dozen; those that are put together from filters
// are of many forms.
const maxPrepared = 256

// prepared reads from an SQLite database by statements that are prepared once for
// each connection: SQLite takes longer to parse a query than to answer it.
// (PostgreSQL's driver does the same by itself.)
type prepared struct {
	db *sql.DB

	// mu guards kept.
	mu   sync.RWMutex
	kept map[string]*sql.Stmt // by query; at most maxPrepared
}

// statement returns the statement for a query; nil if there is none, and the query
// is to be run as it is.
func (p *prepared) statement(ctx context.Context, query string) *sql.Stmt {
	p.mu.RLock()
	s, full := p.kept[query], len(p.kept) >= maxPrepared
	p.mu.RUnlock()
	if s != nil || full {
		return s
	}
	made, err := p.db.PrepareContext(ctx, query)
	if err != nil {
		return nil // running it says why
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.kept[query]; s != nil || len(p.kept) >= maxPrepared {
		made.Close() // another call was faster
		return s
	}
	if p.kept == nil {
		p.kept = map[string]*sql.Stmt{}
	}
	p.kept[query] = made
	return made
}

func (p *prepared) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if s := p.statement(ctx, query); s != nil {
		return s.QueryContext(ctx, args...)
	}
	return p.db.QueryContext(ctx, query, args...)
}

func (p *prepared) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	if s := p.statement(ctx, query); s != nil {
		return s.QueryRowContext(ctx, args...)
	}
	return p.db.QueryRowContext(ctx, query, args...)
}

// close closes the statements. The database is closed after it.
func (p *prepared) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.kept {
		s.Close() // of a reader: nothing is lost
	}
	p.kept = nil
}
