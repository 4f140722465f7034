package client

import (
	"context"
	"errors"
	"io"
	"os"
	"syscall"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/sys/windows"
)

const utf8CodePage = 65001

// makeRaw has the console send what is typed as a Unix terminal would, with
// sequences for the special keys, and understand the sequences it is sent.
func makeRaw(in, out *os.File) (undo func(), err error) {
	var undos []func()
	undo = func() {
		for _, u := range undos {
			u()
		}
	}
	set := func(f *os.File, clear, add uint32) error {
		if f == nil {
			return nil
		}
		h := windows.Handle(f.Fd())
		var old uint32
		if err := windows.GetConsoleMode(h, &old); err != nil {
			return err
		}
		if err := windows.SetConsoleMode(h, old&^clear|add); err != nil {
			return err
		}
		undos = append(undos, func() { windows.SetConsoleMode(h, old) })
		return nil
	}
	err = set(in, windows.ENABLE_ECHO_INPUT|windows.ENABLE_LINE_INPUT|windows.ENABLE_PROCESSED_INPUT, windows.ENABLE_VIRTUAL_TERMINAL_INPUT)
	if err == nil {
		err = set(out, 0, windows.ENABLE_PROCESSED_OUTPUT|windows.ENABLE_VIRTUAL_TERMINAL_PROCESSING|windows.DISABLE_NEWLINE_AUTO_RETURN)
	}
	if err != nil {
		undo()
		return nil, err
	}
	if cp, err := windows.GetConsoleOutputCP(); err == nil && windows.SetConsoleOutputCP(utf8CodePage) == nil {
		undos = append(undos, func() { windows.SetConsoleOutputCP(cp) })
	}
	if cp, err := windows.GetConsoleCP(); err == nil && windows.SetConsoleCP(utf8CodePage) == nil {
		undos = append(undos, func() { windows.SetConsoleCP(cp) })
	}
	return undo, nil
}

// signals are Ctrl-C, where it arrives as such, and the console being closed.
func signals() []os.Signal { return []os.Signal{os.Interrupt, syscall.SIGTERM} }

func typed(s os.Signal) (key byte, ok bool) { return 0x03, s == os.Interrupt }
func suspends(os.Signal) bool               { return false }
func suspend()                              {}
func fatal(s os.Signal) bool                { return s == syscall.SIGTERM }
func continued(os.Signal) bool              { return false }
func resized(os.Signal) bool                { return false }

func exitStatus(s os.Signal) int {
	if n, ok := s.(syscall.Signal); ok {
		return 128 + int(n)
	}
	return 255
}

// pollSize calls look often enough that a resized window is not noticed to lag:
// a console tells of its size only those who read its events, which would be
// instead of reading its keys.
func pollSize(ctx context.Context, look func()) {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			look()
		}
	}
}

// unread reports whether there is something to read in v, without reading it.
// Of a pipe Windows does not say so for certain.
func unread(v io.Reader) bool {
	f, ok := v.(*os.File)
	if !ok {
		n, _ := v.Read(make([]byte, 1))
		return n > 0
	}
	info, err := f.Stat()
	return err == nil && info.Mode().IsRegular() && info.Size() > 0
}

// taken and nobodyThere read the error of listening and of connecting.
func taken(err error) bool {
	return errors.Is(err, windows.WSAEADDRINUSE) || errors.Is(err, windows.WSAEACCES)
}
func nobodyThere(err error) bool { return errors.Is(err, windows.WSAECONNREFUSED) }

// newKeyboard reads a console by its own call, because os.File takes Ctrl-Z
// for the end of the file. A read cannot be interrupted: interrupt is nil.
func newKeyboard(in io.Reader) (r io.Reader, interrupt func()) {
	if f := terminalFile(in); f != nil {
		return &keyboard{h: windows.Handle(f.Fd())}, nil
	}
	return in, nil
}

// A keyboard turns the console's UTF-16 into UTF-8. Reading it as bytes loses all
// that is not ASCII, in every code page.
type keyboard struct {
	h    windows.Handle
	half uint16 // the first of a surrogate pair, whose second has not come
	rest []byte
}

func (k *keyboard) Read(p []byte) (int, error) {
	for len(k.rest) == 0 {
		var units [1024]uint16
		var n uint32
		if err := windows.ReadConsole(k.h, &units[0], uint32(len(units)), &n, nil); err != nil {
			return 0, err
		}
		if n == 0 {
			return 0, io.EOF
		}
		k.take(units[:n])
	}
	n := copy(p, k.rest)
	k.rest = k.rest[n:]
	return n, nil
}

func (k *keyboard) take(units []uint16) {
	for _, u := range units {
		switch {
		case k.half != 0:
			k.rest = utf8.AppendRune(k.rest, utf16.DecodeRune(rune(k.half), rune(u)))
			k.half = 0
		case 0xd800 <= u && u < 0xdc00:
			k.half = u
		default:
			k.rest = utf8.AppendRune(k.rest, rune(u))
		}
	}
}
