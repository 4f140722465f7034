package agent

import (
	"errors"
	"fmt"

	"github.com/sallyport/sallyport/internal/pty"
)

// SSMUser is the user that sessions run as unless Run As names another. (User guide, "Turn
// on or turn off ssm-user account administrative permissions".)
const SSMUser = "ssm-user"

// user returns the user that the session runs as: elevated, the agent's; with Run
// As, the one that the task names, and never another; otherwise ssm-user where the
// agent was told so. as is nil for the agent's own user.
func (s *session) user(elevated bool) (u pty.User, as *pty.Credential, err error) {
	m := s.agent.machine()
	in := s.task.DocumentContent.Inputs
	name := ""
	switch {
	case elevated:
	case bool(in.RunAsEnabled):
		if name = s.task.RunAsUser; name == "" {
			name = in.RunAsDefaultUser
		}
		if name == "" {
			return u, nil, errors.New("please set the RunAs default user")
		}
		if !m.CanSwitch() {
			return u, nil, errors.New("the agent must run as root to use RunAs")
		}
	case s.agent.SSMUser && m.CanSwitch():
		name = SSMUser
		if err := m.EnsureUser(s.ctx, name, !s.agent.NoSudo); err != nil {
			return u, nil, err
		}
	}
	if name == "" {
		u, err = m.CurrentUser(s.ctx)
		return u, nil, err
	}
	u, err = m.LookupUser(s.ctx, name)
	switch {
	case errors.Is(err, pty.ErrNoUser):
		//lint:ignore ST1005 AWS's words, full stop and all
		return u, nil, fmt.Errorf("failed to start pty since RunAs user %s does not exist.", name)
	case err != nil:
		return u, nil, err
	case u.UID == 0 || u.GID == 0:
		return u, nil, fmt.Errorf("invalid uid and gid: sessions do not run as root, and %s is %d:%d", name, u.UID, u.GID)
	}
	as, err = m.CredentialOf(s.ctx, u)
	return u, as, err
}
