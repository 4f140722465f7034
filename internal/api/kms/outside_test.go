package kms_test

import (
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awskms "github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/api/kms"
	"github.com/sallyport/sallyport/internal/keyring"
	"github.com/sallyport/sallyport/internal/server"
	"github.com/sallyport/sallyport/internal/servertest"
	"github.com/sallyport/sallyport/internal/store"
)

// outsideKey makes a key that is in a key store.
func (h *house) outsideKey(store, name string) (*types.KeyMetadata, error) {
	out, err := h.root.CreateKey(h.Context(), &awskms.CreateKeyInput{
		Origin: types.OriginTypeExternalKeyStore, CustomKeyStoreId: &store, XksKeyId: &name,
	})
	if err != nil {
		return nil, err
	}
	return out.KeyMetadata, nil
}

// sealsOutside checks that a key of a store's does what a key does.
func (h *house) sealsOutside(k *types.KeyMetadata) {
	h.Helper()
	ctx := h.Context()
	if k.Origin != types.OriginTypeExternalKeyStore || k.XksKeyConfiguration == nil || k.CustomKeyStoreId == nil {
		h.Errorf("made %+v", k)
	}
	out, err := h.root.GenerateDataKey(ctx, &awskms.GenerateDataKeyInput{KeyId: k.Arn, NumberOfBytes: aws.Int32(64), EncryptionContext: session})
	h.must(err)
	back, err := h.root.Decrypt(ctx, &awskms.DecryptInput{CiphertextBlob: out.CiphertextBlob, EncryptionContext: session})
	h.must(err)
	if string(back.Plaintext) != string(out.Plaintext) {
		h.Error("it does not open what it sealed")
	}
	_, err = h.root.Decrypt(ctx, &awskms.DecryptInput{CiphertextBlob: out.CiphertextBlob})
	h.refused(err, "InvalidCiphertextException", "")
}

// AWS's KMS is spoken to by AWS's own client; here the KMS is another server of
// ours, at an address on loopback.
func TestKeyInAWSKMS(t *testing.T) {
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "far.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	keys := keyring.Generate()
	if err := db.Unlock(t.Context(), keys); err != nil {
		t.Fatal(err)
	}
	doors := &api.Server{Realm: sallyport.Realm{Account: "123456789012", Region: "eu-central-1"}, Store: db, Keys: keys, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	doors.Services = []*api.Service{(&kms.Server{API: doors}).Service()}
	far := httptest.NewServer(doors)
	t.Cleanup(far.Close)
	id, secret := sallyport.EntityID("AKIA"), sallyport.GenerateSecret()
	if err := db.IAM().CreateAccessKey(t.Context(), sallyport.AccessKey{ID: id, Active: true, Created: time.Now()}, secret); err != nil {
		t.Fatal(err)
	}
	farKMS := awskms.New(awskms.Options{Region: "eu-central-1", BaseEndpoint: &far.URL, Credentials: credentials.NewStaticCredentialsProvider(id, secret.Reveal(), "")})
	farKey, err := farKMS.CreateKey(t.Context(), &awskms.CreateKeyInput{})
	if err != nil {
		t.Fatal(err)
	}

	t.Setenv("AWS_ACCESS_KEY_ID", id)
	t.Setenv("AWS_SECRET_ACCESS_KEY", secret.Reveal())
	t.Setenv("AWS_SESSION_TOKEN", "")
	t.Setenv("AWS_CONFIG_FILE", "/dev/null")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
	t.Setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1") // which is this server's, say, and must not count
	s := servertest.Start(t, func(c *server.Config) { c.KeyStores = []string{"aws=aws:eu-central-1:" + far.URL} })
	h := &house{t, s, awskms.NewFromConfig(s.AWS(s.Root()))}

	k, err := h.outsideKey("aws", *farKey.KeyMetadata.KeyId)
	h.must(err)
	h.sealsOutside(k)
	_, err = h.outsideKey("aws", *farKey.KeyMetadata.KeyId)
	h.refused(err, "XksKeyAlreadyInUseException", "already")
	_, err = h.outsideKey("aws", "11111111-2222-3333-4444-555555555555")
	h.refused(err, "KMSInternalException", "NotFoundException")

	// Two keys here that were the same key there would not open each other's.
	if _, err := farKMS.DisableKey(t.Context(), &awskms.DisableKeyInput{KeyId: farKey.KeyMetadata.KeyId}); err != nil {
		t.Fatal(err)
	}
	_, err = h.root.Encrypt(t.Context(), &awskms.EncryptInput{KeyId: k.KeyId, Plaintext: []byte("x")})
	h.refused(err, "KMSInternalException", "DisabledException")
}

// transit answers as Vault's transit engine does, as far as its documentation
// says: it is a stand-in, and seals with one key.
func transit(t *testing.T, key, token string) *httptest.Server {
	sealer, err := keyring.Material(keyring.NewMaterial())
	if err != nil {
		t.Fatal(err)
	}
	fail := func(w http.ResponseWriter, status int, text string) {
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(map[string][]string{"errors": {text}})
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Plaintext      []byte `json:"plaintext"`
			Ciphertext     string `json:"ciphertext"`
			AssociatedData string `json:"associated_data"`
		}
		with := keyring.Context{}
		err := json.NewDecoder(r.Body).Decode(&in)
		with["aad"] = in.AssociatedData
		switch {
		case r.Header.Get("X-Vault-Token") != token:
			fail(w, http.StatusForbidden, "permission denied")
		case err != nil || r.Method != http.MethodPost:
			fail(w, http.StatusBadRequest, "cannot be read")
		case r.URL.Path == "/v1/team/transit/encrypt/"+key:
			sealed, err := sealer.Seal(r.Context(), in.Plaintext, with)
			if err != nil {
				fail(w, http.StatusInternalServerError, err.Error())
				return
			}
			json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{"ciphertext": "vault:v1:" + base64.StdEncoding.EncodeToString(sealed), "key_version": 1}})
		case r.URL.Path == "/v1/team/transit/decrypt/"+key:
			text, _ := strings.CutPrefix(in.Ciphertext, "vault:v1:")
			sealed, _ := base64.StdEncoding.DecodeString(text)
			plaintext, err := sealer.Open(r.Context(), sealed, with)
			if err != nil {
				fail(w, http.StatusBadRequest, "invalid ciphertext: unable to decrypt")
				return
			}
			json.NewEncoder(w).Encode(map[string]any{"data": map[string][]byte{"plaintext": plaintext}})
		default:
			fail(w, http.StatusBadRequest, "encryption key not found")
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func TestKeyInVault(t *testing.T) {
	vault := transit(t, "sessions", "s.token")
	t.Setenv("VAULT_TOKEN", "s.token")
	s := servertest.Start(t, func(c *server.Config) { c.KeyStores = []string{"vault=vault:" + vault.URL + "/team/transit"} })
	h := &house{t, s, awskms.NewFromConfig(s.AWS(s.Root()))}
	k, err := h.outsideKey("vault", "sessions")
	h.must(err)
	h.sealsOutside(k)

	_, err = h.outsideKey("vault", "none")
	h.refused(err, "KMSInternalException", "encryption key not found")
	_, err = h.outsideKey("vault", "../../sys/x")
	h.refused(err, "ValidationException", "")
	for _, name := range []string{".", "..", "..."} { // an element of a path that names no key
		_, err = h.outsideKey("vault", name)
		h.refused(err, "KMSInternalException", "a key in Vault has no such name")
	}
	t.Setenv("VAULT_TOKEN", "s.old")
	_, err = h.root.Encrypt(t.Context(), &awskms.EncryptInput{KeyId: k.KeyId, Plaintext: []byte("x")})
	h.refused(err, "KMSInternalException", "permission denied")
	vault.Close()
	_, err = h.root.Encrypt(t.Context(), &awskms.EncryptInput{KeyId: k.KeyId, Plaintext: []byte("x")})
	h.refused(err, "KMSInternalException", "ask Vault")
}

func TestKeyStoresAreWrittenSo(t *testing.T) {
	for text, words := range map[string]string{
		"vault":                                   "is not a name, a kind and a place",
		"a/b=vault:https://x/transit":             "is not a name, a kind and a place",
		"v=gcp:x":                                 "there are vault and aws",
		"v=vault:http://vault.example/transit":    "https, a host and the mount",
		"v=vault:https://vault.example":           "https, a host and the mount",
		"..=vault:https://vault.example/transit":  "is not a name, a kind and a place",
		"v=vault:https://vault.example/../sys":    "https, a host and the mount",
		"v=vault:https://vault.example/a/./b":     "https, a host and the mount",
		"v=vault:https://t:x@vault.example/trans": "https, a host and the mount",
	} {
		if _, err := keyring.ParseStores(t.Context(), []string{text}); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v, want %q", text, err, words)
		}
	}
	if _, err := keyring.ParseStores(t.Context(), []string{"v=aws:x", "v=aws:y"}); err == nil || !strings.Contains(err.Error(), "two key stores") {
		t.Errorf("twice the same name: %v", err)
	}
}
