package store

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
)

// A revision counts the changes to one part of the store. It is in the database
// and moves on in the transaction of each change, so that every server sees it,
// and so that transactions which change the same part take turns: the first
// statement of each locks the revision's row until it ends. A count and the
// insert that it allows are therefore one step on both engines.
type revision uint8

const (
	iamRevision      revision = iota // users, groups, roles, policies, access keys; nodes' roles and tags
	documentRevision                 // documents
	keyRevision                      // KMS keys and aliases

	revisions // how many there are
)

// revisionNames are the rows of the table revisions.
var revisionNames = [revisions]string{"iam", "documents", "keys"}

// moveOn moves a revision on, once in a transaction.
func (t *tx) moveOn(part revision) error {
	if t.run.moved[part] != 0 {
		return nil
	}
	err := t.row(`UPDATE revisions SET number = number + 1 WHERE name = $1 RETURNING number`, revisionNames[part]).Scan(&t.run.moved[part])
	return wrap(err, "move the revision of %s on", revisionNames[part])
}

// seenRevisions is what this process knows of the revisions.
type seenRevisions struct {
	moved [revisions]atomic.Uint64 // counts what may have been a change

	// mu guards all below.
	mu     sync.Mutex
	number [revisions]int64 // the highest seen in the database
}

// wrote notes that a transaction of this process has moved a revision on to
// number, or may have, if its commit failed.
func (s *seenRevisions) wrote(part revision, number int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.moved[part].Add(1)
	s.number[part] = max(s.number[part], number)
}

// read notes that a revision was read from the database.
func (s *seenRevisions) read(part revision, number int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if number > s.number[part] {
		s.number[part] = number
		s.moved[part].Add(1)
	}
}

// Revision changes whenever anything in IAM may have changed: users, groups,
// roles, their policies, tags and keys, and the roles and tags of nodes. A cache of
// answers keeps the revision from before it asked, and asks again when the revision
// is another. It costs no statement.
//
// A change that this process made shows before the method that made it returns.
// One that another server made shows when [DB.Run] has next looked.
func (iam IAM) Revision() uint64 { return iam.db.revisions.moved[iamRevision].Load() }

// lookAtRevisions reads the revisions, which other servers may have moved on.
func (db *DB) lookAtRevisions(ctx context.Context) error {
	type row struct {
		name   string
		number int64
	}
	rows, err := collect(ctx, db.read, func(s scanner) (r row, err error) { return r, s.Scan(&r.name, &r.number) }, `SELECT name, number FROM revisions`)
	if err != nil {
		return fmt.Errorf("read revisions: %w", translate(err))
	}
	for _, r := range rows {
		for part, name := range revisionNames {
			if name == r.name {
				db.revisions.read(revision(part), r.number)
			}
		}
	}
	return nil
}
