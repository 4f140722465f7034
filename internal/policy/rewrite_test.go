package policy_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/policy"
)

// Principals of kind AWS are rewritten wherever they are, and nothing else is,
// down to the white space.
func TestRewritePrincipals(t *testing.T) {
	const doc = `{ "Version":"2012-10-17", "Id" : "arn:aws:iam::123456789012:user/ann",
  "Statement" : [
	{"Sid":"AWS","Effect":"Allow","Principal":{"AWS" :[ "arn:aws:iam::123456789012:user/ann" , "*","arn:aws:iam::123456789012:user\/b\u006fb"],"Service":"ssm.amazonaws.com"},"Action":"sts:AssumeRole",
	 "Condition":{"StringEquals":{"aws:PrincipalArn":"arn:aws:iam::123456789012:user/ann"}}},
	{"Effect":"Deny","Principal": {"AWS": "arn:aws:iam::123456789012:user/ann"},"Action":["sts:AssumeRole"]}
  ]}
`
	want := strings.NewReplacer(
		`"AWS" :[ "arn:aws:iam::123456789012:user/ann" , "*","arn:aws:iam::123456789012:user\/b\u006fb"]`, `"AWS" :[ "<ARN:AWS:IAM::123456789012:USER/ANN>" , "<*>","<ARN:AWS:IAM::123456789012:USER/BOB>"]`,
		`{"AWS": "arn:aws:iam::123456789012:user/ann"}`, `{"AWS": "<ARN:AWS:IAM::123456789012:USER/ANN>"}`,
	).Replace(doc)
	want = strings.NewReplacer("<ARN", `\u003cARN`, ">\"", `\u003e"`, `"<*`, `"\u003c*`).Replace(want)
	if _, err := policy.ParseTrust(doc); err != nil {
		t.Fatal(err)
	}
	got, err := policy.RewritePrincipals(doc, func(name string) (string, error) { return "<" + strings.ToUpper(name) + ">", nil })
	if err != nil || got != want {
		t.Errorf("got  %s\nwant %s\n%v", got, want, err)
	}
	if got, err := policy.RewritePrincipals(doc, func(name string) (string, error) { return name, nil }); err != nil || strings.ReplaceAll(got, "bob", `b\u006fb`) != strings.ReplaceAll(doc, `\/`, "/") {
		t.Errorf("rewritten to what it was: %s, %v", got, err)
	}
	no := errors.New("no")
	if _, err := policy.RewritePrincipals(doc, func(string) (string, error) { return "", no }); !errors.Is(err, no) {
		t.Errorf("the error is %v", err)
	}
	if _, err := policy.RewritePrincipals(`{"Statement":`, func(name string) (string, error) { return name, nil }); err == nil {
		t.Error("half a document was rewritten")
	}
}

// A trust or key policy that is rewritten and rewritten back reads as it did.
func FuzzRewritePrincipals(f *testing.F) {
	f.Add(`{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"AWS":"AROAX:work"},"Action":"sts:AssumeRole"}}`)
	f.Add(`{"Statement":[{"Effect":"Allow","Principal":{"AWS":["*"],"Service":"a.b"},"Action":"kms:*","Resource":"*"}]}`)
	f.Fuzz(func(t *testing.T, doc string) {
		for _, parse := range []func(string) (*policy.Document, error){policy.ParseTrust, policy.ParseKey} {
			if _, err := parse(doc); err != nil {
				continue
			}
			again, err := policy.RewritePrincipals(doc, func(name string) (string, error) { return name, nil })
			if err != nil {
				t.Fatalf("%q: %v", doc, err)
			}
			if _, err := parse(again); err != nil {
				t.Fatalf("%q became %q: %v", doc, again, err)
			}
		}
	})
}
