package broker

import (
	"context"
	"slices"
	"strings"

	"github.com/sallyport/sallyport"
)

// A session rests on the identities of the credentials that started it
// ([sallyport.Session.Basis]) and ends with the first of them. EndBasis ends
// those that are on; endIfGone, asked when a session is started, joined or
// taken up, ends those that EndBasis did not see.

// EndBasis ends every session that rests on an identity which is not in force
// any more: a user or role that was deleted, an access key that was deleted or
// deactivated, a node that was deregistered. It is for [store.DB.OnGone].
func (b *Broker) EndBasis(id string) {
	b.mu.Lock()
	var ending []*session
	for _, s := range b.live {
		if slices.Contains(s.rec.Basis, id) { // a session's basis never changes
			ending = append(ending, s)
		}
	}
	b.mu.Unlock()
	for _, s := range ending {
		s.end(goneCause(id))
	}
}

// endIfGone ends a session that rests on an identity which is not in force any
// more, and returns an error for its client: the cause, which is another if the
// session was ending already. A session that is nil is over, and needs nothing.
func (b *Broker) endIfGone(ctx context.Context, s *session) error {
	if s == nil {
		return nil
	}
	id, err := b.Store.IAM().Gone(ctx, s.rec.Basis)
	if err != nil || id == "" {
		return err
	}
	s.end(goneCause(id))
	s.mu.Lock()
	defer s.mu.Unlock()
	return sallyport.Errorf(sallyport.AccessDeniedException, "%s", s.rec.Cause)
}

// goneCause is the cause of the end of a session that rested on the identity
// with an ID.
func goneCause(id string) string {
	switch {
	case strings.HasPrefix(id, "AIDA"):
		return "The user who started the session was deleted."
	case strings.HasPrefix(id, "AROA"):
		return "A role in which the session was started was deleted."
	case strings.HasPrefix(id, "AKIA"):
		return "The access key with which the session was started is not active any more."
	}
	return "The node " + id + ", which started the session, was deregistered."
}
