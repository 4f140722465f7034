//go:build unix

package agentcmd

import (
	"strings"
	"testing"
)

func TestCheckShell(t *testing.T) {
	for path, words := range map[string]string{
		"": "", "/bin/sh": "", "sh": "begins with a slash", "/bin": "is no program", "/none/sh": "no such file", "/etc/passwd": "is no program",
	} {
		got, err := checkShell(path)
		if words == "" && (err != nil || got != path) || words != "" && (err == nil || !strings.Contains(err.Error(), words)) {
			t.Errorf("%q: %q, %v", path, got, err)
		}
	}
}
