package clientcmd

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/internal/client"
	"github.com/sallyport/sallyport/internal/wire"
)

func TestQuote(t *testing.T) {
	tests := []struct {
		args []string
		want string
	}{
		{[]string{"true"}, "true"},
		{[]string{"ls", "-l", "/var/log"}, "ls -l /var/log"},
		{[]string{"echo", ""}, "echo ''"},
		{[]string{"sh", "-c", "df -h | wc -l"}, "sh -c 'df -h | wc -l'"},
		{[]string{"echo", "it's"}, `echo 'it'\''s'`},
		{[]string{"echo", "'"}, `echo ''\'''`},
		{[]string{"echo", `a\b`, `"c"`, "$HOME", "#no", "~", "*", "A=b"}, `echo 'a\b' '"c"' '$HOME' '#no' '~' '*' 'A=b'`},
		{[]string{"echo", "one\ntwo\t"}, "echo 'one\ntwo\t'"},
		{[]string{"echo", "漢字"}, "echo '漢字'"},
	}
	for _, tt := range tests {
		got, err := quote(tt.args)
		if err != nil || got != tt.want {
			t.Errorf("quote(%q) = %s, %v; want %s", tt.args, got, err, tt.want)
		}
	}
	for _, bad := range []string{"\xff", "a\x00b"} {
		if got, err := quote([]string{"echo", bad}); err == nil {
			t.Errorf("quote(%q) = %s", bad, got)
		}
	}
}

// What is quoted is split back to the same, by a shell and by what the agents
// split with.
func FuzzQuote(f *testing.F) {
	f.Add("true", "", "it's")
	f.Add("sh", "-c", "echo \"$1\" '\\'' # \\\n")
	f.Add("#", "\\", "\r\u2028")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		args := []string{a, b, c}
		line, err := quote(args)
		if err != nil {
			return // it is no text, or has a zero byte: no shell takes it
		}
		if got, err := shlex(line); err != nil || !slices.Equal(got, args) {
			t.Fatalf("%q is quoted %s, and split %q, %v", args, line, got, err)
		}
	})
}

// shlex splits as github.com/google/shlex does, which AWS's agent uses: quotes,
// backslashes and comments, and no more of a shell.
func shlex(line string) (words []string, err error) {
	var (
		word    []rune
		inWord  bool
		quoted  rune
		escaped bool
		comment bool
	)
	for _, c := range line {
		switch {
		case comment:
			comment = c != '\n'
		case escaped:
			word, escaped = append(word, c), false
		case quoted == '\'' && c != '\'', quoted == '"' && c != '"' && c != '\\':
			word = append(word, c)
		case quoted != 0 && c == quoted:
			quoted = 0
		case c == '\\':
			escaped, inWord = true, true
		case c == '\'' || c == '"':
			quoted, inWord = c, true
		case strings.ContainsRune(" \t\r\n", c):
			if inWord {
				words, word, inWord = append(words, string(word)), nil, false
			}
		case c == '#' && !inWord:
			comment = true
		default:
			word, inWord = append(word, c), true
		}
	}
	if quoted != 0 || escaped {
		return nil, errors.New("the line ends in the middle of a word")
	}
	if inWord {
		words = append(words, string(word))
	}
	return words, nil
}

func TestExec(t *testing.T) {
	seven := 7
	tests := []struct {
		name   string
		args   []string
		stdin  string
		offers []string
		closed wire.ChannelClosed
		exit   string // the message; "" for none
		err    error
		stdin2 string // that the command had
		stderr string
	}{
		{"a command that succeeds", []string{"mi-0123456789abcdef0", "--", "true"}, "", ours, wire.ChannelClosed{}, "EXIT_CODE: 0", nil, "", "err"},
		{"its status is the exit status", []string{"mi-0123456789abcdef0", "--", "true"}, "", ours, wire.ChannelClosed{}, "EXIT_CODE: 3", Exit(3), "", "err"},
		{"or what the control plane says of it", []string{"mi-0123456789abcdef0", "--", "true"}, "", ours, wire.ChannelClosed{ExitStatus: &seven}, "", Exit(7), "", "err"},
		{"its input is ours", []string{"mi-0123456789abcdef0", "--", "cat"}, "a\n\x03b", ours, wire.ChannelClosed{}, "EXIT_CODE: 0", nil, "a\n\x03b", "err"},
		{"unless it is to be left alone", []string{"mi-0123456789abcdef0", "-n", "--", "cat"}, "for others", ours, wire.ChannelClosed{}, "EXIT_CODE: 0", nil, "", "err"},
		{"an agent of AWS's gives it none", []string{"mi-0123456789abcdef0", "--", "cat"}, "lost", nil, wire.ChannelClosed{}, "EXIT_CODE: 0", nil, "", "not read\n"},
		{"which nobody misses who has none", []string{"mi-0123456789abcdef0", "cat"}, "", nil, wire.ChannelClosed{}, "EXIT_CODE: 0", nil, "", "err"},
		{"somebody else ends it", []string{"mi-0123456789abcdef0", "--", "true"}, "", ours, wire.ChannelClosed{Output: "Terminated by bob."}, "", Exit(255), "", "sallyport: session " + session + " ended: Terminated by bob.\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := start(t)
			input := make(chan string, 1)
			p.plays[client.DocumentExec] = func(e *end) {
				e.shake("NonInteractiveCommands", nil, tt.offers)
				if tt.offers != nil {
					input <- string(e.until(wire.FlagEndOfInput))
				} else {
					input <- ""
				}
				e.tell(wire.KindOutput, []byte("out"))
				e.tell(wire.KindStdErr, []byte("err"))
				if tt.exit != "" {
					e.tell(wire.KindExitCode, []byte(tt.exit))
				}
				e.close(tt.closed)
			}
			stdout, stderr, err := run(t, tt.stdin, append([]string{"exec"}, tt.args...)...)
			if err != tt.err || stdout != "out" || !strings.Contains(stderr, tt.stderr) || tt.stderr == "err" && stderr != "err" {
				t.Errorf("err %v, stdout %q, stderr %q", err, stdout, stderr)
			}
			if got := <-input; got != tt.stdin2 {
				t.Errorf("the command read %q", got)
			}
			var asked client.StartSession
			json.Unmarshal([]byte(p.body("StartSession")), &asked)
			if want := tt.args[len(tt.args)-1]; asked.Target != "mi-0123456789abcdef0" || len(asked.Parameters) != 1 || asked.Parameters["command"][0] != want {
				t.Errorf("asked for %+v", asked)
			}
			if p.count["DescribeInstanceInformation"]+p.count["TerminateSession"] != 0 {
				t.Errorf("calls: %v", p.count)
			}
		})
	}
	t.Run("a control plane without the document", func(t *testing.T) {
		p := start(t)
		p.answers["StartSession"] = `{"__type":"InvalidDocument","Message":"Document with name Sallyport-Exec does not exist."}`
		_, stderr, err := run(t, "", "exec", "mi-0123456789abcdef0", "--", "true")
		if err != Exit(255) || stderr != "sallyport: Document with name Sallyport-Exec does not exist. With AWS itself, use --document AWS-StartNonInteractiveCommand\n" {
			t.Errorf("err %v, stderr %q", err, stderr)
		}
	})
	t.Run("a command that is no text", func(t *testing.T) {
		p := start(t)
		if _, _, err := run(t, "", "exec", "mi-0123456789abcdef0", "--", "\xff"); err != Exit(255) || p.count["StartSession"] != 0 {
			t.Errorf("err %v", err)
		}
	})
}

// A command that was given up over a stalled connection is 255, and a sentence.
func TestAbandoned(t *testing.T) {
	var said strings.Builder
	c := &cobra.Command{}
	c.SetErr(&said)
	if err := conclude(c, "ann-0123456789abcdef0", client.Ending{How: client.Abandoned}); err != Exit(255) {
		t.Errorf("%v", err)
	}
	if want := "sallyport: left session ann-0123456789abcdef0, which has been ended: the interrupt did not reach the command\n"; said.String() != want {
		t.Errorf("%q, want %q", said.String(), want)
	}
}
