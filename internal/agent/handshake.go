package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/strictjson"
	"github.com/sallyport/sallyport/internal/wire"
)

const (
	// answerWithin is how long a client may take to answer a handshake. (Stock:
	// agent/session/datachannel/datachannel.go.)
	answerWithin = 15 * time.Second

	// maxAhead bounds what is kept of what comes before the handshake is over.
	// Stock agents throw it away; our client sends none.
	maxAhead = 1 << 20
)

// A client is who answered a handshake.
type client struct {
	version string
	takes   []string // of what was offered
}

// errNoAnswer begins with the words people search for.
var errNoAnswer = errors.New("Encountered error while initiating handshake. No answer from the client arrived in 15 seconds") //lint:ignore ST1005 AWS's words

// shake shakes hands: it says what kind of session this is, offers what an end
// of ours can do, and begins the session proper. The sessions of stock agents
// that have a handshake are ports, commands without a terminal, and all that are
// encrypted.
func (s *session) shake(properties json.RawMessage, offers ...string) (c client, err error) {
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(s.ctx, answerWithin, errNoAnswer)
	defer cancel()
	kind := s.task.DocumentContent.SessionType
	if kind != portSession {
		properties = json.RawMessage("null") // as stock agents
	}
	action, err := json.Marshal(wire.SessionTypeRequest{SessionType: kind, Properties: properties})
	if err != nil {
		return c, err
	}
	actions := []wire.RequestedClientAction{{ActionType: wire.ActionSessionType, ActionParameters: action}}
	var key keying
	if s.encrypted() {
		var ask wire.RequestedClientAction
		if key, ask, err = s.askKey(); err != nil {
			return c, err
		}
		actions = append(actions, ask)
	}
	err = s.tell(ctx, wire.KindHandshakeRequest, wire.HandshakeRequest{
		AgentVersion: sallyport.WireAgentVersion, RequestedClientActions: actions, Capabilities: offers,
	})
	if err != nil {
		return c, err
	}
	var answer wire.HandshakeResponse
	if err := s.await(ctx, wire.KindHandshakeResponse, &answer); err != nil {
		return c, err
	}
	if err := checkActions(answer); err != nil {
		return c, err
	}
	if s.encrypted() {
		if err := s.encrypt(key, answer); err != nil {
			return c, err
		}
	}
	c = client{answer.ClientVersion, answer.Capabilities}
	complete := wire.HandshakeComplete{HandshakeTimeToComplete: time.Since(began)}
	if kind == commandSession && sallyport.CompareVersions(c.version, "1.2.295.0") <= 0 {
		complete.CustomerMessage = "This client shows errors among the output, and the exit status as text; session-manager-plugin 1.2.312.0 and later know them apart.\r\n"
	}
	if s.encrypted() {
		complete.CustomerMessage += saysEncrypted
	}
	return c, s.tell(s.ctx, wire.KindHandshakeComplete, complete)
}

// checkActions checks that a client did what it was asked to.
func checkActions(answer wire.HandshakeResponse) error {
	shaken := false
	for _, done := range answer.ProcessedClientActions {
		if done.ActionStatus != wire.ActionSuccess {
			return fmt.Errorf("%s failed on client with status %d error: %s", done.ActionType, done.ActionStatus, sallyport.Clip(done.Error, 500))
		}
		shaken = shaken || done.ActionType == wire.ActionSessionType
	}
	if !shaken {
		return errors.New("the client's handshake does not say that it can do this kind of session")
	}
	return nil
}

func (s *session) tell(ctx context.Context, kind wire.Kind, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return s.stream.SendMessage(ctx, kind, b)
}

// await waits for the client's answer of a kind, and keeps what comes before
// it. What is typed before an encrypted session has its key is not kept: its sender
// has not proved to have the key.
func (s *session) await(ctx context.Context, kind wire.Kind, answer any) error {
	for kept := 0; ; {
		m, err := s.stream.Receive(ctx)
		if err != nil {
			return err
		}
		if m.Kind == kind {
			if err := strictjson.Unmarshal(m.Payload, answer); err != nil {
				return fmt.Errorf("the client's %s cannot be read: %w", kind, err)
			}
			return nil
		}
		if m.Kind == wire.KindOutput && s.encrypted() {
			continue
		}
		if kept += len(m.Payload); kept <= maxAhead {
			s.ahead = append(s.ahead, datachannel.Message{Kind: m.Kind, Payload: bytes.Clone(m.Payload)})
		}
	}
}

// next returns the next message, those that came during the handshake first.
// One that was not sealed with the session's key ends the session.
func (s *session) next(ctx context.Context) (datachannel.Message, error) {
	if len(s.ahead) > 0 {
		m := s.ahead[0]
		s.ahead = s.ahead[1:]
		return m, nil
	}
	m, err := s.stream.Receive(ctx)
	if errors.Is(err, datachannel.ErrSealed) {
		s.end(err)
	}
	return m, err
}
