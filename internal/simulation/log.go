package simulation

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// A Log is what happened in a run, in order. It is what one debugs a failure
// from: a seed gives the same faults and the same input again, and not the same
// order of what happens at once.
type Log struct {
	began time.Time

	mu    sync.Mutex
	lines []string
}

// NewLog returns a log whose time is counted from now.
func NewLog() *Log { return &Log{began: time.Now()} }

// Add notes that something happened to or was done by who.
func (l *Log) Add(who, format string, args ...any) {
	at := time.Since(l.began)
	line := fmt.Sprintf("%10.3fs %-10s %s", at.Seconds(), who, fmt.Sprintf(format, args...))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
}

// String is the whole log.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

// Logger returns a logger whose lines go into the log as who's.
func (l *Log) Logger(who string) *slog.Logger {
	w := writer{log: l, who: who}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

type writer struct {
	log *Log
	who string
}

func (w writer) Write(b []byte) (int, error) {
	w.log.Add(w.who, "%s", bytes.TrimSpace(b))
	return len(b), nil
}
