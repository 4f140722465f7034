package pty

import (
	"context"
	"errors"
	"os/exec"
)

// CanSwitch reports false: Windows has no such thing.
func CanSwitch() bool { return false }

// CredentialOf has nothing to say on Windows.
func CredentialOf(context.Context, User) (*Credential, error) {
	return nil, errors.New("Windows has no users by number") //lint:ignore ST1005 a name
}

// EnsureUser does nothing on Windows.
func EnsureUser(context.Context, string, bool) error { return nil }

// startAs starts cmd. Windows has no other user to start it as.
func startAs(cmd *exec.Cmd, _ *Credential) error { return cmd.Start() }
