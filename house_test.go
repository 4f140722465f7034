package sallyport_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/sallyport/sallyport"

// mayImport is the plan of the house: for each package, which of our others it
// may import directly. Everyone may import sallyport itself, which imports no
// one.
//
// Drawing a new line here is a design decision. Say why in the commit.
var mayImport = map[string]string{
	"": "",

	// Leaves.
	"internal/strictjson": "",
	"internal/wire":       "strictjson",
	"internal/sigv4":      "",
	"internal/policy":     "",
	"internal/keyring":    "",
	"internal/asciicast":  "",
	"internal/panics":     "",
	"internal/statedir":   "",
	"internal/shape":      "strictjson",
	"internal/memnet":     "",
	"internal/usage":      "",
	"internal/route":      "",
	"internal/rawio":      "",
	"internal/retry":      "",
	"internal/pty":        "rawio",
	"internal/socket":     "rawio wire",

	// What both ends of a session share: the machine's and the person's.
	"internal/datachannel": "panics wire",
	"internal/mux":         "panics",
	"internal/endpoint":    "sigv4 socket strictjson",

	// The two ends. They meet the server on the wire alone.
	"internal/agent":     "retry statedir panics strictjson wire sigv4 datachannel mux socket asciicast pty endpoint",
	"internal/agentcmd":  "statedir agent endpoint usage",
	"internal/client":    "retry statedir strictjson wire sigv4 datachannel mux rawio socket asciicast endpoint",
	"internal/clientcmd": "client endpoint usage",

	// The control plane.
	"internal/document":         "strictjson wire",
	"internal/store":            "statedir keyring panics",
	"internal/worker":           "panics store",
	"internal/record":           "wire asciicast",
	"internal/broker":           "panics store record keyring route wire",
	"internal/gateway":          "broker panics route socket store strictjson wire",
	"internal/api":              "keyring panics policy shape sigv4 store",
	"internal/api/ssm":          "api broker document route shape store wire",
	"internal/api/ssmmessages":  "api broker shape",
	"internal/api/ec2messages":  "api shape",
	"internal/api/iam":          "api policy shape store",
	"internal/api/sts":          "api policy shape store",
	"internal/api/kms":          "api keyring policy shape store",
	"internal/api/sallyportapi": "api record shape store",
	"internal/server": "statedir api api/ssm api/ssmmessages api/ec2messages api/iam api/kms api/sallyportapi api/sts " +
		"broker gateway keyring panics rawio record route store strictjson worker",

	"internal/need":       "",
	"internal/simulation": "agent asciicast client memnet pty record server store",
	"internal/pgtest":     "",
	"internal/servertest": "agent api datachannel endpoint memnet server socket store wire",
	"internal/bench":      "client endpoint rawio server socket wire",
	"internal/interop":    "",
	"cmd/sallyport":       "statedir agent agentcmd client clientcmd endpoint server usage",
	"cmd/sallyport-agent": "agentcmd usage",
}

// The agent's half of the house and the control plane's share words and wire,
// and nothing else; this is what keeps it so.
func TestImports(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range goList(t) {
		name := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		seen[name] = true

		allowed, ok := mayImport[name]
		if !ok {
			t.Errorf("package %q is not on the plan; add it to mayImport", name)
		}
		for _, imp := range p.Imports {
			if room, ours := strings.CutPrefix(imp, module+"/internal/"); ours && !slices.Contains(strings.Fields(allowed), room) {
				t.Errorf("%q may not import %q", name, room)
			}
			if name == "" && strings.Contains(imp, ".") {
				t.Errorf("the vocabulary may import only the standard library, not %q", imp)
			}
		}
		if strings.TrimSpace(p.Doc) == "" {
			t.Errorf("package %q does not say what it is for", name)
		}
	}
	for name := range mayImport {
		if !seen[name] {
			t.Errorf("package %q is on the plan but not in the tree", name)
		}
	}
}

type goPackage struct {
	ImportPath, Doc string
	Imports         []string
}

func goList(t *testing.T) (pkgs []goPackage) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Doc,Imports", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p goPackage
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	return pkgs
}

// quoted finds what a document says is a file or a directory of ours.
var quoted = regexp.MustCompile("`((?:internal|cmd|docs|console|tools|\\.ci)/[A-Za-z0-9_./-]*)`")

// What the documents point at is there. Everyone else's have drifted.
func TestDocumentsPointAtWhatIsThere(t *testing.T) {
	found := 0
	for _, name := range []string{"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/aws.md", "docs/limits.md", "docs/operating.md"} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, m := range quoted.FindAllStringSubmatch(string(b), -1) {
			found++
			if _, err := os.Stat(strings.TrimSuffix(m[1], "/")); err != nil {
				t.Errorf("%s points at %s, which is not there", name, m[1])
			}
		}
	}
	if found == 0 {
		t.Error("no document points at anything")
	}
}

// The tests that the documents say hold a promise are there.
func TestDocumentsNameTestsThatAreThere(t *testing.T) {
	there := map[string]bool{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllSubmatch(b, -1) {
			there[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"docs/aws.md", "docs/limits.md"} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		named := regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z]\w+`).FindAllString(string(b), -1)
		if len(named) == 0 {
			t.Errorf("%s names no test", name)
		}
		for _, test := range named {
			if !there[test] {
				t.Errorf("%s names %s, which is not there", name, test)
			}
		}
	}
}

// What a stranger sends must not panic: bytes off a socket, a request, a document,
// a log, the database. So the rules below hold for all code but that of tests, and
// each exception says why nothing a stranger sends can reach it. An exception that
// nothing needs any longer is an error too.
//
// forTests are the packages that are no part of a program that is shipped.
var forTests = []string{"tools/", "internal/bench/", "internal/servertest/", "internal/simulation/", "internal/interop/", "internal/need/"}

// mayPanic are the statements that panic.
var mayPanic = map[string]string{
	"internal/api/row.go: panic":                 "a row whose question is not about its input, which is found when the server starts",
	"internal/api/ssm/sessions.go: panic":        "the text is a constant; every start reads it",
	"internal/client/session.go: panic":          "it goes on with a panic, once the terminal is as it was",
	"internal/datachannel/datachannel.go: panic": "Stream.Sends is set by the program",
	"internal/document/builtin.go: panic":        "the documents are constants; every start reads them",
	"internal/keyring/keyring.go: panic":         "all sizes are constants; every start derives keys",
	"internal/server/server.go: panic":           "http.ErrAbortHandler, which closes the connection; net/http recovers from it",
	"internal/wire/payload.go: panic":            "its callers' types have no member that JSON lacks; TestPayloads writes each",
}

// mayAssert are the type assertions that panic, and calls of functions like
// regexp.MustCompile whose argument is no constant.
var mayAssert = map[string]string{
	"internal/api/row.go: in.(*In)":                                        "the row was refused otherwise",
	"internal/shape/shape.go: regexp.MustCompile(`^(?:` + p.Text + `)$`)":  "tools/reducemodel compiled it",
	"internal/client/port.go: four.Addr().(*net.TCPAddr)":                  "a TCP listener's address",
	"internal/client/port.go: listeners[0].Addr().(*net.TCPAddr)":          "a TCP listener's address",
	"internal/document/session.go: filled.(map[string]any)":                "fill returns what it was given: a map",
	"internal/keyring/outside.go: http.DefaultTransport.(*http.Transport)": "nothing here replaces it",
	"internal/policy/parse.go: t.(string)":                                 "json.Decoder returns no other token for a key",
	"internal/pty/pipes_unix.go: s.Sys().(syscall.WaitStatus)":             "what package os has there on Unix",
}

// mayReadJSON are the calls of json.Unmarshal and json.NewDecoder: all else reads
// JSON by strictjson, or a member that is there twice is checked once and used
// once more.
var mayReadJSON = map[string]string{
	"internal/agent/handover.go: json":        "the agent's own file, of the version before",
	"internal/agent/state.go: json":           "the agent's own file",
	"internal/api/identity.go: json":          "sealed by this server",
	"internal/api/ssm/sessions.go: json":      "document wrote it",
	"internal/asciicast/asciicast.go: json":   "recordings that this program made",
	"internal/broker/broker.go: json":         "the broker's own, in the store",
	"internal/broker/session.go: json":        "the broker's own, in the log",
	"internal/record/seal.go: json":           "the broker's own, in the log",
	"internal/client/api.go: json":            "a number",
	"internal/client/plugin.go: json":         "arguments of the AWS CLI, which runs this program",
	"internal/endpoint/client.go: json":       "errors, in which AWS has both message and Message",
	"internal/keyring/outside.go: json":       "answers of a key store that the operator chose",
	"internal/policy/parse.go: json":          "a reader of its own, which refuses a member that is there twice",
	"internal/policy/rewrite.go: json":        "a document that was parsed",
	"internal/server/admin.go: json":          "the answer of the admin socket",
	"internal/store/document.go: json":        "the store's own",
	"internal/store/query.go: json":           "the store's own",
	"internal/strictjson/strictjson.go: json": "what strictjson is made of",
	"internal/wire/payload.go: json":          "a text",
}

// mayExit are the calls that end the process.
var mayExit = map[string]string{
	"cmd/sallyport-agent/main.go: os.Exit": "main",
	"cmd/sallyport/main.go: os.Exit":       "main",
	"internal/agentcmd/files.go: os.Exit":  "the main of a program by another name",
}

// guarded are the packages whose goroutines deal with what strangers send: each
// goroutine recovers from a panic, by package panics or by a session's guard.
var guarded = []string{"internal/agent/", "internal/broker/", "internal/datachannel/", "internal/gateway/", "internal/mux/", "internal/store/"}

// mayBeUnguarded are the functions there that start a goroutine which does not
// recover itself.
var mayBeUnguarded = map[string]string{
	"internal/agent/agent.go: Run":        "an upgrade, which the operator asks for, and the end of the agent",
	"internal/agent/agent.go: forget":     "it takes an entry out of a map",
	"internal/agent/port.go: connect":     "it closes a connection",
	"internal/agent/port.go: multiplex":   "it closes a connection",
	"internal/agent/port.go: single":      "it closes a connection",
	"internal/agent/session.go: announce": "it cancels a context",
	"internal/broker/broker.go: launch":   "run recovers, and goes on to end the session",
	"internal/broker/end.go: attach":      "write recovers, as pump does, which is not started with go",
}

func TestNothingPanics(t *testing.T) {
	rules := []struct {
		name string
		may  map[string]string
		used map[string]bool
	}{{name: "mayPanic", may: mayPanic}, {name: "mayAssert", may: mayAssert}, {name: "mayReadJSON", may: mayReadJSON}, {name: "mayExit", may: mayExit}, {name: "mayBeUnguarded", may: mayBeUnguarded}}
	for i := range rules {
		rules[i].used = map[string]bool{}
	}
	files := token.NewFileSet()
	found := func(rule int, path string, at ast.Node, what string) {
		key := path + ": " + what
		rules[rule].used[key] = true
		if rules[rule].may[key] == "" {
			t.Errorf("%v: %s is not in %s, under %q", files.Position(at.Pos()), what, rules[rule].name, key)
		}
	}
	scanned := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		path = filepath.ToSlash(path)
		skip := func(dir string) bool { return strings.HasPrefix(path, dir) }
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || slices.ContainsFunc(forTests, skip) {
			return err
		}
		file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		scanned++
		checked := map[ast.Node]bool{} // assertions that ask whether they hold
		function := ""
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				function = n.Name.Name
			case *ast.AssignStmt:
				if len(n.Lhs) == 2 && len(n.Rhs) == 1 {
					checked[n.Rhs[0]] = true
				}
			case *ast.ValueSpec:
				if len(n.Names) == 2 && len(n.Values) == 1 {
					checked[n.Values[0]] = true
				}
			case *ast.TypeAssertExpr:
				if n.Type != nil && !checked[n] {
					found(1, path, n, types.ExprString(n))
				}
			case *ast.GoStmt:
				if slices.ContainsFunc(guarded, skip) && !guards(n.Call) {
					found(4, path, n, function)
				}
			case *ast.CallExpr:
				called := types.ExprString(n.Fun)
				method := called[strings.LastIndexByte(called, '.')+1:]
				switch {
				case called == "panic":
					found(0, path, n, "panic")
				case strings.HasPrefix(method, "MustCompile") && !slices.ContainsFunc(n.Args, func(a ast.Expr) bool { _, constant := a.(*ast.BasicLit); return constant }):
					found(1, path, n, types.ExprString(n))
				case called == "json.Unmarshal" || called == "json.NewDecoder":
					found(2, path, n, "json")
				case called == "os.Exit" || strings.HasPrefix(called, "log.Fatal"):
					found(3, path, n, called)
				case (method == "Go" || method == "AfterFunc") && slices.ContainsFunc(guarded, skip) && !guards(n):
					found(4, path, n, function)
				}
			}
			return true
		})
		return nil
	})
	if err != nil || scanned < 100 {
		t.Errorf("%d files were read, %v", scanned, err)
	}
	for _, r := range rules {
		for key := range r.may {
			if !r.used[key] {
				t.Errorf("%s has %q, which is not there", r.name, key)
			}
		}
	}
}

// guards reports whether a goroutine recovers from a panic as it says itself: it
// runs in panics.Run or a guard.
func guards(call *ast.CallExpr) (ok bool) {
	ast.Inspect(call, func(n ast.Node) bool {
		if c, is := n.(*ast.CallExpr); is {
			called := types.ExprString(c.Fun)
			ok = ok || called == "panics.Run" || called == "guard" || strings.HasSuffix(called, ".guard")
		}
		return !ok
	})
	return ok
}

// maySkip is the only package that skips tests: by it a test that lacks what it
// needs fails in CI.
const maySkip = "internal/need/"

// maySleep are the functions that call time.Sleep outside a bubble of synctest, and
// the folders in which all that sleeps is in one. What runs in real time waits for a
// cause, with a limit: a context, a channel, servertest.Eventually.
var maySleep = map[string]string{
	"internal/broker/end_test.go: TestEndInTheStream": "its table is run in a bubble",
	"internal/datachannel/network_test.go: join":      "a network lives in a bubble",
	"internal/datachannel/stock_test.go: run":         "its network lives in a bubble",
	"internal/datachannel/stock_test.go: send":        "likewise",
	"internal/simulation/":                            "a World lives in a bubble",
}

// Tests skip by package need alone, and nothing sleeps in real time.
func TestNothingIsSkippedOrSleeps(t *testing.T) {
	files := token.NewFileSet()
	packages := map[string]map[string]*ast.File{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		path = filepath.ToSlash(path)
		file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		dir := path[:strings.LastIndexByte(path, '/')+1]
		if packages[dir] == nil {
			packages[dir] = map[string]*ast.File{}
		}
		packages[dir][path] = file
		return err
	})
	if err != nil || len(packages) < 30 {
		t.Fatalf("%d packages were read, %v", len(packages), err)
	}
	used := map[string]bool{}
	for dir, sources := range packages {
		bubbles := bubblesOf(sources)
		for path, file := range sources {
			function := ""
			var open []ast.Node // what encloses the node
			ast.Inspect(file, func(n ast.Node) bool {
				if n == nil {
					open = open[:len(open)-1]
					return true
				}
				open = append(open, n)
				switch n := n.(type) {
				case *ast.FuncDecl:
					function = n.Name.Name
				case *ast.SelectorExpr:
					if dir != maySkip && (n.Sel.Name == "Skip" || n.Sel.Name == "Skipf" || n.Sel.Name == "SkipNow") {
						t.Errorf("%v: %s skips; say with package need what is missing", files.Position(n.Pos()), types.ExprString(n))
					}
				}
				if !sleeps(open) || inBubble(open, bubbles) {
					return true
				}
				key := path + ": " + function
				if maySleep[dir] != "" {
					key = dir
				}
				used[key] = true
				if maySleep[key] == "" {
					t.Errorf("%v: it sleeps in real time, and is not in maySleep, under %q", files.Position(n.Pos()), key)
				}
				return true
			})
		}
	}
	for key := range maySleep {
		if !used[key] {
			t.Errorf("maySleep has %q, which does not sleep", key)
		}
	}
}

// sleeps reports whether the innermost of open is a call of time.Sleep, or waits for
// time.After and nothing else.
func sleeps(open []ast.Node) bool {
	n := open[len(open)-1]
	if len(open) > 1 {
		if _, is := open[len(open)-2].(*ast.CommClause); is {
			return false // one cause of several
		}
	}
	if wait, is := n.(*ast.ExprStmt); is {
		if receive, is := wait.X.(*ast.UnaryExpr); is && receive.Op == token.ARROW {
			call, is := receive.X.(*ast.CallExpr)
			return is && types.ExprString(call.Fun) == "time.After"
		}
	}
	call, is := n.(*ast.CallExpr)
	return is && types.ExprString(call.Fun) == "time.Sleep"
}

// bubblesOf are the functions of a package that run a function which they are given
// in a bubble: synctest.Test, and those that pass theirs on to it.
func bubblesOf(sources map[string]*ast.File) map[string]bool {
	bubbles := map[string]bool{"synctest.Test": true}
	for again := true; again; {
		again = false
		for _, file := range sources {
			for _, d := range file.Decls {
				f, is := d.(*ast.FuncDecl)
				if !is || f.Body == nil || bubbles[f.Name.Name] || strings.HasPrefix(f.Name.Name, "Test") {
					continue
				}
				ast.Inspect(f.Body, func(n ast.Node) bool {
					if call, is := n.(*ast.CallExpr); is && bubbles[types.ExprString(call.Fun)] {
						bubbles[f.Name.Name], again = true, true
					}
					return true
				})
			}
		}
	}
	return bubbles
}

// inBubble reports whether the innermost of open is in a function that is passed to
// one of bubbles.
func inBubble(open []ast.Node, bubbles map[string]bool) bool {
	for i, n := range open[1:] {
		if _, is := n.(*ast.FuncLit); !is {
			continue
		}
		if call, is := open[i].(*ast.CallExpr); is && bubbles[types.ExprString(call.Fun)] {
			return true
		}
	}
	return false
}

// unclear are the words that do not say which client, node, server, goroutine or
// caller is meant.
var unclear = regexp.MustCompile(`(?i)\b(nobody|anybody|somebody|whoever|whatever)\b`)

// Comments and documents name their subject.
func TestCommentsNameTheirSubject(t *testing.T) {
	files := token.NewFileSet()
	read := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path == "house_test.go" {
			return err
		}
		switch filepath.Ext(path) {
		case ".md":
			b, err := os.ReadFile(path)
			for n, line := range strings.Split(string(b), "\n") {
				if word := unclear.FindString(line); word != "" {
					t.Errorf("%s:%d: it says %q; name who or what is meant", path, n+1, word)
				}
			}
			return err
		case ".go":
			file, err := parser.ParseFile(files, path, nil, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			read++
			for _, group := range file.Comments {
				for _, c := range group.List {
					if word := unclear.FindString(c.Text); word != "" {
						t.Errorf("%v: it says %q; name who or what is meant", files.Position(c.Pos()), word)
					}
				}
			}
		}
		return nil
	})
	if err != nil || read < 100 {
		t.Errorf("%d files were read, %v", read, err)
	}
}

// A function given to store.DB.Update that used the database itself would wait for
// its own end, for ever on SQLite. So within one only its Tx gives views.
func TestUpdateUsesItsTransaction(t *testing.T) {
	views := strings.Fields("IAM Nodes Activations Sessions Documents Keys Meta Events Outbox Jobs Update")
	found := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") {
			return err
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			f, ok := n.(*ast.FuncLit)
			if !ok || len(f.Type.Params.List) != 1 || !strings.HasSuffix(types.ExprString(f.Type.Params.List[0].Type), "Tx") || len(f.Type.Params.List[0].Names) != 1 {
				return true
			}
			found++
			tx := f.Type.Params.List[0].Names[0].Name
			ast.Inspect(f.Body, func(n ast.Node) bool {
				if s, ok := n.(*ast.SelectorExpr); ok && slices.Contains(views, s.Sel.Name) {
					on := types.ExprString(s.X)
					if on == "db" || strings.HasSuffix(on, "Store") || strings.HasSuffix(on, "db()") {
						t.Errorf("%s: %s.%s is used within a transaction; use %s.%[3]s", fset.Position(s.Pos()), on, s.Sel.Name, tx)
					}
				}
				return true
			})
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if found == 0 {
		t.Error("no transaction was found")
	}
}
