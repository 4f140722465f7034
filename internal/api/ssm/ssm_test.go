package ssm_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/aws/smithy-go"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/server"
	"github.com/sallyport/sallyport/internal/servertest"
	"github.com/sallyport/sallyport/internal/socket"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/wire"
)

// inBubble runs a test against a whole server in virtual time.
func inBubble(t *testing.T, test func(t *testing.T, s *servertest.Server)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, servertest.Start(t, nil)) })
}

const everything = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"ssm:*","Resource":"*"}]}`

// connectOnly is what AWS's guide gives people who only connect.
const connectOnly = `{"Version":"2012-10-17","Statement":[
	{"Sid":"Connect","Effect":"Allow","Action":"ssm:StartSession","Resource":"*"},
	{"Effect":"Allow","Action":["ssm:DescribeInstanceInformation","ssm:GetConnectionStatus"],"Resource":"*"}]}`

// wantCode checks which of AWS's errors err is, and what it says.
func wantCode(t *testing.T, err error, code string, says ...string) {
	t.Helper()
	e, ok := errors.AsType[smithy.APIError](err)
	if !ok || e.ErrorCode() != code {
		t.Errorf("got %v, want %s", err, code)
		return
	}
	for _, part := range says {
		if !strings.Contains(e.ErrorMessage(), part) {
			t.Errorf("%s says %q, want %q in it", code, e.ErrorMessage(), part)
		}
	}
}

// A whole session: started, typed in, listed, ended, and in the history.
func TestSession(t *testing.T) {
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		ctx := t.Context()
		node := s.Register("")
		node.Online()
		ann := s.User("ann", everything)
		client := s.SSM(ann)

		info, err := client.DescribeInstanceInformation(ctx, &ssm.DescribeInstanceInformationInput{})
		if err != nil || len(info.InstanceInformationList) != 1 {
			t.Fatalf("nodes: %+v, %v", info, err)
		}
		if n := info.InstanceInformationList[0]; *n.InstanceId != node.ID.String() || n.PingStatus != types.PingStatusOnline || *n.ComputerName != "box3.example.test" || n.PlatformType != types.PlatformTypeLinux || *n.IamRole != "service-role/"+server.NodeRole {
			t.Errorf("node: %+v", n)
		}

		out, err := client.StartSession(ctx, &ssm.StartSessionInput{Target: aws.String(node.ID.String()), Reason: aws.String("ticket 42")})
		if err != nil {
			t.Fatal(err)
		}
		if id, err := sallyport.ParseSessionID(*out.SessionId); err != nil || !strings.HasPrefix(id.String(), "ann-0") {
			t.Errorf("session ID %s, %v", *out.SessionId, err)
		}
		if want := "wss://sallyport.test/v1/data-channel/" + *out.SessionId + "?role=publish_subscribe"; *out.StreamUrl != want {
			t.Errorf("StreamUrl %s, want %s", *out.StreamUrl, want)
		}
		person, err := s.Join(*out.SessionId, *out.TokenValue, "client-1", ann)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := person.Hear(ctx, 2); err != nil || got != "$ " {
			t.Fatalf("heard %q, %v", got, err)
		}
		if err := person.Stream.Send(ctx, wire.KindOutput, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		if got, err := person.Hear(ctx, 5); err != nil || got != "hello" {
			t.Fatalf("heard %q, %v", got, err)
		}

		synctest.Wait()
		list, err := client.DescribeSessions(ctx, &ssm.DescribeSessionsInput{State: types.SessionStateActive})
		if err != nil || len(list.Sessions) != 1 {
			t.Fatalf("active sessions: %+v, %v", list, err)
		}
		got := list.Sessions[0]
		if *got.SessionId != *out.SessionId || got.Status != types.SessionStatusConnected || *got.Reason != "ticket 42" || *got.Owner != "arn:aws:iam::000000000000:user/ann" || got.EndDate != nil || *got.Target != node.ID.String() || *got.DocumentName != "SSM-SessionManagerRunShell" {
			t.Errorf("session: %+v", got)
		}

		root := s.SSM(s.Root())
		if _, err := root.TerminateSession(ctx, &ssm.TerminateSessionInput{SessionId: out.SessionId}); err != nil {
			t.Fatal(err)
		}
		if closed := <-person.Closed; closed.Output != "Terminated by arn:aws:iam::000000000000:root." {
			t.Errorf("told %q", closed.Output)
		}
		time.Sleep(time.Minute)
		list, err = client.DescribeSessions(ctx, &ssm.DescribeSessionsInput{State: types.SessionStateHistory, Filters: []types.SessionFilter{{Key: types.SessionFilterKeySessionId, Value: out.SessionId}}})
		if err != nil || len(list.Sessions) != 1 || list.Sessions[0].Status != types.SessionStatusTerminated || list.Sessions[0].EndDate == nil {
			t.Fatalf("history: %+v, %v", list, err)
		}
		if _, err := root.TerminateSession(ctx, &ssm.TerminateSessionInput{SessionId: out.SessionId}); err != nil {
			t.Errorf("terminating twice: %v", err)
		}
		over, err := client.ResumeSession(ctx, &ssm.ResumeSessionInput{SessionId: out.SessionId})
		if err != nil || over.TokenValue == nil || *over.TokenValue != "" {
			t.Errorf("resume of a session that is over: %+v, %v", over, err)
		}
	})
}

// Why a node is not connected is said, one thing at a time, to those who may
// ask; to others only that it is not.
func TestTargetNotConnected(t *testing.T) {
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		ctx := t.Context()
		ann := s.SSM(s.User("ann", connectOnly))
		bob := s.SSM(s.User("bob", `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"ssm:StartSession","Resource":"*"}}`))
		start := func(c *ssm.Client, target string) error {
			_, err := c.StartSession(ctx, &ssm.StartSessionInput{Target: &target})
			return err
		}
		stranger := sallyport.NewNodeID().String()
		wantCode(t, start(ann, "box3"), "TargetNotConnected", "not the ID of a managed node")
		wantCode(t, start(ann, "../../etc/passwd"), "TargetNotConnected", "not the ID of a managed node")
		wantCode(t, start(ann, stranger), "TargetNotConnected", "There is no such node in account 000000000000, region home-1.")
		wantCode(t, start(bob, stranger), "TargetNotConnected", stranger+" is not connected.")

		node := s.Register("")
		err := start(ann, node.ID.String())
		wantCode(t, err, "TargetNotConnected", "its agent has never connected since")
		err = start(bob, node.ID.String())
		wantCode(t, err, "TargetNotConnected", "is not connected.")
		if strings.Contains(err.Error(), "never") {
			t.Errorf("bob, who may not ask why, was told %v", err)
		}

		offline := node.Online()
		if err := start(ann, node.ID.String()); err != nil {
			t.Errorf("online: %v", err)
		}
		offline()
		time.Sleep(5 * time.Minute)
		wantCode(t, start(ann, node.ID.String()), "TargetNotConnected", "It was last seen 5 min ago")

		old := s.Register("")
		old.Version = "2.3.50.0"
		old.Online()
		wantCode(t, start(ann, old.ID.String()), "TargetNotConnected", "version 2.3.50.0, and sessions need 2.3.68.0 or later")
	})
}

// A node whose role lacks a right is parked: connected, visible and not
// startable, and what it lacks is named. Its rights take effect in seconds.
func TestParkedNode(t *testing.T) {
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		ctx := t.Context()
		now := time.Now()
		if err := s.Store.IAM().CreateRole(ctx, sallyport.Role{Name: "Poor", Path: "/", ID: sallyport.EntityID("AROA"), Created: now, MaxSession: time.Hour, Trust: `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"ssm.amazonaws.com"},"Action":"sts:AssumeRole"}]}`}); err != nil {
			t.Fatal(err)
		}
		node := s.Register("Poor")
		ann := s.SSM(s.User("ann", connectOnly))
		start := func() error {
			_, err := ann.StartSession(ctx, &ssm.StartSessionInput{Target: aws.String(node.ID.String())})
			return err
		}
		client := node.Client()
		if err := node.Ping(client); err != nil {
			t.Fatalf("the agent was refused, and a stock one would sleep for minutes: %v", err)
		}
		conn, err := node.Control(client)
		if err != nil {
			t.Fatalf("the agent was refused its channel: %v", err)
		}
		defer conn.Drop()
		go func() { // answers pings
			for {
				if _, err := conn.ReadFrame(ctx); err != nil {
					return
				}
			}
		}()
		time.Sleep(time.Minute)
		wantCode(t, start(), "TargetNotConnected", "Its role Poor does not allow ssm:UpdateInstanceInformation.")

		if err := s.Store.IAM().Attach(ctx, store.Role("Poor"), "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if err := start(); err != nil {
			t.Errorf("five seconds after it got its rights: %v", err)
		}
		if err := s.Store.IAM().Detach(ctx, store.Role("Poor"), "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(15 * time.Second)
		wantCode(t, start(), "TargetNotConnected", "does not allow")
	})
}

// Sessions are their owner's, by either of the names that policies use, and not those
// of a user whose name merely begins the same.
func TestWhoseSession(t *testing.T) {
	const own = `{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Action":"ssm:StartSession","Resource":"*"},
		{"Effect":"Allow","Action":["ssm:TerminateSession","ssm:ResumeSession"],"Resource":"arn:aws:ssm:*:*:session/${aws:username}-*"}]}`
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		ctx := t.Context()
		node := s.Register("")
		node.Online()
		clients := map[string]*ssm.Client{
			"ann":       s.SSM(s.User("ann", own)),
			"ann-marie": s.SSM(s.User("ann-marie", own)),
			"byid": s.SSM(s.User("byid", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"ssm:StartSession","Resource":"*"},
				{"Effect":"Deny","Action":"ssm:TerminateSession","Resource":"arn:aws:ssm:*:*:session/${aws:userid}-*"}]}`)),
			"boss": s.SSM(s.User("boss", `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":["ssm:TerminateSession","ssm:ResumeSession"],"Resource":"arn:aws:ssm:*:*:session/*"}}`)),
			"tags": s.SSM(s.User("tags", `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"ssm:TerminateSession","Resource":"*","Condition":{"StringEquals":{"ssm:resourceTag/aws:ssmmessages:target-id":"`+node.ID.String()+`"}}}}`)),
		}
		begin := func(who string) *string {
			t.Helper()
			out, err := clients[who].StartSession(ctx, &ssm.StartSessionInput{Target: aws.String(node.ID.String())})
			if err != nil {
				t.Fatal(err)
			}
			return out.SessionId
		}
		terminate := func(who string, id *string) error {
			_, err := clients[who].TerminateSession(ctx, &ssm.TerminateSessionInput{SessionId: id})
			return err
		}
		resume := func(who string, id *string) error {
			_, err := clients[who].ResumeSession(ctx, &ssm.ResumeSessionInput{SessionId: id})
			return err
		}
		marie := begin("ann-marie")
		wantCode(t, terminate("ann", marie), "AccessDeniedException", "ssm:TerminateSession")
		wantCode(t, resume("ann", marie), "AccessDeniedException", "resumed by its owner alone")
		wantCode(t, resume("boss", marie), "AccessDeniedException", "resumed by its owner alone")
		if err := resume("ann-marie", marie); err != nil {
			t.Errorf("the owner: %v", err)
		}
		if err := terminate("ann-marie", marie); err != nil {
			t.Errorf("the owner: %v", err)
		}
		if err := terminate("boss", begin("ann")); err != nil {
			t.Errorf("whose policy names all sessions: %v", err)
		}
		if err := terminate("tags", begin("ann")); err != nil {
			t.Errorf("whose policy names the node by the session's tag: %v", err)
		}
		wantCode(t, terminate("byid", begin("byid")), "AccessDeniedException", "explicit deny")
		wantCode(t, resume("boss", aws.String("ann-0123456789abcdef0")), "DoesNotExistException")
		wantCode(t, terminate("boss", aws.String("../x")), "ValidationException", "not a session ID")
	})
}

// A document is asked about when it is named, and when the condition says so.
func TestDocumentAccessCheck(t *testing.T) {
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		ctx := t.Context()
		node := s.Register("")
		node.Online()
		const checked = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"ssm:StartSession",
			"Resource":["arn:aws:ssm:*:*:managed-instance/*" DOCUMENT],
			"Condition":{"BoolIfExists":{"ssm:SessionDocumentAccessCheck":"true"}}}]}`
		with := s.SSM(s.User("with", strings.Replace(checked, "DOCUMENT", `,"arn:aws:ssm:*:*:document/SSM-SessionManagerRunShell"`, 1)))
		without := s.SSM(s.User("without", strings.Replace(checked, "DOCUMENT", "", 1)))
		loose := s.SSM(s.User("loose", `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"ssm:StartSession","Resource":"arn:aws:ssm:*:*:managed-instance/*"}}`))
		start := func(c *ssm.Client, document *string) error {
			_, err := c.StartSession(ctx, &ssm.StartSessionInput{Target: aws.String(node.ID.String()), DocumentName: document})
			return err
		}
		shell := aws.String("SSM-SessionManagerRunShell")
		for name, err := range map[string]error{
			"checked, and the document allowed":       start(with, nil),
			"checked, and the document named":         start(with, shell),
			"not checked, and the document not named": start(loose, nil),
		} {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		wantCode(t, start(without, nil), "AccessDeniedException", "ssm:StartSession", node.ID.String())
		wantCode(t, start(loose, shell), "AccessDeniedException", "document/SSM-SessionManagerRunShell")
		root := s.SSM(s.Root())
		wantCode(t, start(root, aws.String("AWS-Nonesuch")), "InvalidDocument", "AWS-Nonesuch")
	})
}

// Which machines a user reaches may hang on the machines' tags.
func TestResourceTags(t *testing.T) {
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		ctx := t.Context()
		node := s.Register("")
		node.Online()
		dev := s.SSM(s.User("dev", `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"ssm:StartSession","Resource":"*","Condition":{"StringEquals":{"ssm:resourceTag/env":["dev"]}}}}`))
		start := func() error {
			_, err := dev.StartSession(ctx, &ssm.StartSessionInput{Target: aws.String(node.ID.String())})
			return err
		}
		wantCode(t, start(), "AccessDeniedException")
		root := s.SSM(s.Root())
		tag := func(key, value string) error {
			_, err := root.AddTagsToResource(ctx, &ssm.AddTagsToResourceInput{ResourceType: types.ResourceTypeForTaggingManagedInstance, ResourceId: aws.String(node.ID.String()), Tags: []types.Tag{{Key: &key, Value: &value}}})
			return err
		}
		if err := tag("env", "dev"); err != nil {
			t.Fatal(err)
		}
		if err := start(); err != nil {
			t.Errorf("tagged: %v", err)
		}
		wantCode(t, tag("aws:env", "dev"), "ValidationException", "reserved")
		tags, err := root.ListTagsForResource(ctx, &ssm.ListTagsForResourceInput{ResourceType: types.ResourceTypeForTaggingManagedInstance, ResourceId: aws.String(node.ID.String())})
		if err != nil || len(tags.TagList) != 1 || *tags.TagList[0].Value != "dev" {
			t.Errorf("tags: %+v, %v", tags, err)
		}
		if _, err := root.RemoveTagsFromResource(ctx, &ssm.RemoveTagsFromResourceInput{ResourceType: types.ResourceTypeForTaggingManagedInstance, ResourceId: aws.String(node.ID.String()), TagKeys: []string{"env"}}); err != nil {
			t.Fatal(err)
		}
		wantCode(t, start(), "AccessDeniedException")
		_, err = root.ListTagsForResource(ctx, &ssm.ListTagsForResourceInput{ResourceType: types.ResourceTypeForTaggingParameter, ResourceId: aws.String("x")})
		wantCode(t, err, "InvalidResourceType")
		_, err = root.ListTagsForResource(ctx, &ssm.ListTagsForResourceInput{ResourceType: types.ResourceTypeForTaggingManagedInstance, ResourceId: aws.String("mi-00000000000000000")})
		wantCode(t, err, "InvalidResourceId")
	})
}

func TestActivations(t *testing.T) {
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		ctx := t.Context()
		root := s.SSM(s.Root())
		role := aws.String("service-role/" + server.NodeRole)
		create := func(c *ssm.Client, in *ssm.CreateActivationInput) (*ssm.CreateActivationOutput, error) {
			return c.CreateActivation(ctx, in)
		}
		a, err := create(root, &ssm.CreateActivationInput{IamRole: role, DefaultInstanceName: aws.String("rack 7"), RegistrationLimit: aws.Int32(2), Tags: []types.Tag{{Key: aws.String("env"), Value: aws.String("dev")}}})
		if err != nil {
			t.Fatal(err)
		}
		if len(*a.ActivationId) != 36 || len(*a.ActivationCode) < 20 {
			t.Errorf("activation %s, a code of %d", *a.ActivationId, len(*a.ActivationCode))
		}
		n := s.Register("") // for its key
		id, err := n.TryRegister(*a.ActivationId, *a.ActivationCode)
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Store.Nodes().Get(ctx, id)
		if err != nil || got.Name != "rack 7-1" || got.Tags["env"] != "dev" || got.Role != *role {
			t.Errorf("node %+v, %v", got, err)
		}
		if _, err := n.TryRegister(*a.ActivationId, strings.Repeat("x", 43)); sallyport.CodeOf(err) != sallyport.InvalidActivation {
			t.Errorf("a wrong code: %v", err)
		}
		if again, err := n.TryRegister(*a.ActivationId, *a.ActivationCode); err != nil || again != id {
			t.Errorf("the same machine again: %v, %v, want %v", again, err, id)
		}
		n.Fingerprint = "another machine"
		other, err := n.TryRegister(*a.ActivationId, *a.ActivationCode)
		if err != nil || other == id {
			t.Errorf("another machine: %v, %v", other, err)
		}
		if got, err := s.Store.Nodes().Get(ctx, other); err != nil || got.Name != "rack 7-2" {
			t.Errorf("another machine: %+v, %v", got, err)
		}
		n.Fingerprint = "one machine more"
		if _, err := n.TryRegister(*a.ActivationId, *a.ActivationCode); sallyport.CodeOf(err) != sallyport.InvalidActivation || !strings.Contains(err.Error(), "2 registrations") {
			t.Errorf("one too many: %v", err)
		}
		list, err := root.DescribeActivations(ctx, &ssm.DescribeActivationsInput{Filters: []types.DescribeActivationsFilter{{FilterKey: types.DescribeActivationsFilterKeysActivationIds, FilterValues: []string{*a.ActivationId}}}})
		if err != nil || len(list.ActivationList) != 1 || *list.ActivationList[0].RegistrationsCount != 2 || list.ActivationList[0].Expired {
			t.Errorf("activations: %+v, %v", list, err)
		}

		second, err := create(root, &ssm.CreateActivationInput{IamRole: role})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(25 * time.Hour)
		if _, err := n.TryRegister(*second.ActivationId, *second.ActivationCode); sallyport.CodeOf(err) != sallyport.InvalidActivation || !strings.Contains(err.Error(), "expired") {
			t.Errorf("after a day: %v", err)
		}
		root = s.SSM(s.Root())
		if _, err := root.DeleteActivation(ctx, &ssm.DeleteActivationInput{ActivationId: a.ActivationId}); err != nil {
			t.Error(err)
		}
		_, err = root.DeleteActivation(ctx, &ssm.DeleteActivationInput{ActivationId: a.ActivationId})
		wantCode(t, err, "InvalidActivationId")
		_, err = create(root, &ssm.CreateActivationInput{IamRole: aws.String("Nobody")})
		wantCode(t, err, "ValidationException", "there is no role Nobody")
		_, err = create(root, &ssm.CreateActivationInput{IamRole: role, ExpirationDate: aws.Time(time.Now().Add(31 * 24 * time.Hour))})
		wantCode(t, err, "InvalidParameters", "30 days")
		_, err = create(root, &ssm.CreateActivationInput{IamRole: role, RegistrationLimit: aws.Int32(1001)})
		wantCode(t, err, "ValidationException", "less than or equal to 1000")

		// The right to create activations is not by itself the right to pass roles.
		_, err = create(s.SSM(s.User("maker", everything)), &ssm.CreateActivationInput{IamRole: role})
		wantCode(t, err, "AccessDeniedException", "iam:PassRole")
	})
}

func TestGuessingCodesIsSlow(t *testing.T) {
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		n := s.Register("")
		var throttled int
		for range 100 {
			_, err := n.TryRegister("0b4f1c66-1111-4222-8333-944455566677", strings.Repeat("x", 20))
			if sallyport.CodeOf(err) == sallyport.ThrottlingException {
				throttled++
			}
		}
		if throttled < 40 {
			t.Errorf("%d of 100 guesses at once were put off", throttled)
		}
		time.Sleep(time.Minute)
		if _, err := n.TryRegister("0b4f1c66-1111-4222-8333-944455566677", strings.Repeat("x", 20)); sallyport.CodeOf(err) != sallyport.InvalidActivationID {
			t.Errorf("a minute later: %v", err)
		}
	})
}

// A node's credentials are good for that node alone, and for as long as it is
// registered.
func TestNodesSpeakForThemselves(t *testing.T) {
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		ctx := t.Context()
		one, two := s.Register(""), s.Register("")
		two.Online()
		c := one.Client()
		impostor := *one
		impostor.ID = two.ID
		for what, err := range map[string]error{
			"UpdateInstanceInformation": impostor.Ping(c),
			"ListInstanceAssociations":  c.Call(ctx, "ssm", "AmazonSSM.ListInstanceAssociations", map[string]string{"InstanceId": two.ID.String()}, nil),
			"GetMessages":               c.Call(ctx, "ec2messages", "EC2WindowsMessageDeliveryService.GetMessages", map[string]string{"Destination": two.ID.String()}, nil),
		} {
			if sallyport.CodeOf(err) != sallyport.AccessDeniedException {
				t.Errorf("%s as another node: %v", what, err)
			}
		}
		if _, err := impostor.Control(c); err == nil {
			t.Error("another node's control channel was opened")
		}
		if _, err := impostor.Data(c, "ann-0123456789abcdef0"); err == nil {
			t.Error("a data channel of nothing was opened")
		}
		ann := s.User("ann", everything)
		if err := one.Ping(s.Client(ann)); sallyport.CodeOf(err) != sallyport.AccessDeniedException {
			t.Errorf("a person speaking for a node: %v", err)
		}

		// A session of node two's, asked for by node one.
		out, err := s.SSM(ann).StartSession(ctx, &ssm.StartSessionInput{Target: aws.String(two.ID.String())})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := one.Data(c, *out.SessionId); err == nil || !strings.Contains(err.Error(), "Session is already terminated") {
			t.Errorf("another node's session: %v", err)
		}

		if _, err := s.SSM(s.Root()).DeregisterManagedInstance(ctx, &ssm.DeregisterManagedInstanceInput{InstanceId: aws.String(one.ID.String())}); err != nil {
			t.Fatal(err)
		}
		if err := one.Ping(c); sallyport.CodeOf(err) != sallyport.UnrecognizedClientException {
			t.Errorf("after it was deregistered: %v", err)
		}
		if _, err := one.Credentials(); sallyport.CodeOf(err) != sallyport.UnrecognizedClientException {
			t.Errorf("new credentials after it was deregistered: %v", err)
		}
	})
}

func TestFingerprint(t *testing.T) {
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		n := s.Register("")
		n.Fingerprint = "another machine"
		if _, err := n.Credentials(); sallyport.CodeOf(err) != sallyport.MachineFingerprintDoesNotMatch {
			t.Errorf("a copy of a machine's state: %v", err)
		}
		_, err := s.SSM(s.Root()).StartSession(t.Context(), &ssm.StartSessionInput{Target: aws.String(n.ID.String())})
		wantCode(t, err, "TargetNotConnected", "fingerprint is not the one it registered with")
	})
}

// ec2messages is a long poll that says nothing, for as long as agents like.
func TestLongPoll(t *testing.T) {
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		n := s.Register("")
		c := n.Client()
		before := time.Now()
		var out struct {
			Destination string
			Messages    []any
		}
		if err := c.Call(t.Context(), "ec2messages", "EC2WindowsMessageDeliveryService.GetMessages", map[string]any{"Destination": n.ID.String(), "MessagesRequestId": "x", "VisibilityTimeoutInSeconds": 10}, &out); err != nil {
			t.Fatal(err)
		}
		if held := time.Since(before); held != 15*time.Second || out.Destination != n.ID.String() || out.Messages == nil {
			t.Errorf("held for %v: %+v", held, out)
		}
	})
}

func TestDescribeFilters(t *testing.T) {
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		ctx := t.Context()
		on, off := s.Register(""), s.Register("")
		on.Online()
		root := s.SSM(s.Root())
		tests := []struct {
			name string
			in   ssm.DescribeInstanceInformationInput
			want []string
			code string
		}{
			{name: "none", want: []string{on.ID.String(), off.ID.String()}},
			{name: "an ID", in: ssm.DescribeInstanceInformationInput{Filters: filter("InstanceIds", off.ID.String())}, want: []string{off.ID.String()}},
			{name: "the old form", in: ssm.DescribeInstanceInformationInput{InstanceInformationFilterList: []types.InstanceInformationFilter{{Key: "PingStatus", ValueSet: []string{"Online"}}}}, want: []string{on.ID.String()}},
			{name: "online", in: ssm.DescribeInstanceInformationInput{Filters: filter("PingStatus", "Online")}, want: []string{on.ID.String()}},
			{name: "a platform", in: ssm.DescribeInstanceInformationInput{Filters: filter("PlatformTypes", "Windows")}},
			{name: "a tag nobody has", in: ssm.DescribeInstanceInformationInput{Filters: filter("tag:env", "dev")}},
			{name: "both forms", in: ssm.DescribeInstanceInformationInput{Filters: filter("PingStatus", "Online"), InstanceInformationFilterList: []types.InstanceInformationFilter{{Key: "PingStatus", ValueSet: []string{"Online"}}}}, code: "InvalidInstanceInformationFilterValue"},
			{name: "an unknown key", in: ssm.DescribeInstanceInformationInput{Filters: filter("Colour", "red")}, code: "InvalidFilterKey"},
			{name: "an ID that is none", in: ssm.DescribeInstanceInformationInput{Filters: filter("InstanceIds", "box")}, code: "InvalidInstanceId"},
			{name: "too small a page", in: ssm.DescribeInstanceInformationInput{MaxResults: aws.Int32(4)}, code: "ValidationException"},
			{name: "a token of nobody's", in: ssm.DescribeInstanceInformationInput{NextToken: aws.String("x")}, code: "InvalidNextToken"},
		}
		for _, tt := range tests {
			out, err := root.DescribeInstanceInformation(ctx, &tt.in)
			if tt.code != "" {
				wantCode(t, err, tt.code)
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
				continue
			}
			var got []string
			for _, n := range out.InstanceInformationList {
				got = append(got, *n.InstanceId)
			}
			slices.Sort(got)
			slices.Sort(tt.want)
			if !slices.Equal(got, tt.want) {
				t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
			}
		}
		props, err := root.DescribeInstanceProperties(ctx, &ssm.DescribeInstancePropertiesInput{FiltersWithOperator: []types.InstancePropertyStringFilter{
			{Key: aws.String("ComputerName"), Operator: types.InstancePropertyFilterOperatorBeginWith, Values: []string{"box"}},
			{Key: aws.String("AgentVersion"), Operator: types.InstancePropertyFilterOperatorGreaterThan, Values: []string{"3.3.987.0"}},
		}})
		if err != nil || len(props.InstanceProperties) != 1 || *props.InstanceProperties[0].InstanceId != on.ID.String() {
			t.Errorf("properties: %+v, %v", props, err)
		}
	})
}

func filter(key string, values ...string) []types.InstanceInformationStringFilter {
	return []types.InstanceInformationStringFilter{{Key: &key, Values: values}}
}

// What is not a request is answered with one clear error, in the form AWS's
// clients read.
func TestBadRequests(t *testing.T) {
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		root := s.Client(s.Root())
		call := func(target string, body any) error { return root.Call(t.Context(), "ssm", target, body, nil) }
		deep := json.RawMessage(strings.Repeat("[", 100) + strings.Repeat("]", 100))
		for name, tt := range map[string]struct {
			err  error
			code sallyport.Code
			says string
		}{
			"an unknown operation":  {call("AmazonSSM.MakeTea", struct{}{}), sallyport.UnknownOperationException, "MakeTea"},
			"an unknown service":    {call("Nobody.MakeTea", struct{}{}), sallyport.UnknownOperationException, "Nobody"},
			"a list for a request":  {call("AmazonSSM.StartSession", []int{1}), sallyport.SerializationException, "not a JSON object"},
			"a member missing":      {call("AmazonSSM.StartSession", struct{}{}), sallyport.ValidationException, "1 validation error detected: Value null at 'target' failed to satisfy constraint: Member must not be null"},
			"a member too long":     {call("AmazonSSM.StartSession", map[string]string{"Target": strings.Repeat("x", 401)}), sallyport.ValidationException, "less than or equal to 400"},
			"a member of a kind":    {call("AmazonSSM.StartSession", map[string]any{"Target": 7}), sallyport.ValidationException, "must be a string"},
			"an enum of no value":   {call("AmazonSSM.DescribeSessions", map[string]any{"State": "Sideways"}), sallyport.ValidationException, "enum value set: [Active, History]"},
			"two things wrong":      {call("AmazonSSM.DescribeSessions", map[string]any{"State": "x", "MaxResults": 0}), sallyport.ValidationException, "2 validation errors detected"},
			"nested without end":    {call("AmazonSSM.StartSession", map[string]any{"Target": deep}), sallyport.SerializationException, "nested"},
			"a member twice":        {call("AmazonSSM.StartSession", json.RawMessage(`{"Target":"x","Target":"y"}`)), sallyport.SerializationException, `has the member "Target" twice`},
			"tags twice":            {call("AmazonSSM.CreateActivation", json.RawMessage(`{"IamRole":"x","Tags":[{}],"Tags":[{"Key":"a","Value":"b"}]}`)), sallyport.SerializationException, `has the member "Tags" twice`},
			"filters twice":         {call("AmazonSSM.DescribeSessions", json.RawMessage(`{"State":"Active","Filters":[{}],"Filters":[{"key":"Owner","value":"x"}]}`)), sallyport.SerializationException, `has the member "Filters" twice`},
			"within a member twice": {call("AmazonSSM.CreateActivation", json.RawMessage(`{"IamRole":"x","Tags":[{"Key":"a","Key":"b","Value":"c"}]}`)), sallyport.SerializationException, `has the member "Key" twice`},
			"longer than a request": {call("AmazonSSM.StartSession", map[string]string{"Target": strings.Repeat("x", 300<<10)}), sallyport.RequestEntityTooLarge, "longer than"},
		} {
			if sallyport.CodeOf(tt.err) != tt.code || !strings.Contains(tt.err.Error(), tt.says) {
				t.Errorf("%s: %v, want %s and %q", name, tt.err, tt.code, tt.says)
			}
		}

		raw := func(body, target string) *http.Response {
			req, err := http.NewRequestWithContext(t.Context(), "POST", servertest.Endpoint+"/", strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("X-Amz-Target", target)
			resp, err := s.HTTP.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			return resp
		}
		resp := raw("{}", "AmazonSSM.StartSession")
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 400 || resp.Header.Get("x-amzn-ErrorType") != "MissingAuthenticationTokenException" || !strings.Contains(string(b), `"__type":"MissingAuthenticationTokenException"`) || resp.Header.Get("x-amzn-RequestId") == "" {
			t.Errorf("unsigned: %d %v %s, %v", resp.StatusCode, resp.Header, b, err)
		}
		resp = raw(`{"ActivationId":`, "AmazonSSM.RegisterManagedInstance")
		b, _ = io.ReadAll(resp.Body)
		resp.Body.Close()
		if !strings.Contains(string(b), "SerializationException") {
			t.Errorf("half a body: %s", b)
		}
		resp = raw("\ufeff"+`{"ActivationId":"x","ActivationCode":"y"}`, "AmazonSSM.RegisterManagedInstance")
		b, _ = io.ReadAll(resp.Body)
		resp.Body.Close()
		if !strings.Contains(string(b), "Fingerprint must have") {
			t.Errorf("a body with a byte-order mark: %s", b)
		}
		resp = raw(`{"activationId":"x"}`, "AmazonSSM.RegisterManagedInstance")
		b, _ = io.ReadAll(resp.Body)
		resp.Body.Close()
		if !strings.Contains(string(b), "ValidationException") || !strings.Contains(string(b), "are both needed") {
			t.Errorf("a member in another case: %s", b)
		}
	})
}

// Identical requests inside the skew are served again: stock SDKs repeat theirs
// byte for byte. Stale ones are refused, and say by how much.
func TestRepeatedRequests(t *testing.T) {
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		p := s.Root()
		var saved *http.Request
		keep := s.AWS(p)
		keep.HTTPClient = doer(func(r *http.Request) (*http.Response, error) {
			saved = r.Clone(context.WithoutCancel(r.Context()))
			return s.HTTP.Do(r)
		})
		in := &ssm.DescribeInstanceInformationInput{}
		if _, err := ssm.NewFromConfig(keep).DescribeInstanceInformation(t.Context(), in); err != nil {
			t.Fatal(err)
		}
		again := func() (int, string) {
			saved.Body = io.NopCloser(strings.NewReader("{}"))
			resp, err := s.HTTP.Do(saved.Clone(t.Context()))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			return resp.StatusCode, string(b)
		}
		time.Sleep(4 * time.Minute)
		if status, body := again(); status != 200 {
			t.Errorf("four minutes later: %d %s", status, body)
		}
		time.Sleep(27 * time.Minute)
		if status, body := again(); status != 400 || !strings.Contains(body, "Your clock is 31 minutes slow.") {
			t.Errorf("half an hour later: %d %s", status, body)
		}
	})
}

type doer func(*http.Request) (*http.Response, error)

func (d doer) Do(r *http.Request) (*http.Response, error) { return d(r) }

// Who may join a session's socket, and how those who may not are told: with
// channel_closed, because a close alone would be taken for a lost network.
func TestSockets(t *testing.T) {
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		ctx := t.Context()
		node := s.Register("")
		node.Online()
		ann, bob := s.User("ann", everything), s.User("bob", everything)
		denied := s.User("denied", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"ssm:*","Resource":"*"},{"Effect":"Deny","Action":"ssmmessages:OpenDataChannel","Resource":"*"}]}`)
		start := func(c *ssm.Client) *ssm.StartSessionOutput {
			t.Helper()
			out, err := c.StartSession(ctx, &ssm.StartSessionInput{Target: aws.String(node.ID.String())})
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
		out := start(s.SSM(ann))
		for name, try := range map[string]func() (*servertest.Person, error){
			"a token of nobody's":       func() (*servertest.Person, error) { return s.Join(*out.SessionId, "x", "c", nil) },
			"somebody else's signature": func() (*servertest.Person, error) { return s.Join(*out.SessionId, *out.TokenValue, "c", bob) },
		} {
			p, err := try()
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if closed := <-p.Closed; !strings.Contains(closed.Output, "not good for this session") {
				t.Errorf("%s: told %q", name, closed.Output)
			}
		}
		mine := start(s.SSM(denied))
		if _, err := s.Join(*mine.SessionId, *mine.TokenValue, "c", denied); err == nil || !strings.Contains(err.Error(), "AccessDeniedException") {
			t.Errorf("an explicit deny of OpenDataChannel: %v", err)
		}
		p, err := s.Join(*out.SessionId, *out.TokenValue, "c", nil) // an old client, which does not sign
		if err != nil {
			t.Fatal(err)
		}
		if got, err := p.Hear(ctx, 2); err != nil || got != "$ " {
			t.Errorf("heard %q, %v", got, err)
		}
	})
}

// A server that restarts under a session goes on with it.
func TestRestart(t *testing.T) {
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		ctx := t.Context()
		node := s.Register("")
		offline := node.Online()
		ann := s.User("ann", everything)
		out, err := s.SSM(ann).StartSession(ctx, &ssm.StartSessionInput{Target: aws.String(node.ID.String())})
		if err != nil {
			t.Fatal(err)
		}
		p, err := s.Join(*out.SessionId, *out.TokenValue, "c", ann)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Hear(ctx, 2); err != nil {
			t.Fatal(err)
		}
		p.Leave()
		offline()
		s.Restart()
		list, err := s.SSM(ann).DescribeSessions(ctx, &ssm.DescribeSessionsInput{State: types.SessionStateActive})
		if err != nil || len(list.Sessions) != 1 || list.Sessions[0].Status != types.SessionStatusDisconnected {
			t.Fatalf("after the restart: %+v, %v", list, err)
		}
		time.Sleep(3 * time.Minute) // no client comes back
		list, err = s.SSM(ann).DescribeSessions(ctx, &ssm.DescribeSessionsInput{State: types.SessionStateHistory})
		if err != nil || len(list.Sessions) != 1 || !strings.Contains(*list.Sessions[0].Details, "did not come back") {
			t.Fatalf("history: %+v, %v", list, err)
		}
	})
}

// Agents 3.2.1478 to 3.3.40 wait two seconds to hear that a channel is ready,
// and otherwise never come up.
func TestAgentsThatWaitToHearTheyAreReady(t *testing.T) {
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		ctx := t.Context()
		node := s.Register("")
		node.Version, node.WantsReady = "3.2.2172.0", true
		c := node.Client()
		if err := node.Ping(c); err != nil {
			t.Fatal(err)
		}
		first := func(conn *socket.Conn, err error) wire.Type {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Drop() })
			ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			b, err := conn.ReadFrame(ctx)
			if err != nil {
				t.Fatal(err)
			}
			f, err := wire.Decode(b)
			if err != nil {
				t.Fatal(err)
			}
			return f.Type
		}
		if got := first(node.Control(c)); got != wire.TypeControlChannelReady {
			t.Errorf("the first message of the control channel is %s", got)
		}
		time.Sleep(time.Second)
		out, err := s.SSM(s.Root()).StartSession(ctx, &ssm.StartSessionInput{Target: aws.String(node.ID.String())})
		if err != nil {
			t.Fatal(err)
		}
		if got := first(node.Data(c, *out.SessionId)); got != wire.TypeDataChannelReady {
			t.Errorf("the first message of the data channel is %s", got)
		}
	})
}

// There is no State Manager here: every caller is answered that nothing is
// associated.
func TestListAssociations(t *testing.T) {
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		out, err := s.SSM(s.User("ann", everything)).ListAssociations(t.Context(), &ssm.ListAssociationsInput{})
		if err != nil || out.Associations == nil || len(out.Associations) != 0 || out.NextToken != nil {
			t.Errorf("associations: %+v, %v", out, err)
		}
		_, err = s.SSM(s.User("bob", "")).ListAssociations(t.Context(), &ssm.ListAssociationsInput{})
		wantCode(t, err, "AccessDeniedException", "ssm:ListAssociations")
	})
}
