package keyring

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

// outsideWithin is how long an outside KMS has to answer.
const outsideWithin = 10 * time.Second

// storeName is what a key store may be called, and a key in Vault, whose name is
// one element of the path of a request (API reference, XksKeyIdType).
var storeName = regexp.MustCompile(`^[a-zA-Z0-9_.-]{1,64}$`)

// isName reports whether name is one that storeName matches and no path reads as
// a direction: "." and ".." name the directory and the one above it.
func isName(name string) bool { return storeName.MatchString(name) && strings.Trim(name, ".") != "" }

// ParseStores reads key stores as the server's configuration has them, one a
// text:
//
//	NAME=vault:https://vault.example:8200/transit   Vault, OpenBao: a mount of the transit engine
//	NAME=aws:eu-central-1                           AWS KMS, of a region
//	NAME=aws:eu-central-1:https://kms.example       likewise, at another address
//
// Vault is shown the token in VAULT_TOKEN, or in ~/.vault-token, which is read
// each time; AWS what its own settings name. They are asked nothing yet.
func ParseStores(ctx context.Context, texts []string) (Stores, error) {
	stores := Stores{}
	for _, text := range texts {
		name, rest, ok := strings.Cut(text, "=")
		kind, where, ok2 := strings.Cut(rest, ":")
		if !ok || !ok2 || !isName(name) {
			return nil, fmt.Errorf("key store %q is not a name, a kind and a place; write it as vault=vault:https://vault.example:8200/transit or as aws=aws:eu-central-1", text)
		}
		if _, twice := stores[name]; twice {
			return nil, fmt.Errorf("there are two key stores called %s; give one another name", name)
		}
		var err error
		switch kind {
		case "vault":
			stores[name], err = newVault(where)
		case "aws":
			stores[name], err = newAWS(ctx, where)
		default:
			err = fmt.Errorf("%q is no kind of key store; there are vault and aws", kind)
		}
		if err != nil {
			return nil, fmt.Errorf("key store %s: %w", name, err)
		}
	}
	return stores, nil
}

// vault is a mount of Vault's transit engine. (Vault API documentation,
// "Transit secrets engine".)
type vault struct {
	base *url.URL // with the mount
	http *http.Client
}

func newVault(where string) (*vault, error) {
	u, err := url.Parse(where)
	local := err == nil && (u.Hostname() == "localhost" || u.Hostname() == "127.0.0.1" || u.Hostname() == "::1")
	if err != nil || strings.Contains("/"+u.Path+"/", "/../") || strings.Contains("/"+u.Path+"/", "/./") || u.Host == "" || u.Scheme != "https" && !(u.Scheme == "http" && local) || strings.Trim(u.Path, "/") == "" || u.User != nil || u.RawQuery != "" {
		return nil, errors.New("its place is not https, a host and the mount of a transit engine, as in https://vault.example:8200/transit")
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	return &vault{
		base: &url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/v1/" + strings.Trim(u.Path, "/")},
		http: &http.Client{Transport: transport, Timeout: outsideWithin},
	}, nil
}

func (v *vault) Key(name string) Sealer { return vaultKey{v, name} }

type vaultKey struct {
	*vault
	name string
}

// call asks for one of data's members of the answer.
func (k vaultKey) call(ctx context.Context, verb, want string, body map[string]string) (string, error) {
	if !isName(k.name) {
		return "", errors.New("a key in Vault has no such name; it has letters, digits, hyphens, underscores and dots, and is not dots alone")
	}
	token, err := vaultToken()
	if err != nil {
		return "", err
	}
	b, err := json.Marshal(body)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, k.base.JoinPath(verb, k.name).String(), bytes.NewReader(b))
	if err != nil {
		return "", err
	}
	req.Header.Set("X-Vault-Token", token)
	resp, err := k.http.Do(req)
	if err != nil {
		return "", fmt.Errorf("ask Vault: %w", err)
	}
	defer resp.Body.Close()
	var answer struct {
		Data   map[string]any
		Errors []string
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&answer); err != nil {
		return "", fmt.Errorf("ask Vault: it answered %s, and what it said cannot be read: %w", resp.Status, err)
	}
	text, ok := answer.Data[want].(string)
	if resp.StatusCode != http.StatusOK || !ok {
		return "", &vaultError{resp.StatusCode, fmt.Sprintf("Vault answered %s: %s", resp.Status, strings.Join(answer.Errors, "; "))}
	}
	return text, nil
}

type vaultError struct {
	status int
	text   string
}

func (e *vaultError) Error() string { return e.text }

// vaultToken is looked up anew each time: what renews it may have.
func vaultToken() (string, error) {
	if token := os.Getenv("VAULT_TOKEN"); token != "" {
		return token, nil
	}
	home, err := os.UserHomeDir()
	if err == nil {
		var b []byte
		if b, err = os.ReadFile(filepath.Join(home, ".vault-token")); err == nil {
			return strings.TrimSpace(string(b)), nil
		}
	}
	return "", fmt.Errorf("there is no token for Vault, neither in VAULT_TOKEN nor in ~/.vault-token: %w", err)
}

func (k vaultKey) Seal(ctx context.Context, plaintext []byte, with Context) ([]byte, error) {
	text, err := k.call(ctx, "encrypt", "ciphertext", map[string]string{
		"plaintext":       base64.StdEncoding.EncodeToString(plaintext),
		"associated_data": base64.StdEncoding.EncodeToString(with.bytes()),
	})
	return []byte(text), err
}

func (k vaultKey) Open(ctx context.Context, sealed []byte, with Context) ([]byte, error) {
	text, err := k.call(ctx, "decrypt", "plaintext", map[string]string{
		"ciphertext":      string(sealed),
		"associated_data": base64.StdEncoding.EncodeToString(with.bytes()),
	})
	if e, ok := errors.AsType[*vaultError](err); ok && e.status == http.StatusBadRequest {
		return nil, errNotSealed
	}
	if err != nil {
		return nil, err
	}
	return base64.StdEncoding.DecodeString(text)
}

// awsKMS is AWS's own, or what answers like it.
type awsKMS struct{ client *kms.Client }

func newAWS(ctx context.Context, where string) (*awsKMS, error) {
	region, address, _ := strings.Cut(where, ":")
	cfg, err := config.LoadDefaultConfig(ctx, config.WithRegion(region))
	if err != nil {
		return nil, fmt.Errorf("read AWS settings: %w", err)
	}
	o := kms.Options{
		Region: region, Credentials: cfg.Credentials, HTTPClient: cfg.HTTPClient,
		EndpointResolverV2: kms.NewDefaultEndpointResolverV2(),
	}
	// AWS_ENDPOINT_URL is not for this: where this server runs it may well name
	// the server itself.
	if address != "" {
		o.BaseEndpoint = aws.String(address)
	}
	return &awsKMS{kms.New(o)}, nil
}

func (a *awsKMS) Key(name string) Sealer { return awsKey{a.client, name} }

type awsKey struct {
	client *kms.Client
	name   string
}

func (k awsKey) Seal(ctx context.Context, plaintext []byte, with Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, outsideWithin)
	defer cancel()
	out, err := k.client.Encrypt(ctx, &kms.EncryptInput{KeyId: &k.name, Plaintext: plaintext, EncryptionContext: with})
	if err != nil {
		return nil, err
	}
	return out.CiphertextBlob, nil
}

func (k awsKey) Open(ctx context.Context, sealed []byte, with Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, outsideWithin)
	defer cancel()
	out, err := k.client.Decrypt(ctx, &kms.DecryptInput{KeyId: &k.name, CiphertextBlob: sealed, EncryptionContext: with})
	_, altered := errors.AsType[*types.InvalidCiphertextException](err)
	_, other := errors.AsType[*types.IncorrectKeyException](err)
	switch {
	case altered || other:
		return nil, errNotSealed
	case err != nil:
		return nil, err
	}
	return out.Plaintext, nil
}
