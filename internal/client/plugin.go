package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/sallyport/sallyport"
)

// responseVariable is what the name of the variable begins with in which newer
// versions of the aws CLI hand over the answer of StartSession, because
// arguments are seen by everybody on the machine. Callers may add to the name.
const responseVariable = "AWS_SSM_START_SESSION_RESPONSE"

// PluginMain is session-manager-plugin, as the aws CLI, ECS's commands and
// Ansible run it, and returns its exit status. Args begin with the program's
// name. (session-manager-plugin src/sessionmanagerplugin/session/session.go.)
//
//	1  the answer of StartSession, or the name of a variable that holds it
//	2  the region
//	3  "StartSession"
//	4  the profile
//	5  the request, for its Target
//	6  the endpoint of Systems Manager that answered
//
// What it prints is what programs that run the plugin look for. It returns 0
// for every session that was one: the aws CLI takes anything else for a
// failure of its own.
func PluginMain(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	switch {
	case len(args) <= 1: // ECS's commands look whether the plugin is there
		fmt.Fprint(stdout, "\nThe Session Manager plugin was installed successfully. Use the AWS CLI to start a session.\n\n")
		return 0
	case len(args) == 2 && args[1] == "--version":
		fmt.Fprintln(stdout, sallyport.WirePluginVersion)
		return 0
	case len(args) < 4:
		fmt.Fprintf(stdout, "\nUnknown operation %s. \nUse \"session-manager-plugin --version\" to check the version.\n\n", sallyport.Clip(args[1], 80))
		return 0
	}
	at := func(i int) string { // a missing tail is empty
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	if at(3) != "StartSession" {
		fmt.Fprintln(stdout, "Invalid Operation")
		return 0
	}
	text := at(1)
	if strings.HasPrefix(text, responseVariable) {
		name := text
		text = os.Getenv(name)
		os.Unsetenv(name) // so that no program we start inherits the token
	}
	var answer invitation
	if err := json.Unmarshal([]byte(text), &answer); err != nil || answer.SessionID == "" || answer.StreamURL == "" {
		fmt.Fprintln(stdout, "Cannot perform start session: the answer of StartSession is missing or is not JSON")
		return 0
	}
	var request struct{ Target string }
	json.Unmarshal([]byte(at(5)), &request) // only for the target, and nothing here needs one

	ctx := context.Background()
	c, err := Load(ctx, Settings{Endpoint: at(6), Region: at(2), Profile: at(4)})
	if err != nil {
		fmt.Fprintf(stdout, "Cannot perform start session: %v\n", err)
		return 0
	}
	fmt.Fprintf(stdout, "\nStarting session with SessionId: %s\n", answer.SessionID)
	s := &Session{Client: c, Invitation: answer.value(), Stdin: stdin, Stdout: stdout, Stderr: stderr, Stock: true}
	end, err := s.Run(ctx)
	switch {
	case err != nil:
		fmt.Fprintf(stdout, "Cannot perform start session: %s\n", Explain(err))
	case end.How == Expired:
		fmt.Fprintf(stdout, "\n\nSession: %s timed out.\n\n", answer.SessionID)
	case end.Output != "":
		fmt.Fprintf(stdout, "\n\nSessionId: %s : %s\n\n", answer.SessionID, end.Output)
	default:
		fmt.Fprintf(stdout, "\n\nExiting session with sessionId: %s.\n\n", answer.SessionID)
	}
	return 0
}
