package sallyport_test

import (
	"encoding/json"
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
	"internal/wire":      "",
	"internal/sigv4":     "",
	"internal/policy":    "",
	"internal/keyring":   "",
	"internal/asciicast": "",
	"internal/panics":    "",
	"internal/route":     "",
	"internal/rawio":     "",
	"internal/pty":       "rawio",
	"internal/socket":    "rawio wire",

	// What both ends of a session share: the machine's and the person's.
	"internal/datachannel": "panics wire",
	"internal/mux":         "panics",
	"internal/endpoint":    "sigv4 socket",

	// The two ends. They meet the server on the wire alone.
	"internal/agent":     "panics wire sigv4 datachannel mux socket asciicast pty endpoint",
	"internal/agentcmd":  "agent endpoint",
	"internal/client":    "wire sigv4 datachannel mux rawio socket asciicast endpoint",
	"internal/clientcmd": "client endpoint",

	// The control plane.
	"internal/document":        "wire",
	"internal/store":           "keyring panics",
	"internal/record":          "wire asciicast",
	"internal/broker":          "panics store record keyring route wire",
	"internal/gateway":         "broker panics route socket store wire",
	"internal/api":             "keyring panics policy sigv4 store",
	"internal/api/ssm":         "api broker document route store wire",
	"internal/api/ssmmessages": "api broker",
	"internal/api/ec2messages": "api",
	"internal/api/iam":         "api policy store",
	"internal/api/sts":         "api policy store",
	"internal/api/kms":         "api keyring policy store",
	"internal/server": "api api/ssm api/ssmmessages api/ec2messages api/iam api/kms api/sts " +
		"broker gateway keyring panics rawio record route store",

	"internal/simulation": "agent asciicast client pty record server store",
	"internal/servertest": "agent api datachannel endpoint server socket store wire",
	"internal/bench":      "client endpoint rawio server socket wire",
	"internal/interop":    "",
	"cmd/sallyport":       "agent agentcmd client clientcmd endpoint server",
	"cmd/sallyport-agent": "agentcmd",
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
	for _, name := range []string{"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/aws.md", "docs/limits.md"} {
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
