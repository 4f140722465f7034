package client

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"pgregory.net/rapid"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/endpoint"
)

func awsConfig() aws.Config { return aws.Config{} }

func TestEscape(t *testing.T) {
	tests := []struct {
		name     string
		reads    []string
		sent     string
		commands string
	}{
		{"what is typed is sent", []string{"l", "s", "\r"}, "ls\r", ""},
		{"leave, at the very start", []string{"~", "."}, "", "."},
		{"leave, read at once", []string{"~."}, "", "."},
		{"leave, after a line", []string{"x", "\r", "~", "."}, "x\r", "."},
		{"leave, after a line feed", []string{"x\n", "~."}, "x\n", "."},
		{"leave, typed fast", []string{"x", "\r~."}, "x\r", "."},
		{"in the middle of a line it is a tilde", []string{"x", "~", "."}, "x~.", ""},
		{"help, and then leave", []string{"~", "?", "~", "."}, "", "?."},
		{"two tildes are one", []string{"~", "~", "."}, "~.", ""},
		{"any other is itself", []string{"~", "/", "\r"}, "~/\r", ""},
		{"off stays off", []string{"~", "-", "~", ".", "\r", "~."}, "~.\r~.", "-"},
		{"a line that ends in a held tilde begins another", []string{"~", "\r", "~", "."}, "~\r", "."},
		{"a paste is a paste", []string{"a\r~.b\r"}, "a\r~.b\r", ""},
		{"though it end so", []string{"cat\r~."}, "cat\r~.", ""},
		{"and a tilde before one is sent", []string{"~", "/.bashrc"}, "~/.bashrc", ""},
		{"after a paste that ends a line", []string{"hello\r", "~."}, "hello\r", "."},
		{"nothing follows leaving", []string{"~.x"}, "", "."},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var e escape
			var sent, commands []byte
			for _, read := range tt.reads {
				out, c := e.filter(nil, []byte(read))
				sent, commands = append(sent, out...), append(commands, c...)
			}
			if string(sent) != tt.sent || string(commands) != tt.commands {
				t.Errorf("sent %q, commands %q; want %q, %q", sent, commands, tt.sent, tt.commands)
			}
		})
	}
}

// Input with no tilde at the start of a line passes unchanged, also if it comes in
// pieces; when escapes are off, all input does.
func TestEscapePasses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		off := rapid.Bool().Draw(t, "off")
		text := rapid.SliceOf(rapid.SampledFrom([]byte("ab~.?-\r\n"))).Draw(t, "text")
		e := escape{off: off}
		if !off {
			text = []byte(strings.NewReplacer("\r~", "\r", "\n~", "\n").Replace("x" + string(text)))
			text = []byte(strings.ReplaceAll(strings.ReplaceAll(string(text), "\r~", ""), "\n~", ""))
			if strings.Contains(string(text), "\r~") || strings.Contains(string(text), "\n~") {
				return
			}
		}
		var sent []byte
		for rest := text; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "n")
			out, commands := e.filter(nil, rest[:n])
			if len(commands) > 0 {
				t.Fatalf("commands %q", commands)
			}
			sent, rest = append(sent, out...), rest[n:]
		}
		if string(sent) != string(text) {
			t.Fatalf("sent %q of %q", sent, text)
		}
	})
}

func FuzzEscape(f *testing.F) {
	f.Add([]byte("~.~~\r~?"), uint8(2))
	f.Fuzz(func(t *testing.T, text []byte, cut uint8) {
		var e escape
		sent := 0
		for rest := text; len(rest) > 0; {
			n := min(int(cut)+1, len(rest))
			out, _ := e.filter(nil, rest[:n])
			sent += len(out)
			rest = rest[n:]
		}
		if sent > len(text) {
			t.Fatalf("%d bytes out of %d", sent, len(text))
		}
	})
}

func TestCheckStream(t *testing.T) {
	const ours, amazon = "https://sallyport.example.com:8443", "https://ssm.eu-west-1.amazonaws.com"
	tests := []struct {
		name, endpoint, region, told, stream string
		ok                                   bool
	}{
		{"the host that answered", ours, "", "", "wss://sallyport.example.com:8443/v1/data-channel/x?role=publish_subscribe", true},
		{"in other letters", ours, "", "", "wss://Sallyport.Example.com/x", true},
		{"another host", ours, "", "", "wss://evil.example.com/x", false},
		{"a host that begins so", ours, "", "", "wss://sallyport.example.com.evil.org/x", false},
		{"a host in a name", ours, "", "", "wss://sallyport.example.com@evil.org/x", false},
		{"in the clear", ours, "", "", "ws://sallyport.example.com/x", false},
		{"another scheme", ours, "", "", "https://sallyport.example.com/x", false},
		{"no address", ours, "", "", "::", false},
		{"nothing", ours, "", "", "", false},
		{"a host that was told", ours, "", "stream.example.com", "wss://stream.example.com/x", true},
		{"the host that answered, though another was told", ours, "", "stream.example.com", "wss://sallyport.example.com/x", true},
		{"in the clear, though it was told", ours, "", "stream.example.com", "ws://stream.example.com/x", false},
		{"AWS, though it was not asked", ours, "", "", "wss://ssmmessages.eu-west-1.amazonaws.com/x", false},

		{"this machine, in the clear", "http://127.0.0.1:80", "", "", "ws://127.0.0.1:80/x", true},
		{"this machine, by another name", "https://localhost:8443", "", "", "wss://127.0.0.1:8443/x", true},
		{"this machine, when another answered", ours, "", "", "ws://localhost/x", false},

		{"AWS", amazon, "", "", "wss://ssmmessages.eu-west-1.amazonaws.com/v1/data-channel/x?role=publish_subscribe&cell-number=AAEA", true},
		{"AWS in China", "https://ssm.cn-north-1.amazonaws.com.cn", "", "", "wss://ssmmessages.cn-north-1.amazonaws.com.cn/x", true},
		{"AWS for governments", "https://ssm-fips.us-gov-west-1.amazonaws.com", "", "", "wss://ssmmessages-fips.us-gov-west-1.amazonaws.com/x", true},
		{"AWS by both protocols", "https://ssm.eu-west-1.api.aws", "", "", "wss://ssmmessages.eu-west-1.api.aws/x", true},
		{"AWS through an interface endpoint", "https://vpce-0a1b-2c3d.ssm.eu-west-1.vpce.amazonaws.com", "", "", "wss://vpce-0a1b-2c3d.ssmmessages.eu-west-1.vpce.amazonaws.com/x", true},
		{"ECS's endpoint", "https://ecs.eu-west-1.amazonaws.com", "eu-west-1", "", "wss://ssmmessages.eu-west-1.amazonaws.com/x", true},
		{"no endpoint", "", "us-east-1", "", "wss://ssmmessages.us-east-1.amazonaws.com/x", true},
		{"AWS, and another host", amazon, "", "", "wss://evil.example.com/x", false},
		{"AWS, and another service", amazon, "", "", "wss://ec2.eu-west-1.amazonaws.com/x", false},
		{"AWS, and a customer's load balancer", amazon, "", "", "wss://ssmmessages.elb.eu-west-1.amazonaws.com/x", false},
		{"AWS, and a customer's bucket", amazon, "", "", "wss://ssmmessages.s3-eu-west-1.amazonaws.com/x", false},
		{"AWS, and a customer's machine", amazon, "", "", "wss://ssmmessages.compute-1.amazonaws.com/x", false},
		{"AWS, and a name that ends so", amazon, "", "", "wss://ssmmessages.eu-west-1.evilamazonaws.com/x", false},
		{"AWS, and a name that begins so", amazon, "", "", "wss://ssmmessages.eu-west-1.amazonaws.com.evil.org/x", false},
		{"AWS, and a region of China under the wrong domain", amazon, "", "", "wss://ssmmessages.us-east-1.amazonaws.com.cn/x", false},
		{"AWS in the clear", amazon, "", "", "ws://ssmmessages.eu-west-1.amazonaws.com/x", false},
		{"ECS's endpoint, and another host", "https://ecs.eu-west-1.amazonaws.com", "eu-west-1", "", "wss://evil.example.com/x", false},
		{"no endpoint, and another host", "", "us-east-1", "", "wss://evil.example.com/x", false},

		{"ours, behind a load balancer of AWS's", "https://my-lb-1.elb.eu-west-1.amazonaws.com", "", "", "wss://my-lb-1.elb.eu-west-1.amazonaws.com/x", true},
		{"and never AWS then", "https://my-lb-1.elb.eu-west-1.amazonaws.com", "", "", "wss://ssmmessages.eu-west-1.amazonaws.com/x", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := &Client{streamHost: tt.told}
			base, err := c.place(tt.endpoint, tt.region)
			if err != nil {
				t.Fatal(err)
			}
			c.api = &endpoint.Client{Base: base}
			got, err := c.checkStream(tt.stream)
			if (err == nil) != tt.ok || tt.ok && got != tt.stream {
				t.Errorf("checkStream = %q, %v; want ok = %v", got, err, tt.ok)
			}
		})
	}
}

// Every host that is accepted as AWS's ends in a whole domain of AWS's.
func FuzzAWSService(f *testing.F) {
	f.Add("ssmmessages.eu-west-1.amazonaws.com")
	f.Add("vpce-1.ssm.cn-north-1.vpce.amazonaws.com.cn")
	f.Fuzz(func(t *testing.T, host string) {
		if _, ok := awsService(host); !ok {
			return
		}
		for _, s := range awsSuffixes {
			for _, suffix := range []string{s.suffix, s.dual} {
				if strings.HasSuffix(strings.TrimSuffix(strings.ToLower(host), "."), "."+suffix) {
					return
				}
			}
		}
		t.Errorf("%q is taken for AWS's", host)
	})
}

func TestPlace(t *testing.T) {
	tests := []struct {
		name, endpoint, region, want, err string
	}{
		{"ours", "https://h.example.com/base/", "", "https://h.example.com/base", ""},
		{"AWS's for the region", "", "eu-west-1", "https://ssm.eu-west-1.amazonaws.com", ""},
		{"AWS's in China", "", "cn-north-1", "https://ssm.cn-north-1.amazonaws.com.cn", ""},
		{"AWS's for Europe's own", "", "eusc-de-east-1", "https://ssm.eusc-de-east-1.amazonaws.eu", ""},
		{"ECS's gives way to Systems Manager's", "https://ecs.eu-west-1.amazonaws.com", "eu-west-1", "https://ssm.eu-west-1.amazonaws.com", ""},
		{"AWS's as it was given", "https://ssm-fips.us-east-1.amazonaws.com", "us-east-1", "https://ssm-fips.us-east-1.amazonaws.com", ""},
		{"no region", "", "", "", "AWS_REGION"},
		{"a region that AWS does not have", "", "home", "", "AWS_ENDPOINT_URL"},
		{"in the clear", "http://h.example.com", "", "", "unencrypted"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := new(Client).place(tt.endpoint, tt.region)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("place: %v", err)
				}
				return
			}
			if err != nil || got.String() != tt.want {
				t.Errorf("place = %v, %v", got, err)
			}
		})
	}
}

// Where the control plane is, and who the person is, is said where AWS's
// programs look for it.
func TestLoad(t *testing.T) {
	const profiles = `
[default]
region = profile-1
endpoint_url = https://profile.example.com
[profile other]
region = other-1
services = mine
[services mine]
ssm =
  endpoint_url = https://services.example.com
`
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, []byte(profiles), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name         string
		settings     Settings
		env          map[string]string
		want, region string
	}{
		{"the profile", Settings{}, nil, "https://profile.example.com", "profile-1"},
		{"a profile that is named", Settings{Profile: "other"}, nil, "https://services.example.com", "other-1"},
		{"a profile the environment names", Settings{}, map[string]string{"AWS_PROFILE": "other"}, "https://services.example.com", "other-1"},
		{"the environment", Settings{}, map[string]string{"AWS_ENDPOINT_URL": "https://env.example.com", "AWS_REGION": "env-1"}, "https://env.example.com", "env-1"},
		{"the service's own before all services'", Settings{}, map[string]string{"AWS_ENDPOINT_URL": "https://env.example.com", "AWS_ENDPOINT_URL_SSM": "https://ssm.example.com"}, "https://ssm.example.com", "profile-1"},
		{"what is typed, before all", Settings{Endpoint: "https://flag.example.com", Region: "flag-1"}, map[string]string{"AWS_ENDPOINT_URL_SSM": "https://ssm.example.com", "AWS_REGION": "env-1"}, "https://flag.example.com", "flag-1"},
		{"none of them, if that is wished", Settings{Region: "eu-west-1"}, map[string]string{"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true", "AWS_ENDPOINT_URL": "https://env.example.com"}, "https://ssm.eu-west-1.amazonaws.com", "eu-west-1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			setAWS(t, "")
			for _, k := range []string{"AWS_REGION", "AWS_PROFILE", "AWS_CA_BUNDLE", "SSL_CERT_FILE"} {
				os.Unsetenv(k) // and t.Setenv puts it back
			}
			t.Setenv("AWS_CONFIG_FILE", file)
			for k, v := range tt.env {
				t.Setenv(k, v)
			}
			c, err := Load(t.Context(), tt.settings)
			if err != nil {
				t.Fatal(err)
			}
			if got := c.api.Base.String(); got != tt.want || c.api.Region != tt.region {
				t.Errorf("loaded %s in %s", got, c.api.Region)
			}
		})
	}
}

func TestTrust(t *testing.T) {
	p := newPlane(t)
	p.answer = func(target string) (int, string) { return 200, `{}` }
	address, bundle := p.serveTLS()
	rotten := filepath.Join(t.TempDir(), "rotten.pem")
	good, err := os.ReadFile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	os.WriteFile(rotten, append([]byte("# a system's\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), good...), 0o600)
	tests := []struct {
		name     string
		settings Settings
		env      map[string]string
		err      string
	}{
		{"nothing is said of it", Settings{}, nil, "AWS_CA_BUNDLE"},
		{"AWS_CA_BUNDLE", Settings{}, map[string]string{"AWS_CA_BUNDLE": bundle}, ""},
		{"SSL_CERT_FILE", Settings{}, map[string]string{"SSL_CERT_FILE": bundle}, ""},
		{"the flag", Settings{CABundle: bundle}, nil, ""},
		{"among certificates that Go refuses", Settings{}, map[string]string{"AWS_CA_BUNDLE": rotten}, ""},
		{"a file that is not there", Settings{CABundle: "/does/not/exist"}, nil, "read CA bundle"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			setAWS(t, "")
			os.Unsetenv("AWS_CA_BUNDLE")
			os.Unsetenv("SSL_CERT_FILE")
			for k, v := range tt.env {
				t.Setenv(k, v)
			}
			tt.settings.Endpoint = address
			c, err := Load(t.Context(), tt.settings)
			if err == nil {
				err = c.TerminateSession(t.Context(), testSession)
			}
			switch {
			case tt.err == "" && err != nil:
				t.Error(err)
			case tt.err != "" && (err == nil || !strings.Contains(Explain(err), tt.err)):
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestExplain(t *testing.T) {
	tests := []struct {
		name string
		err  error
		want string
	}{
		{"the control plane's own sentence", fmt.Errorf("call X: %w", sallyport.Errorf(sallyport.TargetNotConnected, "mi-1 is not connected.")), "mi-1 is not connected."},
		{"an exception without one", &sallyport.Error{Code: "Odd"}, "Odd"},
		{"a key that expired", sallyport.Errorf(sallyport.ExpiredTokenException, "The token has expired."), "The token has expired. (your AWS credentials are not, or no longer, good here; renew them)"},
		{"no key", fmt.Errorf("call X: get credentials: %w", &keysError{errors.New("none")}), `find AWS credentials: none; sign in again, or set AWS_PROFILE, or with a server of "sallyport dev" type: eval "$(sallyport env)"`},
		{"an unknown CA", &url.Error{URL: "https://plane:8443/", Err: x509.UnknownAuthorityError{}}, "the certificate of plane:8443 is of a CA that this machine does not trust; if it is your control plane, have its CA printed there (sallyport ca), and give the file with --ca-bundle or AWS_CA_BUNDLE, which is /ca.pem now and goes before a profile's ca_bundle"},
		{"anything else", errors.New("dial tcp: refused"), "dial tcp: refused"},
	}
	t.Setenv("AWS_CA_BUNDLE", "/ca.pem")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Explain(tt.err); got != tt.want {
				t.Errorf("Explain = %q", got)
			}
		})
	}
}

func TestLists(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlane(t)
		var bodies []string
		pages := map[string]string{
			"":     `{"InstanceInformationList":[{"InstanceId":"mi-1","Name":"a","LastPingDateTime":1935000000.5}],"NextToken":"more"}`,
			"more": `{"InstanceInformationList":[{"InstanceId":"mi-2","ComputerName":"b"}]}`,
		}
		c := p.serve(nil)
		c.api.HTTP = &http.Client{Transport: answers(func(target string, in map[string]any) string {
			b, _ := json.Marshal(in)
			bodies = append(bodies, target+" "+string(b))
			token, _ := in["NextToken"].(string)
			if target == "AmazonSSM.DescribeInstanceInformation" {
				return pages[token]
			}
			return `{"Sessions":[{"SessionId":"s1","StartDate":1935000000.123,"Status":"Terminated"},{"SessionId":"s2"}],"NextToken":"n` + token + `"}`
		})}
		nodes, err := c.Nodes(t.Context())
		if err != nil || len(nodes) != 2 || nodes[1].InstanceID != "mi-2" || nodes[0].LastPingDateTime.UnixMilli() != 1935000000500 {
			t.Errorf("Nodes = %+v, %v", nodes, err)
		}
		bodies = nil
		sessions, more, err := c.Sessions(t.Context(), SessionQuery{History: true, Target: "mi-1", Owner: "arn:x", Limit: 3})
		if err != nil || len(sessions) != 3 || !more {
			t.Errorf("Sessions = %+v, %v, %v", sessions, more, err)
		}
		want := []string{
			`AmazonSSM.DescribeSessions {"Filters":[{"key":"Target","value":"mi-1"},{"key":"Owner","value":"arn:x"}],"MaxResults":3,"State":"History"}`,
			`AmazonSSM.DescribeSessions {"Filters":[{"key":"Target","value":"mi-1"},{"key":"Owner","value":"arn:x"}],"MaxResults":1,"NextToken":"n","State":"History"}`,
		}
		if strings.Join(bodies, "\n") != strings.Join(want, "\n") {
			t.Errorf("asked\n%s", strings.Join(bodies, "\n"))
		}
	})
}

// answers is a control plane that is only asked.
type answers func(target string, in map[string]any) string

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) {
	var in map[string]any
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		return nil, err
	}
	w := httptest.NewRecorder()
	w.WriteString(a(r.Header.Get("X-Amz-Target"), in))
	return w.Result(), nil
}
