package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/sallyport/sallyport"
)

var sameNode = cmp.Options{cmp.AllowUnexported(sallyport.NodeID{}), cmpopts.EquateEmpty()}

// register makes a node by an activation of its own.
func register(t testing.TB, db *DB, n sallyport.Node, a sallyport.Activation) *sallyport.Node {
	t.Helper()
	code := sallyport.GenerateSecret()
	a.ID, a.Code, a.Limit, a.Expires = sallyport.EntityID("activation-"), code.Hash(), 1, at(1_000_000)
	must(t, db.Activations().Create(t.Context(), a))
	if n.ID.IsZero() {
		n.ID = sallyport.NewNodeID()
	}
	got, err := db.Nodes().Register(t.Context(), a.ID, code, n, at(0))
	must(t, err)
	return got
}

func TestActivationIsKeptWhole(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		a := sallyport.Activation{ID: "11111111-2222-3333-4444-555555555555", Code: sallyport.GenerateSecret().Hash(), Description: "lab", Name: "bench",
			Role: "service-role/node", RoleID: "AROA1", Limit: 3, Created: at(1), Expires: at(2), Tags: map[string]string{"env": "lab", "ü": ""}}
		must(t, db.Activations().Create(ctx, a))
		got, err := db.Activations().Get(ctx, a.ID)
		must(t, err)
		if d := cmp.Diff(&a, got); d != "" {
			t.Error(d)
		}
		must(t, db.Activations().Delete(ctx, a.ID))
		_, err = db.Activations().Get(ctx, a.ID)
		wantCode(t, err, sallyport.InvalidActivationID, a.ID)
		wantCode(t, db.Activations().Delete(ctx, a.ID), sallyport.InvalidActivationID, a.ID)
	})
}

func TestActivationsAreListedByFilter(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		for i, name := range []string{"a", "b", "c", "a", "b"} {
			must(t, db.Activations().Create(ctx, sallyport.Activation{ID: "id" + string(rune('5'-i)), Name: name, Role: "r" + name, Limit: 1, Created: at(i / 2), Expires: at(9)}))
		}
		for _, c := range []struct {
			name string
			f    ActivationFilter
			want string
		}{
			{"everything, oldest first", ActivationFilter{}, "id4 id5 id2 id3 id1"},
			{"by id", ActivationFilter{IDs: []string{"id1", "id4", "nobody"}}, "id4 id1"},
			{"by name", ActivationFilter{Names: []string{"a"}}, "id5 id2"},
			{"by role and name", ActivationFilter{Names: []string{"a", "b"}, Roles: []string{"rb", "rc"}}, "id4 id1"},
			{"by what is not text", ActivationFilter{Names: []string{"\x00", "\xff"}}, ""},
		} {
			for _, limit := range []int{1, 2, 100} {
				var got []string
				for _, a := range pages(t, limit, func(p Page) ([]*sallyport.Activation, Cursor, error) { return db.Activations().List(ctx, c.f, p) }) {
					got = append(got, a.ID)
				}
				if strings.Join(got, " ") != c.want {
					t.Errorf("%s, by %d: %v, want %s", c.name, limit, got, c.want)
				}
			}
		}
	})
}

func TestRegister(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		code := sallyport.GenerateSecret()
		a := sallyport.Activation{ID: "11111111-2222-3333-4444-555555555555", Code: code.Hash(), Name: "bench", Role: "node", RoleID: "AROA1", Limit: 2,
			Expires: at(100), Tags: map[string]string{"env": "lab"}}
		must(t, db.Activations().Create(ctx, a))

		want := &sallyport.Node{ID: sallyport.NewNodeID(), Name: "bench-1", Activation: a.ID, Role: "node", RoleID: "AROA1", Registered: at(5), Tags: a.Tags,
			PublicKey: []byte{1, 2}, Fingerprint: "fp", Agent: sallyport.Agent{Name: "amazon-ssm-agent", Version: "3.3.1.0", PlatformType: "Linux"}}
		got, err := db.Nodes().Register(ctx, a.ID, code, sallyport.Node{ID: want.ID, PublicKey: want.PublicKey, Fingerprint: "fp", Agent: want.Agent, Online: true}, at(5).Add(time.Microsecond))
		must(t, err)
		stored, err := db.Nodes().Get(ctx, want.ID)
		must(t, err)
		if d := cmp.Diff(want, stored, sameNode); d != "" {
			t.Errorf("stored: %s", d)
		}
		if d := cmp.Diff(want, got, sameNode); d != "" {
			t.Errorf("returned: %s", d)
		}

		for _, c := range []struct {
			name  string
			id    string
			code  sallyport.Secret
			at    int
			want  sallyport.Code
			words string
		}{
			{"an activation that is not there", "00000000-0000-0000-0000-000000000000", code, 6, sallyport.InvalidActivationID, "no activation"},
			{"an id that is not text", "\x00\xff", code, 6, sallyport.InvalidActivationID, "no activation"},
			{"another code", a.ID, sallyport.GenerateSecret(), 6, sallyport.InvalidActivation, "not the one of"},
			{"no code", a.ID, sallyport.Secret{}, 6, sallyport.InvalidActivation, "not the one of"},
			{"another code, too late: says nothing of the date", a.ID, sallyport.GenerateSecret(), 100, sallyport.InvalidActivation, "not the one of"},
			{"too late", a.ID, code, 100, sallyport.InvalidActivation, "expired"},
		} {
			_, err := db.Nodes().Register(ctx, c.id, c.code, sallyport.Node{ID: sallyport.NewNodeID()}, at(c.at))
			t.Log(c.name)
			wantCode(t, err, c.want, c.words)
		}

		// The same machine again is another node, and counts again.
		again, err := db.Nodes().Register(ctx, a.ID, code, sallyport.Node{ID: sallyport.NewNodeID(), Fingerprint: "fp"}, at(6))
		must(t, err)
		if again.ID == want.ID {
			t.Error("a machine that registered again kept its id")
		}
		_, err = db.Nodes().Register(ctx, a.ID, code, sallyport.Node{ID: sallyport.NewNodeID()}, at(7))
		wantCode(t, err, sallyport.InvalidActivation, "used for the 2 registrations")
		stays, err := db.Activations().Get(ctx, a.ID)
		must(t, err)
		if stays.Count != 2 {
			t.Errorf("Count = %d, want 2", stays.Count)
		}
	})
}

func TestRegisterNeverPassesTheLimit(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		code := sallyport.GenerateSecret()
		must(t, db.Activations().Create(ctx, sallyport.Activation{ID: "a", Code: code.Hash(), Limit: 10, Expires: at(1)}))
		var registered atomic.Int64
		var machines sync.WaitGroup
		for i := range 40 {
			machines.Go(func() {
				switch _, err := db.Nodes().Register(ctx, "a", code, sallyport.Node{ID: sallyport.NewNodeID(), PublicKey: fmt.Append(nil, i)}, at(0)); sallyport.CodeOf(err) {
				case "":
					registered.Add(1)
					if err != nil {
						t.Error(err)
					}
				case sallyport.InvalidActivation:
				default:
					t.Error(err)
				}
			})
		}
		machines.Wait()
		nodes, _, err := db.Nodes().List(ctx, NodeFilter{}, Page{})
		must(t, err)
		if registered.Load() != 10 || len(nodes) != 10 {
			t.Errorf("%d registered and there are %d nodes, want 10", registered.Load(), len(nodes))
		}
	})
}

// A machine whose registration was not answered registers again, and is the node
// that it became: nothing is counted twice, and it needs the code as before.
func TestRegisterAgain(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		code := sallyport.GenerateSecret()
		must(t, db.Activations().Create(ctx, sallyport.Activation{ID: "a", Code: code.Hash(), Limit: 1, Name: "web", Tags: map[string]string{"env": "x"}, Expires: at(1)}))
		machine := func() sallyport.Node {
			return sallyport.Node{ID: sallyport.NewNodeID(), PublicKey: []byte("key"), Fingerprint: "f"}
		}
		first, err := db.Nodes().Register(ctx, "a", code, machine(), at(0))
		must(t, err)
		again, err := db.Nodes().Register(ctx, "a", code, machine(), at(2)) // the activation has expired since
		must(t, err)
		if again.ID != first.ID || again.Name != "web" || again.Tags["env"] != "x" {
			t.Errorf("again it is %+v, was %+v", again, first)
		}
		_, err = db.Nodes().Register(ctx, "a", sallyport.GenerateSecret(), machine(), at(0))
		wantCode(t, err, sallyport.InvalidActivation, "not the one of activation")
		other := machine()
		other.Fingerprint = "g"
		_, err = db.Nodes().Register(ctx, "a", code, other, at(0))
		wantCode(t, err, sallyport.InvalidActivation, "has been used")
	})
}

func TestNodeChanges(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		n := register(t, db, sallyport.Node{PublicKey: []byte("old")}, sallyport.Activation{Role: "r1", Tags: map[string]string{"a": "1", "b": "2"}})

		n.Agent = sallyport.Agent{Name: "amazon-ssm-agent", Version: "3.3.2299.0", PlatformType: "Linux", PlatformName: "Debian\x00\xff",
			PlatformVersion: "12", ComputerName: strings.Repeat("x", 10_000), IPAddress: "10.0.0.1", AvailabilityZone: "on-prem", ConnectionChannel: "ssmmessages"}
		must(t, db.Nodes().UpdateAgent(ctx, n.ID, n.Agent))
		n.Agent.PlatformName, n.Agent.ComputerName = "Debian\ufffd\ufffd", strings.Repeat("x", 255)+"…"
		n.Role, n.RoleID = "r2", "AROA2"
		must(t, db.Nodes().SetRole(ctx, n.ID, "r2", "AROA2"))
		must(t, db.Nodes().Tag(ctx, n.ID, map[string]string{"b": "3", "c": "4"}))
		must(t, db.Nodes().Untag(ctx, n.ID, []string{"a", "nothing"}))
		n.Tags = map[string]string{"b": "3", "c": "4"}

		must(t, db.Nodes().SetKey(ctx, n.ID, []byte("old"), []byte("new")))
		n.PublicKey = []byte("new")
		wantCode(t, db.Nodes().SetKey(ctx, n.ID, []byte("old"), []byte("newer")), sallyport.InvalidInstanceID, "changed by another process")

		got, err := db.Nodes().Get(ctx, n.ID)
		must(t, err)
		if d := cmp.Diff(n, got, sameNode); d != "" {
			t.Error(d)
		}

		many := map[string]string{}
		for i := range maxTags {
			many["tag "+strconv.Itoa(i)] = ""
		}
		wantCode(t, db.Nodes().Tag(ctx, n.ID, many), sallyport.TooManyTagsError, "50 tags")
		if got, err = db.Nodes().Get(ctx, n.ID); err != nil || len(got.Tags) != 2 {
			t.Errorf("tags that were refused were kept: %v, %v", got.Tags, err)
		}

		must(t, db.Nodes().Deregister(ctx, n.ID))
		for name, err := range map[string]error{
			"Deregister":  db.Nodes().Deregister(ctx, n.ID),
			"UpdateAgent": db.Nodes().UpdateAgent(ctx, n.ID, n.Agent),
			"SetNodeRole": db.Nodes().SetRole(ctx, n.ID, "r", "AROA1"),
			"SetNodeKey":  db.Nodes().SetKey(ctx, n.ID, nil, nil),
			"TagNode":     db.Nodes().Tag(ctx, n.ID, nil),
			"UntagNode":   db.Nodes().Untag(ctx, n.ID, nil),
		} {
			t.Log(name)
			wantCode(t, err, sallyport.InvalidInstanceID, n.ID.String())
		}
		_, err = db.Nodes().Get(ctx, n.ID)
		wantCode(t, err, sallyport.InvalidInstanceID, n.ID.String())
	})
}

// What is noted is seen at once, whether it was written or not, and survives
// being written.
func TestPingsAreSeenAtOnceAndKept(t *testing.T) {
	onEachDSN(t, func(t *testing.T, dsn string) {
		ctx := t.Context()
		db := open(t, dsn)
		n := register(t, db, sallyport.Node{}, sallyport.Activation{})
		check := func(when string, db *DB) {
			t.Helper()
			got, err := db.Nodes().Get(ctx, n.ID)
			must(t, err)
			if d := cmp.Diff(n, got, sameNode); d != "" {
				t.Errorf("%s: %s", when, d)
			}
		}
		db.SetOnline(ctx, n.ID, true, at(10))
		n.Online, n.LastPing = true, at(10)
		check("online, noted", db)
		must(t, db.Flush(ctx))
		check("online, written", db)

		db.Ping(ctx, n.ID, at(20))
		db.Ping(ctx, n.ID, at(15)) // overtaken
		n.LastPing = at(20)
		check("pinged", db)
		db.Trouble(ctx, n.ID, sallyport.Trouble{At: at(21), Reason: "Its clock is\x00 slow."})
		n.Trouble = sallyport.Trouble{At: at(21), Reason: "Its clock is\ufffd slow."}
		check("in trouble", db)
		must(t, db.Flush(ctx))
		check("written", db)
		db.SetOnline(ctx, n.ID, false, at(22))
		n.Online, n.LastPing = false, at(22)
		check("offline", db)

		nobody := sallyport.NewNodeID()
		db.Ping(ctx, nobody, at(1)) // does no harm
		must(t, db.Flush(ctx))
		if len(db.pending.nodes)+len(db.pending.keys) != 0 {
			t.Errorf("still pending after Flush: %v", db.pending.nodes)
		}

		// Another process sees what was written, and begins with no node online.
		db.SetOnline(ctx, n.ID, true, at(23))
		must(t, db.Flush(ctx))
		other := open(t, dsn)
		n.Online, n.LastPing = true, at(23)
		check("elsewhere", other)
		must(t, other.Nodes().MarkAllOffline(ctx))
		n.Online = false
		check("after a start", other)
	})
}

// However many nodes there are, only so many notes wait to be written.
func TestPendingIsBounded(t *testing.T) {
	db := open(t, engines["SQLite"](t))
	for range maxPending + 10 {
		db.Ping(t.Context(), sallyport.NewNodeID(), at(1))
		if n := len(db.pending.nodes); n > maxPending {
			t.Fatalf("%d notes are held, want %d at the most", n, maxPending)
		}
	}
}

func TestRunWritesWhatIsPendingWhenItEnds(t *testing.T) {
	onEachDSN(t, func(t *testing.T, dsn string) {
		db := open(t, dsn)
		n := register(t, db, sallyport.Node{}, sallyport.Activation{})
		db.Ping(t.Context(), n.ID, at(1))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		must(t, db.Run(ctx, time.Hour, func(err error) { t.Error(err) }))
		got, err := open(t, dsn).Nodes().Get(t.Context(), n.ID)
		must(t, err)
		if !got.LastPing.Equal(at(1)) {
			t.Errorf("LastPing = %v, want %v", got.LastPing, at(1))
		}
	})
}

// Every filter of DescribeInstanceInformation, alone and together, at every
// page size, gives what filtering everything would.
func TestNodesAgainstModel(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		var all []*sallyport.Node
		for i := range 60 {
			var n sallyport.Node
			if i%5 == 0 {
				id, err := sallyport.ParseNodeID("i-" + strings.TrimPrefix(sallyport.NewNodeID().String(), "mi-"))
				must(t, err)
				n.ID = id
			}
			pick := func(values ...string) string { return values[(i*i+i/3)%len(values)] }
			n.Agent = sallyport.Agent{Version: pick("3.3.1.0", "3.2.0.0"), PlatformType: pick("Linux", "Windows", "MacOS")}
			tags := map[string]string{}
			if i%2 == 0 {
				tags["env"] = pick("lab", "prod", "")
			}
			if i%3 == 0 {
				tags["team"] = pick("a", "b")
			}
			got := register(t, db, n, sallyport.Activation{Name: pick("web", "db", ""), Role: pick("r1", "r2"), Tags: tags})
			switch i % 4 {
			case 0:
				db.SetOnline(ctx, got.ID, true, at(i))
				got.Online, got.LastPing = true, at(i)
			case 1:
				db.SetOnline(ctx, got.ID, false, at(i))
				got.LastPing = at(i)
			}
			if len(got.Tags) == 0 {
				got.Tags = nil
			}
			all = append(all, got)
		}
		slices.SortFunc(all, func(a, b *sallyport.Node) int { return strings.Compare(a.ID.String(), b.ID.String()) })
		status := func(n *sallyport.Node) string {
			switch {
			case n.Online:
				return PingOnline
			case !n.LastPing.IsZero():
				return PingLost
			}
			return PingInactive
		}
		kind := func(n *sallyport.Node) string {
			if strings.HasPrefix(n.ID.String(), "i-") {
				return "EC2Instance"
			}
			return "ManagedInstance"
		}

		rapid.Check(t, func(rt *rapid.T) {
			var f NodeFilter
			match := []func(*sallyport.Node) bool{}
			some := func(field string, of func(*sallyport.Node) string, values ...string) []string {
				if rapid.IntRange(0, 3).Draw(rt, field+"?") != 0 {
					return nil
				}
				chosen := rapid.SliceOfN(rapid.SampledFrom(values), 1, 3).Draw(rt, field)
				match = append(match, func(n *sallyport.Node) bool { return slices.Contains(chosen, of(n)) })
				return chosen
			}
			f.Names = some("name", func(n *sallyport.Node) string { return n.Name }, "web", "db", "", "\x00")
			f.AgentVersions = some("version", func(n *sallyport.Node) string { return n.Agent.Version }, "3.3.1.0", "3.2.0.0", "4")
			f.PlatformTypes = some("platform", func(n *sallyport.Node) string { return n.Agent.PlatformType }, "Linux", "Windows", "MacOS")
			f.Activations = some("activation", func(n *sallyport.Node) string { return n.Activation }, all[3].Activation, all[7].Activation, "none")
			f.Roles = some("role", func(n *sallyport.Node) string { return n.Role }, "r1", "r2", "r3")
			f.PingStatuses = some("ping", status, PingOnline, PingLost, PingInactive)
			f.ResourceTypes = some("kind", kind, "EC2Instance", "ManagedInstance")
			for _, id := range some("id", func(n *sallyport.Node) string { return n.ID.String() }, all[0].ID.String(), all[30].ID.String(), sallyport.NewNodeID().String()) {
				parsed, err := sallyport.ParseNodeID(id)
				must(t, err)
				f.IDs = append(f.IDs, parsed)
			}
			for range rapid.IntRange(0, 2).Draw(rt, "tags") {
				name := rapid.SampledFrom([]string{"env", "team", "none"}).Draw(rt, "tag")
				values := rapid.SliceOfN(rapid.SampledFrom([]string{"lab", "prod", "", "a", "b"}), 0, 2).Draw(rt, "values")
				f.Tags = append(f.Tags, TagFilter{name, values})
				match = append(match, func(n *sallyport.Node) bool {
					v, ok := n.Tags[name]
					return ok && (len(values) == 0 || slices.Contains(values, v))
				})
			}
			limit := rapid.IntRange(3, 70).Draw(rt, "limit")

			var want []*sallyport.Node
			for _, n := range all {
				if !slices.ContainsFunc(match, func(m func(*sallyport.Node) bool) bool { return !m(n) }) {
					want = append(want, n)
				}
			}
			got := pages(t, limit, func(p Page) ([]*sallyport.Node, Cursor, error) { return db.Nodes().List(ctx, f, p) })
			if d := cmp.Diff(want, got, sameNode); d != "" {
				rt.Fatalf("%+v by %d (-want +got):\n%s", f, limit, d)
			}
		})
	})
}

func TestUnknownFilterValue(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB) {
		_, _, err := db.Nodes().List(t.Context(), NodeFilter{PingStatuses: []string{"Sleepy"}}, Page{})
		wantCode(t, err, sallyport.InvalidInstanceInformationFilterValue, "Sleepy")
		_, _, err = db.Nodes().List(t.Context(), NodeFilter{ResourceTypes: []string{"Toaster"}}, Page{})
		wantCode(t, err, sallyport.InvalidInstanceInformationFilterValue, "Toaster")
	})
}

// A page of nodes by one value of one field is read off an index, in order.
func TestNodesPageOffAnIndex(t *testing.T) {
	db := open(t, engines["SQLite"](t))
	cases := map[string]NodeFilter{
		"sqlite_autoindex_nodes_1 (id>?)":         {},
		"nodes_name (name=?":                      {Names: []string{"x"}},
		"nodes_activation (activation=?":          {Activations: []string{"x"}},
		"nodes_role (role=?":                      {Roles: []string{"x"}},
		"nodes_agent_version (agent_version=?":    {AgentVersions: []string{"x"}},
		"nodes_platform_type (platform_type=?":    {PlatformTypes: []string{"x"}},
		"nodes_online (online=?":                  {PingStatuses: []string{PingOnline}},
		"sqlite_autoindex_nodes_1 (id>? AND id<?": {ResourceTypes: []string{"EC2Instance"}},
	}
	for _, want := range slices.Sorted(maps.Keys(cases)) {
		f := cases[want]
		w, index, err := f.where()
		must(t, err)
		w.add("id > ?", "mi-0")
		plan, err := collect(t.Context(), db.read, func(s scanner) (line string, err error) {
			var id, parent, unused int
			return line, s.Scan(&id, &parent, &unused, &line)
		}, "EXPLAIN QUERY PLAN "+db.Nodes().nodeQuery(w, index, 51), w.args...)
		must(t, err)
		text := strings.Join(plan, "\n")
		if !strings.Contains(text, "SEARCH nodes USING INDEX "+want) || strings.Contains(text, "TEMP B-TREE") || strings.Contains(text, "SCAN nodes") {
			t.Errorf("want %q in\n%s", want, text)
		}
	}
}
