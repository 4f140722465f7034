package api

import (
	"net"
	"net/http"
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

	// maxAddresses bounds what is remembered. Beyond it the oldest half is
	// forgotten, which gives a guesser who commands as many addresses one more
	// burst.
	maxAddresses = 20_000
)

// limits slow down whoever guesses: activation codes, and signatures. Requests
// that are signed well are not counted.
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

// mayRegister reports whether the caller may try another registration.
func (l *limits) mayRegister(r *http.Request, now time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !take(&l.register, Remote(r), now, registerEvery, registerBurst) {
		return throttled()
	}
	return nil
}

// mayTry reports whether the caller has failed too often to be heard.
func (l *limits) mayTry(r *http.Request, now time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f, ok := l.failures[Remote(r)]; ok && f.TokensAt(now) < 1 {
		return throttled()
	}
	return nil
}

// failed counts a failure against the caller.
func (l *limits) failed(r *http.Request, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	take(&l.failures, Remote(r), now, failureEvery, failureBurst)
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
			for k, old := range *m { // those whose bucket is full again are as good as new
				if now.Sub(old.used) > every*time.Duration(burst) || len(*m) >= maxAddresses {
					delete(*m, k)
				}
			}
		}
		l = &limiter{Limiter: rate.NewLimiter(rate.Every(every), burst)}
		(*m)[key] = l
	}
	l.used = now
	return l.AllowN(now, 1)
}
