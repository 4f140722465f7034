package agent

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/endpoint"
	"github.com/sallyport/sallyport/internal/statedir"
)

// The files of a state directory.
const (
	registrationFile = "registration.json"
	keyFile          = "node.key"
	attemptFile      = "registering.json" // a registration that has not been answered
	attemptKeyFile   = "registering.key"  // its key
)

// A Registration is who this machine is to which control plane. It is all the
// agent keeps, beside its private key.
type Registration struct {
	Node        sallyport.NodeID
	Endpoint    string
	Region      string
	Fingerprint string       // of the machine, as it registered
	CA          string       `json:",omitempty"` // PEM, believed beside the system's
	Pin         endpoint.Pin `json:",omitzero"`  // the one certificate that is believed, if there is one
}

// Registering is what it takes to become a node.
type Registering struct {
	State    string // directory
	Endpoint string // https, or http to this machine itself
	Region   string

	Activation string
	Code       sallyport.Secret

	Trust endpoint.Trust // its pin's certificate is fetched from the server
	Force bool           // forget an earlier registration

	// HTTP is used instead of a client that believes Trust, if it is not nil.
	HTTP *http.Client
}

// ErrRegistered is that the machine is a node already.
var ErrRegistered = errors.New("this machine is registered already")

// An attempt is a registration that may have been counted, and whose answer was
// not kept. The key is in the key file. The same attempt again is the same node.
type attempt struct {
	Activation  string
	Endpoint    string
	Fingerprint string
}

// Register makes this machine a node, and keeps what it then needs in the state
// directory. It makes a key pair; the private half never leaves the directory.
//
// What can be checked is checked before the activation is used, and the key is
// kept before: a registration whose answer is lost is made good by another call.
func Register(ctx context.Context, r Registering) (*Registration, error) {
	if old, err := Load(r.State); err == nil && !r.Force {
		return nil, fmt.Errorf("%w, as %s with %s", ErrRegistered, old.Node, old.Endpoint)
	}
	base, err := endpoint.ParseURL(r.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("the endpoint %w", err)
	}
	if _, err := sallyport.NewRealm("000000000000", r.Region); err != nil {
		return nil, err
	}
	if err := statedir.Prepare(r.State); err != nil {
		return nil, err
	}
	trust, err := r.Trust.Fetch(ctx, base)
	if err != nil {
		return nil, err
	}
	web := r.HTTP
	if web == nil {
		if web, err = trust.HTTP(); err != nil {
			return nil, err
		}
	}
	try, key, err := r.attempt(base.String())
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	reg := &Registration{Endpoint: base.String(), Region: r.Region, Fingerprint: try.Fingerprint, CA: string(trust.PEM), Pin: trust.Pin}
	var out struct{ InstanceId sallyport.NodeID }
	c := &endpoint.Client{Base: base, HTTP: web, Region: r.Region, UserAgent: userAgent}
	err = c.Call(ctx, "ssm", "AmazonSSM.RegisterManagedInstance", map[string]string{
		"ActivationId": r.Activation, "ActivationCode": r.Code.Reveal(), "Fingerprint": reg.Fingerprint,
		"PublicKey": base64.StdEncoding.EncodeToString(public), "PublicKeyType": "Rsa",
		"Region": r.Region, // ours: a wrong one is said before the activation is used
	}, &out)
	if at, ok := endpoint.UnknownCA(err); ok {
		return nil, fmt.Errorf("register: %w; if that is the control plane's own CA give its pin, as sallyport activation create prints it (--ca-pin), or its certificate, as sallyport ca prints it on the server of %s (--ca-file)", err, at)
	}
	if at, why, ok := endpoint.Unreached(err); ok {
		return nil, fmt.Errorf("register: %s cannot be reached from this machine: %w; is the control plane running, and --endpoint right?", at, why)
	}
	if err != nil {
		return nil, fmt.Errorf("register: %w", err)
	}
	if out.InstanceId.IsZero() {
		return nil, errors.New("register: the server gave this machine no ID")
	}
	reg.Node = out.InstanceId
	// An earlier registration goes now, and not before this one was answered: it
	// would not be good with another key.
	if err := os.Remove(filepath.Join(r.State, registrationFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("forget the earlier registration: %w", err)
	}
	if err := os.Rename(filepath.Join(r.State, attemptKeyFile), filepath.Join(r.State, keyFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("keep the node's key: %w", err)
	}
	if err := reg.Save(r.State); err != nil {
		return nil, err
	}
	os.Remove(filepath.Join(r.State, attemptFile)) // it says nothing that the registration does not
	return reg, nil
}

// attempt returns the attempt that r is, with its key: the one that was made
// before with the same activation, or a new one, which it keeps.
func (r Registering) attempt(endpoint string) (try attempt, key *rsa.PrivateKey, err error) {
	b, err := os.ReadFile(filepath.Join(r.State, attemptFile))
	if err == nil && json.Unmarshal(b, &try) == nil && try.Activation == r.Activation && try.Endpoint == endpoint && try.Fingerprint != "" {
		key, err := readKey(filepath.Join(r.State, attemptKeyFile))
		if errors.Is(err, fs.ErrNotExist) { // it was answered, and only the registration is missing
			key, err = loadKey(r.State)
		}
		if err == nil {
			return try, key, nil
		}
	}
	if key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		return try, nil, fmt.Errorf("make key: %w", err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	if err := writeFile(filepath.Join(r.State, attemptKeyFile), text); err != nil {
		return try, nil, fmt.Errorf("keep the node's key: %w", err)
	}
	try = attempt{r.Activation, endpoint, uuid.NewString()}
	if b, err = json.Marshal(try); err == nil {
		err = writeFile(filepath.Join(r.State, attemptFile), b)
	}
	if err != nil {
		return try, nil, fmt.Errorf("keep the registration: %w", err)
	}
	return try, key, nil
}

// writeFile writes a file for its owner alone, whole or not at all.
func writeFile(name string, b []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(name), ".tmp-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // does nothing once it has been renamed
	_, err = tmp.Write(b)
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), name)
}

// Save writes the registration into a state directory, over an earlier one of the same
// key.
func (r *Registration) Save(dir string) error {
	b, err := json.MarshalIndent(r, "", "\t")
	if err == nil {
		err = writeFile(filepath.Join(dir, registrationFile), append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("keep the registration: %w", err)
	}
	return nil
}

// Load reads the registration in a state directory.
func Load(dir string) (*Registration, error) {
	b, err := os.ReadFile(filepath.Join(dir, registrationFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("this machine is not registered: there is no registration in %s; run register first: %w", dir, err)
	}
	var r Registration
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err == nil && (r.Node.IsZero() || r.Endpoint == "") {
		err = errors.New("it names no node")
	}
	if err != nil {
		return nil, fmt.Errorf("read registration in %s: %w", dir, err)
	}
	return &r, nil
}

func loadKey(dir string) (*rsa.PrivateKey, error) { return readKey(filepath.Join(dir, keyFile)) }

func readKey(path string) (*rsa.PrivateKey, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the node's key: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("read the node's key: %s is not PEM", filepath.Base(path))
	}
	key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the node's key: %w", err)
	}
	return key, nil
}
