// Package endpoint answers how the control plane is reached: at which address,
// trusting whom, signing how, and by whose clock.
//
// Both ends of a session dial out to the control plane, the machine's and the
// person's, and both do so through a [Client]:
//
//	Call     POST /             X-Amz-Target, JSON 1.1    SigV4, or unsigned
//	CallRSA  POST /             likewise                  with a node's own key
//	Token    POST /v1/…-channel/…  JSON, answered in XML   SigV4
//	Socket   GET  wss://…                                 SigV4, or unsigned
//
// Whom to trust is said by a [Trust]. Nothing is ever sent in the clear, save
// to this machine itself.
//
// A machine whose clock is wrong is not turned away: a Client signs by the
// control plane's clock, which it learns from the answers it gets.
package endpoint

import (
	"fmt"
	"net"
	"net/url"
	"strings"
)

// ParseURL reads the address of a control plane: https and a host, perhaps
// with a port and a path. Plain http is accepted for loopback addresses alone,
// where no other machine is between the ends; development servers are reached so.
func ParseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || !strings.Contains(s, "://") {
		return nil, fmt.Errorf("%q is not a URL; write it as in https://sallyport.example.com", s)
	}
	switch {
	case u.Hostname() == "":
		return nil, fmt.Errorf("%q names no host; write it as in https://sallyport.example.com", s)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("%q has more than a host and a path; write it as in https://sallyport.example.com", u.Redacted())
	case u.Scheme == "https":
	case u.Scheme != "http":
		return nil, fmt.Errorf("%q does not begin with https://", s)
	case !loopback(u.Hostname()):
		return nil, fmt.Errorf("%q would carry sessions unencrypted; write https://%s, or http with a loopback address only", s, u.Host)
	}
	u.Path = strings.TrimRight(u.Path, "/")
	u.RawPath = ""
	return u, nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
