package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/mholt/acmez/v3"
)

// tlsConfig says how the server proves who it is: with a certificate of the
// operator's, of an ACME CA's, or of its own CA's. CAPEM is the last one's
// certificate, nil for the others. Keep, of an ACME CA's, has the certificate
// issued and renewed until its context is done, and has to be called; it is nil
// for the others.
//
// HTTP/1.1 alone is spoken, because a WebSocket cannot be opened over HTTP/2
// by the clients there are.
func (s *settled) tlsConfig(logger *slog.Logger) (config *tls.Config, caPEM []byte, keep func(context.Context), err error) {
	config = &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	switch {
	case s.CertFile != "":
		f := &certFiles{cert: s.CertFile, key: s.CertKeyFile}
		if _, err := f.get(nil); err != nil {
			return nil, nil, nil, err
		}
		config.GetCertificate = f.get
	case s.ACME:
		a, err := s.newACME(logger)
		if err != nil {
			return nil, nil, nil, err
		}
		config.GetCertificate, keep = a.certificate, a.run
		config.NextProtos = append(config.NextProtos, acmez.ACMETLS1Protocol)
	default:
		ca, err := openCA(filepath.Join(s.State, "ca"))
		if err != nil {
			return nil, nil, nil, err
		}
		issuer := &issuer{ca: ca, hosts: s.certHosts()}
		if _, err := issuer.get(nil); err != nil {
			return nil, nil, nil, err
		}
		config.GetCertificate = issuer.get
		caPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
	}
	return config, caPEM, keep, nil
}

// certHosts is what our own certificate is for: the public name, and this
// machine as it calls itself.
func (s *settled) certHosts() []string {
	hosts := []string{s.public.Hostname(), "localhost", "127.0.0.1", "::1"}
	if name, err := os.Hostname(); err == nil {
		hosts = append(hosts, name)
	}
	return hosts
}

// certFiles is a certificate in files, read again when they change.
type certFiles struct {
	cert, key string

	mu     sync.Mutex
	loaded *tls.Certificate
	asOf   time.Time // the later of the files' times
	looked time.Time
}

func (f *certFiles) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.loaded != nil && time.Since(f.looked) < 10*time.Second {
		return f.loaded, nil
	}
	f.looked = time.Now()
	var asOf time.Time
	for _, name := range []string{f.cert, f.key} {
		info, err := os.Stat(name)
		if err != nil {
			return f.orOld(err)
		}
		if info.ModTime().After(asOf) {
			asOf = info.ModTime()
		}
	}
	if f.loaded != nil && asOf.Equal(f.asOf) {
		return f.loaded, nil
	}
	c, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return f.orOld(err)
	}
	f.loaded, f.asOf = &c, asOf
	return f.loaded, nil
}

// orOld goes on with the certificate there was: files are replaced one after
// the other, and for a moment do not belong together.
func (f *certFiles) orOld(err error) (*tls.Certificate, error) {
	if f.loaded != nil {
		return f.loaded, nil
	}
	return nil, fmt.Errorf("load certificate: %w", err)
}

// A ca is a certificate authority of our own.
type ca struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

const (
	caLife   = 10 * 365 * 24 * time.Hour
	certLife = 90 * 24 * time.Hour
)

// openCA reads the CA in dir, or makes one.
func openCA(dir string) (*ca, error) {
	certFile, keyFile := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key")
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if errors.Is(err, fs.ErrNotExist) {
		return makeCA(dir, certFile, keyFile)
	}
	if err != nil {
		return nil, fmt.Errorf("read the server's CA in %s: %w", dir, err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("read the server's CA in %s: its key is not an ECDSA key", dir)
	}
	return &ca{pair.Leaf, key}, nil
}

func makeCA(dir, certFile, keyFile string) (*ca, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "Sallyport local CA " + now.UTC().Format("2006-01-02")},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(caLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	// The key first: a certificate without one is what would not start again.
	if err := writeFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600); err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	if err := writeFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	return &ca{cert, key}, err
}

// writeFile writes a file whole or not at all.
func writeFile(name string, b []byte, mode fs.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(name), ".tmp-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // does nothing once it has been renamed
	_, err = tmp.Write(b)
	if err == nil {
		err = tmp.Chmod(mode)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), name)
}

func serial() *big.Int {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b[:])
}

// An issuer has our CA issue the server's certificate, anew when a third of its
// life is left.
type issuer struct {
	ca    *ca
	hosts []string

	mu   sync.Mutex
	cert *tls.Certificate
}

func (i *issuer) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := time.Now()
	if i.cert != nil && now.Before(i.cert.Leaf.NotAfter.Add(-certLife/3)) {
		return i.cert, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: i.hosts[0]},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(certLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range i.hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, i.ca.cert, &key.PublicKey, i.ca.key)
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	// The CA goes along, so that an agent that was told its pin can see it.
	i.cert = &tls.Certificate{Certificate: [][]byte{der, i.ca.cert.Raw}, PrivateKey: key, Leaf: leaf}
	return i.cert, nil
}
