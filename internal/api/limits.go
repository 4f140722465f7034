package api

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/sallyport/sallyport"
)

// How fast one address may guess. The first allows a machine room to register
// at once from behind one address; both are far below what guessing would need.
const (
	registerEvery, registerBurst = 200 * time.Millisecond, 50
	failureEvery, failureBurst   = 500 * time.Millisecond, 60

	// maxAddresses bounds what is remembered. Beyond it the half that was used
	// longest ago is forgotten, which gives a guesser who commands as many
	// addresses one more burst.
	maxAddresses = 20_000
)

// limits slow down guessing: of activation codes, and of signatures. Requests
// that are signed well are not counted, and are answered also while others from the
// same address are refused.
type limits struct {
	mu       sync.Mutex
	register map[string]*limiter
	failures map[string]*limiter
}

type limiter struct {
	*rate.Limiter
	used time.Time
}

// Remote is the address a request came from, without its port.
func Remote(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// guesser is what is counted against: the address, or of an IPv6 address the
// network of 64 bits, all of which one machine may have.
func guesser(r *http.Request) string {
	addr, err := netip.ParseAddr(Remote(r))
	if err != nil {
		return Remote(r)
	}
	addr = addr.Unmap().WithZone("")
	if addr.Is6() {
		if p, err := addr.Prefix(64); err == nil {
			return p.String()
		}
	}
	return addr.String()
}

// mayRegister reports whether the caller may try another registration.
func (l *limits) mayRegister(r *http.Request, now time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !take(&l.register, guesser(r), now, registerEvery, registerBurst) {
		return throttled()
	}
	return nil
}

// failed counts a failure, err, against the caller, and returns what the caller
// is told: err, or no more than that it was one failure too many.
func (l *limits) failed(r *http.Request, now time.Time, err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !take(&l.failures, guesser(r), now, failureEvery, failureBurst) {
		return throttled()
	}
	return err
}

func throttled() error {
	return sallyport.Errorf(sallyport.ThrottlingException, "Rate exceeded: too many attempts from your address. Wait a minute and try again.")
}

func take(m *map[string]*limiter, key string, now time.Time, every time.Duration, burst int) bool {
	if *m == nil {
		*m = map[string]*limiter{}
	}
	l, ok := (*m)[key]
	if !ok {
		if len(*m) >= maxAddresses {
			forgetHalf(*m)
		}
		l = &limiter{Limiter: rate.NewLimiter(rate.Every(every), burst)}
		(*m)[key] = l
	}
	l.used = now
	return l.AllowN(now, 1)
}

// forgetHalf removes the half of m that was used longest ago.
func forgetHalf(m map[string]*limiter) {
	used := make([]time.Time, 0, len(m))
	for _, l := range m {
		used = append(used, l.used)
	}
	slices.SortFunc(used, time.Time.Compare)
	median, left := used[len(used)/2], len(m)/2
	for key, l := range m {
		if len(m) > left && !l.used.After(median) {
			delete(m, key)
		}
	}
}
