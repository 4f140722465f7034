package client

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/sallyport/sallyport/internal/wire"
)

const (
	// readSize is how much is read at once: no more than goes in one message
	// between ends of ours. With what r.keys holds and what the stream keeps,
	// it bounds a paste that the node is slow to take: then the keyboard is not
	// read, and the terminal holds the rest of the paste.
	readSize = 32<<10 - wire.Overhead

	// hush is how long the node may say nothing before what is typed is sent
	// to it regardless.
	hush = 3 * time.Second

	eot  = "\x04"
	quit = 0x1c
)

// startReader begins to read Stdin once there is a socket, and the terminal is
// raw, if what is at the other end is for that. It waits to be told: a program
// in the background that reads its terminal is stopped. The function it returns
// ends the reading.
func (r *run) startReader(ctx context.Context) (stop func()) {
	src, interrupt := newKeyboard(r.Stdin)
	done := make(chan struct{})
	go r.guard(func() {
		defer close(done)
		select {
		case <-r.opened:
		case <-ctx.Done():
			return
		}
		hushed := time.NewTimer(hush)
		defer hushed.Stop()
		if r.Pipes {
			hushed.Stop()
		}
		select {
		case <-r.known:
		case <-hushed.C:
		case <-ctx.Done():
			return
		}
		switch {
		case r.takesInput():
			r.read(ctx, src)
		case r.where() == farCommand && r.term.in == nil && unread(r.Stdin):
			r.notice("this node's agent gives a command no standard input; what is piped in is not read")
		}
	})
	return func() {
		if interrupt != nil {
			interrupt()
			<-done
		}
	}
}

// read owns Stdin. It closes r.keys when Stdin ends.
//
// It reads on while the node is not ready and while there is no socket, because
// ~. must be heard then above all.
func (r *run) read(ctx context.Context, src io.Reader) {
	var esc escape
	esc.off = r.term.in == nil || r.Pipes
	buf := make([]byte, readSize)
	for {
		n, err := src.Read(buf)
		if ctx.Err() != nil {
			return
		}
		chunk, commands := esc.filter(nil, buf[:n])
		if len(chunk) > 0 && !r.sendNow(chunk) {
			r.behind.Add(1)
			select {
			case r.keys <- chunk:
			case <-ctx.Done():
				return
			}
		}
		for _, c := range commands {
			switch c {
			case escapeLeave:
				r.finish(over{Ending{How: Left}})
				return
			case escapeHelp:
				r.notice(escapeHelpText)
			case escapeOff:
				r.notice("no more escapes")
			}
		}
		if err != nil {
			if r.term.in != nil && r.where() == farShell {
				// The terminal is gone. SIGHUP says so too, to those who are
				// its foreground.
				r.finish(over{Ending{How: Left}})
				return
			}
			if !errors.Is(err, io.EOF) {
				r.notice("read standard input: " + err.Error())
			}
			close(r.keys)
			return
		}
	}
}

// typist sends what was typed.
//
// It begins when the node has shown something, or a handshake is complete: a
// stock agent throws away what comes during a handshake, and there is no
// telling beforehand whether there will be one. AWS's plugin never begins if
// the node never shows anything. This one does, after a while.
func (r *run) typist(ctx context.Context) {
	if r.waitReady(ctx) != nil {
		return
	}
	r.line.Store(true)
	r.behind.Add(-1)
	for {
		select {
		case key := <-r.urgent:
			if r.sendKey(ctx, key) != nil {
				return
			}
			continue
		default:
		}
		select {
		case <-ctx.Done():
			return
		case key := <-r.urgent:
			if r.sendKey(ctx, key) != nil {
				return
			}
		case chunk, more := <-r.keys:
			if !more {
				r.endOfInput(ctx, r.line.Load())
				return
			}
			if r.takesInput() && r.stream.Send(ctx, wire.KindOutput, chunk) != nil {
				return
			}
			r.line.Store(endsLine(chunk[len(chunk)-1]))
			r.behind.Add(-1)
		}
	}
}

// sendKey sends a key that a signal stood for, or the signal, where what is
// typed is a command's input and may hold such bytes.
func (r *run) sendKey(ctx context.Context, key byte) error {
	if r.where() == farCommand {
		defer r.sentOne()
	}
	if r.where() != farCommand || !r.stdin.Load() {
		return r.stream.Send(ctx, wire.KindOutput, []byte{key})
	}
	f := wire.FlagInterrupt
	if key == quit {
		f = wire.FlagQuit
	}
	return r.stream.SendMessage(ctx, wire.KindFlag, f.Payload())
}

// sendNow sends what was typed from here, if typist has begun, has nothing to
// do, and need not wait to do it.
func (r *run) sendNow(chunk []byte) bool {
	if r.behind.Load() != 0 || !r.takesInput() || !r.stream.TrySend(wire.KindOutput, chunk) {
		return false
	}
	r.line.Store(endsLine(chunk[len(chunk)-1]))
	return true
}

func (r *run) waitReady(ctx context.Context) error {
	select {
	case <-r.opened:
	case <-ctx.Done():
		return ctx.Err()
	}
	quiet := time.NewTimer(hush)
	defer quiet.Stop()
	for {
		select {
		case <-r.ready:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-quiet.C:
			if !r.shaking.Load() && !r.Pipes {
				return nil
			}
		}
	}
}

// drain is for when Stdin, the person's end of a connection, has ended. The
// node cannot be told of that half alone. What it still sends is passed on until
// it has closed its end, as a server does when it has had its last request, or
// until it is silent. AWS's plugin ends at once, in the middle of an answer.
func (r *run) drain(ctx context.Context) {
	r.stream.Flush(ctx)
	at := time.Since(r.started)
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		quiet := time.Since(r.started) - max(at, time.Duration(r.shown.Load()))
		if r.Silence > 0 && quiet > r.Silence {
			r.finish(over{Ending{How: Drained}})
			return
		}
	}
}

// endOfInput is for when Stdin, which is no terminal, has ended.
//
// AWS's plugin then ends at once, and what the node had still to show is lost
// (echo date | aws ssm start-session shows no date). Here the node's shell is
// told as its terminal would tell it, with Ctrl-D, and what it shows is shown
// until it has ended, so that scripts piped in run whole and their exit status
// is had. A Ctrl-D that a command of the script took for itself, as cat does,
// is made good once the shell has prompted again: after a second's quiet that
// follows output. A few times, in case what prompts does not know Ctrl-D.
//
// Those who run the plugin count on its ending by itself after the end of
// Stdin, Ansible among them. Session.Silence is their limit.
func (r *run) endOfInput(ctx context.Context, line bool) {
	switch r.where() {
	case farCommand:
		if r.stdin.Load() && r.stream.SendMessage(ctx, wire.KindFlag, wire.FlagEndOfInput.Payload()) != nil {
			return
		}
		for {
			select {
			case <-ctx.Done():
				return
			case key := <-r.urgent:
				if r.sendKey(ctx, key) != nil {
					return
				}
			}
		}
	case farStream:
		r.drain(ctx)
		return
	case farForward:
		<-ctx.Done()
		return
	}
	const tries = 8
	at := time.Since(r.started)
	sent, left := at, tries
	keys := eot
	if !line {
		keys = eot + eot // the first only hands over the line as far as it is
	}
	if r.stream.Send(ctx, wire.KindOutput, []byte(keys)) != nil {
		return
	}
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case key := <-r.urgent:
			if r.stream.Send(ctx, wire.KindOutput, []byte{key}) != nil {
				return
			}
			left = tries // Ctrl-C empties a terminal's queue, of the Ctrl-D too
		case <-tick.C:
		}
		now, shown := time.Since(r.started), time.Duration(r.shown.Load())
		if r.Silence > 0 && now-max(shown, at) > r.Silence {
			r.finish(over{Ending{How: Deserted}})
			return
		}
		if left > 0 && shown > sent && now-shown > time.Second {
			if r.stream.Send(ctx, wire.KindOutput, []byte(eot)) != nil {
				return
			}
			sent = now
			left--
		}
	}
}
