package wire

import (
	"encoding/json"
	"testing"

	"github.com/sallyport/sallyport/internal/strictjson"
)

// The first messages of sockets are read, or refused, and what was read is
// written so that it is read again as it was.
func FuzzHello(f *testing.F) {
	f.Add([]byte(`{"MessageSchemaVersion":"1.0","RequestId":"x","TokenValue":"t","AgentVersion":"3.3.1","PlatformType":"linux","Capabilities":["end"],"Instance":"i"}`))
	f.Add([]byte(`{"TokenValue":"t","ClientInstanceId":"mi-0123456789abcdef0","ClientId":"","Capabilities":[]}`))
	f.Add([]byte(`{"TokenValue":1}`))
	f.Add([]byte(`{"TokenValue":"a","TokenValue":"b"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var control OpenControlChannel
		if strictjson.Unmarshal(b, &control) == nil {
			reread(t, control.TokenValue.Reveal(), control, new(OpenControlChannel))
		}
		var data OpenDataChannel
		if strictjson.Unmarshal(b, &data) == nil {
			reread(t, data.TokenValue.Reveal(), data, new(OpenDataChannel))
		}
	})
}

func reread(t *testing.T, token string, v, again any) {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, again); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	var got string
	switch m := again.(type) {
	case *OpenControlChannel:
		got = m.TokenValue.Reveal()
	case *OpenDataChannel:
		got = m.TokenValue.Reveal()
	}
	if got != token {
		t.Fatalf("the token %q is read as %q", token, got)
	}
}
