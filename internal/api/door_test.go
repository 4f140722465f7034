package api_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/keyring"
	"github.com/sallyport/sallyport/internal/memnet"
	"github.com/sallyport/sallyport/internal/shape"
	"github.com/sallyport/sallyport/internal/store"
)

type describeInput struct{ names []string }

func (in *describeInput) Read(v shape.Value) {
	if m, ok := v.Fields().Optional("Filter"); ok {
		shape.List(m, shape.Size{}, func(e shape.Value) any {
			if values, ok := e.Fields().Required("Value"); ok {
				in.names = append(in.names, shape.List(values, shape.Size{}, func(e shape.Value) string { return e.Text(nil) })...)
			}
			return nil
		})
	}
}

type describeOutput struct{ names []string }

func (out *describeOutput) Write(w shape.Writer) {
	w.List("instanceSet")
	for _, n := range out.names {
		w.Text("", n)
	}
	w.End()
}

// objects is a door like S3's: an object is named by its path, its body streamed.
type objects struct{}

func (objects) Claims(_ *api.Service, r *http.Request, _ string) bool {
	return strings.HasPrefix(r.URL.Path, "/objects/")
}

func (objects) Name(r *http.Request) (operation, subject string) {
	return "PutObject", strings.TrimPrefix(r.URL.Path, "/objects/")
}

func (objects) Parse(*api.Call) (shape.Value, error) { return shape.ParseJSON(nil) }

func (objects) Answer(w http.ResponseWriter, _ *api.Call, out shape.Output) {
	fmt.Fprint(w, out.(*putOutput).text)
}

func (objects) Fail(w http.ResponseWriter, _ *api.Call, e *sallyport.Error) {
	http.Error(w, e.Error(), http.StatusBadRequest)
}

type putOutput struct {
	nothing
	text string
}

// strange is a server with services of which one is spoken to as EC2 is and one as S3
// is, and the secret of the root's key AKIAROOT.
func strange(t *testing.T) (*api.Server, sallyport.Secret) {
	t.Helper()
	ctx := t.Context()
	db, err := store.Open(ctx, filepath.Join(t.TempDir(), "test.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	keys := keyring.Generate()
	if err := db.Unlock(ctx, keys); err != nil {
		t.Fatal(err)
	}
	secret := sallyport.GenerateSecret()
	if err := db.IAM().CreateAccessKey(ctx, sallyport.AccessKey{ID: "AKIAROOT", Active: true, Created: time.Now()}, secret); err != nil {
		t.Fatal(err)
	}
	return &api.Server{
		Realm: sallyport.Realm{Region: "home-1", Account: "000000000000"}, Store: db, Keys: keys, Log: slog.New(slog.DiscardHandler),
		Services: []*api.Service{
			{
				Name: "ec2", Door: api.Query{Version: "2016-11-15", Namespace: "http://ec2/", EC2: true}, Model: &shape.Model{}, MaxBody: 1 << 10,
				Ops: map[string]api.Op{"DescribeInstances": api.List(func(_ context.Context, _ *api.Call, in *describeInput) (*describeOutput, error) {
					return &describeOutput{in.names}, nil
				}, api.Anything)},
			},
			{
				Name: "s3", Door: objects{}, Model: &shape.Model{}, MaxBody: 1 << 20,
				Ops: map[string]api.Op{"PutObject": api.Write(func(_ context.Context, c *api.Call, _ *nothing) (*putOutput, error) {
					n, err := io.Copy(io.Discard, c.Stream)
					return &putOutput{text: fmt.Sprintf("%s has %d bytes", c.Subject, n)}, err
				}, api.Anything, api.Streams)},
			},
		},
	}, secret
}

// A service may be spoken to as EC2 is, or as S3 is, by what it declares alone.
func TestDoors(t *testing.T) {
	ctx := t.Context()
	s, secret := strange(t)
	call := func(service, method, path, kind, body, signedBody string) (int, string) {
		t.Helper()
		r := httptest.NewRequestWithContext(ctx, method, "http://host"+path, strings.NewReader(body))
		r.Header.Set("Content-Type", kind)
		sum := sha256.Sum256([]byte(signedBody))
		r.Header.Set("X-Amz-Content-Sha256", hex.EncodeToString(sum[:]))
		key := aws.Credentials{AccessKeyID: "AKIAROOT", SecretAccessKey: secret.Reveal()}
		if err := v4.NewSigner().SignHTTP(ctx, key, r, hex.EncodeToString(sum[:]), service, "home-1", time.Now()); err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	form := func(body string) (int, string) {
		return call("ec2", "POST", "/", "application/x-www-form-urlencoded", body, body)
	}

	status, text := form("Action=DescribeInstances&Version=2016-11-15&Filter.1.Name=x&Filter.1.Value.1=a&Filter.1.Value.2=b")
	if status != 200 || !strings.Contains(text, "</requestId><instanceSet><item>a</item><item>b</item></instanceSet></DescribeInstancesResponse>") {
		t.Errorf("EC2's: %d %s", status, text)
	}
	status, text = form("Action=StopTheWorld&Version=2016-11-15")
	if status != 400 || !strings.Contains(text, "<Response><Errors><Error><Code>InvalidAction</Code>") {
		t.Errorf("an unknown operation: %d %s", status, text)
	}
	status, text = form("Action=DescribeInstances&Version=2016-11-15&x=" + strings.Repeat("x", 1<<10))
	if status != 413 || !strings.Contains(text, "longer than 1024 bytes") {
		t.Errorf("a body that the service does not take: %d %s", status, text)
	}

	big := strings.Repeat("x", 1<<20)
	if status, text = call("s3", "PUT", "/objects/a/b", "text/plain", big, big); status != 200 || text != "a/b has 1048576 bytes" {
		t.Errorf("a streamed body: %d %s", status, text)
	}
	if status, text = call("s3", "PUT", "/objects/a/b", "text/plain", "other", big); status != 400 || !strings.Contains(text, "not the one that was signed") {
		t.Errorf("another body: %d %s", status, text)
	}
	if status, text = call("s3", "PUT", "/objects/a/b", "text/plain", big+"x", big+"x"); status != 400 || !strings.Contains(text, "longer than 1048576 bytes") {
		t.Errorf("a body that is too long: %d %s", status, text)
	}
}

// A streamed body that stalls is given up, as a body that is read whole is.
func TestStalledStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, secret := strange(t)
		network := memnet.New(0, nil)
		listener := network.Listen()
		web := &http.Server{Handler: s}
		served := make(chan error, 1)
		go func() { served <- web.Serve(listener) }()
		const body = "all of it"
		sum := sha256.Sum256([]byte(body))
		r, err := http.NewRequestWithContext(t.Context(), "PUT", "http://host/objects/a", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Amz-Content-Sha256", hex.EncodeToString(sum[:]))
		key := aws.Credentials{AccessKeyID: "AKIAROOT", SecretAccessKey: secret.Reveal()}
		if err := v4.NewSigner().SignHTTP(t.Context(), key, r, hex.EncodeToString(sum[:]), "s3", "home-1", time.Now()); err != nil {
			t.Fatal(err)
		}
		var request bytes.Buffer
		if err := r.Write(&request); err != nil {
			t.Fatal(err)
		}
		conn, err := network.NewHost("caller", 0, 0).Dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := conn.Write(request.Bytes()[:request.Len()-1]); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), r)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		if took := time.Since(began); resp.StatusCode != 400 || !strings.Contains(string(text), "Nothing of the request body arrived for 20s") || took > 25*time.Second {
			t.Errorf("after %v: %d %s", took, resp.StatusCode, text)
		}
		conn.Close()
		web.Close()
		if err := <-served; err != http.ErrServerClosed {
			t.Error(err)
		}
	})
}
