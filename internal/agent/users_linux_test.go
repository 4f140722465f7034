package agent_test

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/sallyport/sallyport/internal/agent"
	"github.com/sallyport/sallyport/internal/need"
	"github.com/sallyport/sallyport/internal/store"
)

// elsewhere is where users can be made: an /etc and a /home that only this test
// sees, and in which there are no users of the host's.
const elsewhere = `set -e
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work
mount -t overlay overlay -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work /etc
mount -t tmpfs tmpfs /home
rm -rf /etc/sudoers.d
mkdir /etc/sudoers.d
printf '%s\n' root:x:0:0:root:/root:/bin/sh nobody:x:65534:65534::/nonexistent:/bin/false >/etc/passwd
printf '%s\n' root:x:0: tty:x:5: games:x:60: users:x:100: nogroup:x:65534: >/etc/group
printf '%s\n' 'root:*:19000:0:99999:7:::' 'nobody:*:19000:0:99999:7:::' >/etc/shadow
printf '%s\n' 'root:*::' 'tty:*::' 'games:*::' 'users:*::' 'nogroup:*::' >/etc/gshadow
printf '%s\n' 'passwd: files' 'group: files' 'shadow: files' 'hosts: files dns' >/etc/nsswitch.conf
exec "$0" "$@"`

// Whom sessions run as. It makes users, and goes to a mount namespace for it.
func TestUsers(t *testing.T) {
	if os.Getenv("SALLYPORT_ELSEWHERE") != "" {
		testUsers(t)
		return
	}
	need.Root(t, testUsersElsewhere)
}

func testUsersElsewhere(t *testing.T) {
	c := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", elsewhere, os.Args[0], "-test.run", "^TestUsers$", "-test.v")
	c.Env = append(os.Environ(), "SALLYPORT_ELSEWHERE=1")
	out, err := c.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && (!errors.As(err, &exit) || !strings.Contains(string(out), "=== RUN")) {
		need.Missing(t, fmt.Sprintf("there is no mount namespace: install Debian's package util-linux, and run it where the kernel allows namespaces: %v: %s", err, out))
	}
	if err != nil || !strings.Contains(string(out), "--- PASS: TestUsers") {
		t.Errorf("%v: %s", err, out)
	}
}

func testUsers(t *testing.T) {
	for _, name := range []string{"ann", "toor"} {
		args := []string{"--create-home", "--shell", "/bin/sh", name}
		if name == "toor" {
			args = append([]string{"--non-unique", "--uid", "0", "--gid", "0"}, args...)
		}
		if out, err := exec.Command("/usr/sbin/useradd", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if out, err := exec.Command("/usr/sbin/usermod", "-aG", "games,users", "ann").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	m := start(t)
	m.agent = func(a *agent.Agent) {
		a.SSMUser = true
		a.Log = slog.New(slog.DiscardHandler)
	}
	stop := m.run()

	// No other user is named: ssm-user, made now, with a rule that lets it be root.
	sh := m.shell()
	sh.type_("echo $(id -un) $HOME $(stat -c %U $(tty)) $SHELL; exit\r")
	sh.expect("ssm-user /home/ssm-user ssm-user /bin/")
	rule, err := os.Stat("/etc/sudoers.d/ssm-agent-users")
	if err != nil || rule.Mode().Perm() != 0o440 {
		t.Errorf("rule for sudo: %v, %v", rule, err)
	}
	left, err := os.ReadDir("/etc/sudoers.d")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		if strings.HasPrefix(e.Name(), ".ssm") {
			t.Errorf("%s is left behind", e.Name())
		}
	}

	// An agent that is to keep the user from sudo takes the rule back, and does not
	// go on beside one that it did not write.
	again := func(noSudo bool) {
		stop()
		m.agent = func(a *agent.Agent) {
			a.SSMUser, a.NoSudo = true, noSudo
			a.Log = slog.New(slog.DiscardHandler)
		}
		stop = m.run()
	}
	again(true)
	asked := m.call("Sallyport-Exec", map[string][]string{"command": {"id -un"}})
	asked.shake(recent, 1)
	if out, _, _ := asked.until(); out != "ssm-user\n" {
		t.Errorf("a command runs as %q", out)
	}
	if _, err := os.Stat("/etc/sudoers.d/ssm-agent-users"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("with --no-sudo the rule is there: %v", err)
	}
	if err := os.WriteFile("/etc/sudoers.d/ssm-agent-users", []byte("ssm-user ALL=(ALL) ALL\n"), 0o440); err != nil {
		t.Fatal(err)
	}
	if closed := m.shell().closed(); !strings.Contains(closed.Output, "/etc/sudoers.d/ssm-agent-users gives ssm-user sudo") {
		t.Errorf("with another's rule: %q", closed.Output)
	}
	again(false)

	// A second session finds the user, and leaves the rule alone.
	if err := os.Remove("/etc/sudoers.d/ssm-agent-users"); err != nil {
		t.Fatal(err)
	}
	c := m.call("Sallyport-Exec", map[string][]string{"command": {"id -un"}})
	c.shake(recent, 1)
	if out, _, _ := c.until(); out != "ssm-user\n" {
		t.Errorf("a command runs as %q", out)
	}
	if _, err := os.Stat("/etc/sudoers.d/ssm-agent-users"); err == nil {
		t.Error("a rule that somebody removed was made again")
	}

	// Run As: the user that the preferences, or the caller's tag, name; no other.
	update := func(inputs string) {
		t.Helper()
		content := fmt.Sprintf(`{"schemaVersion":"1.0","sessionType":"Standard_Stream","inputs":{"runAsEnabled":true,%s}}`, inputs)
		_, err := m.client.CreateDocument(t.Context(), &ssm.CreateDocumentInput{Name: aws.String("SSM-SessionManagerRunShell"), DocumentType: types.DocumentTypeSession, Content: &content})
		if err != nil {
			_, err = m.client.UpdateDocument(t.Context(), &ssm.UpdateDocumentInput{Name: aws.String("SSM-SessionManagerRunShell"), DocumentVersion: aws.String("$LATEST"), Content: &content})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	update(`"runAsDefaultUser":"ann"`)
	sh = m.shell()
	sh.type_("echo $(id -un) $(id -Gn | tr ' ' '\\n' | sort | tr '\\n' ,) $PWD; exit\r")
	sh.expect("ann ann,games,users, /home/ann")

	refused := func(inputs, want string) {
		t.Helper()
		update(inputs)
		sh := m.shell()
		if closed := sh.closed(); closed.Output != want {
			t.Errorf("told %q, want %q", closed.Output, want)
		}
	}
	refused(`"runAsDefaultUser":"new_user"`, "Unable to start command: failed to start pty since RunAs user new_user does not exist.")
	refused(`"runAsDefaultUser":"toor"`, "Unable to start command: invalid uid and gid: sessions do not run as root, and toor is 0:0")

	bob := m.User("bob", `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"ssm:*","Resource":"*"}}`)
	if err := m.Store.IAM().Tag(t.Context(), store.User("bob"), map[string]string{"SSMSessionRunAs": "ann"}); err != nil {
		t.Fatal(err)
	}
	m.client, m.creds = m.SSM(bob), bob
	sh = m.shell()
	sh.type_("id -un; exit\r")
	sh.expect("ann\r\n")
}
