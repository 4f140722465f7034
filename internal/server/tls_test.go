package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// keyPair is a certificate for a name and its key, as PEM.
func keyPair(t *testing.T, name string) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	b, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: b})
}

// The operator's certificate (--cert) is shown, and its successor within seconds
// of being put in its place; what does not belong together changes nothing.
func TestCertificateIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := &settled{}
		s.CertFile, s.CertKeyFile = filepath.Join(dir, "cert"), filepath.Join(dir, "key")
		if _, _, _, err := s.tlsConfig(slog.Default()); err == nil {
			t.Error("a server without its certificate starts")
		}
		changed := time.Now()
		put := func(path string, b []byte) {
			t.Helper()
			changed = changed.Add(time.Second)
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(path, changed, changed); err != nil {
				t.Fatal(err)
			}
		}
		firstCert, firstKey := keyPair(t, "first.example")
		secondCert, secondKey := keyPair(t, "second.example")
		put(s.CertFile, firstCert)
		put(s.CertKeyFile, firstKey)
		config, ca, _, err := s.tlsConfig(slog.Default())
		if err != nil || ca != nil {
			t.Fatalf("%s, %v", ca, err)
		}
		shows := func(want string) {
			t.Helper()
			time.Sleep(11 * time.Second)
			c, err := config.GetCertificate(nil)
			if err != nil {
				t.Fatal(err)
			}
			if c.Leaf.DNSNames[0] != want {
				t.Errorf("it shows %v, want %s", c.Leaf.DNSNames, want)
			}
		}
		shows("first.example")
		put(s.CertFile, secondCert)
		shows("first.example")
		put(s.CertKeyFile, secondKey)
		shows("second.example")
		if err := os.Remove(s.CertKeyFile); err != nil {
			t.Fatal(err)
		}
		shows("second.example")
	})
}
