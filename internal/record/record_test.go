package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
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
	s, err := OpenShelf(nil, filepath.Join(t.TempDir(), "sessions"))
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

// A recording ends with why its session ended and with which status, as the log's
// latest fate says: printable, and at the time of the end.
func TestEndMarker(t *testing.T) {
	for body, want := range map[string]string{
		`{"State":"Terminated","EndSeq":-1}`:                         "",
		`{"Cause":"Terminated by ann."}`:                             `[2.000000,"m","ended: Terminated by ann."]`,
		`{"ExitStatus":0}`:                                           `[2.000000,"m","ended with status 0"]`,
		`{"Cause":"It \u001b[31mcould\u202e not.","ExitStatus":126}`: `[2.000000,"m","ended with status 126: It ` + sallyport.Printable("\x1b[31mcould\u202e") + ` not."]`,
		`nothing`: "",
	} {
		for _, last := range []bool{false, true} { // over the reserve
			for _, alone := range []bool{false, true} {
				shelf, id := newShelf(t), newID(t)
				l, err := shelf.Create(id)
				if err != nil {
					t.Fatal(err)
				}
				if !alone {
					_, err = l.Append(Entry{At: start, What: PersonJoined})
				}
				e := Entry{At: start.Add(2 * time.Second), What: Fate, Body: []byte(body)}
				if last {
					err = errors.Join(err, l.AppendLast(e))
					e.At, e.Body = start, []byte(`{"Cause":"an earlier one"}`)
				}
				if _, aerr := l.Append(e); errors.Join(err, aerr) != nil {
					t.Fatal(err, aerr)
				}
				l.Close()
				if _, err := shelf.Seal(id); err != nil {
					t.Fatal(err)
				}
				b, err := os.ReadFile(shelf.CastPath(id))
				if err != nil {
					t.Fatal(err)
				}
				lines := strings.Split(strings.TrimSpace(string(b)), "\n")
				got, want := lines[len(lines)-1], want
				if alone {
					want = strings.Replace(want, "2.0", "0.0", 1)
				}
				if want == "" && strings.Contains(got, "ended") || want != "" && got != want {
					t.Errorf("%s, over the reserve: %v, alone: %v: the recording ends with %s", body, last, alone, got)
				}
			}
		}
	}
}

// The last entry takes the place of the reserve, the later of two counts, and it
// can be written once the log was opened again. What is appended besides, and when
// that was, is as before; one that was torn by a power cut is not read.
func TestAppendLast(t *testing.T) {
	shelf, id := newShelf(t), newID(t)
	l, err := shelf.Create(id)
	if err != nil {
		t.Fatal(err)
	}
	offsets := life(t, l)
	size := l.Size()
	last := func(l *Log, body string) {
		t.Helper()
		if err := l.AppendLast(Entry{At: start.Add(time.Hour), What: Fate, Body: []byte(body)}); err != nil {
			t.Fatal(err)
		}
	}
	last(l, `{"a":1}`)
	last(l, `{}`)
	l.Close()
	open := func() (l *Log, fates []string, others int) {
		l, err := shelf.Open(id, func(_ int64, e Entry) {
			if e.What == Fate {
				fates = append(fates, strings.TrimSpace(string(e.Body)))
			} else {
				others++
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		return l, fates, others
	}
	l, fates, others := open()
	if !slices.Equal(fates, []string{"{}"}) || others != len(offsets) || l.Size() != size {
		t.Errorf("read %q and %d others in %d bytes, want %d in %d", fates, others, l.Size(), len(offsets), size)
	}
	last(l, `{"b":2}`)
	if err := l.AppendLast(Entry{What: Fate, Body: make([]byte, ReserveSize+1)}); err == nil {
		t.Error("a body that is too long was taken")
	}
	l.Close()
	if _, fates, _ := open(); !slices.Equal(fates, []string{`{"b":2}`}) {
		t.Errorf("read %q", fates)
	}
	if _, err := shelf.Seal(id); err != nil {
		t.Fatal(err)
	}
	cast, err := os.ReadFile(shelf.CastPath(id))
	if err != nil || !strings.Contains(string(cast), fmt.Sprintf(`"timestamp":%d`, start.Unix())) && !strings.Contains(string(cast), fmt.Sprintf(`"timestamp": %d`, start.Unix())) {
		t.Errorf("the recording does not begin at %d: %.200s, %v", start.Unix(), cast, err)
	}

	b, err := os.ReadFile(shelf.logPath(id))
	if err != nil {
		t.Fatal(err)
	}
	b[int(headSize(id, l.salt))+100]++
	if err := os.WriteFile(shelf.logPath(id), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, fates, others := open(); len(fates) != 0 || others != len(offsets) {
		t.Errorf("with a torn one: read %q and %d others", fates, others)
	}
}

// A log of a server before this one has no reserve, and says so.
func TestNoReserve(t *testing.T) {
	shelf, id := newShelf(t), newID(t)
	if err := os.WriteFile(shelf.logPath(id), []byte(magic+id.String()+"\n"+strings.Repeat("s", saltSize)), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := shelf.Open(id, func(int64, Entry) { t.Error("an entry") })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.AppendLast(Entry{What: Fate, Body: []byte("{}")}); !errors.Is(err, ErrNoReserve) {
		t.Errorf("%v", err)
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

// For every content of the file, opening it neither panics nor fails to read on
// behind a damage.
func FuzzOpen(f *testing.F) {
	id, err := sallyport.ParseSessionID("alice-0c4f1e9ab27d3355e")
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 'x'})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1})
	reserve := appendEntry(nil, []byte(strings.Repeat("s", saltSize)), Entry{What: Reserve, Body: make([]byte, ReserveSize)})
	f.Add(reserve)
	f.Add(reserve[:len(reserve)-1])
	f.Add(appendEntry(slices.Clone(reserve[:20]), nil, Entry{What: Fate, Body: make([]byte, ReserveSize)}))
	f.Fuzz(func(t *testing.T, tail []byte) {
		head := magic + id.String() + "\n" + strings.Repeat("s", saltSize)
		_, size, unread, err := read(bytes.NewReader(append([]byte(head), tail...)), id, func(at int64, e Entry) {
			if e.What != Unread && at+entryHead+int64(len(e.Body)) > int64(len(head)+len(tail)) {
				t.Fatal("an entry that ends past the file")
			}
		})
		if err != nil || size < int64(len(head)) || size > int64(len(head)+len(tail)) || unread < 0 || unread > int64(len(tail)) {
			t.Fatalf("size %d, %d unread, %v", size, unread, err)
		}
	})
}

// said is what a node says as message seq.
func said(t *testing.T, seq int64, text string) []byte {
	return frame(t, wire.TypeOutputStreamData, seq, wire.KindOutput, text)
}

// A bit that flips anywhere in a log costs the entry it is in and no other, and
// the recording says so. What was damaged is kept.
func TestDamage(t *testing.T) {
	shelf, id := newShelf(t), newID(t)
	l, err := shelf.Create(id)
	if err != nil {
		t.Fatal(err)
	}
	var offsets []int64
	for i := range int64(10) {
		at, err := l.Append(Entry{At: start.Add(time.Duration(i) * time.Second), What: NodeFrame, Body: said(t, i, fmt.Sprintf("said-%d ", i))})
		if err != nil {
			t.Fatal(err)
		}
		offsets = append(offsets, at)
	}
	l.Close()
	whole, err := os.ReadFile(shelf.logPath(id))
	if err != nil {
		t.Fatal(err)
	}
	for at := offsets[3]; at < offsets[4]; at++ {
		flipped := bytes.Clone(whole)
		flipped[at] ^= 1 << (at % 8)
		if err := os.WriteFile(shelf.logPath(id), flipped, 0o600); err != nil {
			t.Fatal(err)
		}
		sealed, err := shelf.Seal(id)
		if err != nil || sealed.Unread != offsets[4]-offsets[3] {
			t.Fatalf("byte %d: %d bytes unread, %v", at-offsets[3], sealed.Unread, err)
		}
		cast, err := os.ReadFile(shelf.CastPath(id))
		if err != nil {
			t.Fatal(err)
		}
		for i := range 10 {
			if got := strings.Contains(string(cast), fmt.Sprintf("said-%d ", i)); got != (i != 3) {
				t.Fatalf("byte %d: message %d is in the recording: %v\n%s", at-offsets[3], i, got, cast)
			}
		}
		if !strings.Contains(string(cast), "log are damaged") || !strings.Contains(string(cast), "1 messages of the node are missing here") {
			t.Fatalf("the recording does not say that some is missing:\n%s", cast)
		}
		if err := shelf.Discard(id, sealed); err != nil {
			t.Fatal(err)
		}
		kept, err := os.ReadFile(filepath.Join(shelf.dir, id.String()+damaged))
		if err != nil || !bytes.Equal(kept, flipped) {
			t.Fatalf("the damaged log is not kept: %v", err)
		}
	}

	// What a node says is no entry, even where an entry is looked for.
	forged := binary.BigEndian.AppendUint32(nil, 4)
	forged = binary.BigEndian.AppendUint32(forged, 0)
	forged = binary.BigEndian.AppendUint64(forged, uint64(start.UnixNano()))
	forged = append(append(forged, byte(Event)), "fake"...)
	binary.BigEndian.PutUint32(forged[4:], checksum(nil, forged[8:]))
	if l, err = shelf.Create(id); err != nil {
		t.Fatal(err)
	}
	at, err := l.Append(Entry{At: start, What: NodeFrame, Body: said(t, 0, string(forged))})
	if err != nil {
		t.Fatal(err)
	}
	l.Append(Entry{At: start, What: Event, Body: []byte("true")})
	l.Close()
	b, err := os.ReadFile(shelf.logPath(id))
	if err != nil {
		t.Fatal(err)
	}
	b[at] ^= 0x80 // its length
	if err := os.WriteFile(shelf.logPath(id), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := shelf.Seal(id); err != nil {
		t.Fatal(err)
	}
	cast, err := os.ReadFile(shelf.CastPath(id))
	if err != nil || strings.Contains(string(cast), "fake") || !strings.Contains(string(cast), "true") {
		t.Errorf("%s, %v", cast, err)
	}
}

// A log of a server from before logs had a salt is read, and sealed.
func TestLogWithoutSalt(t *testing.T) {
	shelf, id := newShelf(t), newID(t)
	head := magicBare + id.String() + "\n"
	if err := os.WriteFile(shelf.logPath(id), []byte(head), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := shelf.Open(id, func(int64, Entry) {})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(Entry{At: start, What: Event, Body: []byte("of before")}); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if _, err := shelf.Seal(id); err != nil {
		t.Fatal(err)
	}
	if cast, err := os.ReadFile(shelf.CastPath(id)); err != nil || !strings.Contains(string(cast), "of before") {
		t.Errorf("%s, %v", cast, err)
	}
}

// A log whose first message is missing is sealed in little memory, however much
// follows.
func TestMissingMessage(t *testing.T) {
	shelf, id := newShelf(t), newID(t)
	l, err := shelf.Create(id)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("x", 60<<10)
	const n = 1000
	for i := range int64(n) {
		if _, err := l.Append(Entry{At: start, What: NodeFrame, Body: said(t, i+1, text)}); err != nil {
			t.Fatal(err)
		}
	}
	l.Close()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	tr := transcription{early: map[int64]int64{}, cast: asciicast.NewWriter(io.Discard, asciicast.Header{})}
	f, err := os.Open(shelf.logPath(id))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tr.f = f
	if tr.salt, _, _, err = read(f, id, tr.entry); err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if len(tr.early) != n {
		t.Fatalf("%d messages wait", len(tr.early))
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 8<<20 {
		t.Errorf("%d messages of 60 KiB that wait take %d bytes", n, grown)
	}
	if _, err := shelf.Seal(id); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(shelf.CastPath(id))
	if err != nil || info.Size() < n*60<<10 {
		t.Errorf("the recording has %d bytes, %v", info.Size(), err)
	}
}

// A recording that a killed server was making is removed, and a flow has no
// screen.
func TestShelfIsTidy(t *testing.T) {
	shelf, id := newShelf(t), newID(t)
	left := filepath.Join(shelf.dir, unfinished+"1")
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	shelf, err := OpenShelf(nil, shelf.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer shelf.Close()
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	l, err := shelf.Create(id)
	if err != nil {
		t.Fatal(err)
	}
	l.Append(Entry{At: start, What: Flow})
	l.Append(Entry{At: start, What: NodeFrame, Body: said(t, 0, "of a file")})
	l.Append(Entry{At: start, What: Event, Body: []byte("9 bytes")})
	l.Close()
	if _, err := shelf.Seal(id); err != nil {
		t.Fatal(err)
	}
	if cast, err := os.ReadFile(shelf.CastPath(id)); err != nil || strings.Contains(string(cast), "of a file") || !strings.Contains(string(cast), "9 bytes") {
		t.Errorf("%s, %v", cast, err)
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, n := range []int{1 << 10, 32 << 10} {
		b.Run(fmt.Sprintf("%dKiB", n>>10), func(b *testing.B) {
			shelf, err := OpenShelf(nil, b.TempDir())
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
