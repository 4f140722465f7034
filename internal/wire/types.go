package wire

import "strconv"

// A Type is what a message is for. Types of AWS's that this list lacks are
// read, as text, and left to the reader.
type Type string

// What passes on a data channel.
const (
	TypeInputStreamData  Type = "input_stream_data"  // person to node
	TypeOutputStreamData Type = "output_stream_data" // node to person
	TypeAcknowledge      Type = "acknowledge"        // either way, of the two above

	TypePausePublication Type = "pause_publication" // to a node: send no more until told
	TypeStartPublication Type = "start_publication"
	TypeChannelClosed    Type = "channel_closed" // to either end: it is over

	TypeAgentSessionState Type = "agent_session_state" // from the node: it is here, it is going
	TypeDataChannelReady  Type = "data_channel_ready"  // to agents 3.2.2086 to 3.3.40, which wait for it

	// TypeSallyportPeer tells an end of ours what the other end can do. It is
	// ours, and sent only to those who announced capabilities of their own.
	TypeSallyportPeer Type = "sallyport_peer"

	// TypeSallyportNotice tells the person something, while the session goes
	// on. It is ours, and sent only to those who announced [CapNotices].
	TypeSallyportNotice Type = "sallyport_notice"
)

// What passes on a control channel, beside channel_closed.
const (
	TypeInteractiveShell     Type = "interactive_shell" // start a session, of any kind
	TypeAgentTaskComplete    Type = "agent_task_complete"
	TypeAgentTaskAcknowledge Type = "agent_task_acknowledge"

	// TypeSallyportSessions lists the sessions that the agent's process has. It
	// is ours, and the first frame that an agent of ours sends.
	TypeSallyportSessions Type = "sallyport_sessions"

	TypeAgentJob         Type = "agent_job" // run a command, or cancel one
	TypeAgentJobAck      Type = "agent_job_ack"
	TypeAgentJobReply    Type = "agent_job_reply"
	TypeAgentJobReplyAck Type = "agent_job_reply_ack"

	TypeControlChannelReady Type = "control_channel_ready" // to agents 3.2.1478 to 3.3.40
	TypeAgentTelemetry      Type = "agent_telemetry"       // unasked for; may be ignored
	TypeAgentUpdateResult   Type = "agent_update_result"   // likewise
)

// intern returns the constant that b spells, or "". It does not allocate.
func intern(b []byte) Type {
	switch string(b) {
	case string(TypeInputStreamData):
		return TypeInputStreamData
	case string(TypeOutputStreamData):
		return TypeOutputStreamData
	case string(TypeAcknowledge):
		return TypeAcknowledge
	case string(TypePausePublication):
		return TypePausePublication
	case string(TypeStartPublication):
		return TypeStartPublication
	case string(TypeChannelClosed):
		return TypeChannelClosed
	case string(TypeAgentSessionState):
		return TypeAgentSessionState
	case string(TypeDataChannelReady):
		return TypeDataChannelReady
	case string(TypeSallyportPeer):
		return TypeSallyportPeer
	case string(TypeSallyportNotice):
		return TypeSallyportNotice
	case string(TypeSallyportSessions):
		return TypeSallyportSessions
	case string(TypeInteractiveShell):
		return TypeInteractiveShell
	case string(TypeAgentTaskComplete):
		return TypeAgentTaskComplete
	case string(TypeAgentTaskAcknowledge):
		return TypeAgentTaskAcknowledge
	case string(TypeAgentJob):
		return TypeAgentJob
	case string(TypeAgentJobAck):
		return TypeAgentJobAck
	case string(TypeAgentJobReply):
		return TypeAgentJobReply
	case string(TypeAgentJobReplyAck):
		return TypeAgentJobReplyAck
	case string(TypeControlChannelReady):
		return TypeControlChannelReady
	case string(TypeAgentTelemetry):
		return TypeAgentTelemetry
	case string(TypeAgentUpdateResult):
		return TypeAgentUpdateResult
	}
	return ""
}

// A Kind is what the payload of a stream message is. AWS calls it the payload
// type. Messages that are not of a stream have kind 0.
type Kind uint32

const (
	KindOutput               Kind = iota + 1 // bytes, either way: keystrokes too
	KindError                                // never sent by AWS's programs; shown like output
	KindSize                                 // [Size]
	KindParameter                            // never sent
	KindHandshakeRequest                     // [HandshakeRequest]
	KindHandshakeResponse                    // [HandshakeResponse]
	KindHandshakeComplete                    // [HandshakeComplete]
	KindEncChallengeRequest                  // [EncryptionChallenge]
	KindEncChallengeResponse                 // [EncryptionChallenge]
	KindFlag                                 // [Flag]
	KindStdErr                               // bytes, of a command with a separate error stream
	KindExitCode                             // text: "EXIT_CODE: 3"
)

// KindEnd is ours: the last message of a node's stream, an [End]. It is sent
// only where the control plane announced [CapEnd], and the control plane passes
// it on only to a client that announced it.
const KindEnd Kind = 0x5A50_0001

var kindNames = [...]string{
	KindOutput: "Output", KindError: "Error", KindSize: "Size", KindParameter: "Parameter",
	KindHandshakeRequest: "HandshakeRequest", KindHandshakeResponse: "HandshakeResponse", KindHandshakeComplete: "HandshakeComplete",
	KindEncChallengeRequest: "EncChallengeRequest", KindEncChallengeResponse: "EncChallengeResponse",
	KindFlag: "Flag", KindStdErr: "StdErr", KindExitCode: "ExitCode",
}

func (k Kind) String() string {
	if k > 0 && int(k) < len(kindNames) {
		return kindNames[k]
	}
	if k == KindEnd {
		return "End"
	}
	return "Kind(" + strconv.FormatUint(uint64(k), 10) + ")"
}

// Flags are a frame's. No receiver acts on them; we set what AWS's programs set.
type Flags uint64

const (
	SYN Flags = 1 << iota // the first of a node's stream
	FIN

	// Alone marks a message that belongs to no stream, such as an
	// acknowledgement: it begins and ends with itself.
	Alone = SYN | FIN
)
