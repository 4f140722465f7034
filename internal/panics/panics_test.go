package panics

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	before := Count()
	if err := Run(func() error { return io.EOF }); err != io.EOF || Is(err) || Count() != before {
		t.Errorf("an error became %v, and the count %d from %d", err, Count(), before)
	}
	err := Run(func() error {
		var none []int
		return fmt.Errorf("%d", none[len(none)])
	})
	if _, ok := errors.AsType[runtime.Error](err); !ok || !Is(err) || Count() != before+1 {
		t.Errorf("a panic became %v, and the count %d from %d", err, Count(), before)
	}
	wrapped := fmt.Errorf("read frame: %w", err)
	if got := Stack(wrapped).Value.String(); !strings.Contains(got, "TestRun") {
		t.Errorf("the stack is %s", got)
	}
}

// Locks are released on the way, by the defers between the panic and Recover.
func TestRecoverIsLast(t *testing.T) {
	released := false
	work := func() (err error) {
		defer Recover(&err)
		defer func() { released = true }()
		panic("a bug")
	}
	if err := work(); !Is(err) || err.Error() != "panic: a bug" || !released {
		t.Errorf("%v, released %v", err, released)
	}
}

// An error that is no panic adds nothing to a log line.
func TestNoStack(t *testing.T) {
	var b bytes.Buffer
	slog.New(slog.NewTextHandler(&b, nil)).Error("failed", "err", io.EOF, Stack(io.EOF))
	if got := b.String(); !strings.HasSuffix(got, "msg=failed err=EOF\n") {
		t.Error(got)
	}
}
