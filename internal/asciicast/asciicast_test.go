package asciicast

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestWriter(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b, Header{Width: 120, Height: 40, Timestamp: 1767323045, Title: "alice-0c4f1e9ab27d3355e"})
	w.Output(0, []byte("$ "))
	w.Resize(1500*time.Millisecond, 100, 30)
	w.Output(2*time.Second, []byte("caf\xc3"))  // half an é
	w.Output(time.Second, []byte("\xa9\r\n"))   // its other half, from a clock that went back
	w.Output(3*time.Second, []byte{0xff, 'x'})  // no character at all
	w.Marker(4*time.Second, "the client left")  //
	w.Output(5*time.Second, []byte("\xe2\x82")) // never completed
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	want := `{"version":2,"width":120,"height":40,"timestamp":1767323045,"title":"alice-0c4f1e9ab27d3355e"}
[0.000000,"o","$ "]
[1.500000,"r","100x30"]
[2.000000,"o","caf"]
[2.000000,"o","é\r\n"]
[3.000000,"o","\ufffdx"]
[4.000000,"m","the client left"]
[4.000000,"o","\ufffd\ufffd"]
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

// However valid text is cut into pieces, it is recorded as it was.
func TestTextSurvivesCutting(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String().Draw(t, "text")
		var b bytes.Buffer
		w := NewWriter(&b, Header{})
		for rest := []byte(text); len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "n")
			w.Output(0, rest[:n])
			rest = rest[n:]
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		r, err := NewReader(&b)
		if err != nil {
			t.Fatal(err)
		}
		var got strings.Builder
		for {
			e, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			got.WriteString(e.Text)
		}
		if got.String() != text {
			t.Fatalf("recorded %q, was %q", got.String(), text)
		}
	})
}

func FuzzReader(f *testing.F) {
	f.Add("{\"version\":2,\"width\":80,\"height\":24}\n[0.5,\"o\",\"x\"]\n")
	f.Add("{\"version\":3}\n")
	f.Add("{\"version\":2}\n[1]\n[\"o\",1,2]\n[-1,\"o\",\"x\"]\n")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := NewReader(strings.NewReader(s))
		for err == nil {
			var e Event
			if e, err = r.Next(); err == nil && e.At < 0 {
				t.Fatalf("event at %v", e.At)
			}
		}
	})
}
