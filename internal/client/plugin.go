package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/sallyport/sallyport"
)

const (
	// responseVariable begins the name of the environment variable in which
	// the aws CLI hands over the answer to StartSession, since 1.2.497: argv is
	// for all to read.
	responseVariable = "AWS_SSM_START_SESSION_RESPONSE"

	pluginSilence = 30 * time.Second
	pluginWindow  = 10 * time.Minute // where there is no person to lose patience
)

// PluginMain is session-manager-plugin, as the aws CLI, Ansible and others run
// it, and returns its exit status. args are those of the process, its name
// included; env is its environment.
//
//	session-manager-plugin <response> <region> StartSession <profile> <request> <endpoint>
//
// The response is the JSON that StartSession, or ECS's ExecuteCommand, answered,
// or the name of an environment variable that holds it. What is missing at the
// end counts as empty. (session-manager-plugin
// src/sessionmanagerplugin/session/session.go.)
//
// The words on stdout are that program's, because programs look for them. The
// status is 0 as it is there, also after a failure: the CLI makes an error of any
// other. Only a signal that ends the program gives another, 128 and its number.
func PluginMain(args, env []string, stdin io.Reader, stdout, stderr io.Writer) int {
	call, done := readPluginCall(args, env, stdout)
	if done {
		return 0
	}
	if call.variable != "" {
		os.Unsetenv(call.variable) // so that no child of ours has the token
	}
	if call.err != nil {
		fmt.Fprintf(stdout, "Cannot perform start session: %s\n", sallyport.Printable(call.err.Error()))
		return 0
	}
	return call.run(context.Background(), stdin, stdout, stderr)
}

// A pluginCall is what the plugin was called to do.
type pluginCall struct {
	invitation Invitation
	settings   Settings
	pipes      bool   // by the document's name, it is Session.Pipes
	variable   string // held the response
	err        error  // it cannot be done
}

// readPluginCall reads the command line. It answers by itself, and is done,
// what is not a session.
func readPluginCall(args, env []string, stdout io.Writer) (call pluginCall, done bool) {
	switch n := len(args); {
	case n < 2:
		// aws ecs execute-command looks whether the plugin is there so.
		fmt.Fprint(stdout, "\nThe Session Manager plugin was installed successfully. Use the AWS CLI to start a session.\n\n")
		return call, true
	case n == 2 && args[1] == "--version":
		fmt.Fprintln(stdout, sallyport.WirePluginVersion)
		return call, true
	case n < 4:
		fmt.Fprintf(stdout, "\nUnknown operation %s. \nUse session-manager-plugin --version to check the version.\n\n", sallyport.Printable(sallyport.Clip(args[1], 100)))
		return call, true
	}
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	response := arg(1)
	if strings.HasPrefix(response, responseVariable) {
		// The last of several of one name is the one that counts.
		call.variable, response = response, ""
		for _, pair := range env {
			if value, ok := strings.CutPrefix(pair, call.variable+"="); ok {
				response = value
			}
		}
		if response == "" {
			call.err = fmt.Errorf("the environment has no %s", sallyport.Clip(call.variable, 100))
			return call, false
		}
	}
	if arg(3) != "StartSession" {
		fmt.Fprint(stdout, "Invalid Operation")
		return call, true
	}
	// arg 5 is the request. A session does not fail because it is not as it
	// should be.
	var asked StartSession
	json.Unmarshal([]byte(arg(5)), &asked)
	call.pipes = documentHasPipes(asked.DocumentName)
	call.settings = Settings{Region: arg(2), Profile: arg(4), Endpoint: arg(6)}

	var in invitation
	if err := json.Unmarshal([]byte(response), &in); err != nil {
		call.err = fmt.Errorf("the answer to StartSession is not JSON: %w", err)
		return call, false
	}
	call.invitation = in.value()
	call.invitation.Target = asked.Target
	if in.SessionID == "" || in.StreamURL == "" || in.TokenValue == "" {
		call.err = fmt.Errorf("the answer to StartSession lacks a SessionId, a StreamUrl or a TokenValue")
	}
	return call, false
}

// documentHasPipes reports whether a document is known to be for sessions
// without a terminal. AWS's ends know only once the node has said so, and in the
// meantime lose what is typed.
func documentHasPipes(name string) bool {
	_, short, arn := strings.Cut(name, "document/")
	if arn {
		name = short
	}
	return name == DocumentSSH || strings.HasPrefix(name, DocumentPort) || name == DocumentExec || name == "AWS-StartNonInteractiveCommand"
}

// run holds the session, and returns the exit status.
func (call *pluginCall) run(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) int {
	// ssh does not wait for the last words, and the CLI tells of a plugin that
	// they killed. A program that handles the signal is not killed.
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, syscall.SIGPIPE)
	defer signal.Stop(broken)

	id := call.invitation.SessionID
	// First of all: Ansible waits for it.
	fmt.Fprintf(stdout, "\nStarting session with SessionId: %s\n", id)

	c, err := call.client(ctx)
	if err != nil {
		fmt.Fprintf(stdout, "Cannot perform start session: %s\n", sallyport.Printable(err.Error()))
		return 0
	}
	watching, done := context.WithCancel(ctx)
	defer done()
	s := &Session{
		Client: c, Invitation: call.invitation,
		Stdin: stdin, Stdout: stdout, Stderr: stderr,
		Stock: true, Silence: pluginSilence, Pipes: call.pipes,
		HungUp: call.hungUp(watching),
	}
	if terminalFile(stdin) == nil {
		s.Window = pluginWindow
	}
	end, err := s.Run(ctx)
	if err != nil {
		fmt.Fprintf(stdout, "Cannot perform start session: %s\n", sallyport.Printable(Explain(err)))
		return 0
	}
	switch {
	case end.How == Expired:
		fmt.Fprintf(stdout, "Session: %s timed out.\n", id)
	case end.How == Drained: // says nothing: stdout is the connection's
	case end.How == Deserted:
		fmt.Fprintf(stdout, "Cannot perform start session: %v\n", io.EOF)
	case end.How == Abandoned:
		fmt.Fprintf(stdout, "Cannot perform start session: the interrupt did not reach the command\n")
		return 255
	case end.Output != "":
		fmt.Fprintf(stdout, "\n\nSessionId: %s : %s\n\n", id, end.Output)
	default:
		fmt.Fprintf(stdout, "\n\nExiting session with sessionId: %s.\n\n", id)
	}
	if end.How == Killed {
		return end.Status()
	}
	return 0
}

// hungUp is closed when the aws CLI that called has gone, which waits for this
// program: one that was killed would leave the port of a session taken. The CLI is
// told from others by how it hands over the response. Another program may end on
// purpose and leave this one, as ssh -f and launchers do: nil.
func (call *pluginCall) hungUp(ctx context.Context) <-chan struct{} {
	if call.variable == "" {
		return nil
	}
	return parentGone(ctx)
}

// client loads the person's settings. Settings that cannot be read do not stop
// a session whose endpoint is known: the token lets one in, and only resuming
// needs a key. The CLI has read the same files with other rules.
func (call *pluginCall) client(ctx context.Context) (*Client, error) {
	c, err := Load(ctx, call.settings)
	if err == nil || call.settings.Endpoint == "" {
		return c, err
	}
	if c, bare := call.settings.client(ctx, aws.Config{Region: call.settings.Region}); bare == nil {
		return c, nil
	}
	return nil, err
}
