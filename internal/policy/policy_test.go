package policy_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/policy"
)

var update = flag.Bool("update", false, "rewrite what follows each arrow in testdata/*.txt")

const arrow = "→"

// The files in testdata are the specification of this package. The text after an
// arrow is ours; go test -update writes it anew, and then the diff
// wants reading. testdata/README says how they are written.
func TestSpecification(t *testing.T) {
	names, _ := filepath.Glob("testdata/*.txt")
	if len(names) == 0 {
		t.Fatal("no specification in testdata")
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) {
			old, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			s := script{t: t, name: name, lines: strings.Split(string(old), "\n")}
			s.run()
			if s.arrows == 0 {
				t.Errorf("%s asks nothing", name)
			}
			if *update {
				if now := strings.Join(s.out, "\n"); !bytes.Equal(old, []byte(now)) {
					if err := os.WriteFile(name, []byte(now), 0o644); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
}

// script is one file being run.
type script struct {
	t     *testing.T
	name  string
	lines []string
	at    int      // of lines: the one after that being run
	out   []string // the file as it should be

	arrows   int
	policies map[string]policy.Named
	people   map[string]*person
	when     *policy.Document
}

// person is a caller: its context, and what trust policies may call it.
type person struct {
	context string
	caller  policy.Caller
}

var realm = sallyport.Realm{Account: "123456789012", Region: "home-1"}

func (s *script) fatalf(format string, args ...any) {
	s.t.Helper()
	s.t.Fatalf("%s:%d: %s", s.name, s.at, fmt.Sprintf(format, args...))
}

func (s *script) next() (line string, ok bool) {
	if s.at == len(s.lines) {
		return "", false
	}
	line = s.lines[s.at]
	s.at++
	return line, true
}

// answer checks what follows the arrow of line.
func (s *script) answer(line, got string) {
	s.t.Helper()
	s.arrows++
	before, want, _ := strings.Cut(line, arrow)
	if want = strings.TrimSpace(want); want != got && !*update {
		s.t.Errorf("%s:%d: %s\n got %s\nwant %s", s.name, s.at, strings.TrimSpace(before), got, want)
	}
	s.out = append(s.out, before+arrow+" "+got)
}

func (s *script) run() {
	s.policies, s.people = map[string]policy.Named{}, map[string]*person{}
	for {
		line, ok := s.next()
		if !ok {
			return
		}
		verb, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		rest = strings.TrimSpace(rest)
		switch {
		case verb == "" || strings.HasPrefix(verb, "#"):
			s.out = append(s.out, line)
		case strings.Contains(line, arrow):
			switch verb {
			case "ask":
				s.answer(line, s.ask(rest))
			case "assume":
				s.answer(line, s.assume(rest))
			case "use":
				s.answer(line, s.use(rest))
			default:
				s.answer(line, s.holds(line))
			}
		default:
			s.out = append(s.out, line)
			switch verb {
			case "policy":
				s.define(rest, policy.Parse)
			case "trust":
				s.define(rest, policy.ParseTrust)
			case "key":
				s.define(rest, policy.ParseKey)
			case "refuse":
				s.refuse(rest)
			case "person":
				s.person(rest)
			case "when":
				doc := fmt.Sprintf(`{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": %s}}`, rest)
				d, err := policy.Parse(doc)
				if err != nil {
					s.fatalf("%v", err)
				}
				s.when = d
			default:
				s.fatalf("no such verb: %s", verb)
			}
		}
	}
}

// document reads the lines up to one for which end is true, which it leaves.
func (s *script) document(end func(line string) bool) string {
	var doc []string
	for s.at < len(s.lines) && !end(s.lines[s.at]) {
		doc = append(doc, s.lines[s.at])
		s.at++
	}
	s.out = append(s.out, doc...)
	return strings.Join(doc, "\n")
}

func (s *script) define(name string, parse func(string) (*policy.Document, error)) {
	d, err := parse(s.document(func(line string) bool { return strings.TrimSpace(line) == "" }))
	if err != nil {
		s.fatalf("%s: %v", name, err)
	}
	s.policies[name] = policy.Named{Name: name, Document: d}
}

func (s *script) refuse(kind string) {
	parse := map[string]func(string) (*policy.Document, error){
		"": policy.Parse, "managed": policy.ParseManaged, "trust": policy.ParseTrust, "key": policy.ParseKey,
	}[kind]
	if parse == nil {
		s.fatalf("no such kind of policy: %s", kind)
	}
	doc := s.document(func(line string) bool { return strings.HasPrefix(line, arrow) })
	_, err := parse(doc)
	line, ok := s.next()
	if !ok {
		s.fatalf("no arrow after the document")
	}
	got := "accepted"
	if err != nil {
		e, ok := errors.AsType[*sallyport.Error](err)
		if !ok {
			s.fatalf("%v is not for the caller", err)
		}
		got = e.Message
		if e.Code != sallyport.MalformedPolicyDocument {
			got = e.Error()
		}
	}
	s.answer(line, got)
}

func (s *script) person(rest string) {
	name, context, _ := strings.Cut(rest, " ")
	p := &person{context: context}
	for k, v := range s.pairs(context) {
		switch strings.ToLower(k) {
		case "account":
			p.caller.Account = v
		case "service":
			p.caller.Service = v
		case "federated":
			p.caller.Federated = v
		case "aws:principalarn", "aws:userid":
			p.caller.Names = append(p.caller.Names, v)
		}
	}
	s.people[name] = p
}

// pairs splits text into words of the form key=value, of which the value may
// be quoted.
func (s *script) pairs(text string) map[string]string {
	all := map[string]string{}
	for text = strings.TrimSpace(text); text != "" && text != "-"; text = strings.TrimSpace(text) {
		key, rest, ok := strings.Cut(text, "=")
		if !ok {
			s.fatalf("%q is not key=value", text)
		}
		if q, err := strconv.QuotedPrefix(rest); err == nil {
			all[key], _ = strconv.Unquote(q)
			text = rest[len(q):]
			continue
		}
		all[key], text, _ = strings.Cut(rest, " ")
	}
	return all
}

// fill puts the pairs of text into c. A value in brackets is a list.
func (s *script) fill(c *policy.Context, text string) {
	pairs, tags := s.pairs(text), map[string]map[string]string{}
	for _, k := range slices.Sorted(maps.Keys(pairs)) {
		v := pairs[k]
		list, ok := strings.CutPrefix(v, "[")
		if ok {
			if list = strings.TrimSuffix(list, "]"); list == "" {
				c.SetAll(k, []string{})
			} else {
				c.SetAll(k, strings.Split(list, ","))
			}
			continue
		}
		if prefix, tag, ok := strings.Cut(k, "/"); ok {
			if tags[prefix] == nil {
				tags[prefix] = map[string]string{}
				c.SetTags(prefix+"/", tags[prefix])
			}
			tags[prefix][tag] = v
			continue
		}
		c.Set(k, v)
	}
}

// resources reads names with | between them. Short ones are of the realm.
func resources(word string) []string {
	if word == "*" {
		return nil
	}
	var all []string
	for name := range strings.SplitSeq(word, "|") {
		switch kind, rest, _ := strings.Cut(name, "/"); kind {
		case "session":
			name = realm.SessionNamed(rest)
		case "document":
			name = realm.Document(rest)
		case "node":
			name = "arn:aws:ssm:" + realm.Region + ":" + realm.Account + ":managed-instance/" + rest
		}
		all = append(all, name)
	}
	return all
}

// ask runs: who[policies; boundary b; session s t] action resource key=value…
func (s *script) ask(line string) string {
	line, _, _ = strings.Cut(line, arrow)
	who, rest, ok := strings.Cut(line, "]")
	who, sets, ok2 := strings.Cut(who, "[")
	words := strings.Fields(rest)
	if !ok || !ok2 || len(words) < 2 {
		s.fatalf("ask who[policies] action resource")
	}
	req := &policy.Request{Action: words[0], Resources: resources(words[1])}
	if p := s.people[who]; p != nil {
		s.fill(&req.Context, p.context)
	} else if who != "nobody" {
		s.fatalf("no person %s", who)
	}
	_, context, _ := strings.Cut(strings.TrimSpace(rest), words[1])
	s.fill(&req.Context, context)

	var p policy.Policies
	for set := range strings.SplitSeq(sets, ";") {
		names := strings.Fields(strings.ReplaceAll(set, ",", " "))
		if len(names) == 0 {
			continue
		}
		switch names[0] {
		case "boundary":
			b := s.named(names[1])
			p.Boundary = &b
		case "session":
			for _, n := range names[1:] {
				p.Session = append(p.Session, s.named(n))
			}
		default:
			for _, n := range names {
				p.Identity = append(p.Identity, s.named(n))
			}
		}
	}
	return verdict(policy.Decide(req, &p))
}

// assume runs: who[trust] action key=value…
func (s *script) assume(line string) string {
	line, _, _ = strings.Cut(line, arrow)
	who, rest, _ := strings.Cut(line, "]")
	who, trust, ok := strings.Cut(who, "[")
	action, context, _ := strings.Cut(strings.TrimSpace(rest), " ")
	p := s.people[who]
	if !ok || p == nil {
		s.fatalf("assume who[trust] action")
	}
	req := &policy.Request{Action: action}
	s.fill(&req.Context, p.context)
	s.fill(&req.Context, context)
	return weighed(policy.DecideTrust(req, &p.caller, s.named(trust)))
}

// use runs: who[key policy] action key=value…
func (s *script) use(line string) string {
	line, _, _ = strings.Cut(line, arrow)
	who, rest, _ := strings.Cut(line, "]")
	who, on, ok := strings.Cut(who, "[")
	action, context, _ := strings.Cut(strings.TrimSpace(rest), " ")
	p := s.people[who]
	if !ok || p == nil {
		s.fatalf("use who[key] action")
	}
	req := &policy.Request{Action: action, Resources: []string{"arn:aws:kms:" + realm.Region + ":" + realm.Account + ":key/" + on}}
	s.fill(&req.Context, p.context)
	s.fill(&req.Context, context)
	return weighed(policy.DecideResource(req, &p.caller, s.named(on)))
}

// weighed is the verdict of a resource's policy.
func weighed(d policy.Decision) string {
	if d.Delegated {
		return verdict(d) + ", as far as it goes"
	}
	return verdict(d)
}

func (s *script) named(name string) policy.Named {
	n, ok := s.policies[name]
	if !ok {
		s.fatalf("no policy %s", name)
	}
	return n
}

// verdict is a decision's reason, which must agree with the decision.
func verdict(d policy.Decision) string {
	if strings.HasPrefix(d.String(), "allowed") != d.Allowed || strings.HasPrefix(d.String(), "denied") != d.Explicit {
		return fmt.Sprintf("%v, but %+v", d, d)
	}
	return d.String()
}

// holds says whether the condition at hand holds in a context.
func (s *script) holds(line string) string {
	if s.when == nil {
		s.fatalf("no condition yet")
	}
	text, _, _ := strings.Cut(line, arrow)
	req := &policy.Request{Action: "ssm:Any"}
	s.fill(&req.Context, text)
	if policy.Decide(req, &policy.Policies{Identity: []policy.Named{{Name: "when", Document: s.when}}}).Allowed {
		return "yes"
	}
	return "no"
}

// Editors on Windows begin a file with a byte-order mark.
func TestByteOrderMark(t *testing.T) {
	doc := `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"ssm:StartSession","Resource":"*"}}`
	if _, err := policy.Parse("\ufeff" + doc); err != nil {
		t.Error(err)
	}
	if _, err := policy.Parse("\ufeff\ufeff" + doc); err == nil {
		t.Error("two marks are taken")
	}
	trust := `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"sts:AssumeRole","Principal":{"AWS":"123456789012"}}}`
	got, err := policy.RewritePrincipals("\ufeff"+trust, func(string) (string, error) { return "AIDA1", nil })
	if err != nil || got != strings.Replace(trust, "123456789012", "AIDA1", 1) {
		t.Errorf("%q, %v", got, err)
	}
}
