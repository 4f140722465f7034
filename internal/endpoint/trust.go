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

// A Trust says whose certificates are believed. The zero Trust believes
// whoever the system does.
type Trust struct {
	// PEM holds the certificates of authorities that are believed beside the
	// system's.
	PEM []byte

	// Pin, if it is not zero, is the one certificate that is believed, whether
	// it is in PEM or among those the server presents. The system's
	// authorities are then believed no more.
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
	return Pin(b), nil
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
func (t Trust) TLS() (*tls.Config, error) { return t.tls(func(*x509.Certificate) {}) }

func (t Trust) tls(pinned func(*x509.Certificate)) (*tls.Config, error) {
	known, err := certificates(t.PEM)
	if err != nil {
		return nil, err
	}
	if !t.Pin.IsZero() {
		return &tls.Config{
			MinVersion: tls.VersionTLS12,

			// The library's own check believes roots known beforehand; this
			// root may come with the connection. VerifyConnection makes the
			// whole check, for resumed connections too.
			InsecureSkipVerify: true,
			VerifyConnection: func(s tls.ConnectionState) error {
				ca, err := t.Pin.verify(s, known)
				if err == nil {
					pinned(ca)
				}
				return err
			},
		}, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(known) > 0 {
		roots, err := x509.SystemCertPool()
		if err != nil {
			roots = x509.NewCertPool() // a system without any
		}
		for _, c := range known {
			roots.AddCert(c)
		}
		config.RootCAs = roots
	}
	return config, nil
}

// verify checks that the server's certificate is for the name we asked for and
// was issued, however indirectly, under the pinned one.
func (p Pin) verify(s tls.ConnectionState, known []*x509.Certificate) (*x509.Certificate, error) {
	if len(s.PeerCertificates) == 0 {
		return nil, ErrPin
	}
	var ca *x509.Certificate
	between := x509.NewCertPool()
	for _, c := range append(s.PeerCertificates[1:len(s.PeerCertificates):len(s.PeerCertificates)], known...) {
		if PinOf(c) == p {
			ca = c
		} else {
			between.AddCert(c)
		}
	}
	if PinOf(s.PeerCertificates[0]) == p {
		ca = s.PeerCertificates[0] // self-signed
	}
	if ca == nil {
		return nil, ErrPin
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{DNSName: s.ServerName, Roots: roots, Intermediates: between})
	if err != nil {
		return nil, fmt.Errorf("verify the server's certificate under the pinned one: %w", err)
	}
	return ca, nil
}

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
		return nil, errors.New("read CA certificates: there is none; they are PEM, and begin with -----BEGIN CERTIFICATE-----")
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

// Fetch connects to the control plane at base and returns, as PEM, the
// certificate that t.Pin recognises, so that it may be kept beside the pin.
func (t Trust) Fetch(ctx context.Context, base *url.URL) ([]byte, error) {
	if t.Pin.IsZero() {
		return nil, errors.New("fetch CA certificate: there is no pin to know it by")
	}
	if base.Scheme != "https" {
		return nil, fmt.Errorf("fetch CA certificate: %s shows none; a pin wants https", base)
	}
	var seen atomic.Pointer[x509.Certificate]
	config, err := t.tls(func(c *x509.Certificate) { seen.Store(c) })
	if err != nil {
		return nil, err
	}
	client := httpClient(config)
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, base.String()+"/", nil)
	if err != nil {
		return nil, fmt.Errorf("fetch CA certificate: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("fetch CA certificate: %w", err)
	}
	resp.Body.Close() // whatever was asked, the handshake is the answer
	ca := seen.Load()
	if ca == nil {
		return nil, fmt.Errorf("fetch CA certificate: %w", ErrPin)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw}), nil
}
