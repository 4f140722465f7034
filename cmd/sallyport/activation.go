package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/endpoint"
	"github.com/sallyport/sallyport/internal/server"
	"github.com/sallyport/sallyport/internal/usage"
)

func activationCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "activation", Short: "Let machines register"}
	cmd.AddCommand(activationCreateCommand())
	return cmd
}

func activationCreateCommand() *cobra.Command {
	var role, name string
	var limit int32
	var expires time.Duration
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Create an activation, and print the command to paste on the machine",
		Long: `Create an activation, and print the command that registers a machine by it.

It calls the control plane that AWS_ENDPOINT_URL names, with the credentials of
the environment; sallyport env sets both. The command it prints has the
activation code, which is good for as many machines, and as long, as you say.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), 30*time.Second)
			defer cancel()
			at := os.Getenv("AWS_ENDPOINT_URL_SSM")
			if at == "" {
				at = os.Getenv("AWS_ENDPOINT_URL")
			}
			if at == "" {
				return errors.New(`AWS_ENDPOINT_URL names no control plane; on the server's machine, eval "$(sallyport env)" sets it`)
			}
			base, err := endpoint.ParseURL(at)
			if err != nil {
				return err
			}
			cfg, err := config.LoadDefaultConfig(ctx)
			if err != nil {
				return fmt.Errorf("read AWS settings: %w", err)
			}
			ends := time.Now().Add(expires)
			out, err := ssm.NewFromConfig(cfg, func(o *ssm.Options) { o.BaseEndpoint = &at }).CreateActivation(ctx, &ssm.CreateActivationInput{
				IamRole: &role, DefaultInstanceName: &name, RegistrationLimit: &limit, ExpirationDate: &ends,
			})
			if err != nil {
				return plain(err)
			}
			line := fmt.Sprintf("sallyport agent register --endpoint %s --region %s --id %s --code %s", base, cfg.Region, *out.ActivationId, *out.ActivationCode)
			pin, err := ownCA(ctx, base)
			if err != nil {
				return err
			}
			if !pin.IsZero() {
				line += " --ca-pin " + pin.String()
			}
			fmt.Fprintln(cmd.OutOrStdout(), line)
			fmt.Fprintf(cmd.ErrOrStderr(), "sallyport: paste that on the machine, then run: sallyport agent run\n")
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&role, "role", "service-role/"+server.NodeRole, "the IAM `role` the machines act in")
	f.StringVar(&name, "name", "", "what to call the machine; where more than one may register, with -1, -2 … behind it")
	f.Int32Var(&limit, "limit", 1, "how many machines may register")
	usage.DurationVar(f, &expires, "expires", 24*time.Hour, "for how long; at most 30d")
	return cmd
}

// plain says what the server said, without the SDK's frame around it.
func plain(err error) error {
	if e, ok := errors.AsType[interface {
		error
		ErrorCode() string
		ErrorMessage() string
	}](err); ok {
		return &sallyport.Error{Code: sallyport.Code(e.ErrorCode()), Message: e.ErrorMessage()}
	}
	return err
}

// ownCA returns the pin of the server's CA if it is one of its own: a server
// whose CA the world knows does not show it.
func ownCA(ctx context.Context, base *url.URL) (endpoint.Pin, error) {
	if base.Scheme != "https" {
		return endpoint.Pin{}, nil
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if name := os.Getenv("AWS_CA_BUNDLE"); name != "" {
		b, err := os.ReadFile(name)
		if err != nil {
			return endpoint.Pin{}, fmt.Errorf("read CA bundle: %w", err)
		}
		roots.AppendCertsFromPEM(b)
	}
	host := base.Host
	if base.Port() == "" {
		host = net.JoinHostPort(base.Hostname(), "443")
	}
	conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: roots}}).DialContext(ctx, "tcp", host)
	if err != nil {
		return endpoint.Pin{}, fmt.Errorf("look at the server's certificate: %w", err)
	}
	defer conn.Close()
	shown := conn.(*tls.Conn).ConnectionState().PeerCertificates
	if last := shown[len(shown)-1]; len(shown) > 1 && last.IsCA && bytes.Equal(last.RawIssuer, last.RawSubject) {
		return endpoint.PinOf(last), nil
	}
	return endpoint.Pin{}, nil
}
