package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/endpoint"
	"github.com/sallyport/sallyport/internal/strictjson"
	"github.com/sallyport/sallyport/internal/wire"
)

// dataKeyWithin is how long the key service has for a data key: the node waits
// 15 seconds for the answer it is part of.
const dataKeyWithin = 12 * time.Second

// keyService decides where KMS is: where the environment or the profile says,
// or else beside Systems Manager.
func (c *Client) keyService(ctx context.Context, cfg aws.Config) (*url.URL, error) {
	if address := serviceEndpoint(ctx, cfg, "KMS"); address != "" {
		u, err := endpoint.ParseURL(address)
		if err != nil {
			return nil, fmt.Errorf("the endpoint of KMS %w", err)
		}
		return u, nil
	}
	if !c.aws {
		return c.api.Base, nil
	}
	host, err := awsHost("kms", cfg.Region)
	if err != nil {
		return nil, err
	}
	return &url.URL{Scheme: "https", Host: host}, nil
}

// actKey gets a data key for the session, and has what is said from the end of
// the handshake on encrypted with it. The node gets the key sealed, as the
// action's result. (session-manager-plugin src/encryption.)
func (r *run) actKey(ctx context.Context, parameters json.RawMessage) (result json.RawMessage, err error) {
	var asked wire.KMSEncryptionRequest
	if err := strictjson.Unmarshal(parameters, &asked); err != nil || asked.KMSKeyId == "" {
		return nil, errors.New("the node wants the session encrypted and does not say with what key")
	}
	target := r.Invitation.Target
	if target == "" {
		return nil, errors.New("the session is to be encrypted, and what started it does not say which node it is with: update the AWS CLI")
	}
	// The node knows itself by no other name, and puts the same into the
	// context it opens the key with.
	with := map[string]string{"aws:ssm:SessionId": r.Invitation.SessionID, "aws:ssm:TargetId": target}
	if asked.Challenge != "" {
		with["aws:ssm:RandomChallenge"] = asked.Challenge
	}
	ctx, cancel := context.WithTimeout(ctx, dataKeyWithin)
	defer cancel()
	var key struct{ CiphertextBlob, Plaintext []byte }
	err = r.Client.keys.Call(ctx, "kms", "TrentService.GenerateDataKey",
		map[string]any{"KeyId": asked.KMSKeyId, "NumberOfBytes": datachannel.DataKeySize, "EncryptionContext": with}, &key)
	if err != nil {
		return nil, fmt.Errorf("get a data key of %s: %w", sallyport.Clip(asked.KMSKeyId, 256), err)
	}
	if r.cipher, err = datachannel.NewCipher(wire.TypeInputStreamData, key.Plaintext); err != nil {
		return nil, err
	}
	r.stream.Encrypt(r.cipher)
	return json.Marshal(wire.KMSEncryptionResponse{KMSCipherTextKey: key.CiphertextBlob, ChallengeAcknowledgement: asked.Challenge != ""})
}

// challenged shows the node that both have the same key: it seals with the
// person's half what the node sealed with its own.
func (r *run) challenged(ctx context.Context, payload []byte) error {
	var c wire.EncryptionChallenge
	if err := strictjson.Unmarshal(payload, &c); err != nil || r.cipher == nil {
		return errors.New("the node's encryption challenge cannot be read")
	}
	text, err := r.cipher.Open(c.Challenge)
	if err != nil {
		return datachannel.ErrSealed
	}
	answer, err := json.Marshal(wire.EncryptionChallenge{Challenge: r.cipher.Seal(text)})
	if err != nil {
		return err
	}
	r.stream.SendMessage(ctx, wire.KindEncChallengeResponse, answer) // if that fails the session has ended, and its cause is known already
	return nil
}
