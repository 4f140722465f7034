package sallyport_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	sm "github.com/sallyport/sallyport"
)

func mustSession(t *testing.T, s string) sm.SessionID {
	t.Helper()
	id, err := sm.ParseSessionID(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// A session's life is one of these paths.
func TestAdvance(t *testing.T) {
	asked := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	later := asked.Add(time.Hour)
	tests := []struct {
		path []sm.State // every step but the last must succeed
		ok   bool       // whether the last one does
		over bool       // whether the session has then ended
	}{
		{path: []sm.State{sm.Connected}, ok: true},
		{path: []sm.State{sm.Failed}, ok: true, over: true},
		{path: []sm.State{sm.Terminating, sm.Terminated}, ok: true, over: true},
		{path: []sm.State{sm.Connected, sm.Disconnected, sm.Connected}, ok: true},
		{path: []sm.State{sm.Connected, sm.Disconnected, sm.Terminating, sm.Terminated}, ok: true, over: true},

		{path: []sm.State{sm.Connected, sm.Terminated}, ok: false},                // no ending unannounced
		{path: []sm.State{sm.Connected, sm.Failed}, ok: false},                    // it did come
		{path: []sm.State{sm.Failed, sm.Connected}, ok: false, over: true},        // no coming back
		{path: []sm.State{sm.Connected, sm.Terminating, sm.Connected}, ok: false}, // nor half-way back
		{path: []sm.State{sm.Disconnected}, ok: false},                            // from nowhere
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.path), func(t *testing.T) {
			s := sm.NewSession(mustSession(t, "alice-0c4f1e9ab27d3355e"), &sm.Principal{ARN: "arn:aws:iam::000000000000:user/alice", ID: "AIDA"}, sm.NewNodeID(), "D", asked)
			last := len(tt.path) - 1
			for _, to := range tt.path[:last] {
				if err := s.Advance(to, later); err != nil {
					t.Fatal(err)
				}
			}
			before := s.State()
			err := s.Advance(tt.path[last], later)
			if (err == nil) != tt.ok {
				t.Fatalf("last step: err = %v, want ok = %v", err, tt.ok)
			}
			if err != nil && s.State() != before {
				t.Errorf("refused step moved the session from %v to %v", before, s.State())
			}
			at, over := s.Ended()
			if over != tt.over || over != at.Equal(later) {
				t.Errorf("Ended() = %v, %v, want over = %v", at, over, tt.over)
			}
			if restored, err := sm.RestoreSession(*s, s.State(), at); err != nil || restored.State() != s.State() {
				t.Errorf("restored as %v, %v", restored, err)
			}
		})
	}
}

func TestIDs(t *testing.T) {
	for _, s := range []string{"mi-0123456789abcdef0", "i-0f0f0f0f", "i-0123456789abcdef0"} {
		if id, err := sm.ParseNodeID(s); err != nil || id.String() != s {
			t.Errorf("ParseNodeID(%q) = %v, %v", s, id, err)
		}
	}
	for _, s := range []string{"", "mi-", "mi-*", "mi-0123456789ABCDEF0", "mi-0123456789abcdef0/..", "../mi-0123456789abcdef0", "i-0f0f0f0", "mi-0123456789abcdef0\n"} {
		if id, err := sm.ParseNodeID(s); sm.CodeOf(err) != sm.InvalidInstanceID || !id.IsZero() {
			t.Errorf("ParseNodeID(%q) = %v, %v", s, id, err)
		}
	}
	for _, s := range []string{"alice-0c4f1e9ab27d3355e", "a+b=c,d.e@f-g-0c4f1e9ab27d3355e", "..-0c4f1e9ab27d3355e"} {
		if id, err := sm.ParseSessionID(s); err != nil || id.String() != s {
			t.Errorf("ParseSessionID(%q) = %v, %v", s, id, err)
		}
	}
	for _, s := range []string{"", "alice", "a/b-0c4f1e9ab27d3355e", "../x-0c4f1e9ab27d3355e", "-0c4f1e9ab27d3355e", "alice-0C4F1E9AB27D3355E", strings.Repeat("a", 79) + "-0c4f1e9ab27d3355e"} {
		if id, err := sm.ParseSessionID(s); sm.CodeOf(err) != sm.ValidationException || !id.IsZero() {
			t.Errorf("ParseSessionID(%q) = %v, %v", s, id, err)
		}
	}
	for _, owner := range []string{"alice", "", "../../x", strings.Repeat("é", 300), "a b"} {
		id := sm.NewSessionID(owner)
		if again, err := sm.ParseSessionID(id.String()); err != nil || again != id || len(id.String()) > 96 {
			t.Errorf("NewSessionID(%q) = %v, which does not parse: %v", owner, id, err)
		}
	}
	if a, b := sm.NewNodeID(), sm.NewNodeID(); a == b {
		t.Errorf("two nodes are %v", a)
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	type inner struct{ secret sm.Secret } // unexported: fmt will not ask us
	v := struct{ inner inner }{inner{sm.NewSecret("s3cret")}}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", v.inner.secret, "v", v)
	js, err := json.Marshal(v.inner.secret)
	if err == nil {
		t.Errorf("a secret was marshalled: %s", js)
	}
	for _, s := range []string{fmt.Sprint(v), fmt.Sprintf("%+v %#v %s", v, v, v.inner.secret), log.String()} {
		if strings.Contains(s, "s3cret") {
			t.Errorf("secret printed: %s", s)
		}
	}
	if h := sm.NewSecret("s3cret").Hash(); !h.Matches(v.inner.secret) || h.Matches(sm.NewSecret("other")) || (sm.SecretHash{}).Matches(sm.Secret{}) {
		t.Error("a hash knows the wrong secret")
	}
}

func TestRealm(t *testing.T) {
	for _, bad := range [][2]string{{"1", "home-1"}, {"00000000000a", "home-1"}, {"000000000000", ""}, {"000000000000", "Home"}, {"000000000000", "a/b"}} {
		if r, err := sm.NewRealm(bad[0], bad[1]); err == nil {
			t.Errorf("NewRealm(%q) = %v", bad, r)
		}
	}
	r, err := sm.NewRealm("000000000000", "home-1")
	if err != nil {
		t.Fatal(err)
	}
	mi, err := sm.ParseNodeID("mi-0123456789abcdef0")
	if err != nil {
		t.Fatal(err)
	}
	i, err := sm.ParseNodeID("i-0f0f0f0f")
	if err != nil {
		t.Fatal(err)
	}
	for got, want := range map[string]string{
		r.Node(mi): "arn:aws:ssm:home-1:000000000000:managed-instance/mi-0123456789abcdef0",
		r.Node(i):  "arn:aws:ec2:home-1:000000000000:instance/i-0f0f0f0f",
		r.Session(mustSession(t, "alice-0c4f1e9ab27d3355e")): "arn:aws:ssm:home-1:000000000000:session/alice-0c4f1e9ab27d3355e",
		r.Document("SSM-SessionManagerRunShell"):             "arn:aws:ssm:home-1:000000000000:document/SSM-SessionManagerRunShell",
		r.Document("AWS-StartSSHSession"):                    "arn:aws:ssm:home-1::document/AWS-StartSSHSession",
		r.User("/team/", "ann"):                              "arn:aws:iam::000000000000:user/team/ann",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// What a thing's tags may be called, beside those it has.
func TestCheckTags(t *testing.T) {
	tags := func(names ...string) map[string]string {
		all := map[string]string{}
		for _, name := range names {
			all[name] = "x"
		}
		return all
	}
	for _, tt := range []struct {
		has, given map[string]string
		says       string // "" if they may
	}{
		{nil, nil, ""},
		{tags("env"), tags("env", "team"), ""}, // replaced
		{tags("env"), tags("environment"), ""},
		{tags("Env"), tags("env"), "Env and env"},
		{nil, tags("Env", "env"), "Env and env"},
		{tags("Env", "env"), tags("team"), ""}, // from before it was refused
		{tags("Env", "env"), tags("env"), "Env and env"},
		{tags("Ünder"), tags("ünder"), "Ünder and ünder"},
		{tags("k"), tags("\u212a"), "k and \u212a"}, // the kelvin sign
	} {
		err := sm.CheckTags(tt.has, tt.given)
		if (err == nil) != (tt.says == "") || err != nil && (sm.CodeOf(err) != sm.ValidationException || !strings.Contains(err.Error(), tt.says+" differ by case alone")) {
			t.Errorf("%v, given %v: %v, want %q", tt.has, tt.given, err, tt.says)
		}
	}
}
