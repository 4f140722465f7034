package endpoint

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/sigv4"
	"github.com/sallyport/sallyport/internal/socket"
)

func TestParseURL(t *testing.T) {
	tests := []struct {
		name, in, want, err string
	}{
		{"a host", "https://sallyport.example.com", "https://sallyport.example.com", ""},
		{"a port and a path", "https://h:8443/base/", "https://h:8443/base", ""},
		{"plain http to this machine by name", "http://localhost:80", "http://localhost:80", ""},
		{"plain http to this machine by address", "http://[::1]:80", "http://[::1]:80", ""},
		{"plain http to another is refused", "http://example.com", "", "write https://example.com"},
		{"a name that begins like this machine's is another", "http://localhost.example.com", "", "unencrypted"},
		{"no scheme", "sallyport.example.com:8443", "", "is not a URL"},
		{"another scheme", "wss://example.com", "", "does not begin with https://"},
		{"no host", "https:///x", "", "names no host"},
		{"a password", "https://u:p@example.com", "", "more than a host"},
		{"a query", "https://example.com?x", "", "more than a host"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			u, err := ParseURL(tt.in)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("err = %v, want %q in it", err, tt.err)
				}
				if strings.Contains(err.Error(), "u:p@") {
					t.Errorf("the error shows a password: %v", err)
				}
				return
			}
			if err != nil || u.String() != tt.want {
				t.Errorf("ParseURL = %v, %v, want %s", u, err, tt.want)
			}
		})
	}
}

// An authority that signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string, by *authority) *authority {
	t.Helper()
	a := &authority{}
	a.cert, a.key = issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}, by)
	return a
}

func (a *authority) server(t *testing.T, h http.Handler, chain ...*authority) *httptest.Server {
	t.Helper()
	leaf, key := issue(t, &x509.Certificate{DNSNames: []string{"localhost"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, a)
	c := tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}
	for _, link := range chain {
		c.Certificate = append(c.Certificate, link.cert.Raw)
	}
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // refused handshakes are the point
	s.TLS = &tls.Config{Certificates: []tls.Certificate{c}}
	s.StartTLS()
	t.Cleanup(s.Close)
	s.URL = strings.Replace(s.URL, "127.0.0.1", "localhost", 1)
	return s
}

func issue(t *testing.T, c *x509.Certificate, by *authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := c, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return made, key
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// visit makes one request to url the way both ends do.
func visit(t *testing.T, trust Trust, at string) error {
	base, err := ParseURL(at)
	if err != nil {
		t.Fatal(err)
	}
	if trust, err = trust.Fetch(t.Context(), base); err != nil {
		return err
	}
	client, err := trust.HTTP()
	if err != nil {
		t.Fatal(err)
	}
	defer client.CloseIdleConnections()
	resp, err := client.Get(at)
	if err == nil {
		resp.Body.Close()
	}
	return err
}

func TestTrust(t *testing.T) {
	root := newAuthority(t, "root", nil)
	between := newAuthority(t, "between", root)
	other := newAuthority(t, "other", nil)
	ok := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	whole := between.server(t, ok, between, root)
	short := between.server(t, ok, between) // leaves the root out

	tests := []struct {
		name   string
		server *httptest.Server
		host   string // instead of localhost
		trust  Trust
		ok     bool
	}{
		{"a stranger is not believed", whole, "", Trust{}, false},
		{"an authority in a bundle is", whole, "", Trust{PEM: append(other.pem(), root.pem()...)}, true},
		{"but not under another name", whole, "127.0.0.1", Trust{PEM: root.pem()}, false},
		{"an authority in a bundle that stands alone is", whole, "", Trust{PEM: append([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), root.pem()...), Only: true}, true},
		{"others are not", whole, "", Trust{PEM: other.pem(), Only: true}, false},
		{"nor is it under another name", whole, "127.0.0.1", Trust{PEM: root.pem(), Only: true}, false},
		{"a pinned root in the chain is", whole, "", Trust{Pin: PinOf(root.cert)}, true},
		{"but not under another name", whole, "127.0.0.1", Trust{Pin: PinOf(root.cert)}, false},
		{"a pinned intermediate is", short, "", Trust{Pin: PinOf(between.cert)}, true},
		{"a pinned root the server leaves out is not", short, "", Trust{Pin: PinOf(root.cert)}, false},
		{"unless it was kept", short, "", Trust{PEM: root.pem(), Pin: PinOf(root.cert)}, true},
		{"nor then under another name", short, "127.0.0.1", Trust{PEM: root.pem(), Pin: PinOf(root.cert)}, false},
		{"a pin excludes what a bundle would admit", whole, "", Trust{PEM: append(other.pem(), root.pem()...), Pin: PinOf(other.cert)}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			at := tt.server.URL
			if tt.host != "" {
				at = strings.Replace(at, "localhost", tt.host, 1)
			}
			err := visit(t, tt.trust, at)
			if (err == nil) != tt.ok {
				t.Errorf("err = %v, want ok = %v", err, tt.ok)
			}
		})
	}

	t.Run("what was pinned can be kept", func(t *testing.T) {
		base, _ := url.Parse(whole.URL)
		got, err := Trust{Pin: PinOf(root.cert)}.Fetch(t.Context(), base)
		if err != nil || string(got.PEM) != string(root.pem()) {
			t.Errorf("Fetch = %s, %v", got.PEM, err)
		}
		if err := visit(t, got, strings.Replace(whole.URL, "localhost", "127.0.0.1", 1)); err == nil {
			t.Error("kept, it is believed under another name")
		}
		if _, err := (Trust{Pin: PinOf(other.cert)}).Fetch(t.Context(), base); !errors.Is(err, ErrPin) {
			t.Errorf("Fetch with a wrong pin: err = %v, want ErrPin", err)
		}
	})
	t.Run("a certificate that is not the issuer's does not stand in for it", func(t *testing.T) {
		// An impostor shows the pinned certificate, which is no secret, behind
		// a leaf it could not have issued.
		base, _ := url.Parse(other.server(t, ok, root).URL)
		if _, err := (Trust{Pin: PinOf(root.cert)}).Fetch(t.Context(), base); err == nil {
			t.Error("an impostor was believed")
		}
	})
	t.Run("a pin without its certificate is of no use", func(t *testing.T) {
		if _, err := (Trust{Pin: PinOf(root.cert)}).HTTP(); err == nil {
			t.Error("accepted")
		}
	})
	t.Run("a bundle without certificates is refused", func(t *testing.T) {
		for _, only := range []bool{false, true} {
			if _, err := (Trust{PEM: []byte("hello"), Only: only}).HTTP(); err == nil {
				t.Error("accepted")
			}
		}
	})
}

func TestPin(t *testing.T) {
	p := PinOf(newAuthority(t, "root", nil).cert)
	if got, err := ParsePin(p.String()); err != nil || got != p {
		t.Errorf("ParsePin(%q) = %v, %v", p, got, err)
	}
	if got, err := ParsePin(""); err != nil || !got.IsZero() || got.String() != "" {
		t.Errorf(`ParsePin("") = %v, %v`, got, err)
	}
	for _, bad := range []string{"sha256:", "sha256:00", p.String()[7:], p.String() + "00", "sha1:" + p.String()[7:]} {
		if _, err := ParsePin(bad); err == nil {
			t.Errorf("ParsePin(%q) succeeded", bad)
		}
	}
}

var secret = sallyport.NewSecret("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")

// plane is a server whose clock is fast by ahead and which checks signatures
// by it.
func plane(t *testing.T, ahead time.Duration, answer http.HandlerFunc) (c *Client, calls *int) {
	t.Helper()
	calls = new(int)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*calls++
		now := time.Now().Add(ahead)
		w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
		body, _ := io.ReadAll(r.Body)
		claim, err := sigv4.Read(r)
		if err == nil {
			err = claim.Verify(r, sigv4.HashOf(body), secret, now)
		}
		if err != nil {
			e := sallyport.Public(err)
			w.WriteHeader(http.StatusBadRequest)
			io.WriteString(w, `{"__type":"`+string(e.Code)+`","message":"`+e.Message+`"}`)
			return
		}
		answer(w, r)
	}))
	t.Cleanup(s.Close)
	base, err := ParseURL(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return &Client{
		Base: base, HTTP: s.Client(), Region: "home-1", UserAgent: "test/1",
		Credentials: func(context.Context) (Credentials, error) {
			return Credentials{AccessKeyID: "ASIAEXAMPLE", Secret: secret, Token: sallyport.NewSecret("tok")}, nil
		},
	}, calls
}

func TestCall(t *testing.T) {
	c, _ := plane(t, 0, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "POST" || r.URL.Path != "/" || r.Header.Get("X-Amz-Target") != "AmazonSSM.StartSession" ||
			r.Header.Get("Content-Type") != "application/x-amz-json-1.1" || r.UserAgent() != "test/1" {
			t.Errorf("request = %s %s %v", r.Method, r.URL, r.Header)
		}
		io.WriteString(w, `{"SessionId":"alice"}`)
	})
	var out struct{ SessionId string }
	if err := c.Call(t.Context(), "ssm", "AmazonSSM.StartSession", struct{ Target string }{"mi-1"}, &out); err != nil || out.SessionId != "alice" {
		t.Errorf("Call: out = %+v, err = %v", out, err)
	}
}

func TestCallBoundsTheAnswer(t *testing.T) {
	c, _ := plane(t, 0, func(w http.ResponseWriter, r *http.Request) {
		for range maxAnswer>>20 + 1 {
			w.Write(make([]byte, 1<<20))
		}
	})
	if err := c.Call(t.Context(), "ssm", "AmazonSSM.X", nil, nil); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("err = %v", err)
	}
}

// A machine whose clock is off is served all the same, at the cost of one
// refusal.
func TestClock(t *testing.T) {
	for _, ahead := range []time.Duration{31 * time.Minute, -48 * time.Hour} {
		t.Run(ahead.String(), func(t *testing.T) {
			c, calls := plane(t, ahead, func(http.ResponseWriter, *http.Request) {})
			for i, want := range []int{2, 3} {
				if err := c.Call(t.Context(), "ssm", "AmazonSSM.X", nil, nil); err != nil {
					t.Fatal(err)
				}
				if *calls != want {
					t.Errorf("after call %d: %d requests, want %d", i+1, *calls, want)
				}
			}
			if got := c.Ahead(); (got - ahead).Abs() > 2*time.Second {
				t.Errorf("Ahead = %v, want %v", got, ahead)
			}
		})
	}
}

// A wrong key is not a wrong clock.
func TestWrongKeyIsNotRetried(t *testing.T) {
	c, calls := plane(t, 0, nil)
	c.Credentials = func(context.Context) (Credentials, error) {
		return Credentials{AccessKeyID: "ASIAEXAMPLE", Secret: sallyport.NewSecret("wrong")}, nil
	}
	err := c.Call(t.Context(), "ssm", "AmazonSSM.X", nil, nil)
	if sallyport.CodeOf(err) != sallyport.InvalidSignatureException || *calls != 1 {
		t.Errorf("err = %v after %d requests", err, *calls)
	}
}

func TestSocket(t *testing.T) {
	c, calls := plane(t, 31*time.Minute, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RequestURI() != "/v1/control-channel/mi-1?role=subscribe&stream=input" {
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, `{"__type":"AccessDeniedException","message":"No."}`)
			return
		}
		conn, err := socket.Accept(w, r)
		if err != nil {
			t.Error(err)
			return
		}
		conn.WriteText(r.Context(), []byte("hello"))
		conn.Drop()
	})
	conn, err := c.Socket(t.Context(), "/v1/control-channel/mi-1?role=subscribe&stream=input", "ssmmessages")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := conn.ReadText(t.Context()); err != nil || string(b) != "hello" || *calls != 2 {
		t.Errorf("ReadText = %q, %v after %d requests", b, err, *calls)
	}
	conn.Drop()

	whole := "ws" + strings.TrimPrefix(c.Base.String(), "http") + "/elsewhere"
	if _, err := c.Socket(t.Context(), whole, "ssmmessages"); sallyport.CodeOf(err) != sallyport.AccessDeniedException {
		t.Errorf("a refused socket: err = %v", err)
	}
	for _, bad := range []string{"ws://example.com/x", "ftp://example.com/x", "::"} {
		if _, err := c.Socket(t.Context(), bad, "ssmmessages"); err == nil {
			t.Errorf("Socket(%q) succeeded", bad)
		}
	}
}

func TestCreateChannel(t *testing.T) {
	status, body := http.StatusCreated, `<CreateControlChannelResponse><MessageSchemaVersion>1.0</MessageSchemaVersion><TokenValue>opaque</TokenValue></CreateControlChannelResponse>`
	c, _ := plane(t, 0, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		io.WriteString(w, body)
	})
	got, err := c.CreateChannel(t.Context(), "/v1/control-channel/mi-1", nil)
	if err != nil || got.Token.Reveal() != "opaque" || len(got.Capabilities) != 0 {
		t.Errorf("CreateChannel = %q, %q, %v", got.Token.Reveal(), got.Capabilities, err)
	}
	body = `<CreateDataChannelResponse><TokenValue>opaque</TokenValue><Capabilities><member>end</member><member>more</member></Capabilities></CreateDataChannelResponse>`
	got, err = c.CreateChannel(t.Context(), "/v1/data-channel/x", nil)
	if err != nil || !slices.Equal(got.Capabilities, []string{"end", "more"}) {
		t.Errorf("CreateChannel = %q, %v", got.Capabilities, err)
	}
	body = `<R/>`
	if _, err := c.CreateChannel(t.Context(), "/x", nil); err == nil {
		t.Error("an answer without a token was taken")
	}
	status = http.StatusOK
	if _, err := c.CreateChannel(t.Context(), "/x", nil); err == nil {
		t.Error("an answer that is not 201 was taken")
	}
}

func TestCallRSA(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	node := sallyport.NewNodeID()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		claim, err := sigv4.Read(r)
		if err == nil {
			err = claim.VerifyRSA(r, sigv4.HashOf(body), &key.PublicKey, time.Now())
		}
		if err != nil || claim.AccessKeyID != node.String() {
			t.Errorf("claim %+v: %v", claim, err)
		}
	}))
	defer s.Close()
	base, _ := url.Parse(s.URL)
	c := &Client{Base: base, HTTP: s.Client(), Region: "home-1"}
	if err := c.CallRSA(t.Context(), node, key, "AmazonSSM.RequestManagedInstanceRoleToken", nil, nil); err != nil {
		t.Error(err)
	}
}

func TestReadError(t *testing.T) {
	tests := []struct {
		name   string
		header string
		body   string
		want   error
	}{
		{"JSON", "", `{"__type":"AccessDeniedException","message":"No."}`, &sallyport.Error{Code: "AccessDeniedException", Message: "No."}},
		{"JSON with a namespace", "", `{"__type":"com.amazonaws.ssm#TargetNotConnected","Message":"Gone."}`, &sallyport.Error{Code: "TargetNotConnected", Message: "Gone."}},
		{"a header", "ValidationException:http://x/", `{"message":"Bad."}`, &sallyport.Error{Code: "ValidationException", Message: "Bad."}},
		{"a header and no body", "ThrottlingException", ``, &sallyport.Error{Code: "ThrottlingException"}},
		{"XML named by its root", "", `<AccessDeniedException><Message>No.</Message></AccessDeniedException>`, &sallyport.Error{Code: "AccessDeniedException", Message: "No."}},
		{"XML with a code", "", `<ErrorResponse><Error><Code>NoSuchEntity</Code><Message>Who?</Message></Error></ErrorResponse>`, &sallyport.Error{Code: "NoSuchEntity", Message: "Who?"}},
		{"a proxy's page", "", "<html><body>Bad\n gateway</body></html>", &StatusError{502, "<html><body>Bad gateway</body></html>"}},
		{"nothing", "", "", &StatusError{502, ""}},
		{"a code that is not one", "", `{"__type":"a b c","message":"x"}`, &StatusError{502, `{"__type":"a b c","message":"x"}`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := http.Header{}
			if tt.header != "" {
				h.Set("X-Amzn-ErrorType", tt.header)
			}
			err := readError(502, h, []byte(tt.body))
			if err.Error() != tt.want.Error() {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

// No answer makes ReadError panic, or return a code that is none.
func FuzzReadError(f *testing.F) {
	f.Add("", []byte(`{"__type":"x#A:y","message":"m"}`))
	f.Add("A:b", []byte(`<E><Code>A</Code></E>`))
	f.Fuzz(func(t *testing.T, header string, body []byte) {
		err := readError(400, http.Header{"X-Amzn-Errortype": {header}}, body)
		if err == nil {
			t.Fatal("no error")
		}
		if code := sallyport.CodeOf(err); code != "" && !word(string(code)) {
			t.Fatalf("code %q", code)
		}
	})
}
