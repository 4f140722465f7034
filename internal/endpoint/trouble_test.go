package endpoint

import (
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// What gives no answer of a control plane's is named, and why.
func TestUnreached(t *testing.T) {
	defer goleak.VerifyNone(t)
	quiet := log.New(io.Discard, "", 0)
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = quiet
	secure.StartTLS()
	defer secure.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	address := func(s *httptest.Server) string { return s.Listener.Addr().String() }
	for _, c := range []struct{ scheme, host, why string }{
		{"http", address(secure), "it seems to speak TLS, so that its URL begins with https://"},
		{"https", address(plain), "it does not speak TLS"},
		{"https", silent.Addr().String(), "it takes connections and does not answer on them"},
		{"https", "127.0.0.1:1", "connection refused"},
	} {
		transport := &http.Transport{TLSHandshakeTimeout: 200 * time.Millisecond}
		client := &Client{Base: &url.URL{Scheme: c.scheme, Host: c.host}, HTTP: &http.Client{Transport: transport}}
		err := client.Call(t.Context(), "ssm", "AmazonSSM.DescribeSessions", map[string]string{"State": strings.Repeat("x", 10_000)}, nil)
		at, why, ok := Unreached(err)
		if !ok || at != c.host || !strings.Contains(why.Error(), c.why) {
			t.Errorf("%s://%s: %q, %v, %v of %v", c.scheme, c.host, at, why, ok, err)
		}
		transport.CloseIdleConnections()
	}
	client := &Client{Base: &url.URL{Scheme: "https", Host: address(secure)}, HTTP: &http.Client{Transport: &http.Transport{}}}
	err = client.Call(t.Context(), "ssm", "AmazonSSM.DescribeSessions", nil, nil)
	if at, ok := UnknownCA(err); !ok || at != address(secure) {
		t.Errorf("an unknown CA: %q, %v of %v", at, ok, err)
	}
	if _, _, ok := Unreached(errors.New("another")); ok {
		t.Error("any error is taken for one of these")
	}
}
