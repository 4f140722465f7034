package server_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/sallyport/sallyport/internal/servertest"
)

// BenchmarkSignedCall is one DescribeInstanceInformation of a user with an access key,
// without a network.
func BenchmarkSignedCall(b *testing.B) {
	s := servertest.Start(b, nil)
	s.API.Undeclared = nil
	s.Register("")
	key, err := s.User("ann", `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"ssm:*","Resource":"*"}}`).Retrieve(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	sum := sha256.Sum256([]byte("{}"))
	signed := httptest.NewRequest("POST", servertest.Endpoint+"/", nil)
	signed.Header.Set("X-Amz-Target", "AmazonSSM.DescribeInstanceInformation")
	signed.Header.Set("Content-Type", "application/x-amz-json-1.1")
	if err := v4.NewSigner().SignHTTP(context.Background(), key, signed, hex.EncodeToString(sum[:]), "ssm", s.Realm.Region, time.Now()); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			r := httptest.NewRequest("POST", servertest.Endpoint+"/", strings.NewReader("{}"))
			r.Header = signed.Header
			w := httptest.NewRecorder()
			s.API.ServeHTTP(w, r)
			if w.Code != 200 {
				b.Fatalf("%d %s", w.Code, w.Body)
			}
		}
	})
}
