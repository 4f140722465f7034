package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/endpoint"
)

// An Activation lets machines register, as DescribeActivations tells of it.
type Activation struct {
	ActivationID        string `json:"ActivationId"`
	DefaultInstanceName string
	Description         string
	IAMRole             string `json:"IamRole"`
	RegistrationLimit   int
	RegistrationsCount  int
	CreatedDate         Time
	ExpirationDate      Time
	Expired             bool
}

// A CreateActivation asks for an activation.
type CreateActivation struct {
	Role    string
	Name    string // "" is none
	Limit   int
	Expires time.Time
}

// CreateActivation makes an activation, and returns its ID and code. The code is not
// shown again.
func (c *Client) CreateActivation(ctx context.Context, in CreateActivation) (id string, code sallyport.Secret, err error) {
	ask := struct {
		IAMRole             string `json:"IamRole"`
		DefaultInstanceName string `json:",omitempty"`
		RegistrationLimit   int
		ExpirationDate      float64 // seconds since 1970
	}{in.Role, in.Name, in.Limit, float64(in.Expires.UnixMilli()) / 1000}
	var out struct {
		ActivationID   string `json:"ActivationId"`
		ActivationCode string
	}
	if err := c.api.Call(ctx, "ssm", "AmazonSSM.CreateActivation", ask, &out); err != nil {
		return "", sallyport.Secret{}, err
	}
	if out.ActivationID == "" || out.ActivationCode == "" {
		return "", sallyport.Secret{}, errors.New("create activation: the answer lacks an ActivationId or an ActivationCode")
	}
	return out.ActivationID, sallyport.NewSecret(out.ActivationCode), nil
}

// Activations returns every activation, oldest first.
func (c *Client) Activations(ctx context.Context) (all []Activation, err error) {
	in := struct {
		MaxResults int
		NextToken  string `json:",omitempty"`
	}{MaxResults: 50} // AWS's most
	for {
		var out struct {
			ActivationList []Activation
			NextToken      string
		}
		if err := c.api.Call(ctx, "ssm", "AmazonSSM.DescribeActivations", in, &out); err != nil {
			return nil, err
		}
		all = append(all, out.ActivationList...)
		if out.NextToken == "" || out.NextToken == in.NextToken {
			return all, nil
		}
		in.NextToken = out.NextToken
	}
}

// DeleteActivation deletes an activation. The nodes that came by it stay.
func (c *Client) DeleteActivation(ctx context.Context, id string) error {
	return c.api.Call(ctx, "ssm", "AmazonSSM.DeleteActivation", map[string]string{"ActivationId": id}, nil)
}

// Endpoint and Region say which control plane is called.
func (c *Client) Endpoint() string { return c.api.Base.String() }
func (c *Client) Region() string   { return c.api.Region }

// OwnCA returns the pin of the control plane's CA if that is one of its own: the
// chain of such a server ends with it. A server whose CA the world knows does not
// show that. It is zero for one without TLS, too.
func (c *Client) OwnCA(ctx context.Context) (endpoint.Pin, error) {
	base := c.api.Base
	if base.Scheme != "https" {
		return endpoint.Pin{}, nil
	}
	host := base.Host
	if base.Port() == "" {
		host = net.JoinHostPort(base.Hostname(), "443")
	}
	config := &tls.Config{}
	if t, ok := c.api.HTTP.Transport.(*http.Transport); ok && t.TLSClientConfig != nil {
		config = t.TLSClientConfig.Clone()
	}
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", host)
	if err != nil {
		return endpoint.Pin{}, fmt.Errorf("look at the server's certificate: %w", err)
	}
	defer conn.Close()
	t, ok := conn.(*tls.Conn)
	if !ok {
		return endpoint.Pin{}, nil
	}
	shown := t.ConnectionState().PeerCertificates
	if last := shown[len(shown)-1]; len(shown) > 1 && last.IsCA && bytes.Equal(last.RawIssuer, last.RawSubject) {
		return endpoint.PinOf(last), nil
	}
	return endpoint.Pin{}, nil
}
