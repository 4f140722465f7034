// Package sallyport holds the words the rest of the program speaks in:
// sessions, nodes, the people who open them, and the errors they meet.
//
// A person opens a session on a managed node. The control plane introduces
// them, the node's agent supplies a shell, and a log is kept of what passed:
//
//	person ──▶ control plane ◀── node
//	                 │
//	            session log
//
// The node dials out, as the client does; no connection is made to either. That is what a sally
// port is: a door that only the garrison can open, from inside.
//
// Names are AWS's wherever AWS has one, because the AWS CLI and SDKs are our
// clients. Where AWS is silent the name is ours, and its comment says so.
//
// Text from outside becomes a value of this package once, at the edge
// ([ParseSessionID], [ParseNodeID]), and the value is the proof that the text
// was well formed: it may reach a path, a query or a log.
//
// This package does no I/O, starts no goroutines, and imports only the
// standard library, so that every other package may import it.
package sallyport

// Version is the product's own version. It is what --version and /healthz say.
//
// It is not what the wire says: AWS's programs switch behaviour on the version
// a peer reports, so there we report [WireVersion].
const Version = "0.1.0"

// The versions our own ends report on the wire: four numbers each, because
// AWS's programs compare no other form, and as high as the behaviour we have.
// (session-manager-plugin src/version/versionutil.go; amazon-ssm-agent
// agent/versionutil/versionutil.go.)
const (
	WireAgentVersion  = "3.3.2299.0" // 3.3.987 and later: 54 s pings, no *_ready messages
	WirePluginVersion = "1.2.900.0"  // above 1.2.835: takes the StreamUrl of a resume, signs its socket
)
