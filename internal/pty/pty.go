// Package pty answers what the shell is saying: it starts a program on a
// terminal of its own, carries what passes between them, and sees both to
// their end.
//
//	Write ──▶ ┌──────────┐ ──▶ stdin
//	          │ terminal │       program, and what it starts
//	Read  ◀── └──────────┘ ◀── stdout, stderr
//
// On Unix the terminal is a pseudo-terminal and the program leads its session;
// on Windows it is a pseudo-console, and the program's descendants are in a job.
//
// What is left when a session is over depends on who ended it. A program that
// ended by itself leaves behind what it meant to: a job an interactive shell
// put into the background runs on, as after ssh. What shared the program's own
// process group goes with it. When [Terminal.Close] ends the program, nothing
// of its session is left: a hang-up first, and after a moment a kill.
//
// A terminal outlives the program that started it, if that is replaced by
// another in the same process: [Terminal.Hold] and [TakeUp].
//
// The package also says who a user of this machine is ([LookupUser]), because
// what to start, and where, is theirs to say.
//
// It knows nothing of sessions in the control plane's sense, or of frames.
package pty

import (
	"errors"
	"time"
)

const (
	// grace is how long a program has to act on a hang-up.
	grace = time.Second

	// stuck is how long a killed program has to be gone. One that is not, for
	// it waits on a disk or a server that does not answer, is left to the system.
	stuck = 5 * time.Second

	// quiet is how long after the program's end nothing must come from its
	// terminal for the rest to be taken as read. It matters when something in
	// the background keeps the terminal open; otherwise the system says so.
	quiet = 100 * time.Millisecond

	// leftover is how much is read after the program's end, at most: more than
	// any terminal holds, and an end to a background job that never stops.
	leftover = 256 << 10
)

// A Command says what to start, and on what.
type Command struct {
	Path string   // absolute
	Args []string // from argv[0]
	Env  []string // all of it; nothing is inherited

	// Dir is where the program starts. If the user who it runs as may not enter
	// it, or it is not there, that is the root directory.
	Dir string

	// Cols and Rows are the size of the terminal before the program starts. 0
	// is 80 by 24.
	Cols, Rows uint16

	// As is the user to run as; nil is this process's. Windows has no other.
	As *Credential
}

// A Credential is a user by number, with all groups.
type Credential struct {
	UID, GID uint32
	Groups   []uint32
}

func (c *Command) size() (cols, rows uint16) {
	if c.Cols == 0 || c.Rows == 0 {
		return 80, 24
	}
	return c.Cols, c.Rows
}

// A Terminal is a program and the terminal it was started on. One goroutine at
// a time may Read, one may Write; the other methods may be called by any.
//
// The caller of Start must Close it.
type Terminal struct{ terminal }

// Start starts a program.
func Start(c Command) (*Terminal, error) {
	t := new(Terminal)
	if err := t.start(c); err != nil {
		return nil, err
	}
	return t, nil
}

// Read reads what the program, or another on its terminal, has written. After
// the program has ended it returns what was left, and then io.EOF.
func (t *Terminal) Read(p []byte) (int, error) { return t.read(p) }

// Write types p. It waits while the program does not read and the terminal's
// own buffer is full, until Close, or Interrupt, after which the rest of p is
// not typed and the error is os.ErrDeadlineExceeded.
func (t *Terminal) Write(p []byte) (int, error) { return t.write(p) }

// WriteNow types as much of p as the terminal takes at once, and returns how
// much that was; on Windows nothing.
func (t *Terminal) WriteNow(p []byte) int { return t.writeNow(p) }

// Interrupt does what the interrupt character does, without waiting behind what
// has been typed and not read: a Write that waits is given up, what the program
// has yet to read is dropped, and what is in front is interrupted. It reports
// false, and does nothing, if the program takes that character for text, as an
// editor does, or if the system has no such thing.
func (t *Terminal) Interrupt() bool { return t.interrupt() }

// Resize changes the terminal's size, and the program is told.
func (t *Terminal) Resize(cols, rows uint16) error { return t.resize(cols, rows) }

// Wait waits for the program to end and returns its exit status. If a signal
// ended it that is 128 and the signal's number, as shells have it.
func (t *Terminal) Wait() int {
	<-t.exited
	return t.status
}

// Exited is closed when the program has ended.
func (t *Terminal) Exited() <-chan struct{} { return t.exited }

// Close ends the program, if it has not ended by itself, and lets go of the
// terminal. It returns when the program is gone, which takes no longer than a
// moment unless the system itself cannot end it. It may be called more than
// once.
func (t *Terminal) Close() { t.closing.Do(t.close) }

// ErrHeld is what Read and Write answer while a terminal is held.
var ErrHeld = errors.New("the terminal is held")

// Hold stops a terminal where it is, so that another program in this process's
// place can take it up: what the program says stays unread, Write returns how
// much it has typed, and the program's end is not noticed. It does not work on
// Windows.
//
// What Read had before is its caller's. WriteNow is not stopped. A terminal that
// was closed is not held.
func (t *Terminal) Hold() { t.hold() }

// Release undoes Hold, if there was one.
func (t *Terminal) Release() { t.release() }

// A Held is what it takes to take a terminal up.
type Held struct {
	FD     int // of the terminal, which closes when a program is executed
	Leader int // the program, a child of this process
	Exited bool
	Status int // if it exited
}

// Held describes a terminal that is held.
func (t *Terminal) Held() (Held, error) { return t.describe() }

// TakeUp makes a terminal of one that was held when a program before us ran in
// this process. An error leaves nothing open and the program killed.
func TakeUp(h Held) (*Terminal, error) {
	t := new(Terminal)
	if err := t.takeUp(h); err != nil {
		return nil, err
	}
	return t, nil
}
