package agent

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/strictjson"
	"github.com/sallyport/sallyport/internal/wire"
)

// Stock agents say so, and scripts look for it. (agent/session/datachannel.)
const saysEncrypted = "This session is encrypted using AWS KMS."

// openWithin is how long the key service has to open a data key.
const openWithin = 15 * time.Second

var (
	//lint:ignore ST1005 AWS's words
	errNoChallenge = errors.New("Encountered error while initiating handshake. Timed out waiting for encryption challenge. The client did not show in 15 seconds that it has the session's key")

	errOtherKey = errors.New("the client does not have the session's key: what it sealed does not open")
)

// encrypted reports whether the session is to be. Ports never are. (Stock:
// agent/session/plugins/sessionplugin.)
func (s *session) encrypted() bool {
	return s.task.DocumentContent.Inputs.KmsKeyId != "" && s.task.DocumentContent.SessionType != portSession
}

// A keying is how a session comes by its key.
type keying struct {
	keyID     string
	challenge string // goes into the context that the data key is bound to
}

// askKey is the action that asks the client for a data key.
func (s *session) askKey() (k keying, action wire.RequestedClientAction, err error) {
	random := make([]byte, 16)
	rand.Read(random)
	k = keying{s.task.DocumentContent.Inputs.KmsKeyId, base64.StdEncoding.EncodeToString(random)}
	action.ActionType = wire.ActionKMSEncryption
	action.ActionParameters, err = json.Marshal(wire.KMSEncryptionRequest{KMSKeyId: k.keyID, Challenge: k.challenge})
	return k, action, err
}

// encrypt opens the data key that a client's answer brought, has the client show
// that it has the same, and has all that follows encrypted with it.
func (s *session) encrypt(k keying, answer wire.HandshakeResponse) error {
	var got *wire.KMSEncryptionResponse
	for _, done := range answer.ProcessedClientActions {
		if done.ActionType == wire.ActionKMSEncryption {
			if err := strictjson.Unmarshal(done.ActionResult, &got); err != nil {
				return fmt.Errorf("the client's data key cannot be read: %w", err)
			}
		}
	}
	if got == nil {
		return errors.New("the session is to be encrypted with a KMS key, and the client did not bring a data key")
	}
	with := map[string]string{"aws:ssm:SessionId": s.id.String(), "aws:ssm:TargetId": s.agent.reg.Node.String()}
	if got.ChallengeAcknowledgement {
		with["aws:ssm:RandomChallenge"] = k.challenge
	}
	ctx, cancel := context.WithTimeout(s.ctx, openWithin)
	defer cancel()
	var key struct{ Plaintext []byte }
	err := s.agent.client.Call(ctx, "kms", "TrentService.Decrypt", map[string]any{"KeyId": k.keyID, "CiphertextBlob": got.KMSCipherTextKey, "EncryptionContext": with}, &key)
	if err != nil {
		return fmt.Errorf("open the session's data key with %s: %w", sallyport.Clip(k.keyID, 256), err)
	}
	c, err := datachannel.NewCipher(wire.TypeOutputStreamData, key.Plaintext)
	if err != nil {
		return err
	}
	if err := s.challenge(c); err != nil {
		return err
	}
	s.dataKey = key.Plaintext
	s.stream.Encrypt(c)
	return nil
}

// challenge has the client open random bytes with one half of the key and seal
// them with the other.
func (s *session) challenge(c *datachannel.Cipher) error {
	ctx, cancel := context.WithTimeoutCause(s.ctx, answerWithin, errNoChallenge)
	defer cancel()
	random := make([]byte, 64)
	rand.Read(random)
	if err := s.tell(ctx, wire.KindEncChallengeRequest, wire.EncryptionChallenge{Challenge: c.Seal(random)}); err != nil {
		return err
	}
	var answer wire.EncryptionChallenge
	if err := s.await(ctx, wire.KindEncChallengeResponse, &answer); err != nil {
		return err
	}
	back, err := c.Open(answer.Challenge)
	if err != nil || subtle.ConstantTimeCompare(back, random) != 1 {
		return errOtherKey
	}
	return nil
}
