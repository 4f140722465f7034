//go:build unix

package pty

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// LoginShell returns how to start the user's shell so that it knows it is the
// first: with a hyphen before its name, as login(1) does.
func (u User) LoginShell() (path string, args []string) {
	return u.Shell, []string{"-" + filepath.Base(u.Shell)}
}

// lookupUser runs the program that asks the system's directories (NSS, or
// Directory Services), because without cgo nothing in this process can. Failing
// that it reads the file.
func lookupUser(ctx context.Context, key string) (User, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second) // a directory may be far away
	defer cancel()
	for _, argv := range whoIs {
		if _, err := os.Stat(argv[0]); err != nil {
			continue
		}
		cmd := exec.CommandContext(ctx, argv[0], append(argv[1:len(argv):len(argv)], key)...)
		cmd.Env = []string{"LC_ALL=C"}
		out, err := cmd.Output()
		if err != nil {
			break // it is not there, or cannot be asked
		}
		if u, err := parseUser(string(out)); err == nil && u.is(key) {
			return u, nil
		}
		break
	}
	f, err := os.Open("/etc/passwd")
	if err != nil {
		return User{}, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if u, err := parseUser(lines.Text()); err == nil && u.is(key) {
			return u, nil
		}
	}
	return User{}, ErrNoUser
}

func currentUser(ctx context.Context) (User, error) {
	u, err := LookupUser(ctx, strconv.Itoa(os.Getuid()))
	if err == nil || !errors.Is(err, ErrNoUser) {
		return u, err
	}
	u = User{Name: os.Getenv("USER"), UID: os.Getuid(), GID: os.Getgid(), Home: os.Getenv("HOME"), Shell: os.Getenv("SHELL")}
	if len(u.Name) > maxUserName || !userPattern.MatchString(u.Name) {
		u.Name = strconv.Itoa(u.UID)
	}
	if !filepath.IsAbs(u.Home) {
		u.Home = "/"
	}
	if !filepath.IsAbs(u.Shell) || strings.HasSuffix(u.Shell, "/nologin") {
		u.Shell = "/bin/sh"
	}
	return u, nil
}
