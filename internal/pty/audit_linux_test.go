package pty

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/need"
)

// All that a session does is its user's in the audit log, and no thread of this
// process is left with the user's number.
func TestAuditLoginUID(t *testing.T) { need.Root(t, testAuditLoginUID) }

func testAuditLoginUID(t *testing.T) {
	own := func() string {
		b, err := os.ReadFile("/proc/thread-self/loginuid")
		if err != nil {
			need.Missing(t, fmt.Sprintf("the kernel keeps no login uids: run it on one that was built with CONFIG_AUDIT: %v", err))
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
