package ssm_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/servertest"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/wire"
)

const realmARN = "arn:aws:iam::000000000000:"

// connector allows all that a person in a role does here, and to assume another.
const connector = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["ssm:StartSession","ssm:DescribeSessions","sts:AssumeRole"],"Resource":"*"}]}`

// role makes a role that trusts the account, with one inline policy.
func role(s *servertest.Server, name, policy string) {
	s.T.Helper()
	ctx := s.T.Context()
	err := s.Store.IAM().CreateRole(ctx, sallyport.Role{
		Name: name, Path: "/", ID: sallyport.EntityID("AROA"), Created: time.Now(), MaxSession: time.Hour,
		Trust: `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"AWS":"000000000000"},"Action":"sts:AssumeRole"}}`,
	})
	if err == nil {
		err = s.Store.IAM().PutInlinePolicy(ctx, store.Role(name), "own", policy)
	}
	if err != nil {
		s.T.Fatal(err)
	}
}

// assume returns the credentials of a session of a role. An empty policy is no
// session policy.
func assume(s *servertest.Server, p aws.CredentialsProvider, role, session, policy string) aws.CredentialsProvider {
	s.T.Helper()
	in := &sts.AssumeRoleInput{RoleArn: aws.String(realmARN + "role/" + role), RoleSessionName: &session}
	if policy != "" {
		in.Policy = &policy
	}
	out, err := sts.NewFromConfig(s.AWS(p)).AssumeRole(s.T.Context(), in)
	if err != nil {
		s.T.Fatal(err)
	}
	return credentials.NewStaticCredentialsProvider(*out.Credentials.AccessKeyId, *out.Credentials.SecretAccessKey, *out.Credentials.SessionToken)
}

func keyID(t *testing.T, p aws.CredentialsProvider) *string {
	t.Helper()
	c, err := p.Retrieve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return &c.AccessKeyID
}

// begin starts a session and joins it without a signature, as old clients do.
func begin(t *testing.T, s *servertest.Server, p aws.CredentialsProvider, node *servertest.Node) (*ssm.StartSessionOutput, *servertest.Person) {
	t.Helper()
	out, err := s.SSM(p).StartSession(t.Context(), &ssm.StartSessionInput{Target: aws.String(node.ID.String())})
	if err != nil {
		t.Fatal(err)
	}
	person, err := s.Join(*out.SessionId, *out.TokenValue, "c", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := person.Hear(t.Context(), 2); err != nil || got != "$ " {
		t.Fatalf("heard %q, %v", got, err)
	}
	return out, person
}

// A session ends with any identity that the credentials which started it rest
// on, and says with which; its token is then good for nothing.
func TestSessionEndsWithWhatItRestsOn(t *testing.T) {
	for claim, tt := range map[string]struct {
		as    string // "user"; or "role" or "chain", of a role and of a role assumed from it
		gone  func(ctx context.Context, s *servertest.Server, admin *iam.Client, key *string) error
		cause string
	}{
		"the user is deleted": {"user", func(ctx context.Context, s *servertest.Server, admin *iam.Client, key *string) error {
			// As though the key had been another's, so that the user goes first.
			hook := s.Store.OnGone
			s.Store.OnGone = nil
			_, err := admin.DeleteAccessKey(ctx, &iam.DeleteAccessKeyInput{UserName: aws.String("ann"), AccessKeyId: key})
			s.Store.OnGone = hook
			if err == nil {
				_, err = admin.DeleteUserPolicy(ctx, &iam.DeleteUserPolicyInput{UserName: aws.String("ann"), PolicyName: aws.String("test")})
			}
			if err == nil {
				_, err = admin.DeleteUser(ctx, &iam.DeleteUserInput{UserName: aws.String("ann")})
			}
			return err
		}, "The user who started the session was deleted."},
		"the access key is deactivated": {"user", func(ctx context.Context, _ *servertest.Server, admin *iam.Client, key *string) error {
			_, err := admin.UpdateAccessKey(ctx, &iam.UpdateAccessKeyInput{UserName: aws.String("ann"), AccessKeyId: key, Status: "Inactive"})
			return err
		}, "The access key with which the session was started is not active any more."},
		"the access key behind two roles is deleted": {"chain", func(ctx context.Context, _ *servertest.Server, admin *iam.Client, key *string) error {
			_, err := admin.DeleteAccessKey(ctx, &iam.DeleteAccessKeyInput{UserName: aws.String("ann"), AccessKeyId: key})
			return err
		}, "The access key with which the session was started is not active any more."},
		"the role is deleted": {"role", func(ctx context.Context, s *servertest.Server, admin *iam.Client, _ *string) error {
			return deleteRole(ctx, admin, "First")
		}, "A role in which the session was started was deleted."},
		"the role that the role was assumed from is deleted": {"chain", func(ctx context.Context, s *servertest.Server, admin *iam.Client, _ *string) error {
			return deleteRole(ctx, admin, "First")
		}, "A role in which the session was started was deleted."},
	} {
		t.Run(claim, func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *servertest.Server) {
				ctx := t.Context()
				node := s.Register("")
				node.Online()
				role(s, "First", connector)
				role(s, "Second", connector)
				ann, bob := s.User("ann", connector), s.User("bob", connector)
				by := ann
				if tt.as != "user" {
					by = assume(s, by, "First", "work", "")
				}
				if tt.as == "chain" {
					by = assume(s, by, "Second", "work", "")
				}
				out, person := begin(t, s, by, node)
				_, other := begin(t, s, bob, node)

				if err := tt.gone(ctx, s, iam.NewFromConfig(s.AWS(s.Root())), keyID(t, ann)); err != nil {
					t.Fatal(err)
				}
				if closed := <-person.Closed; closed.Output != tt.cause {
					t.Errorf("the client was told %q", closed.Output)
				}
				again, err := s.Join(*out.SessionId, *out.TokenValue, "c", nil)
				if err != nil {
					t.Fatal(err)
				}
				if closed := <-again.Closed; closed.Output != tt.cause {
					t.Errorf("coming back, the client was told %q", closed.Output)
				}
				if _, err := s.SSM(by).DescribeSessions(ctx, &ssm.DescribeSessionsInput{State: types.SessionStateActive}); err == nil || !strings.Contains(err.Error(), "UnrecognizedClientException") {
					t.Errorf("the credentials are still good: %v", err)
				}
				if err := other.Stream.Send(ctx, wire.KindOutput, []byte("hello")); err != nil { // bob's session has nothing to do with it
					t.Fatal(err)
				}
				if got, err := other.Hear(ctx, 5); err != nil || got != "hello" {
					t.Errorf("the other session: heard %q, %v", got, err)
				}
			})
		})
	}
}

func deleteRole(ctx context.Context, admin *iam.Client, name string) error {
	_, err := admin.DeleteRolePolicy(ctx, &iam.DeleteRolePolicyInput{RoleName: &name, PolicyName: aws.String("own")})
	if err == nil {
		_, err = admin.DeleteRole(ctx, &iam.DeleteRoleInput{RoleName: &name})
	}
	return err
}

// A server that was stopped between the end of an identity and of the sessions
// that rest on it ends them when they are joined, and when it starts again.
func TestSessionWhoseEndWasMissed(t *testing.T) {
	const cause = "The access key with which the session was started is not active any more."
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		ctx := t.Context()
		node := s.Register("")
		offline := node.Online()
		ann := s.User("ann", everything)
		joined, person := begin(t, s, ann, node)
		person.Leave()
		left, person := begin(t, s, ann, node)
		person.Leave()

		s.Store.OnGone = nil
		if err := s.Store.IAM().SetAccessKeyActive(ctx, "ann", *keyID(t, ann), false); err != nil {
			t.Fatal(err)
		}
		again, err := s.Join(*joined.SessionId, *joined.TokenValue, "c", nil)
		if err != nil {
			t.Fatal(err)
		}
		if closed := <-again.Closed; closed.Output != cause {
			t.Errorf("the client was told %q", closed.Output)
		}
		offline()
		s.Restart()
		time.Sleep(time.Minute)
		id, err := sallyport.ParseSessionID(*left.SessionId)
		if err != nil {
			t.Fatal(err)
		}
		rec, err := s.Store.Sessions().Get(ctx, id)
		if err != nil || rec.State() != sallyport.Terminated || rec.Cause != cause {
			t.Errorf("after the restart it is %v, %q, %v", rec.State(), rec.Cause, err)
		}
	})
}

// A session's owner is the identity at the root of the credentials: not a name,
// a path or a role session's name.
func TestOwnerIsAnIdentity(t *testing.T) {
	const sessions = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["ssm:StartSession","sts:AssumeRole"],"Resource":"*"},
		{"Effect":"Allow","Action":["ssm:TerminateSession","ssm:ResumeSession"],"Resource":["arn:aws:ssm:*:*:session/${aws:userid}-*","arn:aws:ssm:*:*:session/${aws:username}-*"]}]}`
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		ctx := t.Context()
		node := s.Register("")
		node.Online()
		role(s, "Ops", sessions)
		role(s, "Poor", connector)
		role(s, "Rich", everything)
		ann, bob := s.User("ann", connector), s.User("bob", sessions)
		start := func(p aws.CredentialsProvider) *string {
			t.Helper()
			out, err := s.SSM(p).StartSession(ctx, &ssm.StartSessionInput{Target: aws.String(node.ID.String())})
			if err != nil {
				t.Fatal(err)
			}
			return out.SessionId
		}
		resume := func(p aws.CredentialsProvider, id *string) error {
			_, err := s.SSM(p).ResumeSession(ctx, &ssm.ResumeSessionInput{SessionId: id})
			return err
		}
		terminate := func(p aws.CredentialsProvider, id *string) error {
			_, err := s.SSM(p).TerminateSession(ctx, &ssm.TerminateSessionInput{SessionId: id})
			return err
		}
		may := func(claim string, err error) {
			t.Helper()
			if err != nil {
				t.Errorf("%s: %v", claim, err)
			}
		}

		own := start(ann)
		inRole := start(assume(s, ann, "Ops", "work", ""))
		may("under another role session name", resume(assume(s, ann, "Ops", "rework", ""), inRole))
		namesake := assume(s, bob, "Ops", "work", "")
		wantCode(t, resume(namesake, inRole), "AccessDeniedException", "resumed by its owner alone")
		wantCode(t, terminate(namesake, inRole), "AccessDeniedException", "ssm:TerminateSession")
		may("in a role that is allowed it", resume(assume(s, ann, "Rich", "work", ""), own))
		wantCode(t, resume(assume(s, ann, "Poor", "work", ""), own), "AccessDeniedException", "ssm:ResumeSession")
		wantCode(t, terminate(assume(s, ann, "Poor", "work", ""), own), "AccessDeniedException", "ssm:TerminateSession")
		// Credentials that were limited on purpose stay so.
		limited := assume(s, ann, "Ops", "work", connector)
		wantCode(t, resume(limited, inRole), "AccessDeniedException", "session policy")
		wantCode(t, terminate(limited, inRole), "AccessDeniedException", "session policy")

		admin := iam.NewFromConfig(s.AWS(s.Root()))
		_, err := admin.UpdateUser(ctx, &iam.UpdateUserInput{UserName: aws.String("ann"), NewPath: aws.String("/moved/"), NewUserName: aws.String("anna")})
		may("rename", err)
		wantCode(t, terminate(s.User("ann", sessions), own), "AccessDeniedException", "ssm:TerminateSession")
		may("after a change of name and path", resume(ann, own))
		may("in the role, after it", resume(assume(s, ann, "Ops", "work", ""), inRole))
		out, err := s.SSM(ann).ResumeSession(ctx, &ssm.ResumeSessionInput{SessionId: own})
		may("resume", err)
		person, err := s.Join(*own, *out.TokenValue, "c", ann)
		may("join", err)
		if got, err := person.Hear(ctx, 2); err != nil || got != "$ " {
			t.Errorf("heard %q, %v", got, err)
		}
		may("the owner", terminate(ann, own))
	})
}

// trusting is the trust policy of a role for nodes.
const trusting = `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"Service":"ssm.amazonaws.com"},"Action":"sts:AssumeRole",
	"Condition":{"StringEquals":{"aws:SourceAccount":"000000000000"},"ArnEquals":{"aws:SourceArn":"arn:aws:ssm:home-1:000000000000:*"}}}}`

// makeNodeRole makes a role for nodes, with the rights of one.
func makeNodeRole(t *testing.T, admin *iam.Client, path, name string) {
	t.Helper()
	_, err := admin.CreateRole(t.Context(), &iam.CreateRoleInput{RoleName: &name, Path: &path, AssumeRolePolicyDocument: aws.String(trusting)})
	if err == nil {
		_, err = admin.AttachRolePolicy(t.Context(), &iam.AttachRolePolicyInput{RoleName: &name, PolicyArn: aws.String("arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore")})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A role is handed to nodes by the ARN it has, however a request names it.
func TestPassRole(t *testing.T) {
	const maker = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["ssm:*","iam:PassRole"],"Resource":"*"},
		{"Effect":"Deny","Action":"iam:PassRole","Resource":"arn:aws:iam::*:role/admin/*"}]}`
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		ctx := t.Context()
		admin := iam.NewFromConfig(s.AWS(s.Root()))
		makeNodeRole(t, admin, "/admin/", "Power")
		makeNodeRole(t, admin, "/", "Plain")
		ann := s.SSM(s.User("ann", maker))
		node := s.Register("")
		pass := map[string]func(role string) error{
			"CreateActivation": func(role string) error {
				_, err := ann.CreateActivation(ctx, &ssm.CreateActivationInput{IamRole: &role})
				return err
			},
			"UpdateManagedInstanceRole": func(role string) error {
				_, err := ann.UpdateManagedInstanceRole(ctx, &ssm.UpdateManagedInstanceRoleInput{InstanceId: aws.String(node.ID.String()), IamRole: &role})
				return err
			},
		}
		for operation, pass := range pass {
			for _, denied := range []string{"Power", "admin/Power", "/admin/Power", "admin/Nobody"} {
				err := pass(denied)
				wantCode(t, err, "AccessDeniedException", "iam:PassRole on resource: role "+denied+" with an explicit deny")
			}
			for _, missing := range []string{"other/Power", "Nobody", "power"} {
				wantCode(t, pass(missing), "ValidationException", "there is no role "+missing)
			}
			if err := pass("Plain"); err != nil {
				t.Errorf("%s: %v", operation, err)
			}
		}
		got, err := s.Store.Nodes().Get(ctx, node.ID)
		if err != nil || got.Role != "Plain" {
			t.Errorf("the node has the role %q, %v", got.Role, err)
		}
	})
}

// A node acts in the role it was given, and not in one that has its name now;
// and only while that role trusts nodes.
func TestNodeRoleIsKeptByID(t *testing.T) {
	const strangers = `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"AWS":"000000000000"},"Action":"sts:AssumeRole"}}`
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		ctx := t.Context()
		admin := iam.NewFromConfig(s.AWS(s.Root()))
		root := s.SSM(s.Root())
		makeNodeRole(t, admin, "/", "Nodes")
		made, err := root.CreateActivation(ctx, &ssm.CreateActivationInput{IamRole: aws.String("Nodes"), RegistrationLimit: aws.Int32(2)})
		if err != nil {
			t.Fatal(err)
		}
		node := s.Register("Nodes")
		node.Online()
		start := func() error {
			_, err := root.StartSession(ctx, &ssm.StartSessionInput{Target: aws.String(node.ID.String())})
			return err
		}
		acts := func(n *servertest.Node) error {
			return n.Client().Call(ctx, "ssm", "AmazonSSM.ListInstanceAssociations", map[string]string{"InstanceId": n.ID.String()}, nil)
		}
		trust := func(document string) {
			t.Helper()
			if _, err := admin.UpdateAssumeRolePolicy(ctx, &iam.UpdateAssumeRolePolicyInput{RoleName: aws.String("Nodes"), PolicyDocument: &document}); err != nil {
				t.Fatal(err)
			}
		}
		if err := start(); err != nil {
			t.Fatal(err)
		}
		before := node.Client() // its credentials are from before

		trust(strangers)
		time.Sleep(15 * time.Second)
		wantCode(t, start(), "TargetNotConnected", "Its role Nodes does not trust ssm.amazonaws.com any more.")
		for claim, err := range map[string]error{
			"credentials from before": before.Call(ctx, "ssm", "AmazonSSM.ListInstanceAssociations", map[string]string{"InstanceId": node.ID.String()}, nil),
			"new credentials":         acts(node),
		} {
			if sallyport.CodeOf(err) != sallyport.AccessDeniedException {
				t.Errorf("with %s: %v", claim, err)
			}
		}
		trust(trusting)
		time.Sleep(5 * time.Second)
		if err := start(); err != nil {
			t.Errorf("trusted again: %v", err)
		}

		// Deleted, and made anew by the same name, with every right.
		_, err = admin.DetachRolePolicy(ctx, &iam.DetachRolePolicyInput{RoleName: aws.String("Nodes"), PolicyArn: aws.String("arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore")})
		if err == nil {
			_, err = admin.DeleteRole(ctx, &iam.DeleteRoleInput{RoleName: aws.String("Nodes")})
		}
		if err != nil {
			t.Fatal(err)
		}
		makeNodeRole(t, admin, "/", "Nodes")
		time.Sleep(15 * time.Second)
		wantCode(t, start(), "TargetNotConnected", "Its role Nodes was deleted.")
		if err := acts(node); sallyport.CodeOf(err) != sallyport.AccessDeniedException {
			t.Errorf("in the role's namesake: %v", err)
		}
		late := *node // registers now, by an activation that was made for the role that is gone
		if late.ID, err = late.TryRegister(*made.ActivationId, *made.ActivationCode); err != nil {
			t.Fatal(err)
		}
		if err := acts(&late); sallyport.CodeOf(err) != sallyport.AccessDeniedException {
			t.Errorf("registered into the role's namesake: %v", err)
		}

		if _, err := root.UpdateManagedInstanceRole(ctx, &ssm.UpdateManagedInstanceRoleInput{InstanceId: aws.String(node.ID.String()), IamRole: aws.String("Nodes")}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if err := start(); err != nil {
			t.Errorf("given the new role: %v", err)
		}
	})
}

// No tag hides another from a deny: two whose names differ by case alone are
// refused, wherever tags are given.
func TestTagsDifferByMoreThanCase(t *testing.T) {
	const maker = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"ssm:*","Resource":"*"},{"Effect":"Allow","Action":"iam:PassRole","Resource":"*"},
		{"Effect":"Deny","Action":"ssm:StartSession","Resource":"*","Condition":{"StringEquals":{"ssm:resourceTag/env":"prod"}}}]}`
	tags := func(pairs ...string) (list []types.Tag) {
		for i := 0; i < len(pairs); i += 2 {
			list = append(list, types.Tag{Key: &pairs[i], Value: &pairs[i+1]})
		}
		return list
	}
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		ctx := t.Context()
		node := s.Register("")
		node.Online()
		ann := s.SSM(s.User("ann", maker))
		content := `{"schemaVersion":"1.0","sessionType":"Standard_Stream"}`
		document := func(name string, t []types.Tag) error {
			_, err := ann.CreateDocument(ctx, &ssm.CreateDocumentInput{Name: &name, Content: &content, DocumentType: types.DocumentTypeSession, Tags: t})
			return err
		}
		add := func(kind types.ResourceTypeForTagging, id string, pairs ...string) error {
			_, err := ann.AddTagsToResource(ctx, &ssm.AddTagsToResourceInput{ResourceType: kind, ResourceId: &id, Tags: tags(pairs...)})
			return err
		}
		if err := document("Own", tags("Env", "prod")); err != nil {
			t.Fatal(err)
		}
		for kind, id := range map[types.ResourceTypeForTagging]string{types.ResourceTypeForTaggingManagedInstance: node.ID.String(), types.ResourceTypeForTaggingDocument: "Own"} {
			if err := add(kind, id, "Env", "prod", "team", "a"); err != nil {
				t.Fatal(err)
			}
			wantCode(t, add(kind, id, "env", "x"), "ValidationException", "The names of the tags Env and env differ by case alone")
			wantCode(t, add(kind, id, "other", "x", "OTHER", "y"), "ValidationException", "OTHER and other")
			if err := add(kind, id, "Env", "prod", "Team2", "b"); err != nil {
				t.Errorf("the same spelling: %v", err)
			}
			list, err := ann.ListTagsForResource(ctx, &ssm.ListTagsForResourceInput{ResourceType: kind, ResourceId: &id})
			if err != nil || len(list.TagList) != 3 {
				t.Errorf("tags of the %s: %+v, %v", kind, list, err)
			}
		}
		_, err := ann.StartSession(ctx, &ssm.StartSessionInput{Target: aws.String(node.ID.String())})
		wantCode(t, err, "AccessDeniedException", "explicit deny")
		wantCode(t, document("Two", tags("env", "x", "Env", "y")), "ValidationException", "Env and env")
		_, err = ann.CreateActivation(ctx, &ssm.CreateActivationInput{IamRole: aws.String("SallyportManagedNode"), Tags: tags("env", "x", "ENV", "y")})
		wantCode(t, err, "ValidationException", "ENV and env")
	})
}

// A session that a node's own credentials started ends when that node is
// deregistered, on whichever node it is.
func TestSessionOfANodeEndsWithIt(t *testing.T) {
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		ctx := t.Context()
		admin := iam.NewFromConfig(s.AWS(s.Root()))
		makeNodeRole(t, admin, "/", "Runner")
		if err := s.Store.IAM().PutInlinePolicy(ctx, store.Role("Runner"), "own", connector); err != nil {
			t.Fatal(err)
		}
		target, runner := s.Register(""), s.Register("Runner")
		target.Online()
		by, err := runner.Credentials()
		if err != nil {
			t.Fatal(err)
		}
		_, person := begin(t, s, by, target)
		if _, err := s.SSM(s.Root()).DeregisterManagedInstance(ctx, &ssm.DeregisterManagedInstanceInput{InstanceId: aws.String(runner.ID.String())}); err != nil {
			t.Fatal(err)
		}
		if closed := <-person.Closed; closed.Output != "The node "+runner.ID.String()+", which started the session, was deregistered." {
			t.Errorf("the client was told %q", closed.Output)
		}
	})
}
