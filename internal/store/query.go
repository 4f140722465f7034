package store

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
)

// A Page says which part of a list is wanted.
type Page struct {
	After Cursor // from the page before; empty for the first
	Limit int    // the most to return; 0 means 100, and 1,000 is the most
}

// A Cursor is a place in a list: hand it back to have what comes after it. It
// is only good for the list it came from, and a stranger who makes one up
// learns nothing by it that the list would not tell.
type Cursor string

func newCursor(list string, place ...string) Cursor {
	return Cursor(base64.RawURLEncoding.EncodeToString([]byte(list + "\x00" + strings.Join(place, "\x00"))))
}

// place returns the n parts of a cursor into list, or nil for the beginning.
func (p Page) place(list string, n int) ([]string, error) {
	if p.After == "" {
		return nil, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(string(p.After))
	parts := strings.Split(string(b), "\x00")
	if err != nil || parts[0] != list || len(parts) != n+1 || strings.ToValidUTF8(string(b), "") != string(b) {
		return nil, sallyport.Errorf(sallyport.InvalidNextToken, "The page token is not one that this list gave. Leave it out to begin at the beginning.")
	}
	return parts[1:], nil
}

// placeTime is place for lists in order of time, then name.
func (p Page) placeTime(list string) (at int64, name string, ok bool, err error) {
	parts, err := p.place(list, 2)
	if err != nil || parts == nil {
		return 0, "", false, err
	}
	at, err = strconv.ParseInt(parts[0], 10, 64)
	if err != nil {
		return 0, "", false, sallyport.Errorf(sallyport.InvalidNextToken, "The page token is not one that this list gave. Leave it out to begin at the beginning.")
	}
	return at, parts[1], true, nil
}

func (p Page) limit() int {
	if p.Limit <= 0 {
		return 100
	}
	return min(p.Limit, 1000)
}

// cut shortens a list that was asked for one more than the page holds, and
// returns the cursor to the rest, if there is a rest.
func cut[T any](list []T, p Page, cursor func(last T) Cursor) ([]T, Cursor) {
	if n := p.limit(); len(list) > n {
		return list[:n], cursor(list[n-1])
	}
	return list, ""
}

// A querier is a pool or a transaction.
type querier interface {
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
	QueryRowContext(context.Context, string, ...any) *sql.Row
}

// A scanner is one row.
type scanner interface{ Scan(...any) error }

// collect runs a query and reads every row of it.
func collect[T any](ctx context.Context, q querier, read func(scanner) (T, error), query string, args ...any) ([]T, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []T
	for rows.Next() {
		v, err := read(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, rows.Err()
}

func readString(s scanner) (v string, err error) { return v, s.Scan(&v) }

// A where gathers conditions that must all hold, and the arguments of the
// query they are part of.
type where struct {
	conds []string
	args  []any
}

// arg adds an argument and returns how the query names it.
func (w *where) arg(v any) string {
	if s, ok := v.(string); ok {
		v = clean(s)
	}
	w.args = append(w.args, v)
	return "$" + strconv.Itoa(len(w.args))
}

// add adds a condition, in which each ? stands for the next of args.
func (w *where) add(cond string, args ...any) {
	for _, a := range args {
		cond = strings.Replace(cond, "?", w.arg(a), 1)
	}
	w.conds = append(w.conds, cond)
}

// in wants column to be one of values, and anything at all if there are none.
func (w *where) in(column string, values []string) {
	switch len(values) {
	case 0:
	case 1: // so that an index serves the order of the rest
		w.add(column+" = ?", values[0])
	default:
		w.conds = append(w.conds, column+" IN ("+w.list(values)+")")
	}
}

func (w *where) list(values []string) string {
	names := make([]string, len(values))
	for i, v := range values {
		names[i] = w.arg(v)
	}
	return strings.Join(names, ", ")
}

func (w *where) String() string {
	if len(w.conds) == 0 {
		return "TRUE"
	}
	return strings.Join(w.conds, " AND ")
}

// millis is how a time is stored; the zero time is 0.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

func tagsJSON(tags map[string]string) string {
	if len(tags) == 0 {
		return "{}"
	}
	b, _ := json.Marshal(tags) // text can always be written
	return string(b)
}

func parseTags(text string) (map[string]string, error) {
	if text == "{}" {
		return nil, nil
	}
	var tags map[string]string
	if err := json.Unmarshal([]byte(text), &tags); err != nil {
		return nil, fmt.Errorf("read tags: %w", err)
	}
	return tags, nil
}

// clean makes text that a stranger chose fit for a statement: PostgreSQL takes
// neither NULs nor anything but UTF-8. Nothing that is looked up by name has a
// replacement character in its name, so a name that had to be cleaned is not
// found.
func clean(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\ufffd"), "\x00", "\ufffd")
}

// bytes that may be empty but not NULL.
func blob(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
