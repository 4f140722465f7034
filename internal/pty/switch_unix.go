//go:build unix

package pty

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// CanSwitch reports whether this process may start programs as another user.
func CanSwitch() bool { return os.Geteuid() == 0 }

// CredentialOf returns what it takes to be a user: the number, the group, and
// the other groups, directories' included.
func CredentialOf(ctx context.Context, u User) (*Credential, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	path, err := firstOf("/usr/bin/id", "/bin/id")
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, "-G", u.Name)
	cmd.Env = []string{"LC_ALL=C"}
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("read groups of %s: %w", u.Name, err)
	}
	c := &Credential{UID: uint32(u.UID), GID: uint32(u.GID)}
	for _, text := range strings.Fields(string(out)) {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("read groups of %s: %q is no number", u.Name, text)
		}
		c.Groups = append(c.Groups, uint32(n))
	}
	return c, nil
}

func firstOf(paths ...string) (string, error) {
	for _, p := range paths {
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s is not on this machine", filepath.Base(paths[0]))
}

// sudoers is where sudo looks, and what says that a user may do everything. The
// names are the stock agent's (agent/session/utility/utility_unix.go), so that tools
// that manage the file find it.
const (
	sudoersDir  = "/etc/sudoers.d"
	sudoersFile = "ssm-agent-users"
)

// EnsureUser makes a user with a home, if there is none of that name. One that
// it makes may become root, if sudo is true and this machine has sudo; one that
// is there stays as it is. If sudo is false, the rule that an earlier call wrote
// is removed; a rule that another program or person wrote is an error.
func EnsureUser(ctx context.Context, name string, sudo bool) error {
	if !sudo {
		if err := denySudo(sudoersDir, name); err != nil {
			return err
		}
	}
	if _, err := LookupUser(ctx, name); !errors.Is(err, ErrNoUser) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if runtime.GOOS == "darwin" {
		if err := run(ctx, "/usr/sbin/sysadminctl", "-addUser", name); err != nil {
			return fmt.Errorf("make user %s: %w", name, err)
		}
	} else {
		path, err := firstOf("/usr/sbin/useradd", "/sbin/useradd", "/usr/bin/useradd")
		if err != nil {
			return fmt.Errorf("make user %s: %w", name, err)
		}
		shell := "/bin/sh"
		if bash, err := firstOf("/bin/bash", "/usr/bin/bash"); err == nil {
			shell = bash
		}
		if err := run(ctx, path, "--create-home", "--shell", shell, name); err != nil {
			return fmt.Errorf("make user %s: %w", name, err)
		}
	}
	if !sudo {
		return nil
	}
	if err := allowSudo(sudoersDir, name); err != nil && !errors.Is(err, fs.ErrNotExist) { // no sudo here
		return fmt.Errorf("let %s use sudo: %w", name, err)
	}
	return nil
}

// allowSudo writes a rule, whole or not at all, and at no time is it writable by
// other users. Sudo does not read files with a dot in their names.
func allowSudo(dir, name string) error {
	rule := sudoRule(name)
	path := filepath.Join(dir, sudoersFile)
	if _, err := os.Lstat(path); err == nil {
		return nil // there is a rule, and the administrator may have changed it
	}
	temp := filepath.Join(dir, "."+sudoersFile+".new")
	os.Remove(temp)
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o440)
	if err != nil {
		return err
	}
	defer os.Remove(temp)
	_, err = f.WriteString(rule)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Link(temp, path) // not over what is there
}

func sudoRule(name string) string {
	return "# Who opens a session on this machine may become root.\n" + name + " ALL=(ALL) NOPASSWD:ALL\n"
}

// denySudo removes the rule that allowSudo wrote.
func denySudo(dir, name string) error {
	path := filepath.Join(dir, sudoersFile)
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("keep %s from sudo: %w", name, err)
	case string(b) == sudoRule(name):
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("keep %s from sudo: %w", name, err)
		}
		return nil
	}
	for line := range strings.Lines(string(b)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == name {
			return fmt.Errorf("%s gives %s sudo, and the agent, which is to keep it from that, did not write it; remove the file", path, name)
		}
	}
	return nil
}

func run(ctx context.Context, path string, args ...string) error {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %.500s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
