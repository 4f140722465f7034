package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/internal/server"
)

func stateFlag(cmd *cobra.Command, state *string) {
	cmd.Flags().StringVar(state, "state", os.Getenv("SALLYPORT_STATE"), "the server's state `directory` (default dev's or the server's, whichever runs)")
}

// admit asks the server with a state directory, or whichever of the usual ones
// runs, for its administrator's admission.
func admit(ctx context.Context, state string) (server.Admission, error) {
	if state != "" {
		return server.Admit(ctx, state)
	}
	var first error
	for _, what := range []string{"dev", "server"} {
		a, err := server.Admit(ctx, stateDir(what))
		if err == nil {
			return a, nil
		}
		if first == nil {
			first = err
		}
	}
	return server.Admission{}, first
}

func envCommand() *cobra.Command {
	var state string
	cmd := &cobra.Command{
		Use:   "env",
		Short: "Print what a shell needs to use a server on this machine",
		Long: `Print the environment that has aws, the AWS SDKs and sallyport use a server on
this machine, as its administrator, for twelve hours:

	eval "$(sallyport env)"

It works for the user who runs the server alone.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := admit(cmd.Context(), state)
			if err != nil {
				return err
			}
			return printEnv(a, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	stateFlag(cmd, &state)
	return cmd
}

// printEnv writes shell commands to out and what a person should know to notes.
func printEnv(a server.Admission, out, notes io.Writer) error {
	export := func(name, value string) { fmt.Fprintf(out, "export %s=%s\n", name, quote(value)) }

	// What would win over what follows.
	fmt.Fprintln(out, "unset AWS_PROFILE AWS_DEFAULT_PROFILE AWS_ENDPOINT_URL_SSM AWS_ENDPOINT_URL_STS AWS_ENDPOINT_URL_IAM AWS_ENDPOINT_URL_KMS AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")
	export("AWS_ENDPOINT_URL", a.Endpoint)
	export("AWS_REGION", a.Region)
	export("AWS_DEFAULT_REGION", a.Region)
	export("AWS_ACCESS_KEY_ID", a.AccessKeyID)
	export("AWS_SECRET_ACCESS_KEY", a.SecretAccessKey)
	export("AWS_SESSION_TOKEN", a.SessionToken)
	if a.CA != "" {
		bundle, err := writeBundle(a.CA)
		if err != nil {
			return err
		}
		export("AWS_CA_BUNDLE", bundle)
		export("SSL_CERT_FILE", bundle)
	}
	if dir, ok := pluginDir(); ok {
		fmt.Fprintf(out, "case \":$PATH:\" in *:%s:*) ;; *) export PATH=%s:\"$PATH\" ;; esac\n", quote(dir), quote(dir))
	}
	oldCLI(a.Endpoint, out, notes)
	return nil
}

// pluginDir is the directory of our own session-manager-plugin, if it is beside
// us: it comes first in PATH, because AWS's newest refuses servers that are not
// AWS's.
func pluginDir() (string, bool) {
	self, err := os.Executable()
	if err != nil {
		return "", false
	}
	dir := filepath.Dir(self)
	for _, name := range []string{"session-manager-plugin", "session-manager-plugin.exe"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return dir, true
		}
	}
	return "", false
}

// systemBundles are where systems keep the certificates they trust, as one
// file. (The list is crypto/x509's.)
var systemBundles = []string{
	"/etc/ssl/certs/ca-certificates.crt",
	"/etc/pki/tls/certs/ca-bundle.crt",
	"/etc/ssl/ca-bundle.pem",
	"/etc/pki/tls/cacert.pem",
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
	"/etc/ssl/cert.pem",
}

// writeBundle writes the system's certificates and our CA's to one file: the
// variables that name it replace the system's list, they do not add to it.
func writeBundle(ca string) (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a place for the CA bundle: %w", err)
	}
	dir = filepath.Join(dir, "sallyport")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("write CA bundle: %w", err)
	}
	var b []byte
	for _, name := range systemBundles {
		if b, err = os.ReadFile(name); err == nil {
			break
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("read the system's certificates: %w", err)
		}
	}
	if len(b) > 0 && b[len(b)-1] != '\n' {
		b = append(b, '\n')
	}
	b = append(b, ca...)
	sum := sha256.Sum256([]byte(ca)) // so that two servers' bundles are two files
	path := filepath.Join(dir, fmt.Sprintf("ca-bundle-%x.pem", sum[:6]))
	tmp, err := os.CreateTemp(dir, ".ca-*")
	if err != nil {
		return "", fmt.Errorf("write CA bundle: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(b)
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return "", fmt.Errorf("write CA bundle: %w", err)
	}
	return path, nil
}

// quote makes s one word of a POSIX shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// cliDir is a directory of an aws that has its version in its name: of AWS's own
// installer (…/aws-cli/v2/2.15.30/dist/aws), or Homebrew's.
var cliDir = regexp.MustCompile(`/(?:awscli|aws-cli/v2)/(\d+)\.(\d+)\.`)

// cliSource is where the Python package awscli has its version.
var cliSource = regexp.MustCompile(`(?m)^__version__ = '(\d+)\.(\d+)\.`)

// An awsVersion is a version of the aws CLI, without its last number.
type awsVersion struct{ major, minor int }

// honoursEndpoint reports whether the CLI heeds AWS_ENDPOINT_URL. (aws-cli's
// changelog: 1.29.0 and 2.13.0.)
func (v awsVersion) honoursEndpoint() bool {
	return v.major > 2 || v.major == 2 && v.minor >= 13 || v.major == 1 && v.minor >= 29
}

// installedCLI returns the version of the aws at a path as its installation says
// it. Running aws takes most of a second, and would be waited for.
func installedCLI(path string) (v awsVersion, known bool) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return awsVersion{}, false
	}
	m := cliDir.FindStringSubmatch(filepath.ToSlash(path))
	if m == nil {
		packages, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "..", "lib", "python3*", "*-packages", "awscli", "__init__.py"))
		for _, name := range packages {
			if b, err := os.ReadFile(name); err == nil && m == nil {
				m = cliSource.FindStringSubmatch(string(b))
			}
		}
	}
	if m == nil {
		return awsVersion{}, false
	}
	v.major, _ = strconv.Atoi(m[1])
	v.minor, _ = strconv.Atoi(m[2])
	return v, true
}

// oldCLI gives an aws that is too old to honour AWS_ENDPOINT_URL a function that
// says the same. Where the version is not known without running aws, the function
// asks for it when aws is first used.
func oldCLI(endpoint string, out, notes io.Writer) {
	path, err := exec.LookPath("aws")
	if errors.Is(err, exec.ErrNotFound) {
		fmt.Fprintln(notes, "sallyport: there is no aws on PATH; sallyport connect, nodes and sessions need none")
		return
	}
	if err != nil {
		return // it is there and cannot be run, which the shell says better
	}
	withEndpoint := fmt.Sprintf(`aws() { command aws --endpoint-url %s "$@"; }`, quote(endpoint))
	switch v, known := installedCLI(path); {
	case !known:
		fmt.Fprintf(out, `aws() { unset -f aws; case "$(command aws --version 2>&1)" in `+
			`aws-cli/1.[0-9].*|aws-cli/1.1[0-9].*|aws-cli/1.2[0-8].*|aws-cli/2.[0-9].*|aws-cli/2.1[0-2].*) %s ;; esac; aws "$@"; }`+"\n", withEndpoint)
	case !v.honoursEndpoint():
		fmt.Fprintf(notes, "sallyport: this aws, %d.%d, is too old to honour AWS_ENDPOINT_URL (1.29 and 2.13 do); a shell function adds --endpoint-url\n", v.major, v.minor)
		fmt.Fprintln(out, withEndpoint)
	}
}
