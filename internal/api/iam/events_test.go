package iam_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/store"
)

// Each change that a person makes is an event, with who made it and what to; a read,
// and a change that was refused, is none. No secret is in any.
func TestChangesLeaveEvents(t *testing.T) {
	d := open(t)
	ann := d.user("ann", allowing("iam:GetUser"))
	before, err := d.db.Events().Last(t.Context())
	d.must(err)
	for _, c := range []struct{ operation, form string }{
		{"CreateUser", "UserName=bob&Path=/team/"},
		{"CreateAccessKey", "UserName=bob"},
		{"GetUser", "UserName=bob"},
		{"PutUserPolicy", "UserName=bob&PolicyName=p&PolicyDocument=" + allowing("ssm:*")},
		{"DeleteUserPolicy", "UserName=bob&PolicyName=none"}, // NoSuchEntity
	} {
		d.call(d.root, c.operation, c.form)
	}
	if a := d.call(ann, "CreateUser", "UserName=eve"); a.code != "AccessDenied" {
		t.Errorf("ann's call: %+v", a)
	}

	list, err := d.db.Events().After(t.Context(), before, 0)
	d.must(err)
	var got []string
	for _, e := range list {
		got = append(got, e.Name+" "+e.Subject)
		if e.Kind != store.CallEvent || e.Actor != "arn:aws:iam::"+account+":root" || e.ActorID != account || e.Request == "" || e.Source == "" || e.At.IsZero() {
			t.Errorf("event: %+v", e)
		}
		if strings.Contains(fmt.Sprintf("%+v %s", e, e.Details), d.root.SecretAccessKey) {
			t.Errorf("a secret is in %+v", e)
		}
	}
	bob := "arn:aws:iam::" + account + ":user/team/bob"
	want := "iam:CreateUser " + bob + ", iam:CreateAccessKey " + bob + ", iam:PutUserPolicy " + bob
	if all := strings.Join(got, ", "); all != want {
		t.Errorf("events:\n got %s\nwant %s", all, want)
	}
}
