//go:build unix

package agentcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sallyport/sallyport/internal/agent"
)

const upgradeHelp = `

A hang-up (SIGHUP) upgrades it in place: the program at the path it was started
from, which may have been replaced, goes on in the same process with the same
arguments, and shells live on. Ports, commands and file copies end, and say why.
If that program is no good, nothing happens but a line in the log. With systemd
that is ExecReload=/bin/kill -HUP $MAINPID and systemctl reload.`

// handoverEnv is how a program that takes over is told so: the descriptor of
// what was left to it, or that it is only asked whether it could.
const (
	handoverEnv = "SALLYPORT_AGENT_HANDOVER"
	askOnly     = "ask"
)

// answerWithin is how long the next program has to say that it can take over.
const answerWithin = 10 * time.Second

// takesOver is what a program says that can, with the arguments it is to run
// with.
var takesOver = fmt.Sprintf("takes over %d", agent.HandoverVersion)

// upgradeOnHangUp has the agent become the next program at a hang-up, and takes
// up what the one before left. Only is true if the agent is not to run: this
// program was only asked whether it could take over. An agent in the foreground
// of a terminal still ends with it, by stop.
func upgradeOnHangUp(a *agent.Agent, stop func(), out io.Writer) (only bool, err error) {
	inherited := os.Getenv(handoverEnv)
	os.Unsetenv(handoverEnv) // no child's business
	if inherited == askOnly {
		fmt.Fprintln(out, takesOver)
		return true, nil
	}
	if inherited != "" {
		fd, err := strconv.Atoi(inherited)
		if err != nil || fd <= 2 {
			return false, fmt.Errorf("%s is %q, and no descriptor; only an agent sets it", handoverEnv, inherited)
		}
		unix.CloseOnExec(fd)
		a.Inherited = os.NewFile(uintptr(fd), "handover")
	}
	path, err := ownPath()
	if err != nil {
		return false, err
	}
	mayHangUp := !signal.Ignored(syscall.SIGHUP) && hasTerminal()
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGHUP)
	a.Upgrade = agent.Upgrade{
		Asked: asked,
		Ready: func(ctx context.Context) error {
			if mayHangUp && !hasTerminal() {
				stop()
				return errors.New("its terminal is gone: the agent stops")
			}
			return ask(ctx, path)
		},
		Exec: func(state *os.File, terminals []int) error {
			defer signal.Notify(asked, syscall.SIGHUP)
			signal.Ignore(syscall.SIGHUP) // which a program that has not come this far would die of
			return become(path, state, terminals)
		},
	}
	return false, nil
}

// ownPath is where this program was started from, and where its next version
// will be: links in it are not followed, for they may be what is replaced.
func ownPath() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	path, err := exec.LookPath(os.Args[0])
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil || !sameFile(path, self) {
		return self, nil
	}
	return path, nil
}

func sameFile(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// hasTerminal reports whether this process has a terminal that could hang up.
func hasTerminal() bool {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

// ask runs the next program, to hear from itself that it runs, knows its
// arguments, and can take over.
func ask(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, path)
	cmd.Args = os.Args
	cmd.Env = append(os.Environ(), handoverEnv+"="+askOnly)
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	switch exit := (*exec.ExitError)(nil); {
	case ctx.Err() != nil:
		return fmt.Errorf("%s did not say within %v whether it can take over", path, answerWithin)
	case errors.As(err, &exit):
		return fmt.Errorf("%s does not run as this agent does: %w: %.500s", path, err, strings.TrimSpace(string(exit.Stderr)))
	case err != nil:
		return fmt.Errorf("%s does not run: %w", path, err)
	case strings.TrimSpace(string(out)) != takesOver:
		return fmt.Errorf("%s cannot take over from this version: it says %.100q, not %q; restart the agent when no session is on", path, strings.TrimSpace(string(out)), takesOver)
	}
	return nil
}

// become executes the program in this process. It returns only if it fails.
func become(path string, state *os.File, terminals []int) error {
	fd := int(state.Fd())
	// Nothing else that is started meanwhile may inherit them.
	syscall.ForkLock.Lock()
	defer syscall.ForkLock.Unlock()
	for _, fd := range append(terminals, fd) {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("hand descriptor %d over: %w", fd, err)
		}
		defer unix.CloseOnExec(fd)
	}
	err := syscall.Exec(path, os.Args, append(os.Environ(), handoverEnv+"="+strconv.Itoa(fd)))
	return fmt.Errorf("execute %s: %w", path, err)
}
