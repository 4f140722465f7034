package wire

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	noted    = time.UnixMilli(1503434274948)
	worked   = time.UnixMilli(1700000000123)
	goldenID = mustID("dd01e56b-ff48-483e-a508-b5f073f31b16")
)

// Frames written by AWS's own encoders, and two worked out by hand from the
// layout, must mean the same thing to us, and we must write them byte for byte
// as they are. Each file says where it is from.
var golden = []struct {
	file    string
	frame   Frame // less its payload
	payload any   // bytes, or what they say as JSON
}{
	{"example_agent", Frame{Type: TypeInputStreamData, Created: worked, Seq: 7, Kind: KindOutput, ID: mustID("11223344-5566-4788-99aa-bbccddeeff00")}, []byte("ls\n")},
	{"example_client", Frame{Type: TypeInputStreamData, Created: worked, Seq: 7, Kind: KindOutput, ID: mustID("01234567-89ab-4cde-8f01-23456789abcd")}, []byte("ls\r")},

	{"agent_output_first", Frame{Type: TypeOutputStreamData, Created: noted, Flags: SYN, Kind: KindOutput, ID: goldenID}, []byte("$ ")},
	{"agent_output_later", Frame{Type: TypeOutputStreamData, Created: noted, Seq: 1<<40 + 3, Kind: KindOutput, ID: goldenID}, []byte("héllo\r\n")},
	{"agent_acknowledge", Frame{Type: TypeAcknowledge, Created: noted, Flags: Alone, ID: goldenID}, Ack{Type: TypeInputStreamData, ID: goldenID, Seq: 7}},
	{"agent_session_state", Frame{Type: TypeAgentSessionState, Created: noted, Flags: Alone, ID: goldenID},
		&AgentSessionState{SchemaVersion: 1, SessionState: "Connected", SessionId: "alice-0c4f1e9ab27d3355e"}},
	{"agent_channel_closed", Frame{Type: TypeChannelClosed, Created: noted, ID: goldenID}, &ChannelClosed{
		MessageType: "channel_closed", MessageId: goldenID.String(), DestinationId: "mi-0123456789abcdef0", SessionId: "alice-0c4f1e9ab27d3355e",
		SchemaVersion: 1, CreatedDate: "2017-08-22T20:37:54.948Z"}},
	{"agent_handshake_request", Frame{Type: TypeOutputStreamData, Created: noted, Flags: SYN, Kind: KindHandshakeRequest, ID: goldenID},
		&HandshakeRequest{AgentVersion: "3.3.1142.0", RequestedClientActions: []RequestedClientAction{
			{ActionSessionType, json.RawMessage(`{"SessionType":"Port","Properties":{"portNumber":"22","type":"LocalPortForwarding"}}`)},
			{ActionKMSEncryption, json.RawMessage(`{"KMSKeyId":"arn:aws:kms:home-1:123456789012:key/k","Challenge":"AAECAwQFBgcICQoLDA0ODw=="}`)},
		}}},
	{"agent_handshake_complete", Frame{Type: TypeOutputStreamData, Created: noted, Seq: 2, Kind: KindHandshakeComplete, ID: goldenID},
		&HandshakeComplete{HandshakeTimeToComplete: 123456789, CustomerMessage: "This session is encrypted using AWS KMS."}},
	{"agent_task_complete", Frame{Type: TypeAgentTaskComplete, Created: noted, ID: goldenID}, &AgentTaskComplete{
		SchemaVersion: 1, TaskId: "alice-0c4f1e9ab27d3355e", Topic: "agent_task_complete", FinalTaskStatus: "Success", InstanceId: "mi-0123456789abcdef0", RetryNumber: 1}},

	{"plugin_keystrokes", Frame{Type: TypeInputStreamData, Created: noted, Seq: 7, Kind: KindOutput, ID: goldenID}, []byte("ls\r")},
	{"plugin_size", Frame{Type: TypeInputStreamData, Created: noted, Kind: KindSize, ID: goldenID}, &Size{Cols: 120, Rows: 40}},
	{"plugin_terminate_flag", Frame{Type: TypeInputStreamData, Created: noted, Seq: 3, Kind: KindFlag, ID: goldenID}, FlagTerminateSession.Payload()},
	{"plugin_handshake_response", Frame{Type: TypeInputStreamData, Created: noted, Kind: KindHandshakeResponse, ID: goldenID},
		&HandshakeResponse{ClientVersion: "1.2.677.0", ProcessedClientActions: []ProcessedClientAction{
			{ActionType: ActionSessionType, ActionStatus: ActionSuccess, ActionResult: json.RawMessage("null")},
			{ActionType: ActionKMSEncryption, ActionStatus: ActionSuccess, ActionResult: json.RawMessage(`{"KMSCipherTextKey":"c2VhbGVk","KMSCipherTextHash":null}`)},
		}}},
	{"plugin_acknowledge", Frame{Type: TypeAcknowledge, Created: time.UnixMilli(0x1a207b480a3), Flags: Alone, ID: mustID("48683e3d-6023-427c-b362-2708f4d0637d")},
		Ack{Type: TypeOutputStreamData, ID: goldenID, Seq: 4}},
}

// What npm's ssm-session writes: types padded with NULs on the left, and for a
// digest its first 32 hex digits. Both are read where AWS's agent reads them.
func TestDecodeInput(t *testing.T) {
	for name, want := range map[string]struct {
		head    Head
		payload string
	}{
		"size":       {Head{Type: TypeInputStreamData, Flags: SYN, Kind: KindSize, Payload: Overhead}, `{"cols":120,"rows":40}`},
		"keystrokes": {Head{Type: TypeInputStreamData, Seq: 1, Kind: KindOutput, Payload: Overhead}, "ls -l\r"},
	} {
		b := readFrame(t, "testdata/npm/"+name+".hex")
		h, err := Peek(b)
		want.head.ID = h.ID // a random one
		if err != nil || h != want.head {
			t.Errorf("%s: Peek = %+v, %v, want %+v", name, h, err, want.head)
		}
		f, err := DecodeInput(b)
		if err != nil || f.Type != want.head.Type || string(f.Payload) != want.payload {
			t.Errorf("%s: DecodeInput = %+v, %v", name, f, err)
		}
		if _, err := Decode(b); !errors.Is(err, ErrDigest) {
			t.Errorf("%s: Decode: %v, want %v", name, err, ErrDigest)
		}
		ours, err := Frame{Type: f.Type, Payload: f.Payload, Checksum: true}.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		ours[len(ours)-1]++
		if _, err := DecodeInput(ours); !errors.Is(err, ErrDigest) {
			t.Errorf("%s: a checksum that is wrong: %v, want %v", name, err, ErrDigest)
		}
	}
	b := readFrame(t, "testdata/npm/acknowledge.hex")
	h, err := Peek(b)
	if err != nil || h.Type != TypeAcknowledge {
		t.Fatalf("acknowledge: Peek = %+v, %v", h, err)
	}
	if a, err := ReadAck(b[h.Payload:]); err != nil || a.Type != TypeOutputStreamData || a.Seq != 3 {
		t.Errorf("ReadAck = %+v, %v", a, err)
	}
}

func TestGolden(t *testing.T) {
	if names := goldenFiles(t); len(names) != len(golden) {
		t.Errorf("%d files in testdata, %d tested", len(names), len(golden))
	}
	for _, tt := range golden {
		t.Run(tt.file, func(t *testing.T) {
			b := readFrame(t, "testdata/"+tt.file+".hex")
			got, err := Decode(b)
			if err != nil {
				t.Fatal(err)
			}
			want := tt.frame
			want.Payload = got.Payload
			if !reflect.DeepEqual(got, want) {
				t.Errorf("Decode:\n got %+v\nwant %+v", got, want)
			}
			if again, err := got.AppendBinary(nil); err != nil || !bytes.Equal(again, b) {
				t.Errorf("AppendBinary: err = %v\n got %x\nwant %x", err, again, b)
			}
			h, err := Peek(b)
			if want := (Head{got.Type, got.Seq, got.Flags, got.ID, got.Kind, Overhead}); err != nil || h != want {
				t.Errorf("Peek = %+v, %v, want %+v", h, err, want)
			}

			switch want := tt.payload.(type) {
			case []byte:
				if !bytes.Equal(got.Payload, want) {
					t.Errorf("payload %q, want %q", got.Payload, want)
				}
			case Ack:
				if a, ok := scanAck(got.Payload); !ok || a != want {
					t.Errorf("scanAck = %+v, %v, want %+v", a, ok, want)
				}
				if b := want.AppendJSON(nil); !bytes.Equal(b, got.Payload) {
					t.Errorf("AppendJSON:\n got %s\nwant %s", b, got.Payload)
				}
			default:
				v := reflect.New(reflect.TypeOf(want).Elem()).Interface()
				if err := got.Unmarshal(v); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, v); diff != "" {
					t.Errorf("payload (-want +got):\n%s", diff)
				}
				sameJSON(t, got.Payload, want)
			}
		})
	}
}

// sameJSON checks that v is written with the members theirs has, and no other.
func sameJSON(t *testing.T, theirs []byte, v any) {
	t.Helper()
	ours, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var a, b any
	if err := errors.Join(json.Unmarshal(theirs, &a), json.Unmarshal(ours, &b)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(a, b); diff != "" {
		t.Errorf("written (-theirs +ours):\n%s", diff)
	}
}

func TestDecodeAccepts(t *testing.T) {
	whole := readFrame(t, "testdata/agent_channel_closed.hex")
	closed, err := Decode(whole)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		b    []byte
		want Frame
	}{
		{"a type padded with NULs", append(append(bytes.Clone(whole[:4]), bytes.ReplaceAll(whole[4:36], []byte(" "), []byte{0})...), whole[36:]...), closed},
		{"a type padded with both", edit(whole, func(b []byte) { b[35] = 0 }), closed},
		{"a header without a payload type", short(whole), closed},
		{"a header without a payload type, and no payload", short(encode(t, Frame{Type: TypePausePublication, Created: noted})), Frame{Type: TypePausePublication, Created: noted, Payload: []byte{}}},
		{"no payload", encode(t, Frame{Type: TypePausePublication, Created: noted}), Frame{Type: TypePausePublication, Created: noted, Payload: []byte{}}},
		{"a type it has not heard of", encode(t, Frame{Type: "make_tea", Created: noted, Payload: []byte("x")}), Frame{Type: "make_tea", Created: noted, Payload: []byte("x")}},
		{"a type as long as there is room for", encode(t, Frame{Type: "abcdefghijklmnopqrstuvwxyz012345", Created: noted}), Frame{Type: "abcdefghijklmnopqrstuvwxyz012345", Created: noted, Payload: []byte{}}},
		{"the most a frame may carry", encode(t, Frame{Type: "x", Created: noted, Payload: make([]byte, MaxPayload)}), Frame{Type: "x", Created: noted, Payload: make([]byte, MaxPayload)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Decode(tt.b)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("Decode:\n got %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	tests := []struct {
		name string
		harm func([]byte) []byte
		want error
	}{
		{"nothing", func(b []byte) []byte { return nil }, ErrShort},
		{"half a header", func(b []byte) []byte { return b[:60] }, ErrShort},
		{"no payload length", func(b []byte) []byte { return b[:117] }, ErrShort},
		{"a short header without its payload length", func(b []byte) []byte { return short(b)[:113] }, ErrShort},
		{"header length past the end", func(b []byte) []byte { be.PutUint32(b, 500); return b }, ErrHeader},
		{"header length that wraps", func(b []byte) []byte { be.PutUint32(b, 1<<32-1); return b }, ErrHeader},
		{"header length between the two there are", func(b []byte) []byte { be.PutUint32(b, 114); return b }, ErrHeader},
		{"JSON where a frame was due", func([]byte) []byte {
			return []byte(`{"MessageSchemaVersion":"1.0","RequestId":"` + strings.Repeat("x", 120) + `"}`)
		}, ErrHeader},
		{"another schema", func(b []byte) []byte { b[39] = 2; return b }, ErrHeader},
		{"no type", func(b []byte) []byte { copy(b[4:], spaces); return b }, ErrHeader},
		{"a type with a gap", func(b []byte) []byte { b[6] = ' '; return b }, ErrHeader},
		{"a type that would write on a terminal", func(b []byte) []byte { b[6] = 0x1b; return b }, ErrHeader},
		{"payload cut short", func(b []byte) []byte { return b[:len(b)-1] }, ErrLength},
		{"payload with a tail", func(b []byte) []byte { return append(b, '!') }, ErrLength},
		{"payload length that wraps", func(b []byte) []byte { be.PutUint32(b[116:], 1<<32-1); return b }, ErrLength},
		{"payload too long", func(b []byte) []byte {
			b = append(b[:Overhead], make([]byte, MaxPayload+1)...)
			be.PutUint32(b[116:], MaxPayload+1)
			return b
		}, ErrTooLong},
		{"payload altered", func(b []byte) []byte { b[120] ^= 1; return b }, ErrDigest},
		{"digest altered", func(b []byte) []byte { b[80] ^= 1; return b }, ErrDigest},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := tt.harm(readFrame(t, "testdata/plugin_keystrokes.hex"))
			if _, err := Decode(b); !errors.Is(err, tt.want) {
				t.Errorf("Decode = %v, want %v", err, tt.want)
			}
			// A relay refuses the same, but for what only the ends can check.
			if _, err := Peek(b); errors.Is(err, tt.want) == (tt.want == ErrDigest) {
				t.Errorf("Peek = %v, want %v", err, tt.want)
			}
		})
	}
}

func TestAppendBinaryRefuses(t *testing.T) {
	for name, f := range map[string]Frame{
		"no type":          {},
		"a type too long":  {Type: "abcdefghijklmnopqrstuvwxyz0123456"},
		"a type with ends": {Type: " x"},
	} {
		if b, err := f.AppendBinary([]byte("kept")); !errors.Is(err, ErrHeader) || string(b) != "kept" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	if _, err := (Frame{Type: "x", Payload: make([]byte, MaxPayload+1)}).AppendBinary(nil); !errors.Is(err, ErrTooLong) {
		t.Errorf("payload too long: %v", err)
	}
}

func TestID(t *testing.T) {
	id := NewID()
	if s := id.String(); len(s) != 36 || s[14] != '4' || !strings.ContainsRune("89ab", rune(s[19])) {
		t.Errorf("NewID() = %s, which is no UUID of version 4", s)
	}
	if back, err := ParseID(strings.ToUpper(id.String())); back != id || err != nil {
		t.Errorf("ParseID(%s) = %s, %v", id, back, err)
	}
	for _, s := range []string{"", "x", "dd01e56bff48483ea508b5f073f31b16", "dd01e56b-ff48-483e-a508-b5f073f31b1", "dd01e56b-ff48-483e-a508-b5f073f31b1g", "dd01e56bf-f48-483e-a508-b5f073f31b16"} {
		if _, err := ParseID(s); err == nil {
			t.Errorf("ParseID(%q) took it", s)
		}
	}
}

// The relay reads the header of every frame and the payload of every
// acknowledgement; the ends write into memory they have.
func TestAllocations(t *testing.T) {
	names := goldenFiles(t)
	if len(names) == 0 {
		t.Fatal("no frames in testdata")
	}
	for _, name := range names {
		b := readFrame(t, name)
		var h Head
		if n := testing.AllocsPerRun(100, func() { h, _ = Peek(b) }); n != 0 {
			t.Errorf("%s: Peek allocates %v times", name, n)
		}
		f, err := Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		if n := testing.AllocsPerRun(100, func() { Decode(b) }); n != 0 {
			t.Errorf("%s: Decode allocates %v times", name, n)
		}
		buf := make([]byte, 0, len(b))
		if n := testing.AllocsPerRun(100, func() { f.AppendBinary(buf) }); n != 0 {
			t.Errorf("%s: AppendBinary allocates %v times", name, n)
		}
		if h.Type != TypeAcknowledge {
			continue
		}
		if n := testing.AllocsPerRun(100, func() { ReadAck(b[h.Payload:]) }); n != 0 {
			t.Errorf("%s: ReadAck allocates %v times", name, n)
		}
	}
	unknown := encode(t, Frame{Type: "make_tea"})
	if n := testing.AllocsPerRun(100, func() { Peek(unknown) }); n != 0 {
		t.Errorf("a type unknown: Peek allocates %v times", n)
	}
}

// A frame that can be written is read back as it was.
func FuzzRoundTrip(f *testing.F) {
	f.Add("input_stream_data", int64(1503434274948), int64(7), uint64(0), uint32(1), []byte("ls\r"))
	f.Add("acknowledge", int64(0), int64(-1), uint64(3), uint32(0), []byte{})
	f.Fuzz(func(t *testing.T, typ string, created, seq int64, flags uint64, kind uint32, payload []byte) {
		want := Frame{Type: Type(typ), Created: time.UnixMilli(created), Seq: seq, Flags: Flags(flags), ID: NewID(), Kind: Kind(kind), Payload: payload}
		b, err := want.AppendBinary(nil)
		if err != nil {
			return // not a frame we would write
		}
		got, err := Decode(b)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("Decode: err = %v\n got %+v\nwant %+v", err, got, want)
		}
	})
}

// A checksum finds what a digest finds, between ends that have agreed on it; for
// another end a digest can be made of it.
func TestChecksum(t *testing.T) {
	for _, payload := range []string{"", "x", strings.Repeat("bytes ", 5000)} {
		f := NewFrame(TypeOutputStreamData, []byte(payload), time.UnixMilli(1))
		f.Kind, f.Checksum = KindOutput, true
		b, err := f.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(b)
		if err != nil || !HasChecksum(b) || !got.Checksum || string(got.Payload) != payload {
			t.Errorf("read %+v, %v", got, err)
		}
		for i := digestAt; i < len(b); i++ {
			if i == digestEnd {
				i = Overhead
				if len(payload) == 0 {
					break
				}
			}
			b[i] ^= 0x10
			if _, err := Decode(b); !errors.Is(err, ErrDigest) {
				t.Fatalf("with byte %d altered: %v", i, err)
			}
			b[i] ^= 0x10
		}
		h, err := Peek(b)
		if err != nil {
			t.Fatal(err)
		}
		Digest(b, h)
		f.Checksum = false
		if want, err := f.AppendBinary(nil); err != nil || !bytes.Equal(b, want) || HasChecksum(b) {
			t.Errorf("made into %x, want %x", b[:Overhead], want[:Overhead])
		}
	}
}

func FuzzDecode(f *testing.F) {
	names := goldenFiles(f)
	if len(names) == 0 {
		f.Fatal("no seeds in testdata") // an empty corpus passes, and says nothing
	}
	for _, name := range names {
		f.Add(readFrame(f, name))
		f.Add(short(readFrame(f, name)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, err := Decode(b)
		h, perr := Peek(b)
		if err == nil && perr != nil || perr == nil && err != nil && !errors.Is(err, ErrDigest) {
			t.Fatalf("Decode: %v, but Peek: %v", err, perr)
		}
		if perr == nil && h.Payload > len(b) {
			t.Fatalf("payload at %d of %d", h.Payload, len(b))
		}
		if err != nil {
			return
		}
		if !bytes.Equal(frame.Payload, b[h.Payload:]) || h.Seq != frame.Seq || h.ID != frame.ID || h.Type != "" && h.Type != frame.Type {
			t.Fatalf("Decode: %+v, but Peek: %+v", frame, h)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	frame := readFrame(b, "testdata/agent_output_later.hex")
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(frame); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPeek(b *testing.B) {
	frame := readFrame(b, "testdata/agent_output_later.hex")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Peek(frame); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadAck(b *testing.B) {
	payload := readFrame(b, "testdata/agent_acknowledge.hex")[Overhead:]
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ReadAck(payload); err != nil {
			b.Fatal(err)
		}
	}
}

// short rewrites a frame as a service does that leaves the payload type out.
func short(b []byte) []byte {
	out := append(bytes.Clone(b[:112]), b[116:]...)
	be.PutUint32(out, shortHeader)
	return out
}

func edit(b []byte, harm func([]byte)) []byte {
	b = bytes.Clone(b)
	harm(b)
	return b
}

func encode(t testing.TB, f Frame) []byte {
	t.Helper()
	b, err := f.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func goldenFiles(t testing.TB) []string {
	t.Helper()
	names, err := filepath.Glob("testdata/*.hex")
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// readFrame reads a hex dump, skipping blank space and lines that begin "#".
func readFrame(t testing.TB, name string) []byte {
	t.Helper()
	file, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var digits strings.Builder
	for sc := bufio.NewScanner(bytes.NewReader(file)); sc.Scan(); {
		if !strings.HasPrefix(sc.Text(), "#") {
			digits.WriteString(strings.ReplaceAll(sc.Text(), " ", ""))
		}
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustID(s string) ID {
	id, err := ParseID(s)
	if err != nil {
		panic(err)
	}
	return id
}
