package api

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/sigv4"
)

// What is read of a request before its signature can be checked, which takes the
// whole body. Requests whose access key is known are one class, all others
// another: strangers without one take no room from callers.
const (
	bodyWithin = 20 * time.Second // for a body to arrive
	maxUnknown = 64 << 10         // of a body whose sender is not known

	// How many bytes of bodies are held at once, of each class. Beyond it requests
	// are refused, and clients try again.
	bodiesOfCallers   = 128 << 20
	bodiesOfStrangers = 16 << 20
)

// bodies counts the bytes of bodies that are held.
type bodies struct{ callers, strangers atomic.Int64 }

// readBody reads the request's body into c, within the bounds of its class.
// Release is called when the request has been answered. A request that cannot
// succeed, whatever its body, is refused before that is read.
func (s *Server) readBody(w http.ResponseWriter, c *Call) (release func(), err error) {
	conn := http.NewResponseController(w)
	defer func() {
		if err == nil {
			conn.SetReadDeadline(time.Time{})
			return
		}
		// What is left of the body is not waited for before the answer is sent.
		w.Header().Set("Connection", "close")
		conn.SetReadDeadline(time.Unix(1, 0))
	}()
	known, err := s.mayRead(c)
	if err != nil {
		return nil, err
	}
	limit, held, most := int64(maxUnknown), &s.bodies.strangers, int64(bodiesOfStrangers)
	if known {
		limit, held, most = maxBody, &s.bodies.callers, bodiesOfCallers
	}
	r := c.Request
	conn.SetReadDeadline(time.Now().Add(bodyWithin)) // where there is a connection to set it on
	body := &counted{r: http.MaxBytesReader(w, r.Body, limit), held: held, most: most}
	c.Body, err = io.ReadAll(body)
	if err == nil {
		return body.release, nil
	}
	body.release()
	_, tooLong := errors.AsType[*http.MaxBytesError](err)
	switch {
	case tooLong:
		return nil, sallyport.Errorf(sallyport.RequestEntityTooLarge, "The request body is longer than %d bytes.", limit)
	case errors.Is(err, errNoRoom):
		return nil, sallyport.Errorf(sallyport.ThrottlingException, "Rate exceeded: the server is reading as many requests as it can hold. Try again in a moment.")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, sallyport.Errorf(sallyport.SerializationException, "The request body did not arrive within %v.", bodyWithin)
	}
	return nil, sallyport.Errorf(sallyport.SerializationException, "The request body was cut short.")
}

// mayRead reports whether the request names an access key that there is. The
// error is for one that needs a signature, and has none that could be good.
func (s *Server) mayRead(c *Call) (known bool, err error) {
	r := c.Request
	if !sigv4.Signed(r) {
		op, err := s.find(c)
		if err == nil && op.run != nil && op.Admits != WithoutSignature && r.Header.Get("X-Amz-Target")+pathOf(c) != "" {
			return false, s.authenticate(c, op.Admits)
		}
		return false, nil // query calls name their operation in the body
	}
	claim, err := sigv4.Read(r)
	if err != nil {
		return false, nil // which is said once the service is known
	}
	_, missing := s.credentials(r.Context(), claim, c.At)
	return missing == nil, nil
}

// pathOf is the operation that the path names, if it does.
func pathOf(c *Call) string {
	if c.Service != nil && c.Service.Path != nil {
		return c.Operation
	}
	return ""
}

var errNoRoom = errors.New("there is no room for another body")

// A counted reader counts what it has read among what is held.
type counted struct {
	r    io.Reader
	held *atomic.Int64
	most int64
	n    int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if c.held.Add(int64(n)) > c.most {
		return 0, errNoRoom
	}
	return n, err
}

func (c *counted) release() { c.held.Add(-c.n) }
