// Package sigv4 answers one question about a request: who signed it?
//
// A signed request carries a claim: an access key, the time, and a signature
// over the request made with the key's secret. Verifying is making the
// signature again from the request as it arrived and comparing.
//
//	request ──▶ Read ──▶ Claim{key, time, scope} ──▶ look the key up (not here)
//	                          │                            │ secret
//	                          └──────────▶ Verify ◀────────┘
//
// Nothing in a [Claim] is proven until [Claim.Verify] or [Claim.VerifyRSA] has
// returned nil.
//
// Accepted are signatures in the Authorization header, in the query (presigned,
// for 15 minutes at most), and on the GET that opens a WebSocket, with any set
// of signed headers that includes host and every X-Amz-* header sent. Also the
// variant that on-premises agents use before they have an access key: the same
// string to sign, signed with RSA-PSS under a node's own key, and still called
// AWS4-HMAC-SHA256 (amazon-ssm-agent, agent/ssm/rsaauth/ssm_rsaV4.go).
//
// Refused are payloads that were not hashed (UNSIGNED-PAYLOAD) and payloads
// signed in pieces (STREAMING-*): only S3 needs them, and a request whose body
// is not signed is not a signed request.
//
// The canonical request is made here rather than by a library because the RSA
// variant signs the same string, which no library hands out. Its tests hold it
// to AWS's published vectors and to what the SDK signs.
//
// The package keeps no users and no keys, and reads no clock.
package sigv4

import (
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
)

const (
	algorithm  = "AWS4-HMAC-SHA256"
	timeFormat = "20060102T150405Z"
	terminator = "aws4_request"

	// Skew is how far a caller's clock may be from ours, either way.
	Skew = 5 * time.Minute

	// maxExpires is the longest time that a presigned request may ask for, which
	// only S3 grants. Here it is good for maxPresigned, as in STS, however much
	// more it asks for.
	maxExpires   = 7 * 24 * time.Hour
	maxPresigned = 15 * time.Minute

	// maxSignedHeaders bounds the work a stranger can ask for.
	maxSignedHeaders = 64
)

// A Hash is the SHA-256 of a body.
type Hash [sha256.Size]byte

// HashOf returns the hash of a body as it was read.
func HashOf(body []byte) Hash { return sha256.Sum256(body) }

// EmptyBody is the hash of no bytes, which is what a GET carries.
var EmptyBody = HashOf(nil)

// Promised is the hash that a request says its body has, in X-Amz-Content-Sha256:
// for a body that is read after the signature was checked, and must then have
// that hash. The error is an InvalidSignatureException.
func Promised(r *http.Request) (Hash, error) {
	b, err := hex.DecodeString(r.Header.Get("X-Amz-Content-Sha256"))
	if err != nil || len(b) != sha256.Size {
		return Hash{}, sallyport.Errorf(sallyport.InvalidSignatureException, "X-Amz-Content-Sha256 must be the hash of the body, in hexadecimal digits.")
	}
	return Hash(b), nil
}

// A Claim is what a request says about who signed it, and when, and for whom.
type Claim struct {
	AccessKeyID string // or a node's ID, in the RSA variant
	Region      string
	Service     string
	Time        time.Time
	Token       sallyport.Secret // X-Amz-Security-Token; empty for long-lived keys
	Presigned   bool

	expires   time.Duration // after Time; for presigned requests
	headers   []string      // signed, sorted, lower case
	signature string
}

// Signed reports whether r claims to be signed at all, in either form.
func Signed(r *http.Request) bool {
	return r.Header.Get("Authorization") != "" || strings.Contains(r.URL.RawQuery, "X-Amz-")
}

// Read returns the claim r makes. It is a MissingAuthenticationTokenException
// if there is none, an IncompleteSignatureException if the claim is malformed
// or leaves out what must be signed.
func Read(r *http.Request) (*Claim, error) {
	query, err := parseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	var c Claim
	var credential, signedHeaders, date string

	switch auth := r.Header.Values("Authorization"); {
	case len(auth) == 1:
		fields, ok := strings.CutPrefix(auth[0], algorithm+" ")
		if !ok {
			return nil, incomplete("the Authorization header does not begin with %s", algorithm)
		}
		for field := range strings.SplitSeq(fields, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(field), "=")
			switch name {
			case "Credential":
				credential = value
			case "SignedHeaders":
				signedHeaders = value
			case "Signature":
				c.signature = value
			}
		}
		date = r.Header.Get("X-Amz-Date")
		c.Token = sallyport.NewSecret(r.Header.Get("X-Amz-Security-Token"))

	case len(auth) > 1:
		return nil, incomplete("there are %d Authorization headers", len(auth))

	case query.get("X-Amz-Algorithm") != "":
		if a := query.get("X-Amz-Algorithm"); a != algorithm {
			return nil, incomplete("X-Amz-Algorithm is %q, not %s", sallyport.Clip(a, 32), algorithm)
		}
		c.Presigned = true
		credential = query.get("X-Amz-Credential")
		signedHeaders = query.get("X-Amz-SignedHeaders")
		c.signature = query.get("X-Amz-Signature")
		date = query.get("X-Amz-Date")
		c.Token = sallyport.NewSecret(query.get("X-Amz-Security-Token"))
		seconds, err := strconv.Atoi(query.get("X-Amz-Expires"))
		c.expires = time.Duration(seconds) * time.Second
		if err != nil || seconds < 1 || seconds > int(maxExpires/time.Second) {
			return nil, incomplete("X-Amz-Expires is not a number of seconds from 1 to %d", int(maxExpires/time.Second))
		}
		c.expires = min(c.expires, maxPresigned)

	default:
		return nil, sallyport.Errorf(sallyport.MissingAuthenticationToken,
			"The request is not signed. Sign it with an access key (Signature Version 4).")
	}

	scope := strings.Split(credential, "/")
	if len(scope) != 5 || scope[4] != terminator {
		return nil, incomplete("the credential is not KEY/DATE/REGION/SERVICE/%s", terminator)
	}
	c.AccessKeyID, c.Region, c.Service = scope[0], scope[2], scope[3]
	if c.AccessKeyID == "" || c.signature == "" {
		return nil, incomplete("the access key or the signature is empty")
	}
	if c.Time, err = time.Parse(timeFormat, date); err != nil {
		return nil, incomplete("X-Amz-Date is not a time like %s", timeFormat)
	}
	if c.Time.Format("20060102") != scope[1] {
		return nil, incomplete("the date of the credential is not the date of X-Amz-Date")
	}
	if err := c.readHeaders(r, signedHeaders); err != nil {
		return nil, err
	}
	return &c, nil
}

// readHeaders checks that what must be signed is.
func (c *Claim) readHeaders(r *http.Request, list string) error {
	c.headers = strings.Split(list, ";")
	if len(c.headers) > maxSignedHeaders {
		return incomplete("more than %d headers are signed", maxSignedHeaders)
	}
	if !slices.IsSorted(c.headers) || strings.ToLower(list) != list {
		return incomplete("SignedHeaders is not in lower case and in order")
	}
	if !slices.Contains(c.headers, "host") {
		return incomplete("the host header is not signed")
	}
	for name := range r.Header {
		name = strings.ToLower(name)
		// The agent adds the hash of its body after it has signed, and the hash
		// is in the string to sign anyway.
		if strings.HasPrefix(name, "x-amz-") && name != "x-amz-content-sha256" && !slices.Contains(c.headers, name) {
			return incomplete("the header %s is not signed", name)
		}
	}
	return nil
}

// Verify reports whether the holder of secret signed r, whose body hashes to
// body, near enough to now. The comparison takes constant time.
func (c *Claim) Verify(r *http.Request, body Hash, secret sallyport.Secret, now time.Time) error {
	toSign, err := c.check(r, body, now)
	if err != nil {
		return err
	}
	want := hex.EncodeToString(mac(signingKey(secret, c.Time, c.Region, c.Service), toSign))
	if !hmac.Equal([]byte(want), []byte(c.signature)) {
		return mismatch()
	}
	return nil
}

// VerifyRSA reports whether the holder of key's private half signed r. The
// salt may be of any length; agents use 32 bytes.
func (c *Claim) VerifyRSA(r *http.Request, body Hash, key *rsa.PublicKey, now time.Time) error {
	toSign, err := c.check(r, body, now)
	if err != nil {
		return err
	}
	signature, err := base64.StdEncoding.DecodeString(c.signature)
	if err != nil {
		return incomplete("the signature is not base64")
	}
	digest := sha256.Sum256([]byte(toSign))
	if rsa.VerifyPSS(key, crypto.SHA256, digest[:], signature, nil) != nil {
		return mismatch()
	}
	return nil
}

// check does what both ways of verifying begin with, and returns the string
// that must have been signed.
func (c *Claim) check(r *http.Request, body Hash, now time.Time) (toSign string, err error) {
	switch h := r.Header.Get("X-Amz-Content-Sha256"); {
	case h == "UNSIGNED-PAYLOAD" || strings.HasPrefix(h, "STREAMING-"):
		return "", sallyport.Errorf(sallyport.InvalidSignatureException,
			"X-Amz-Content-Sha256 is %s, and every request here must sign the hash of its body.", sallyport.Clip(h, 64))
	case h != "" && h != hex.EncodeToString(body[:]):
		return "", sallyport.Errorf(sallyport.InvalidSignatureException,
			"X-Amz-Content-Sha256 is not the hash of the body that arrived.")
	}
	if err := c.fresh(now); err != nil {
		return "", err
	}
	canonical, err := c.canonical(r, body)
	if err != nil {
		return "", err
	}
	return stringToSign(c.Time, c.Region, c.Service, canonical), nil
}

// fresh reports whether the claim was made near enough to now.
func (c *Claim) fresh(now time.Time) error {
	late := now.Sub(c.Time)
	if c.Presigned && late >= -Skew && late <= c.expires {
		return nil
	}
	if c.Presigned && late > c.expires {
		return sallyport.Errorf(sallyport.InvalidSignatureException, "Signature expired: the request was good until %s, and it is %s here.",
			c.Time.Add(c.expires).UTC().Format(timeFormat), now.UTC().Format(timeFormat))
	}
	if late >= -Skew && late <= Skew {
		return nil
	}
	return sallyport.Errorf(sallyport.InvalidSignatureException,
		"Signature expired: the request was signed at %s, and it is %s here. %s Set it right; %v either way are tolerated.",
		c.Time.UTC().Format(timeFormat), now.UTC().Format(timeFormat), SkewText("Your", c.Time, now), Skew)
}

// SkewText says in a sentence by how much a clock that reads at is off when
// ours reads now: "Your clock is 31 minutes slow."
func SkewText(whose string, at, now time.Time) string {
	off, way := now.Sub(at), "slow"
	if off < 0 {
		off, way = -off, "fast"
	}
	amount := fmt.Sprintf("%d minutes", int(off.Minutes()))
	switch {
	case off >= 48*time.Hour:
		amount = fmt.Sprintf("%d days", int(off.Hours())/24)
	case off >= 2*time.Hour:
		amount = fmt.Sprintf("%d hours", int(off.Hours()))
	case off < 2*time.Minute:
		amount = fmt.Sprintf("%d seconds", int(off.Seconds()))
	}
	return fmt.Sprintf("%s clock is %s %s.", whose, amount, way)
}

// SkewOf reports how far the clock that made the claim is behind now, if that
// is too far. It lets a server tell a slow clock from a wrong key.
func (c *Claim) SkewOf(now time.Time) (off time.Duration, tooFar bool) {
	off = now.Sub(c.Time)
	return off, !c.Presigned && (off > Skew || off < -Skew)
}

// An Authority signs requests: an access key, its secret, and what it is good
// for.
type Authority struct {
	AccessKeyID string
	Secret      sallyport.Secret
	Token       sallyport.Secret // empty for long-lived keys
	Region      string
	Service     string
}

// Sign signs r, whose body hashes to body, as of at: host, content type and
// every X-Amz-* header. It sets X-Amz-Date, Authorization and, for temporary
// credentials, X-Amz-Security-Token.
func (a *Authority) Sign(r *http.Request, body Hash, at time.Time) error {
	if !a.Token.Empty() {
		r.Header.Set("X-Amz-Security-Token", a.Token.Reveal())
	}
	toSign, c, err := prepare(r, body, a.Region, a.Service, at)
	if err != nil {
		return err
	}
	signature := hex.EncodeToString(mac(signingKey(a.Secret, at, a.Region, a.Service), toSign))
	c.authorize(r, a.AccessKeyID, signature)
	return nil
}

// SignRSA signs r as a node does that has no access key yet.
func SignRSA(r *http.Request, body Hash, node sallyport.NodeID, key *rsa.PrivateKey, region string, at time.Time) error {
	toSign, c, err := prepare(r, body, region, "ssm", at)
	if err != nil {
		return err
	}
	digest := sha256.Sum256([]byte(toSign))
	signature, err := rsa.SignPSS(rand.Reader, key, crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	if err != nil {
		return fmt.Errorf("sign with the node's key: %w", err)
	}
	c.authorize(r, node.String(), base64.StdEncoding.EncodeToString(signature))
	return nil
}

func prepare(r *http.Request, body Hash, region, service string, at time.Time) (toSign string, c Claim, err error) {
	c = Claim{Region: region, Service: service, Time: at.UTC(), headers: []string{"host"}}
	r.Header.Set("X-Amz-Date", c.Time.Format(timeFormat))
	for name := range r.Header {
		if name = strings.ToLower(name); name == "content-type" || strings.HasPrefix(name, "x-amz-") {
			c.headers = append(c.headers, name)
		}
	}
	slices.Sort(c.headers)
	canonical, err := c.canonical(r, body)
	if err != nil {
		return "", c, err
	}
	return stringToSign(c.Time, region, service, canonical), c, nil
}

func (c *Claim) authorize(r *http.Request, keyID, signature string) {
	r.Header.Set("Authorization", fmt.Sprintf("%s Credential=%s/%s, SignedHeaders=%s, Signature=%s",
		algorithm, keyID, scope(c.Time, c.Region, c.Service), strings.Join(c.headers, ";"), signature))
}

func incomplete(format string, args ...any) error {
	return sallyport.Errorf(sallyport.IncompleteSignatureException, "The signature cannot be read: %s.", fmt.Sprintf(format, args...))
}

func mismatch() error {
	return sallyport.Errorf(sallyport.InvalidSignatureException,
		"The request signature we calculated does not match the signature you provided. Check your secret access key.")
}
