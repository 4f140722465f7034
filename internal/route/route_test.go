package route

import (
	"context"
	"errors"
	"testing"

	"github.com/sallyport/sallyport"
)

func TestMemory(t *testing.T) {
	var bus Memory
	node, other := sallyport.NewNodeID(), sallyport.NewNodeID()
	var got []string
	to := func(name string) func(context.Context, []byte) error {
		return func(_ context.Context, b []byte) error {
			got = append(got, name+": "+string(b))
			return nil
		}
	}
	send := func(want string) {
		t.Helper()
		got = nil
		err := bus.Send(t.Context(), node, []byte("hello"))
		switch {
		case want == "" && !errors.Is(err, ErrAbsent):
			t.Errorf("Send to an absent node = %v", err)
		case want != "" && (err != nil || len(got) != 1 || got[0] != want):
			t.Errorf("Send = %v, delivered %q, want %q", err, got, want)
		}
		if bus.Online(node) != (want != "") {
			t.Errorf("Online = %v", bus.Online(node))
		}
	}

	send("")
	first := bus.Attach(node, to("first"))
	bus.Attach(other, to("other"))
	send("first: hello")
	second := bus.Attach(node, to("second")) // the machine dialled again
	send("second: hello")
	first() // and only now was the old socket found dead
	send("second: hello")
	second()
	send("")
	if bus.Count() != 1 {
		t.Errorf("%d nodes online, want the other one", bus.Count())
	}
}
