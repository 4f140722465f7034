//go:build unix

package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/server"
)

// An aws of any age reaches the endpoint, and none is run before it is used.
func TestOldCLI(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	const with, without = "called --endpoint-url https://sallyport.example ssm help\n", "called ssm help\n"
	for _, tc := range []struct {
		name string
		path string // of the program
		says string // to --version
		file string // beside it
		text string // of the file
		note string
		want string
	}{
		{name: "old, unknown", path: "bin/aws", says: "aws-cli/2.12.7 Python/3.11.3 Linux/6.1", want: with},
		{name: "very old, unknown", path: "bin/aws", says: "aws-cli/1.22.34 Python/3.10.12 Linux/5.15 botocore/1.23.34", want: with},
		{name: "new, unknown", path: "bin/aws", says: "aws-cli/2.13.0 Python/3.11.3 Linux/6.1", want: without},
		{name: "new 1, unknown", path: "bin/aws", says: "aws-cli/1.45.11 Python/3.11.7 Linux/6.1", want: without},
		{name: "old, of Debian", path: "bin/aws", file: "lib/python3/dist-packages/awscli/__init__.py", text: "import os\n__version__ = '2.9.19'\n", note: "2.9, is too old", want: with},
		{name: "new, of pip", path: "bin/aws", file: "lib/python3.12/site-packages/awscli/__init__.py", text: "__version__ = '1.40.2'\n", want: without},
		{name: "old, of the installer", path: "aws-cli/v2/2.4.1/dist/aws", note: "2.4, is too old", want: with},
		{name: "new, of Homebrew", path: "Cellar/awscli/2.31.0/bin/aws", want: without},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			write := func(name, text string) string {
				path := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
					t.Fatal(err)
				}
				return path
			}
			program := write(tc.path, "#!"+sh+"\nif test \"$1\" = --version; then echo '"+tc.says+"'; touch "+dir+"/ran; else echo \"called $*\"; fi\n")
			if tc.file != "" {
				write(tc.file, tc.text)
			}
			path := filepath.Join(dir, "path")
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(program, filepath.Join(path, "aws")); err != nil {
				t.Fatal(err)
			}
			t.Setenv("PATH", path+":"+os.Getenv("PATH"))
			var out, notes strings.Builder
			oldCLI("https://sallyport.example", &out, &notes)
			if _, err := os.Stat(dir + "/ran"); err == nil {
				t.Error("aws was run")
			}
			if tc.note == "" && notes.Len() > 0 || !strings.Contains(notes.String(), tc.note) {
				t.Errorf("notes are %q, want %q", notes.String(), tc.note)
			}
			// Twice, since the function that asks for the version removes itself.
			got, err := exec.Command(sh, "-c", out.String()+"\naws ssm help; aws ssm help").CombinedOutput()
			if err != nil || string(got) != tc.want+tc.want {
				t.Errorf("%s\nsaid %q, %v, want %q twice", out.String(), got, err, tc.want)
			}
		})
	}
	t.Setenv("PATH", t.TempDir())
	var out, notes strings.Builder
	oldCLI("https://sallyport.example", &out, &notes)
	if out.Len() > 0 || !strings.Contains(notes.String(), "no aws on PATH") {
		t.Errorf("without aws: %q, %q", out.String(), notes.String())
	}
}

// What would win over what env exports is unset: an endpoint of any service that
// there is here, a profile, and what has endpoints ignored.
func TestEnvUnsetsWhatWouldWin(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := printEnv(server.Admission{Endpoint: "https://sallyport.example", Region: "home-1"}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(sh, "-c", out.String()+"\nenv")
	for _, name := range []string{"AWS_ENDPOINT_URL_SSM", "AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL_IAM", "AWS_ENDPOINT_URL_KMS", "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"} {
		cmd.Env = append(cmd.Env, name+"=of-another-cloud")
	}
	got, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(got), "of-another-cloud") || !strings.Contains(string(got), "AWS_ENDPOINT_URL=https://sallyport.example\n") {
		t.Errorf("%v:\n%s", err, got)
	}
}
