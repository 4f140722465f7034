//go:build unix

package agent_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/sallyport/sallyport/internal/datachannel"
	"github.com/sallyport/sallyport/internal/server"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/wire"
)

// encrypts has every session encrypted, with a key that is returned.
func (m *machine) encrypts() (key string) {
	m.t.Helper()
	ctx := m.t.Context()
	k, err := m.kms().CreateKey(ctx, &kms.CreateKeyInput{})
	if err != nil {
		m.t.Fatal(err)
	}
	_, err = m.client.CreateDocument(ctx, &ssm.CreateDocumentInput{
		Name: aws.String("SSM-SessionManagerRunShell"), DocumentType: types.DocumentTypeSession, DocumentFormat: types.DocumentFormatJson,
		Content: aws.String(`{"schemaVersion":"1.0","sessionType":"Standard_Stream","inputs":{"kmsKeyId":"` + *k.KeyMetadata.KeyId + `"}}`),
	})
	if err != nil {
		m.t.Fatal(err)
	}
	err = m.Store.IAM().PutInlinePolicy(ctx, store.Role(server.NodeRole), "decrypt", `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:Decrypt","Resource":"*"}}`)
	if err != nil {
		m.t.Fatal(err)
	}
	return *k.KeyMetadata.KeyId
}

func (m *machine) kms() *kms.Client { return kms.NewFromConfig(m.AWS(m.creds)) }

// askedForKey reads a handshake that asks for a key, and answers with what
// answer makes of the challenge that came with it.
func (c *call) askedForKey(answer func(challenge string) wire.KMSEncryptionResponse) {
	c.m.t.Helper()
	kind, payload := c.next()
	var req wire.HandshakeRequest
	if err := json.Unmarshal(payload, &req); kind != wire.KindHandshakeRequest || err != nil || len(req.RequestedClientActions) != 2 {
		c.m.t.Fatalf("%v %s, %v", kind, payload, err)
	}
	var asked wire.KMSEncryptionRequest
	if err := json.Unmarshal(req.RequestedClientActions[1].ActionParameters, &asked); err != nil {
		c.m.t.Fatal(err)
	}
	result, err := json.Marshal(answer(asked.Challenge))
	if err != nil {
		c.m.t.Fatal(err)
	}
	c.tell(wire.KindHandshakeResponse, wire.HandshakeResponse{ClientVersion: recent, ProcessedClientActions: []wire.ProcessedClientAction{
		{ActionType: wire.ActionSessionType, ActionStatus: wire.ActionSuccess, ActionResult: json.RawMessage("null")},
		{ActionType: wire.ActionKMSEncryption, ActionStatus: wire.ActionSuccess, ActionResult: result},
	}})
}

// dataKey asks the key service for one.
func (c *call) dataKey(key string, more map[string]string) (plain, sealed []byte) {
	c.m.t.Helper()
	with := map[string]string{"aws:ssm:SessionId": c.id, "aws:ssm:TargetId": c.m.node.String()}
	for k, v := range more {
		with[k] = v
	}
	out, err := c.m.kms().GenerateDataKey(c.m.t.Context(), &kms.GenerateDataKeyInput{KeyId: &key, NumberOfBytes: aws.Int32(64), EncryptionContext: with})
	if err != nil {
		c.m.t.Fatal(err)
	}
	return out.Plaintext, out.CiphertextBlob
}

func TestEncryptedSession(t *testing.T) {
	m := start(t)
	m.run()
	key := m.encrypts()
	begin := func() *call {
		return m.call("AWS-StartInteractiveCommand", map[string][]string{"command": {"read x; echo got-$x"}})
	}

	for name, acknowledged := range map[string]bool{"a client that knows of challenges": true, "one that does not": false} {
		t.Run(name, func(t *testing.T) {
			c := begin()
			var client *datachannel.Cipher
			c.askedForKey(func(challenge string) wire.KMSEncryptionResponse {
				var more map[string]string
				if acknowledged {
					more = map[string]string{"aws:ssm:RandomChallenge": challenge}
				}
				plain, sealed := c.dataKey(key, more)
				var err error
				if client, err = datachannel.NewCipher(wire.TypeInputStreamData, plain); err != nil {
					t.Fatal(err)
				}
				// Its sender has not proved to have the key: it must not reach the command.
				c.tell(wire.KindOutput, []byte("plain\r"))
				return wire.KMSEncryptionResponse{KMSCipherTextKey: sealed, ChallengeAcknowledgement: acknowledged}
			})
			kind, payload := c.next()
			var challenge wire.EncryptionChallenge
			if err := json.Unmarshal(payload, &challenge); kind != wire.KindEncChallengeRequest || err != nil {
				t.Fatalf("%v %s, %v", kind, payload, err)
			}
			text, err := client.Open(challenge.Challenge)
			if err != nil || len(text) != 64 {
				t.Fatalf("challenged with %d bytes, %v", len(text), err)
			}
			c.tell(wire.KindEncChallengeResponse, wire.EncryptionChallenge{Challenge: client.Seal(text)})
			kind, payload = c.next()
			if kind != wire.KindHandshakeComplete || !bytes.Contains(payload, []byte("This session is encrypted using AWS KMS.")) {
				t.Fatalf("%v %s", kind, payload)
			}
			c.person.Stream.Encrypt(client)
			c.tell(wire.KindOutput, []byte("sealed\r"))
			var out string
			for !strings.Contains(out, "got-") || !strings.HasSuffix(out, "\n") {
				_, p := c.next()
				out += string(p)
			}
			if !strings.Contains(out, "got-sealed\r\n") {
				t.Errorf("%q", out)
			}
			c.closed()
		})
	}

	for name, f := range map[string]struct {
		answer func(c *call, challenge string) wire.KMSEncryptionResponse
		words  string
	}{
		"a key of another session": {func(c *call, _ string) wire.KMSEncryptionResponse {
			_, sealed := c.dataKey(key, map[string]string{"aws:ssm:SessionId": "somebody-0123456789abcdef0"})
			return wire.KMSEncryptionResponse{KMSCipherTextKey: sealed}
		}, "open the session's data key"},
		"a challenge of its own": {func(c *call, _ string) wire.KMSEncryptionResponse {
			_, sealed := c.dataKey(key, map[string]string{"aws:ssm:RandomChallenge": "AAAAAAAAAAAAAAAAAAAAAA=="})
			return wire.KMSEncryptionResponse{KMSCipherTextKey: sealed, ChallengeAcknowledgement: true}
		}, "open the session's data key"},
		"no key": {func(*call, string) wire.KMSEncryptionResponse { return wire.KMSEncryptionResponse{} }, "open the session's data key"},
	} {
		t.Run(name, func(t *testing.T) {
			c := begin()
			c.askedForKey(func(challenge string) wire.KMSEncryptionResponse { return f.answer(c, challenge) })
			if closed := c.closed(); !strings.Contains(closed.Output, f.words) {
				t.Errorf("%q, want %q", closed.Output, f.words)
			}
		})
	}
	t.Run("an answer by another key", func(t *testing.T) {
		c := begin()
		c.askedForKey(func(string) wire.KMSEncryptionResponse {
			_, sealed := c.dataKey(key, nil)
			return wire.KMSEncryptionResponse{KMSCipherTextKey: sealed}
		})
		c.next()
		c.tell(wire.KindEncChallengeResponse, wire.EncryptionChallenge{Challenge: make([]byte, 92)})
		if closed := c.closed(); !strings.Contains(closed.Output, "does not have the session's key") {
			t.Errorf("%q", closed.Output)
		}
	})
	t.Run("a client that brings none", func(t *testing.T) {
		c := begin()
		c.next()
		c.tell(wire.KindHandshakeResponse, wire.HandshakeResponse{ClientVersion: recent, ProcessedClientActions: []wire.ProcessedClientAction{
			{ActionType: wire.ActionSessionType, ActionStatus: wire.ActionSuccess, ActionResult: json.RawMessage("null")},
		}})
		if closed := c.closed(); !strings.Contains(closed.Output, "did not bring a data key") {
			t.Errorf("%q", closed.Output)
		}
	})

	// What the server can know beforehand, it says at once.
	_, err := m.kms().DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &key})
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.client.StartSession(t.Context(), &ssm.StartSessionInput{Target: aws.String(m.node.String())})
	if err == nil || !strings.Contains(err.Error(), "is disabled") {
		t.Errorf("with a key that is disabled: %v", err)
	}
}
