package agent

import "sync/atomic"

// How many connections port sessions may have at once. Each takes a descriptor,
// which the shells and sockets of other sessions need too.
const (
	maxSessionConnections = 256
	reservedDescriptors   = 256
	leastConnections      = 64 // of all sessions, however few descriptors there are
)

// maxConnections is how many connections all sessions may have: as many as the
// system gives the process descriptors, less some for everything else.
func (a *Agent) maxConnections() int64 {
	if a.MaxConnections > 0 {
		return int64(a.MaxConnections)
	}
	return max(descriptors()-reservedDescriptors, leastConnections)
}

// enterConnection counts one more connection of a session, unless the session, or
// all of them, have as many as they may. A session may have at most half of all,
// so that one does not keep the others from any. leave is called when the
// connection is over.
func (a *Agent) enterConnection(ofSession *atomic.Int64) (leave func(), ok bool) {
	most := a.maxConnections()
	leave = func() {
		a.connections.Add(-1)
		ofSession.Add(-1)
	}
	of, all := ofSession.Add(1), a.connections.Add(1)
	if of > min(maxSessionConnections, max(most/2, 1)) || all > most {
		leave()
		return nil, false
	}
	return leave, true
}
