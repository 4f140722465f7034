// Package panics keeps a panic within the work that caused it. Code that
// handles what a stranger sent defers [Recover], or runs in [Run]: a panic is
// then an [*Error] of that one request, socket or session, and the process goes
// on.
//
//	func (s *session) pump() (err error) {
//		defer panics.Recover(&err)
//		…
//	}
//
// What a panic leaves behind is the caller's affair. Locks are released by
// defer wherever a panic can pass, or the next goroutine that wants one waits
// for ever. Work that panicked is ended and not tried again, because its state
// may be half changed.
//
// A panic is a bug, always, and is never used to report what a stranger chose.
// Who recovers from one writes one line to the log, with [Stack], and [Count]
// is among the metrics.
package panics

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
)

// An Error is a panic that was recovered from.
type Error struct {
	Value any    // what was panicked with
	Stack []byte // of the goroutine, as debug.Stack has it
}

func (e *Error) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// Unwrap returns the value, if it is an error.
func (e *Error) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

var count atomic.Int64

// Count returns how many panics this process has recovered from.
func Count() int64 { return count.Load() }

// Recover makes a panic an *Error in *err. It is deferred itself: a function
// that calls it recovers from nothing.
func Recover(err *error) {
	if v := recover(); v != nil {
		count.Add(1)
		*err = &Error{v, debug.Stack()}
	}
}

// Run calls f. A panic in f is an *Error.
func Run(f func() error) (err error) {
	defer Recover(&err)
	return f()
}

// Stack is the log attribute with the stack of the panic within err. It is
// empty, and not written, if err is no panic.
func Stack(err error) slog.Attr {
	if e, ok := errors.AsType[*Error](err); ok {
		return slog.String("stack", string(e.Stack))
	}
	return slog.Attr{}
}

// Is reports whether err is a panic that was recovered from.
func Is(err error) bool {
	_, ok := errors.AsType[*Error](err)
	return ok
}
