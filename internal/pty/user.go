package pty

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// A User is an account of this machine, as its password database has it.
type User struct {
	Name     string
	UID, GID int // -1 on Windows
	Home     string
	Shell    string
}

// ErrNoUser is that the machine has no user of that name or number.
var ErrNoUser = errors.New("no such user")

// userPattern is what a name may be that is given to another program: nothing
// that would be taken for an option, or for more than one word. It is wider
// than useradd's, since directories have names like CORP\ann and ann@corp.
var userPattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.@+\\-]*\$?$`)

const maxUserName = 257 // bytes

// LookupUser asks the system, its directories included, for the user with a
// name or number.
func LookupUser(ctx context.Context, key string) (User, error) {
	if len(key) > maxUserName || !userPattern.MatchString(key) {
		return User{}, fmt.Errorf("look up user %.64q: not a name a user may have", key)
	}
	u, err := lookupUser(ctx, key)
	if err != nil {
		return User{}, fmt.Errorf("look up user %s: %w", key, err)
	}
	return u, nil
}

// CurrentUser returns whom we run as. It makes do when the system does not
// know the user, as in a container that was given just a number.
func CurrentUser(ctx context.Context) (User, error) { return currentUser(ctx) }

// parseUser reads one line of a password database: seven fields, or the ten of
// BSD's.
func parseUser(line string) (u User, err error) {
	f := strings.Split(strings.TrimRight(line, "\r\n"), ":")
	switch len(f) {
	case 7:
	case 10: // name:password:uid:gid:class:change:expire:gecos:home:shell
		f = append(f[:4], f[7:]...)
	default:
		return User{}, fmt.Errorf("read password database: %d fields in a line", len(f))
	}
	u = User{Name: f[0], Home: f[5], Shell: f[6]}
	if u.UID, err = strconv.Atoi(f[2]); err != nil {
		return User{}, fmt.Errorf("read password database: user ID %q", f[2])
	}
	if u.GID, err = strconv.Atoi(f[3]); err != nil {
		return User{}, fmt.Errorf("read password database: group ID %q", f[3])
	}
	if u.Name == "" || u.UID < 0 || u.GID < 0 {
		return User{}, errors.New("read password database: a line has no name")
	}
	if u.Home == "" {
		u.Home = "/"
	}
	if u.Shell == "" {
		u.Shell = "/bin/sh" // passwd(5)
	}
	return u, nil
}

// is reports whether u is whom key asked for.
func (u User) is(key string) bool { return u.Name == key || strconv.Itoa(u.UID) == key }
