package sts_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	awssts "github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/aws-sdk-go-v2/service/sts/types"
	"github.com/aws/smithy-go"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/api/iam"
	"github.com/sallyport/sallyport/internal/api/sts"
	"github.com/sallyport/sallyport/internal/keyring"
	"github.com/sallyport/sallyport/internal/store"
)

const (
	account = "123456789012"
	arn     = "arn:aws:iam::" + account + ":"
)

// policyOf is a policy of statements; each is written without its braces.
func policyOf(statements ...string) string {
	return `{"Version":"2012-10-17","Statement":[{` + strings.Join(statements, "},{") + `}]}`
}

func allow(actions string) string { return `"Effect":"Allow","Action":` + actions + `,"Resource":"*"` }

func deny(actions string) string { return `"Effect":"Deny","Action":` + actions + `,"Resource":"*"` }

// trust is a trust policy: whom, and any more members of the statement.
func trust(principal, more string) string {
	return policyOf(`"Effect":"Allow","Principal":` + principal + `,"Action":["sts:AssumeRole","sts:TagSession"]` + more)
}

// A door is STS, and IAM to try rights on, on a loopback port over a real store.
type door struct {
	*testing.T
	url  string
	api  *api.Server
	db   *store.DB
	root aws.Credentials
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
	d := &door{T: t, db: db, api: &api.Server{
		Realm: realm, Store: db, Keys: keys, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Services: []*api.Service{iam.Service(), sts.Service()},
	}}
	server := httptest.NewServer(d.api)
	t.Cleanup(server.Close)
	d.url = server.URL
	d.root = d.key("")
	return d
}

func (d *door) key(user string) aws.Credentials {
	d.Helper()
	k := sallyport.AccessKey{ID: sallyport.EntityID("AKIA"), User: user, Active: true, Created: time.Now()}
	secret := sallyport.GenerateSecret()
	d.must(d.db.IAM().CreateAccessKey(d.Context(), k, secret))
	return aws.Credentials{AccessKeyID: k.ID, SecretAccessKey: secret.Reveal()}
}

func (d *door) user(u sallyport.User, document string) aws.Credentials {
	d.Helper()
	u.Path, u.ID, u.Created = "/", sallyport.EntityID("AIDA"), time.Now()
	d.must(d.db.IAM().CreateUser(d.Context(), u))
	if document != "" {
		d.must(d.db.IAM().PutInlinePolicy(d.Context(), store.User(u.Name), "own", document))
	}
	return d.key(u.Name)
}

func named(name string) sallyport.User { return sallyport.User{Name: name} }

// role makes a role that may do everything, unless a document says otherwise.
func (d *door) role(r sallyport.Role, documents ...string) {
	d.Helper()
	if r.Path == "" {
		r.Path = "/"
	}
	if r.MaxSession == 0 {
		r.MaxSession = time.Hour
	}
	r.ID, r.Created = sallyport.EntityID("AROA"), time.Now()
	var err error
	r.Trust, err = d.api.BindPrincipals(d.Context(), r.Trust) // as the API keeps it
	d.must(err)
	d.must(d.db.IAM().CreateRole(d.Context(), r))
	document := policyOf(allow(`"*"`))
	if len(documents) > 0 {
		document = documents[0]
	}
	d.must(d.db.IAM().PutInlinePolicy(d.Context(), store.Role(r.Name), "own", document))
}

func provide(c aws.Credentials) aws.CredentialsProvider {
	return aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return c, nil })
}

func (d *door) sts(c aws.Credentials) *awssts.Client {
	return awssts.New(awssts.Options{Region: "home-1", BaseEndpoint: &d.url, Credentials: provide(c), RetryMaxAttempts: 1})
}

func (d *door) iam(c aws.Credentials) *awsiam.Client {
	return awsiam.New(awsiam.Options{Region: "home-1", BaseEndpoint: &d.url, Credentials: provide(c), RetryMaxAttempts: 1})
}

func session(c *types.Credentials) aws.Credentials {
	return aws.Credentials{AccessKeyID: *c.AccessKeyId, SecretAccessKey: *c.SecretAccessKey, SessionToken: *c.SessionToken}
}

// assume assumes a role; change may change the request.
func (d *door) assume(c aws.Credentials, role string, change func(*awssts.AssumeRoleInput)) (aws.Credentials, *awssts.AssumeRoleOutput, error) {
	in := &awssts.AssumeRoleInput{RoleArn: aws.String(arn + "role/" + role), RoleSessionName: aws.String("work")}
	if change != nil {
		change(in)
	}
	out, err := d.sts(c).AssumeRole(d.Context(), in)
	if err != nil {
		return aws.Credentials{}, nil, err
	}
	return session(out.Credentials), out, nil
}

// assumed is assume where it has to succeed.
func (d *door) assumed(c aws.Credentials, role string, change func(*awssts.AssumeRoleInput)) aws.Credentials {
	d.Helper()
	s, _, err := d.assume(c, role, change)
	d.must(err)
	return s
}

func (d *door) who(c aws.Credentials) (string, error) {
	out, err := d.sts(c).GetCallerIdentity(d.Context(), &awssts.GetCallerIdentityInput{})
	if err != nil {
		return "", err
	}
	return *out.Arn, nil
}

func (d *door) listUsers(c aws.Credentials) error {
	_, err := d.iam(c).ListUsers(d.Context(), &awsiam.ListUsersInput{})
	return err
}

func (d *door) must(err error) {
	d.Helper()
	if err != nil {
		d.Fatal(err)
	}
}

func (d *door) refused(err error, code, sentence string) {
	d.Helper()
	e, ok := errors.AsType[smithy.APIError](err)
	if !ok || e.ErrorCode() != code || !strings.Contains(e.ErrorMessage(), sentence) {
		d.Errorf("got %v\nwant %s: …%s…", err, code, sentence)
	}
}

// node registers a node, and returns credentials such as its agent gets.
func (d *door) node(role string) (sallyport.NodeID, aws.Credentials) {
	d.Helper()
	code := sallyport.GenerateSecret()
	now := time.Now()
	r, err := d.db.IAM().Role(d.Context(), role)
	d.must(err)
	d.must(d.db.Activations().Create(d.Context(), sallyport.Activation{ID: "a", Code: code.Hash(), Role: r.PathAndName(), RoleID: r.ID, Limit: 1, Created: now, Expires: now.Add(time.Hour)}))
	n, err := d.db.Nodes().Register(d.Context(), "a", code, sallyport.Node{ID: sallyport.NewNodeID(), PublicKey: []byte("k"), Fingerprint: "f"}, now)
	d.must(err)
	return n.ID, d.issue(api.Grant{Who: &sallyport.Principal{Kind: sallyport.NodeKind, Node: n.ID}, For: time.Hour}, now)
}

func (d *door) issue(g api.Grant, at time.Time) aws.Credentials {
	d.Helper()
	t, err := d.api.Issue(g, at)
	d.must(err)
	return aws.Credentials{AccessKeyID: t.AccessKeyID, SecretAccessKey: t.Secret.Reveal(), SessionToken: t.Token.Reveal()}
}

// Every caller is told which principal it is, even where policies deny that.
func TestWhoAmI(t *testing.T) {
	d := open(t)
	ann := d.user(named("ann"), policyOf(deny(`"*"`)))
	d.role(sallyport.Role{Name: "admin", Path: "/team/", Trust: trust(`{"AWS":"`+account+`"}`, "")})
	d.role(sallyport.Role{Name: "nodes", Trust: trust(`{"Service":"ssm.amazonaws.com"}`, "")})
	id, node := d.node("nodes")
	bob := d.user(named("bob"), policyOf(allow(`"sts:AssumeRole"`)))
	role := d.assumed(bob, "team/admin", nil)
	for _, tt := range []struct {
		claim      string
		by         aws.Credentials
		arn, begin string // and how the UserId begins
	}{
		{"root", d.root, arn + "root", account},
		{"a user", ann, arn + "user/ann", "AIDA"},
		{"a session of a role, without its path", role, "arn:aws:sts::" + account + ":assumed-role/admin/work", "AROA"},
		{"a node", node, "arn:aws:sts::" + account + ":assumed-role/nodes/" + id.String(), "AROA"},
	} {
		t.Run(tt.claim, func(t *testing.T) {
			out, err := d.sts(tt.by).GetCallerIdentity(t.Context(), &awssts.GetCallerIdentityInput{})
			d.must(err)
			if *out.Arn != tt.arn || *out.Account != account || !strings.HasPrefix(*out.UserId, tt.begin) {
				t.Errorf("%s, %s, %s", *out.Arn, *out.Account, *out.UserId)
			}
		})
	}
}

func TestSessionTokens(t *testing.T) {
	d := open(t)
	ctx := t.Context()
	ann := d.user(named("ann"), policyOf(allow(`"iam:ListUsers"`)))
	d.role(sallyport.Role{Name: "admin", Trust: trust(`{"AWS":"`+arn+`user/ann"}`, "")})
	get := func(c aws.Credentials, seconds int32) (*types.Credentials, time.Duration, error) {
		in := &awssts.GetSessionTokenInput{}
		if seconds > 0 {
			in.DurationSeconds = &seconds
		}
		out, err := d.sts(c).GetSessionToken(ctx, in)
		if err != nil {
			return nil, 0, err
		}
		return out.Credentials, time.Until(*out.Credentials.Expiration).Round(time.Minute), nil
	}
	for _, tt := range []struct {
		claim   string
		by      aws.Credentials
		seconds int32
		want    time.Duration
	}{
		{"a user's last twelve hours", ann, 0, 12 * time.Hour},
		{"or as long as is asked for", ann, 900, 15 * time.Minute},
		{"up to a day and a half", ann, 129600, 36 * time.Hour},
		{"root's last an hour", d.root, 0, time.Hour},
		{"or less", d.root, 900, 15 * time.Minute},
		{"and never more", d.root, 129600, time.Hour},
	} {
		t.Run(tt.claim, func(t *testing.T) {
			c, length, err := get(tt.by, tt.seconds)
			d.must(err)
			if length != tt.want || !strings.HasPrefix(*c.AccessKeyId, "ASIA") {
				t.Errorf("%s, for %v", *c.AccessKeyId, length)
			}
			mine, err := d.who(tt.by)
			d.must(err)
			if it, err := d.who(session(c)); err != nil || it != mine {
				t.Errorf("they are %s's, %v", it, err)
			}
		})
	}
	for _, seconds := range []int32{899, 129601} {
		_, _, err := get(ann, seconds)
		d.refused(err, "ValidationError", "'durationSeconds'")
	}

	c, _, err := get(ann, 0)
	d.must(err)
	_, _, err = get(session(c), 0)
	d.refused(err, "AccessDenied", "Cannot call GetSessionToken with session credentials")
	rootSession, _, err := get(d.root, 0)
	d.must(err)
	_, _, err = get(session(rootSession), 0)
	d.refused(err, "AccessDenied", "Cannot call GetSessionToken with session credentials")
	_, _, err = get(d.assumed(ann, "admin", nil), 0)
	d.refused(err, "AccessDenied", "Cannot call GetSessionToken with session credentials")
	_, node := d.node("admin")
	_, _, err = get(node, 0)
	d.refused(err, "AccessDenied", "Cannot call GetSessionToken with session credentials")

	_, err = d.sts(ann).GetSessionToken(ctx, &awssts.GetSessionTokenInput{SerialNumber: aws.String(arn + "mfa/ann"), TokenCode: aws.String("123456")})
	d.refused(err, "AccessDenied", "MultiFactorAuthentication failed")
	_, err = d.sts(ann).GetSessionToken(ctx, &awssts.GetSessionTokenInput{TokenCode: aws.String("123456")})
	d.refused(err, "AccessDenied", "MultiFactorAuthentication failed")
}

func TestTokensThatAreNoGood(t *testing.T) {
	d := open(t)
	ann := d.user(named("ann"), policyOf(allow(`"sts:AssumeRole"`)))
	d.role(sallyport.Role{Name: "admin", Trust: trust(`{"AWS":"`+account+`"}`, "")})
	one, other := d.assumed(ann, "admin", nil), d.assumed(ann, "admin", nil)
	u, err := d.db.IAM().User(t.Context(), "ann")
	d.must(err)
	old := d.issue(api.Grant{Who: &sallyport.Principal{Kind: sallyport.UserKind, Name: "ann", ID: u.ID, Root: u.ID}, For: time.Hour}, time.Now().Add(-2*time.Hour))
	_, err = d.who(old)
	d.refused(err, "ExpiredToken", "expired at")

	mixed := one
	mixed.SessionToken = other.SessionToken
	stolen := ann
	stolen.SessionToken = one.SessionToken
	bare := one
	bare.SessionToken = ""
	cut := one
	cut.SessionToken = cut.SessionToken[:len(cut.SessionToken)-8]
	for claim, c := range map[string]aws.Credentials{"another's token": mixed, "a token with a user's key": stolen, "no token": bare, "half a token": cut} {
		if it, err := d.who(c); err == nil {
			t.Errorf("%s is taken for %s", claim, it)
		} else {
			d.refused(err, "InvalidClientTokenId", "security token")
		}
	}

	// A role that goes takes its sessions with it, and its namesake has none.
	d.must(d.db.IAM().DeleteInlinePolicy(t.Context(), store.Role("admin"), "own"))
	d.refused(d.listUsers(one), "AccessDenied", "iam:ListUsers")
	d.must(d.db.IAM().Delete(t.Context(), store.Role("admin")))
	_, err = d.who(one)
	d.refused(err, "InvalidClientTokenId", "")
	d.role(sallyport.Role{Name: "admin", Trust: trust(`{"AWS":"`+account+`"}`, "")})
	_, err = d.who(one)
	d.refused(err, "InvalidClientTokenId", "")
}

// A role whose trust policy was stored by rules which were less strict, and cannot
// be read any more, may not be assumed, and the refusal names it.
func TestStoredTrustThatCannotBeRead(t *testing.T) {
	d := open(t)
	ann := d.user(sallyport.User{Name: "ann"}, policyOf(allow(`"sts:AssumeRole"`)))
	d.role(sallyport.Role{Name: "work", Trust: `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"AWS":"000000000000"},"Action":"sts:AssumeRole"}}`})
	d.must(d.db.IAM().UpdateTrust(d.Context(), "work", `{"Version":"2012-10-17","Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"AWS":"*"},"Action":"sts:AssumeRole"}}`))
	_, _, err := d.assume(ann, "work", nil)
	d.refused(err, "MalformedPolicyDocument", "The trust policy of role work cannot be read, so it may not be assumed.")
	d.refused(err, "MalformedPolicyDocument", `the document has "Version" twice; keep one`)
}
