package ssm_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/servertest"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/wire"
)

const shellPreferences = "SSM-SessionManagerRunShell"

func preferences(inputs string) *string {
	return aws.String(`{"schemaVersion":"1.0","description":"settings","sessionType":"Standard_Stream","inputs":{` + inputs + `}}`)
}

func createPreferences(t *testing.T, c *ssm.Client, inputs string) {
	t.Helper()
	_, err := c.CreateDocument(t.Context(), &ssm.CreateDocumentInput{Name: aws.String(shellPreferences), DocumentType: types.DocumentTypeSession, Content: preferences(inputs)})
	if err != nil {
		t.Fatal(err)
	}
}

// A document's whole life, as the console and the CLI live it.
func TestDocument(t *testing.T) {
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		ctx := t.Context()
		c := s.SSM(s.User("ann", everything))
		name := aws.String(shellPreferences)
		made, err := c.CreateDocument(ctx, &ssm.CreateDocumentInput{
			Name: name, DocumentType: types.DocumentTypeSession, Content: preferences(`"idleSessionTimeout":"5"`), VersionName: aws.String("first"),
			Tags: []types.Tag{{Key: aws.String("env"), Value: aws.String("lab")}},
		})
		if err != nil {
			t.Fatal(err)
		}
		d := made.DocumentDescription
		if *d.Name != *name || *d.Owner != "000000000000" || *d.DocumentVersion != "1" || *d.LatestVersion != "1" || *d.DefaultVersion != "1" || *d.Description != "settings" ||
			d.Status != types.DocumentStatusActive || d.DocumentType != types.DocumentTypeSession || d.DocumentFormat != types.DocumentFormatJson || *d.SchemaVersion != "1.0" ||
			len(*d.Hash) != 64 || d.HashType != types.DocumentHashTypeSha256 || len(d.Tags) != 1 || *d.VersionName != "first" || len(d.PlatformTypes) != 3 {
			t.Errorf("made: %+v", d)
		}
		_, err = c.CreateDocument(ctx, &ssm.CreateDocumentInput{Name: name, DocumentType: types.DocumentTypeSession, Content: preferences("")})
		wantCode(t, err, "DocumentAlreadyExists")

		updated, err := c.UpdateDocument(ctx, &ssm.UpdateDocumentInput{Name: name, Content: preferences(`"idleSessionTimeout":"7"`), DocumentVersion: aws.String("$LATEST")})
		if err != nil || *updated.DocumentDescription.DocumentVersion != "2" || *updated.DocumentDescription.DefaultVersion != "1" || *updated.DocumentDescription.LatestVersion != "2" {
			t.Fatalf("updated: %+v, %v", updated, err)
		}
		_, err = c.UpdateDocument(ctx, &ssm.UpdateDocumentInput{Name: name, Content: preferences(`"idleSessionTimeout":"7"`), DocumentVersion: aws.String("$LATEST")})
		wantCode(t, err, "DuplicateDocumentContent")
		_, err = c.UpdateDocument(ctx, &ssm.UpdateDocumentInput{Name: name, Content: preferences(`"idleSessionTimeout":"90"`), DocumentVersion: aws.String("$LATEST")})
		wantCode(t, err, "InvalidDocumentContent", "1 to 60")

		// Terraform takes a change back with the content of a version before.
		back := aws.String("back-and-forth")
		for n, timeout := range []string{"5", "7", "5"} {
			content := preferences(`"idleSessionTimeout":"` + timeout + `"`)
			if n == 0 {
				_, err = c.CreateDocument(ctx, &ssm.CreateDocumentInput{Name: back, DocumentType: types.DocumentTypeSession, Content: content})
			} else {
				_, err = c.UpdateDocument(ctx, &ssm.UpdateDocumentInput{Name: back, Content: content, DocumentVersion: aws.String("$LATEST")})
			}
			if err != nil {
				t.Errorf("version %d: %v", n+1, err)
			}
		}

		yaml := aws.String("written-in-yaml")
		_, err = c.CreateDocument(ctx, &ssm.CreateDocumentInput{Name: yaml, DocumentType: types.DocumentTypeSession, DocumentFormat: types.DocumentFormatYaml,
			Content: aws.String("schemaVersion: '1.0'\nsessionType: Standard_Stream\ninputs:\n  idleSessionTimeout: '9'\n")})
		if err != nil {
			t.Fatal(err)
		}
		inJSON, err := c.GetDocument(ctx, &ssm.GetDocumentInput{Name: yaml})
		if err != nil || !json.Valid([]byte(*inJSON.Content)) || inJSON.DocumentFormat != types.DocumentFormatJson {
			t.Errorf("without a format: %+v, %v", inJSON, err)
		}

		got, err := c.GetDocument(ctx, &ssm.GetDocumentInput{Name: aws.String("arn:aws:ssm:home-1:000000000000:document/" + *name)})
		if err != nil || *got.Content != *preferences(`"idleSessionTimeout":"5"`) || *got.DocumentVersion != "1" || *got.Name != *name {
			t.Errorf("got %+v, %v", got, err)
		}
		got, err = c.GetDocument(ctx, &ssm.GetDocumentInput{Name: name, DocumentVersion: aws.String("2"), DocumentFormat: types.DocumentFormatYaml})
		if err != nil || !strings.Contains(*got.Content, "idleSessionTimeout: \"7\"\n") || got.DocumentFormat != types.DocumentFormatYaml {
			t.Errorf("in YAML %+v, %v", got, err)
		}
		_, err = c.GetDocument(ctx, &ssm.GetDocumentInput{Name: name, DocumentVersion: aws.String("3")})
		wantCode(t, err, "InvalidDocumentVersion")
		_, err = c.GetDocument(ctx, &ssm.GetDocumentInput{Name: aws.String("other")})
		wantCode(t, err, "InvalidDocument", "does not exist")

		_, err = c.DeleteDocument(ctx, &ssm.DeleteDocumentInput{Name: name, DocumentVersion: aws.String("1")})
		wantCode(t, err, "InvalidDocumentOperation")
		def, err := c.UpdateDocumentDefaultVersion(ctx, &ssm.UpdateDocumentDefaultVersionInput{Name: name, DocumentVersion: aws.String("2")})
		if err != nil || *def.Description.DefaultVersion != "2" {
			t.Errorf("default: %+v, %v", def, err)
		}
		versions, err := c.ListDocumentVersions(ctx, &ssm.ListDocumentVersionsInput{Name: name})
		if err != nil || len(versions.DocumentVersions) != 2 || !versions.DocumentVersions[0].IsDefaultVersion || *versions.DocumentVersions[1].VersionName != "first" {
			t.Errorf("versions: %+v, %v", versions, err)
		}

		if _, err := c.AddTagsToResource(ctx, &ssm.AddTagsToResourceInput{ResourceType: types.ResourceTypeForTaggingDocument, ResourceId: name, Tags: []types.Tag{{Key: aws.String("a"), Value: aws.String("b")}}}); err != nil {
			t.Error(err)
		}
		if _, err := c.RemoveTagsFromResource(ctx, &ssm.RemoveTagsFromResourceInput{ResourceType: types.ResourceTypeForTaggingDocument, ResourceId: name, TagKeys: []string{"env"}}); err != nil {
			t.Error(err)
		}
		tags, err := c.ListTagsForResource(ctx, &ssm.ListTagsForResourceInput{ResourceType: types.ResourceTypeForTaggingDocument, ResourceId: name})
		if err != nil || len(tags.TagList) != 1 || *tags.TagList[0].Key != "a" {
			t.Errorf("tags: %+v, %v", tags, err)
		}
		_, err = c.ListTagsForResource(ctx, &ssm.ListTagsForResourceInput{ResourceType: types.ResourceTypeForTaggingDocument, ResourceId: aws.String("other")})
		wantCode(t, err, "InvalidResourceId")

		_, err = c.ModifyDocumentPermission(ctx, &ssm.ModifyDocumentPermissionInput{Name: name, PermissionType: types.DocumentPermissionTypeShare, AccountIdsToAdd: []string{"all", "222222222222"}})
		wantCode(t, err, "ValidationException", "all cannot be among others")
		if _, err := c.ModifyDocumentPermission(ctx, &ssm.ModifyDocumentPermissionInput{Name: name, PermissionType: types.DocumentPermissionTypeShare, AccountIdsToAdd: []string{"222222222222"}}); err != nil {
			t.Error(err)
		}
		shared, err := c.DescribeDocumentPermission(ctx, &ssm.DescribeDocumentPermissionInput{Name: name, PermissionType: types.DocumentPermissionTypeShare})
		if err != nil || !slices.Equal(shared.AccountIds, []string{"222222222222"}) || len(shared.AccountSharingInfoList) != 1 {
			t.Errorf("shared: %+v, %v", shared, err)
		}
		_, err = c.DeleteDocument(ctx, &ssm.DeleteDocumentInput{Name: name})
		wantCode(t, err, "InvalidDocumentOperation", "shared")
		if _, err := c.ModifyDocumentPermission(ctx, &ssm.ModifyDocumentPermissionInput{Name: name, PermissionType: types.DocumentPermissionTypeShare, AccountIdsToRemove: []string{"222222222222"}}); err != nil {
			t.Error(err)
		}
		if _, err := c.DeleteDocument(ctx, &ssm.DeleteDocumentInput{Name: name}); err != nil {
			t.Error(err)
		}
		_, err = c.DescribeDocument(ctx, &ssm.DescribeDocumentInput{Name: name})
		wantCode(t, err, "InvalidDocument")
	})
}

func TestDocumentsThatCannotBe(t *testing.T) {
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		ctx := t.Context()
		c := s.SSM(s.User("ann", everything))
		create := func(name string, kind types.DocumentType, content string) error {
			_, err := c.CreateDocument(ctx, &ssm.CreateDocumentInput{Name: &name, DocumentType: kind, Content: &content})
			return err
		}
		wantCode(t, create("AWS-Mine", types.DocumentTypeSession, *preferences("")), "ValidationException", "reserved")
		wantCode(t, create("amazon-mine", types.DocumentTypeSession, *preferences("")), "ValidationException", "reserved")
		wantCode(t, create("mine", "", *preferences("")), "InvalidDocumentSchemaVersion", "create it with the document type Session")
		wantCode(t, create("mine", types.DocumentTypeAutomation, *preferences("")), "ValidationException", "DocumentType has to be Session or Command")
		wantCode(t, create(shellPreferences, types.DocumentTypeCommand, commandJSON), "ValidationException", "has to be Session")
		wantCode(t, create("mine", types.DocumentTypeSession, commandJSON), "InvalidDocumentSchemaVersion")
		wantCode(t, create("mine", types.DocumentTypeSession, "{}"), "InvalidDocumentSchemaVersion")
		wantCode(t, create("../mine", types.DocumentTypeSession, *preferences("")), "ValidationException", "name")
		wantCode(t, create("mine", types.DocumentTypeSession, strings.Repeat("x", 70_000)), "MaxDocumentSizeExceeded")

		builtin := aws.String("AWS-StartSSHSession")
		_, err := c.UpdateDocument(ctx, &ssm.UpdateDocumentInput{Name: builtin, Content: preferences("")})
		wantCode(t, err, "InvalidDocumentOperation", "from the start")
		_, err = c.DeleteDocument(ctx, &ssm.DeleteDocumentInput{Name: builtin})
		wantCode(t, err, "InvalidDocumentOperation", "from the start")
		d, err := c.DescribeDocument(ctx, &ssm.DescribeDocumentInput{Name: aws.String("arn:aws:ssm:home-1::document/AWS-StartSSHSession")})
		if err != nil || *d.Document.Owner != "Amazon" || len(d.Document.Parameters) != 1 || *d.Document.Parameters[0].DefaultValue != "22" {
			t.Errorf("%+v, %v", d, err)
		}
	})
}

func TestListDocuments(t *testing.T) {
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		ctx := t.Context()
		c := s.SSM(s.User("ann", everything))
		createPreferences(t, c, "")
		list := func(max int32, filters ...types.DocumentKeyValuesFilter) (names []string) {
			t.Helper()
			in := &ssm.ListDocumentsInput{MaxResults: &max, Filters: filters}
			for {
				out, err := c.ListDocuments(ctx, in)
				if err != nil {
					t.Fatal(err)
				}
				for _, d := range out.DocumentIdentifiers {
					names = append(names, *d.Name)
				}
				if in.NextToken = out.NextToken; in.NextToken == nil {
					return names
				}
			}
		}
		filter := func(key string, values ...string) types.DocumentKeyValuesFilter {
			return types.DocumentKeyValuesFilter{Key: &key, Values: values}
		}
		if got := list(3); len(got) != 11 || !slices.IsSorted(got) {
			t.Errorf("all: %v", got)
		}
		if got := list(50, filter("Owner", "Self")); !slices.Equal(got, []string{shellPreferences}) {
			t.Errorf("ours: %v", got)
		}
		if got := list(2, filter("Owner", "Amazon"), filter("Name", "AWS-StartPort")); len(got) != 3 {
			t.Errorf("ports: %v", got)
		}
		if got := list(1, filter("DocumentType", "Command")); !slices.Equal(got, []string{"AWS-RunPowerShellScript", "AWS-RunShellScript"}) {
			t.Errorf("commands: %v", got)
		}
		if got := list(50, filter("DocumentType", "Command"), filter("PlatformTypes", "Windows")); !slices.Equal(got, []string{"AWS-RunPowerShellScript"}) {
			t.Errorf("commands for Windows: %v", got)
		}
		_, err := c.ListDocuments(ctx, &ssm.ListDocumentsInput{Filters: []types.DocumentKeyValuesFilter{filter("Colour", "red")}})
		wantCode(t, err, "InvalidFilterKey")
		_, err = c.ListDocuments(ctx, &ssm.ListDocumentsInput{NextToken: aws.String("made up")})
		wantCode(t, err, "InvalidNextToken")
	})
}

// started starts a session and returns what the node was told, once a client
// has joined.
func started(t *testing.T, s *servertest.Server, node *servertest.Node, told chan wire.AgentTaskPayload, in *ssm.StartSessionInput) wire.AgentTaskPayload {
	t.Helper()
	in.Target = aws.String(node.ID.String())
	out, err := s.SSM(s.Root()).StartSession(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Join(*out.SessionId, *out.TokenValue, "client-1", nil); err != nil {
		t.Fatal(err)
	}
	return <-told
}

// The node is told of a session as its document and parameters have it.
func TestSessionsOfEveryKind(t *testing.T) {
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		node := s.Register("")
		told := make(chan wire.AgentTaskPayload, 1)
		node.Told = func(task wire.AgentTaskPayload) { told <- task }
		node.Online()

		task := started(t, s, node, told, &ssm.StartSessionInput{})
		if task.DocumentName != shellPreferences || task.DocumentContent.SessionType != "Standard_Stream" || task.DocumentContent.SchemaVersion != "1.0" || task.RunAsUser != "" {
			t.Errorf("a shell: %+v", task)
		}
		task = started(t, s, node, told, &ssm.StartSessionInput{DocumentName: aws.String("AWS-StartPortForwardingSessionToRemoteHost"),
			Parameters: map[string][]string{"host": {"db"}, "portNumber": {"5432"}}})
		var port wire.PortProperties
		if err := json.Unmarshal(task.DocumentContent.Properties, &port); err != nil || port != (wire.PortProperties{PortNumber: "5432", Host: "db", LocalPortNumber: "0", Type: "LocalPortForwarding"}) ||
			task.DocumentContent.SessionType != "Port" || len(task.Parameters) != 0 || len(task.DocumentContent.Parameters) != 0 {
			t.Errorf("a port: %s %+v, %v", task.DocumentContent.Properties, task, err)
		}
		task = started(t, s, node, told, &ssm.StartSessionInput{DocumentName: aws.String("arn:aws:ssm:home-1::document/AWS-StartInteractiveCommand"),
			Parameters: map[string][]string{"command": {"top -d 1"}}})
		var command wire.CommandProperties
		if err := json.Unmarshal(task.DocumentContent.Properties, &command); err != nil || command.Linux.Commands != "top -d 1" || task.DocumentContent.SessionType != "InteractiveCommands" || task.DocumentName != "AWS-StartInteractiveCommand" {
			t.Errorf("a command: %s, %v", task.DocumentContent.Properties, err)
		}

		c := s.SSM(s.Root())
		refused := func(document string, parameters map[string][]string) error {
			_, err := c.StartSession(t.Context(), &ssm.StartSessionInput{Target: aws.String(node.ID.String()), DocumentName: &document, Parameters: parameters})
			return err
		}
		wantCode(t, refused("AWS-StartSSHSession", map[string][]string{"portNumber": {"70000"}}), "InvalidParameters", "does not match")
		wantCode(t, refused("AWS-StartSSHSession", map[string][]string{"port": {"22"}}), "InvalidParameters", `no parameter "port"`)
		wantCode(t, refused("AWS-StartInteractiveCommand", nil), "InvalidParameters", "command is missing")
		wantCode(t, refused("nothing", nil), "InvalidDocument", "does not exist")

		// A script of 60 KB reaches the node, also if every byte of it is escaped; one that no
		// message holds is refused, and the next session starts.
		script := strings.Repeat("if [ 1 -lt 2 ] && echo 'a > b' <&-; then :; fi\n", 1250)
		for _, text := range []string{script, strings.Repeat("<", 12_600), "ls"} {
			task = started(t, s, node, told, &ssm.StartSessionInput{DocumentName: aws.String("AWS-StartInteractiveCommand"), Parameters: map[string][]string{"command": {text}}})
			if err := json.Unmarshal(task.DocumentContent.Properties, &command); err != nil || command.Linux.Commands != text {
				t.Errorf("a command of %d bytes arrives as %d, %v", len(text), len(command.Linux.Commands), err)
			}
			wantCode(t, refused("AWS-StartInteractiveCommand", map[string][]string{"command": {strings.Repeat("\"", 25_000)}}), "InvalidParameters", "may take 262144")
		}

		old := s.Register("")
		old.Version = "3.1.1000.0"
		old.Online()
		_, err := c.StartSession(t.Context(), &ssm.StartSessionInput{Target: aws.String(old.ID.String()), DocumentName: aws.String("AWS-StartPortForwardingSessionToRemoteHost"), Parameters: map[string][]string{"host": {"db"}}})
		wantCode(t, err, "TargetNotConnected", "version 3.1.1000.0", "3.1.1374.0")
	})
}

// Preferences are the latest version's, and hold for every kind of session.
func TestPreferencesAreObeyed(t *testing.T) {
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		ctx := t.Context()
		c := s.SSM(s.Root())
		node := s.Register("")
		node.Online()
		createPreferences(t, c, `"idleSessionTimeout":"20"`)
		if _, err := c.UpdateDocument(ctx, &ssm.UpdateDocumentInput{Name: aws.String(shellPreferences), DocumentVersion: aws.String("$LATEST"), Content: preferences(`"idleSessionTimeout":"3","maxSessionDuration":"10"`)}); err != nil {
			t.Fatal(err)
		}
		start := func() (string, *servertest.Person) {
			t.Helper()
			out, err := c.StartSession(ctx, &ssm.StartSessionInput{Target: aws.String(node.ID.String())})
			if err != nil {
				t.Fatal(err)
			}
			p, err := s.Join(*out.SessionId, *out.TokenValue, "client-1", nil)
			if err != nil {
				t.Fatal(err)
			}
			return *out.SessionId, p
		}
		_, quiet := start()
		begun := time.Now()
		if closed := <-quiet.Closed; !strings.Contains(closed.Output, "idle for 3m") || time.Since(begun) > 4*time.Minute {
			t.Errorf("after %v: %q", time.Since(begun), closed.Output)
		}
		_, busy := start()
		begun = time.Now()
		for len(busy.Closed) == 0 && time.Since(begun) < 20*time.Minute {
			busy.Stream.Send(ctx, wire.KindOutput, []byte("x"))
			time.Sleep(time.Minute)
		}
		if closed := <-busy.Closed; !strings.Contains(closed.Output, "maximum duration of 10m") {
			t.Errorf("after %v: %q", time.Since(begun), closed.Output)
		}
		list, err := c.DescribeSessions(ctx, &ssm.DescribeSessionsInput{State: types.SessionStateHistory})
		if err != nil || aws.ToString(list.Sessions[0].MaxSessionDuration) != "10" {
			t.Errorf("history: %+v, %v", list, err)
		}
	})
}

// The caller's tag names the user that a session runs as, before the preferences do;
// if neither names one, the session is refused.
func TestRunAs(t *testing.T) {
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		ctx := t.Context()
		admin := s.SSM(s.Root())
		node := s.Register("")
		told := make(chan wire.AgentTaskPayload, 1)
		node.Told = func(task wire.AgentTaskPayload) { told <- task }
		node.Online()
		createPreferences(t, admin, `"runAsEnabled":true`)
		ann, bob, eve := s.User("ann", everything), s.User("bob", everything), s.User("eve", everything)
		for name, user := range map[string]string{"ann": "ann_unix", "eve": "x;reboot"} {
			if err := s.Store.IAM().Tag(ctx, store.User(name), map[string]string{"SSMSessionRunAs": user}); err != nil {
				t.Fatal(err)
			}
		}
		start := func(c *ssm.Client) error {
			_, err := c.StartSession(ctx, &ssm.StartSessionInput{Target: aws.String(node.ID.String())})
			synctest.Wait()
			return err
		}
		if err := start(s.SSM(ann)); err != nil {
			t.Fatal(err)
		}
		if task := <-told; task.RunAsUser != "ann_unix" || !task.DocumentContent.Inputs.RunAsEnabled {
			t.Errorf("ann's: %+v", task)
		}
		on, err := s.Store.Sessions().Unfinished(ctx)
		if err != nil || len(on) != 1 || on[0].RunAs != "ann_unix" || on[0].Kind != "Standard_Stream" {
			t.Errorf("stored: %+v, %v", on, err)
		}
		wantCode(t, start(s.SSM(bob)), "ValidationException", "neither by the tag SSMSessionRunAs nor by the preference")
		wantCode(t, start(s.SSM(eve)), "ValidationException", "no user's name")

		update := func(inputs string) {
			t.Helper()
			if _, err := admin.UpdateDocument(ctx, &ssm.UpdateDocumentInput{Name: aws.String(shellPreferences), DocumentVersion: aws.String("$LATEST"), Content: preferences(inputs)}); err != nil {
				t.Fatal(err)
			}
		}
		update(`"runAsEnabled":true,"runAsDefaultUser":"web"`)
		if err := start(s.SSM(bob)); err != nil {
			t.Fatal(err)
		}
		if task := <-told; task.RunAsUser != "web" {
			t.Errorf("bob's: %+v", task)
		}
		update(`"runAsEnabled":true,"runAsDefaultUser":"root"`)
		wantCode(t, start(s.SSM(bob)), "ValidationException", "names root")
		update(`"runAsEnabled":false,"runAsDefaultUser":"other"`)
		if err := start(s.SSM(ann)); err != nil {
			t.Fatal(err)
		}
		if task := <-told; task.RunAsUser != "" {
			t.Errorf("with Run As off: %+v", task)
		}
	})
}

// A document is a resource of its own: to be named it must be allowed, and with
// ssm:SessionDocumentAccessCheck it must be even if it is not named.
func TestDocumentsAreAuthorized(t *testing.T) {
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		ctx := t.Context()
		node := s.Register("")
		node.Online()
		policy := func(document, check string) string {
			return `{"Version":"2012-10-17","Statement":[
				{"Effect":"Allow","Action":"ssm:StartSession","Resource":"arn:aws:ssm:*:*:managed-instance/*"` + check + `},
				{"Effect":"Allow","Action":"ssm:StartSession","Resource":"arn:aws:ssm:*:*:document/` + document + `"}]}`
		}
		const check = `,"Condition":{"BoolIfExists":{"ssm:SessionDocumentAccessCheck":"true"}}`
		start := func(name, policy, document string) error {
			in := &ssm.StartSessionInput{Target: aws.String(node.ID.String())}
			if document != "" {
				in.DocumentName = &document
			}
			_, err := s.SSM(s.User(name, policy)).StartSession(ctx, in)
			return err
		}
		if err := start("ann", policy("AWS-StartSSHSession", check), "AWS-StartSSHSession"); err != nil {
			t.Errorf("a document that is allowed: %v", err)
		}
		wantCode(t, start("bob", policy("AWS-StartSSHSession", check), ""), "AccessDeniedException")
		wantCode(t, start("cyd", policy("AWS-StartSSHSession", ""), "AWS-StartPortForwardingSession"), "AccessDeniedException", "document/AWS-StartPortForwardingSession")
		if err := start("dan", policy("AWS-StartSSHSession", ""), ""); err != nil {
			t.Errorf("no document, and no check: %v", err)
		}

		reader := s.SSM(s.User("eve", `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":["ssm:GetDocument","ssm:CreateDocument"],"Resource":"*","Condition":{"StringEquals":{"ssm:DocumentType":"Session"}}}}`))
		if _, err := reader.GetDocument(ctx, &ssm.GetDocumentInput{Name: aws.String("AWS-StartSSHSession")}); err != nil {
			t.Error(err)
		}
		_, err := reader.DeleteDocument(ctx, &ssm.DeleteDocumentInput{Name: aws.String("mine")})
		wantCode(t, err, "AccessDeniedException", "arn:aws:ssm:home-1:000000000000:document/mine")
		for _, call := range []func(context.Context) error{
			func(ctx context.Context) error {
				_, err := reader.UpdateDocument(ctx, &ssm.UpdateDocumentInput{Name: aws.String("mine"), Content: preferences("")})
				return err
			},
			func(ctx context.Context) error {
				_, err := reader.ListDocuments(ctx, &ssm.ListDocumentsInput{})
				return err
			},
			func(ctx context.Context) error {
				_, err := reader.ModifyDocumentPermission(ctx, &ssm.ModifyDocumentPermissionInput{Name: aws.String("mine"), PermissionType: types.DocumentPermissionTypeShare})
				return err
			},
		} {
			wantCode(t, call(ctx), "AccessDeniedException")
		}
	})
}

const commandJSON = `{"schemaVersion":"2.2","description":"says hi","parameters":{"who":{"type":"String","default":"all"}},
	"mainSteps":[{"action":"aws:runShellScript","name":"hi","inputs":{"runCommand":["echo {{ who }}"]}}]}`

// A document of type Command is kept, shown and listed as one of a session is, stays
// of its type, and starts no session.
func TestCommandDocuments(t *testing.T) {
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		ctx := t.Context()
		c := s.SSM(s.User("ann", everything))
		name := aws.String("greet")
		// As public suites have it (moto, tests/test_ssm), with every type of parameter.
		const yaml = "schemaVersion: '2.2'\ndescription: Sample Yaml\nparameters:\n" +
			"  P1: {type: Integer, default: 3, description: Command Duration., allowedValues: [1, 2, 3, 4]}\n" +
			"  P2: {type: String, default: def, description: , allowedValues: [abc, def]}\n" +
			"  P3: {type: Boolean, default: false, description: A boolean, allowedValues: [True, False]}\n" +
			"  P4: {type: StringList, default: [abc, def], description: A string list}\n" +
			"  P5: {type: StringMap, default: {NotificationType: Command, NotificationEvents: [Failed]}, description: A string map}\n" +
			"  P6: {type: MapList, default: [{DeviceName: /dev/sda1, Ebs: {VolumeSize: '50'}}], description: A map list}\n" +
			"mainSteps:\n- action: aws:runShellScript\n  name: sampleCommand\n  inputs:\n    runCommand: [echo hi]\n"
		made, err := c.CreateDocument(ctx, &ssm.CreateDocumentInput{Name: name, Content: aws.String(yaml), DocumentFormat: types.DocumentFormatYaml})
		if err != nil {
			t.Fatal(err)
		}
		d := made.DocumentDescription
		if d.DocumentType != types.DocumentTypeCommand || *d.SchemaVersion != "2.2" || !slices.Equal(d.PlatformTypes, []types.PlatformType{types.PlatformTypeLinux, types.PlatformTypeMacos}) || *d.Description != "Sample Yaml" {
			t.Errorf("made: %+v", d)
		}
		want := []string{
			"P1 Integer 3", "P2 String def", "P3 Boolean false", `P4 StringList ["abc","def"]`,
			`P5 StringMap {"NotificationEvents":["Failed"],"NotificationType":"Command"}`, `P6 MapList [{"DeviceName":"/dev/sda1","Ebs":{"VolumeSize":"50"}}]`,
		}
		var got []string
		for _, p := range d.Parameters {
			got = append(got, *p.Name+" "+string(p.Type)+" "+*p.DefaultValue)
		}
		if !slices.Equal(got, want) {
			t.Errorf("parameters: %q", got)
		}
		out, err := c.GetDocument(ctx, &ssm.GetDocumentInput{Name: name})
		if err != nil || out.DocumentType != types.DocumentTypeCommand || out.DocumentFormat != types.DocumentFormatJson || !json.Valid([]byte(*out.Content)) {
			t.Errorf("as JSON: %+v, %v", out, err)
		}
		if out, err = c.GetDocument(ctx, &ssm.GetDocumentInput{Name: name, DocumentFormat: types.DocumentFormatYaml}); err != nil || *out.Content != yaml {
			t.Errorf("as YAML: %+v, %v", out, err)
		}
		updated, err := c.UpdateDocument(ctx, &ssm.UpdateDocumentInput{Name: name, Content: aws.String(commandJSON), DocumentVersion: aws.String("$LATEST")})
		if err != nil || *updated.DocumentDescription.DocumentVersion != "2" || updated.DocumentDescription.DocumentType != types.DocumentTypeCommand {
			t.Errorf("updated: %+v, %v", updated, err)
		}
		_, err = c.UpdateDocument(ctx, &ssm.UpdateDocumentInput{Name: name, Content: preferences(""), DocumentVersion: aws.String("$LATEST")})
		wantCode(t, err, "InvalidDocumentSchemaVersion")
		if versions, err := c.ListDocumentVersions(ctx, &ssm.ListDocumentVersionsInput{Name: name}); err != nil || len(versions.DocumentVersions) != 2 {
			t.Errorf("versions: %+v, %v", versions, err)
		}
		if builtin, err := c.DescribeDocument(ctx, &ssm.DescribeDocumentInput{Name: aws.String("AWS-RunShellScript")}); err != nil ||
			builtin.Document.DocumentType != types.DocumentTypeCommand || *builtin.Document.SchemaVersion != "1.2" || len(builtin.Document.Parameters) != 3 || *builtin.Document.Owner != "Amazon" {
			t.Errorf("built in: %+v, %v", builtin, err)
		}

		node := s.Register("")
		node.Online()
		for _, name := range []string{"greet", "AWS-RunShellScript", "AWS-RunPowerShellScript"} {
			_, err = c.StartSession(ctx, &ssm.StartSessionInput{Target: aws.String(node.ID.String()), DocumentName: &name})
			wantCode(t, err, "InvalidDocument", "Document type: 'Command' is not supported. Only type: 'Session' is supported for Session Manager.")
		}

		// Policy knows which type it is.
		eve := s.SSM(s.User("eve", `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":["ssm:*Document"],"Resource":"*","Condition":{"StringEquals":{"ssm:DocumentType":"Session"}}}}`))
		_, err = eve.GetDocument(ctx, &ssm.GetDocumentInput{Name: name})
		wantCode(t, err, "AccessDeniedException")
		_, err = eve.GetDocument(ctx, &ssm.GetDocumentInput{Name: aws.String("AWS-RunShellScript")})
		wantCode(t, err, "AccessDeniedException")
		_, err = eve.CreateDocument(ctx, &ssm.CreateDocumentInput{Name: aws.String("other"), Content: aws.String(commandJSON)})
		wantCode(t, err, "AccessDeniedException")
		if _, err = eve.CreateDocument(ctx, &ssm.CreateDocumentInput{Name: aws.String("other"), DocumentType: types.DocumentTypeSession, Content: preferences("")}); err != nil {
			t.Error(err)
		}
		if _, err = c.DeleteDocument(ctx, &ssm.DeleteDocumentInput{Name: name}); err != nil {
			t.Error(err)
		}
	})
}

// Logs that would not be sent are not promised: a document that names a place for
// them is refused, and one that was stored earlier starts sessions and says so.
func TestLogsElsewhere(t *testing.T) {
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		ctx := t.Context()
		c := s.SSM(s.User("ann", everything))
		for inputs, word := range map[string]string{
			`"s3BucketName":"logs-of-ours","s3EncryptionEnabled":true`: "logs-of-ours",
			`"cloudWatchLogGroupName":"a-group"`:                       "cloudWatchLogGroupName",
		} {
			_, err := c.CreateDocument(ctx, &ssm.CreateDocumentInput{Name: aws.String("Other"), DocumentType: types.DocumentTypeSession, Content: preferences(inputs)})
			wantCode(t, err, "InvalidDocumentContent", word, "not sent anywhere yet")
		}
		// As AWS's console writes it.
		createPreferences(t, c, `"s3BucketName":"","s3KeyPrefix":"","s3EncryptionEnabled":true,"cloudWatchLogGroupName":"","cloudWatchEncryptionEnabled":true,"cloudWatchStreamingEnabled":true`)
		_, err := c.UpdateDocument(ctx, &ssm.UpdateDocumentInput{Name: aws.String(shellPreferences), DocumentVersion: aws.String("$LATEST"), Content: preferences(`"s3BucketName":"b"`)})
		wantCode(t, err, "InvalidDocumentContent", "Leave s3BucketName empty")

		node := s.Register("")
		node.Online()
		start := func() *servertest.Person {
			t.Helper()
			out, err := c.StartSession(ctx, &ssm.StartSessionInput{Target: aws.String(node.ID.String())})
			if err != nil {
				t.Fatal(err)
			}
			p, err := s.Join(*out.SessionId, *out.TokenValue, "client-1", nil, wire.CapNotices)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			return p
		}
		if p := start(); len(p.Notices) > 0 {
			t.Errorf("of a document without logs: %q", <-p.Notices)
		}
		_, err = s.Store.Documents().Update(ctx, sallyport.DocumentVersion{
			Document: shellPreferences, Format: "JSON", Content: *preferences(`"cloudWatchLogGroupName":"of-before"`), Created: time.Now(),
		}, "$LATEST")
		if err != nil {
			t.Fatal(err)
		}
		p := start()
		if len(p.Notices) == 0 {
			t.Fatal("nothing was said of logs that go nowhere")
		}
		if said := <-p.Notices; !strings.Contains(said, `"of-before" as cloudWatchLogGroupName`) {
			t.Errorf("told %q", said)
		}
	})
}

// A document that an earlier version stored and this one cannot read stops nothing
// but the sessions that it is for. The error names it and says what to do; it is
// listed and shown, and a new version of it starts sessions again.
func TestStoredDocumentCannotBeRead(t *testing.T) {
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		ctx := t.Context()
		c := s.SSM(s.User("ann", everything))
		node := s.Register("")
		node.Online()
		good := preferences("")
		bad := `{"schemaVersion":"1.0","sessionType":"Standard_Stream","sessionType":"Standard_Stream","inputs":{}}`
		for _, name := range []string{"Mine", shellPreferences} {
			if err := s.Store.Documents().Create(ctx, sallyport.DocumentVersion{Document: name, Format: "JSON", Content: bad, Created: time.Now()}, nil); err != nil {
				t.Fatal(err)
			}
		}
		start := func(name string) error {
			in := &ssm.StartSessionInput{Target: aws.String(node.ID.String())}
			if name != "" {
				in.DocumentName = &name
			}
			out, err := c.StartSession(ctx, in)
			if err == nil {
				_, err = c.TerminateSession(ctx, &ssm.TerminateSessionInput{SessionId: out.SessionId})
			}
			return err
		}
		const why = `The document is not JSON: it has the member "sessionType" twice.`
		for _, name := range []string{"", "Mine", "AWS-StartNonInteractiveCommand"} {
			wantCode(t, start(name), "InvalidDocumentContent", "Document SSM-SessionManagerRunShell, version 1, holds the account's preferences and cannot be read, so no session starts. ",
				why, "Mend it with UpdateDocument, or delete it to have the defaults.")
		}
		list, err := c.ListDocuments(ctx, &ssm.ListDocumentsInput{Filters: []types.DocumentKeyValuesFilter{{Key: aws.String("Owner"), Values: []string{"Self"}}}})
		if err != nil || len(list.DocumentIdentifiers) != 2 {
			t.Fatalf("listed are %v, %v", list, err)
		}
		shown, err := c.GetDocument(ctx, &ssm.GetDocumentInput{Name: aws.String(shellPreferences)})
		if err != nil || *shown.Content != bad || shown.Status != types.DocumentStatusFailed || !strings.Contains(aws.ToString(shown.StatusInformation), why) {
			t.Errorf("shown is %+v, %v", shown, err)
		}
		_, err = c.GetDocument(ctx, &ssm.GetDocumentInput{Name: aws.String(shellPreferences), DocumentFormat: types.DocumentFormatYaml})
		wantCode(t, err, "InvalidDocumentContent", why)
		described, err := c.DescribeDocument(ctx, &ssm.DescribeDocumentInput{Name: aws.String("Mine")})
		if err != nil || described.Document.Status != types.DocumentStatusFailed || !strings.Contains(aws.ToString(described.Document.StatusInformation), "Document Mine, version 1,") {
			t.Errorf("described is %+v, %v", described, err)
		}

		if _, err := c.UpdateDocument(ctx, &ssm.UpdateDocumentInput{Name: aws.String(shellPreferences), DocumentVersion: aws.String("$LATEST"), Content: good}); err != nil {
			t.Fatal(err)
		}
		if err := start(""); err != nil {
			t.Error(err)
		}
		wantCode(t, start("Mine"), "InvalidDocumentContent", "Document Mine, version 1, cannot be read, so no session starts with it. ", why, "make the new version its default")
		if _, err := c.UpdateDocument(ctx, &ssm.UpdateDocumentInput{Name: aws.String("Mine"), DocumentVersion: aws.String("$LATEST"), Content: good}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.UpdateDocumentDefaultVersion(ctx, &ssm.UpdateDocumentDefaultVersionInput{Name: aws.String("Mine"), DocumentVersion: aws.String("2")}); err != nil {
			t.Fatal(err)
		}
		if err := start("Mine"); err != nil {
			t.Error(err)
		}
	})
}
