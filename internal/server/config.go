package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/broker"
	"github.com/sallyport/sallyport/internal/keyring"
	"github.com/sallyport/sallyport/internal/record"
)

// Defaults of a Config.
const (
	DefaultAccount = "000000000000"
	DefaultRegion  = "home-1" // one that AWS does not have, so that no mistake reaches AWS
	DefaultListen  = ":8443"
)

// A Config says how to run a control plane. Its fields are set before [Run].
type Config struct {
	// PublicURL is where nodes and people reach the server: https, a host,
	// perhaps a port. Sessions are told to open their sockets there, and the
	// server's certificate is for its host. Empty is this machine, by name, at
	// the port of Listen.
	PublicURL string

	Account string // 12 digits; "" is DefaultAccount
	Region  string // "" is DefaultRegion

	// Listen is the address of the one port everything is served on. "" is
	// DefaultListen.
	Listen string

	// Listener is used instead of Listen if it is not nil.
	Listener net.Listener

	// Admin is used as the admin socket if it is not nil, instead of one in
	// State.
	Admin net.Listener

	// State is the directory of all that the server keeps: its database,
	// unless Database names another; session logs; its CA; its admin socket.
	// It is made if it is not there, for its owner alone.
	State string

	// Disk is what session logs and recordings are kept on, in State. Nil is this
	// machine's own. The database is always on this machine's.
	Disk record.Disk

	// Database is a path, or "postgres://…". "" is sallyport.db in State.
	Database string

	// KeyFile is where the root key is, which everything secret in the
	// database is sealed with. It is made with a new database. "" is State
	// and ".key": beside the directory and not in it, so that a copy of the
	// directory does not open itself. The environment variable
	// SALLYPORT_ROOT_KEY is used instead if it is set.
	KeyFile string

	// CertFile and CertKeyFile are the server's certificate, with its chain, and
	// its key. They are read again when they change. Without them, and without
	// ACME, the server makes a CA of its own.
	CertFile, CertKeyFile string

	// ACME has certificates issued by Let's Encrypt, or by the CA whose directory
	// is at ACMECA, an https URL. The CA must reach the port as 443 of the public
	// URL's name: the challenge is tls-alpn-01, on the port itself.
	//
	// ACMECABundle is a file of PEM certificates that the CA's own server is
	// verified against; "" is what this machine trusts. ACMEEmail is where the CA
	// may write to; "" is nowhere. The three need ACME.
	ACME         bool
	ACMEEmail    string
	ACMECA       string
	ACMECABundle string

	// Idle ends sessions in which nothing passes for that long. 0 is 20
	// minutes; negative is never.
	Idle time.Duration

	// Limits bound what sessions may take.
	Limits broker.Limits

	// NewestAgentWins lets an agent take over a node that another process is
	// connected as. Otherwise it is parked.
	NewestAgentWins bool

	// RequireSigned refuses the sockets of clients too old to sign them.
	RequireSigned bool

	// KeyStores are outside KMSes that keys may be in, as
	// [keyring.ParseStores] reads them: vault=vault:https://….
	KeyStores []string

	// KeepHistory is how long ended sessions and their recordings are kept. 0
	// is for ever.
	KeepHistory time.Duration
}

// rootKeyEnv is the environment variable that may hold the root key.
const rootKeyEnv = "SALLYPORT_ROOT_KEY"

// settled is a Config in which everything is said.
type settled struct {
	Config
	realm      sallyport.Realm
	public     *url.URL
	background context.Context // of Run
}

// Check says everything that is wrong with a configuration at once, as far as it can
// be seen without starting a server.
func (c Config) Check() error {
	s, err := c.settle()
	wrong := []error{err}
	if _, err := keyring.ParseStores(context.Background(), c.KeyStores); err != nil {
		wrong = append(wrong, err)
	}
	for _, file := range []struct{ flag, name string }{{"--cert", s.CertFile}, {"--cert-key", s.CertKeyFile}, {"--acme-ca-bundle", s.ACMECABundle}} {
		if file.name == "" {
			continue
		}
		if f, err := os.Open(file.name); err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %w", file.flag, err))
		} else {
			f.Close()
		}
	}
	if _, _, err := net.SplitHostPort(s.Listen); err != nil && c.PublicURL != "" { // else it was said
		wrong = append(wrong, fmt.Errorf("listen address %q is not a host and a port, as in :8443", s.Listen))
	}
	return errors.Join(wrong...)
}

// settle fills in what was left out and says everything that is wrong at once.
func (c Config) settle() (settled, error) {
	s := settled{Config: c}
	var wrong []error
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }

	if s.Account == "" {
		s.Account = DefaultAccount
	}
	if s.Region == "" {
		s.Region = DefaultRegion
	}
	var err error
	if s.realm, err = sallyport.NewRealm(s.Account, s.Region); err != nil {
		wrong = append(wrong, err)
	}
	if s.State == "" {
		bad("no state directory: say where the server keeps what it knows, with --state")
	} else if s.State, err = filepath.Abs(s.State); err != nil {
		wrong = append(wrong, err)
	}
	if s.Listen == "" {
		s.Listen = DefaultListen
	}
	if s.Database == "" {
		s.Database = filepath.Join(s.State, "sallyport.db")
	}
	if s.KeyFile == "" {
		s.KeyFile = strings.TrimRight(s.State, string(filepath.Separator)) + ".key"
	}
	if (s.CertFile == "") != (s.CertKeyFile == "") {
		bad("a certificate needs its key: give both --cert and --cert-key, or neither")
	}
	if l := s.Limits; l.PerUser < 0 || l.PerNode < 0 || l.Total < 0 || l.Recording < 0 || l.Recordings < 0 {
		bad("a limit cannot be less than 1; leave it out for the default")
	}
	if s.KeepHistory < 0 {
		bad("history cannot be kept for %v", s.KeepHistory)
	}
	if s.public, err = s.publicURL(); err != nil {
		wrong = append(wrong, err)
	}
	s.checkACME(bad)
	return s, errors.Join(wrong...)
}

func (s *settled) publicURL() (*url.URL, error) {
	if s.PublicURL != "" {
		u, err := url.Parse(s.PublicURL)
		if err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
			return nil, fmt.Errorf("public URL %q is not https, a host and perhaps a port, as in https://sallyport.example:8443", s.PublicURL)
		}
		return &url.URL{Scheme: "https", Host: u.Host}, nil
	}
	addr := s.Listen
	if s.Listener != nil {
		addr = s.Listener.Addr().String()
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("listen address %q is not a host and a port, as in :8443", addr)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		if host, err = os.Hostname(); err != nil {
			return nil, fmt.Errorf("find this machine's name: %w; give --public-url", err)
		}
	}
	if port == "443" {
		return &url.URL{Scheme: "https", Host: host}, nil
	}
	return &url.URL{Scheme: "https", Host: net.JoinHostPort(host, port)}, nil
}
