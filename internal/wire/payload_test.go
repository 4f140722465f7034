package wire

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport"
)

func TestReadAck(t *testing.T) {
	tests := []struct {
		name    string
		payload string
		want    Ack
		slow    bool // not as anyone writes it
	}{
		{"as AWS's programs write it", `{"AcknowledgedMessageType":"input_stream_data","AcknowledgedMessageId":"dd01e56b-ff48-483e-a508-b5f073f31b16","AcknowledgedMessageSequenceNumber":7,"IsSequentialMessage":true}`,
			Ack{Type: TypeInputStreamData, ID: goldenID, Seq: 7}, false},
		{"with blank space", ` { "AcknowledgedMessageSequenceNumber" : 7 , "IsSequentialMessage" : false } `, Ack{Seq: 7}, false},
		{"of many, with credit", `{"AcknowledgedMessageSequenceNumber":-1,"Through":true,"Window":4194304}`, Ack{Seq: -1, Through: true, Window: 4 << 20}, false},
		{"without an ID that is one", `{"AcknowledgedMessageId":"x","AcknowledgedMessageSequenceNumber":0}`, Ack{}, false},
		{"of a type unheard of", `{"AcknowledgedMessageType":"make_tea","AcknowledgedMessageSequenceNumber":1}`, Ack{Seq: 1}, false},
		{"with other members", `{"a":[1,{"b":null}],"AcknowledgedMessageSequenceNumber":7}`, Ack{Seq: 7}, true},
		{"in another case", `{"acknowledgedmessagesequencenumber":7}`, Ack{Seq: 7}, true},
		{"with escapes", `{"\u0041cknowledgedMessageSequenceNumber":7}`, Ack{Seq: 7}, true},
		{"with the number as text", `{"AcknowledgedMessageSequenceNumber":"7"}`, Ack{Seq: 7}, true},
		{"with nulls", `{"AcknowledgedMessageType":null,"AcknowledgedMessageSequenceNumber":7,"Through":null}`, Ack{Seq: 7}, true},
		{"with the largest number", `{"AcknowledgedMessageSequenceNumber":9223372036854775807}`, Ack{Seq: 1<<63 - 1}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := ReadAck([]byte(tt.payload)); err != nil || got != tt.want {
				t.Errorf("ReadAck = %+v, %v, want %+v", got, err, tt.want)
			}
			if _, fast := scanAck([]byte(tt.payload)); fast == tt.slow {
				t.Errorf("read by scanAck: %v, want %v", fast, !tt.slow)
			}
		})
	}
}

func TestReadAckRefuses(t *testing.T) {
	for name, payload := range map[string]string{
		"nothing":                 ``,
		"an empty object":         `{}`,
		"no number":               `{"IsSequentialMessage":true}`,
		"a null for a number":     `{"AcknowledgedMessageSequenceNumber":null}`,
		"a number cut in two":     `{"AcknowledgedMessageSequenceNumber":7.5}`,
		"a number too large":      `{"AcknowledgedMessageSequenceNumber":9223372036854775808}`,
		"a number with a nought":  `{"AcknowledgedMessageSequenceNumber":07}`,
		"a tail":                  `{"AcknowledgedMessageSequenceNumber":7}x`,
		"a NUL for a tail":        "{\"AcknowledgedMessageSequenceNumber\":7}\x00",
		"a comma too many":        `{"AcknowledgedMessageSequenceNumber":7,}`,
		"no end":                  `{"AcknowledgedMessageSequenceNumber":7`,
		"a list":                  `[7]`,
		"text for a truth":        `{"AcknowledgedMessageSequenceNumber":7,"Through":"true"}`,
		"text that does not end":  `{"AcknowledgedMessageType":"inp`,
		"a minus and no number":   `{"AcknowledgedMessageSequenceNumber":-}`,
		"a number twice":          `{"AcknowledgedMessageSequenceNumber":7,"AcknowledgedMessageSequenceNumber":8}`,
		"a number in two cases":   `{"AcknowledgedMessageSequenceNumber":7,"acknowledgedMessageSequenceNumber":8}`,
		"objects without measure": strings.Repeat(`{"a":`, 20_000),
	} {
		if a, err := ReadAck([]byte(payload)); err == nil {
			t.Errorf("%s: ReadAck took it for %+v", name, a)
		}
	}
}

// Reading quickly and reading correctly must be the same thing.
func FuzzReadAck(f *testing.F) {
	f.Add([]byte(`{"AcknowledgedMessageType":"input_stream_data","AcknowledgedMessageId":"dd01e56b-ff48-483e-a508-b5f073f31b16","AcknowledgedMessageSequenceNumber":7,"IsSequentialMessage":true}`))
	f.Add(Ack{Type: TypeOutputStreamData, ID: goldenID, Seq: -1, Through: true, Window: 1 << 40}.AppendJSON(nil))
	f.Add([]byte(`{"AcknowledgedMessageSequenceNumber":1,"AcknowledgedMessageSequenceNumber":2,"Window":-0}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		fast, ok := scanAck(b)
		if !ok {
			ReadAck(b)
			return
		}
		// An unknown member in front has ReadAck decode it as JSON, which is slower.
		slow, err := ReadAck(append([]byte(`{"slow":0,`), b[strings.IndexByte(string(b), '{')+1:]...))
		if err != nil || slow != fast {
			t.Fatalf("scanAck = %+v, encoding/json = %+v, %v", fast, slow, err)
		}
	})
}

func TestOpenDataChannel(t *testing.T) {
	// What the agent, the plugin from 1.2.677 on, older clients and we send.
	for _, s := range []string{
		`{"MessageSchemaVersion":"1.0","RequestId":"r","TokenValue":"opaque","ClientInstanceId":"mi-0123456789abcdef0","ClientId":""}`,
		`{"MessageSchemaVersion":"1.0","RequestId":"r","TokenValue":"opaque","ClientId":"c","ClientVersion":"1.2.804.0"}`,
		`{"MessageSchemaVersion":"1.0","RequestId":"r","TokenValue":"opaque","ClientId":"c","ClientVersion":"1.2.900.0","Capabilities":["big-frames","ack-through"]}`,
	} {
		var p OpenDataChannel
		if err := json.Unmarshal([]byte(s), &p); err != nil {
			t.Fatal(err)
		}
		if b, err := json.Marshal(p); err != nil || string(b) != s {
			t.Errorf("written again: %v\n got %s\nwant %s", err, b, s)
		}
		if !p.TokenValue.Equal(sallyport.NewSecret("opaque")) {
			t.Error("the token is another")
		}
		if s := fmt.Sprintf("%v %+v %#v", p, p, p); strings.Contains(s, "opaque") {
			t.Errorf("the token shows: %s", s)
		}
	}
	var p OpenDataChannel
	if err := json.Unmarshal([]byte(`{"MessageSchemaVersion":"1.0","RequestId":"r","TokenValue":"opaque"}`), &p); err != nil || p.ClientId != "" {
		t.Errorf("three members: %+v, %v", p, err)
	}
}

func TestInteractiveShell(t *testing.T) {
	want := AgentTaskPayload{
		SessionId: "alice-0c4f1e9ab27d3355e", DocumentName: "SSM-SessionManagerRunShell", SessionOwner: "arn:aws:iam::123456789012:user/alice",
		Parameters: map[string]any{"portNumber": "22"},
		DocumentContent: SessionDocument{SchemaVersion: "1.0", SessionType: "Standard_Stream", Inputs: SessionInputs{
			S3EncryptionEnabled: true, ShellProfile: ShellProfile{Linux: "exec bash"}}},
	}
	f, err := want.Frame(noted)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadAgentTask(f.Payload)
	if err != nil {
		t.Fatal(err)
	}
	want.DocumentContent.Properties = json.RawMessage("null")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-sent +read):\n%s", diff)
	}
	if !strings.Contains(string(f.Payload), `\"cloudWatchStreamingEnabled\":false`) {
		t.Errorf("cloudWatchStreamingEnabled must be a bool: %s", f.Payload)
	}
}

// Documents written by hand reach the agent with their truths as text.
func TestReadAgentTaskIsTolerant(t *testing.T) {
	content, _ := json.Marshal(`{"SessionId":"s","DocumentContent":{"schemaVersion":"1.0","inputs":{"s3EncryptionEnabled":"true","runAsEnabled":"","cloudWatchEncryptionEnabled":"False"}}}`)
	p, err := ReadAgentTask([]byte(`{"SchemaVersion":"1","Content":` + string(content) + `}`))
	if err != nil {
		t.Fatal(err)
	}
	if in := p.DocumentContent.Inputs; !in.S3EncryptionEnabled || in.RunAsEnabled || in.CloudWatchEncryptionEnabled {
		t.Errorf("inputs: %+v", in)
	}
	for _, s := range []string{``, `{}`, `{"Content":""}`, `{"Content":{}}`, `{"Content":"{\"DocumentContent\":7}"}`, `{"SchemaVersion":[],"Content":"{}"}`} {
		if _, err := ReadAgentTask([]byte(s)); err == nil {
			t.Errorf("ReadAgentTask(%s) took it", s)
		}
	}
}

// Messages we make are whole: stock peers drop one that lacks a date or a
// payload, without a word.
func TestFrames(t *testing.T) {
	status := 3
	task, err := AgentTaskPayload{SessionId: "s"}.Frame(noted)
	if err != nil {
		t.Fatal(err)
	}
	for want, f := range map[Type]Frame{
		TypeAcknowledge:          Ack{Type: TypeInputStreamData}.Frame(noted),
		TypePausePublication:     Bare(TypePausePublication, noted),
		TypeSallyportPeer:        SallyportPeer{}.Frame(noted),
		TypeSallyportNotice:      SallyportNotice{}.Frame(noted),
		TypeInteractiveShell:     task,
		TypeAgentSessionState:    AgentSessionState{SessionState: "Connected"}.Frame(noted),
		TypeChannelClosed:        ChannelClosed{ExitStatus: &status}.Frame(noted),
		TypeAgentTaskComplete:    AgentTaskComplete{ExitStatus: &status}.Frame(noted),
		TypeAgentTaskAcknowledge: AgentTaskAcknowledge{}.Frame(noted),
		TypeAgentJob:             AgentJob{}.Frame(noted),
		TypeAgentJobAck:          AgentJobAck{}.Frame(noted),
		TypeAgentJobReply:        AgentJobReply{}.Frame(noted),
		TypeAgentJobReplyAck:     AgentJobReplyAck{}.Frame(noted),
	} {
		got, err := Decode(encode(t, f))
		if err != nil || got.Type != want || !got.Created.Equal(noted) || got.ID == (ID{}) || !json.Valid(got.Payload) {
			t.Errorf("%s: %+v, %v", want, got, err)
		}
	}

	closed := ChannelClosed{SessionId: "s", Output: "<why>"}.Frame(time.UnixMilli(1503434274948))
	var p ChannelClosed
	if err := closed.Unmarshal(&p); err != nil {
		t.Fatal(err)
	}
	want := ChannelClosed{MessageType: "channel_closed", MessageId: closed.ID.String(), SessionId: "s", SchemaVersion: 1, CreatedDate: "2017-08-22T20:37:54.948Z", Output: "<why>"}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Errorf("channel_closed (-want +got):\n%s", diff)
	}
}

func TestFlag(t *testing.T) {
	if f, err := ReadFlag(FlagConnectToPortError.Payload()); f != FlagConnectToPortError || err != nil {
		t.Errorf("ReadFlag = %v, %v", f, err)
	}
	for _, b := range []string{"", "\x00\x00\x01", "\x00\x00\x00\x00\x01"} {
		if _, err := ReadFlag([]byte(b)); err == nil {
			t.Errorf("ReadFlag(%q) took it", b)
		}
	}
}

// Reading a payload panics on no input, and what was read can be written.
func FuzzPayload(f *testing.F) {
	f.Add([]byte(`{"SchemaVersion":1,"Content":"{}"}`))
	f.Add([]byte(`{"AgentVersion":"3.3.1142.0","RequestedClientActions":[{"ActionType":"SessionType","ActionParameters":{}}]}`))
	f.Add([]byte(`{"ActionStatus":"1","HandshakeTimeToComplete":1,"Challenge":"AA==","ExitStatus":1,"cols":1,"inputs":{"runAsEnabled":"true"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		ReadAgentTask(b)
		ReadFlag(b)
		for _, v := range []any{
			new(OpenControlChannel), new(OpenDataChannel), new(SallyportPeer), new(AgentTask), new(AgentTaskPayload), new(AgentSessionState), new(Size),
			new(HandshakeRequest), new(HandshakeResponse), new(ProcessedClientAction), new(KMSEncryptionRequest), new(KMSEncryptionResponse),
			new(HandshakeComplete), new(EncryptionChallenge), new(ChannelClosed), new(AgentTaskComplete), new(AgentTaskAcknowledge),
			new(AgentJob), new(AgentJobAck), new(AgentJobReply), new(AgentJobReplyAck),
		} {
			if json.Unmarshal(b, v) != nil {
				continue
			}
			if _, err := json.Marshal(v); err != nil {
				t.Fatalf("%T read from %q cannot be written: %v", v, b, err)
			}
		}
	})
}

// Every payload that makes its own frame can be written with every text in it:
// strangers choose some of it, and making a frame does not fail.
func TestPayloads(t *testing.T) {
	const text = "\xff<\u2028\x00\"\ufeff"
	for _, p := range []interface{ Frame(time.Time) Frame }{
		&SallyportPeer{}, &SallyportNotice{}, &SallyportSessions{}, &AgentSessionState{}, &ChannelClosed{},
		&AgentTaskComplete{}, &AgentTaskAcknowledge{}, &AgentJob{}, &AgentJobAck{}, &AgentJobReply{}, &AgentJobReplyAck{},
	} {
		v := reflect.ValueOf(p).Elem()
		for i := range v.NumField() {
			switch f := v.Field(i); f.Kind() {
			case reflect.String:
				f.SetString(text)
			case reflect.Slice:
				f.Set(reflect.ValueOf([]string{text, text}))
			case reflect.Pointer:
				f.Set(reflect.New(f.Type().Elem()))
			}
		}
		frame := p.Frame(noted)
		if again := reflect.New(v.Type()).Interface(); frame.Unmarshal(again) != nil {
			t.Errorf("%T: %q cannot be read", p, frame.Payload)
		}
		encode(t, frame)
	}
}
