package iam_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/sallyport/sallyport/internal/need"
)

// The stock AWS CLI is a client like any other.
func TestStockCLI(t *testing.T) {
	program := need.Program(t, "aws", "awscli")
	d := open(t)

	// run runs the CLI with credentials and returns what it prints.
	run := func(c aws.Credentials, args ...string) (out, errors string, ok bool) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, append(args, "--endpoint-url", d.url, "--output", "json")...)
		home := t.TempDir()
		cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(strings.ToUpper(v), "AWS_") })
		cmd.Env = append(cmd.Env,
			"HOME="+home, "USERPROFILE="+home, "AWS_PAGER=", "AWS_REGION=home-1", "AWS_DEFAULT_REGION=home-1", // the first is read by version 2, the second by version 1
			"AWS_MAX_ATTEMPTS=1", "AWS_EC2_METADATA_DISABLED=true", "NO_PROXY=*",
			"AWS_ACCESS_KEY_ID="+c.AccessKeyID, "AWS_SECRET_ACCESS_KEY="+c.SecretAccessKey)
		if c.SessionToken != "" {
			cmd.Env = append(cmd.Env, "AWS_SESSION_TOKEN="+c.SessionToken)
		}
		var stdout, stderr strings.Builder
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		return stdout.String(), stderr.String(), err == nil
	}
	// read runs it as root and reads a member of the answer: "User.Arn".
	read := func(c aws.Credentials, member string, args ...string) any {
		t.Helper()
		out, errors, ok := run(c, args...)
		if !ok {
			t.Fatalf("aws %s: %s", strings.Join(args, " "), errors)
		}
		if member == "" {
			return nil
		}
		var v any
		d.must(json.Unmarshal([]byte(out), &v))
		for name := range strings.SplitSeq(member, ".") {
			switch at := v.(type) {
			case map[string]any:
				v = at[name]
			case []any:
				v = nil
				if len(at) > 0 {
					v = at[0].(map[string]any)[name]
				}
			}
		}
		return v
	}
	want := func(got any, wanted string) {
		t.Helper()
		if got != wanted {
			t.Errorf("got %v, want %s", got, wanted)
		}
	}

	want(read(d.root, "Arn", "sts", "get-caller-identity"), "arn:aws:iam::"+account+":root")
	want(read(d.root, "User.Arn", "iam", "get-user"), "arn:aws:iam::"+account+":root")
	want(read(d.root, "User.Arn", "iam", "create-user", "--user-name", "ann", "--path", "/team/"), "arn:aws:iam::"+account+":user/team/ann")
	id := read(d.root, "AccessKey.AccessKeyId", "iam", "create-access-key", "--user-name", "ann").(string)
	read(d.root, "", "iam", "delete-access-key", "--user-name", "ann", "--access-key-id", id)
	out, errors, ok := run(d.root, "iam", "create-access-key", "--user-name", "ann")
	if !ok {
		t.Fatal(errors)
	}
	var key struct {
		AccessKey struct{ AccessKeyID, SecretAccessKey string }
	}
	d.must(json.Unmarshal([]byte(out), &key))
	ann := aws.Credentials{AccessKeyID: key.AccessKey.AccessKeyID, SecretAccessKey: key.AccessKey.SecretAccessKey}
	want(read(ann, "Arn", "sts", "get-caller-identity"), "arn:aws:iam::"+account+":user/team/ann")

	_, errors, ok = run(ann, "iam", "list-users")
	if refusal := "(AccessDenied) when calling the ListUsers operation: User: arn:aws:iam::" + account + ":user/team/ann is not authorized to perform: iam:ListUsers on resource: *"; ok || !strings.Contains(errors, refusal) {
		t.Errorf("got %s, want %s", errors, refusal)
	}
	_, errors, ok = run(d.root, "iam", "get-user", "--user-name", "nobody")
	if refusal := "(NoSuchEntity) when calling the GetUser operation: The user with name nobody cannot be found."; ok || !strings.Contains(errors, refusal) {
		t.Errorf("got %s, want %s", errors, refusal)
	}

	document := allowing("ssm:*", "iam:List*")
	read(d.root, "", "iam", "put-user-policy", "--user-name", "ann", "--policy-name", "own", "--policy-document", document)
	want(read(d.root, "PolicyDocument.Version", "iam", "get-user-policy", "--user-name", "ann", "--policy-name", "own"), "2012-10-17")
	want(read(ann, "Users.UserName", "iam", "list-users"), "ann")
	arn := read(d.root, "Policy.Arn", "iam", "create-policy", "--policy-name", "reading", "--policy-document", allowing("sts:*")).(string)
	read(d.root, "", "iam", "attach-user-policy", "--user-name", "ann", "--policy-arn", arn)
	want(read(d.root, "AttachedPolicies.PolicyName", "iam", "list-attached-user-policies", "--user-name", "ann"), "reading")
	want(read(d.root, "PolicyVersion.Document.Version", "iam", "get-policy-version", "--policy-arn", arn, "--version-id", "v1"), "2012-10-17")
	read(d.root, "", "iam", "tag-user", "--user-name", "ann", "--tags", "Key=team,Value=red")
	want(read(d.root, "User.Tags.Value", "iam", "get-user", "--user-name", "ann"), "red")
	read(d.root, "", "iam", "untag-user", "--user-name", "ann", "--tag-keys", "team")
	want(read(d.root, "Role.AssumeRolePolicyDocument.Version", "iam", "create-role", "--role-name", "admin", "--assume-role-policy-document", someTrust, "--tags", "Key=a,Value=b"), "2012-10-17")
	read(d.root, "", "iam", "attach-role-policy", "--role-name", "admin", "--policy-arn", adminPolicy)
	want(read(d.root, "EvaluationResults.EvalDecision", "iam", "simulate-principal-policy", "--policy-source-arn", "arn:aws:iam::"+account+":user/team/ann", "--action-names", "ssm:StartSession"), "allowed")

	out, errors, ok = run(ann, "sts", "assume-role", "--role-arn", "arn:aws:iam::"+account+":role/admin", "--role-session-name", "cli", "--duration-seconds", "900")
	if !ok {
		t.Fatal(errors)
	}
	var session struct {
		Credentials struct{ AccessKeyID, SecretAccessKey, SessionToken string }
	}
	d.must(json.Unmarshal([]byte(out), &session))
	admin := aws.Credentials{AccessKeyID: session.Credentials.AccessKeyID, SecretAccessKey: session.Credentials.SecretAccessKey, SessionToken: session.Credentials.SessionToken}
	want(read(admin, "Arn", "sts", "get-caller-identity"), "arn:aws:sts::"+account+":assumed-role/admin/cli")
	want(read(admin, "Role.RoleName", "iam", "get-role", "--role-name", "admin"), "admin")
	if token := read(ann, "Credentials.SessionToken", "sts", "get-session-token"); token == nil {
		t.Error("there is no session token")
	}
}
