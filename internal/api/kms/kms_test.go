package kms_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	awskms "github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/servertest"
)

// A house is a server in memory, called by the SDK's own client.
type house struct {
	*testing.T
	*servertest.Server
	root *awskms.Client
}

func open(t *testing.T) *house {
	t.Helper()
	s := servertest.Start(t, nil)
	return &house{t, s, awskms.NewFromConfig(s.AWS(s.Root()))}
}

// as is a client of a user with a policy: "" is a user without one.
func (h *house) as(name, policy string) *awskms.Client {
	h.Helper()
	return awskms.NewFromConfig(h.AWS(h.User(name, policy)))
}

// key makes a key with a policy; "" is the default one.
func (h *house) key(policy string) *types.KeyMetadata {
	h.Helper()
	in := &awskms.CreateKeyInput{}
	if policy != "" {
		in.Policy = &policy
	}
	out, err := h.root.CreateKey(h.Context(), in)
	h.must(err)
	return out.KeyMetadata
}

func (h *house) must(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

// refused wants an error of KMS's, with these words in it.
func (h *house) refused(err error, code, words string) {
	h.Helper()
	e, ok := errors.AsType[smithy.APIError](err)
	if !ok || e.ErrorCode() != code || !strings.Contains(e.ErrorMessage(), words) {
		h.Errorf("error is %v, want %s with %q", err, code, words)
	}
}

func allowing(actions, resource string) string {
	return `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":` + actions + `,"Resource":"` + resource + `"}}`
}

var session = map[string]string{"aws:ssm:SessionId": "ann-0123456789abcdef0", "aws:ssm:TargetId": "mi-0123456789abcdef0"}

// What is to be tried alone is checked as all is, and not done.
func TestDryRun(t *testing.T) {
	h := open(t)
	ctx, dry := t.Context(), aws.Bool(true)
	made, err := h.root.CreateKey(ctx, &awskms.CreateKeyInput{})
	h.must(err)
	key, missing := made.KeyMetadata.KeyId, aws.String("11111111-2222-3333-4444-555555555555")
	blob := h.seal(*key)
	ignore := []types.DryRunModifierType{types.DryRunModifierTypeIgnoreCiphertext}
	calls := func(c *awskms.Client, key *string) map[string]func() error {
		return map[string]func() error{
			"Encrypt": func() error {
				_, err := c.Encrypt(ctx, &awskms.EncryptInput{KeyId: key, Plaintext: []byte("x"), DryRun: dry})
				return err
			},
			"GenerateDataKey": func() error {
				_, err := c.GenerateDataKey(ctx, &awskms.GenerateDataKeyInput{KeyId: key, KeySpec: types.DataKeySpecAes256, DryRun: dry})
				return err
			},
			"GenerateDataKeyWithoutPlaintext": func() error {
				_, err := c.GenerateDataKeyWithoutPlaintext(ctx, &awskms.GenerateDataKeyWithoutPlaintextInput{KeyId: key, KeySpec: types.DataKeySpecAes256, DryRun: dry})
				return err
			},
			"Decrypt": func() error {
				_, err := c.Decrypt(ctx, &awskms.DecryptInput{KeyId: key, CiphertextBlob: blob, DryRun: dry})
				return err
			},
			"Decrypt without a ciphertext": func() error {
				_, err := c.Decrypt(ctx, &awskms.DecryptInput{KeyId: key, DryRun: dry, DryRunModifiers: ignore})
				return err
			},
		}
	}
	ann := h.as("ann", allowing(`"kms:DescribeKey"`, "*"))
	for name, call := range calls(h.root, key) {
		t.Log(name)
		h.refused(call(), "DryRunOperationException", "The request would have succeeded")
		h.refused(calls(ann, key)[name](), "AccessDeniedException", "kms:")
		h.refused(calls(h.root, missing)[name](), "NotFoundException", "")
	}
	_, err = h.root.DisableKey(ctx, &awskms.DisableKeyInput{KeyId: key})
	h.must(err)
	for name, call := range calls(h.root, key) {
		t.Log(name)
		h.refused(call(), "DisabledException", "")
	}
	_, err = h.root.Decrypt(ctx, &awskms.DecryptInput{KeyId: key, DryRunModifiers: ignore})
	h.refused(err, "ValidationException", "DryRun")
	_, err = h.root.Decrypt(ctx, &awskms.DecryptInput{DryRun: dry, DryRunModifiers: ignore})
	h.refused(err, "ValidationException", "KeyId")
}

func TestTheLifeOfAKey(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	made, err := h.root.CreateKey(ctx, &awskms.CreateKeyInput{
		Description: aws.String("sessions"), Tags: []types.Tag{{TagKey: aws.String("env"), TagValue: aws.String("lab")}},
	})
	h.must(err)
	k := made.KeyMetadata
	if *k.Arn != "arn:aws:kms:home-1:000000000000:key/"+*k.KeyId || !k.Enabled || k.KeyState != types.KeyStateEnabled || k.Origin != types.OriginTypeAwsKms ||
		k.KeySpec != types.KeySpecSymmetricDefault || *k.Description != "sessions" || time.Since(*k.CreationDate) > time.Minute {
		t.Errorf("made %+v", k)
	}
	_, err = h.root.CreateAlias(ctx, &awskms.CreateAliasInput{AliasName: aws.String("alias/sessions"), TargetKeyId: k.KeyId})
	h.must(err)

	// By any of its names.
	for _, name := range []string{*k.KeyId, *k.Arn, "alias/sessions", "arn:aws:kms:home-1:000000000000:alias/sessions"} {
		got, err := h.root.DescribeKey(ctx, &awskms.DescribeKeyInput{KeyId: &name})
		h.must(err)
		if *got.KeyMetadata.Arn != *k.Arn {
			t.Errorf("%s is %s", name, *got.KeyMetadata.Arn)
		}
		out, err := h.root.GenerateDataKey(ctx, &awskms.GenerateDataKeyInput{KeyId: &name, NumberOfBytes: aws.Int32(64), EncryptionContext: session})
		h.must(err)
		if *out.KeyId != *k.Arn || len(out.Plaintext) != 64 || bytes.Contains(out.CiphertextBlob, out.Plaintext[:16]) {
			t.Errorf("a data key of %s: %+v", name, out)
		}
		for _, with := range []*string{nil, &name} {
			back, err := h.root.Decrypt(ctx, &awskms.DecryptInput{CiphertextBlob: out.CiphertextBlob, EncryptionContext: session, KeyId: with})
			h.must(err)
			if !bytes.Equal(back.Plaintext, out.Plaintext) || *back.KeyId != *k.Arn {
				t.Errorf("opened %x", back.Plaintext)
			}
		}
	}

	// Disabled, enabled, scheduled to go, and saved from it.
	blob := h.seal(*k.KeyId)
	use := func() error {
		_, err := h.root.Decrypt(ctx, &awskms.DecryptInput{CiphertextBlob: blob})
		return err
	}
	_, err = h.root.DisableKey(ctx, &awskms.DisableKeyInput{KeyId: k.KeyId})
	h.must(err)
	h.refused(use(), "DisabledException", *k.Arn+" is disabled.")
	_, err = h.root.Encrypt(ctx, &awskms.EncryptInput{KeyId: k.KeyId, Plaintext: []byte("x")})
	h.refused(err, "DisabledException", "")
	_, err = h.root.EnableKey(ctx, &awskms.EnableKeyInput{KeyId: k.KeyId})
	h.must(err)
	h.must(use())
	_, err = h.root.ScheduleKeyDeletion(ctx, &awskms.ScheduleKeyDeletionInput{KeyId: k.KeyId, PendingWindowInDays: aws.Int32(6)})
	h.refused(err, "ValidationException", "7")
	gone, err := h.root.ScheduleKeyDeletion(ctx, &awskms.ScheduleKeyDeletionInput{KeyId: k.KeyId, PendingWindowInDays: aws.Int32(7)})
	h.must(err)
	if days := time.Until(*gone.DeletionDate).Hours() / 24; gone.KeyState != types.KeyStatePendingDeletion || days < 6.9 || days > 7 {
		t.Errorf("scheduled: %+v", gone)
	}
	h.refused(use(), "KMSInvalidStateException", "pending deletion")
	_, err = h.root.EnableKey(ctx, &awskms.EnableKeyInput{KeyId: k.KeyId})
	h.refused(err, "KMSInvalidStateException", "pending deletion")
	_, err = h.root.CancelKeyDeletion(ctx, &awskms.CancelKeyDeletionInput{KeyId: k.KeyId})
	h.must(err)
	h.refused(use(), "DisabledException", "")
	_, err = h.root.EnableKey(ctx, &awskms.EnableKeyInput{KeyId: k.KeyId})
	h.must(err)
	h.must(use())

	// The server comes and goes, and keys stay what they are.
	h.Restart()
	h.root = awskms.NewFromConfig(h.AWS(h.Root()))
	h.must(use())
	tags, err := h.root.ListResourceTags(ctx, &awskms.ListResourceTagsInput{KeyId: k.KeyId})
	h.must(err)
	if len(tags.Tags) != 1 || *tags.Tags[0].TagValue != "lab" {
		t.Errorf("tags: %+v", tags.Tags)
	}
}

func (h *house) seal(key string) []byte {
	h.Helper()
	out, err := h.root.Encrypt(h.Context(), &awskms.EncryptInput{KeyId: &key, Plaintext: []byte("a secret")})
	h.must(err)
	return out.CiphertextBlob
}

func TestWhatDoesNotOpen(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	k, other := h.key(""), h.key("")
	out, err := h.root.Encrypt(ctx, &awskms.EncryptInput{KeyId: k.KeyId, Plaintext: []byte("a secret"), EncryptionContext: session})
	h.must(err)
	blob := out.CiphertextBlob
	open := func(blob []byte, with map[string]string) error {
		_, err := h.root.Decrypt(ctx, &awskms.DecryptInput{CiphertextBlob: blob, EncryptionContext: with})
		return err
	}
	h.must(open(blob, session))
	h.refused(open(blob, nil), "InvalidCiphertextException", "")
	h.refused(open(blob, map[string]string{"aws:ssm:SessionId": "bob-1", "aws:ssm:TargetId": "mi-0123456789abcdef0"}), "InvalidCiphertextException", "")
	for i := range blob {
		touched := bytes.Clone(blob)
		touched[i] ^= 1
		h.refused(open(touched, session), "InvalidCiphertextException", "")
		h.refused(open(blob[:max(i, 1)], session), "InvalidCiphertextException", "")
	}
	// Passed off as another key's.
	otherBlob := h.seal(*other.KeyId)
	h.refused(open(append(bytes.Clone(otherBlob[:17]), blob[17:]...), session), "InvalidCiphertextException", "")
	_, err = h.root.Decrypt(ctx, &awskms.DecryptInput{CiphertextBlob: blob, EncryptionContext: session, KeyId: other.KeyId})
	h.refused(err, "IncorrectKeyException", "")
}

func TestWhoMayUseAKey(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	ann := h.as("ann", allowing(`"kms:GenerateDataKey"`, "*"))
	bob := h.as("bob", "")
	left := h.key("") // to IAM
	named := h.key(`{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Principal":{"AWS":"000000000000"},"Action":"kms:PutKeyPolicy","Resource":"*"},
		{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::000000000000:user/bob"},"Action":"kms:GenerateDataKey","Resource":"*",
		 "Condition":{"StringLike":{"kms:EncryptionContext:aws:ssm:SessionId":"bob-*"},"ForAllValues:StringEquals":{"kms:EncryptionContextKeys":["aws:ssm:SessionId"]}}}]}`)
	generate := func(c *awskms.Client, k *types.KeyMetadata, with map[string]string) error {
		_, err := c.GenerateDataKey(ctx, &awskms.GenerateDataKeyInput{KeyId: k.Arn, NumberOfBytes: aws.Int32(64), EncryptionContext: with})
		return err
	}
	h.must(generate(ann, left, session))
	h.refused(generate(bob, left, session), "AccessDeniedException", "user/bob is not authorized to perform: kms:GenerateDataKey on resource: "+*left.Arn+" because no identity-based policy allows")
	h.refused(generate(ann, named, session), "AccessDeniedException", "because no resource-based policy allows the kms:GenerateDataKey action")
	h.must(generate(bob, named, map[string]string{"aws:ssm:SessionId": "bob-1"}))
	h.refused(generate(bob, named, map[string]string{"aws:ssm:SessionId": "ann-1"}), "AccessDeniedException", "")
	h.refused(generate(bob, named, map[string]string{"aws:ssm:SessionId": "bob-1", "more": "x"}), "AccessDeniedException", "")

	// Opening is another right than sealing, and what there is is told to those
	// who may know it.
	_, err := ann.Decrypt(ctx, &awskms.DecryptInput{CiphertextBlob: h.seal(*left.KeyId)})
	h.refused(err, "AccessDeniedException", "kms:Decrypt on resource: "+*left.Arn)
	for _, name := range []string{"11111111-2222-3333-4444-555555555555", "alias/none", "arn:aws:kms:eu-west-1:999999999999:key/x"} {
		_, err := bob.DescribeKey(ctx, &awskms.DescribeKeyInput{KeyId: &name})
		h.refused(err, "AccessDeniedException", "kms:DescribeKey")
		_, err = h.root.DescribeKey(ctx, &awskms.DescribeKeyInput{KeyId: &name})
		h.refused(err, "NotFoundException", name)
	}

	// By an alias, if the policy minds.
	_, err = h.root.CreateAlias(ctx, &awskms.CreateAliasInput{AliasName: aws.String("alias/sessions"), TargetKeyId: left.KeyId})
	h.must(err)
	cy := h.as("cy", `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:GenerateDataKey","Resource":"*","Condition":{"StringEquals":{"kms:RequestAlias":"alias/sessions"}}}}`)
	h.refused(generate(cy, left, nil), "AccessDeniedException", "")
	h.must(generate(cy, &types.KeyMetadata{Arn: aws.String("alias/sessions")}, nil))
}

func TestKeyPolicies(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	k := h.key("")
	got, err := h.root.GetKeyPolicy(ctx, &awskms.GetKeyPolicyInput{KeyId: k.KeyId})
	h.must(err)
	if *got.PolicyName != "default" || !strings.Contains(*got.Policy, `"arn:aws:iam::000000000000:root"`) {
		t.Errorf("the default policy is %s", *got.Policy)
	}
	admin := h.as("admin", allowing(`"kms:*"`, "*"))
	put := func(policy string, bypass bool) error {
		_, err := admin.PutKeyPolicy(ctx, &awskms.PutKeyPolicyInput{KeyId: k.Arn, Policy: &policy, BypassPolicyLockoutSafetyCheck: bypass})
		return err
	}
	h.refused(put(`{"Version":"2012-10-17","Statement":[]}`, false), "MalformedPolicyDocumentException", "")
	h.refused(put(allowing(`"kms:*"`, "*"), false), "MalformedPolicyDocumentException", "Principal")
	h.as("ann", "")
	out := `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::000000000000:user/ann"},"Action":"kms:*","Resource":"*"}}`
	h.refused(put(out, false), "MalformedPolicyDocumentException", "will not allow you to update the key policy")
	h.must(put(out, true))
	h.refused(put(out, true), "AccessDeniedException", "no resource-based policy allows")
	_, err = h.root.PutKeyPolicy(ctx, &awskms.PutKeyPolicyInput{KeyId: k.Arn, Policy: got.Policy}) // whom nothing binds
	h.must(err)
	h.must(put(*got.Policy, false))
}

// A key's policy means the users and roles that it named when it was put, also after
// they are renamed, and not others that get their names later.
func TestKeyPolicyNamesByID(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	admin := iam.NewFromConfig(h.AWS(h.Root()))
	bob := h.as("bob", "")
	_, err := admin.CreateRole(ctx, &iam.CreateRoleInput{RoleName: aws.String("Ops"), Path: aws.String("/team/"), AssumeRolePolicyDocument: aws.String(
		`{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::000000000000:user/bob"},"Action":"sts:AssumeRole"}}`)})
	h.must(err)
	const text = `{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Principal":{"AWS":"000000000000"},"Action":"kms:*Key*","Resource":"*"},
		{"Effect":"Allow","Principal":{"AWS":["arn:aws:iam::000000000000:user/bob", "arn:aws:iam::000000000000:role/team/Ops", "arn:aws:sts::000000000000:assumed-role/Ops/work"]},"Action":"kms:Encrypt","Resource":"*"}]}`
	k := h.key(text)
	shown := func() string {
		t.Helper()
		got, err := h.root.GetKeyPolicy(ctx, &awskms.GetKeyPolicyInput{KeyId: k.KeyId})
		h.must(err)
		return *got.Policy
	}
	encrypt := func(c *awskms.Client) error {
		_, err := c.Encrypt(ctx, &awskms.EncryptInput{KeyId: k.KeyId, Plaintext: []byte("x")})
		return err
	}
	if got := shown(); got != text {
		t.Errorf("the policy is shown as %s", got)
	}
	h.must(encrypt(bob))

	_, err = admin.UpdateUser(ctx, &iam.UpdateUserInput{UserName: aws.String("bob"), NewUserName: aws.String("rob"), NewPath: aws.String("/ops/")})
	h.must(err)
	namesake := h.as("bob", "")
	h.refused(encrypt(namesake), "AccessDeniedException", "no resource-based policy allows")
	h.must(encrypt(bob))
	if got := shown(); got != strings.Replace(text, "user/bob", "user/ops/rob", 1) {
		t.Errorf("after the user was renamed the policy is shown as %s", got)
	}

	_, err = admin.DeleteRole(ctx, &iam.DeleteRoleInput{RoleName: aws.String("Ops")})
	h.must(err)
	got := shown()
	if strings.Contains(got, "Ops") || strings.Count(got, `"AROA`) != 2 || !strings.Contains(got, `:work"]`) {
		t.Errorf("after the role was deleted the policy is shown as %s", got)
	}
	_, err = h.root.PutKeyPolicy(ctx, &awskms.PutKeyPolicyInput{KeyId: k.KeyId, Policy: &got})
	h.refused(err, "MalformedPolicyDocumentException", `Invalid principal in policy: "AWS":"AROA`)
	for _, name := range []string{"user/nobody", "user/team/bob", "role/bob", "user/BOB"} {
		_, err = h.root.PutKeyPolicy(ctx, &awskms.PutKeyPolicyInput{KeyId: k.KeyId, Policy: aws.String(strings.Replace(text, "user/bob", name, 1))})
		h.refused(err, "MalformedPolicyDocumentException", "There is no such user or role here")
	}
}

func TestTagsDifferByMoreThanCase(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	tag := func(key, value string) types.Tag { return types.Tag{TagKey: &key, TagValue: &value} }
	_, err := h.root.CreateKey(ctx, &awskms.CreateKeyInput{Tags: []types.Tag{tag("env", "x"), tag("Env", "y")}})
	h.refused(err, "TagException", "Env and env differ by case alone")
	made, err := h.root.CreateKey(ctx, &awskms.CreateKeyInput{Tags: []types.Tag{tag("Env", "prod")}})
	h.must(err)
	add := func(tags ...types.Tag) error {
		_, err := h.root.TagResource(ctx, &awskms.TagResourceInput{KeyId: made.KeyMetadata.KeyId, Tags: tags})
		return err
	}
	h.refused(add(tag("env", "x")), "TagException", "Env and env differ by case alone")
	h.refused(add(tag("a", "x"), tag("A", "x")), "TagException", "A and a")
	h.must(add(tag("Env", "lab"), tag("team", "x")))
}

// Condition keys have no case, so an encryption context may not have two keys
// that differ by case alone.
func TestEncryptionContextKeysDifferByMoreThanCase(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	k := h.key("")
	ann := h.as("ann", `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:*","Resource":"*","Condition":{"StringEquals":{"kms:EncryptionContext:dept":"fin"}}}}`)
	with := map[string]string{"dept": "hr", "DEPT": "fin"}
	_, err := ann.Encrypt(ctx, &awskms.EncryptInput{KeyId: k.KeyId, Plaintext: []byte("x"), EncryptionContext: with})
	h.refused(err, "ValidationException", "DEPT and dept of EncryptionContext differ by case alone")
	_, err = ann.GenerateDataKey(ctx, &awskms.GenerateDataKeyInput{KeyId: k.KeyId, NumberOfBytes: aws.Int32(16), EncryptionContext: with})
	h.refused(err, "ValidationException", "")
	_, err = ann.GenerateDataKeyWithoutPlaintext(ctx, &awskms.GenerateDataKeyWithoutPlaintextInput{KeyId: k.KeyId, NumberOfBytes: aws.Int32(16), EncryptionContext: with})
	h.refused(err, "ValidationException", "")
	_, err = ann.Decrypt(ctx, &awskms.DecryptInput{CiphertextBlob: h.seal(*k.KeyId), EncryptionContext: with})
	h.refused(err, "ValidationException", "")
	_, err = ann.Encrypt(ctx, &awskms.EncryptInput{KeyId: k.KeyId, Plaintext: []byte("x"), EncryptionContext: map[string]string{"Dept": "fin", "team": "x"}})
	h.must(err)
}

func TestAliases(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	one, two := h.key(""), h.key("")
	name := aws.String("alias/sessions")
	for bad, code := range map[string]string{"sessions": "InvalidAliasNameException", "alias/": "InvalidAliasNameException", "alias/aws/ssm": "InvalidAliasNameException", "alias/a:b": "InvalidAliasNameException"} {
		_, err := h.root.CreateAlias(ctx, &awskms.CreateAliasInput{AliasName: &bad, TargetKeyId: one.KeyId})
		h.refused(err, code, "")
	}
	_, err := h.root.CreateAlias(ctx, &awskms.CreateAliasInput{AliasName: name, TargetKeyId: one.KeyId})
	h.must(err)
	_, err = h.root.CreateAlias(ctx, &awskms.CreateAliasInput{AliasName: name, TargetKeyId: two.KeyId})
	h.refused(err, "AlreadyExistsException", "alias/sessions")
	_, err = h.root.CreateAlias(ctx, &awskms.CreateAliasInput{AliasName: aws.String("alias/of-alias"), TargetKeyId: name})
	h.refused(err, "ValidationException", "Not aliases")
	blob := h.seal(*name)
	_, err = h.root.UpdateAlias(ctx, &awskms.UpdateAliasInput{AliasName: name, TargetKeyId: two.Arn})
	h.must(err)
	list, err := h.root.ListAliases(ctx, &awskms.ListAliasesInput{KeyId: two.KeyId})
	h.must(err)
	if len(list.Aliases) != 1 || *list.Aliases[0].AliasName != *name || *list.Aliases[0].TargetKeyId != *two.KeyId || list.Truncated {
		t.Errorf("aliases: %+v", list.Aliases)
	}
	_, err = h.root.Decrypt(ctx, &awskms.DecryptInput{CiphertextBlob: blob}) // which says whose it is
	h.must(err)

	// Both the alias and the key are asked about.
	ann := h.as("ann", allowing(`"kms:DeleteAlias"`, "arn:aws:kms:*:*:alias/*"))
	_, err = ann.DeleteAlias(ctx, &awskms.DeleteAliasInput{AliasName: name})
	h.refused(err, "AccessDeniedException", *two.Arn)
	_, err = h.root.DeleteAlias(ctx, &awskms.DeleteAliasInput{AliasName: name})
	h.must(err)
	_, err = h.root.Encrypt(ctx, &awskms.EncryptInput{KeyId: name, Plaintext: []byte("x")})
	h.refused(err, "NotFoundException", "alias/sessions is not found")
}

func TestListKeysIsPaged(t *testing.T) {
	h := open(t)
	want := map[string]bool{}
	for range 5 {
		want[*h.key("").KeyId] = true
	}
	pages := awskms.NewListKeysPaginator(h.root, &awskms.ListKeysInput{Limit: aws.Int32(2)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		h.must(err)
		for _, k := range page.Keys {
			if !want[*k.KeyId] {
				t.Errorf("%s is listed twice, or is not one of ours", *k.KeyId)
			}
			delete(want, *k.KeyId)
		}
	}
	if len(want) > 0 {
		t.Errorf("not listed: %v", want)
	}
	_, err := h.root.ListKeys(t.Context(), &awskms.ListKeysInput{Marker: aws.String("x")})
	h.refused(err, "InvalidMarkerException", "")
}

func TestWhatIsNotThere(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	for words, in := range map[string]*awskms.CreateKeyInput{
		"KeySpec":     {KeySpec: types.KeySpecRsa2048},
		"KeyUsage":    {KeyUsage: types.KeyUsageTypeSignVerify},
		"MultiRegion": {MultiRegion: aws.Bool(true)},
		"Origin":      {Origin: types.OriginTypeExternal},
	} {
		_, err := h.root.CreateKey(ctx, in)
		h.refused(err, "UnsupportedOperationException", words)
	}
	k := h.key("")
	_, err := h.root.GenerateDataKey(ctx, &awskms.GenerateDataKeyInput{KeyId: k.KeyId})
	h.refused(err, "ValidationException", "number of bytes or key spec")
	out, err := h.root.GenerateDataKey(ctx, &awskms.GenerateDataKeyInput{KeyId: k.KeyId, KeySpec: types.DataKeySpecAes128})
	h.must(err)
	if len(out.Plaintext) != 16 {
		t.Errorf("AES_128 has %d bytes", len(out.Plaintext))
	}
	_, err = h.root.CreateKey(ctx, &awskms.CreateKeyInput{Origin: types.OriginTypeExternalKeyStore, CustomKeyStoreId: aws.String("vault"), XksKeyId: aws.String("x")})
	h.refused(err, "CustomKeyStoreNotFoundException", "--key-store")
}

// A key's policy that was stored by rules which were less strict, and cannot be read
// any more, allows nothing. The refusal names the key, the account's root can put
// another policy, and other keys are as they were.
func TestStoredKeyPolicyThatCannotBeRead(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	k, other := h.key(""), h.key("")
	good, err := h.root.GetKeyPolicy(ctx, &awskms.GetKeyPolicyInput{KeyId: k.KeyId})
	h.must(err)
	h.must(h.Store.Keys().Change(ctx, *k.KeyId, func(k *sallyport.KMSKey) error {
		k.Policy = strings.Replace(k.Policy, "{", `{"Version":"2012-10-17",`, 1)
		return nil
	}))
	admin := h.as("admin", allowing(`"kms:*"`, "*"))
	_, err = admin.DescribeKey(ctx, &awskms.DescribeKeyInput{KeyId: k.Arn})
	h.refused(err, "AccessDeniedException", "The policy of "+*k.Arn+" cannot be read, so nothing is allowed.")
	_, err = admin.DescribeKey(ctx, &awskms.DescribeKeyInput{KeyId: other.Arn})
	h.must(err)
	_, err = h.root.PutKeyPolicy(ctx, &awskms.PutKeyPolicyInput{KeyId: k.Arn, Policy: good.Policy})
	h.must(err)
	_, err = admin.DescribeKey(ctx, &awskms.DescribeKeyInput{KeyId: k.Arn})
	h.must(err)
}
