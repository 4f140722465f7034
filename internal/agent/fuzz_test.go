package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/wire"
)

// A file that keeps an end is refused with an error, or is a report that a control
// plane takes, of the session that the file is named after.
func FuzzKeptEnd(f *testing.F) {
	node, id := sallyport.NewNodeID(), sallyport.NewSessionID("ann")
	status, messages := 7, int64(3)
	b, err := json.Marshal(keptEnd{Version: endVersion, Node: node, Session: id, At: time.Unix(1e9, 0), Failed: true, Output: "why", ExitStatus: &status, Messages: &messages})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(strings.Replace(string(b), `"Version":1`, `"Version":1,"version":1`, 1)))
	f.Add([]byte(strings.Replace(string(b), `"Messages":3`, `"Messages":-3`, 1)))
	f.Add([]byte(strings.Replace(string(b), "why", strings.Repeat("\u0001", 2000), 1)))
	f.Fuzz(func(t *testing.T, b []byte) {
		end, err := readEnd(id.String()+".json", b, node)
		if err != nil {
			return
		}
		report := end.report()
		if report.TaskId != id.String() || report.InstanceId != node.String() || *cmp.Or(report.Messages, new(int64)) < 0 {
			t.Errorf("reported as %+v", report)
		}
		if frame, err := report.Frame(time.Now()).AppendBinary(nil); err != nil || len(frame) > 8<<10 {
			t.Errorf("%d bytes, %v", len(frame), err)
		}
		end.Output = ""
		if b, err := json.Marshal(end); err != nil {
			t.Error(err)
		} else if again, err := readEnd(id.String()+".json", b, node); err != nil || again.report() != end.report() && again.Messages == nil {
			t.Errorf("read again: %+v, %v", again, err)
		}
	})
}

// What a program before left is taken up, or refused with an error: nothing in it
// panics, and a stream that was taken up can be written down again.
func FuzzHandover(f *testing.F) {
	status := 3
	for _, st := range []sessionState{
		{Stream: datachannel.State{Sends: wire.TypeOutputStreamData, Base: 2, Sent: []datachannel.Sent{{Size: wire.Overhead + 1, Times: 1}}}},
		{Stream: datachannel.State{Sends: wire.TypeOutputStreamData, Expected: 1, Ready: []datachannel.Received{{Kind: wire.KindOutput, Payload: []byte("x")}}}, Untyped: []byte("y")},
		{Complete: &wire.AgentTaskComplete{FinalTaskStatus: "Success", ExitStatus: &status}},
		{DataKey: make([]byte, datachannel.DataKeySize)},
	} {
		b, err := json.Marshal(st)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"Stream":{"Sends":"output_stream_data","Base":-1,"Sent":[{"Size":-5}]},"Size":{"cols":70000}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		h := handed{ID: sallyport.NewSessionID("x"), State: b}
		if h.read(realMachine{}, HandoverVersion) != nil {
			return
		}
		a := &Agent{Log: slog.New(slog.DiscardHandler)}
		s := newSession(a, h.ID, h.state.Task, context.Background())
		defer s.end(nil)
		defer s.hangUp(nil)
		if s.takeUp(h) != nil || s.complete != nil && !s.restored {
			return
		}
		if _, err := s.stream.State(); err != nil {
			t.Fatal(err)
		}
	})
}
