//go:build unix

package pty

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A rule that was written here is taken back; one that another wrote is kept, and
// is an error if it is about the user.
func TestDenySudo(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, sudoersFile)
	if err := denySudo(dir, "ann"); err != nil {
		t.Errorf("without a rule: %v", err)
	}
	if err := denySudo(filepath.Join(dir, "nowhere"), "ann"); err != nil {
		t.Errorf("without sudo: %v", err)
	}
	if err := allowSudo(dir, "ann"); err != nil {
		t.Fatal(err)
	}
	if err := denySudo(dir, "ann"); err != nil {
		t.Errorf("of its own rule: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its own rule is there: %v", err)
	}
	for rule, wrong := range map[string]bool{
		"ann ALL=(ALL) ALL\n":                        true,
		"# of ours\n\tann\tALL=(ALL) NOPASSWD:ALL\n": true,
		sudoRule("ann") + "# and a line more\n":      true,
		sudoRule("bob"):                              false,
		"annette ALL=(ALL) ALL\n":                    false,
		"# ann ALL=(ALL) ALL\n":                      false,
	} {
		if err := os.WriteFile(path, []byte(rule), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := denySudo(dir, "ann"); (err != nil) != wrong || wrong && !strings.Contains(err.Error(), path+" gives ann sudo") {
			t.Errorf("%q: %v", rule, err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != rule {
			t.Errorf("%q became %q, %v", rule, b, err)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := denySudo(dir, "ann"); err == nil {
		t.Error("a rule that cannot be read was taken for none")
	}
}
