package client

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/endpoint"
	"github.com/sallyport/sallyport/internal/retry"
)

const firstPause = 200 * time.Millisecond

// backoff is how tries to reach the control plane are spaced.
func backoff() retry.Backoff {
	return retry.Backoff{First: firstPause, Soon: 1500 * time.Millisecond, Last: 5 * time.Second}
}

// lasting reports whether err would only be met again.
func lasting(err error) bool {
	if untrusted(err) {
		return true
	}
	var status *endpoint.StatusError
	if errors.As(err, &status) {
		return status.Status >= 400 && status.Status < 500 && status.Status != 408 && status.Status != 429
	}
	switch sallyport.CodeOf(err) {
	case "", sallyport.InternalServerError, sallyport.ServiceUnavailableException, sallyport.ThrottlingException:
		return false
	}
	return true
}

func untrusted(err error) bool {
	var (
		bad     *tls.CertificateVerificationError
		unknown x509.UnknownAuthorityError
	)
	return errors.As(err, &bad) || errors.As(err, &unknown)
}

// Explain is err for a person: the control plane's own sentence where it gave
// one, and otherwise what happened and, where we know, what to do about it.
func Explain(err error) string {
	var refused *sallyport.Error
	if errors.As(err, &refused) {
		if refused.Message == "" {
			return string(refused.Code)
		}
		if refused.Code == sallyport.ExpiredTokenException || refused.Code == sallyport.UnrecognizedClientException {
			return refused.Message + " (your AWS credentials are not, or no longer, good here; renew them)"
		}
		return refused.Message
	}
	var keys *keysError
	if errors.Is(err, errNoKeys) {
		return `there are no AWS credentials here; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or with a server of "sallyport dev" type: eval "$(sallyport env)"`
	}
	if errors.As(err, &keys) {
		return keys.Error() + `; sign in again, or set AWS_PROFILE, or with a server of "sallyport dev" type: eval "$(sallyport env)"`
	}
	if at, ok := endpoint.UnknownCA(err); ok {
		said := fmt.Sprintf("the certificate of %s is of a CA that this machine does not trust; if it is your control plane, have its CA printed there (sallyport ca), and give the file with --ca-bundle or AWS_CA_BUNDLE", at)
		if bundle := os.Getenv("AWS_CA_BUNDLE"); bundle != "" {
			said += fmt.Sprintf(", which is %s now and goes before a profile's ca_bundle", bundle)
		}
		return said
	}
	if untrusted(err) {
		return err.Error() + "; is that your control plane, by the name in its certificate?"
	}
	if at, why, ok := endpoint.Unreached(err); ok {
		return fmt.Sprintf("%s cannot be reached: %v; is the control plane running, and its address right (AWS_ENDPOINT_URL, --endpoint-url)?", at, why)
	}
	return err.Error()
}
