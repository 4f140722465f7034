package pty

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
)

// LoginShell returns how to start the user's shell.
func (u User) LoginShell() (path string, args []string) {
	return u.Shell, []string{u.Shell, "-NoLogo"}
}

func lookupUser(_ context.Context, key string) (User, error) {
	u, err := user.Lookup(key)
	if err != nil {
		return User{}, fmt.Errorf("%w: %w", ErrNoUser, err)
	}
	return fromSystem(u), nil
}

func currentUser(context.Context) (User, error) {
	u, err := user.Current()
	if err != nil {
		return User{}, fmt.Errorf("look up current user: %w", err)
	}
	return fromSystem(u), nil
}

// fromSystem gives the user a shell: accounts of Windows have none.
func fromSystem(u *user.User) User {
	root := os.Getenv("SystemRoot")
	if root == "" {
		root = `C:\Windows`
	}
	return User{
		Name: u.Username, UID: -1, GID: -1, Home: u.HomeDir,
		Shell: filepath.Join(root, `System32\WindowsPowerShell\v1.0\powershell.exe`),
	}
}
