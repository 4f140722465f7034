package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

const (
	resolveWithin = 10 * time.Second
	dialWithin    = 10 * time.Second
)

// neverForward are the addresses that the agent forwards to only if the operator
// allows it: those that are the machine's own link, and where clouds keep the
// machine's credentials. (Stock: Mgs.DeniedPortForwardingRemoteIPs, which lists
// single addresses.)
var neverForward = []netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"),     // link-local: metadata of AWS, Azure, Google, Oracle, DigitalOcean
	netip.MustParsePrefix("fe80::/10"),          // link-local
	netip.MustParsePrefix("fd00:ec2::/32"),      // AWS
	netip.MustParsePrefix("fd20:ce::254/128"),   // Google
	netip.MustParsePrefix("100.100.100.200/32"), // Alibaba
	netip.MustParsePrefix("168.63.129.16/32"),   // Azure
	netip.MustParsePrefix("192.0.0.192/32"),     // Oracle
}

// mayForward reports whether sessions may forward to an address, in every other
// spelling of it too. Of all the prefixes that a spelling is in, the longest
// decides, and of two as long the one that denies.
func (a *Agent) mayForward(addr netip.Addr) bool {
	for _, spelling := range spellings(addr) {
		denied, allowed := -1, -1
		for _, list := range [][]netip.Prefix{neverForward, a.ForwardDeny} {
			for _, p := range list {
				if p.Contains(spelling) {
					denied = max(denied, p.Bits())
				}
			}
		}
		for _, p := range a.ForwardAllow {
			if p.Contains(spelling) {
				allowed = max(allowed, p.Bits())
			}
		}
		if denied >= 0 && allowed <= denied {
			return false
		}
	}
	return true
}

// Where IPv6 addresses have IPv4 ones in them.
var (
	compatible = netip.MustParsePrefix("::/96")           // RFC 4291, 2.5.5.1
	translated = netip.MustParsePrefix("::ffff:0:0:0/96") // RFC 2765
	nat64      = netip.MustParsePrefix("64:ff9b::/96")    // RFC 6052
	localNAT64 = netip.MustParsePrefix("64:ff9b:1::/48")  // RFC 8215: prefixes of any length of RFC 6052's
	sixToFour  = netip.MustParsePrefix("2002::/16")       // RFC 3056
	teredo     = netip.MustParsePrefix("2001::/32")       // RFC 4380
)

// spellings are the address itself and the others at which a connection to it may
// arrive. An unspecified address is this machine, as far as connecting goes.
func spellings(addr netip.Addr) []netip.Addr {
	addr = addr.WithZone("").Unmap()
	all := []netip.Addr{addr}
	if addr.IsUnspecified() {
		return append(all, netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback())
	}
	if addr.Is4() {
		return all
	}
	b := addr.As16()
	within := func(at ...int) {
		v4 := netip.AddrFrom4([4]byte{b[at[0]], b[at[1]], b[at[2]], b[at[3]]})
		all = append(all, v4)
		if v4.IsUnspecified() {
			all = append(all, netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback())
		}
	}
	switch {
	case addr.IsLoopback():
	case compatible.Contains(addr), translated.Contains(addr), nat64.Contains(addr):
		within(12, 13, 14, 15)
	case localNAT64.Contains(addr): // byte 8 is no part of it
		within(6, 7, 9, 10)
		within(7, 9, 10, 11)
		within(9, 10, 11, 12)
		within(12, 13, 14, 15)
	case sixToFour.Contains(addr):
		within(2, 3, 4, 5)
	case teredo.Contains(addr):
		within(4, 5, 6, 7)
		for i := 12; i < 16; i++ {
			b[i] ^= 0xff
		}
		within(12, 13, 14, 15)
	case b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe: // RFC 5214
		within(12, 13, 14, 15)
	}
	return all
}

// destinations resolves where a session forwards to, once, and checks every
// address. What is checked is what is dialled: a name may mean something else
// the next time.
func (s *session) destinations(host, port string) (all []netip.AddrPort, err error) {
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || number == 0 {
		return nil, fmt.Errorf("%.20q is no port", port)
	}
	var addrs []netip.Addr
	switch addr, ok := parseAddr(host); {
	case host == "" || strings.EqualFold(host, "localhost"):
		addrs = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	case ok:
		addrs = []netip.Addr{addr}
	default:
		ctx, cancel := context.WithTimeout(s.ctx, resolveWithin)
		defer cancel()
		if addrs, err = s.agent.machine().Resolve(ctx, host); err != nil {
			return nil, err
		}
	}
	for _, addr := range addrs {
		if !s.agent.mayForward(addr) {
			//lint:ignore ST1005 AWS's words, which people search for
			return nil, fmt.Errorf("Forwarding to IP address %s is forbidden.", host)
		}
		all = append(all, netip.AddrPortFrom(addr.Unmap(), uint16(number)))
	}
	return all, nil
}

// dial connects to the first of the addresses that answers.
func (s *session) dial(ctx context.Context, addrs []netip.AddrPort) (net.Conn, error) {
	var all []error
	for _, addr := range addrs {
		conn, err := s.agent.machine().Dial(ctx, addr)
		if err == nil {
			return conn, nil
		}
		all = append(all, err)
	}
	return nil, errors.Join(all...)
}

// parseAddr reads an address in every spelling that C's inet_aton reads, which
// other programs on this machine would: 2852039166, 0xa9.254.0251.254.
func parseAddr(host string) (netip.Addr, bool) {
	if addr, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return addr, true
	}
	parts := strings.Split(host, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var value uint64
	for i, part := range parts {
		bits := 8
		if i == len(parts)-1 {
			bits = 8 * (5 - len(parts))
		}
		if part == "" || strings.ContainsAny(part, "_+-") {
			return netip.Addr{}, false
		}
		base := 10
		switch digits := strings.ToLower(part); {
		case strings.HasPrefix(digits, "0x"):
			part, base = part[2:], 16
		case len(part) > 1 && part[0] == '0':
			part, base = part[1:], 8
		}
		n, err := strconv.ParseUint(part, base, bits)
		if err != nil {
			return netip.Addr{}, false
		}
		value = value<<bits | n
	}
	return netip.AddrFrom4([4]byte{byte(value >> 24), byte(value >> 16), byte(value >> 8), byte(value)}), true
}
