package wire

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/strictjson"
)

// The payloads, in the order a session meets them. Members are spelled as
// AWS's programs spell them (amazon-ssm-agent agent/session/contracts/model.go,
// agentmessage.go and agent/contracts/model.go; session-manager-plugin
// src/message/messageparser.go). Reading does not mind case, missing members,
// members we do not know, or a number or a truth written as text.

// OpenControlChannel is the first message on a control channel's socket. It is
// text, not a frame.
type OpenControlChannel struct {
	MessageSchemaVersion   string
	RequestId              string
	TokenValue             Token
	AgentVersion           string
	PlatformType           string // linux, windows, macos: lower case here
	RequireAcknowledgement bool   `json:",omitempty"` // wants control_channel_ready

	Capabilities []string `json:",omitempty"` // ours
	Instance     string   `json:",omitempty"` // ours: names the agent's process
}

// OpenDataChannel is the first message on a data channel's socket, from either
// end. It is text, not a frame. A node says which it is; a person's program
// says its version, if it is 1.2.677 or later. The stock agent sends an empty
// ClientId.
type OpenDataChannel struct {
	MessageSchemaVersion   string
	RequestId              string
	TokenValue             Token
	ClientInstanceId       string `json:",omitempty"`
	ClientId               string
	ClientVersion          string `json:",omitempty"`
	RequireAcknowledgement bool   `json:",omitempty"` // wants data_channel_ready

	Capabilities []string `json:",omitempty"` // ours: what this end can do
	Process      Process  `json:",omitzero"`  // ours: of a node
}

// A Token is a secret in the one place it is sent.
type Token struct{ sallyport.Secret }

// NewToken prepares a secret for sending.
func NewToken(s sallyport.Secret) Token { return Token{s} }

// MarshalJSON reveals the token.
func (t Token) MarshalJSON() ([]byte, error) { return json.Marshal(t.Reveal()) }

// UnmarshalJSON reads a token.
func (t *Token) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	t.Secret = sallyport.NewSecret(s)
	return nil
}

// SallyportPeer tells an end of ours what the other end can do, as it
// announced it when it opened. It is sent anew when the other end is replaced.
// An empty list is a program of AWS's.
type SallyportPeer struct {
	Capabilities []string
	Version      string `json:",omitempty"` // the other end's product version
}

// SallyportNotice is a sentence for the person: that the session will be cut
// off, and when.
type SallyportNotice struct{ Text string }

// What an end may announce it can do.
const (
	// CapBigFrames: reads stream messages of up to [MaxPayload] bytes, where
	// AWS's programs are only ever sent 1 KiB.
	CapBigFrames = "big-frames"

	// CapThrough: understands [Ack.Through] and keeps to [Ack.Window].
	CapThrough = "ack-through"

	// CapExitStatus: says, or wants to hear, the exit status of the program.
	CapExitStatus = "exit-status"

	// CapChecksum: reads frames that have a checksum instead of a digest.
	CapChecksum = "crc-32c"

	// CapNotices: shows a [SallyportNotice].
	CapNotices = "notices"

	// CapEnd: the end of a session is the last message of the node's stream,
	// of kind [KindEnd]. A node is told by CreateDataChannel that the control
	// plane can do it; the two ends announce it when they open.
	CapEnd = "end"
)

// An End is the payload of [KindEnd]: how what ran on the node ended. The
// control plane acknowledges it once it has the whole stream, and this, on its
// disk; the node keeps both until then.
type End struct {
	Failed     bool   `json:",omitempty"` // the session did not end by itself
	Output     string `json:",omitempty"` // Failed: why, for the person
	ExitStatus *int   `json:",omitempty"` // of the program, where one ran
}

// SallyportSessions lists the sessions that an agent's process has, those that
// are over and not yet reported included. A session of the node's that had been
// attached and is not listed has been lost with the process that had it.
type SallyportSessions struct {
	Sessions []string
	Process  Process
}

// A Process says which agent's process an end is of. Two processes of one Place,
// which is a state directory on a running machine, follow each other: what the
// earlier had, the later has, or it is lost. Of two places neither says anything
// about the other.
type Process struct {
	Instance string `json:",omitempty"` // the process
	Place    string `json:",omitempty"`
}

// Frame makes the message.
func (p SallyportSessions) Frame(now time.Time) Frame {
	return alone(TypeSallyportSessions, p, now)
}

// What the two ends of a session agree on in its handshake, because the one
// that they agreed with may not be replaced while the session lasts: the
// request offers, the response takes. AWS's programs do not see the member.
const (
	// CapMux2: connections of a port session are multiplexed by version 2 of
	// smux, and end one direction at a time.
	CapMux2 = "mux-2"

	// CapStdin: input goes to a command without a terminal as it is, 0x03 and
	// 0x1c too, until [FlagEndOfInput]; [FlagInterrupt] and [FlagQuit] are its
	// signals.
	CapStdin = "stdin"
)

// FileServer is a command that an agent of ours takes for its own SFTP server,
// which it runs as the session's user. It is no file on the node, so that one
// whose disk is full, and that has no SSH, can be copied from.
const FileServer = "sallyport-sftp-server"

// BesideMark is in the name of a file that a copy to or from a node is written to,
// beside its place, while it is not whole: .NAME.sallyport-0123456789abcdef. The
// file server of ours removes those that it made and that are left when it ends.
const BesideMark = ".sallyport-"

// Frame makes the message.
func (p SallyportNotice) Frame(now time.Time) Frame {
	return alone(TypeSallyportNotice, p, now)
}

func (p SallyportPeer) Frame(now time.Time) Frame {
	return alone(TypeSallyportPeer, p, now)
}

// Bare makes a message whose payload is not read: pause_publication,
// start_publication and the two that say a channel is ready. The payload is
// not empty, because AWS's programs skip empty ones.
func Bare(t Type, now time.Time) Frame {
	f := NewFrame(t, []byte(`{"SchemaVersion":1}`), now)
	f.Flags = Alone
	return f
}

// AgentTask is the payload of interactive_shell: an envelope.
type AgentTask struct {
	SchemaVersion Int
	TaskId        string // the session's ID
	Topic         string // "interactive_shell"
	Content       string // an [AgentTaskPayload], as JSON
}

// AgentTaskPayload says what session to start. Parameters has single values
// for parameters of type String: the agent puts them into Properties as they
// are, and a list there breaks the plugin's field.
type AgentTaskPayload struct {
	SessionId       string
	DocumentName    string
	DocumentContent SessionDocument
	RunAsUser       string
	SessionOwner    string // an ARN
	Parameters      map[string]any
}

// A SessionDocument is a session document as an agent is given it.
type SessionDocument struct {
	SchemaVersion string                       `json:"schemaVersion"` // "1.0", or the agent refuses
	Description   string                       `json:"description"`
	SessionType   string                       `json:"sessionType"` // Standard_Stream, InteractiveCommands, NonInteractiveCommands, Port
	Inputs        SessionInputs                `json:"inputs"`
	Parameters    map[string]DocumentParameter `json:"parameters"`
	Properties    json.RawMessage              `json:"properties"` // nil, or by session type
}

// SessionInputs are the preferences a document carries.
type SessionInputs struct {
	S3BucketName                string       `json:"s3BucketName"`
	S3KeyPrefix                 string       `json:"s3KeyPrefix"`
	S3EncryptionEnabled         Bool         `json:"s3EncryptionEnabled"`
	CloudWatchLogGroupName      string       `json:"cloudWatchLogGroupName"`
	CloudWatchStreamingEnabled  Bool         `json:"cloudWatchStreamingEnabled"` // a stock agent takes only true and false
	CloudWatchEncryptionEnabled Bool         `json:"cloudWatchEncryptionEnabled"`
	KmsKeyId                    string       `json:"kmsKeyId"`
	RunAsEnabled                Bool         `json:"runAsEnabled"`
	RunAsDefaultUser            string       `json:"runAsDefaultUser"`
	ShellProfile                ShellProfile `json:"shellProfile"`
}

// A ShellProfile is what to type into a shell before the person does.
type ShellProfile struct {
	Windows string `json:"windows"`
	Linux   string `json:"linux"`
}

// A DocumentParameter declares one parameter of a document.
type DocumentParameter struct {
	Type           string          `json:"type"`
	Default        json.RawMessage `json:"default,omitempty"`
	Description    string          `json:"description"`
	AllowedPattern string          `json:"allowedPattern"`
	AllowedValues  []string        `json:"allowedValues"`
}

// Frame makes the interactive_shell message.
func (p AgentTaskPayload) Frame(now time.Time) (Frame, error) {
	content, err := strictjson.Marshal(p)
	if err != nil {
		return Frame{}, fmt.Errorf("write %s: %w", TypeInteractiveShell, err)
	}
	return message(TypeInteractiveShell, AgentTask{
		SchemaVersion: 1, TaskId: p.SessionId, Topic: string(TypeInteractiveShell), Content: string(content),
	}, now), nil
}

// ReadAgentTask reads the payload of interactive_shell, envelope and content.
func ReadAgentTask(payload []byte) (p AgentTaskPayload, err error) {
	var envelope AgentTask
	if err := strictjson.Unmarshal(payload, &envelope); err != nil {
		return p, fmt.Errorf("parse %s: %w", TypeInteractiveShell, err)
	}
	if err := strictjson.Unmarshal([]byte(envelope.Content), &p); err != nil {
		return p, fmt.Errorf("parse content of %s: %w", TypeInteractiveShell, err)
	}
	return p, nil
}

// AgentSessionState is what a node says of its end of a session on the data
// channel: it is there, or it is about to go.
type AgentSessionState struct {
	SchemaVersion Int
	SessionState  string // "Connected", "Terminating"
	SessionId     string
}

// Frame makes the message.
func (p AgentSessionState) Frame(now time.Time) Frame {
	p.SchemaVersion = 1
	return alone(TypeAgentSessionState, p, now)
}

// Size is how large a terminal is.
type Size struct {
	Cols uint32 `json:"cols"`
	Rows uint32 `json:"rows"`
}

// PortProperties are the properties of a Port session. AWS's programs take
// nothing but text in them. (session-manager-plugin portsession/portsession.go,
// amazon-ssm-agent agent/session/contracts/model.go.)
type PortProperties struct {
	PortNumber          string `json:"portNumber"`
	Host                string `json:"host,omitempty"` // the node's end dials it; "" is the node itself
	LocalPortNumber     string `json:"localPortNumber,omitempty"`
	LocalUnixSocket     string `json:"localUnixSocket,omitempty"`
	LocalConnectionType string `json:"localConnectionType,omitempty"` // unix, or a port
	Type                string `json:"type,omitempty"`                // LocalPortForwarding; anything else is one connection over stdin and stdout
}

// LocalPortForwarding is the [PortProperties.Type] of connections to a local
// port.
const LocalPortForwarding = "LocalPortForwarding"

// CommandProperties are the properties of an InteractiveCommands or a
// NonInteractiveCommands session, by the node's system.
type CommandProperties struct {
	Windows PlatformCommand `json:"windows"`
	Linux   PlatformCommand `json:"linux"`
	MacOS   PlatformCommand `json:"macos"`
}

// A PlatformCommand is the command for one system. The last three members are
// for NonInteractiveCommands.
type PlatformCommand struct {
	Commands      string `json:"commands"`
	RunAsElevated Bool   `json:"runAsElevated"` // as the agent's own user; a stock agent takes only true and false

	SeparateOutputStream  Bool   `json:"separateOutputStream,omitempty"`
	StdOutSeparatorPrefix string `json:"stdOutSeparatorPrefix,omitempty"`
	StdErrSeparatorPrefix string `json:"stdErrSeparatorPrefix,omitempty"`
}

// HandshakeRequest is the node asking what the person's program can do.
type HandshakeRequest struct {
	AgentVersion           string
	RequestedClientActions []RequestedClientAction

	Capabilities []string `json:",omitempty"` // ours: what the node's end offers
}

// A RequestedClientAction is one thing asked of the person's program.
// ActionParameters is a [SessionTypeRequest] or a [KMSEncryptionRequest].
type RequestedClientAction struct {
	ActionType       string
	ActionParameters json.RawMessage
}

// The actions there are.
const (
	ActionSessionType   = "SessionType"
	ActionKMSEncryption = "KMSEncryption"
)

// SessionTypeRequest says what kind of session it is. Properties has nothing
// but text in its members.
type SessionTypeRequest struct {
	SessionType string
	Properties  json.RawMessage
}

// KMSEncryptionRequest asks for a data key.
type KMSEncryptionRequest struct {
	KMSKeyId  string
	Challenge string `json:",omitempty"` // agents 3.3.808 and later; goes into the encryption context as it is
}

// HandshakeResponse answers a [HandshakeRequest].
type HandshakeResponse struct {
	ClientVersion          string
	ProcessedClientActions []ProcessedClientAction
	Errors                 []string

	Capabilities []string `json:",omitempty"` // ours: what of it the person's end takes
}

// A ProcessedClientAction answers one action. ActionResult is a
// [KMSEncryptionResponse] or null; the official client puts the number of an
// [ActionStatus] there for an action it has not heard of, and leaves the
// status 0.
type ProcessedClientAction struct {
	ActionType   string
	ActionStatus ActionStatus
	ActionResult json.RawMessage
	Error        string
}

// An ActionStatus is how an action went. Anything but Success ends the session.
type ActionStatus int64

const (
	ActionSuccess ActionStatus = iota + 1
	ActionFailed
	ActionUnsupported
)

// UnmarshalJSON takes the number as text too.
func (s *ActionStatus) UnmarshalJSON(b []byte) error { return (*Int)(s).UnmarshalJSON(b) }

// KMSEncryptionResponse carries a data key, sealed.
type KMSEncryptionResponse struct {
	KMSCipherTextKey         []byte
	KMSCipherTextHash        []byte // no client or agent checks it
	ChallengeAcknowledgement bool   `json:",omitempty"` // whether the Challenge is in the encryption context
}

// HandshakeComplete begins the session proper.
type HandshakeComplete struct {
	HandshakeTimeToComplete time.Duration // in nanoseconds, on the wire too
	CustomerMessage         string        // to be shown, if there is one
}

// EncryptionChallenge is one end showing the other that they have the same
// keys.
type EncryptionChallenge struct {
	Challenge []byte
}

// A Flag is a signal about the session, in a stream message of kind
// [KindFlag]. Its payload is four bytes, not JSON.
type Flag uint32

const (
	FlagDisconnectToPort   Flag = iota + 1 // to the node: the local connection has closed
	FlagTerminateSession                   // to the node: end
	FlagConnectToPortError                 // from the node: no program listens there
)

// Ours, between ends that agreed on [CapStdin].
const (
	FlagEndOfInput Flag = 0x5A50_0001 + iota // to the node: standard input has ended
	FlagInterrupt                            // to the node: SIGINT
	FlagQuit                                 // to the node: SIGQUIT
)

// Payload returns the flag as a message carries it.
func (f Flag) Payload() []byte { return binary.BigEndian.AppendUint32(nil, uint32(f)) }

// ReadFlag reads the payload of a message of kind [KindFlag].
func ReadFlag(payload []byte) (Flag, error) {
	if len(payload) != 4 {
		return 0, fmt.Errorf("parse flag: %d bytes, not 4", len(payload))
	}
	return Flag(be.Uint32(payload)), nil
}

// ChannelClosed ends a session, on the data channels of both ends and on the
// node's control channel.
type ChannelClosed struct {
	MessageType   string
	MessageId     string
	DestinationId string
	SessionId     string
	SchemaVersion Int
	CreatedDate   string // 2026-01-02T03:04:05.000Z

	// Output is why, for the person; empty if the session simply ended. Keep
	// it short: some clients read frames into 2,048 bytes.
	Output string `json:",omitempty"`

	ExitStatus *int `json:",omitempty"` // ours: the program's, where the node said
}

// Frame makes the message, and fills in what every such message has.
func (p ChannelClosed) Frame(now time.Time) Frame {
	id := NewID()
	p.MessageType, p.MessageId, p.SchemaVersion = string(TypeChannelClosed), id.String(), 1
	p.CreatedDate = now.UTC().Format("2006-01-02T15:04:05.000Z")
	f := message(TypeChannelClosed, p, now)
	f.ID = id
	return f
}

// AgentTaskComplete is a node saying, on its control channel, that a session
// is over. It is sent up to three times with one message ID until an
// [AgentTaskAcknowledge] answers.
type AgentTaskComplete struct {
	SchemaVersion    Int
	TaskId           string // the session's ID
	Topic            string // "agent_task_complete"
	FinalTaskStatus  string // Success, Failed, Cancelled, TimedOut, Skipped
	IsRoutingFailure Bool
	AwsAccountId     string
	InstanceId       string
	Output           string // why, for the person, if it failed
	S3Bucket         string
	S3UrlSuffix      string
	CwlGroup         string
	CwlStream        string
	RetryNumber      Int // from 1

	ExitStatus *int `json:",omitempty"` // ours: the program's

	// Ours: how many messages the node's stream has, less its [End] and the status
	// before that, and how many of the first of them were acknowledged. Messages is nil if an agent does not
	// say.
	Messages     *int64 `json:",omitempty"`
	Acknowledged int64  `json:",omitempty"`
}

// Frame makes the message. Set the frame's ID to the first one's when it is
// sent again.
func (p AgentTaskComplete) Frame(now time.Time) Frame {
	p.SchemaVersion, p.Topic = 1, string(TypeAgentTaskComplete)
	return message(TypeAgentTaskComplete, p, now)
}

// AgentTaskAcknowledge answers an [AgentTaskComplete].
type AgentTaskAcknowledge struct {
	SchemaVersion Int
	MessageId     string // the agent_task_complete's; nothing else is looked at
	TaskId        string
	Topic         string
}

// Frame makes the message.
func (p AgentTaskAcknowledge) Frame(now time.Time) Frame {
	p.SchemaVersion, p.Topic = 1, string(TypeAgentTaskComplete)
	return message(TypeAgentTaskAcknowledge, p, now)
}

// AgentJob asks a node to run a command, or to cancel one, by its Topic.
type AgentJob struct {
	SchemaVersion Int
	JobId         string // aws.ssm.<command>.<node>
	Topic         string // aws.ssm.sendCommand, aws.ssm.cancelCommand
	Content       string // JSON
}

// Frame makes the message.
func (p AgentJob) Frame(now time.Time) Frame {
	p.SchemaVersion = 1
	return message(TypeAgentJob, p, now)
}

// AgentJobAck is a node's word that it took, or would not take, an [AgentJob].
type AgentJobAck struct {
	JobId                 string `json:"jobId"`
	AcknowledgedMessageId string `json:"acknowledgedMessageId"`
	CreatedDate           string `json:"createdDate"` // the agent_job's
	StatusCode            string `json:"statusCode"`  // "200", or "514…"
	ErrorMessage          string `json:"errorMessage"`
}

// Frame makes the message.
func (p AgentJobAck) Frame(now time.Time) Frame { return message(TypeAgentJobAck, p, now) }

// AgentJobReply is how a command stands.
type AgentJobReply struct {
	SchemaVersion Int    `json:"schemaVersion"`
	JobId         string `json:"jobId"`
	Content       string `json:"content"` // JSON
	Topic         string `json:"topic"`
}

// Frame makes the message.
func (p AgentJobReply) Frame(now time.Time) Frame {
	p.SchemaVersion = 1
	return message(TypeAgentJobReply, p, now)
}

// AgentJobReplyAck answers an [AgentJobReply], which is otherwise sent again
// for two hours.
type AgentJobReplyAck struct {
	JobId                 string `json:"jobId"`
	AcknowledgedMessageId string `json:"acknowledgedMessageId"`
}

// Frame makes the message.
func (p AgentJobReplyAck) Frame(now time.Time) Frame { return message(TypeAgentJobReplyAck, p, now) }

// An Int is a number, read from a number or from text.
type Int int64

// UnmarshalJSON reads 7 and "7". Null and "" leave it as it was.
func (n *Int) UnmarshalJSON(b []byte) error {
	s := strings.Trim(string(b), `"`)
	if s == "null" || s == "" {
		return nil
	}
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return fmt.Errorf("%.40s is not a whole number", b)
	}
	*n = Int(v)
	return nil
}

// A Bool is true or false, read from either or from text: documents written by
// hand have all forms, and AWS accepts them.
type Bool bool

// UnmarshalJSON reads true, "true", "True" and their opposites. Null and ""
// leave it as it was.
func (v *Bool) UnmarshalJSON(b []byte) error {
	s := strings.Trim(string(b), `"`)
	if s == "null" || s == "" {
		return nil
	}
	t, err := strconv.ParseBool(s)
	if err != nil {
		return fmt.Errorf("%.40s is neither true nor false", b)
	}
	*v = Bool(t)
	return nil
}

// message makes a frame of a payload that cannot fail to be written.
func message(t Type, payload any, now time.Time) Frame {
	b, err := strictjson.Marshal(payload)
	if err != nil {
		panic(fmt.Sprintf("write %s: %v", t, err)) // a payload type with something JSON lacks
	}
	return NewFrame(t, b, now)
}

func alone(t Type, payload any, now time.Time) Frame {
	f := message(t, payload, now)
	f.Flags = Alone
	return f
}
