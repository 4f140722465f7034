package iam_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	awssts "github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/api/iam"
	"github.com/sallyport/sallyport/internal/api/sts"
	"github.com/sallyport/sallyport/internal/keyring"
	"github.com/sallyport/sallyport/internal/store"
)

const account = "123456789012"

// allowing is a policy of one statement.
func allowing(actions ...string) string {
	return `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["` + strings.Join(actions, `","`) + `"],"Resource":"*"}]}`
}

// A door is IAM and STS on a loopback port, over a real store. It is called by
// the SDK's own clients.
type door struct {
	*testing.T
	url  string
	api  *api.Server
	db   *store.DB
	root aws.Credentials // a key of the account's own
}

func open(t *testing.T) *door {
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "test.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	keys := keyring.Generate()
	if err := db.Unlock(t.Context(), keys); err != nil {
		t.Fatal(err)
	}
	realm, err := sallyport.NewRealm(account, "home-1")
	if err != nil {
		t.Fatal(err)
	}
	s := &api.Server{
		Realm: realm, Store: db, Keys: keys, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Services: []*api.Service{iam.Service(), sts.Service()},
	}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	d := &door{T: t, url: server.URL, api: s, db: db}
	d.root = d.key("")
	return d
}

// key makes an access key, behind the API's back. An empty user is root.
func (d *door) key(user string) aws.Credentials {
	d.Helper()
	k := sallyport.AccessKey{ID: sallyport.EntityID("AKIA"), User: user, Active: true, Created: time.Now()}
	secret := sallyport.GenerateSecret()
	d.must(d.db.IAM().CreateAccessKey(d.Context(), k, secret))
	return aws.Credentials{AccessKeyID: k.ID, SecretAccessKey: secret.Reveal()}
}

// user makes a user with an inline policy, or none, behind the API's back.
func (d *door) user(name, document string) aws.Credentials {
	d.Helper()
	d.must(d.db.IAM().CreateUser(d.Context(), sallyport.User{Name: name, Path: "/", ID: sallyport.EntityID("AIDA"), Created: time.Now()}))
	if document != "" {
		d.must(d.db.IAM().PutInlinePolicy(d.Context(), store.User(name), "own", document))
	}
	return d.key(name)
}

func provide(c aws.Credentials) aws.CredentialsProvider {
	return aws.CredentialsProviderFunc(func(_ context.Context) (aws.Credentials, error) { return c, nil })
}

func (d *door) iam(c aws.Credentials) *awsiam.Client {
	return awsiam.New(awsiam.Options{Region: "home-1", BaseEndpoint: &d.url, Credentials: provide(c), RetryMaxAttempts: 1})
}

func (d *door) sts(c aws.Credentials) *awssts.Client {
	return awssts.New(awssts.Options{Region: "home-1", BaseEndpoint: &d.url, Credentials: provide(c), RetryMaxAttempts: 1})
}

func (d *door) must(err error) {
	d.Helper()
	if err != nil {
		d.Fatal(err)
	}
}

// refused wants an error with a code and something of a sentence.
func (d *door) refused(err error, code, sentence string) {
	d.Helper()
	e, ok := errors.AsType[smithy.APIError](err)
	if !ok || e.ErrorCode() != code || !strings.Contains(e.ErrorMessage(), sentence) {
		d.Errorf("got %v\nwant %s: …%s…", err, code, sentence)
	}
}

// An answer is what came back of a call made by hand.
type answer struct {
	status        int
	code, message string // of an error
}

// call makes a call by hand: a form, signed.
func (d *door) call(c aws.Credentials, operation, form string) answer {
	d.Helper()
	values, err := url.ParseQuery(form)
	d.must(err)
	values.Set("Action", operation)
	values.Set("Version", iam.Service().Door.(api.Query).Version)
	body := values.Encode()
	r, err := http.NewRequestWithContext(d.Context(), http.MethodPost, d.url+"/", strings.NewReader(body))
	d.must(err)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	sum := sha256.Sum256([]byte(body))
	d.must(v4.NewSigner().SignHTTP(d.Context(), c, r, hex.EncodeToString(sum[:]), "iam", "us-east-1", time.Now()))
	res, err := http.DefaultClient.Do(r)
	d.must(err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	d.must(err)
	var e struct {
		Error struct{ Code, Message string }
	}
	d.must(xml.Unmarshal(text, &e))
	return answer{res.StatusCode, e.Error.Code, e.Error.Message}
}

// assume returns the credentials of a session of a role.
func (d *door) assume(c aws.Credentials, role string) aws.Credentials {
	d.Helper()
	out, err := d.sts(c).AssumeRole(d.Context(), &awssts.AssumeRoleInput{
		RoleArn: aws.String("arn:aws:iam::" + account + ":role/" + role), RoleSessionName: aws.String("test"),
	})
	d.must(err)
	return aws.Credentials{AccessKeyID: *out.Credentials.AccessKeyId, SecretAccessKey: *out.Credentials.SecretAccessKey, SessionToken: *out.Credentials.SessionToken}
}
