package client

import (
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strings"

	"github.com/sallyport/sallyport"
)

// The token that lets one into a session goes to the host in StreamUrl, and so
// does everything typed. That host is therefore not taken on trust: it must be
// where the API answered from, or, where that is AWS, a host of AWS's that
// carries sessions.

// awsSuffixes are the domains that AWS's services are under, with the regions
// of each by the beginning of their names. From the partitions of the SDK for
// Go v2 (internal/endpoints/v2/partitions.json); each partition also has a
// dual-stack domain.
var awsSuffixes = []struct {
	regions string // "" is any other
	suffix  string
	dual    string
}{
	{"cn-", "amazonaws.com.cn", "api.amazonwebservices.com.cn"},
	{"us-isob-", "sc2s.sgov.gov", "api.aws.scloud"},
	{"us-isof-", "csp.hci.ic.gov", "api.aws.hci.ic.gov"},
	{"us-iso-", "c2s.ic.gov", "api.aws.ic.gov"},
	{"eu-isoe-", "cloud.adc-e.uk", "api.cloud-aws.adc-e.uk"},
	{"eusc-", "amazonaws.eu", "api.amazonwebservices.eu"},
	{"", "amazonaws.com", "api.aws"},
}

var regionPattern = regexp.MustCompile(`^[a-z]{2,5}(-[a-z]+)+-[0-9]{1,2}$`)

// awsHost is where a service of AWS's is in a region.
func awsHost(service, region string) (string, error) {
	if region == "" {
		return "", errNoPlace
	}
	if !regionPattern.MatchString(region) {
		return "", fmt.Errorf("%q is no region of AWS's; set AWS_ENDPOINT_URL or use --endpoint-url to say where your control plane is", sallyport.Clip(region, 64))
	}
	for _, s := range awsSuffixes {
		if strings.HasPrefix(region, s.regions) {
			return service + "." + region + "." + s.suffix, nil
		}
	}
	return "", fmt.Errorf("%q is in none of AWS's partitions", region) // the last prefix matches every region
}

// awsService says which of AWS's services host is, if it is one that this
// program has to do with: "ssm", "ssmmessages" or "ecs".
//
// It reads the host name label by label, because not everything under
// amazonaws.com is AWS: load balancers, buckets and machines of customers are
// named there too, and a Sallyport may well be behind one.
func awsService(host string) (service string, ok bool) {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	for _, s := range awsSuffixes {
		for _, suffix := range []string{s.suffix, s.dual} {
			rest, found := strings.CutSuffix(host, "."+suffix)
			if !found {
				continue
			}
			labels := strings.Split(rest, ".")
			if n := len(labels); n == 4 && labels[3] == "vpce" && strings.HasPrefix(labels[0], "vpce-") {
				labels = labels[1:3] // an interface endpoint's own name
			}
			if len(labels) != 2 || !regionPattern.MatchString(labels[1]) || !strings.HasPrefix(labels[1], s.regions) {
				continue
			}
			switch service = strings.TrimSuffix(labels[0], "-fips"); service {
			case "ssm", "ssmmessages", "ecs":
				return service, true
			}
		}
	}
	return "", false
}

// checkStream decides whether to believe where a session's stream is said to
// be, and returns the address to dial.
func (c *Client) checkStream(address string) (string, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.User != nil {
		return "", fmt.Errorf("the control plane gave %q for the session's stream, which is no address", sallyport.Clip(address, 200))
	}
	host, home := u.Hostname(), c.api.Base.Hostname()
	switch {
	case u.Scheme == "wss":
	case u.Scheme == "ws" && loopback(host):
	default:
		return "", fmt.Errorf("the session's stream would not be encrypted: %q does not begin with wss://", sallyport.Clip(address, 200))
	}
	switch {
	case c.streamHost != "" && strings.EqualFold(host, c.streamHost):
		return address, nil
	case c.aws:
		if service, ok := awsService(host); ok && service == "ssmmessages" {
			return address, nil
		}
		return "", fmt.Errorf("the session's stream is at %s, which is no ssmmessages endpoint of AWS's", sallyport.Clip(host, 253))
	case strings.EqualFold(host, home), loopback(host) && loopback(home):
		return address, nil
	}
	return "", fmt.Errorf("the session's stream is at %s, but the control plane that answered is at %s; if that is as it should be, set SALLYPORT_STREAM_HOST=%[1]s", sallyport.Clip(host, 253), home)
}

func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// presigned reports whether address carries a signature. A second would break
// it. (session-manager-plugin 1.2.764 src/communicator.)
func presigned(address string) bool {
	u, err := url.Parse(address)
	if err != nil {
		return false
	}
	for name := range u.Query() {
		if len(name) > 6 && strings.EqualFold(name[:6], "x-amz-") {
			return true
		}
	}
	return false
}
