package sallyport

// What a log line is about. One vocabulary, so that one search finds every
// line about a session, of server, agent and client.
const (
	LogSession  = "session"  // a SessionID
	LogNode     = "node"     // a managed node's ID
	LogWho      = "who"      // the ARN of a principal
	LogTarget   = "target"   // an operation, as in "ssm:StartSession"
	LogRequest  = "request"  // the ID every answer carries in x-amzn-RequestId
	LogRemote   = "remote"   // an address that called us
	LogCause    = "cause"    // why something ended
	LogErr      = "err"      // an error, in full
	LogAddr     = "addr"     // an address of ours
	LogVersion  = "version"  // a version, of what the line is about
	LogDuration = "duration" // how long it took
	LogPath     = "path"     // a file or directory
)
