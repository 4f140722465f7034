package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// recorded is a recording of text that was shown at times, in seconds.
func recorded(shown ...any) *bytes.Reader {
	var b strings.Builder
	b.WriteString("{\"version\":2,\"width\":80,\"height\":24}\n")
	for i := 0; i < len(shown); i += 2 {
		text, _ := json.Marshal(shown[i+1])
		fmt.Fprintf(&b, "[%v,\"o\",%s]\n", shown[i], text)
	}
	return bytes.NewReader([]byte(b.String()))
}

// A stopwatch notes when each text was written.
type stopwatch struct {
	start time.Time
	said  []string
}

func (s *stopwatch) Write(p []byte) (int, error) {
	s.said = append(s.said, fmt.Sprintf("%v %s", time.Since(s.start).Round(time.Millisecond), p))
	return len(p), nil
}

func TestPlayerKeepsTime(t *testing.T) {
	// At a time, in the test's seconds, a key is pressed.
	type press struct {
		at  time.Duration
		key replayKey
	}
	for _, c := range []struct {
		name    string
		speed   float64
		maxIdle time.Duration
		keys    []press
		want    string
		stopped bool
	}{
		{name: "as it was", want: "0s a,1s b,11s c,12s d"},
		{name: "four times as fast", speed: 4, want: "0s a,250ms b,2.75s c,3s d"},
		{name: "idle time is cut", maxIdle: 2 * time.Second, want: "0s a,1s b,3s c,4s d"},
		{name: "a pause lasts until the key comes again", keys: []press{{500 * time.Millisecond, keyPause}, {60 * time.Second, keyPause}}, want: "0s a,1m0.5s b,1m10.5s c,1m11.5s d"},
		{name: "in a pause one text after another", keys: []press{{500 * time.Millisecond, keyPause}, {2 * time.Second, keyStep}, {3 * time.Second, keyStep}, {4 * time.Second, keyPause}},
			want: "0s a,2s b,3s c,5s d"},
		{name: "steps are for pauses", keys: []press{{500 * time.Millisecond, keyStep}}, want: "0s a,1s b,11s c,12s d"},
		{name: "faster, and slower again", keys: []press{{2 * time.Second, keyFaster}, {3 * time.Second, keySlower}}, want: "0s a,1s b,10s c,11s d"},
		{name: "skipping", keys: []press{{2 * time.Second, keySkip}}, want: "0s a,1s b,2s c,2s d"},
		{name: "ended by a key", keys: []press{{2 * time.Second, keyQuit}}, want: "0s a,1s b", stopped: true},
		{name: "ended in a pause", keys: []press{{2 * time.Second, keyPause}, {3 * time.Second, keyQuit}}, want: "0s a,1s b", stopped: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &Player{Recording: recorded(0, "a", 1, "b", 11, "c", 12, "d"), Speed: c.speed, MaxIdle: c.maxIdle}
				w := &stopwatch{start: time.Now()}
				keys := &replayKeys{pressed: make(chan replayKey, 1)}
				for _, k := range c.keys {
					time.AfterFunc(k.at, func() { keys.pressed <- k.key })
				}
				stopped, err := p.play(t.Context(), &replayScreen{w: w}, keys)
				if got := strings.Join(w.said, ","); err != nil || got != c.want || stopped != c.stopped {
					t.Errorf("got %s, stopped %v, %v; want %s, stopped %v", got, stopped, err, c.want, c.stopped)
				}
			})
		})
	}
}

func TestPlayerStopsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		w := &stopwatch{start: time.Now()}
		p := &Player{Recording: recorded(0, "a", 10, "b")}
		if stopped, err := p.play(ctx, &replayScreen{w: w}, nil); err != nil || !stopped || len(w.said) != 1 {
			t.Errorf("stopped %v, %v, after %v", stopped, err, w.said)
		}
	})
}

// What is no terminal has all of the output, and no waiting.
func TestPlayerWritesToAFile(t *testing.T) {
	var out, errOut bytes.Buffer
	p := &Player{Recording: recorded(0, "one\r\n", 3600, "\x1b[6ntwo\r\n"), Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errOut}
	played, err := p.Run(t.Context(), func(Played) {})
	if err != nil || out.String() != "one\r\n\x1b[6ntwo\r\n" || errOut.Len() > 0 || played.Duration != time.Hour {
		t.Errorf("wrote %q and %q, %+v, %v", out.String(), errOut.String(), played, err)
	}
}

// The answer to all that a terminal may answer is waited for.
func TestWhatMayAskATerminal(t *testing.T) {
	for shown, asks := range map[string]bool{"é\r\n": false, "\x1b[6n": true, "\x05": true, "\u009d11;?\u009c": true, "\u009a": true} {
		if found, err := (&Player{Recording: recorded(0, shown)}).scan(); err != nil || found.asks != asks {
			t.Errorf("%q: %v, %v", shown, found.asks, err)
		}
	}
}

// A recording that ends in an editor leaves the terminal as terminals begin.
func TestPlayerUndoesModes(t *testing.T) {
	for _, c := range []struct{ shown, undo string }{
		{"plain", ""},
		{"\x1b[?1049h", "\x1b[?1049l"},
		{"\x1b[?1049h\x1b[?1049l", ""},
		{"\u009b?1049h", "\x1b[?1049l"},
		{"\x1b[?25l", "\x1b[?25h"},
		{"\x1b[?25h", ""},
		{"\x1b[?7;25l\x1b[?7h", "\x1b[?25h"},
	} {
		for cut := range c.shown { // however it comes
			var b bytes.Buffer
			s := &replayScreen{w: &b}
			s.write(c.shown[:cut])
			s.write(c.shown[cut:])
			b.Reset()
			s.reset()
			if want := "\x18" + c.undo + "\x1b[!p\x1b[0m\r\n"; b.String() != want {
				t.Errorf("after %q cut at %d: %q, want %q", c.shown, cut, b.String(), want)
			}
		}
	}
	// A program without a terminal ends lines without a carriage return.
	var b bytes.Buffer
	(&replayScreen{w: &b, raw: true}).write("one\ntwo\n")
	if b.String() != "one\r\ntwo\r\n" {
		t.Errorf("wrote %q", b.String())
	}
}

// What a terminal answers to a recording is no key.
func TestTerminalAnswersAreNoKeys(t *testing.T) {
	for _, c := range []struct {
		typed  string
		keys   []replayKey
		answer bool
	}{
		{" .+-=q", []replayKey{keyPause, keyStep, keyFaster, keySlower, keyFaster, keyQuit}, false},
		{"\x03", []replayKey{keyQuit}, false},
		{"\x1b[C\x1bOC", []replayKey{keySkip, keySkip}, false},
		{"\x1b[A\x1b[B\x1b[3~\x1b[1;5C", nil, false},
		{"\x1b[24;80R", nil, false},                      // where the cursor is
		{"\x1b[?62;1;6;9;15;22c", nil, false},            // what it is
		{"\x1b]11;rgb:qqqq/0000/0000\x1b\\", nil, false}, // its background
		{"\x1b]l q p\x07 ", []replayKey{keyPause}, false},
		{"\x1bP1$rq q\x1b\\q", []replayKey{keyQuit}, false},
		{"\x1b[0n", nil, true},
		{"\x1b[5n\x1b[?0n", nil, false},
	} {
		var p keyParser
		var keys []replayKey
		answered := false
		for _, b := range []byte(c.typed) {
			key, answer := p.next(b)
			if key != keyNone {
				keys = append(keys, key)
			}
			answered = answered || answer
		}
		if fmt.Sprint(keys) != fmt.Sprint(c.keys) || answered != c.answer {
			t.Errorf("%q: keys %v, answer %v; want %v, %v", c.typed, keys, answered, c.keys, c.answer)
		}
	}
}

func FuzzPlayer(f *testing.F) {
	f.Add("{\"version\":2,\"width\":80,\"height\":24}\n[0.5,\"o\",\"x\"]\n[0.6,\"m\",\"x\"]\n", []byte("\x1b[0n q"))
	f.Fuzz(func(t *testing.T, recording string, typed []byte) {
		var out bytes.Buffer
		p := &Player{Recording: strings.NewReader(recording), Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out}
		p.Run(t.Context(), func(Played) {})
		(&replayScreen{w: &out, raw: true}).write(recording)
		var k keyParser
		for _, b := range typed {
			k.next(b)
		}
	})
}

// A recording is put together of its parts, and what is not what the server stored
// is refused.
func TestGetRecording(t *testing.T) {
	text := strings.Repeat("a recording", 100)
	sum := sha256.Sum256([]byte(text))
	good := hex.EncodeToString(sum[:])
	for _, c := range []struct {
		name string
		part func(offset int) map[string]any
		is   error
		says string
	}{
		{"in parts", func(at int) map[string]any {
			return map[string]any{"Size": len(text), "Sha256": good, "Offset": at, "Data": []byte(text[at:min(at+300, len(text))])}
		}, nil, ""},
		{"of another hash", func(at int) map[string]any {
			return map[string]any{"Size": len(text), "Sha256": good[1:] + "0", "Offset": at, "Data": []byte(text[at:])}
		}, ErrRecordingChanged, ""},
		{"that does not go on", func(at int) map[string]any {
			return map[string]any{"Size": len(text), "Sha256": good, "Offset": at}
		}, nil, "the answer is not the part at 0"},
		{"that goes on elsewhere", func(int) map[string]any {
			return map[string]any{"Size": len(text), "Sha256": good, "Offset": 0, "Data": []byte(text[:300])}
		}, nil, "the answer is not the part at 300"},
		{"longer than it said", func(at int) map[string]any {
			return map[string]any{"Size": 10, "Sha256": good, "Offset": at, "Data": []byte(text)}
		}, nil, "the answer is not the part at 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPlane(t)
			at := 0
			p.answer = func(target string) (int, string) {
				if target != "Sallyport.GetRecording" {
					return 0, ""
				}
				part := c.part(at)
				at += 300
				b, _ := json.Marshal(part)
				return 200, string(b)
			}
			var got bytes.Buffer
			_, err := p.serve(nil).GetRecording(t.Context(), testSession, &got, nil)
			switch {
			case c.is != nil:
				if !errors.Is(err, c.is) {
					t.Errorf("got %v", err)
				}
			case c.says != "":
				if err == nil || !strings.Contains(err.Error(), c.says) {
					t.Errorf("got %v, want %q", err, c.says)
				}
			case err != nil || got.String() != text:
				t.Errorf("got %q, %v", got.String(), err)
			}
		})
	}
}
