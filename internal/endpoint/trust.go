package endpoint

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// A Trust says whose certificates are believed. The zero Trust believes those
// that the system believes.
type Trust struct {
	// PEM holds the certificates of authorities that are believed beside the
	// system's; in their place if Only is set.
	PEM  []byte
	Only bool

	// Pin, if it is not zero, is the one certificate in PEM that is believed:
	// the system's and the others are not. [Trust.Fetch] gets it from the
	// server if PEM does not have it yet.
	Pin Pin
}

// A Pin recognises one certificate: the SHA-256 of its DER. It is how a
// person, pasting one line, tells a machine which authority to believe. The
// zero Pin recognises none.
type Pin [sha256.Size]byte

// ParsePin reads "sha256:" and 64 hex digits. Empty text is the zero Pin.
func ParsePin(s string) (p Pin, err error) {
	if s == "" {
		return Pin{}, nil
	}
	b, err := hex.DecodeString(strings.TrimPrefix(s, "sha256:"))
	if err != nil || len(b) != len(p) || !strings.HasPrefix(s, "sha256:") {
		return Pin{}, fmt.Errorf("%q is not a pin; they are sha256: and 64 hex digits", s)
	}
	if p = Pin(b); p.IsZero() {
		return Pin{}, fmt.Errorf("%q is no certificate's pin", s) // and would mean that nothing is pinned
	}
	return p, nil
}

// PinOf returns the pin of c.
func PinOf(c *x509.Certificate) Pin { return sha256.Sum256(c.Raw) }

// IsZero reports whether p recognises nothing.
func (p Pin) IsZero() bool { return p == Pin{} }

// String returns p as [ParsePin] reads it, and "" for the zero Pin.
func (p Pin) String() string {
	if p.IsZero() {
		return ""
	}
	return "sha256:" + hex.EncodeToString(p[:])
}

// MarshalText writes the pin.
func (p Pin) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what [ParsePin] does.
func (p *Pin) UnmarshalText(b []byte) (err error) {
	*p, err = ParsePin(string(b))
	return err
}

// ErrPin is why a server was not believed that showed no certificate with the
// pin asked for.
var ErrPin = errors.New("the server does not show the certificate that was pinned; either this is not your control plane, or its CA is new and so is its pin")

// TLS returns what a TLS client needs to believe t, and no more.
func (t Trust) TLS() (*tls.Config, error) {
	if t.Only && t.Pin.IsZero() {
		// Certificates that cannot be read are left out: bundles are the system's with
		// one added, and systems ship some that Go refuses.
		config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool()}
		if !config.RootCAs.AppendCertsFromPEM(t.PEM) {
			return nil, errNoCertificates
		}
		return config, nil
	}
	known, err := certificates(t.PEM)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	switch {
	case !t.Pin.IsZero():
		ca := t.Pin.among(known)
		if ca == nil {
			return nil, fmt.Errorf("the certificate with pin %s is not at hand", t.Pin)
		}
		config.RootCAs = x509.NewCertPool()
		config.RootCAs.AddCert(ca)
	case len(known) > 0:
		if config.RootCAs, err = x509.SystemCertPool(); err != nil {
			config.RootCAs = x509.NewCertPool() // a system without any
		}
		for _, c := range known {
			config.RootCAs.AddCert(c)
		}
	}
	return config, nil
}

func (p Pin) among(list []*x509.Certificate) *x509.Certificate {
	for _, c := range list {
		if PinOf(c) == p {
			return c
		}
	}
	return nil
}

// Fetch returns t with the pinned certificate in PEM, so that it may be used,
// and kept. If it is not there already the control plane at base shows it: the
// server's certificate must be for that host, and issued under the pinned one.
// A Trust without a pin is returned as it is.
func (t Trust) Fetch(ctx context.Context, base *url.URL) (Trust, error) {
	if t.Pin.IsZero() {
		return t, nil
	}
	known, err := certificates(t.PEM)
	if err != nil || t.Pin.among(known) != nil {
		return t, err
	}
	if base.Scheme != "https" {
		return t, fmt.Errorf("fetch CA certificate: %s shows none; a pin wants https", base)
	}
	var seen atomic.Pointer[x509.Certificate]
	client := httpClient(&tls.Config{
		MinVersion: tls.VersionTLS12,

		// The library's own check wants the root beforehand. This one comes
		// with the connection, so VerifyConnection makes the whole check.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			// Not s.ServerName, which is empty for an address.
			ca, err := t.Pin.verify(s.PeerCertificates, base.Hostname())
			seen.Store(ca)
			return err
		},
	})
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, base.String()+"/", nil)
	if err != nil {
		return t, fmt.Errorf("fetch CA certificate: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return t, fmt.Errorf("fetch CA certificate: %w", err)
	}
	resp.Body.Close() // its body is not needed: the handshake was the answer
	ca := seen.Load()
	if ca == nil {
		return t, fmt.Errorf("fetch CA certificate: %w", ErrPin)
	}
	t.PEM = append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw}), t.PEM...)
	return t, nil
}

// verify checks that the certificate a server showed first is for host, and
// was issued, however indirectly, under the pinned one among the rest.
func (p Pin) verify(shown []*x509.Certificate, host string) (*x509.Certificate, error) {
	ca := p.among(shown)
	if ca == nil {
		return nil, ErrPin
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(ca)
	for _, c := range shown[1:] {
		between.AddCert(c)
	}
	if _, err := shown[0].Verify(x509.VerifyOptions{DNSName: host, Roots: roots, Intermediates: between}); err != nil {
		return nil, fmt.Errorf("verify the server's certificate under the pinned one: %w", err)
	}
	return ca, nil
}

var errNoCertificates = errors.New("read CA certificates: there is none; they are PEM, and begin with -----BEGIN CERTIFICATE-----")

func certificates(text []byte) (list []*x509.Certificate, err error) {
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("read CA certificate: %w", err)
		}
		list = append(list, c)
	}
	if len(text) > 0 && len(list) == 0 {
		return nil, errNoCertificates
	}
	return list, nil
}

// HTTP returns a client that believes t, goes through the proxies the
// environment names, and gives up on a server that does not answer. It speaks
// HTTP/1.1, which is what WebSockets are opened with, and follows no
// redirections: a signature is good for one address.
func (t Trust) HTTP() (*http.Client, error) {
	config, err := t.TLS()
	if err != nil {
		return nil, err
	}
	return httpClient(config), nil
}

func httpClient(config *tls.Config) *http.Client {
	var only1 http.Protocols
	only1.SetHTTP1(true)
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			TLSClientConfig:       config,
			TLSHandshakeTimeout:   10 * time.Second,
			ResponseHeaderTimeout: 30 * time.Second,
			MaxIdleConns:          2,
			IdleConnTimeout:       30 * time.Second,
			Protocols:             &only1,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
