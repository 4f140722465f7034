package api

import (
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/sigv4"
)

// What is read of a request before its signature can be checked, which takes the
// whole body. Requests whose access key is known are one class, those of nodes
// that sign with their own key another, and all others a third: strangers take no
// room from callers, nor from nodes.
const (
	bodyWithin = 20 * time.Second // for a body to arrive
	maxUnknown = 64 << 10         // of a body whose sender is not known, or is a node

	// How many bytes of bodies are held at once, of each class, and of one key, one
	// node or one address within it. Beyond it requests are refused, and clients
	// try again. That a key is named does not mean that its owner asks.
	bodiesOfCallers, ofOneKey       = 128 << 20, 8 << 20
	bodiesOfNodes, ofOneNode        = 32 << 20, 1 << 20
	bodiesOfStrangers, ofOneAddress = 16 << 20, 2 << 20
)

// bodies counts the bytes of bodies that are held, by class.
type bodies struct{ callers, nodes, strangers class }

// A class is requests that have a bound in common.
type class struct {
	// mu guards all below.
	mu     sync.Mutex
	all    int64
	shares map[string]int64 // by key, node or address; those that are not 0
}

// add counts n bytes more of a share, and reports whether the class has no more
// than most then, and the share no more than each.
func (c *class) add(share string, n, most, each int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.shares == nil {
		c.shares = map[string]int64{}
	}
	c.all += n
	of := c.shares[share] + n
	if c.shares[share] = of; of == 0 {
		delete(c.shares, share)
	}
	return c.all <= most && of <= each
}

// readBody reads the request's body into c, within the bounds of its class.
// Release is called when the request has been answered. A request that cannot
// succeed with any body is refused before its body is read.
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
	r := c.Request
	if c.Service != nil && c.Service.Ops[c.Operation].Stream {
		return s.stream(w, c)
	}
	allowed := int64(DefaultMaxBody)
	if c.Service != nil {
		allowed = c.Service.maxBody()
	}
	limit := min(maxUnknown, allowed)
	body := &counted{of: &s.bodies.strangers, share: guesser(r), most: bodiesOfStrangers, each: ofOneAddress}
	switch {
	case strings.HasPrefix(known, "mi-"), strings.HasPrefix(known, "i-"):
		body.of, body.share, body.most, body.each = &s.bodies.nodes, known, bodiesOfNodes, ofOneNode
	case known != "":
		limit = allowed
		body.of, body.share, body.most, body.each = &s.bodies.callers, known, bodiesOfCallers, ofOneKey
	}
	tooLong := sallyport.Errorf(sallyport.RequestEntityTooLarge, "The request body is longer than %d bytes.", limit)
	if r.ContentLength > limit {
		return nil, tooLong
	}
	body.r = http.MaxBytesReader(w, r.Body, limit)
	conn.SetReadDeadline(time.Now().Add(bodyWithin)) // where there is a connection to set it on
	c.Body, err = io.ReadAll(body)
	if err == nil {
		c.hash = sigv4.HashOf(c.Body)
		return body.release, nil
	}
	body.release()
	_, ofSize := errors.AsType[*http.MaxBytesError](err)
	switch {
	case ofSize:
		return nil, tooLong
	case errors.Is(err, errNoRoom):
		return nil, sallyport.Errorf(sallyport.ThrottlingException, "Rate exceeded: the server is reading as many requests as it can hold. Try again in a moment.")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, sallyport.Errorf(sallyport.SerializationException, "The request body did not arrive within %v.", bodyWithin)
	}
	return nil, sallyport.Errorf(sallyport.SerializationException, "The request body was cut short.")
}

// stream lets an operation read the body itself: as long as the service allows, and
// no other than the one whose hash was signed.
func (s *Server) stream(w http.ResponseWriter, c *Call) (release func(), err error) {
	if c.hash, err = sigv4.Promised(c.Request); err != nil {
		return nil, err
	}
	conn := http.NewResponseController(w)
	c.Stream = &hashed{
		r: http.MaxBytesReader(w, c.Request.Body, c.Service.maxBody()), sum: sha256.New(), want: c.hash,
		before: func() { conn.SetReadDeadline(time.Now().Add(bodyWithin)) },
	}
	return func() {}, nil
}

// A hashed reader fails at its end if what it read has another hash.
type hashed struct {
	r    io.Reader
	sum  hash.Hash
	want sigv4.Hash

	before func() // each read: a body that stalls is not waited for
}

func (h *hashed) Read(p []byte) (int, error) {
	h.before()
	n, err := h.r.Read(p)
	h.sum.Write(p[:n])
	if tooLong, ok := errors.AsType[*http.MaxBytesError](err); ok {
		err = sallyport.Errorf(sallyport.RequestEntityTooLarge, "The request body is longer than %d bytes.", tooLong.Limit)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = sallyport.Errorf(sallyport.SerializationException, "Nothing of the request body arrived for %v.", bodyWithin)
	}
	if err == io.EOF && sigv4.Hash(h.sum.Sum(nil)) != h.want {
		err = sallyport.Errorf(sallyport.InvalidSignatureException, "The body is not the one that was signed.")
	}
	return n, err
}

// mayRead returns the access key or the node that the request names, if there is
// such a one. The error is for a request that needs a signature, and has none.
func (s *Server) mayRead(c *Call) (known string, err error) {
	r := c.Request
	if !sigv4.Signed(r) {
		if c.Service == nil {
			return "", nil // query calls name their operation in the body
		}
		if op, ok := c.Service.Ops[c.Operation]; ok && op.Admits != WithoutSignature {
			return "", s.authenticate(c, &op)
		}
		return "", nil
	}
	if c.unclaimed != nil {
		return "", nil // which is said once the service is known
	}
	claim := c.claim
	if node, err := sallyport.ParseNodeID(claim.AccessKeyID); err == nil {
		if _, err := s.Store.Nodes().Get(r.Context(), node); err != nil {
			return "", nil
		}
		return node.String(), nil
	}
	if _, missing := s.credentials(r.Context(), claim, c.At); missing != nil {
		return "", nil
	}
	return claim.AccessKeyID, nil
}

var errNoRoom = errors.New("there is no room for another body")

// A counted reader counts what it has read among what is held of a class.
type counted struct {
	r          io.Reader
	of         *class
	share      string
	most, each int64
	n          int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if !c.of.add(c.share, int64(n), c.most, c.each) {
		return 0, errNoRoom
	}
	return n, err
}

func (c *counted) release() { c.of.add(c.share, -c.n, c.most, c.each) }
