package api

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/sallyport/sallyport"
)

func from(addr string) *http.Request {
	return &http.Request{RemoteAddr: netip.AddrPortFrom(netip.MustParseAddr(addr), 1234).String()}
}

// Who fails too often hears only that, for a while; one machine has one IPv6
// network of 64 bits, however many addresses.
func TestFailuresAreCounted(t *testing.T) {
	var l limits
	now := time.Unix(1e9, 0)
	wrong := errors.New("a bad signature")
	for i := range failureBurst {
		if err := l.failed(from(fmt.Sprintf("2001:db8::%x", i+1)), now, wrong); err != wrong {
			t.Fatalf("failure %d: %v", i+1, err)
		}
	}
	if err := l.failed(from("2001:db8::ffff"), now, wrong); sallyport.CodeOf(err) != sallyport.ThrottlingException {
		t.Errorf("one failure too many: %v", err)
	}
	if err := l.failed(from("2001:db8:0:1::1"), now, wrong); err != wrong {
		t.Errorf("another network: %v", err)
	}
	if err := l.failed(from("::ffff:192.0.2.1"), now, wrong); err != wrong {
		t.Errorf("another address: %v", err)
	}
	if err := l.failed(from("2001:db8::1"), now.Add(failureEvery), wrong); err != wrong {
		t.Errorf("a while later: %v", err)
	}
}

// What is remembered of addresses is bounded, and what was used last is kept.
func TestAddressesAreForgotten(t *testing.T) {
	var l limits
	now := time.Unix(1e9, 0)
	for i := range 3 * maxAddresses {
		now = now.Add(time.Millisecond)
		addr := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		l.failed(from(addr.String()), now, errors.New("x"))
		if len(l.failures) > maxAddresses {
			t.Fatalf("%d addresses", len(l.failures))
		}
	}
	if len(l.failures) < maxAddresses/2 {
		t.Errorf("only %d addresses are left", len(l.failures))
	}
	last := 3*maxAddresses - 1
	if l.failures[netip.AddrFrom4([4]byte{10, byte(last >> 16), byte(last >> 8), byte(last)}).String()] == nil {
		t.Error("the last is forgotten")
	}
}
