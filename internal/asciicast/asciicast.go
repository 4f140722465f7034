// Package asciicast writes and reads terminal recordings: what was on the
// screen, and when.
//
// The format is asciicast, version 2: lines of JSON, a header and then one
// event a line, [seconds since the start, kind, text]. Kind is "o" for output,
// "r" for a new size and "m" for a marker. Version 2 and not 3, because every
// player reads it. (docs.asciinema.org/manual/asciicast/v2)
//
// A terminal's output is bytes, and an event's text is characters. A character
// whose bytes arrive in two pieces is held back until it is whole; a byte that
// begins no character becomes U+FFFD.
package asciicast

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"
	"unicode/utf8"
)

// A Header says what was recorded.
type Header struct {
	Version   int               `json:"version"` // 2; set by [NewWriter]
	Width     int               `json:"width"`
	Height    int               `json:"height"`
	Timestamp int64             `json:"timestamp,omitempty"` // Unix seconds
	Title     string            `json:"title,omitempty"`
	Env       map[string]string `json:"env,omitempty"`
}

// A Writer writes one recording. Once a write has failed, all do.
type Writer struct {
	w    *bufio.Writer
	last time.Duration
	held []byte // the beginning of a character, at most 3 bytes
	err  error
}

// NewWriter writes h to w. A width or height of 0 becomes 80 or 24.
func NewWriter(w io.Writer, h Header) *Writer {
	h.Version = 2
	if h.Width <= 0 {
		h.Width = 80
	}
	if h.Height <= 0 {
		h.Height = 24
	}
	cw := &Writer{w: bufio.NewWriter(w)}
	cw.line(h)
	return cw
}

// Output records b as shown at time at since the start. Time does not go
// back: an earlier time counts as the last.
func (w *Writer) Output(at time.Duration, b []byte) error {
	b = append(w.held, b...)
	n := len(b) - incomplete(b)
	w.held = append([]byte(nil), b[n:]...)
	if n > 0 {
		w.event(at, "o", string(b[:n]))
	}
	return w.err
}

// Resize records a new size of the terminal.
func (w *Writer) Resize(at time.Duration, cols, rows int) error {
	w.event(at, "r", strconv.Itoa(cols)+"x"+strconv.Itoa(rows))
	return w.err
}

// Marker records that something happened that was not on the screen.
func (w *Writer) Marker(at time.Duration, label string) error {
	w.event(at, "m", label)
	return w.err
}

// Close writes what was held back. It does not close the underlying writer.
func (w *Writer) Close() error {
	if len(w.held) > 0 {
		w.event(w.last, "o", string(w.held))
		w.held = nil
	}
	if err := w.w.Flush(); w.err == nil {
		w.err = err
	}
	return w.err
}

func (w *Writer) event(at time.Duration, kind, text string) {
	w.last = max(w.last, at)
	w.line([]any{json.Number(strconv.FormatFloat(w.last.Seconds(), 'f', 6, 64)), kind, text})
}

func (w *Writer) line(v any) {
	if w.err != nil {
		return
	}
	b, err := json.Marshal(v)
	if err == nil {
		_, err = w.w.Write(append(b, '\n'))
	}
	w.err = err
}

// incomplete returns how many bytes at the end of b begin a character that
// more bytes could complete.
func incomplete(b []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(b); n++ {
		if tail := b[len(b)-n:]; utf8.RuneStart(tail[0]) {
			if !utf8.FullRune(tail) {
				return n
			}
			return 0
		}
	}
	return 0
}

// An Event is one line of a recording after its header.
type Event struct {
	At   time.Duration
	Kind string // "o", "r" or "m"; recordings that other programs made may have more
	Text string
}

// A Reader reads one recording.
type Reader struct {
	Header Header
	lines  *bufio.Scanner
}

// maxLine is the longest line a recording may have.
const maxLine = 4 << 20

// NewReader reads the header of r.
func NewReader(r io.Reader) (*Reader, error) {
	cr := &Reader{lines: bufio.NewScanner(r)}
	cr.lines.Buffer(nil, maxLine)
	if !cr.lines.Scan() {
		return nil, fmt.Errorf("read header of recording: %w", orEOF(cr.lines.Err()))
	}
	if err := json.Unmarshal(cr.lines.Bytes(), &cr.Header); err != nil {
		return nil, fmt.Errorf("read header of recording: %w", err)
	}
	if cr.Header.Version != 2 {
		return nil, fmt.Errorf("recording is of version %d, and only version 2 can be read", cr.Header.Version)
	}
	return cr, nil
}

// Next returns the next event, or io.EOF.
func (r *Reader) Next() (Event, error) {
	if !r.lines.Scan() {
		return Event{}, orEOF(r.lines.Err())
	}
	var e Event
	var seconds float64
	fields := []any{&seconds, &e.Kind, &e.Text}
	if err := json.Unmarshal(r.lines.Bytes(), &fields); err != nil {
		return Event{}, fmt.Errorf("read event of recording: %w", err)
	}
	if len(fields) < 3 || seconds < 0 || seconds > 1e9 {
		return Event{}, errors.New("read event of recording: it is not [time, kind, text]")
	}
	e.At = time.Duration(seconds * float64(time.Second))
	return e, nil
}

func orEOF(err error) error {
	if err == nil {
		return io.EOF
	}
	return err
}
