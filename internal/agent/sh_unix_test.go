//go:build unix

package agent_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/sallyport/sallyport/internal/agent"
)

// Programs that read what a shell shows, as Ansible's connection aws_ssm of
// community.aws 5.5, get a shell that shows nothing of its own where the agent's
// Shell is sh, or the preferences have it so. What is typed here is what that
// connection types. (plugins/connection/aws_ssm.py, _prepare_terminal and
// _wrap_command.)
func TestPlainShell(t *testing.T) {
	for name, set := range map[string]func(m *machine){
		"of the agent": func(m *machine) { m.agent = func(a *agent.Agent) { a.Shell = "/bin/sh" } },
		"of the preferences": func(m *machine) {
			_, err := m.client.CreateDocument(t.Context(), &ssm.CreateDocumentInput{
				Name: aws.String("SSM-SessionManagerRunShell"), DocumentType: types.DocumentTypeSession,
				Content: aws.String(`{"schemaVersion":"1.0","sessionType":"Standard_Stream","inputs":{"shellProfile":{"linux":"exec sh"}}}`),
			})
			if err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := start(t)
			set(m)
			m.run()
			s := m.shell()
			s.type_("stty -echo\n")
			s.expect("stty -echo")
			s.type_("PS1='' ; printf '\\n%s\\n' 'ready'\n")
			s.expect(`\r\nready\r\n`)
			s.type_("printf '%s\\n' 'begin';\necho | sh -c 'echo one; exit 3';\nprintf '\\n%s\\n%s\\n' \"$?\" 'end';\n")
			if shown := s.expect(`(?s)(.*end\r\n)`)[1]; shown != "begin\r\none\r\n\r\n3\r\nend\r\n" {
				t.Errorf("shown is %q", shown)
			}
			s.type_("echo \"$0 $SHELL\"; case $- in *i*) echo interactive; esac\n")
			shown := s.expect(`(\S+) (\S+)\r\ninteractive\r\n`)
			if !regexp.MustCompile(`^(/bin/)?sh$`).MatchString(shown[1]) || name == "of the agent" && shown[2] != "/bin/sh" {
				t.Errorf("it is %s, with SHELL=%s", shown[1], shown[2])
			}
			s.type_("exit 4\n")
			if c := s.closed(); strings.Contains(c.Output, "rror") {
				t.Errorf("told %q", c.Output)
			}
		})
	}
}
