package server_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/server"
	"github.com/sallyport/sallyport/internal/servertest"
	"github.com/sallyport/sallyport/internal/sigv4"
	"github.com/sallyport/sallyport/internal/store"
)

// The matrix: every operation that a server declares, called by every kind of
// caller. What should happen follows from its row: whose call it takes, and what
// policy is asked. A row that declares a question which is not asked fails the test,
// as does one that asks a question it does not declare: for each action of a row,
// a caller who is allowed all the others is refused with that action's name, and one
// who is allowed these alone is let in. docs/operations.md has the rows to read.

// asked returns the actions that policy is always asked about, by a row.
func asked(service *api.Service, operation string) (actions []string) {
	for _, a := range service.Ops[operation].Asks.About {
		if !a.Maybe {
			actions = append(actions, cmp.Or(a.Action, service.Name+":"+operation))
		}
	}
	return actions
}

// What a request is answered, as far as the matrix goes.
const (
	in      = "is let in"
	missing = "MissingAuthenticationToken"
	unknown = "UnrecognizedClient"
	badSign = "InvalidSignature"
	denied  = "AccessDenied" // and what more it says is checked apart
)

// verdicts are the codes of refusals, in all their spellings. Any other answer is
// that of an operation which was let in.
var verdicts = map[string]string{
	"MissingAuthenticationTokenException": missing, "MissingAuthenticationToken": missing,
	"UnrecognizedClientException": unknown, "InvalidClientTokenId": unknown,
	"InvalidSignatureException": badSign, "SignatureDoesNotMatch": badSign,
	"AccessDeniedException": denied, "AccessDenied": denied,
}

// A matrix is a server with callers of every kind.
type matrix struct {
	*testing.T
	*servertest.Server
	shapes map[string]map[string]shape

	self, other *servertest.Node // that may do everything
	weak        *servertest.Node // whose role allows nothing
	stray       *servertest.Node // whose role allows everything and does not trust nodes any more
	named       *servertest.Node // that inputs of nodes' operations name
}

// A shape is a type, as the models in internal/api/models have it.
type shape struct {
	Type     string
	Members  map[string]struct{ Shape string }
	Required []string
	Member   *struct{ Shape string }
	Enum     []string
}

// readModels returns the shapes of the services; inputs are "op " and the
// operation's name.
func (m *matrix) readModels() {
	m.shapes = map[string]map[string]shape{}
	for _, name := range []string{"ssm", "iam", "kms", "sts"} {
		b, err := os.ReadFile("../api/models/" + name + ".json")
		m.must(err)
		var model struct {
			Operations map[string]struct{ Input string }
			Shapes     map[string]shape
		}
		m.must(json.Unmarshal(b, &model))
		for operation, op := range model.Operations {
			model.Shapes["op "+operation] = model.Shapes[op.Input]
		}
		m.shapes[name] = model.Shapes
	}
}

const (
	accountTrust = `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"AWS":"000000000000"},"Action":"sts:AssumeRole"}}`
	nodeTrust    = `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"Service":"ssm.amazonaws.com"},"Action":"sts:AssumeRole"}}`
)

// statements is a policy about "*", each of whose statements is given as an
// effect and its actions.
func statements(pairs ...[]string) string {
	type s struct {
		Effect   string
		Action   []string
		Resource string
	}
	var all []s
	for _, p := range pairs {
		all = append(all, s{p[0], p[1:], "*"})
	}
	b, _ := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": all})
	return string(b)
}

var (
	everything = statements([]string{"Allow", "*"})
	nothing    = statements([]string{"Allow", "none:None"})
)

func (m *matrix) must(err error) {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

func (m *matrix) credentials(p aws.CredentialsProvider) aws.Credentials {
	m.Helper()
	c, err := p.Retrieve(m.Context())
	m.must(err)
	return c
}

// user makes a user whose policy [matrix.allow] changes.
func (m *matrix) user(name, policy string) aws.Credentials {
	m.Helper()
	return m.credentials(m.User(name, policy))
}

func (m *matrix) allow(user, policy string) {
	m.Helper()
	m.must(m.Store.IAM().PutInlinePolicy(m.Context(), store.User(user), "test", policy))
}

func (m *matrix) role(name, trust, policy string) {
	m.Helper()
	m.must(m.Store.IAM().CreateRole(m.Context(), sallyport.Role{Name: name, Path: "/", ID: sallyport.EntityID("AROA"), Created: time.Now(), MaxSession: 12 * time.Hour, Trust: trust}))
	m.must(m.Store.IAM().PutInlinePolicy(m.Context(), store.Role(name), "test", policy))
}

func (m *matrix) temporary(c aws.Credentials, role, policy string) aws.Credentials {
	m.Helper()
	client := sts.NewFromConfig(m.AWS(aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return c, nil })))
	if role == "" {
		out, err := client.GetSessionToken(m.Context(), &sts.GetSessionTokenInput{})
		m.must(err)
		return aws.Credentials{AccessKeyID: *out.Credentials.AccessKeyId, SecretAccessKey: *out.Credentials.SecretAccessKey, SessionToken: *out.Credentials.SessionToken}
	}
	in := &sts.AssumeRoleInput{RoleArn: aws.String(m.Realm.Role("/", role)), RoleSessionName: aws.String("work"), DurationSeconds: aws.Int32(12 * 3600)}
	if policy != "" {
		in.Policy = &policy
	}
	out, err := client.AssumeRole(m.Context(), in)
	m.must(err)
	return aws.Credentials{AccessKeyID: *out.Credentials.AccessKeyId, SecretAccessKey: *out.Credentials.SecretAccessKey, SessionToken: *out.Credentials.SessionToken}
}

// rootKey makes an access key of the account's root.
func (m *matrix) rootKey() aws.Credentials {
	m.Helper()
	id, secret := sallyport.EntityID("AKIA"), sallyport.GenerateSecret()
	m.must(m.Store.IAM().CreateAccessKey(m.Context(), sallyport.AccessKey{ID: id, Active: true, Created: time.Now()}, secret))
	return aws.Credentials{AccessKeyID: id, SecretAccessKey: secret.Reveal()}
}

// A ghost is a node that is not there, so that what is let in changes nothing.
const ghost = "mi-00000000000000000"

// samples are values of members, by name, that come as far as policy. An
// operation with a member that is not here wants one.
func (m *matrix) sample(service, operation, member string) any {
	m.Helper()
	switch service + "." + member {
	case "kms.KeyId", "kms.TargetKeyId":
		return "11111111-2222-3333-4444-555555555555"
	case "kms.Policy":
		return `{"Version":"2012-10-17","Statement":[]}`
	case "ssm.Name":
		return "Matrix-Document"
	}
	value, ok := map[string]any{
		"AccessKeyId": "AKIAAAAAAAAAAAAAAAAA", "ActivationId": "11111111-2222-3333-4444-555555555555", "AliasName": "alias/matrix",
		"AssumeRolePolicyDocument": accountTrust, "CiphertextBlob": base64.StdEncoding.EncodeToString([]byte("x")), "Content": "{}", "Description": "text",
		"DocumentVersion": "1", "GroupName": "matrix-group", "IamRole": "matrix-role", "InstanceId": ghost, "Key": "team",
		"PermissionsBoundary": "arn:aws:iam::000000000000:policy/matrix", "Plaintext": base64.StdEncoding.EncodeToString([]byte("x")),
		"PolicyArn": "arn:aws:iam::000000000000:policy/matrix", "PolicyDocument": nothing, "PolicyName": "matrix",
		"PolicySourceArn": "arn:aws:iam::000000000000:user/matrix-user", "ResourceId": ghost, "ResourceType": "ManagedInstance",
		"RoleArn": m.Realm.Role("/", "target"), "RoleName": "matrix-role", "RoleSessionName": "matrix", "SessionId": "matrix-00000000000000000",
		"TagKey": "team", "TagValue": "x", "Target": ghost, "UserName": "matrix-user", "Value": "x", "VersionId": "v1",
		"ActionNames": "ssm:StartSession", "TagKeys": "team",
	}[member]
	if !ok {
		m.Fatalf("there is no sample of %s of %s:%s; add one", member, service, operation)
	}
	return value
}

// input makes the least input that an operation takes, by AWS's model of it.
func (m *matrix) input(service, operation string) map[string]any {
	m.Helper()
	op, ok := m.shapes[service]["op "+operation]
	if !ok {
		own, ok := map[string]map[string]any{
			"RegisterManagedInstance":         {"ActivationId": "11111111-2222-3333-4444-555555555555", "ActivationCode": "x", "Fingerprint": "x", "PublicKey": "x", "PublicKeyType": "Rsa"},
			"RequestManagedInstanceRoleToken": {"Fingerprint": "x"},
			"UpdateManagedInstancePublicKey":  {"NewPublicKey": "x", "NewPublicKeyType": "Rsa"},
			"UpdateInstanceInformation":       {"InstanceId": m.named.ID},
			"ListInstanceAssociations":        {"InstanceId": m.named.ID},
			"GetMessages":                     {"Destination": m.named.ID},
			"CreateControlChannel":            {},
			"GetRecording":                    {"SessionId": "matrix-00000000000000000"},
			"CreateDataChannel":               {},
		}[operation]
		if !ok {
			m.Fatalf("%s:%s is in no model of AWS's; add an input for it", service, operation)
		}
		return own
	}
	var structure func(s shape) map[string]any
	structure = func(s shape) map[string]any {
		values := map[string]any{}
		for _, name := range s.Required {
			of := m.shapes[service][s.Members[name].Shape]
			switch {
			case of.Type == "list" && m.shapes[service][of.Member.Shape].Type == "structure":
				values[name] = []any{structure(m.shapes[service][of.Member.Shape])}
			case of.Type == "list":
				values[name] = []any{m.sample(service, operation, name)}
			case of.Type == "structure":
				values[name] = structure(of)
			case len(of.Enum) > 0 && name != "ResourceType":
				values[name] = of.Enum[0]
			default:
				values[name] = m.sample(service, operation, name)
			}
		}
		return values
	}
	values := structure(op)
	switch service + ":" + operation {
	case "kms:Decrypt": // of a key that is named
		values["KeyId"] = m.sample(service, operation, "KeyId")
	case "iam:GetUser", "iam:CreateAccessKey", "iam:ListAccessKeys", "iam:UpdateAccessKey", "iam:DeleteAccessKey", "iam:GetLoginProfile", "iam:DeleteLoginProfile",
		"iam:ListMFADevices", "iam:ListSSHPublicKeys", "iam:ListSigningCertificates", "iam:ListServiceSpecificCredentials": // the caller's own otherwise
		values["UserName"] = m.sample(service, operation, "UserName")
	}
	return values
}

// form writes an input as the query protocol does.
func form(prefix string, value any, to url.Values) {
	switch v := value.(type) {
	case map[string]any:
		for name, e := range v {
			form(prefix+"."+name, e, to)
		}
	case []any:
		for i, e := range v {
			form(prefix+".member."+strconv.Itoa(i+1), e, to)
		}
	default:
		to.Set(strings.TrimPrefix(prefix, "."), fmt.Sprint(v))
	}
}

// request writes a call that is not signed yet.
func (m *matrix) request(service *api.Service, operation string) (*http.Request, []byte) {
	m.Helper()
	input := m.input(service.Name, operation)
	at, body, header := servertest.Endpoint+"/", []byte(nil), http.Header{}
	query, isQuery := service.Door.(api.Query)
	switch {
	case isQuery:
		values := url.Values{"Action": {operation}, "Version": {query.Version}}
		form("", input, values)
		body = []byte(values.Encode())
		header.Set("Content-Type", "application/x-www-form-urlencoded")
	default:
		var err error
		body, err = json.Marshal(input)
		m.must(err)
		header.Set("Content-Type", "application/x-amz-json-1.1")
		if door, ok := service.Door.(api.JSON); ok {
			header.Set("X-Amz-Target", door.Target+"."+operation)
			break
		}
		at = servertest.Endpoint + map[string]string{"CreateControlChannel": "/v1/control-channel/" + m.named.ID.String(), "CreateDataChannel": "/v1/data-channel/matrix-00000000000000000"}[operation]
	}
	r, err := http.NewRequestWithContext(m.Context(), "POST", at, bytes.NewReader(body))
	m.must(err)
	r.Header = header
	return r, body
}

var (
	queryCode = regexp.MustCompile(`<Code>([A-Za-z]+)</Code>`)
	pathCode  = regexp.MustCompile(`^<([A-Za-z]+)><Message>`)
)

// call makes a call and returns what it was answered and the text of a refusal.
// How is how it is signed.
func (m *matrix) call(service *api.Service, operation string, how func(r *http.Request, body []byte)) (verdict, text string) {
	m.Helper()
	r, body := m.request(service, operation)
	how(r, body)
	resp, err := m.HTTP.Do(r)
	m.must(err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	m.must(err)
	text = string(b)
	code := resp.Header.Get("x-amzn-ErrorType")
	for _, p := range []*regexp.Regexp{queryCode, pathCode} {
		if found := p.FindStringSubmatch(text); code == "" && resp.StatusCode >= 400 && found != nil {
			code = found[1]
		}
	}
	switch {
	case resp.StatusCode >= 500, resp.StatusCode >= 400 && code == "", strings.HasPrefix(code, "Throttling"):
		m.Errorf("%s:%s is answered %d %s", service.Name, operation, resp.StatusCode, text)
	}
	if v, ok := verdicts[code]; ok {
		return v, text
	}
	return in, text
}

func (m *matrix) signed(c aws.Credentials, service string) func(r *http.Request, body []byte) {
	return func(r *http.Request, body []byte) {
		sum := sha256.Sum256(body)
		m.must(v4.NewSigner().SignHTTP(m.Context(), c, r, hex.EncodeToString(sum[:]), service, m.Realm.Region, time.Now()))
	}
}

func TestMatrixOfOperationsAndIdentities(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &matrix{T: t, Server: servertest.Start(t, func(c *server.Config) { c.KeepHistory = 0 })}
		m.readModels()

		m.role("everything", accountTrust, everything)
		m.role("nothing", accountTrust, nothing)
		m.role("exact", accountTrust, nothing)
		m.role("target", accountTrust, nothing)
		m.role("deleted", accountTrust, everything)
		m.role("nodes-everything", nodeTrust, everything)
		m.role("nodes-nothing", nodeTrust, nothing)
		m.role("nodes-stray", nodeTrust, everything)
		m.self, m.other = m.Register("nodes-everything"), m.Register("nodes-everything")
		m.weak, m.stray = m.Register("nodes-nothing"), m.Register("nodes-stray")
		m.named = m.self
		m.must(m.Store.IAM().UpdateTrust(t.Context(), "nodes-stray", accountTrust))

		assumer := m.user("assumer", everything)
		none, exact, all := m.user("none", ""), m.user("exact", nothing), m.user("all", everything)
		inactive, deleted, keyless := m.user("inactive", everything), m.user("deleted", everything), m.user("keyless", everything)
		behind := map[string]aws.Credentials{
			"a deactivated key":                     inactive,
			"a token behind a key that was put out": m.temporary(keyless, "", ""),
			"a role behind a key that was put out":  m.temporary(keyless, "everything", ""),
			"a deleted user's token":                m.temporary(deleted, "", ""),
			"a role a deleted user assumed":         m.temporary(deleted, "everything", ""),
			"a deleted role":                        m.temporary(assumer, "deleted", ""),
			"a key that is not there":               {AccessKeyID: "AKIAAAAAAAAAAAAAAAAA", SecretAccessKey: "x"},
		}
		m.must(m.Store.IAM().SetAccessKeyActive(t.Context(), "inactive", inactive.AccessKeyID, false))
		m.must(m.Store.IAM().SetAccessKeyActive(t.Context(), "keyless", keyless.AccessKeyID, false))
		m.must(m.Store.IAM().DeleteAccessKey(t.Context(), "deleted", deleted.AccessKeyID))
		m.must(m.Store.IAM().DeleteInlinePolicy(t.Context(), store.User("deleted"), "test"))
		m.must(m.Store.IAM().Delete(t.Context(), store.User("deleted")))
		m.must(m.Store.IAM().DeleteInlinePolicy(t.Context(), store.Role("deleted"), "test"))
		m.must(m.Store.IAM().Delete(t.Context(), store.Role("deleted")))
		m.User("deleted", everything) // namesakes
		m.role("deleted", accountTrust, everything)

		node := func(n *servertest.Node) aws.Credentials {
			p, err := n.Credentials()
			m.must(err)
			return m.credentials(p)
		}
		root := m.rootKey()
		roleNone, roleExact := m.temporary(assumer, "nothing", ""), m.temporary(assumer, "exact", "")
		roleAll, roleLimited := m.temporary(assumer, "everything", ""), m.temporary(assumer, "everything", nothing)
		token := m.temporary(all, "", "")

		found := 0
		for _, service := range m.API.Services {
			for _, operation := range slices.Sorted(maps.Keys(service.Ops)) {
				found++
				name := service.Name + ":" + operation
				op := service.Ops[operation]
				admits, asks := op.Admits, asked(service, operation)
				refuses := func(who string) bool {
					return slices.ContainsFunc(op.Refuses, func(r api.Refusal) bool { return r.Who == who })
				}

				// want checks one call. Says is in the text of a refusal.
				want := func(caller string, how func(*http.Request, []byte), verdict, says string) {
					t.Helper()
					got, text := m.call(service, operation, how)
					if got != verdict || verdict != in && !strings.Contains(text, says) {
						t.Errorf("%s by %s: %s, want %s %q: %.300s", name, caller, got, verdict, says, text)
					}
					time.Sleep(time.Second) // failures are slowed down
				}
				signed := func(c aws.Credentials) func(*http.Request, []byte) { return m.signed(c, service.Name) }

				if admits == api.WithoutSignature {
					want("anyone", func(*http.Request, []byte) {}, in, "")
					want("a user with no policy", signed(none), in, "")
					want("a node's key", signed(node(m.self)), in, "")
					continue
				}
				want("anyone", func(*http.Request, []byte) {}, missing, "")

				byKey := func(r *http.Request, body []byte) {
					m.must(sigv4.SignRSA(r, sigv4.HashOf(body), m.self.ID, m.self.Key, m.Realm.Region, time.Now()))
				}
				if admits == api.ByNodeKey {
					want("a node's key", byKey, in, "")
					for caller, c := range map[string]aws.Credentials{"root": root, "a user who may everything": all, "the node, by its credentials": node(m.self)} {
						want(caller, signed(c), unknown, "")
					}
					continue
				}

				// Who does not sign well, or with what is not in force.
				wrong := all
				wrong.SecretAccessKey = "x" + wrong.SecretAccessKey
				want("a wrong secret", signed(wrong), badSign, "")
				want("a signature for another service", m.signed(all, "s3"), badSign, "")
				if service.Name == "ssm" { // the only one that nodes' keys are for
					want("a node's key", byKey, unknown, "")
				}
				for caller, c := range behind {
					want(caller, signed(c), unknown, "")
				}

				first := "" // what a refusal names
				if len(asks) > 0 {
					first = asks[0]
				}
				able := in
				if refuses("managed nodes") || refuses("short-lived credentials") {
					able = denied
				}
				want("a node that may everything", signed(node(m.self)), able, "")
				if admits == api.ByNode {
					want("root", signed(root), denied, "on a managed node alone")
					want("a user who may everything", signed(all), denied, "on a managed node alone")
					want("a role that may everything", signed(roleAll), denied, "on a managed node alone")
					if name != "ssmmessages:CreateDataChannel" { // which names a session
						want("another node", signed(node(m.other)), denied, "")
					}
					powerless := denied
					if len(asks) == 0 { // it is parked instead
						powerless = in
					}
					for caller, n := range map[string]*servertest.Node{"a node whose role allows nothing": m.weak, "a node whose role does not trust nodes": m.stray} {
						m.named = n
						want(caller, signed(node(n)), powerless, first)
					}
					m.named = m.self
					continue
				}

				// People, by what policies allow.
				if refuses("the account's root") {
					want("root", signed(root), denied, "")
				} else {
					want("root", signed(root), in, "")
				}
				temporary, tokens := in, in
				if refuses("short-lived credentials") {
					temporary, tokens = denied, denied
				}
				if service.SecondFactor {
					tokens = unknown
				}
				want("a role that may everything", signed(roleAll), temporary, "")
				want("a session token of a user who may everything", signed(token), tokens, "")
				want("a user who may everything", signed(all), in, "")
				if len(asks) == 0 {
					want("a user with no policy", signed(none), in, "")
					continue
				}
				for caller, c := range map[string]aws.Credentials{
					"a user with no policy": none, "a role that allows nothing": roleNone, "a role that may everything, limited to nothing": roleLimited,
					"a node whose role allows nothing": node(m.weak), "a node whose role does not trust nodes": node(m.stray),
				} {
					want(caller, signed(c), denied, first)
				}
				m.allow("exact", statements(append([]string{"Allow"}, asks...)))
				m.must(m.Store.IAM().PutInlinePolicy(t.Context(), store.Role("exact"), "test", statements(append([]string{"Allow"}, asks...))))
				want("a user who is allowed what is asked", signed(exact), in, "")
				want("a role that allows what is asked", signed(roleExact), in, "")
				for i, action := range asks {
					m.allow("exact", statements([]string{"Allow", "none:None"}, append([]string{"Allow"}, slices.Delete(slices.Clone(asks), i, i+1)...)))
					if len(asks) == 1 {
						m.allow("exact", nothing)
					}
					want("a user who is allowed all of it but "+action, signed(exact), denied, action)
					m.allow("exact", statements([]string{"Allow", "*"}, []string{"Deny", action}))
					says := "explicit deny"
					if op.Asks.Terse {
						says = action
					}
					want("a user who is denied "+action, signed(exact), denied, says)
				}
			}
		}
		if found == 0 {
			t.Error("there are no operations")
		}
	})
}
