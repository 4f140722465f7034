package endpoint

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
)

// ErrSpeaksTLS is that an http URL leads to a server that speaks TLS.
var ErrSpeaksTLS = errors.New("it seems to speak TLS, so that its URL begins with https://")

// errSpeaksHTTP is that an https URL leads to a server without TLS.
var errSpeaksHTTP = errors.New("it does not speak TLS")

// errNoHandshake is that a connection came about and no TLS handshake.
var errNoHandshake = errors.New("it takes connections and does not answer on them")

// Unreached returns the address that gave no answer of a control plane's, and why, if
// err is of a kind that has one cause to name. It reports false for other errors.
func Unreached(err error) (at string, why error, ok bool) {
	if u, ok := errors.AsType[*url.Error](err); ok {
		if parsed, perr := url.Parse(u.URL); perr == nil {
			at = parsed.Host
			if parsed.Scheme == "http" && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)) {
				return at, ErrSpeaksTLS, true // or what else closes a connection at once, where nothing is between: http is for this machine alone
			}
		}
	}
	if u, ok := errors.AsType[*tlsExpectedError](err); ok {
		return u.host, ErrSpeaksTLS, true
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return dns.Name, errors.New(dns.Err), true
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); at != "" && (ok || errors.Is(err, http.ErrSchemeMismatch)) {
		return at, errSpeaksHTTP, true
	}
	if at != "" && strings.Contains(err.Error(), "TLS handshake timeout") { // net/http has no type for it
		return at, errNoHandshake, true
	}
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Op != "dial" || op.Addr == nil {
		return "", nil, false
	}
	if op.Timeout() {
		return op.Addr.String(), errors.New("it does not answer"), true
	}
	if call, ok := errors.AsType[*os.SyscallError](op); ok {
		return op.Addr.String(), call.Err, true
	}
	return op.Addr.String(), op.Err, true
}

// UnknownCA returns the server, if err is that its certificate was issued by an
// authority that is not believed.
func UnknownCA(err error) (at string, ok bool) {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); !ok {
		return "", false
	}
	at = "the server"
	if u, ok := errors.AsType[*url.Error](err); ok {
		if parsed, perr := url.Parse(u.URL); perr == nil {
			at = parsed.Host
		}
	}
	return at, true
}

// A tlsExpectedError is [ErrSpeaksTLS] at a host.
type tlsExpectedError struct{ host string }

func (e *tlsExpectedError) Error() string { return e.host + ": " + ErrSpeaksTLS.Error() }
func (e *tlsExpectedError) Unwrap() error { return ErrSpeaksTLS }
