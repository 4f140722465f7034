package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/asciicast"
)

// A Player shows a recording as it was seen. Set its fields, and call [Player.Run].
//
// What a recording holds was written by the programs of a session, and is shown to
// the terminal byte for byte, as ssh shows what a host says. Two things are kept
// from it: what a terminal answers to it does not reach the shell that is read
// next, if Stdin is that terminal, and modes that it set are undone at the end.
type Player struct {
	// Recording is read from its beginning, twice.
	Recording io.ReadSeeker

	// Speed is how many seconds of the recording pass in one; 0 is 1. MaxIdle is
	// the longest that nothing is shown, by the recording's time; 0 is as long as
	// nothing was.
	Speed   float64
	MaxIdle time.Duration

	// Keys are read from Stdin if it is a terminal and Stdout is. A Stdout that is
	// none has all of the output at once.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// MinSpeed and MaxSpeed bound the speed, also what keys make of it.
const MinSpeed, MaxSpeed = 1.0 / 16, 1024.0

// skipBy is how far the key for it goes ahead, by the recording's time.
const skipBy = 10 * time.Second

// A Played is what a recording is made of.
type Played struct {
	Header   asciicast.Header
	Duration time.Duration // with idle time cut to MaxIdle
	Output   bool          // something was on the screen
	Stopped  bool          // a key ended it, or the context

	// Markers are what happened beside the screen. At is the recording's own time.
	Markers []asciicast.Event

	asks     bool // the terminal may have been asked something
	carriage bool // lines end in \r\n: the output is a terminal's
}

// maxMarkers is how many are kept.
const maxMarkers = 200

// scan reads the recording through.
func (p *Player) scan() (found Played, err error) {
	r, err := p.rewind()
	if err != nil {
		return found, err
	}
	found.Header = r.Header
	for last := time.Duration(0); ; {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return found, err
		}
		switch e.Kind {
		case "o":
			found.Duration += p.pause(e.At - last)
			last = e.At
			found.Output = true
			found.asks = found.asks || strings.ContainsFunc(e.Text, mayAsk)
			found.carriage = found.carriage || strings.Contains(e.Text, "\r")
		case "m":
			if len(found.Markers) < maxMarkers {
				found.Markers = append(found.Markers, e)
			}
		}
	}
}

// mayAsk reports whether a character may be of what a terminal answers: an escape, an
// enquiry, or a control that stands for an escape and a letter. (ECMA-48, 5.3)
func mayAsk(r rune) bool { return r == 0x1b || r == 0x05 || 0x80 <= r && r <= 0x9f }

func (p *Player) rewind() (*asciicast.Reader, error) {
	if _, err := p.Recording.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read recording: %w", err)
	}
	return asciicast.NewReader(p.Recording)
}

// pause is how long nothing is shown where nothing was for d.
func (p *Player) pause(d time.Duration) time.Duration {
	if p.MaxIdle > 0 {
		d = min(d, p.MaxIdle)
	}
	return max(d, 0)
}

// Run plays the recording. Begin is called with what it is made of before anything
// is shown. Ctrl-C and q end it, as the context does: that is no error.
func (p *Player) Run(ctx context.Context, begin func(Played)) (Played, error) {
	found, err := p.scan()
	if err != nil {
		return found, err
	}
	begin(found)
	if !found.Output {
		return found, nil
	}
	t := newTerminal(p.Stdin, p.Stdout, p.Stderr)
	if t.out == nil {
		return found, p.dump()
	}
	var keys *replayKeys
	if t.in != nil {
		if err := t.raw(); err != nil {
			return found, fmt.Errorf("make the terminal raw: %w", err)
		}
		defer t.restore()
		keys = readKeys(p.Stdin)
		defer keys.stop()
	}
	show := &replayScreen{w: p.Stdout, raw: t.in != nil && !found.carriage}
	found.Stopped, err = p.play(ctx, show, keys)
	show.reset()
	if keys != nil && found.asks {
		// The terminal answers in order: once it has answered this, no answer to
		// anything in the recording is under way any more.
		fmt.Fprint(p.Stdout, "\x1b[5n")
		keys.await(answerWithin)
	}
	return found, err
}

// answerWithin is how long a terminal is waited for that may not answer at all.
const answerWithin = 300 * time.Millisecond

// dump writes all of the output, for a reader that is no terminal.
func (p *Player) dump() error {
	r, err := p.rewind()
	for err == nil {
		var e asciicast.Event
		if e, err = r.Next(); err == nil && e.Kind == "o" {
			_, err = io.WriteString(p.Stdout, e.Text)
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// play shows the output in its time. It reports whether it was stopped.
func (p *Player) play(ctx context.Context, show *replayScreen, keys *replayKeys) (stopped bool, err error) {
	r, err := p.rewind()
	if err != nil {
		return false, err
	}
	speed := p.Speed
	if speed <= 0 {
		speed = 1
	}
	var pressed <-chan replayKey
	if keys != nil {
		pressed = keys.pressed
	}
	paused, last, skip := false, time.Duration(0), time.Duration(0)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if e.Kind != "o" {
			continue
		}
		left := p.pause(e.At - last) // by the recording's time
		last = e.At
		cut := min(skip, left)
		left, skip = left-cut, skip-cut
		for step := false; !step && (paused || left > 0); {
			var due <-chan time.Time
			if !paused {
				timer.Reset(time.Duration(float64(left) / speed))
				due = timer.C
			}
			began := time.Now()
			select {
			case <-ctx.Done():
				return true, nil
			case <-due:
				left = 0
			case k, ok := <-pressed:
				if !ok {
					pressed, paused = nil, false // the keyboard is gone: it plays to its end
				}
				if !paused {
					left -= min(left, time.Duration(float64(time.Since(began))*speed))
				}
				switch k {
				case keyQuit:
					return true, nil
				case keyPause:
					paused = !paused
				case keyStep:
					step = paused
				case keyFaster:
					speed = min(speed*2, MaxSpeed)
				case keySlower:
					speed = max(speed/2, MinSpeed)
				case keySkip:
					cut := min(skipBy, left)
					left, skip = left-cut, skipBy-cut
					step = paused
				}
			}
		}
		select { // keys count while output comes without a pause, too
		case <-ctx.Done():
			return true, nil
		case k := <-pressed:
			if k == keyQuit {
				return true, nil
			}
			paused = paused != (k == keyPause)
		default:
		}
		if err := show.write(e.Text); err != nil {
			return false, fmt.Errorf("write to the terminal: %w", err)
		}
	}
}

// A replayScreen is the terminal that a recording is shown on.
type replayScreen struct {
	w     io.Writer
	raw   bool            // \n needs a \r: the recorded program had no terminal, and this one is raw
	modes map[string]bool // the private modes that were set, or reset, otherwise than a terminal begins with
	tail  string          // the end of what was shown, which may begin a sequence
}

// privateModes finds the sequences that set and reset them: DECSET and DECRST. (ECMA-48,
// 5.4; xterm, "Control Sequences".)
var privateModes = regexp.MustCompile(`(?:\x1b\[|\x{9b})\?([0-9;]{1,40})([hl])`)

// initiallySet are the private modes that a terminal begins with: autowrap, and the
// cursor's being shown.
var initiallySet = []string{"7", "25"}

func (s *replayScreen) write(text string) error {
	seen := s.tail + text
	for _, m := range privateModes.FindAllStringSubmatch(seen, -1) {
		if s.modes == nil {
			s.modes = map[string]bool{}
		}
		for _, mode := range strings.Split(m[1], ";") {
			set := m[2] == "h"
			if set == slices.Contains(initiallySet, mode) {
				delete(s.modes, mode)
			} else if len(s.modes) < 100 {
				s.modes[mode] = set
			}
		}
	}
	s.tail = ""
	if i := strings.LastIndexAny(seen, "\x1b\u009b"); i >= 0 && len(seen)-i < 48 {
		s.tail = seen[i:]
	}
	if s.raw {
		text = strings.ReplaceAll(text, "\n", "\r\n")
	}
	_, err := io.WriteString(s.w, text)
	return err
}

// reset undoes what is still set: the alternate screen, a hidden cursor, reports of
// the mouse, colours.
func (s *replayScreen) reset() {
	var b strings.Builder
	b.WriteString("\x18") // CAN ends a sequence that was cut short
	for mode, set := range s.modes {
		if set {
			b.WriteString("\x1b[?" + mode + "l")
		} else {
			b.WriteString("\x1b[?" + mode + "h")
		}
	}
	b.WriteString("\x1b[!p\x1b[0m\r\n") // DECSTR: margins, character sets, keypad
	io.WriteString(s.w, b.String())
}

// A replayKey is what a person wants by a key.
type replayKey int

const (
	keyNone replayKey = iota
	keyPause
	keyStep
	keyFaster
	keySlower
	keySkip
	keyQuit
)

// replayKeys reads a terminal's keys, and leaves out what the terminal itself
// says: its answers to what it was asked are sequences, as the arrow keys are.
type replayKeys struct {
	pressed   chan replayKey // closed when the keyboard is
	interrupt func()         // nil if a read cannot be ended
	answered  chan struct{}  // the terminal has answered "\x1b[5n"
	ended     chan struct{}
}

func readKeys(in io.Reader) *replayKeys {
	r, interrupt := newKeyboard(in)
	k := &replayKeys{pressed: make(chan replayKey, 16), interrupt: interrupt, answered: make(chan struct{}, 1), ended: make(chan struct{})}
	go func() {
		defer close(k.ended)
		defer close(k.pressed)
		var p keyParser
		buf := make([]byte, 256)
		for {
			n, err := r.Read(buf)
			for _, b := range buf[:n] {
				key, answer := p.next(b)
				if answer {
					select {
					case k.answered <- struct{}{}:
					default:
					}
				}
				if key != keyNone {
					select {
					case k.pressed <- key:
					default: // nothing looks at keys any more
					}
				}
			}
			if err != nil {
				return
			}
		}
	}()
	return k
}

// await returns when the terminal has answered, or after d.
func (k *replayKeys) await(d time.Duration) {
	limit := time.NewTimer(d)
	defer limit.Stop()
	select {
	case <-k.answered:
	case <-k.ended:
	case <-limit.C:
	}
}

// stop ends reading, where a read can be ended.
func (k *replayKeys) stop() {
	if k.interrupt != nil {
		k.interrupt()
		<-k.ended
	}
}

// A keyParser tells keys from sequences. (ECMA-48, 5.4 to 5.6.)
type keyParser struct {
	state  keyState
	params string // of a control sequence, the first few
}

type keyState int

const (
	inGround keyState = iota
	inEscape
	inControl // after ESC [
	inSingle  // after ESC O
	inText    // after ESC ], ESC P and their like, up to BEL or ESC \
	inTextEscape
)

// next takes one byte. Answer is that it ended the terminal's report that all is
// well.
func (p *keyParser) next(b byte) (key replayKey, answer bool) {
	switch p.state {
	case inEscape:
		p.state = inGround
		switch b {
		case '[':
			p.state, p.params = inControl, ""
		case 'O':
			p.state = inSingle
		case ']', 'P', '_', '^', 'X':
			p.state = inText
		case 0x1b:
			p.state = inEscape
		}
		return keyNone, false
	case inControl:
		if b < 0x40 || b > 0x7e {
			if len(p.params) < 16 {
				p.params += string(rune(b))
			}
			return keyNone, false
		}
		p.state = inGround
		switch {
		case b == 'C' && p.params == "":
			return keySkip, false
		case b == 'n' && p.params == "0":
			return keyNone, true
		}
		return keyNone, false
	case inSingle:
		p.state = inGround
		if b == 'C' {
			return keySkip, false
		}
		return keyNone, false
	case inText:
		switch b {
		case 0x07:
			p.state = inGround
		case 0x1b:
			p.state = inTextEscape
		}
		return keyNone, false
	case inTextEscape:
		p.state = inText
		if b == '\\' {
			p.state = inGround
		}
		return keyNone, false
	}
	switch b {
	case 0x1b:
		p.state = inEscape
	case ' ', 'p':
		return keyPause, false
	case '.':
		return keyStep, false
	case '+', '=':
		return keyFaster, false
	case '-':
		return keySlower, false
	case '>', 'l':
		return keySkip, false
	case 'q', 0x03, 0x04:
		return keyQuit, false
	}
	return keyNone, false
}
