package store

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
)

// childMain is the test binary's other lives. It reports whether the binary
// was started for one.
func childMain(name string) bool {
	switch name {
	case "write-until-killed":
		writeUntilKilled(os.Args[2])
	case "lease-and-wait":
		leaseAndWait(os.Args[2])
	case "fill-disk":
		fillDisk(os.Args[2])
	default:
		return false
	}
	return true
}

// writeUntilKilled saves sessions, users and registrations from several
// goroutines at once, and says each on standard output once it was answered.
func writeUntilKilled(dsn string) {
	ctx := context.Background()
	db, err := Open(ctx, dsn)
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	answered := func(err error, what ...any) {
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		fmt.Println(what...)
	}
	code := sallyport.GenerateSecret()
	activation := sallyport.Activation{ID: sallyport.EntityID("activation-"), Code: code.Hash(), Limit: 1_000_000, Expires: time.Unix(1<<40, 0)}
	answered(db.Activations().Create(ctx, activation), "activation", activation.ID)

	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for {
				s := testSession(0, "ann", sallyport.NewNodeID())
				answered(db.Sessions().Insert(ctx, &SessionRecord{Session: s}), "session", s.ID, s.State())
				for _, to := range []sallyport.State{sallyport.Connected, sallyport.Terminating, sallyport.Terminated} {
					if err := s.Advance(to, at(1)); err != nil {
						panic(err)
					}
					answered(db.Sessions().Advance(ctx, s), "session", s.ID, s.State())
				}
				u := sallyport.User{Name: sallyport.EntityID("u"), Path: "/", ID: sallyport.EntityID("AIDA"), Created: at(0)}
				answered(db.IAM().CreateUser(ctx, u), "user", u.Name)
				id := sallyport.NewNodeID()
				key := []byte(id.String()) // its own: one key is one registration
				n, err := db.Nodes().Register(ctx, activation.ID, code, sallyport.Node{ID: id, PublicKey: key}, at(0))
				if err != nil {
					answered(err)
				}
				answered(nil, "node", n.ID)
			}
		})
	}
	writers.Wait()
}

// What was answered is there after the process was killed at any moment, again and
// again over the same database.
func TestNothingAnsweredIsLostToAKill(t *testing.T) {
	onEachDSN(t, func(t *testing.T, dsn string) {
		ctx := t.Context()
		var registered int
		for round := range 4 {
			child := exec.Command(os.Args[0], "write-until-killed", dsn)
			out, err := child.StdoutPipe()
			must(t, err)
			must(t, child.Start())

			var lines []string
			enough := 20 + rand.IntN(200)
			for answers := bufio.NewScanner(out); answers.Scan(); {
				lines = append(lines, answers.Text())
				if len(lines) == enough {
					must(t, child.Process.Kill()) // what it had said by then is still to be read
				}
			}
			child.Wait() // it was killed, and says so
			if len(lines) < enough {
				t.Fatalf("round %d: the child ended by itself: %q", round, lines)
			}

			db, err := Open(ctx, dsn)
			must(t, err)
			for _, line := range lines {
				what, rest, _ := strings.Cut(line, " ")
				switch what {
				case "session":
					name, state, whole := strings.Cut(rest, " ")
					if !whole {
						continue // the last line, cut short
					}
					id, err := sallyport.ParseSessionID(name)
					if err != nil {
						continue
					}
					want, err := sallyport.ParseState(state)
					if err != nil {
						continue
					}
					if r, err := db.Sessions().Get(ctx, id); err != nil || r.State() < want {
						t.Errorf("round %d: %s was answered, and the store has %v, %v", round, line, r, err)
					}
				case "user":
					if _, err := db.IAM().User(ctx, rest); err != nil && len(rest) == len(sallyport.EntityID("u")) {
						t.Errorf("round %d: %s was answered: %v", round, line, err)
					}
				case "node":
					id, err := sallyport.ParseNodeID(rest)
					if err != nil {
						continue
					}
					registered++
					if _, err := db.Nodes().Get(ctx, id); err != nil {
						t.Errorf("round %d: %s was answered: %v", round, line, err)
					}
				case "error":
					t.Errorf("round %d: %s", round, line)
				}
			}
			// A registration is a node and a count, or neither.
			counted := 0
			list := pages(t, 1000, func(p Page) ([]*sallyport.Activation, Cursor, error) {
				return db.Activations().List(ctx, ActivationFilter{}, p)
			})
			for _, a := range list {
				counted += a.Count
			}
			nodes := pages(t, 1000, func(p Page) ([]*sallyport.Node, Cursor, error) { return db.Nodes().List(ctx, NodeFilter{}, p) })
			if counted != len(nodes) || counted < registered {
				t.Errorf("round %d: activations count %d registrations, there are %d nodes, and %d were answered", round, counted, len(nodes), registered)
			}
			must(t, db.Close())
		}
	})
}
