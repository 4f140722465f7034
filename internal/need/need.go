// Package need says what a test needs of the machine that it runs on: root, a
// program, a namespace. Where that is missing [Missing] skips the test with what to
// install; where CI is set it fails the test, because .ci/run installs all that the
// suite needs, and a CI that has lost something would go on being green.
//
// Tests skip through this package alone: house_test.go refuses any other call of
// Skip. A test for one system is in a file that is built for that system, and one
// that is no part of the suite has a build tag.
package need

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// CI reports whether what a test needs must be there.
func CI() bool { return os.Getenv("CI") != "" }

// Missing ends a test that lacks what it needs. The text says what is missing and
// what to do about it: "there is no aws CLI: install the package awscli".
func Missing(tb testing.TB, text string) {
	tb.Helper()
	if CI() {
		tb.Fatal("CI is set, and " + text)
	}
	tb.Skip(text)
}

// Partly is [Missing] for what only a part of a test needs: outside CI the rest
// runs, and the test's log says what was left out.
func Partly(tb testing.TB, text string) {
	tb.Helper()
	if CI() {
		tb.Fatal("CI is set, and " + text)
	}
	tb.Log("a part of this test is left out: " + text)
}

// Program is the path of a program, which a Debian package has.
func Program(tb testing.TB, name, debian string) string {
	tb.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Missing(tb, noProgram(name, debian))
	}
	return path
}

// PartlyProgram is [Partly] for a program.
func PartlyProgram(tb testing.TB, name, debian string) {
	tb.Helper()
	if _, err := exec.LookPath(name); err != nil {
		Partly(tb, noProgram(name, debian))
	}
}

func noProgram(name, debian string) string {
	return "there is no program " + name + ": install Debian's package " + debian + " or its like"
}

// Root runs test if this process is root's. In CI an ordinary user has sudo, and
// the test runs in a process that sudo starts.
func Root(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	switch {
	case os.Geteuid() == 0:
		test(t)
	case !CI():
		t.Skip("it takes root: run it with sudo")
	default:
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		name := "^" + strings.ReplaceAll(t.Name(), "/", "$/^") + "$"
		out, err := exec.CommandContext(t.Context(), "sudo", "--non-interactive", "--preserve-env", self, "-test.run", name, "-test.v").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
			t.Fatalf("CI is set, and it takes root, or sudo without a password: %v: %s", err, out)
		}
	}
}
