package sallyport_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// sizes are how many bytes a program may have, stripped, for linux on amd64. A
// change that needs more raises its program's size and says why. What goes
// beyond by surprise is often a package that keeps the linker from dropping
// methods, such as text/template.
var sizes = map[string]int64{
	"sallyport":       32e6,
	"sallyport-agent": 9e6,
}

func TestSizes(t *testing.T) {
	dir := t.TempDir()
	for name, most := range sizes {
		program := filepath.Join(dir, name)
		build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "./cmd/"+name)
		build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", name, err, out)
		}
		info, err := os.Stat(program)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s has %d bytes", name, info.Size())
		if info.Size() > most {
			t.Errorf("%s has %d bytes, and may have %d", name, info.Size(), most)
		}
	}
}
