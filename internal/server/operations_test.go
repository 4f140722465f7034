package server_test

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/servertest"
)

var update = flag.Bool("update", false, "write docs/operations.md")

// docs/operations.md is made from the operations' rows.
func TestOperationsPage(t *testing.T) {
	const path = "../../docs/operations.md"
	var want []byte
	synctest.Test(t, func(t *testing.T) { want = operationsPage(servertest.Start(t, nil).API.Services) })
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the rows say: run go test ./internal/server -run TestOperationsPage -update, and look at what changes", path)
	}
}

func operationsPage(services []*api.Service) []byte {
	var b bytes.Buffer
	b.WriteString(`# Operations

Made from the operations' own declarations (` + "`internal/api/*/`" + `) by ` + "`go test ./internal/server -run TestOperationsPage -update`" + `.

*Access level* is as in AWS's Service Authorization Reference. *Policy is asked* names the action, the type of the resource it is asked about (none is ` + "`*`" + `),
and condition keys beyond the global ones and those of tags; *(sometimes)* is a question that only some requests raise. *Event* is the kind of
the call's event. The event log has the calls of kind *write* that changed what is stored, each written with its change; of others, as AssumeRole, it has none.
*Errors* are those beyond AWS's model of the operation and those that any operation may answer.
*Secrets* are members that no event and no log may hold.

`)
	for _, s := range services {
		fmt.Fprintf(&b, "## %s\n\n| operation | access level | policy is asked | by | event | errors | secrets |\n|---|---|---|---|---|---|---|\n", s.Name)
		for _, name := range slices.Sorted(maps.Keys(s.Ops)) {
			op := s.Ops[name]
			var asks []string
			for _, a := range op.Asks.About {
				text := "`" + cmp.Or(a.Action, s.Name+":"+name) + "`"
				if a.Resource != "" {
					text += " on " + a.Resource
				}
				if len(a.Keys) > 0 {
					text += " (`" + strings.NewReplacer("/`", "/…`", ":`", ":…`").Replace(strings.Join(a.Keys, "`, `")+"`") + ")"
				}
				if a.Maybe {
					text += " *(sometimes)*"
				}
				asks = append(asks, text)
			}
			if len(asks) == 0 {
				asks = append(asks, "nothing: "+op.Asks.Why)
			}
			by := op.Admits.String()
			for _, r := range op.Refuses {
				by += ", not " + r.Who
			}
			var codes []string
			for _, c := range op.Codes {
				codes = append(codes, "`"+string(c)+"`")
			}
			var secrets []string
			for _, path := range append(slices.Clone(s.Model.Operation(name).Secret), op.Secret...) {
				secrets = append(secrets, "`"+path+"`")
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s |\n", name, op.Level, strings.Join(asks, "; "), by, op.Event, strings.Join(codes, ", "), strings.Join(secrets, ", "))
		}
		b.WriteString("\n")
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// What a row says is what its type has: an input has its operation's name, and
// secrets of AWS's model stay out of events.
func TestRows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		found := 0
		for _, s := range servertest.Start(t, nil).API.Services {
			for _, m := range s.Model.Operations {
				if _, ok := s.Ops[m.Name]; !ok {
					t.Errorf("%s:%s is in the model and has no row", s.Name, m.Name)
				}
			}
			for name, op := range s.Ops {
				found++
				if s.Model.Operation(name) == nil {
					t.Errorf("%s:%s has a row and is in no model", s.Name, name)
				}
				if got := op.Input().Name(); got != name+"Input" {
					t.Errorf("%s:%s takes a %s", s.Name, name, got)
				}
				if len(op.Asks.About) == 0 && op.Asks.Why == "" {
					t.Errorf("%s:%s asks policy nothing and does not say why", s.Name, name)
				}
			}
		}
		if found < 100 {
			t.Errorf("there are only %d operations", found)
		}
	})
}
