package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport"
)

// pending is what nodes and access keys did lately: too often to write each
// time, and no great loss if the machine stops first.
type pending struct {
	flushing chan struct{} // holds one token while a caller flushes

	mu    sync.Mutex
	nodes map[sallyport.NodeID]nodeNote
	keys  map[string]keyUse
}

// A nodeNote is what is new about a node.
type nodeNote struct {
	ping    time.Time
	online  *bool
	trouble sallyport.Trouble
}

type keyUse struct {
	at      time.Time
	service string
}

// maxPending bounds what is held. A caller that comes when there is more flushes
// first, and if that fails its own note is dropped.
const maxPending = 1 << 14

// flushTogether bounds what one transaction writes, so that a session that is
// starting waits no longer than that.
const flushTogether = 256

func newPending() pending {
	return pending{
		flushing: make(chan struct{}, 1),
		nodes:    map[sallyport.NodeID]nodeNote{},
		keys:     map[string]keyUse{},
	}
}

// Ping notes that a node proved itself alive. Like [DB.SetOnline] and
// [DB.Trouble] it is seen by readers at once, and written with others later;
// see [DB.Run].
func (db *DB) Ping(ctx context.Context, id sallyport.NodeID, at time.Time) {
	db.noteNode(ctx, id, nodeNote{ping: at})
}

// SetOnline notes that a node's control channel opened or closed.
func (db *DB) SetOnline(ctx context.Context, id sallyport.NodeID, online bool, at time.Time) {
	db.noteNode(ctx, id, nodeNote{ping: at, online: &online})
}

// Trouble notes the last thing that went wrong for a node.
func (db *DB) Trouble(ctx context.Context, id sallyport.NodeID, t sallyport.Trouble) {
	t.Reason = clean(t.Reason)
	db.noteNode(ctx, id, nodeNote{trouble: t})
}

func (db *DB) noteNode(ctx context.Context, id sallyport.NodeID, n nodeNote) {
	db.note(ctx, func(p *pending) { p.nodes[id] = p.nodes[id].then(n) })
}

// note changes what is pending.
func (db *DB) note(ctx context.Context, change func(*pending)) {
	p := &db.pending
	p.mu.Lock()
	full := len(p.nodes)+len(p.keys) >= maxPending
	p.mu.Unlock()
	if full && db.Flush(ctx) != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

// then is what is new about a node once n has been followed by next.
func (n nodeNote) then(next nodeNote) nodeNote {
	if next.ping.After(n.ping) {
		n.ping = next.ping
	}
	if next.online != nil {
		n.online = next.online
	}
	if !next.trouble.At.Before(n.trouble.At) && !next.trouble.At.IsZero() {
		n.trouble = next.trouble
	}
	return n
}

// overlay puts the news into a node as it was read.
func (n nodeNote) overlay(node *sallyport.Node) {
	if n.ping.After(node.LastPing) {
		node.LastPing = fromMillis(millis(n.ping))
	}
	if n.online != nil {
		node.Online = *n.online
	}
	if !n.trouble.At.IsZero() && !fromMillis(millis(n.trouble.At)).Before(node.Trouble.At) {
		node.Trouble = sallyport.Trouble{At: fromMillis(millis(n.trouble.At)), Reason: n.trouble.Reason}
	}
}

func (p *pending) nodeNotes() map[sallyport.NodeID]nodeNote {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.nodes)
}

func (p *pending) overlayKey(k *sallyport.AccessKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if use, ok := p.keys[k.ID]; ok && use.at.After(k.LastUsed) {
		k.LastUsed, k.LastService = fromMillis(millis(use.at)), use.service
	}
}

// Run writes what is pending every so often, and looks whether another server
// has moved a revision on, until ctx is done; then it writes once more. What cannot be written is kept for the next time, and failed is told.
func (db *DB) Run(ctx context.Context, every time.Duration, failed func(error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return db.Flush(context.WithoutCancel(ctx))
		case <-tick.C:
			if err := errors.Join(db.Flush(ctx), db.lookAtRevisions(ctx)); err != nil && ctx.Err() == nil {
				failed(err)
			}
		}
	}
}

// Flush writes what is pending now. What it cannot write it keeps.
func (db *DB) Flush(ctx context.Context) error {
	ctx = withoutCall(ctx)
	p := &db.pending
	select { // one at a time, or an older note could be written over a newer
	case p.flushing <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-p.flushing }()

	p.mu.Lock()
	nodes, keys := maps.Clone(p.nodes), maps.Clone(p.keys)
	p.mu.Unlock()

	// Sorted, so that two servers that write the same rows lock them in the
	// same order.
	ids := slices.SortedFunc(maps.Keys(nodes), func(a, b sallyport.NodeID) int { return strings.Compare(a.String(), b.String()) })
	for chunk := range slices.Chunk(ids, flushTogether) {
		if err := db.transact(ctx, func(tx *tx) error { return writeNodes(tx, chunk, nodes) }); err != nil {
			return fmt.Errorf("write pings: %w", err)
		}
		// Written before forgotten, so that a reader never sees neither.
		p.mu.Lock()
		for _, id := range chunk {
			if p.nodes[id] == nodes[id] {
				delete(p.nodes, id)
			}
		}
		p.mu.Unlock()
	}
	for chunk := range slices.Chunk(slices.Sorted(maps.Keys(keys)), flushTogether) {
		if err := db.transact(ctx, func(tx *tx) error { return writeKeyUses(tx, chunk, keys) }); err != nil {
			return fmt.Errorf("write uses of access keys: %w", err)
		}
		p.mu.Lock()
		for _, id := range chunk {
			if p.keys[id] == keys[id] {
				delete(p.keys, id)
			}
		}
		p.mu.Unlock()
	}
	return nil
}

func writeNodes(tx *tx, ids []sallyport.NodeID, notes map[sallyport.NodeID]nodeNote) error {
	for _, id := range ids {
		n := notes[id]
		if !n.ping.IsZero() {
			if _, err := tx.exec(`UPDATE nodes SET last_ping = $2 WHERE id = $1 AND last_ping < $2`, id.String(), millis(n.ping)); err != nil {
				return err
			}
		}
		if n.online != nil {
			changed, err := tx.exec(`UPDATE nodes SET online = $2 WHERE id = $1 AND online <> $2`, id.String(), *n.online)
			if err != nil {
				return err
			}
			if changed > 0 {
				name := "Offline"
				if *n.online {
					name = "Online"
				}
				tx.leaves(Event{At: n.ping, Kind: NodeEvent, Name: name, Subject: id.String()})
			}
		}
		if !n.trouble.At.IsZero() {
			at, reason := millis(n.trouble.At), n.trouble.Reason
			changed, err := tx.exec(`UPDATE nodes SET trouble_at = $2, trouble = $3 WHERE id = $1 AND trouble_at <= $2 AND trouble <> $3`, id.String(), at, reason)
			if err == nil && changed == 0 {
				_, err = tx.exec(`UPDATE nodes SET trouble_at = $2 WHERE id = $1 AND trouble_at <= $2 AND trouble = $3`, id.String(), at, reason)
			}
			if err != nil {
				return err
			}
			if changed > 0 {
				tx.leaves(Event{At: n.trouble.At, Kind: NodeEvent, Name: "Trouble", Subject: id.String(), Details: details("reason", reason)})
			}
		}
	}
	return nil
}

func writeKeyUses(tx *tx, ids []string, uses map[string]keyUse) error {
	for _, id := range ids {
		if _, err := tx.exec(`UPDATE access_keys SET last_used = $2, last_service = $3 WHERE id = $1 AND last_used < $2`, id, millis(uses[id].at), uses[id].service); err != nil {
			return err
		}
	}
	return nil
}
