package client

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/wire"
)

const (
	response    = `{"SessionId":"s-1","TokenValue":"t-1","StreamUrl":"wss://h/x"}`
	ecsResponse = `{"sessionId":"ecs-1","streamUrl":"wss://h/x","tokenValue":"t-1"}`
	ansible     = `{"SessionId":"s-1","TokenValue":"t-1","StreamUrl":"wss://h/x","ResponseMetadata":{"RequestId":"r","HTTPStatusCode":200,"HTTPHeaders":{"content-type":"application/x-amz-json-1.1"},"RetryAttempts":0}}`
	request     = `{"Target":"mi-0123456789abcdef0"}`
	planeURL    = "https://ssm.example.com"
	version     = sallyport.WirePluginVersion + "\n"
	installed   = "\nThe Session Manager plugin was installed successfully. Use the AWS CLI to start a session.\n\n"
)

func TestPluginCalls(t *testing.T) {
	full := Settings{Region: "home-1", Profile: "work", Endpoint: planeURL}
	tests := []struct {
		name     string
		args     []string // after the program's name
		env      []string
		id       string // of the session to join; "" if it is none
		settings Settings
		variable string
		stdout   string // of a call that is no session
		err      string
	}{
		{name: "no arguments, as aws ecs execute-command asks", stdout: installed},
		{name: "version", args: []string{"--version"}, stdout: version},
		{name: "an operation nobody knows", args: []string{"help"}, stdout: "\nUnknown operation help. \nUse session-manager-plugin --version to check the version.\n\n"},
		{name: "too few arguments", args: []string{response, "home-1"}, stdout: "\nUnknown operation " + response + ". \nUse session-manager-plugin --version to check the version.\n\n"},
		{name: "another operation", args: []string{response, "home-1", "StopSession", "", request, planeURL}, stdout: "Invalid Operation"},

		{name: "all arguments", args: []string{response, "home-1", "StartSession", "work", request, planeURL}, id: "s-1", settings: full},
		{name: "more than all", args: []string{response, "home-1", "StartSession", "work", request, planeURL, "and", "more"}, id: "s-1", settings: full},
		{name: "no endpoint", args: []string{response, "home-1", "StartSession", "work", request}, id: "s-1", settings: Settings{Region: "home-1", Profile: "work"}},
		{name: "the oldest CLI's", args: []string{response, "home-1", "StartSession"}, id: "s-1", settings: Settings{Region: "home-1"}},
		{name: "the environment", args: []string{responseVariable, "home-1", "StartSession", "work", request, planeURL}, env: []string{"A=b", responseVariable + "=" + response}, id: "s-1", settings: full, variable: responseVariable},
		{name: "the environment, by a longer name", args: []string{responseVariable + "_7", "home-1", "StartSession", "work", request, planeURL}, env: []string{responseVariable + "=" + ecsResponse, responseVariable + "_7=" + response}, id: "s-1", settings: full, variable: responseVariable + "_7"},
		{name: "ECS's keys", args: []string{ecsResponse, "home-1", "StartSession", "work", `{"Target":"ecs:c_t_r"}`, planeURL}, id: "ecs-1", settings: full},
		{name: "all that boto3 answered, from Ansible", args: []string{ansible, "home-1", "StartSession", "work", request, planeURL}, id: "s-1", settings: full},
		{name: "a request without a target", args: []string{response, "home-1", "StartSession", "work", `{}`, planeURL}, id: "s-1", settings: full},
		{name: "a request whose target is no text", args: []string{response, "home-1", "StartSession", "work", `{"Target":[7]}`, planeURL}, id: "s-1", settings: full},
		{name: "a request that is no JSON", args: []string{response, "home-1", "StartSession", "work", `}`, planeURL}, id: "s-1", settings: full},

		{name: "a variable that is not there", args: []string{responseVariable, "home-1", "StartSession", "work", request, planeURL}, err: "the environment has no " + responseVariable, settings: Settings{}, variable: responseVariable},
		{name: "a response that is no JSON", args: []string{"{", "home-1", "StartSession", "work", request, planeURL}, err: "not JSON", settings: full},
		{name: "a response that is another JSON", args: []string{"[]", "home-1", "StartSession", "work", request, planeURL}, err: "not JSON", settings: full},
		{name: "a response without a token", args: []string{`{"SessionId":"s-1","StreamUrl":"wss://h/x"}`, "home-1", "StartSession", "work", request, planeURL}, id: "s-1", err: "lacks", settings: full},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stdout bytes.Buffer
			call, done := readPluginCall(append([]string{"session-manager-plugin"}, tt.args...), tt.env, &stdout)
			if done != (tt.stdout != "") || stdout.String() != tt.stdout {
				t.Fatalf("done = %v, stdout %q, want %q", done, stdout.String(), tt.stdout)
			}
			if call.invitation.SessionID != tt.id || call.variable != tt.variable {
				t.Errorf("read %+v", call)
			}
			if !done && call.settings != tt.settings {
				t.Errorf("settings %+v, want %+v", call.settings, tt.settings)
			}
			switch {
			case tt.err == "" && call.err != nil:
				t.Error(call.err)
			case tt.err != "" && (call.err == nil || !strings.Contains(call.err.Error(), tt.err)):
				t.Errorf("error %v, want %q", call.err, tt.err)
			}
		})
	}
}

// The aws CLI waits for the plugin, so that a CLI that has gone was killed. Another
// program may leave the plugin on.
func TestPluginWatchesTheCLI(t *testing.T) {
	env := []string{responseVariable + "=" + response}
	for handed, watches := range map[string]bool{responseVariable: true, response: false} {
		call, _ := readPluginCall([]string{"session-manager-plugin", handed, "home-1", "StartSession"}, env, io.Discard)
		ctx, cancel := context.WithCancel(t.Context())
		if (call.hungUp(ctx) != nil) != watches {
			t.Errorf("given %.40s, the plugin watches its parent: %v", handed, !watches)
		}
		cancel()
	}
}

// However the plugin is called, it does not panic, and says something.
func FuzzPluginCall(f *testing.F) {
	for _, r := range []string{response, ecsResponse, ansible, "{", "", "null", responseVariable} {
		f.Add(uint8(7), r, "home-1", "StartSession", "", request, planeURL)
	}
	f.Fuzz(func(t *testing.T, n uint8, a, b, c, d, e, g string) {
		args := []string{"session-manager-plugin", a, b, c, d, e, g}[:n%8%7+1]
		var stdout bytes.Buffer
		call, done := readPluginCall(args, []string{responseVariable + "=" + a}, &stdout)
		if done == (stdout.Len() == 0) {
			t.Fatalf("done = %v, stdout %q", done, stdout.String())
		}
		if !done && call.err == nil && call.invitation.Token.Empty() {
			t.Fatal("a session without a token")
		}
	})
}

func TestPluginMain(t *testing.T) {
	start := "\nStarting session with SessionId: " + testSession + "\n"
	tests := []struct {
		name   string
		shell  func(p *plane)
		stdin  string
		stream string // "" is the plane's
		want   string // on stdout
	}{
		{"the shell ends", func(p *plane) { p.show("$ "); p.end("", nil) }, "", "", start + "$ \n\nExiting session with sessionId: " + testSession + ".\n\n"},
		{"it is ended for a reason", func(p *plane) { p.show("$ "); p.end("Terminated by bob.", nil) }, "", "", start + "$ \n\nSessionId: " + testSession + " : Terminated by bob.\n\n"},
		{"it is over when it is resumed", func(p *plane) {
			p.show("$ ")
			p.typed("\x04")
			p.mu.Lock()
			p.over = true
			p.mu.Unlock()
			p.cut()
		}, "", "", start + "$ Session: " + testSession + " timed out.\n"},
		{"what was piped in is typed, and its output shown", func(p *plane) {
			p.show("$ ")
			p.typed("date\n\x04")
			p.show("Monday\n")
			p.end("", nil)
		}, "date\n", "", start + "$ Monday\n\n\nExiting session with sessionId: " + testSession + ".\n\n"},
		{"a command says its status in words", func(p *plane) {
			p.show("out ")
			p.node.SendMessage(p.t.Context(), wire.KindStdErr, []byte("err "))
			p.node.SendMessage(p.t.Context(), wire.KindExitCode, []byte("EXIT_CODE: 3"))
			p.end("", nil)
		}, "", "", start + "out err EXIT_CODE: 3\n\nExiting session with sessionId: " + testSession + ".\n\n"},
		{"a stream that is elsewhere", nil, "", "wss://evil.example.com/x", start + "Cannot perform start session: the session's stream is at evil.example.com, but the control plane that answered is at 127.0.0.1; if that is as it should be, set SALLYPORT_STREAM_HOST=evil.example.com\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPlane(t)
			address, bundle := p.serveTLS()
			setAWS(t, bundle)
			inv := p.invitation()
			if tt.stream != "" {
				inv.StreamURL = tt.stream
			}
			t.Setenv(responseVariable, fmt.Sprintf(`{"SessionId":%q,"TokenValue":%q,"StreamUrl":%q}`, inv.SessionID, inv.Token.Reveal(), inv.StreamURL))

			played := make(chan struct{})
			go func() {
				defer close(played)
				if tt.shell != nil {
					p.waitSockets(1)
					tt.shell(p)
				}
			}()
			var stdout, stderr bytes.Buffer
			args := []string{"session-manager-plugin", responseVariable, "home-1", "StartSession", "", request, address}
			status := PluginMain(args, os.Environ(), strings.NewReader(tt.stdin), &stdout, &stderr)
			<-played
			if status != 0 || stdout.String() != tt.want || stderr.Len() > 0 {
				t.Errorf("status %d, stdout\n%q\nwant\n%q\nstderr %q", status, stdout.String(), tt.want, stderr.String())
			}
			if _, there := os.LookupEnv(responseVariable); there {
				t.Error("the token is still in the environment")
			}
			if tt.stream == "" && !p.signed[0] {
				t.Error("the socket's request is not signed")
			}
		})
	}
}
