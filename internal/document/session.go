package document

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/strictjson"
	"github.com/sallyport/sallyport/internal/wire"
)

// A Session is what a document says of one session.
type Session struct {
	Document wire.SessionDocument // as the agent is told: filled, and without parameters
	Idle     time.Duration        // 0: not said
	Max      time.Duration        // 0: no limit
}

// Limits of the two timeouts, in minutes. (User guide, "Specify an idle session
// timeout value" and "Specify maximum session duration".)
const (
	maxIdle = 60
	maxLife = 1440
)

// Fill makes a session of the document: values are the parameters given, and
// preferences, the account's, say what the document does not; nil says nothing.
// A value that does not fit is InvalidParameters.
func (d *Document) Fill(values map[string][]string, preferences *Document) (*Session, error) {
	all, err := d.values(values)
	if err != nil {
		return nil, err
	}
	return d.make(all, preferences)
}

// try fills the document as far as it can be without knowing what will be
// given: a parameter without a default is left out.
func (d *Document) try() error {
	all := map[string][]string{}
	open := false
	for name, p := range d.Parameters {
		if all[name] = p.Default; p.Default == nil {
			all[name] = []string{""}
			open = true
		}
	}
	_, err := d.make(all, nil)
	if open && sallyport.CodeOf(err) == sallyport.InvalidParameters {
		return nil
	}
	if err != nil {
		return invalid("%s", sallyport.Public(err).Message)
	}
	return nil
}

// LogsTo returns the input that names a place of AWS's for the logs of sessions,
// and the place; or nothing, if none does. Empty names are none.
func (d *Document) LogsTo() (input, place string) {
	for _, input := range logInputs {
		if place, ok := text(d.inputs[input]); ok && place != "" {
			return input, place
		}
	}
	return "", ""
}

// logInputs are the inputs that name places for logs.
var logInputs = []string{"s3BucketName", "cloudWatchLogGroupName"}

// LogsTo returns the input that names a place of AWS's for the session's log, and
// the place; or nothing, if none does.
func (s *Session) LogsTo() (input, place string) {
	for i, place := range []string{s.Document.Inputs.S3BucketName, s.Document.Inputs.CloudWatchLogGroupName} {
		if place != "" {
			return logInputs[i], place
		}
	}
	return "", ""
}

func (d *Document) make(values map[string][]string, preferences *Document) (*Session, error) {
	inputs := map[string]any{}
	if preferences != nil {
		defaults, err := preferences.values(nil)
		if err != nil {
			return nil, err
		}
		filled, err := preferences.fill(preferences.inputs, defaults)
		if err != nil {
			return nil, err
		}
		maps.Copy(inputs, filled.(map[string]any))
	}
	if n := filledSize(d.inputs, values) + filledSize(d.properties, values); n > maxFilled {
		return nil, unfit("The document has %d bytes with its parameters filled in, and may have %d. Shorten the parameters.", n, maxFilled)
	}
	filled, err := d.fill(d.inputs, values)
	if err != nil {
		return nil, err
	}
	for k, v := range filled.(map[string]any) {
		if v != "" && v != nil || inputs[k] == nil { // empty is unset
			inputs[k] = v
		}
	}
	s := &Session{Document: wire.SessionDocument{
		SchemaVersion: "1.0", Description: d.Description, SessionType: d.Type, Parameters: map[string]wire.DocumentParameter{},
	}}
	if err := s.readInputs(inputs); err != nil {
		return nil, err
	}
	properties, err := d.fill(d.properties, values)
	if err != nil {
		return nil, err
	}
	switch d.Type {
	case Port:
		err = s.readPort(properties)
	case Command, NonInteractive:
		err = s.readCommands(properties)
	}
	return s, err
}

func (s *Session) readInputs(inputs map[string]any) (err error) {
	to := &s.Document.Inputs
	for _, key := range slices.Sorted(maps.Keys(inputs)) {
		v := inputs[key]
		switch key {
		case "s3BucketName":
			to.S3BucketName, err = line(key, v)
		case "s3KeyPrefix":
			to.S3KeyPrefix, err = line(key, v)
		case "s3EncryptionEnabled":
			to.S3EncryptionEnabled, err = truth(key, v)
		case "cloudWatchLogGroupName":
			to.CloudWatchLogGroupName, err = line(key, v)
		case "cloudWatchEncryptionEnabled":
			to.CloudWatchEncryptionEnabled, err = truth(key, v)
		case "cloudWatchStreamingEnabled":
			to.CloudWatchStreamingEnabled, err = truth(key, v)
		case "kmsKeyId":
			to.KmsKeyId, err = line(key, v)
		case "runAsEnabled":
			to.RunAsEnabled, err = truth(key, v)
		case "runAsDefaultUser":
			to.RunAsDefaultUser, err = line(key, v)
		case "idleSessionTimeout":
			s.Idle, err = minutes(key, v, maxIdle)
		case "maxSessionDuration":
			s.Max, err = minutes(key, v, maxLife)
		case "shellProfile":
			err = s.readProfile(v)
		default:
			return unfit("inputs has a member %q, which a session document does not have.", sallyport.Clip(key, 64))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Session) readProfile(v any) (err error) {
	profile, ok := v.(map[string]any)
	if !ok && v != nil && v != "" {
		return unfit("shellProfile is %s, and has to be an object with linux, windows or both.", quote(v))
	}
	for key, v := range profile {
		switch key {
		case "linux":
			s.Document.Inputs.ShellProfile.Linux, err = commands(key, v)
		case "windows":
			s.Document.Inputs.ShellProfile.Windows, err = commands(key, v)
		default:
			return unfit("shellProfile has a member %q. It has linux and windows.", sallyport.Clip(key, 64))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readPort reads the properties of a Port session. Both of AWS's programs take
// nothing but text in them.
func (s *Session) readPort(v any) (err error) {
	members, ok := v.(map[string]any)
	if !ok {
		return unfit("properties is %s, and of a Port session has to be an object.", quote(v))
	}
	var p wire.PortProperties
	for _, key := range slices.Sorted(maps.Keys(members)) {
		to := map[string]*string{
			"portNumber": &p.PortNumber, "host": &p.Host, "localPortNumber": &p.LocalPortNumber,
			"localUnixSocket": &p.LocalUnixSocket, "localConnectionType": &p.LocalConnectionType, "type": &p.Type,
		}[key]
		if to == nil {
			return unfit("properties has a member %q, which a Port session does not have.", sallyport.Clip(key, 64))
		}
		if *to, err = line(key, members[key]); err != nil {
			return err
		}
	}
	if p.PortNumber == "" {
		return unfit("portNumber is missing.")
	}
	s.Document.Properties, err = strictjson.Marshal(p)
	return err
}

func (s *Session) readCommands(v any) (err error) {
	systems, ok := v.(map[string]any)
	if !ok {
		return unfit("properties is %s, and of a session with a command has to be an object with linux, windows, macos or several.", quote(v))
	}
	var p wire.CommandProperties
	for _, system := range slices.Sorted(maps.Keys(systems)) {
		to := map[string]*wire.PlatformCommand{"linux": &p.Linux, "windows": &p.Windows, "macos": &p.MacOS}[strings.ToLower(system)]
		members, ok := systems[system].(map[string]any)
		if to == nil || !ok {
			return unfit("properties has a member %q. It has linux, windows and macos, which are objects.", sallyport.Clip(system, 64))
		}
		for _, key := range slices.Sorted(maps.Keys(members)) {
			v := members[key]
			switch key {
			case "commands":
				to.Commands, err = commands(key, v)
			case "runAsElevated":
				to.RunAsElevated, err = truth(key, v)
			case "separateOutputStream":
				to.SeparateOutputStream, err = truth(key, v)
			case "stdOutSeparatorPrefix":
				to.StdOutSeparatorPrefix, err = prefix(key, v)
			case "stdErrSeparatorPrefix":
				to.StdErrSeparatorPrefix, err = prefix(key, v)
			default:
				return unfit("%s has a member %q, which a command does not have.", system, sallyport.Clip(key, 64))
			}
			if err != nil {
				return err
			}
		}
	}
	s.Document.Properties, err = strictjson.Marshal(p)
	return err
}

func line(key string, v any) (string, error) {
	s, ok := text(v)
	if !ok && v != nil || strings.ContainsAny(s, "\x00\r\n") {
		return "", unfit("%s is %s, and has to be text on one line.", key, quote(v))
	}
	return s, nil
}

// prefix is a text that may have line ends. (amazon-ssm-agent
// agent/session/contracts/model.go.)
func prefix(key string, v any) (string, error) {
	s, ok := text(v)
	if !ok && v != nil || len(s) > 30 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789\r\n_:-") != "" {
		return "", unfit("%s is %s, and has to be at most 30 letters, digits, line ends, _, : or -.", key, quote(v))
	}
	return s, nil
}

// commands is text, or a list of lines.
func commands(key string, v any) (string, error) {
	if v == nil {
		return "", nil
	}
	lines, ok := texts(v)
	if !ok || strings.ContainsRune(strings.Join(lines, ""), 0) {
		return "", unfit("%s is %s, and has to be text.", key, quote(v))
	}
	return strings.Join(lines, "\n"), nil
}

func truth(key string, v any) (wire.Bool, error) {
	s, ok := text(v)
	switch strings.ToLower(s) {
	case "true":
		return true, nil
	case "false", "":
		if ok || v == nil {
			return false, nil
		}
	}
	return false, unfit("%s is %s, and has to be true or false.", key, quote(v))
}

// minutes reads a number of minutes, as a number or as text; empty is none.
func minutes(key string, v any, most int) (time.Duration, error) {
	if v == nil || v == "" {
		return 0, nil
	}
	n, ok := whole(v)
	if !ok || n < 1 || n > most {
		return 0, unfit("%s is %s, and has to be a number of minutes, 1 to %d.", key, quote(v), most)
	}
	return time.Duration(n) * time.Minute, nil
}
