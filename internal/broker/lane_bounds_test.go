package broker

import (
	"testing"
	"testing/synctest"
)

// What a client types to a node that is away has an end: beyond it a frame is
// dropped, and comes again when there is room.
func TestTypedAheadHasAnEnd(t *testing.T) {
	holds := func(s *session, from side, bytes int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.lanes[from].bytes = bytes
	}
	inBubble(t, func(t *testing.T, w *world) {
		inv, client, agent := w.together()
		agent.leave()
		s := w.find(inv.Session)
		holds(s, person, typedAhead+1)
		before := s.b.dropped.Load()
		client.say("typed")
		synctest.Wait()
		if s.b.dropped.Load() == before {
			t.Error("what does not fit was taken")
		}
		holds(s, person, 0)
		w.attachNode(agent, inv.Session)
		agent.hear("typed")
		w.complete(inv.Session, "Success", nil)
	})
}
