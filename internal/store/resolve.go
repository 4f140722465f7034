package store

import (
	"context"
	"sync"
)

// A name can be given to another thing at any moment: a user is renamed, a role
// is deleted and made anew, an alias is moved to another key. A call that looks
// a name up to ask whether something may be done, and again to do it, must not
// do it to something that was never asked about. So a call has one context of
// [ResolveOnce], in which a name means for good what it meant when it was first
// looked up. What it meant then and does not mean any more is not found.

type resolvedKey struct{}

// resolved is what names have meant in one context.
type resolved struct {
	mu  sync.Mutex
	ids map[string]string // of users and so on by kind and name; "" of what was not there
}

// ResolveOnce returns a context in which each name of a user, group, role,
// managed policy, document or KMS alias means the thing that it meant when it
// was first looked up, or nothing if it meant nothing. The methods of [DB]
// return for a name that means another thing now what they return for one that
// means nothing.
func ResolveOnce(ctx context.Context) context.Context {
	return context.WithValue(ctx, resolvedKey{}, &resolved{ids: map[string]string{}})
}

// means reports whether the thing with an ID is what its name means in ctx. An
// empty ID is for a name that means nothing now.
func means(ctx context.Context, kind, name, id string) bool {
	r, ok := ctx.Value(resolvedKey{}).(*resolved)
	if !ok {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	key := kind + "\x00" + name
	first, known := r.ids[key]
	if !known {
		r.ids[key] = id
	}
	return !known || first == id
}

// made notes that the call of ctx itself gave a name to the thing with an ID.
func made(ctx context.Context, kind, name, id string) {
	if r, ok := ctx.Value(resolvedKey{}).(*resolved); ok {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.ids[kind+"\x00"+name] = id
	}
}
