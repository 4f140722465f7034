package agent

import (
	"context"
	"encoding/json"
	"log/slog"
	"testing"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/wire"
)

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
