package client

import (
	"io"
	"os"
	"sync"

	"golang.org/x/term"

	"github.com/sallyport/sallyport/internal/wire"
)

// A terminal is the person's: where keys are read from and output is shown.
type terminal struct {
	in     *os.File // nil if standard input is no terminal
	out    *os.File // nil if standard output is none
	errOut bool     // standard error is one

	mu    sync.Mutex
	saved func() // undoes raw; nil unless raw
}

func newTerminal(in io.Reader, out, errOut io.Writer) *terminal {
	t := &terminal{in: terminalFile(in), out: terminalFile(out)}
	t.errOut = terminalFile(errOut) != nil
	return t
}

func terminalFile(v any) *os.File {
	if f, ok := v.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return f
	}
	return nil
}

// raw has every key arrive as it is typed, unechoed, and output shown as it
// comes. It is undone by restore, however often it was called.
func (t *terminal) raw() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.saved != nil {
		return nil
	}
	undo, err := makeRaw(t.in, t.out)
	if err != nil {
		return err
	}
	t.saved = undo
	return nil
}

// rawAgain makes the terminal raw after another process has set it: a shell does when
// it continues a job that was stopped.
func (t *terminal) rawAgain() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.saved != nil {
		makeRaw(t.in, t.out) // what is to be restored is what was before the first time
	}
}

// restore leaves the terminal as raw found it.
func (t *terminal) restore() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.saved != nil {
		t.saved()
		t.saved = nil
	}
}

// isRaw reports whether what we say to the terminal needs carriage returns.
func (t *terminal) isRaw() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.saved != nil
}

// size is how large the terminal is, if there is one and it says. A terminal
// that says 0 by 0 does not know, as Ansible's.
func (t *terminal) size() (wire.Size, bool) {
	for _, f := range []*os.File{t.out, t.in} {
		if f == nil {
			continue
		}
		if cols, rows, err := term.GetSize(int(f.Fd())); err == nil && cols > 0 && rows > 0 {
			return wire.Size{Cols: uint32(cols), Rows: uint32(rows)}, true
		}
	}
	return wire.Size{}, false
}
