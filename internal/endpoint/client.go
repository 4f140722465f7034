package endpoint

import (
	"bytes"
	"context"
	"crypto/rsa"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/sigv4"
	"github.com/sallyport/sallyport/internal/socket"
	"github.com/sallyport/sallyport/internal/strictjson"
)

const (
	// maxAnswer bounds what is read of an answer. The longest are pages of
	// lists, and those are far shorter.
	maxAnswer = 8 << 20

	// patience is how long one call may take, all of it.
	patience = 60 * time.Second

	// slack is how far from the control plane's clock ours may be and still be
	// signed by. Dates in answers are whole seconds, and some time old.
	slack = 30 * time.Second
)

// Credentials are an access key, as the caller holds it.
type Credentials struct {
	AccessKeyID string
	Secret      sallyport.Secret
	Token       sallyport.Secret // empty for long-lived keys
}

// A Client calls one control plane. Set its exported fields before first use.
// It may be used by many goroutines at once.
type Client struct {
	Base   *url.URL     // from [ParseURL]
	HTTP   *http.Client // from [Trust.HTTP]
	Region string

	// Credentials returns the key to sign a request with. It is asked anew for
	// each, so that keys may be replaced. Nil leaves requests unsigned.
	Credentials func(context.Context) (Credentials, error)

	UserAgent string // "" is Go's own

	off atomic.Int64 // how far the control plane's clock is ahead of ours; 0 within slack
}

// Now is what time it is by the control plane's clock, as far as that is known.
func (c *Client) Now() time.Time { return time.Now().Add(c.Ahead()) }

// Ahead is how far the control plane's clock is ahead of ours; 0 if they agree
// within half a minute or no answer has come yet.
func (c *Client) Ahead() time.Duration { return time.Duration(c.off.Load()) }

// learn takes the time from an answer to a request made since asked.
func (c *Client) learn(h http.Header, asked time.Time) {
	date, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return
	}
	// The server said so somewhere between the asking and now.
	now := time.Now()
	off := date.Sub(asked.Add(now.Sub(asked) / 2))
	if off.Abs() < slack {
		off = 0
	}
	c.off.Store(int64(off))
}

// A sign signs a request whose body hashes to body.
type sign func(r *http.Request, body sigv4.Hash, at time.Time) error

func (c *Client) signer(ctx context.Context, service string) (sign, error) {
	if c.Credentials == nil {
		return func(*http.Request, sigv4.Hash, time.Time) error { return nil }, nil
	}
	keys, err := c.Credentials(ctx)
	if err != nil {
		return nil, fmt.Errorf("get credentials: %w", err)
	}
	authority := &sigv4.Authority{
		AccessKeyID: keys.AccessKeyID, Secret: keys.Secret, Token: keys.Token,
		Region: c.Region, Service: service,
	}
	return authority.Sign, nil
}

// Call performs one operation of a JSON service: target is what X-Amz-Target
// says, as in "AmazonSSM.StartSession". Nil out drops the answer.
//
// A refusal is a *sallyport.Error, with the server's own sentence. An answer
// that is not of AWS's making, such as a proxy's, is a [StatusError].
func (c *Client) Call(ctx context.Context, service, target string, in, out any) error {
	s, err := c.signer(ctx, service)
	if err != nil {
		return fmt.Errorf("call %s: %w", target, err)
	}
	return c.call(ctx, target, s, in, out)
}

// CallRSA is [Client.Call] by a node that has no access key yet, signed with
// the key it registered.
func (c *Client) CallRSA(ctx context.Context, node sallyport.NodeID, key *rsa.PrivateKey, target string, in, out any) error {
	return c.call(ctx, target, func(r *http.Request, body sigv4.Hash, at time.Time) error {
		return sigv4.SignRSA(r, body, node, key, c.Region, at)
	}, in, out)
}

func (c *Client) call(ctx context.Context, target string, s sign, in, out any) error {
	body, err := strictjson.Marshal(in)
	if err != nil {
		return fmt.Errorf("call %s: %w", target, err)
	}
	header := http.Header{"Content-Type": {"application/x-amz-json-1.1"}, "X-Amz-Target": {target}}
	answer, err := c.post(ctx, "/", header, s, body, http.StatusOK)
	if err != nil {
		return fmt.Errorf("call %s: %w", target, err)
	}
	if out == nil || len(bytes.TrimSpace(answer)) == 0 {
		return nil
	}
	if err := strictjson.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("call %s: read answer: %w", target, err)
	}
	return nil
}

// A Channel is what CreateControlChannel and CreateDataChannel answer.
type Channel struct {
	Token sallyport.Secret

	// Capabilities are what a control plane of ours can do beyond AWS's. Empty
	// is AWS's, or one of ours from before it announced them.
	Capabilities []string
}

// CreateChannel asks ssmmessages for the token that opens a channel:
// CreateControlChannel and CreateDataChannel, told apart by path. The answers
// are XML, and 201.
func (c *Client) CreateChannel(ctx context.Context, path string, in any) (Channel, error) {
	s, err := c.signer(ctx, "ssmmessages")
	if err != nil {
		return Channel{}, fmt.Errorf("post %s: %w", path, err)
	}
	body, err := strictjson.Marshal(in)
	if err != nil {
		return Channel{}, fmt.Errorf("post %s: %w", path, err)
	}
	header := http.Header{"Content-Type": {"application/json"}}
	answer, err := c.post(ctx, path, header, s, body, http.StatusCreated)
	if err != nil {
		return Channel{}, fmt.Errorf("post %s: %w", path, err)
	}
	var created struct {
		TokenValue   string
		Capabilities []string `xml:"Capabilities>member"`
	}
	if err := xml.Unmarshal(answer, &created); err != nil {
		return Channel{}, fmt.Errorf("post %s: read answer: %w", path, err)
	}
	if created.TokenValue == "" {
		return Channel{}, fmt.Errorf("post %s: the answer has no TokenValue", path)
	}
	return Channel{sallyport.NewSecret(created.TokenValue), created.Capabilities}, nil
}

// Socket opens a WebSocket, with a request signed for service. ref is a path
// and query at the control plane, or a whole wss URL, which the caller has
// decided to believe: the request shows it the session token.
func (c *Client) Socket(ctx context.Context, ref, service string) (*socket.Conn, error) {
	u, err := c.resolve(ref)
	if err != nil {
		return nil, fmt.Errorf("open socket: %w", err)
	}
	for again := false; ; again = true {
		s, err := c.signer(ctx, service)
		if err != nil {
			return nil, fmt.Errorf("open socket: %w", err)
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
		if err != nil {
			return nil, fmt.Errorf("open socket: %w", err)
		}
		c.agent(req.Header)
		ahead := c.Ahead()
		if err := s(req, sigv4.EmptyBody, c.Now()); err != nil {
			return nil, fmt.Errorf("open socket: %w", err)
		}
		by, ok := c.transport().(*http.Transport)
		if !ok {
			return nil, fmt.Errorf("open socket: a %T cannot open one", c.transport())
		}
		dctx, cancel := context.WithTimeout(ctx, patience)
		asked := time.Now()
		conn, header, err := socket.Dial(dctx, by, u.String(), req.Header)
		cancel()
		if header != nil {
			c.learn(header, asked)
		}
		if err == nil {
			return conn, nil
		}
		var refused *socket.HandshakeError
		if errors.As(err, &refused) {
			err = readError(refused.Status, http.Header{}, []byte(refused.Body))
		}
		if again || !c.skewed(err, ahead) {
			return nil, fmt.Errorf("open socket: %w", err)
		}
	}
}

func (c *Client) transport() http.RoundTripper {
	if c.HTTP.Transport != nil {
		return c.HTTP.Transport
	}
	return http.DefaultTransport
}

func (c *Client) resolve(ref string) (*url.URL, error) {
	u, err := url.Parse(ref)
	if err != nil {
		return nil, err
	}
	if u.Host == "" {
		u.Scheme, u.Host = c.Base.Scheme, c.Base.Host
		u.Path, u.RawPath = c.Base.Path+u.Path, ""
		return u, nil
	}
	switch u.Scheme {
	case "wss":
		u.Scheme = "https"
	case "ws":
		u.Scheme = "http"
	}
	if u.Scheme != "https" && !(u.Scheme == "http" && loopback(u.Hostname())) {
		return nil, fmt.Errorf("%q is not a wss URL", sallyport.Clip(ref, 200))
	}
	return u, nil
}

func (c *Client) agent(h http.Header) {
	if c.UserAgent != "" {
		h.Set("User-Agent", c.UserAgent)
	}
}

// post sends body, signed, and once more if the only thing wrong was our
// clock. It returns the body of an answer with the status that is wanted.
func (c *Client) post(ctx context.Context, path string, header http.Header, s sign, body []byte, want int) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for again := false; ; again = true {
		ahead := c.Ahead()
		answer, err := c.postOnce(ctx, path, header, s, body, want)
		if err == nil || again || !c.skewed(err, ahead) {
			return answer, err
		}
	}
}

// skewed reports whether err may be owed to our clock: the request was refused
// as badly signed, and its answer has moved what we take the time to be.
func (c *Client) skewed(err error, ahead time.Duration) bool {
	if (c.Ahead() - ahead).Abs() < slack {
		return false
	}
	switch sallyport.CodeOf(err) {
	case sallyport.InvalidSignatureException, sallyport.ExpiredTokenException, sallyport.IncompleteSignatureException,
		"SignatureDoesNotMatch", "RequestTimeTooSkewed", "RequestExpired", "AuthFailure", "RequestInTheFuture":
		return true
	}
	return false
}

func (c *Client) postOnce(ctx context.Context, path string, header http.Header, s sign, body []byte, want int) ([]byte, error) {
	u := *c.Base
	u.Path += path
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header = header.Clone()
	c.agent(req.Header)
	if err := s(req, sigv4.HashOf(body), c.Now()); err != nil {
		return nil, err
	}
	asked := time.Now()
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	c.learn(resp.Header, asked)
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if u.Scheme == "http" && resp.StatusCode == http.StatusBadRequest && (err != nil || bytes.Contains(answer, []byte("HTTP request to an HTTPS server"))) {
		return nil, &tlsExpectedError{u.Host} // Go's net/http says so, and resets the connection
	}
	if err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	if len(answer) > maxAnswer {
		return nil, fmt.Errorf("read answer: it is longer than %d bytes", maxAnswer)
	}
	if resp.StatusCode != want {
		return nil, readError(resp.StatusCode, resp.Header, answer)
	}
	return answer, nil
}

// A StatusError is an answer that is neither a success nor an exception of
// AWS's: the server at the address, or a proxy in front of it, answers in none of
// AWS's formats.
type StatusError struct {
	Status int
	Body   string // the beginning of it
}

func (e *StatusError) Error() string {
	text := fmt.Sprintf("the server answered %d %s", e.Status, http.StatusText(e.Status))
	if e.Body != "" {
		text += ": " + e.Body
	}
	return text
}

// readError reads an exception as any of AWS's protocols writes it: JSON with
// __type, a header, or XML whose root, or whose Code, is the name.
func readError(status int, header http.Header, body []byte) error {
	var j struct {
		Type    string `json:"__type"`
		Code    string `json:"code"`
		Message string `json:"message"` // and Message: matching ignores case
	}
	json.Unmarshal(body, &j) // if it is not JSON, there is nothing in it
	code, message := j.Type, j.Message
	if code == "" {
		code = header.Get("X-Amzn-ErrorType")
	}
	if code == "" {
		code = j.Code
	}
	if code == "" {
		code, message = readXMLError(body)
	}
	if _, after, ok := strings.Cut(code, "#"); ok {
		code = after
	}
	code, _, _ = strings.Cut(code, ":")
	if code == "" || !word(code) {
		text := strings.Join(strings.Fields(string(body[:min(len(body), 1024)])), " ")
		return &StatusError{status, sallyport.Clip(strings.ToValidUTF8(text, "?"), 300)}
	}
	return &sallyport.Error{Code: sallyport.Code(code), Message: message}
}

func word(s string) bool {
	for _, r := range s {
		if !('0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || r == '.' || r == '_') {
			return false
		}
	}
	return len(s) < 100
}

func readXMLError(body []byte) (code, message string) {
	d := xml.NewDecoder(bytes.NewReader(body))
	root, in := "", ""
	for {
		token, err := d.Token()
		if err != nil {
			break
		}
		switch t := token.(type) {
		case xml.StartElement:
			if root == "" {
				root = t.Name.Local
			}
			in = strings.ToLower(t.Name.Local)
		case xml.EndElement:
			in = ""
		case xml.CharData:
			switch text := strings.TrimSpace(string(t)); {
			case in == "code" && code == "":
				code = text
			case in == "message" && message == "":
				message = text
			}
		}
	}
	if code == "" && strings.HasSuffix(root, "Exception") {
		code = root
	}
	return code, message
}
