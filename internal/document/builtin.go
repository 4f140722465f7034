package document

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// A port is 1 to 65535, and a local one may be 0, for any that is free.
const (
	portPattern      = `^([1-9]|[1-9][0-9]{1,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$`
	localPortPattern = `^([0-9]|[1-9][0-9]{1,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$`
)

// A Builtin is a document that is there from the start and cannot be changed.
// Those of AWS's have AWS's names and parameters; what AWS keeps to itself of
// them is our own.
type Builtin struct {
	Name    string
	Owner   string // Amazon, or Sallyport
	Content string // JSON
	Created time.Time
	Doc     *Document
}

// Builtins are all of them, by name.
func Builtins() []*Builtin { return slices.Clone(builtins()) }

// FindBuiltin returns the one of that name, or nil.
func FindBuiltin(name string) *Builtin {
	for _, b := range builtins() {
		if b.Name == name {
			return b
		}
	}
	return nil
}

// builtins are made when they are first asked for: a client never asks.
var builtins = sync.OnceValue(func() (all []*Builtin) {
	parameter := func(name, kind, description, rest string) string {
		return fmt.Sprintf(`%q: {"type": %q, "description": %q%s}`, name, kind, description, rest)
	}
	remote := parameter("portNumber", "String", "The port on the node, or on the host it forwards to.", fmt.Sprintf(`, "allowedPattern": %q, "default": "80"`, portPattern))
	local := parameter("localPortNumber", "String", "The port on the client's machine; 0 is any that is free.", fmt.Sprintf(`, "allowedPattern": %q, "default": "0"`, localPortPattern))
	command := func(kind, elevated, more string) string {
		platform := fmt.Sprintf(`{"commands": "{{ command }}", "runAsElevated": %s%s}`, elevated, more)
		return fmt.Sprintf(`{
  "schemaVersion": "1.0",
  "description": "A command on a node.",
  "sessionType": %q,
  "parameters": {%s},
  "properties": {"linux": %s, "macos": %s, "windows": %s}
}`, kind, parameter("command", "String", "The command.", ""), platform, platform, platform)
	}
	add := func(owner, name, content string) {
		d, err := ParseKind(KindOf(content, JSON), content, JSON)
		if err != nil {
			panic(name + ": " + err.Error()) // a document of ours
		}
		all = append(all, &Builtin{name, owner, content, time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), d})
	}
	port := func(description, parameters, properties string) string {
		return fmt.Sprintf(`{
  "schemaVersion": "1.0",
  "description": %q,
  "sessionType": "Port",
  "parameters": {%s},
  "properties": {%s}
}`, description, parameters, properties)
	}
	const forward = `"portNumber": "{{ portNumber }}", "type": "LocalPortForwarding", "localPortNumber": "{{ localPortNumber }}"`

	add("Amazon", "AWS-PasswordReset", `{
  "schemaVersion": "1.0",
  "description": "Another password for a user of a node.",
  "sessionType": "InteractiveCommands",
  "parameters": {`+parameter("username", "String", "Whose password.", `, "allowedPattern": "^[A-Za-z_][A-Za-z0-9_.-]{0,31}$"`)+`},
  "properties": {
    "linux": {"commands": "passwd {{ username }}", "runAsElevated": true},
    "macos": {"commands": "passwd {{ username }}", "runAsElevated": true},
    "windows": {"commands": "net user {{ username }} *", "runAsElevated": true}
  }
}`)
	script := func(what, plugin string) string {
		return fmt.Sprintf(`{
  "schemaVersion": "1.2",
  "description": %q,
  "parameters": {%s, %s, %s},
  "runtimeConfig": {%q: {"properties": [{"id": %q, "runCommand": "{{ commands }}", "workingDirectory": "{{ workingDirectory }}", "timeoutSeconds": "{{ executionTimeout }}"}]}}
}`, what,
			parameter("commands", "StringList", "The commands, a line each.", `, "minItems": 1, "displayType": "textarea"`),
			parameter("workingDirectory", "String", "Where they run.", `, "default": "", "maxChars": 4096`),
			parameter("executionTimeout", "String", "How many seconds they may take.", `, "default": "3600", "allowedPattern": "([1-9][0-9]{0,4})|(1[0-6][0-9]{4})|(17[0-1][0-9]{3})|(172[0-7][0-9]{2})|(172800)"`),
			plugin, "0."+plugin)
	}
	add("Amazon", "AWS-RunPowerShellScript", script("Commands of PowerShell on nodes.", "aws:runPowerShellScript"))
	add("Amazon", "AWS-RunShellScript", script("Commands of a shell on nodes.", "aws:runShellScript"))
	add("Amazon", "AWS-StartInteractiveCommand", command(Command, "false", ""))
	add("Amazon", "AWS-StartNonInteractiveCommand", command(NonInteractive, "false", ""))
	add("Amazon", "AWS-StartPortForwardingSession", port("A port on a node, from the client's machine.", remote+", "+local, forward))
	add("Amazon", "AWS-StartPortForwardingSessionToRemoteHost", port("A port on a host that a node reaches, from the client's machine.",
		remote+", "+local+", "+parameter("host", "String", "The host's name or address, as the node knows it.", `, "allowedPattern": "^[A-Za-z0-9._:][A-Za-z0-9._:%-]{0,254}$", "default": "localhost"`),
		forward+`, "host": "{{ host }}"`))
	add("Amazon", "AWS-StartPortForwardingSessionToSocket", port("A port on a node, from a unix socket on the client's machine.",
		remote+", "+parameter("localUnixSocket", "String", "The path of the socket.", `, "allowedPattern": "^/[^\\x00]{1,100}$"`),
		`"portNumber": "{{ portNumber }}", "type": "LocalPortForwarding", "localConnectionType": "unix", "localUnixSocket": "{{ localUnixSocket }}"`))
	add("Amazon", "AWS-StartSSHSession", port("SSH to a node, through the client's ProxyCommand.",
		parameter("portNumber", "String", "The port of the SSH server.", fmt.Sprintf(`, "allowedPattern": %q, "default": "22"`, portPattern)),
		`"portNumber": "{{ portNumber }}"`))
	add("Sallyport", "Sallyport-Exec", command(NonInteractive, "false", `, "separateOutputStream": true`))
	all[len(all)-1].Doc.literal = true
	return all
})
