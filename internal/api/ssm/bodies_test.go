package ssm_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/sallyport/sallyport/internal/servertest"
)

// dialTLS opens a connection of its own to the server.
func dialTLS(t *testing.T, s *servertest.Server) *tls.Conn {
	t.Helper()
	tr := s.HTTP.Transport.(*http.Transport)
	raw, err := tr.DialContext(t.Context(), "tcp", "sallyport.test:443")
	if err != nil {
		t.Fatal(err)
	}
	c := tls.Client(raw, &tls.Config{RootCAs: tr.TLSClientConfig.RootCAs, ServerName: "sallyport.test"})
	t.Cleanup(func() { raw.Close() })
	return c
}

// A call without a signature is answered before its body is read, and a body that
// does not arrive is not waited for.
func TestBodiesAreNotWaitedFor(t *testing.T) {
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		const unsigned = "POST / HTTP/1.1\r\nHost: sallyport.test\r\nX-Amz-Target: AmazonSSM.StartSession\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: 200000\r\n\r\n"
		c := dialTLS(t, s)
		began := time.Now()
		io.WriteString(c, unsigned)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		if !strings.Contains(string(b), "MissingAuthenticationToken") || time.Since(began) > time.Second {
			t.Errorf("after %v: %s", time.Since(began), b)
		}
		c.Close()

		c = dialTLS(t, s)
		began = time.Now()
		io.WriteString(c, strings.Replace(unsigned, "AmazonSSM.StartSession", "AmazonSSM.RegisterManagedInstance", 1)+"{")
		resp, err = http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		b, _ = io.ReadAll(resp.Body)
		if took := time.Since(began); !strings.Contains(string(b), "longer than 65536 bytes") && !strings.Contains(string(b), "did not arrive") || took > 25*time.Second {
			t.Errorf("after %v: %s", took, b)
		}
		c.Close()

		c = dialTLS(t, s)
		began = time.Now()
		io.WriteString(c, strings.NewReplacer("AmazonSSM.StartSession", "AmazonSSM.RegisterManagedInstance", "200000", "2000").Replace(unsigned)+"{")
		resp, err = http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		b, _ = io.ReadAll(resp.Body)
		if took := time.Since(began); !strings.Contains(string(b), "did not arrive within 20s") || took < 20*time.Second || took > 25*time.Second {
			t.Errorf("after %v: %s", took, b)
		}
		c.Close()
	})
}

// Strangers' bodies have a bound of their own, which callers do not share.
func TestBodiesOfStrangersAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		head := fmt.Sprintf("POST / HTTP/1.1\r\nHost: sallyport.test\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n", 64<<10)
		half := strings.Repeat("a", 63<<10)
		var refused int
		var conns []*tls.Conn
		for range 300 { // 18 MiB
			c := dialTLS(t, s)
			conns = append(conns, c)
			go io.WriteString(c, head+half)
		}
		synctest.Wait()
		if _, err := s.SSM(s.Root()).DescribeSessions(t.Context(), &ssm.DescribeSessionsInput{State: "Active"}); err != nil {
			t.Errorf("a caller: %v", err)
		}
		for _, c := range conns {
			c.SetReadDeadline(time.Now().Add(time.Second))
			if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err == nil {
				b, _ := io.ReadAll(resp.Body)
				if strings.Contains(string(b), "Rate exceeded") {
					refused++
				}
			}
			c.Close()
		}
		if refused == 0 {
			t.Error("300 bodies of strangers were all held")
		}
	})
}

// Bad signatures behind an address do not keep valid callers behind it out.
func TestBadSignaturesHarmNoOtherCaller(t *testing.T) {
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		bad := ssm.NewFromConfig(s.AWS(credentials.NewStaticCredentialsProvider("AKIAIOSFODNN7EXAMPLE", "wrong", "")), func(o *ssm.Options) { o.RetryMaxAttempts = 1 })
		throttled := false
		for range 100 {
			_, err := bad.DescribeSessions(context.Background(), &ssm.DescribeSessionsInput{State: "Active"})
			throttled = throttled || strings.Contains(err.Error(), "Rate exceeded")
		}
		if !throttled {
			t.Error("a hundred bad signatures were all looked at")
		}
		if _, err := s.SSM(s.Root()).DescribeSessions(t.Context(), &ssm.DescribeSessionsInput{State: "Active", MaxResults: aws.Int32(1)}); err != nil {
			t.Errorf("a valid caller: %v", err)
		}
	})
}
