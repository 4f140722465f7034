//go:build unix

package statedir

import (
	"os"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/need"
)

// A directory of another user's, in which others may write, is not taken.
func TestAnotherUsersDirectory(t *testing.T) { need.Root(t, testAnotherUsersDirectory) }

func testAnotherUsersDirectory(t *testing.T) {
	theirs := t.TempDir()
	if err := os.Chown(theirs, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	os.Chmod(theirs, 0o777)
	if err := Prepare(theirs); err == nil || !strings.Contains(err.Error(), "belongs to another user (12345)") {
		t.Errorf("another user's, where others may write: %v", err)
	}
}
