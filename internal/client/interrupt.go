package client

import (
	"context"
	"sync"
	"time"
)

// A command without a terminal is interrupted by a message, and over a link that is
// stalled, or behind input that the command does not read, that waits like any
// other. The person then hears that it does, and one more interrupt while that is
// news leaves: it ends the session if the control plane can be told, and the
// client in any case. ssh has ~. for that, which needs a terminal of its own.
const (
	interruptWithin = 500 * time.Millisecond // for an interrupt to be acknowledged, before the person hears that it waits
	insistWithin    = 10 * time.Second       // after that was said, for another to leave
)

// interrupts are those that were passed on to a command.
type interrupts struct {
	// mu guards all below.
	mu      sync.Mutex
	asked   int       // interrupts
	sent    int       // how many of them are in the stream
	through int64     // how many messages the stream had then
	saidAt  time.Time // when the person last heard that one waits; zero once none does
	looking bool      // a goroutine waits for the last to be acknowledged
}

// sentOne notes that the stream has one more interrupt.
func (r *run) sentOne() {
	i := &r.interrupts
	_, through := r.stream.Progress()
	i.mu.Lock()
	defer i.mu.Unlock()
	i.sent++
	i.through = through
}

// waits reports whether the command's end has not acknowledged every interrupt.
// The caller holds interrupts.mu.
func (r *run) waits() bool {
	i := &r.interrupts
	acknowledged, _ := r.stream.Progress()
	return i.sent < i.asked || acknowledged < i.through
}

// interrupt passes one on to a command, or leaves if the person was told that
// another waits.
func (r *run) interrupt(ctx context.Context, key byte) {
	i := &r.interrupts
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.saidAt.IsZero() && time.Since(i.saidAt) < insistWithin && r.waits() {
		r.start(func() { r.notice("leaving: the session is ended, if the control plane can be told…") })
		r.finish(over{Ending{How: Abandoned}})
		return
	}
	select {
	case r.urgent <- key:
		i.asked++
	default: // as many wait already
	}
	if !i.saidAt.IsZero() {
		i.saidAt = time.Now()
		r.start(func() { r.notice(waitsText) })
	}
	if !i.looking {
		i.looking = r.start(func() { r.lookAfterInterrupts(ctx) })
	}
}

const waitsText = "nothing answers: the connection is stalled, or the command does not read its input; the interrupt waits (Ctrl-C again to leave)"

// lookAfterInterrupts says that an interrupt waits, and when it has arrived after
// that was said.
func (r *run) lookAfterInterrupts(ctx context.Context) {
	i := &r.interrupts
	tick := time.NewTicker(interruptWithin)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		i.mu.Lock()
		waits, said := r.waits(), !i.saidAt.IsZero()
		switch {
		case !waits:
			i.saidAt, i.looking = time.Time{}, false
		case !said:
			i.saidAt = time.Now()
		}
		i.mu.Unlock()
		switch {
		case waits && !said:
			r.notice(waitsText)
		case !waits && said:
			r.notice("the interrupt has arrived")
		}
		if !waits {
			return
		}
	}
}
