package pty

import (
	"io"
	"os"
	"strings"
	"testing"
)

// Whatever a session does is its user's in the audit log, and no thread of ours
// is left with their number.
func TestAuditLoginUID(t *testing.T) {
	own := func() string {
		b, err := os.ReadFile("/proc/thread-self/loginuid")
		if err != nil || os.Geteuid() != 0 {
			t.Skipf("it takes root, and a kernel that keeps login uids: %v", err)
		}
		return string(b)
	}
	before := own()
	const nobody = 65534
	for range 20 {
		term, err := Start(Command{Path: "/bin/cat", Args: []string{"cat", "/proc/self/loginuid"}, Dir: "/", As: &Credential{UID: nobody, GID: nobody}})
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(term)
		if err != nil || !strings.HasPrefix(string(b), "65534") {
			t.Errorf("its login uid is %q, %v", b, err)
		}
		term.Close()
		if after := own(); after != before {
			t.Fatalf("ours was %s, and is %s", before, after)
		}
	}
	p, err := StartPipes(Command{Path: "/bin/cat", Args: []string{"cat", "/proc/self/loginuid"}, Dir: "/", As: &Credential{UID: nobody, GID: nobody}}, false, false)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if b, err := io.ReadAll(p.Stdout); err != nil || string(b) != "65534" {
		t.Errorf("a command's login uid is %q, %v", b, err)
	}
}
