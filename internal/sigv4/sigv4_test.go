package sigv4

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/sallyport/sallyport"
)

var (
	at     = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	secret = sallyport.NewSecret("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
	alice  = Authority{AccessKeyID: "AKIDEXAMPLE", Secret: secret, Region: "home-1", Service: "ssm"}
)

// AWS publishes requests, signed, with the canonical form of each. The set is
// aws-c-auth's tests/aws-signing-test-suite, less what an HTTP/1.1 server
// never sees (a bare space or a bare "ሴ" in the request line), paths that only a
// signer that rewrites them signs so, and a token that is added after signing.
func TestVectors(t *testing.T) {
	var vectors []struct {
		Name, Key, Header, Query string
		HeaderCanonical          string `json:"header_canonical"`
		QueryCanonical           string `json:"query_canonical"`
	}
	b, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) != 28 {
		t.Fatalf("%d vectors, want 28", len(vectors))
	}
	now := time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC)
	for _, v := range vectors {
		for form, text := range map[string]string{v.HeaderCanonical: v.Header, v.QueryCanonical: v.Query} {
			t.Run(v.Name, func(t *testing.T) {
				r, body := readRequest(t, text)
				c, err := Read(r)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := c.canonical(r, HashOf(body)); err != nil || got != form {
					t.Fatalf("canonical request: err = %v\n got %q\nwant %q", err, got, form)
				}
				if err := c.Verify(r, HashOf(body), sallyport.NewSecret(v.Key), now); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func readRequest(t *testing.T, text string) (*http.Request, []byte) {
	t.Helper()
	head, rest, _ := strings.Cut(text, "\n\n")
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(strings.ReplaceAll(head, "\n", "\r\n") + "\r\n\r\n")))
	if err != nil {
		t.Fatal(err)
	}
	return r, []byte(rest)
}

// overTheWire sends r to a real server and returns it as the server saw it.
func overTheWire(t *testing.T, send func(client *http.Client, url string)) (*http.Request, []byte) {
	t.Helper()
	var got *http.Request
	var body []byte
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
		w.Write([]byte("{}"))
	}))
	defer s.Close()
	send(s.Client(), s.URL)
	if got == nil {
		t.Fatal("nothing arrived")
	}
	return got, body
}

// What AWS's SDK signs, we verify, as a server receives it.
func TestSDK(t *testing.T) {
	static := credentials.NewStaticCredentialsProvider("AKIDEXAMPLE", secret.Reveal(), "")
	temporary := credentials.NewStaticCredentialsProvider("ASIDEXAMPLE", secret.Reveal(), "a token/with+odd=characters")
	config := func(p aws.CredentialsProvider, c *http.Client) aws.Config {
		return aws.Config{Region: "home-1", Credentials: p, HTTPClient: c, RetryMaxAttempts: 1}
	}
	signer := v4.NewSigner()
	tests := []struct {
		name    string
		service string
		send    func(c *http.Client, url string)
	}{
		{"a JSON call", "ssm", func(c *http.Client, url string) {
			ssm.NewFromConfig(config(static, c), func(o *ssm.Options) { o.BaseEndpoint = &url }).
				StartSession(t.Context(), &ssm.StartSessionInput{Target: aws.String("mi-0123456789abcdef0")})
		}},
		{"a JSON call with a session token", "ssm", func(c *http.Client, url string) {
			ssm.NewFromConfig(config(temporary, c), func(o *ssm.Options) { o.BaseEndpoint = &url }).
				DescribeInstanceInformation(t.Context(), &ssm.DescribeInstanceInformationInput{})
		}},
		{"a query call", "iam", func(c *http.Client, url string) {
			iam.NewFromConfig(config(static, c), func(o *iam.Options) { o.BaseEndpoint = &url }).
				CreateUser(t.Context(), &iam.CreateUserInput{UserName: aws.String("ann+marie@x")})
		}},
		{"a WebSocket's GET", "ssmmessages", func(c *http.Client, url string) {
			r, _ := http.NewRequest("GET", url+"/v1/data-channel/ecs:c_t_1?role=publish_subscribe", nil)
			creds, _ := temporary.Retrieve(t.Context())
			signer.SignHTTP(t.Context(), creds, r, fmt.Sprintf("%x", EmptyBody), "ssmmessages", "home-1", time.Now())
			c.Do(r)
		}},
		{"a path that is encoded twice", "ssmmessages", func(c *http.Client, url string) {
			r, _ := http.NewRequest("GET", url+"/v1/a%20b/%C3%A9?b=2&a=1&a=%2F&empty", nil)
			creds, _ := static.Retrieve(t.Context())
			signer.SignHTTP(t.Context(), creds, r, fmt.Sprintf("%x", EmptyBody), "ssmmessages", "home-1", time.Now())
			c.Do(r)
		}},
		{"a presigned request", "sts", func(c *http.Client, url string) {
			r, _ := http.NewRequest("GET", url+"/?Action=GetCallerIdentity&Version=2011-06-15&X-Amz-Expires=60", nil)
			creds, _ := temporary.Retrieve(t.Context())
			signed, _, err := signer.PresignHTTP(t.Context(), creds, r, fmt.Sprintf("%x", EmptyBody), "sts", "home-1", time.Now())
			if err != nil {
				t.Fatal(err)
			}
			c.Get(signed)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, body := overTheWire(t, tt.send)
			c, err := Read(r)
			if err != nil {
				t.Fatal(err)
			}
			if c.Service != tt.service || c.Region != "home-1" {
				t.Errorf("signed for %s in %s", c.Service, c.Region)
			}
			if err := c.Verify(r, HashOf(body), secret, time.Now()); err != nil {
				t.Errorf("Verify: %v", err)
			}
			if err := c.Verify(r, HashOf(body), sallyport.NewSecret("another"), time.Now()); sallyport.CodeOf(err) != sallyport.InvalidSignatureException {
				t.Errorf("Verify with another secret = %v", err)
			}
		})
	}
}

// What we sign, we verify; and one changed byte anywhere is noticed.
func TestTampering(t *testing.T) {
	body := []byte(`{"Target":"mi-0123456789abcdef0"}`)
	signed := func(t *testing.T) *http.Request {
		r := httptest.NewRequest("POST", "https://sallyport.example:8443/v1/x?role=subscribe&stream=input", bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/x-amz-json-1.1")
		r.Header.Set("X-Amz-Target", "AmazonSSM.StartSession")
		a := alice
		a.Token = sallyport.NewSecret("token")
		if err := a.Sign(r, HashOf(body), at); err != nil {
			t.Fatal(err)
		}
		return r
	}
	tests := []struct {
		name   string
		change func(r *http.Request, body []byte) []byte
		want   sallyport.Code // "" if it must pass
	}{
		{"untouched", func(r *http.Request, b []byte) []byte { return b }, ""},
		{"a header nobody signed is added", func(r *http.Request, b []byte) []byte { r.Header.Set("Accept", "x"); return b }, ""},
		{"the agent's late hash header", func(r *http.Request, b []byte) []byte {
			r.Header.Set("X-Amz-Content-Sha256", fmt.Sprintf("%x", HashOf(b)))
			return b
		}, ""},
		{"another body", func(r *http.Request, b []byte) []byte { return append(b, ' ') }, sallyport.InvalidSignatureException},
		{"another path", func(r *http.Request, b []byte) []byte { r.URL.Path += "y"; return b }, sallyport.InvalidSignatureException},
		{"another query", func(r *http.Request, b []byte) []byte { r.URL.RawQuery += "&a=1"; return b }, sallyport.InvalidSignatureException},
		{"another method", func(r *http.Request, b []byte) []byte { r.Method = "GET"; return b }, sallyport.InvalidSignatureException},
		{"another host", func(r *http.Request, b []byte) []byte { r.Host = "evil.example"; return b }, sallyport.InvalidSignatureException},
		{"another target", func(r *http.Request, b []byte) []byte {
			r.Header.Set("X-Amz-Target", "AmazonSSM.TerminateSession")
			return b
		}, sallyport.InvalidSignatureException},
		{"another token", func(r *http.Request, b []byte) []byte {
			r.Header.Set("X-Amz-Security-Token", "other")
			return b
		}, sallyport.InvalidSignatureException},
		{"a second value for a signed header", func(r *http.Request, b []byte) []byte {
			r.Header.Add("X-Amz-Target", "AmazonSSM.TerminateSession")
			return b
		}, sallyport.InvalidSignatureException},
		{"an X-Amz header nobody signed", func(r *http.Request, b []byte) []byte {
			r.Header.Set("X-Amz-Extra", "1")
			return b
		}, sallyport.IncompleteSignatureException},
		{"an unsigned payload", func(r *http.Request, b []byte) []byte {
			r.Header.Set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD")
			return b
		}, sallyport.InvalidSignatureException},
		{"a streamed payload", func(r *http.Request, b []byte) []byte {
			r.Header.Set("X-Amz-Content-Sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD")
			return b
		}, sallyport.InvalidSignatureException},
		{"no signature", func(r *http.Request, b []byte) []byte { r.Header.Del("Authorization"); return b }, sallyport.MissingAuthenticationToken},
		{"two signatures", func(r *http.Request, b []byte) []byte {
			r.Header.Add("Authorization", r.Header.Get("Authorization"))
			return b
		}, sallyport.IncompleteSignatureException},
		{"another algorithm", func(r *http.Request, b []byte) []byte { r.Header.Set("Authorization", "Basic eA=="); return b }, sallyport.IncompleteSignatureException},
		{"no host among the signed", func(r *http.Request, b []byte) []byte {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), "host;", "", 1))
			return b
		}, sallyport.IncompleteSignatureException},
		{"a credential with a part too few", func(r *http.Request, b []byte) []byte {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), "/home-1", "", 1))
			return b
		}, sallyport.IncompleteSignatureException},
		{"a semicolon in the query", func(r *http.Request, b []byte) []byte { r.URL.RawQuery += ";x=1"; return b }, sallyport.IncompleteSignatureException},
		{"a date that is not the credential's", func(r *http.Request, b []byte) []byte {
			r.Header.Set("X-Amz-Date", "20260103T030405Z")
			return b
		}, sallyport.IncompleteSignatureException},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := signed(t)
			b := tt.change(r, bytes.Clone(body))
			c, err := Read(r)
			if err == nil {
				err = c.Verify(r, HashOf(b), secret, at)
			}
			if sallyport.CodeOf(err) != tt.want || (tt.want == "") != (err == nil) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// Five minutes either way pass; beyond, the refusal says by how much.
func TestSkew(t *testing.T) {
	tests := []struct {
		late time.Duration
		want string // part of the refusal; "" if it passes
	}{
		{0, ""},
		{5 * time.Minute, ""},
		{-5 * time.Minute, ""},
		{5*time.Minute + time.Second, "Your clock is 5 minutes slow."},
		{31 * time.Minute, "Your clock is 31 minutes slow."},
		{-31 * time.Minute, "Your clock is 31 minutes fast."},
		{26 * time.Hour, "Your clock is 26 hours slow."},
		{-72 * time.Hour, "Your clock is 3 days fast."},
	}
	for _, tt := range tests {
		t.Run(tt.late.String(), func(t *testing.T) {
			r := httptest.NewRequest("GET", "https://sallyport.example/", nil)
			if err := alice.Sign(r, EmptyBody, at); err != nil {
				t.Fatal(err)
			}
			c, err := Read(r)
			if err != nil {
				t.Fatal(err)
			}
			err = c.Verify(r, EmptyBody, secret, at.Add(tt.late))
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v late: %v, want %q", tt.late, err, tt.want)
			}
			if _, tooFar := c.SkewOf(at.Add(tt.late)); tooFar != (tt.want != "") {
				t.Errorf("SkewOf says too far: %v", tooFar)
			}
		})
	}
}

// A presigned request is good for as long as it says, and for 15 minutes at most.
func TestPresignedExpiry(t *testing.T) {
	presign := func(expires string) *http.Request {
		t.Helper()
		r, _ := http.NewRequest("GET", "https://sallyport.example/?Action=GetCallerIdentity&X-Amz-Expires="+expires, nil)
		signed, _, err := v4.NewSigner().PresignHTTP(context.Background(), aws.Credentials{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: secret.Reveal()},
			r, fmt.Sprintf("%x", EmptyBody), "sts", "home-1", at)
		if err != nil {
			t.Fatal(err)
		}
		return httptest.NewRequest("GET", signed, nil)
	}
	for expires, longest := range map[string]time.Duration{"60": time.Minute, "900": 15 * time.Minute, "3600": 15 * time.Minute, "604800": 15 * time.Minute} {
		r := presign(expires)
		c, err := Read(r)
		if err != nil {
			t.Fatal(err)
		}
		for late, ok := range map[time.Duration]bool{0: true, longest: true, longest + time.Second: false, -4 * time.Minute: true, -6 * time.Minute: false} {
			err := c.Verify(r, EmptyBody, secret, at.Add(late))
			if (err == nil) != ok {
				t.Errorf("for %s seconds, %v after signing: %v, want ok = %v", expires, late, err, ok)
			}
			if until := at.Add(longest).UTC().Format(timeFormat); late > longest && !strings.Contains(fmt.Sprint(err), "was good until "+until) {
				t.Errorf("for %s seconds: %v, want that it was good until %s", expires, err, until)
			}
		}
	}
	for _, expires := range []string{"0", "-1", "604801", "99999999999999999999", "soon"} {
		if _, err := Read(presign(expires)); sallyport.CodeOf(err) != sallyport.IncompleteSignatureException {
			t.Errorf("for %s seconds: %v", expires, err)
		}
	}
}

// The reference prints one request as an on-premises agent signs it, chunked
// body, port in the host and all; its canonical form is ours.
func TestAgentRSA(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	node, err := sallyport.ParseNodeID("mi-0123456789abcdef0")
	if err != nil {
		t.Fatal(err)
	}
	body := []byte(`{"Fingerprint":"5f0d3c1e-7a44-4c0b-9d55-0c6a1f2b3c4d"}`)
	r := httptest.NewRequest("POST", "https://ssm.example.test:8443/", bytes.NewReader(body))
	r.Header.Set("Content-Type", "application/x-amz-json-1.1")
	r.Header.Set("X-Amz-Target", "AmazonSSM.RequestManagedInstanceRoleToken")
	if err := SignRSA(r, HashOf(body), node, key, "us-east-1", at); err != nil {
		t.Fatal(err)
	}
	c, err := Read(r)
	if err != nil {
		t.Fatal(err)
	}
	canonical, err := c.canonical(r, HashOf(body))
	if err != nil {
		t.Fatal(err)
	}
	const want = "AWS4-HMAC-SHA256\n20260102T030405Z\n20260102/us-east-1/ssm/aws4_request\n8ab14459788f7b067530a250e8db0cc410eb346e7897d3ac0ad20d6db0e5e084"
	if got := stringToSign(c.Time, c.Region, c.Service, canonical); got != want {
		t.Errorf("string to sign:\n got %q\nwant %q", got, want)
	}
	if c.AccessKeyID != node.String() {
		t.Errorf("key ID %q, want the node's ID", c.AccessKeyID)
	}
	if err := c.VerifyRSA(r, HashOf(body), &key.PublicKey, at); err != nil {
		t.Errorf("VerifyRSA: %v", err)
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.VerifyRSA(r, HashOf(body), &other.PublicKey, at); sallyport.CodeOf(err) != sallyport.InvalidSignatureException {
		t.Errorf("VerifyRSA with another node's key = %v", err)
	}
	if err := c.VerifyRSA(r, HashOf([]byte("{}")), &key.PublicKey, at); err == nil {
		t.Error("VerifyRSA of another body passed")
	}
}

// No header that a stranger sends makes Read panic or accept the request.
func FuzzRead(f *testing.F) {
	r := httptest.NewRequest("GET", "https://sallyport.example/?a=1", nil)
	if err := alice.Sign(r, EmptyBody, at); err != nil {
		f.Fatal(err)
	}
	good := r.Header.Get("Authorization")
	f.Add(good, "20260102T030405Z", "a=1")
	f.Add("", "", "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=a/20260102/r/s/aws4_request&X-Amz-Date=20260102T030405Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=00")
	f.Add("AWS4-HMAC-SHA256 Credential=////, SignedHeaders=;;;, Signature=", "", "%zz")
	f.Fuzz(func(t *testing.T, auth, date, query string) {
		r := &http.Request{Method: "GET", Host: "sallyport.example", Header: http.Header{}}
		r.URL = httptest.NewRequest("GET", "https://sallyport.example/", nil).URL
		r.URL.RawQuery = query
		r.Header.Set("X-Amz-Date", date)
		if auth != "" {
			r.Header.Set("Authorization", auth)
		}
		c, err := Read(r)
		if err != nil {
			return
		}
		if err := c.Verify(r, EmptyBody, secret, at); err == nil && (auth != good || query != "a=1") {
			// Spacing between the fields is not signed; everything else is.
			if c.Presigned || strings.Join(strings.Fields(strings.ReplaceAll(auth, ",", ", ")), " ") != good {
				t.Fatalf("let in %q with query %q", auth, query)
			}
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	body := []byte(`{"Target":"mi-0123456789abcdef0"}`)
	r := httptest.NewRequest("POST", "https://sallyport.example/", bytes.NewReader(body))
	r.Header.Set("Content-Type", "application/x-amz-json-1.1")
	r.Header.Set("X-Amz-Target", "AmazonSSM.StartSession")
	if err := alice.Sign(r, HashOf(body), at); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		c, err := Read(r)
		if err != nil {
			b.Fatal(err)
		}
		if err := c.Verify(r, HashOf(body), secret, at); err != nil {
			b.Fatal(err)
		}
	}
}
