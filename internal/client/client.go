// Package client is the person's side of Sallyport. It answers one question:
// what is the person typing?
//
//	keyboard ──▶ escapes ──▶ bounded queue ──▶ Stream ──▶ socket ──▶ control plane
//	 signals ───────────────────▲                │
//	                                             ▼
//	                    terminal ◀── output ◀── Receive
//
// A [Client] calls the control plane with the credentials that AWS's own settings
// name. Its StartSession returns an [Invitation], and a [Session] joins
// it: the terminal goes raw, keystrokes go out, output comes in, and when a
// socket is lost another takes its place, for as long as the control plane has
// not said that the session is over. However that ends, the terminal is as it
// was before.
//
// Not every session has a terminal at its other end. One that forwards a port
// takes connections here and has the node make them there, many over one stream;
// one for ssh is a single connection, whose ends here are Stdin and Stdout; a
// command with pipes has those for its own. The handshake says which it is.
//
// Two programs are made of it: our own connect (package clientcmd), and
// [PluginMain], the drop-in for AWS's session-manager-plugin, which the aws CLI
// runs. They differ in what they print and where, and in little else: see
// Session.Stock.
//
// The package knows nothing of the server's packages. AWS's programs could send all
// that it sends to the control plane.
package client

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/smithy-go"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/endpoint"
	"github.com/sallyport/sallyport/internal/socket"
)

// Settings say which control plane to call and as whom. A zero field is looked
// up where AWS's programs look: the environment, then the profile.
type Settings struct {
	Endpoint string // or AWS_ENDPOINT_URL_SSM, AWS_ENDPOINT_URL, the profile's endpoint_url; or else AWS's own
	Region   string // or AWS_REGION, AWS_DEFAULT_REGION, the profile's region
	Profile  string // or AWS_PROFILE, or "default"

	// CABundle is a file of certificates that are believed in place of the
	// system's: or AWS_CA_BUNDLE, the profile's ca_bundle, SSL_CERT_FILE.
	CABundle string

	// StreamHost is the host where streams may be, if it is not the host the
	// API is at. Or SALLYPORT_STREAM_HOST.
	StreamHost string

	// AWS is used instead of what AWS's programs would find, if it is not nil.
	// HTTP is used instead of a client that believes CABundle, if it is not nil;
	// its transport is an *http.Transport.
	AWS  *aws.Config
	HTTP *http.Client
}

// A Client calls one control plane as one person. It may be used by many
// goroutines at once.
type Client struct {
	api      *endpoint.Client // signs
	unsigned *endpoint.Client // does not: for sockets, when there is no key to sign with
	keys     *endpoint.Client // signs, for the key service

	aws        bool   // the control plane is AWS itself
	streamHost string // told by Settings
}

// Load reads AWS's settings, and returns a client that calls the control plane
// they name. Load itself makes no call, and needs no credentials.
func Load(ctx context.Context, s Settings) (*Client, error) {
	if s.AWS != nil {
		return s.client(ctx, *s.AWS)
	}
	var options []func(*config.LoadOptions) error
	if s.Region != "" {
		options = append(options, config.WithRegion(s.Region))
	}
	if s.Profile != "" {
		options = append(options, config.WithSharedConfigProfile(s.Profile))
	}
	var bundle []byte
	if s.CABundle != "" {
		var err error
		if bundle, err = os.ReadFile(s.CABundle); err != nil {
			return nil, fmt.Errorf("read CA bundle: %w", err)
		}
		if !x509.NewCertPool().AppendCertsFromPEM(bundle) {
			return nil, fmt.Errorf("read CA bundle: there is no certificate in %s; sallyport ca prints the server's, on the server", s.CABundle)
		}
	}
	load := func(more ...func(*config.LoadOptions) error) (aws.Config, error) {
		if bundle != nil {
			more = append(more, config.WithCustomCABundle(bytes.NewReader(bundle)))
		}
		return config.LoadDefaultConfig(ctx, append(more, options...)...)
	}
	cfg, err := load()
	if err == nil && !s.isAWS(ctx, cfg) {
		// The keys that a machine in EC2 gets from its metadata service are AWS's. On
		// any other machine asking for them takes seconds.
		cfg, err = load(config.WithEC2IMDSClientEnableState(imds.ClientDisabled))
	}
	if err != nil {
		return nil, fmt.Errorf("read AWS settings: %w", err)
	}
	return s.client(ctx, cfg)
}

// isAWS reports whether the control plane that s and AWS's settings name is AWS's
// own.
func (s Settings) isAWS(ctx context.Context, cfg aws.Config) bool {
	address := s.Endpoint
	if address == "" {
		address = configuredEndpoint(ctx, cfg)
	}
	if address == "" {
		return true
	}
	u, err := endpoint.ParseURL(address)
	if err != nil {
		return false
	}
	_, ok := awsService(u.Hostname())
	return ok
}

// client makes a Client of what was given and what AWS's settings add to it.
func (s Settings) client(ctx context.Context, cfg aws.Config) (*Client, error) {
	c := &Client{streamHost: s.StreamHost}
	if c.streamHost == "" {
		c.streamHost = os.Getenv("SALLYPORT_STREAM_HOST")
	}
	address := s.Endpoint
	if address == "" {
		address = configuredEndpoint(ctx, cfg)
	}
	base, err := c.place(address, cfg.Region)
	if err != nil {
		return nil, err
	}
	httpClient := s.HTTP
	if httpClient == nil {
		trust, err := s.trust(cfg)
		if err != nil {
			return nil, err
		}
		if httpClient, err = trust.HTTP(); err != nil {
			return nil, err
		}
	}
	agent := "sallyport/" + sallyport.Version
	c.api = &endpoint.Client{Base: base, HTTP: httpClient, Region: cfg.Region, UserAgent: agent, Credentials: credentials(cfg)}
	c.unsigned = &endpoint.Client{Base: base, HTTP: httpClient, Region: cfg.Region, UserAgent: agent}
	keys, err := c.keyService(ctx, cfg)
	if err != nil {
		return nil, err
	}
	c.keys = &endpoint.Client{Base: keys, HTTP: httpClient, Region: cfg.Region, UserAgent: agent, Credentials: c.api.Credentials}
	return c, nil
}

// place decides which address is called: the one given, or AWS's for the
// region. It notes whether that is AWS.
func (c *Client) place(address, region string) (*url.URL, error) {
	if address != "" {
		u, err := endpoint.ParseURL(address)
		if err != nil {
			return nil, fmt.Errorf("the endpoint %w", err)
		}
		service, ok := awsService(u.Hostname())
		if c.aws = ok; !ok || service == "ssm" {
			return u, nil
		}
		// Another service of AWS's: aws ecs execute-command names its own, and
		// the calls about the session are Systems Manager's all the same.
	}
	c.aws = true
	host, err := awsHost("ssm", region)
	if err != nil {
		return nil, err
	}
	return &url.URL{Scheme: "https", Host: host}, nil
}

// configuredEndpoint is the address of Systems Manager that the environment or
// the profile names, the service's own before the general.
func configuredEndpoint(ctx context.Context, cfg aws.Config) string {
	if address := serviceEndpoint(ctx, cfg, "SSM"); address != "" {
		return address
	}
	if ignoresEndpoints(ctx, cfg) {
		return ""
	}
	return aws.ToString(cfg.BaseEndpoint)
}

// serviceEndpoint is the address that the environment or the profile names for
// one service. The SDK keeps this to its service clients; the sources it hands
// out answer the same questions.
func serviceEndpoint(ctx context.Context, cfg aws.Config, service string) string {
	if ignoresEndpoints(ctx, cfg) {
		return ""
	}
	for _, source := range cfg.ConfigSources {
		if s, ok := source.(interface {
			GetServiceBaseEndpoint(context.Context, string) (string, bool, error)
		}); ok {
			if address, found, err := s.GetServiceBaseEndpoint(ctx, service); err == nil && found {
				return address
			}
		}
	}
	return ""
}

// ignoresEndpoints reports whether AWS_IGNORE_CONFIGURED_ENDPOINT_URLS, or the
// profile, says that no such address counts.
func ignoresEndpoints(ctx context.Context, cfg aws.Config) bool {
	for _, source := range cfg.ConfigSources {
		if s, ok := source.(interface {
			GetIgnoreConfiguredEndpoints(context.Context) (bool, bool, error)
		}); ok {
			if ignore, found, err := s.GetIgnoreConfiguredEndpoints(ctx); err == nil && found {
				return ignore
			}
		}
	}
	return false
}

// trust is the bundle that is named first, in place of the system's certificates, as
// AWS's programs have it. To read the system's takes longer than a call.
func (s Settings) trust(cfg aws.Config) (endpoint.Trust, error) {
	name := s.CABundle
	if name == "" {
		name = os.Getenv("AWS_CA_BUNDLE")
	}
	for _, source := range cfg.ConfigSources {
		if shared, ok := source.(config.SharedConfig); ok && name == "" {
			name = shared.CustomCABundle
		}
	}
	// SSL_CERT_FILE replaces the system's certificates on Linux, and Go then
	// reads it by itself; elsewhere Go does not look at it.
	system := name == ""
	if system {
		if name = os.Getenv("SSL_CERT_FILE"); name == "" {
			return endpoint.Trust{}, nil
		}
	}
	text, err := os.ReadFile(name)
	switch {
	case err == nil && bytes.Contains(text, []byte("-----BEGIN CERTIFICATE-----")):
		return endpoint.Trust{PEM: text, Only: true}, nil
	case system:
		return endpoint.Trust{}, nil // as Go does
	case err != nil:
		return endpoint.Trust{}, fmt.Errorf("read CA bundle: %w", err)
	}
	return endpoint.Trust{}, fmt.Errorf("read CA bundle: there is no certificate in %s; sallyport ca prints the server's, on the server", name)
}

// credentials gives the endpoint the SDK's, which renews them.
func credentials(cfg aws.Config) func(context.Context) (endpoint.Credentials, error) {
	return func(ctx context.Context) (endpoint.Credentials, error) {
		if cfg.Credentials == nil {
			return endpoint.Credentials{}, &keysError{errNoKeys}
		}
		keys, err := cfg.Credentials.Retrieve(ctx)
		if e, ok := errors.AsType[*smithy.OperationError](err); ok && e.ServiceID == imds.ServiceID {
			err = errNoKeys // it is asked when nothing else has any
		}
		if err != nil {
			return endpoint.Credentials{}, &keysError{err}
		}
		if cfg.Region == "" {
			return endpoint.Credentials{}, errNoRegion
		}
		return endpoint.Credentials{
			AccessKeyID: keys.AccessKeyID,
			Secret:      sallyport.NewSecret(keys.SecretAccessKey),
			Token:       sallyport.NewSecret(keys.SessionToken),
		}, nil
	}
}

// A keysError is why there are no credentials to sign with.
type keysError struct{ err error }

func (e *keysError) Error() string { return "find AWS credentials: " + e.err.Error() }
func (e *keysError) Unwrap() error { return e.err }

var (
	errNoKeys   = errors.New("there are none")
	errNoRegion = errors.New("no region is set; set AWS_REGION or use --region")
	errNoPlace  = errors.New(`it is not said where the control plane is; set AWS_ENDPOINT_URL and AWS_REGION, or use --endpoint-url and --region; with a server of "sallyport dev" type: eval "$(sallyport env)"`)
)

// keyPatience is how long a socket waits for credentials before it opens
// without: looking for an instance's role takes seconds where there is none.
const keyPatience = 5 * time.Second

// open opens the data channel's socket at address, which checkStream has
// passed. The request is signed where there is a key for it, as AWS's plugin
// does since 1.2.764, and unsigned otherwise: the token is what lets one in.
func (c *Client) open(ctx context.Context, address string) (*socket.Conn, error) {
	if presigned(address) || !c.mayHaveKeys(ctx) {
		return c.unsigned.Socket(ctx, address, "ssmmessages")
	}
	conn, err := c.api.Socket(ctx, address, "ssmmessages")
	if staleKey(err) {
		// Keys that expired while the session was on. The token has not.
		return c.unsigned.Socket(ctx, address, "ssmmessages")
	}
	return conn, err
}

func (c *Client) mayHaveKeys(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, keyPatience)
	defer cancel()
	_, err := c.api.Credentials(ctx)
	return err == nil
}

// staleKey reports whether err says that the caller's key is good for nothing,
// rather than that its holder may not do this.
func staleKey(err error) bool {
	switch sallyport.CodeOf(err) {
	case sallyport.ExpiredTokenException, sallyport.UnrecognizedClientException, sallyport.InvalidClientTokenID,
		sallyport.InvalidSignatureException, sallyport.MissingAuthenticationToken, sallyport.IncompleteSignatureException:
		return true
	}
	return false
}
