package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/panics"
	"github.com/sallyport/sallyport/internal/strictjson"
)

// How long the server waits for an ACME CA.
const (
	acmeAgain     = 2 * time.Second  // before a CA that did not answer is asked again; doubled each time
	acmeAgainMost = time.Minute      // the most that becomes
	acmeWithin    = 30 * time.Second // for the answer
	maxDirectory  = 64 << 10         // bytes of the CA's directory that are read
)

// An acme has the server's certificate issued by an ACME CA (RFC 8555), keeps it
// in the state directory and has it renewed. Start it with [acme.run].
//
// The CA's challenge is tls-alpn-01 (RFC 8737), answered on the server's own port:
// no other port is opened. The certificate is for one name, that of the public
// URL. No handshake makes an order, for any name that a client asks for.
type acme struct {
	host      string
	dir       string // where account, certificate and key are kept
	directory string // the URL of the CA's directory
	client    *http.Client
	log       *slog.Logger

	magic *certmagic.Config
	cache *certmagic.Cache
	kept  bool // a certificate was in dir at the start; read by run alone
}

// newACME returns the acme of a server that answers on s.Listener, with the
// certificate of its state directory if there is one. The caller has to call run,
// which releases what is held.
func (s *settled) newACME(logger *slog.Logger) (*acme, error) {
	a := &acme{host: s.public.Hostname(), dir: filepath.Join(s.State, "acme"), directory: s.ACMECA, log: logger}
	if a.directory == "" {
		a.directory = certmagic.LetsEncryptProductionCA
	}
	roots, err := s.acmeRoots()
	if err != nil {
		return nil, err
	}
	a.client = &http.Client{Timeout: acmeWithin, Transport: &http.Transport{
		Proxy:             http.ProxyFromEnvironment,
		TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		ForceAttemptHTTP2: true,
	}}

	zapped := zap.New(zapToSlog{ctx: s.background, to: logger})
	a.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return a.magic, nil },
		Logger:           zapped,
	})
	a.magic = certmagic.New(a.cache, certmagic.Config{
		DefaultServerName: a.host,
		Storage:           &certmagic.FileStorage{Path: a.dir},
		Logger:            zapped,
		OCSP:              certmagic.OCSPConfig{DisableStapling: true}, // it asks the network before a kept certificate is used
		OnEvent:           a.event,
	})
	issuer := certmagic.ACMEIssuer{
		CA: a.directory, Email: s.ACMEEmail, Agreed: true, TrustedRoots: roots, Logger: zapped,
		DisableHTTPChallenge: true, DisableDistributedSolvers: true,
	}
	// CertMagic listens where the challenge is answered, unless that is taken. The
	// server has that port already, and answers.
	if addr, ok := s.Listener.Addr().(*net.TCPAddr); ok {
		issuer.ListenHost, issuer.AltTLSALPNPort = addr.IP.String(), addr.Port
	}
	a.magic.Issuers = []certmagic.Issuer{certmagic.NewACMEIssuer(a.magic, issuer)}

	switch _, err := a.magic.CacheManagedCertificate(s.background, a.host); {
	case err == nil:
		a.kept = true
	case !errors.Is(err, fs.ErrNotExist):
		a.cache.Stop()
		return nil, fmt.Errorf("read the certificate of %s in %s: %w; remove that directory to have another issued", a.host, a.dir, err)
	}
	return a, nil
}

// acmeRoots is what certificates of the ACME CA's own server are verified against;
// nil is what this machine trusts.
func (s *settled) acmeRoots() (*x509.CertPool, error) {
	if s.ACMECABundle == "" {
		return nil, nil
	}
	b, err := os.ReadFile(s.ACMECABundle)
	if err != nil {
		return nil, fmt.Errorf("read --acme-ca-bundle: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("read --acme-ca-bundle: %s has no certificate; it is PEM, and begins with -----BEGIN CERTIFICATE-----", s.ACMECABundle)
	}
	return roots, nil
}

// certificate is the server's for a handshake. A client that asks for another name
// is refused by the alert unrecognized_name; one that asks for none is shown the
// certificate, whose name it can then tell from the one it wanted. The error,
// while there is no certificate yet, is the alert internal_error.
func (a *acme) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if hello.ServerName != "" && !strings.EqualFold(hello.ServerName, a.host) {
		return nil, nil // crypto/tls makes this unrecognized_name
	}
	if slices.Contains(hello.SupportedProtos, acmez.ACMETLS1Protocol) {
		if _, ok := certmagic.GetACMEChallenge(a.host); !ok {
			return nil, nil // CertMagic would log it, as often as a stranger wants
		}
	}
	return a.magic.GetCertificate(hello)
}

// run has the certificate issued, unless it was kept, and renewed until ctx is
// done. It returns when nothing of it goes on.
func (a *acme) run(ctx context.Context) {
	defer a.client.CloseIdleConnections()
	defer a.cache.Stop()
	for !a.kept {
		err := panics.Run(func() error {
			if err := a.magic.ObtainCertAsync(ctx, a.host); err != nil { // it tries for 30 days
				return err
			}
			_, err := a.magic.CacheManagedCertificate(ctx, a.host)
			return err
		})
		if ctx.Err() != nil {
			return
		}
		if a.kept = err == nil; !a.kept {
			a.log.Error("certificate not obtained; trying again in a minute", sallyport.LogAddr, a.host, sallyport.LogErr, err, panics.Stack(err))
			if !pause(ctx, acmeAgainMost) {
				return
			}
		}
	}
	// One that was kept may be due. The cache looks again every ten minutes.
	if err := a.cache.RenewManagedCertificates(ctx); err != nil && ctx.Err() == nil {
		a.log.Error("certificate not renewed", sallyport.LogAddr, a.host, sallyport.LogErr, err)
	}
	<-ctx.Done()
}

// event is called by CertMagic as it works, and holds it up until it returns.
func (a *acme) event(ctx context.Context, name string, about map[string]any) error {
	switch name {
	case "cert_obtaining":
		return a.await(ctx)
	case "cert_obtained":
		a.log.Info("certificate obtained", sallyport.LogAddr, a.host, sallyport.LogPath, a.dir)
	}
	return nil
}

// await returns once the CA answers. It says when it has to wait, and when it need
// not any more. The error is that ctx is done.
func (a *acme) await(ctx context.Context) error {
	for wait := acmeAgain; ; wait = min(2*wait, acmeAgainMost) {
		err := a.ask(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil && wait > acmeAgain:
			a.log.Info("the ACME CA answers")
			return nil
		case err == nil:
			return nil
		case wait == acmeAgain:
			a.log.Warn("waiting for the ACME CA, which does not answer; the certificate is asked for once it does", sallyport.LogAddr, a.host, sallyport.LogErr, err)
		}
		if !pause(ctx, wait) {
			return ctx.Err()
		}
	}
}

// ask reads the CA's directory. An error says which URL did not answer, or not
// with a directory.
func (a *acme) ask(ctx context.Context) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, a.directory, nil)
	if err != nil {
		return err
	}
	answer, err := a.client.Do(r)
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return fmt.Errorf("%w; if it is a CA of yours, --acme-ca-bundle names the file of its root", err)
	}
	if err != nil {
		return err // with method and URL
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(io.LimitReader(answer.Body, maxDirectory))
	if err != nil {
		return fmt.Errorf("get %s: %w", a.directory, err)
	}
	var directory struct {
		NewOrder string `json:"newOrder"`
	}
	if answer.StatusCode != http.StatusOK || strictjson.Unmarshal(b, &directory) != nil || directory.NewOrder == "" {
		return fmt.Errorf("get %s: %s, and not the directory of an ACME CA; --acme-ca is its URL", a.directory, answer.Status)
	}
	return nil
}

// pause waits, and reports false if ctx was done first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// checkACME says what is wrong with the settings of ACME.
func (s *settled) checkACME(bad func(format string, args ...any)) {
	if !s.ACME {
		for name, value := range map[string]string{"--acme-ca": s.ACMECA, "--acme-ca-bundle": s.ACMECABundle, "--acme-email": s.ACMEEmail} {
			if value != "" {
				bad("%s is for certificates issued by ACME: give --acme too, or leave it out", name)
			}
		}
		return
	}
	if s.CertFile != "" {
		bad("certificates come from files or from ACME: give --cert or --acme, not both")
	}
	if u, err := url.Parse(s.ACMECA); s.ACMECA != "" && (err != nil || u.Scheme != "https" || u.Host == "") {
		bad("--acme-ca %q is not an https URL, as in https://ca.example/acme/acme/directory", s.ACMECA)
	}
	if s.public != nil && net.ParseIP(s.public.Hostname()) != nil {
		bad("ACME issues certificates for names, and the public URL has the address %s: give --public-url a name", s.public.Hostname())
	}
}

// zapToSlog is a zapcore.Core whose entries are lines of a slog.Logger. CertMagic's
// account of every order is for --verbose. What fails is a warning, because
// CertMagic tries again; but not once ctx is done, which is why it fails then.
type zapToSlog struct {
	ctx  context.Context
	to   *slog.Logger
	with []zapcore.Field
}

func (z zapToSlog) level(l zapcore.Level) slog.Level {
	if l >= zapcore.ErrorLevel && z.ctx.Err() == nil {
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

func (z zapToSlog) Enabled(l zapcore.Level) bool {
	return z.to.Enabled(z.ctx, z.level(l))
}

func (z zapToSlog) With(fields []zapcore.Field) zapcore.Core {
	return zapToSlog{z.ctx, z.to, append(z.with[:len(z.with):len(z.with)], fields...)}
}

func (z zapToSlog) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if z.Enabled(e.Level) {
		return c.AddCore(e, z)
	}
	return c
}

func (z zapToSlog) Write(e zapcore.Entry, fields []zapcore.Field) error {
	m := zapcore.NewMapObjectEncoder()
	for _, f := range append(z.with[:len(z.with):len(z.with)], fields...) {
		f.AddTo(m)
	}
	var attrs []slog.Attr
	for name, value := range m.Fields {
		attrs = append(attrs, slog.Any(name, value))
	}
	z.to.LogAttrs(z.ctx, z.level(e.Level), "acme: "+e.Message, attrs...)
	return nil
}

func (z zapToSlog) Sync() error { return nil }
