package store

import (
	"testing"

	"github.com/sallyport/sallyport/internal/need"
)

// The same as TestFullDisk on a file system that is really full: a small one in
// memory, which only a child process of this one sees.
func TestFullFileSystem(t *testing.T) {
	out := need.Namespace(t, `mount -t tmpfs -o size=2m tmpfs "$1" && head -c 512k /dev/zero >"$1/ballast" && exec "$0" fill-disk "$1"`, t.TempDir())
	if out != "ok\n" {
		t.Errorf("child: %s", out)
	}
}
