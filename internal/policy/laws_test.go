package policy_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/policy"
)

// A stmt is a statement as JSON has it.
type stmt map[string]any

// A small world, in which what is asked and what is written often meet.
var (
	genAction   = rapid.SampledFrom([]string{"ssm:StartSession", "ssm:TerminateSession", "ssm:DescribeSessions", "iam:CreateUser"})
	genPattern  = rapid.SampledFrom([]string{"*", "ssm:*", "ssm:*Session", "SSM:startsession", "iam:Create?ser", "ssm:DescribeSessions"})
	genName     = rapid.SampledFrom([]string{"*", "session/ann-1", "session/AIDAANN-1", "node/mi-1", "node/mi-2", "document/d"})
	genResource = rapid.SampledFrom([]string{
		"*", "arn:aws:ssm:*:*:session/${aws:username}-*", "arn:aws:ssm:*:*:session/${aws:userid}-*",
		"arn:aws:ssm:*:*:managed-instance/mi-?", "arn:aws:ssm:*:*:managed-instance/mi-1", "arn:aws:ssm:*:*:document/${aws:PrincipalTag/team, 'd'}",
	})
	genUser      = rapid.SampledFrom([]string{"", "ann", "bob", "*"})
	genTeams     = rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"red", "blue", "green"}), 0, 3, rapid.ID)
	genCondition = rapid.SampledFrom([]map[string]any{
		{},
		{"StringEquals": stmt{"aws:username": "ann"}},
		{"StringNotEquals": stmt{"aws:username": []string{"ann", "${aws:PrincipalTag/team}"}}},
		{"StringLikeIfExists": stmt{"aws:username": "a*"}},
		{"Null": stmt{"aws:username": true}},
		{"ForAnyValue:StringEquals": stmt{"aws:TagKeys": []string{"red", "blue"}}},
		{"ForAllValues:StringNotLike": stmt{"aws:TagKeys": "r*"}},
		{"StringNotEquals": stmt{"aws:TagKeys": "green"}, "Bool": stmt{"aws:SecureTransport": true}},
	})
)

func genStatement(effect string) *rapid.Generator[stmt] {
	return rapid.Custom(func(t *rapid.T) stmt {
		not := rapid.SampledFrom([]string{"", "", "", "Not"})
		return stmt{
			"Effect":                        effect,
			not.Draw(t, "not") + "Action":   rapid.SliceOfN(genPattern, 1, 2).Draw(t, "actions"),
			not.Draw(t, "not") + "Resource": rapid.SliceOfN(genResource, 1, 2).Draw(t, "resources"),
			"Condition":                     genCondition.Draw(t, "condition"),
		}
	})
}

func genStatements() *rapid.Generator[[]stmt] {
	return rapid.SliceOfN(rapid.OneOf(genStatement("Allow"), genStatement("Allow"), genStatement("Deny")), 1, 4)
}

func genRequest() *rapid.Generator[*policy.Request] {
	return rapid.Custom(func(t *rapid.T) *policy.Request {
		req := &policy.Request{Action: genAction.Draw(t, "action"), Resources: resources(strings.Join(rapid.SliceOfN(genName, 1, 2).Draw(t, "names"), "|"))}
		if user := genUser.Draw(t, "user"); user != "" {
			req.Context.Set("aws:username", user)
			req.Context.Set("aws:userid", "AIDA"+strings.ToUpper(user))
		}
		if teams := genTeams.Draw(t, "teams"); len(teams) > 0 {
			req.Context.SetAll("aws:TagKeys", teams)
			req.Context.SetTags("aws:PrincipalTag/", map[string]string{"team": teams[0]})
		}
		req.Context.Set("aws:SecureTransport", "true")
		return req
	})
}

type fataler interface {
	Fatalf(format string, args ...any)
	Helper()
}

func write(t fataler, name string, statements ...stmt) policy.Named {
	t.Helper()
	doc, err := json.Marshal(stmt{"Version": "2012-10-17", "Statement": statements})
	if err != nil {
		t.Fatalf("%v", err)
	}
	d, err := policy.ParseManaged(string(doc))
	if err != nil {
		t.Fatalf("%s\n%v", doc, err)
	}
	return policy.Named{Name: name, Document: d}
}

// drawPolicies is up to three policies, and the statements they were made of.
func drawPolicies(t *rapid.T) (named []policy.Named, made [][]stmt) {
	made = rapid.SliceOfN(genStatements(), 1, 3).Draw(t, "policies")
	for i, s := range made {
		named = append(named, write(t, fmt.Sprint(i), s...))
	}
	return named, made
}

// A further deny never allows what was not allowed, wherever it is put.
func TestDenyOnlyTakesAway(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		req := genRequest().Draw(t, "request")
		named, _ := drawPolicies(t)
		before := policy.Decide(req, &policy.Policies{Identity: named})

		deny := write(t, "deny", genStatement("Deny").Draw(t, "deny"))
		for _, with := range []policy.Policies{
			{Identity: append(slices.Clone(named), deny)},
			{Identity: named, Boundary: &deny},
			{Identity: named, Session: []policy.Named{deny}},
		} {
			if after := policy.Decide(req, &with); after.Allowed && !before.Allowed || before.Explicit && !after.Explicit {
				t.Fatalf("before: %v, after: %v", before, after)
			}
		}
	})
}

// A further allow never takes away, and never overrules a deny.
func TestAllowOnlyGives(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		req := genRequest().Draw(t, "request")
		named, _ := drawPolicies(t)
		before := policy.Decide(req, &policy.Policies{Identity: named})
		allow := write(t, "allow", genStatement("Allow").Draw(t, "allow"))
		after := policy.Decide(req, &policy.Policies{Identity: append(named, allow)})
		if before.Allowed && !after.Allowed || before.Explicit != after.Explicit {
			t.Fatalf("before: %v, after: %v", before, after)
		}
	})
}

// A boundary and a session policy allow nothing by themselves.
func TestBoundariesOnlyTakeAway(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		req := genRequest().Draw(t, "request")
		named, _ := drawPolicies(t)
		fence := write(t, "fence", genStatements().Draw(t, "fence")...)
		without := policy.Decide(req, &policy.Policies{Identity: named})
		fenced := policy.Decide(req, &policy.Policies{Identity: named, Boundary: &fence})
		inSession := policy.Decide(req, &policy.Policies{Identity: named, Session: []policy.Named{fence}})
		alone := policy.Decide(req, &policy.Policies{Identity: []policy.Named{fence}})

		if want := without.Allowed && alone.Allowed; fenced.Allowed != want || inSession.Allowed != want {
			t.Fatalf("without: %v, alone: %v, fenced: %v, in session: %v", without, alone, fenced, inSession)
		}
	})
}

// The order of statements and of policies changes nothing but the reason.
func TestOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		req := genRequest().Draw(t, "request")
		named, made := drawPolicies(t)
		before := policy.Decide(req, &policy.Policies{Identity: named})

		var shuffled []policy.Named
		for i, s := range rapid.Permutation(made).Draw(t, "policies") {
			shuffled = append(shuffled, write(t, fmt.Sprint(i), rapid.Permutation(s).Draw(t, "statements")...))
		}
		after := policy.Decide(req, &policy.Policies{Identity: shuffled})
		if before.Allowed != after.Allowed || before.Explicit != after.Explicit {
			t.Fatalf("before: %v, after: %v", before, after)
		}
	})
}

// The statement that is named as the reason decides the same all by itself.
func TestReasonIsTheReason(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		req := genRequest().Draw(t, "request")
		named, made := drawPolicies(t)
		d := policy.Decide(req, &policy.Policies{Identity: named})
		if d.Statement == 0 {
			if d.Allowed || d.Explicit {
				t.Fatalf("%+v without a statement", d)
			}
			return
		}
		i := slices.IndexFunc(named, func(n policy.Named) bool { return n.Name == d.Policy })
		alone := policy.Decide(req, &policy.Policies{Identity: []policy.Named{write(t, "alone", made[i][d.Statement-1])}})
		if alone.Allowed != d.Allowed || alone.Explicit != d.Explicit {
			t.Fatalf("together: %v, alone: %v", d, alone)
		}
	})
}

// A negated operator without a quantifier is the opposite of the one it
// negates, wherever the key has a value and where it has none.
func TestNegatedIsOpposite(t *testing.T) {
	pairs := map[string]string{
		"StringEquals": "StringNotEquals", "StringEqualsIgnoreCase": "StringNotEqualsIgnoreCase", "StringLike": "StringNotLike",
		"NumericEquals": "NumericNotEquals", "DateEquals": "DateNotEquals", "IpAddress": "NotIpAddress", "ArnEquals": "ArnNotEquals", "ArnLike": "ArnNotLike",
	}
	values := map[byte][]string{
		'S': {"", "a", "ab", "A", "*", "a*"}, 'N': {"1", "2", "1.5"}, 'D': {"2026-01-01", "1769850000"},
		'I': {"192.0.2.1", "192.0.2.0/24", "2001:db8::/32"}, 'A': {"arn:aws:ssm:::a", "arn:aws:ssm:::*", "arn:aws:*:*:*:a"},
	}
	holds := func(t *rapid.T, operator string, listed, had []string) bool {
		req := &policy.Request{Action: "a:b"}
		req.Context.SetAll("x:key", had)
		s := stmt{"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": stmt{operator: stmt{"x:key": listed}}}
		return policy.Decide(req, &policy.Policies{Identity: []policy.Named{write(t, operator, s)}}).Allowed
	}
	for positive, negated := range pairs {
		t.Run(negated, func(t *testing.T) {
			kind := positive[0]
			if positive == "IpAddress" {
				kind = 'I'
			}
			gen := rapid.SampledFrom(values[kind])
			rapid.Check(t, func(t *rapid.T) {
				listed := rapid.SliceOfN(gen, 1, 3).Draw(t, "listed")
				had := rapid.SliceOfN(gen, 0, 2).Draw(t, "had")
				if holds(t, positive, listed, had) == holds(t, negated, listed, had) {
					t.Fatalf("%s and %s agree", positive, negated)
				}
			})
		})
	}
}

// like reports whether one condition with one value holds. It is the matcher's
// front door.
func like(t fataler, operator, pattern, value string) bool {
	t.Helper()
	p, err := json.Marshal(pattern)
	if err != nil {
		t.Fatalf("%v", err)
	}
	doc := fmt.Sprintf(`{"Version": "2008-10-17", "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {%q: {"x:key": %s}}}}`, operator, p)
	d, err := policy.Parse(doc)
	if err != nil {
		t.Fatalf("%s\n%v", doc, err)
	}
	req := &policy.Request{Action: "a:b"}
	req.Context.Set("x:key", value)
	return policy.Decide(req, &policy.Policies{Identity: []policy.Named{{Document: d}}}).Allowed
}

// glob is the matcher said in another way.
func glob(pattern string) *regexp.Regexp {
	q := regexp.QuoteMeta(pattern)
	q = strings.ReplaceAll(q, `\*`, `.*`)
	q = strings.ReplaceAll(q, `\?`, `.`)
	return regexp.MustCompile(`(?s)\A` + q + `\z`)
}

// globARN is globs for the parts of an ARN, each on its own.
func globARN(pattern, value string) bool {
	p, v := strings.SplitN(pattern, ":", 6), strings.SplitN(value, ":", 6)
	if len(p) != 6 || len(v) != 6 {
		return false
	}
	for i := range p {
		if !glob(p[i]).MatchString(v[i]) {
			return false
		}
	}
	return true
}

func FuzzMatch(f *testing.F) {
	for _, s := range [][2]string{
		{"", ""}, {"*", ""}, {"a*b?c", "axxbyc"}, {"*a*a*b", "aaaaaaaa"}, {"**?*", "é"}, {"*??", "é"}, {"*ab?", "abababx"},
		{"arn:aws:ssm:*:*:session/a-*", "arn:aws:ssm:home-1:123456789012:session/a-1"},
		{"arn:*:*:*:*:*", "arn:::::"}, {"arn:a*:s:r:a:*:b", "arn:ab:s:r:a:x:y:b"}, {"*:?:*:?:*:?", "a:b:c:d:e:f"}, {"a:b:c:*d:*:*e", "a:b:c:dd:d:e:e"},
	} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, pattern, value string) {
		if !utf8.ValidString(pattern) || !utf8.ValidString(value) || len(pattern) > 200 {
			return // the oracle reads characters, and a policy is UTF-8
		}
		if got, want := like(t, "StringLike", pattern, value), glob(pattern).MatchString(value); got != want {
			t.Errorf("StringLike %q to %q: %v", value, pattern, got)
		}
		if strings.Count(pattern, ":") >= 5 {
			if got, want := like(t, "ArnLike", pattern, value), globARN(pattern, value); got != want {
				t.Errorf("ArnLike %q to %q: %v", value, pattern, got)
			}
		}
	})
}

// The same law, in a world where patterns and values meet more often than in
// a fuzzer's.
func TestMatch(t *testing.T) {
	piece := rapid.SampledFrom([]string{"*", "?", "a", "b", "ab", ":", "::", "é", "**"})
	rapid.Check(t, func(t *rapid.T) {
		pattern := strings.Join(rapid.SliceOfN(piece, 0, 12).Draw(t, "pattern"), "")
		value := strings.Join(rapid.SliceOfN(piece, 0, 12).Draw(t, "value"), "")
		if got, want := like(t, "StringLike", pattern, value), glob(pattern).MatchString(value); got != want {
			t.Errorf("StringLike %q to %q: %v", value, pattern, got)
		}
		if strings.Count(pattern, ":") >= 5 {
			if got, want := like(t, "ArnLike", pattern, value), globARN(pattern, value); got != want {
				t.Errorf("ArnLike %q to %q: %v", value, pattern, got)
			}
		}
	})
}

// Patterns that make a matcher which tries everything take for ever. Were the
// time to grow with the square of the value, this would take hours.
func TestMatchIsLinear(t *testing.T) {
	long := strings.Repeat("a", 1<<20)
	for _, pattern := range []string{
		strings.Repeat("*a", 200) + "*b",
		strings.Repeat("*a*", 200) + "b",
		"*" + strings.Repeat("a", 100) + "b",
		"*" + strings.Repeat("a?", 50) + "b",
		strings.Repeat("*?a", 50) + "b",
	} {
		if like(t, "StringLike", pattern, long) {
			t.Errorf("%q matches", sallyport.Clip(pattern, 32))
		}
		if like(t, "ArnLike", "arn:*:*:*:*:"+pattern, "arn:aws:ssm:::"+long) {
			t.Errorf("%q matches in an ARN", sallyport.Clip(pattern, 32))
		}
	}
}

// Parse panics on no input and accepts only JSON; its errors are for the caller; and
// what it accepts can be decided by.
func FuzzParse(f *testing.F) {
	names, _ := filepath.Glob("testdata/*.txt")
	if len(names) == 0 {
		f.Fatal("no seeds in testdata")
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for block := range strings.SplitSeq(string(b), "\n\n") {
			if _, doc, ok := strings.Cut(block, "\n{"); ok {
				doc, _, _ = strings.Cut(doc, "\n"+arrow)
				f.Add("{" + doc)
			}
		}
	}
	f.Fuzz(func(t *testing.T, doc string) {
		req := &policy.Request{Action: "ssm:StartSession", Resources: []string{"arn:aws:ssm:home-1:123456789012:session/ann-1", "*"}}
		req.Context.Set("aws:username", "ann")
		req.Context.SetAll("aws:TagKeys", []string{"team", "stage"})

		for _, parse := range []func(string) (*policy.Document, error){policy.Parse, policy.ParseManaged, policy.ParseTrust} {
			d, err := parse(doc)
			if err != nil {
				if e, ok := errors.AsType[*sallyport.Error](err); !ok || !utf8.ValidString(e.Message) || !strings.HasSuffix(e.Message, ".") {
					t.Errorf("%#v is not for the caller", err)
				}
				continue
			}
			if !json.Valid([]byte(strings.TrimPrefix(doc, "\ufeff"))) {
				t.Errorf("took what is not JSON: %q", doc)
			}
			n := policy.Named{Name: "fuzz", Document: d}
			policy.Decide(req, &policy.Policies{Identity: []policy.Named{n}, Boundary: &n, Session: []policy.Named{n}})
			policy.DecideTrust(req, &policy.Caller{Account: "123456789012"}, n)
		}
	})
}
