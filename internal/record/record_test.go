package record

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/asciicast"
	"github.com/sallyport/sallyport/internal/wire"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func newID(t *testing.T) sallyport.SessionID {
	t.Helper()
	id, err := sallyport.ParseSessionID("alice-0c4f1e9ab27d3355e")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func newShelf(t *testing.T) *Shelf {
	t.Helper()
	s, err := OpenShelf(filepath.Join(t.TempDir(), "sessions"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// frame makes a stream message as an end sends it.
func frame(t *testing.T, typ wire.Type, seq int64, kind wire.Kind, payload string) []byte {
	t.Helper()
	f := wire.NewFrame(typ, []byte(payload), start)
	f.Seq, f.Kind = seq, kind
	b, err := f.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// life writes a short session: a size, output out of order and repeated, and an
// event. It returns the offsets of its entries.
func life(t *testing.T, l *Log) (offsets []int64) {
	t.Helper()
	for i, e := range []Entry{
		{What: PersonFrame, Body: frame(t, wire.TypeInputStreamData, 0, wire.KindSize, `{"cols":120,"rows":40}`)},
		{What: NodeFrame, Body: frame(t, wire.TypeOutputStreamData, 0, wire.KindOutput, "$ ")},
		{What: NodeFrame, Body: frame(t, wire.TypeOutputStreamData, 2, wire.KindOutput, "o\r\n")},
		{What: NodeFrame, Body: frame(t, wire.TypeOutputStreamData, 1, wire.KindOutput, "ech")},
		{What: PersonAcked, Body: []byte{0, 0, 0, 0, 0, 0, 0, 2}},
		{What: NodeFrame, Body: frame(t, wire.TypeOutputStreamData, 1, wire.KindOutput, "ech")},
		{What: Event, Body: []byte("the client left")},
		{What: PersonFrame, Body: frame(t, wire.TypeInputStreamData, 1, wire.KindSize, `{"cols":100,"rows":30}`)},
	} {
		e.At = start.Add(time.Duration(i) * time.Second)
		at, err := l.Append(e)
		if err != nil {
			t.Fatal(err)
		}
		offsets = append(offsets, at)
	}
	return offsets
}

func TestSealPutsOutputInOrder(t *testing.T) {
	shelf, id := newShelf(t), newID(t)
	l, err := shelf.Create(id)
	if err != nil {
		t.Fatal(err)
	}
	life(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	sealed, err := shelf.Seal(id)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(shelf.CastPath(id))
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"version":2,"width":120,"height":40,"timestamp":1767323045,"title":"alice-0c4f1e9ab27d3355e","env":{"TERM":"xterm-256color"}}
[1.000000,"o","$ "]
[3.000000,"o","ech"]
[3.000000,"o","o\r\n"]
[6.000000,"m","the client left"]
[7.000000,"r","100x30"]
`
	if string(b) != want {
		t.Errorf("recording\n%s\nwant\n%s", b, want)
	}
	if sealed.Size != int64(len(b)) || len(sealed.SHA256) != 32 {
		t.Errorf("sealed as %+v, is %d bytes", sealed, len(b))
	}
	if again, err := shelf.Seal(id); err != nil || !reflect.DeepEqual(again, sealed) {
		t.Errorf("sealed again as %+v, %v", again, err)
	}
	if err := shelf.Remove(id); err != nil {
		t.Fatal(err)
	}
	if _, err := shelf.Seal(id); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("sealed what was removed: %v", err)
	}
}

// Wherever the power fails, what was whole is read, what follows is written
// after it, and the recording can be made and played.
func TestCutAtEveryByte(t *testing.T) {
	shelf, id := newShelf(t), newID(t)
	l, err := shelf.Create(id)
	if err != nil {
		t.Fatal(err)
	}
	offsets := life(t, l)
	l.Close()
	whole, err := os.ReadFile(shelf.logPath(id))
	if err != nil {
		t.Fatal(err)
	}
	offsets = append(offsets, int64(len(whole)))
	for cut := int(offsets[0]); cut <= len(whole); cut++ {
		if err := os.WriteFile(shelf.logPath(id), whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		want := 0
		for want+1 < len(offsets) && offsets[want+1] <= int64(cut) {
			want++
		}
		var got int
		l, err := shelf.Open(id, func(at int64, e Entry) {
			if at != offsets[got] || e.At != start.Local().Add(time.Duration(got)*time.Second) && !e.At.Equal(start.Add(time.Duration(got)*time.Second)) {
				t.Errorf("cut at %d: entry %d is at %d, %v", cut, got, at, e.At)
			}
			got++
		})
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		if got != want {
			t.Fatalf("cut at %d: %d entries, want %d", cut, got, want)
		}
		at, err := l.Append(Entry{At: start.Add(time.Minute), What: Event, Body: []byte("the server came back")})
		if err != nil {
			t.Fatal(err)
		}
		if b, err := l.ReadBody(nil, at); err != nil || string(b) != "the server came back" {
			t.Fatalf("cut at %d: read back %q, %v", cut, b, err)
		}
		l.Close()
		if _, err := shelf.Seal(id); err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		b, err := os.ReadFile(shelf.CastPath(id))
		if err != nil || !strings.Contains(string(b), "the server came back") {
			t.Fatalf("cut at %d: recording %s, %v", cut, b, err)
		}
		r, err := asciicast.NewReader(bytes.NewReader(b))
		for err == nil {
			_, err = r.Next()
		}
		if err.Error() != "EOF" {
			t.Fatalf("cut at %d: play: %v", cut, err)
		}
	}
}

// A log that could not be written to takes no more, and keeps what it had.
func TestAppendFailure(t *testing.T) {
	shelf, id := newShelf(t), newID(t)
	l, err := shelf.Create(id)
	if err != nil {
		t.Fatal(err)
	}
	first, err := l.Append(Entry{At: start, What: Event, Body: []byte("before")})
	if err != nil {
		t.Fatal(err)
	}
	good := l.file
	readOnly, err := os.Open(shelf.logPath(id))
	if err != nil {
		t.Fatal(err)
	}
	l.file = readOnly // every write fails, as on a full disk
	if _, err := l.Append(Entry{At: start, What: Event, Body: []byte("lost")}); err == nil {
		t.Fatal("append to a file that takes no writes succeeded")
	}
	l.file = good
	if _, err := l.Append(Entry{At: start, What: Event, Body: []byte("after")}); err == nil {
		t.Error("a log that lost an entry took another")
	}
	if b, err := l.ReadBody(nil, first); err != nil || string(b) != "before" {
		t.Errorf("read back %q, %v", b, err)
	}
	readOnly.Close()
	l.Close()
}

func TestLogsAreTheirOwnersAlone(t *testing.T) {
	shelf, id := newShelf(t), newID(t)
	l, err := shelf.Create(id)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := shelf.Create(id); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second log for one session: %v", err)
	}
	other := sallyport.NewSessionID("bob")
	if err := os.Rename(shelf.logPath(id), shelf.logPath(other)); err != nil {
		t.Fatal(err)
	}
	if _, err := shelf.Open(other, func(int64, Entry) {}); err == nil {
		t.Error("another session's log was opened")
	}
}

// Whatever is in the file, opening it neither panics nor reads past a damage.
func FuzzOpen(f *testing.F) {
	id, err := sallyport.ParseSessionID("alice-0c4f1e9ab27d3355e")
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 'x'})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, tail []byte) {
		head := magic + id.String() + "\n"
		size, err := read(bytes.NewReader(append([]byte(head), tail...)), id, func(at int64, e Entry) {
			if at+entryHead+int64(len(e.Body)) > int64(len(head)+len(tail)) {
				t.Fatal("an entry that ends past the file")
			}
		})
		if err != nil || size < int64(len(head)) || size > int64(len(head)+len(tail)) {
			t.Fatalf("size %d, %v", size, err)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	for _, n := range []int{1 << 10, 32 << 10} {
		b.Run(fmt.Sprintf("%dKiB", n>>10), func(b *testing.B) {
			shelf, err := OpenShelf(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			l, err := shelf.Create(sallyport.NewSessionID("bench"))
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			e := Entry{At: start, What: NodeFrame, Body: make([]byte, n)}
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := l.Append(e); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
