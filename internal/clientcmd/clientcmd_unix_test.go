//go:build unix

package clientcmd

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestShellReadsWhatIsQuoted(t *testing.T) {
	args := []string{"", "it's", `\"$(date)`, "#", "a\nb", "~", "*", "漢", "!", "{a,b}", "=", "\t"}
	line, err := quote(args)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sh", "-c", `printf '%s\0' `+line).Output()
	if err != nil || string(out) != strings.Join(args, "\x00")+"\x00" {
		t.Errorf("%s is read as %q, %v", line, out, err)
	}
}

// A copy leaves out links, and directories unless it is asked for them, and names
// what it leaves out. (On Windows it takes a privilege to make a link.)
func TestCpLeavesOutLinks(t *testing.T) {
	const node = "mi-0123456789abcdef0"
	p := start(t)
	home := t.TempDir()
	t.Chdir(t.TempDir())
	plant(t, home, map[string]string{"d/a": "A"})
	os.Symlink("/etc/passwd", filepath.Join(home, "d", "link"))
	p.serveFiles(t, home)
	_, stderr, err := run(t, "", "cp", "-r", node+":d", ".")
	if err != Exit(1) || stderr != "sallyport: d/link is not copied: it is a symbolic link\n" {
		t.Errorf("err %v, stderr %q", err, stderr)
	}
	_, stderr, err = run(t, "", "cp", node+":d", ".")
	if err != Exit(1) || stderr != "sallyport: d is not copied: it is a directory; copy it with -r\n" {
		t.Errorf("err %v, stderr %q", err, stderr)
	}
}
