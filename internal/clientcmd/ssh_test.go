package clientcmd

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/client"
	"github.com/sallyport/sallyport/internal/wire"
)

func TestSSHProxy(t *testing.T) {
	tests := []struct {
		name   string
		args   []string
		port   string
		closed wire.ChannelClosed
		err    error
		stderr string
	}{
		{"to sshd", []string{"mi-0123456789abcdef0"}, "22", wire.ChannelClosed{}, nil, ""},
		{"to another port, of a node by its name", []string{"web", "2222"}, "2222", wire.ChannelClosed{}, nil, ""},
		{"to a node by its name, as ssh has it", []string{"WEB.sallyport"}, "22", wire.ChannelClosed{}, nil, ""},
		{"ended by somebody else", []string{"mi-0123456789abcdef0"}, "22", wire.ChannelClosed{Output: "Terminated by bob."}, Exit(255), "sallyport: session " + session + " ended: Terminated by bob.\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := start(t)
			p.answers["DescribeInstanceInformation"] = nodes
			said := make(chan string, 1)
			p.plays[client.DocumentSSH] = func(e *end) {
				e.shake("Port", wire.PortProperties{PortNumber: tt.port}, ours)
				e.tell(wire.KindOutput, []byte("SSH-2.0-there\n"))
				said <- string(e.next().Payload)
				e.tell(wire.KindOutput, []byte("\x00bye"))
				e.close(tt.closed)
			}
			stdout, stderr, err := run(t, "\n\x03~.", append([]string{"ssh-proxy"}, tt.args...)...)
			if err != tt.err || stdout != "SSH-2.0-there\n\x00bye" || stderr != tt.stderr {
				t.Errorf("err %v, stdout %q, stderr %q", err, stdout, stderr)
			}
			if got := <-said; got != "\n\x03~." {
				t.Errorf("the node has %q", got)
			}
			var asked client.StartSession
			json.Unmarshal([]byte(p.body("StartSession")), &asked)
			if asked.Parameters["portNumber"][0] != tt.port {
				t.Errorf("asked for %+v", asked)
			}
		})
	}
	for _, port := range []string{"0", "ssh", "65536"} {
		if _, stderr, err := run(t, "", "ssh-proxy", "mi-0123456789abcdef0", port); err != Exit(255) || !strings.HasSuffix(stderr, "is no port\n") {
			t.Errorf("port %s: err %v, stderr %q", port, err, stderr)
		}
	}
}

func TestSSHConfig(t *testing.T) {
	start(t).answers["DescribeInstanceInformation"] = nodes // with keys in the environment
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	stdout, stderr, err := run(t, "", "ssh-config")
	want := "# Nodes of Sallyport, by ID, by name.sallyport, and by name.\nHost mi-* i-* *.sallyport\n\tProxyCommand " + program + " ssh-proxy %h %p\n" +
		"Host db1\n\tHostKeyAlias mi-00000000000000006\n\tProxyCommand " + program + " ssh-proxy mi-00000000000000006 %p\n" +
		"Host web\n\tHostKeyAlias mi-00000000000000001\n\tProxyCommand " + program + " ssh-proxy mi-00000000000000001 %p\n" // and not db or old, which two nodes are called
	if err != nil || stderr != "" || stdout != want {
		t.Errorf("%q, %q, %v", stdout, stderr, err)
	}
	t.Setenv("SALLYPORT_REGION", "home-1")
	stdout, stderr, err = run(t, "", "ssh-config", "--profile", "at work", "--endpoint-url", "https://x.example/a%b")
	if want := "ssh-proxy --endpoint-url https://x.example/a%%b --profile 'at work' --region home-1 %h %p\n"; err != nil || !strings.HasSuffix(stdout, want) {
		t.Errorf("%q, %v", stdout, err)
	}
	if !strings.Contains(stderr, "nodes are not listed by name") {
		t.Errorf("said %q", stderr)
	}
}

func TestProxyCommand(t *testing.T) {
	tests := []struct {
		system string
		args   []string
		want   string
	}{
		{"linux", []string{"/usr/bin/sallyport", "ssh-proxy"}, "/usr/bin/sallyport ssh-proxy"},
		{"darwin", []string{"/Users/it's me/bin/sallyport"}, `'/Users/it'\''s me/bin/sallyport'`},
		{"linux", []string{"/opt/100%/sallyport"}, "/opt/100%%/sallyport"},
		{"windows", []string{`C:\Program Files\Sallyport\sallyport.exe`, "ssh-proxy"}, `"C:\Program Files\Sallyport\sallyport.exe" ssh-proxy`},
		{"windows", []string{`C:\bin\sallyport.exe`}, `C:\bin\sallyport.exe`},
	}
	for _, tt := range tests {
		if got := proxyCommand(tt.args, tt.system); got != tt.want {
			t.Errorf("on %s: %s, want %s", tt.system, got, tt.want)
		}
	}
}

// A name can stand for a node only if it is a host's name, one node's alone, and
// was given to it here: a computer may call itself like any host.
func TestSSHHosts(t *testing.T) {
	var got []string
	for _, n := range sshHosts([]client.Node{
		{InstanceID: "mi-00000000000000001", Name: "web-2"},
		{InstanceID: "mi-00000000000000002", Name: "web-1", ComputerName: "github.com"},
		{InstanceID: "mi-00000000000000003", Name: "", ComputerName: "gitlab"},
		{InstanceID: "mi-00000000000000004", Name: "DB"},
		{InstanceID: "mi-00000000000000005", Name: "db"},
		{InstanceID: "mi-00000000000000006", Name: "rack 7"},
		{InstanceID: "mi-00000000000000007", Name: "*"},
		{InstanceID: "mi-00000000000000008", Name: "github.com"},
		{InstanceID: "mi-00000000000000009", Name: "x\n\tProxyCommand evil"},
		{InstanceID: "mi-1 evil", Name: "y"},
	}) {
		got = append(got, n.Name)
	}
	if strings.Join(got, " ") != "web-1 web-2" {
		t.Errorf("got %q", got)
	}
}
