package document

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/wire"
)

// Content in YAML that is said to be JSON is told apart, and what to give is said.
func TestYAMLTakenForJSON(t *testing.T) {
	_, err := Parse("schemaVersion: \"1.0\"\nsessionType: Standard_Stream\n", JSON)
	if err == nil || !strings.HasSuffix(err.Error(), "It reads as YAML: give DocumentFormat YAML (--document-format YAML).") {
		t.Errorf("%v", err)
	}
	for _, text := range []string{"{", "", "just text", `{"schemaVersion":"1.0",}x`} {
		if _, err := Parse(text, JSON); err == nil || strings.Contains(err.Error(), "YAML") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func parse(t *testing.T, text string) *Document {
	t.Helper()
	f := JSON
	if !strings.HasPrefix(strings.TrimSpace(text), "{") {
		f = YAML
	}
	d, err := ParseKind(KindOf(text, f), text, f)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// What AWS's guide shows for the preferences, in both formats, with all that
// may be in them.
const preferences = `{"schemaVersion":"1.0","description":"regional settings","sessionType":"Standard_Stream",
	"inputs":{"s3BucketName":"b","s3KeyPrefix":"","s3EncryptionEnabled":true,"cloudWatchLogGroupName":"g","cloudWatchEncryptionEnabled":"false",
	"cloudWatchStreamingEnabled":false,"kmsKeyId":"alias/k","runAsEnabled":"True","runAsDefaultUser":"ann","idleSessionTimeout":"15","maxSessionDuration":60,
	"shellProfile":{"windows":"cls","linux":"exec bash\ncd"}}}`

func TestPreferences(t *testing.T) {
	s, err := parse(t, preferences).Fill(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := &Session{Idle: 15 * time.Minute, Max: time.Hour, Document: wire.SessionDocument{
		SchemaVersion: "1.0", Description: "regional settings", SessionType: Shell, Parameters: map[string]wire.DocumentParameter{},
		Inputs: wire.SessionInputs{
			S3BucketName: "b", S3EncryptionEnabled: true, CloudWatchLogGroupName: "g", KmsKeyId: "alias/k",
			RunAsEnabled: true, RunAsDefaultUser: "ann", ShellProfile: wire.ShellProfile{Windows: "cls", Linux: "exec bash\ncd"},
		},
	}}
	if d := cmp.Diff(want, s); d != "" {
		t.Error(d)
	}
}

// A document says the same in either format, there and back.
func TestFormats(t *testing.T) {
	texts := []string{preferences}
	for _, b := range Builtins() {
		texts = append(texts, b.Content)
	}
	for _, text := range texts {
		d := parse(t, text)
		yaml, err := d.Write(YAML)
		if err != nil {
			t.Fatal(err)
		}
		again := parse(t, yaml)
		back, err := again.Write(JSON)
		if err != nil {
			t.Fatal(err)
		}
		var a, b any
		if json.Unmarshal([]byte(text), &a) != nil || json.Unmarshal([]byte(back), &b) != nil {
			t.Fatal(back)
		}
		if diff := cmp.Diff(a, b); diff != "" {
			t.Error(diff)
		}
	}
}

// Editors on Windows begin a file with a byte-order mark.
func TestByteOrderMark(t *testing.T) {
	for text, f := range map[string]Format{
		"\ufeff" + `{"schemaVersion":"1.0","sessionType":"Standard_Stream"}`: JSON,
		"\ufeffschemaVersion: '1.0'\nsessionType: Standard_Stream\n":         YAML,
	} {
		if d, err := Parse(text, f); err != nil || d.Type != Shell {
			t.Errorf("%s: %+v, %v", f, d, err)
		}
	}
}

func TestRefuses(t *testing.T) {
	doc := func(rest string) string { return `{"schemaVersion":"1.0","sessionType":"Standard_Stream"` + rest + `}` }
	tests := []struct {
		name, text string
		format     Format
		code       sallyport.Code
		says       string
	}{
		{"nothing", "", JSON, sallyport.InvalidDocumentContent, "not JSON"},
		{"a list", "[]", JSON, sallyport.InvalidDocumentContent, "not JSON"},
		{"half", `{"schemaVersion":`, JSON, sallyport.InvalidDocumentContent, "not JSON"},
		{"two documents", `{} {}`, JSON, sallyport.InvalidDocumentContent, "something follows its end"},
		{"two documents in YAML", "a: 1\n---\nb: 2\n", YAML, sallyport.InvalidDocumentContent, "something follows its end"},
		{"YAML that is not", "a: [", YAML, sallyport.InvalidDocumentContent, "not YAML"},
		{"a member twice", doc(`,"inputs":{"runAsEnabled":true,"runAsEnabled":false}`), JSON, sallyport.InvalidDocumentContent, `has the member "runAsEnabled" twice`},
		{"a member twice in YAML", "schemaVersion: '1.0'\nsessionType: Standard_Stream\nsessionType: Port\n", YAML, sallyport.InvalidDocumentContent, "already defined"},
		{"a number that is none", "schemaVersion: .nan\n", YAML, sallyport.InvalidDocumentContent, "no number NaN"},
		{"a date", "schemaVersion: 2020-01-01\n", YAML, sallyport.InvalidDocumentContent, "neither text"},
		{"another schema", `{"schemaVersion":"2.2"}`, JSON, sallyport.InvalidDocumentSchemaVersion, `"2.2"`},
		{"a schema that is a number", `{"schemaVersion":1.0}`, JSON, sallyport.InvalidDocumentSchemaVersion, "1.0"},
		{"no type", `{"schemaVersion":"1.0"}`, JSON, sallyport.InvalidDocumentContent, "no sessionType"},
		{"a type there is not", `{"schemaVersion":"1.0","sessionType":"Shell"}`, JSON, sallyport.InvalidDocumentContent, `"Shell"`},
		{"a member there is not", doc(`,"input":{}`), JSON, sallyport.InvalidDocumentContent, `no member "input"`},
		{"an input there is not", doc(`,"inputs":{"idleSessionTimeOut":"5"}`), JSON, sallyport.InvalidDocumentContent, "idleSessionTimeOut"},
		{"an hour and a minute of silence", doc(`,"inputs":{"idleSessionTimeout":"61"}`), JSON, sallyport.InvalidDocumentContent, "1 to 60"},
		{"half a minute", doc(`,"inputs":{"idleSessionTimeout":0.5}`), JSON, sallyport.InvalidDocumentContent, "0.5"},
		{"more than a day", doc(`,"inputs":{"maxSessionDuration":"1441"}`), JSON, sallyport.InvalidDocumentContent, "1 to 1440"},
		{"perhaps", doc(`,"inputs":{"runAsEnabled":"perhaps"}`), JSON, sallyport.InvalidDocumentContent, "true or false"},
		{"a user on two lines", doc(`,"inputs":{"runAsDefaultUser":"a\nb"}`), JSON, sallyport.InvalidDocumentContent, "one line"},
		{"a pattern that takes long to compile", doc(`,"parameters":{"a":{"type":"String","allowedPattern":"` + strings.Repeat("x{999}", 100) + `"}}`), JSON, sallyport.InvalidDocumentContent, "is too large"},
		{"a pattern that is long", doc(`,"parameters":{"a":{"type":"String","allowedPattern":"` + strings.Repeat("x", 1025) + `"}}`), JSON, sallyport.InvalidDocumentContent, "is too large"},
		{"a pattern that cannot be used", doc(`,"parameters":{"a":{"type":"String","allowedPattern":"(?=x)"}}`), JSON, sallyport.InvalidDocumentContent, "allowedPattern"},
		{"a default that does not fit", doc(`,"parameters":{"a":{"type":"String","default":"x","allowedValues":["y"]}}`), JSON, sallyport.InvalidDocumentContent, "default of a"},
		{"a parameter with no type", doc(`,"parameters":{"a":{}}`), JSON, sallyport.InvalidDocumentContent, "no type"},
		{"a name with a hyphen", doc(`,"parameters":{"a-b":{"type":"String"}}`), JSON, sallyport.InvalidDocumentContent, "letters and digits"},
		{"a reference to nothing", doc(`,"inputs":{"s3KeyPrefix":"{{ nothing }}"}`), JSON, sallyport.InvalidDocumentContent, "not declared"},
		{"a reference to Parameter Store", doc(`,"inputs":{"s3KeyPrefix":"{{ssm:secret}}"}`), JSON, sallyport.InvalidDocumentContent, "Parameter Store"},
		{"a port session with no port", `{"schemaVersion":"1.0","sessionType":"Port","properties":{}}`, JSON, sallyport.InvalidDocumentContent, "portNumber is missing"},
		{"a command for nobody", `{"schemaVersion":"1.0","sessionType":"InteractiveCommands","properties":{"beos":{}}}`, JSON, sallyport.InvalidDocumentContent, "beos"},
		{"a prefix with a bell", `{"schemaVersion":"1.0","sessionType":"NonInteractiveCommands","properties":{"linux":{"commands":"x","stdOutSeparatorPrefix":"\u0007"}}}`, JSON, sallyport.InvalidDocumentContent, "stdOutSeparatorPrefix"},
		{"too much", `"` + strings.Repeat("x", MaxSize) + `"`, JSON, sallyport.MaxDocumentSizeExceeded, "65536"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse(tt.text, tt.format)
			if sallyport.CodeOf(err) != tt.code || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("err = %v, want %s with %q", err, tt.code, tt.says)
			}
		})
	}
}

func properties(t *testing.T, name string, values map[string][]string) (p wire.PortProperties) {
	t.Helper()
	s, err := FindBuiltin(name).Doc.Fill(values, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(s.Document.Properties, &p); err != nil {
		t.Fatal(err)
	}
	return p
}

// The documents people know have AWS's parameters, and become what agents want:
// nothing but text in a Port's properties, a truth for runAsElevated.
func TestBuiltins(t *testing.T) {
	for name, want := range map[string]wire.PortProperties{
		"AWS-StartSSHSession":                        {PortNumber: "22"},
		"AWS-StartPortForwardingSession":             {PortNumber: "80", LocalPortNumber: "0", Type: wire.LocalPortForwarding},
		"AWS-StartPortForwardingSessionToRemoteHost": {PortNumber: "80", LocalPortNumber: "0", Type: wire.LocalPortForwarding, Host: "localhost"},
	} {
		if d := cmp.Diff(want, properties(t, name, nil)); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	got := properties(t, "AWS-StartPortForwardingSessionToRemoteHost", map[string][]string{"host": {"db.example"}, "portNumber": {"5432"}, "localPortNumber": {"15432"}})
	if d := cmp.Diff(wire.PortProperties{PortNumber: "5432", LocalPortNumber: "15432", Host: "db.example", Type: wire.LocalPortForwarding}, got); d != "" {
		t.Error(d)
	}
	got = properties(t, "AWS-StartPortForwardingSessionToSocket", map[string][]string{"localUnixSocket": {"/run/x.sock"}})
	if d := cmp.Diff(wire.PortProperties{PortNumber: "80", LocalUnixSocket: "/run/x.sock", LocalConnectionType: "unix", Type: wire.LocalPortForwarding}, got); d != "" {
		t.Error(d)
	}
	s, err := FindBuiltin("Sallyport-Exec").Doc.Fill(map[string][]string{"command": {`echo "a b"`}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var p wire.CommandProperties
	if err := json.Unmarshal(s.Document.Properties, &p); err != nil {
		t.Fatal(err)
	}
	if s.Document.SessionType != NonInteractive || p.Linux.Commands != `echo "a b"` || !p.Linux.SeparateOutputStream || p.Linux.RunAsElevated || p.MacOS != p.Linux {
		t.Errorf("%s: %+v", s.Document.SessionType, p)
	}
	if !strings.Contains(string(s.Document.Properties), `"runAsElevated":false`) {
		t.Errorf("a stock agent takes only true and false: %s", s.Document.Properties)
	}
	for _, b := range Builtins() {
		if !strings.HasPrefix(b.Name, "AWS-") && b.Owner == "Amazon" {
			t.Errorf("%s is %s's", b.Name, b.Owner)
		}
	}
}

func TestParametersAreChecked(t *testing.T) {
	d := parse(t, `{"schemaVersion":"1.0","sessionType":"InteractiveCommands",
		"parameters":{
			"must":{"type":"string","allowedPattern":"^[a-z]+$","minChars":2,"maxChars":4},
			"one":{"type":"String","allowedValues":["x","y"],"default":"x"},
			"many":{"type":"StringList","minItems":1,"maxItems":2,"default":["a","b"]},
			"flag":{"type":"Boolean","default":false}},
		"properties":{"linux":{"commands":"{{must}} {{ one }} {{ many }}","runAsElevated":"{{ flag }}"}}}`)
	with := func(name string, values ...string) map[string][]string {
		m := map[string][]string{"must": {"abc"}}
		maps.Copy(m, map[string][]string{name: values})
		return m
	}
	s, err := d.Fill(with("flag", "true"), nil)
	if err != nil {
		t.Fatal(err)
	}
	var p wire.CommandProperties
	if err := json.Unmarshal(s.Document.Properties, &p); err != nil || p.Linux.Commands != `abc x ["a","b"]` || !p.Linux.RunAsElevated {
		t.Errorf("filled: %s, %v", s.Document.Properties, err)
	}
	tests := []struct {
		name   string
		values map[string][]string
		says   string
	}{
		{"one that must be given", map[string][]string{}, "must is missing"},
		{"one there is not", with("other", "x"), `no parameter "other". It has flag, many, must, one.`},
		{"two values for one", with("one", "x", "y"), "one takes one value, and has 2"},
		{"none for one", with("one"), "one takes one value, and has 0"},
		{"a value that is not allowed", with("one", "z"), "It may be x, y"},
		{"a pattern that does not match", with("must", "ab1"), "does not match ^[a-z]+$"},
		{"too short", with("must", "a"), "1 characters, and takes 2 to 4"},
		{"too long", with("must", "abcde"), "5 characters"},
		{"too many items", with("many", "a", "b", "c"), "3 values, and takes 1 to 2"},
		{"no truth", with("flag", "yes"), "true or false"},
		{"a reference to Parameter Store", with("many", "a {{ ssm:secret }}"), "{{ ssm:secret }}"},
		{"a reference to a secret there", with("many", "{{ssm-secure:secret}}"), "Parameter Store"},
		{"a NUL", with("many", "a\x00"), "not text"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := d.Fill(tt.values, nil)
			if sallyport.CodeOf(err) != sallyport.InvalidParameters || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("err = %v, want %q", err, tt.says)
			}
		})
	}
	braces := `docker ps --format '{{.Names}}' {{ one }} {{`
	if s, err = d.Fill(with("many", braces), nil); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(s.Document.Properties, &p); err != nil || p.Linux.Commands != `abc x ["`+braces+`"]` {
		t.Errorf("braces that are text: %s, %v", s.Document.Properties, err)
	}
	command := "echo '{{ssm:secret}}' " + braces
	s, err = FindBuiltin("Sallyport-Exec").Doc.Fill(map[string][]string{"command": {command}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(s.Document.Properties, &p); err != nil || p.Linux.Commands != command {
		t.Errorf("exec: %s, %v", s.Document.Properties, err)
	}
	for _, bad := range []string{"0", "65536", "22; id", "-1", ""} {
		if _, err := FindBuiltin("AWS-StartSSHSession").Doc.Fill(map[string][]string{"portNumber": {bad}}, nil); sallyport.CodeOf(err) != sallyport.InvalidParameters {
			t.Errorf("port %q: %v", bad, err)
		}
	}
	for _, bad := range []string{"a b", "$(id)", "-x", "a;b", ""} {
		if _, err := FindBuiltin("AWS-StartPortForwardingSessionToRemoteHost").Doc.Fill(map[string][]string{"host": {bad}}, nil); sallyport.CodeOf(err) != sallyport.InvalidParameters {
			t.Errorf("host %q: %v", bad, err)
		}
	}
}

// What a document comes to is bounded before it is filled in.
func TestFilledDocumentIsBounded(t *testing.T) {
	d := parse(t, `{"schemaVersion":"1.0","sessionType":"InteractiveCommands","parameters":{"a":{"type":"String"}},
		"properties":{"linux":{"commands":"`+strings.Repeat("{{a}}", 10_000)+`"}}}`)
	_, err := d.Fill(map[string][]string{"a": {strings.Repeat("x", 50_000)}}, nil)
	if sallyport.CodeOf(err) != sallyport.InvalidParameters || !strings.Contains(err.Error(), "500050000 bytes with its parameters filled in") {
		t.Errorf("err = %v", err)
	}
	if _, err := d.Fill(map[string][]string{"a": {"x"}}, nil); err != nil {
		t.Error(err)
	}
}

// What YAML comes to is bounded before it is read: aliases stand for any amount of
// text.
func TestYAMLIsBounded(t *testing.T) {
	doc := "schemaVersion: '1.0'\nsessionType: Standard_Stream\n"
	long, plain := strings.Repeat("x", 30_000), strings.Repeat("1,", 8000)
	for name, tt := range map[string]struct{ text, says string }{
		"aliases of one text":    {doc + "description: [[" + plain + "], &a " + long + ", &b [" + strings.Repeat("*a,", 1000) + "], [" + strings.Repeat("*b,", 60) + "]]", "131072 bytes with its aliases written out"},
		"an alias of itself":     {doc + "description: &a [*a]", "more than 64 deep"},
		"65 deep":                {doc + "description: " + strings.Repeat("[", 64) + strings.Repeat("]", 64), "more than 64 deep"},
		"9,900 deep":             {doc + "description: " + strings.Repeat("[", 9900) + strings.Repeat("]", 9900), "more than 64 deep"},
		"a name that is no text": {doc + "description: {1: [" + plain + "]}", "..."},
	} {
		_, err := Parse(tt.text, YAML)
		if sallyport.CodeOf(err) != sallyport.InvalidDocumentContent || len(err.Error()) > 500 || tt.says != "..." && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Parse(doc+"description: &a text\ninputs: {s3KeyPrefix: *a}", YAML); err != nil {
		t.Errorf("an alias: %v", err)
	}
	if _, err := Parse(`{"schemaVersion":"1.0","sessionType":"InteractiveCommands","parameters":{"a":{"type":"String","displayType":[[1]]}},"properties":{"linux":{"commands":"x"}}}`, JSON); err == nil {
		t.Error("a displayType that is no text is taken")
	}
}

// Holding values to patterns takes no longer than a moment.
func TestMatchingIsBounded(t *testing.T) {
	pattern := strings.Repeat("(a?){900}", 4) + "z"
	with := func(def string) string {
		return `{"schemaVersion":"1.0","sessionType":"InteractiveCommands","parameters":{"a":{"type":"StringList","allowedPattern":"` + pattern + `"` + def + `}},
			"properties":{"linux":{"commands":"{{a}}"}}}`
	}
	long := strings.Repeat("a", 60_000)
	_, err := parse(t, with("")).Fill(map[string][]string{"a": {long, long, long}}, nil)
	if sallyport.CodeOf(err) != sallyport.InvalidParameters || !strings.Contains(err.Error(), "takes too long") {
		t.Errorf("values: %v", err)
	}
	if _, err := parse(t, with("")).Fill(map[string][]string{"a": {"aaaz"}}, nil); err != nil {
		t.Errorf("a short value: %v", err)
	}
	if _, err := Parse(with(`,"default":["`+long+`"]`), JSON); sallyport.CodeOf(err) != sallyport.InvalidDocumentContent || !strings.Contains(err.Error(), "takes too long") {
		t.Errorf("a default: %v", err)
	}
}

// Parameters do not make up a reference between them.
func TestReferencesAreNotMadeUp(t *testing.T) {
	for _, text := range []string{"echo {{a}}{{b}}", "{{{{a}}ssm:secret}}", "{{ {{a}}:{{b}} }}"} {
		d := parse(t, `{"schemaVersion":"1.0","sessionType":"InteractiveCommands","parameters":{"a":{"type":"String","default":"x"},"b":{"type":"String","default":"y"}},
			"properties":{"linux":{"commands":"`+text+`"}}}`)
		for _, values := range []map[string][]string{{"a": {"{{ssm:"}, "b": {"secret}}"}}, {"a": {"ssm"}, "b": {"secret"}}, {"a": {""}}} {
			s, err := d.Fill(values, nil)
			if err == nil && storeReference.Match(s.Document.Properties) {
				t.Errorf("%s with %v is filled in to %s", text, values, s.Document.Properties)
			}
			if err != nil && sallyport.CodeOf(err) != sallyport.InvalidParameters {
				t.Errorf("%s with %v: %v", text, values, err)
			}
		}
	}
}

// What a document does not say, the account's preferences do.
func TestPreferencesFillWhatADocumentLacks(t *testing.T) {
	d := parse(t, `{"schemaVersion":"1.0","sessionType":"InteractiveCommands","inputs":{"idleSessionTimeout":"5","runAsDefaultUser":""},
		"properties":{"linux":{"commands":"top"}}}`)
	s, err := d.Fill(nil, parse(t, preferences))
	if err != nil {
		t.Fatal(err)
	}
	if s.Idle != 5*time.Minute || s.Max != time.Hour || s.Document.Inputs.RunAsDefaultUser != "ann" || !s.Document.Inputs.RunAsEnabled || s.Document.SessionType != Command {
		t.Errorf("%+v", s)
	}
}

// Every text is refused or is a document that makes a session, and that means the
// same when it is written again.
func FuzzParse(f *testing.F) {
	f.Add(preferences)
	for _, b := range Builtins() {
		f.Add(b.Content)
	}
	f.Add("schemaVersion: '1.0'\nsessionType: Port\nproperties:\n  portNumber: 22\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, format := range []Format{JSON, YAML} {
			d, err := Parse(text, format)
			if err != nil {
				if sallyport.CodeOf(err) == "" {
					t.Fatalf("%v is no error for a caller", err)
				}
				continue
			}
			if _, err := d.Fill(nil, nil); err != nil && sallyport.CodeOf(err) == "" {
				t.Fatalf("%v is no error for a caller", err)
			}
			again, err := d.Write(JSON)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Parse(again, JSON); err != nil && sallyport.CodeOf(err) != sallyport.MaxDocumentSizeExceeded {
				t.Fatalf("written again: %v: %s", err, again)
			}
		}
	})
}
