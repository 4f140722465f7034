package kms

import (
	"context"
	"errors"
	"slices"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/keyring"
)

const (
	format  = 1
	headLen = 1 + len(uuid.UUID{})

	// contextKey is an entry of every encryption context, on our side of the
	// key: what one key sealed in an outside KMS another that is the same key
	// there must not open.
	contextKey = "sallyport:key"

	maxDataKey = 1024 // bytes (API reference, GenerateDataKey)
)

// sealer is a key at work.
func (s *Server) sealer(ctx context.Context, k *sallyport.KMSKey) (keyring.Sealer, error) {
	if k.Outside != (sallyport.OutsideKey{}) {
		sealer, err := s.Stores.Key(k.Outside.Store, k.Outside.Name)
		return sealer, outsideError(*k, err)
	}
	material, err := s.db().Keys().Material(ctx, k.ID)
	if err != nil {
		return nil, err
	}
	return keyring.Material(material)
}

// seal seals plaintext with a key, which must be there and enabled. If it is only to
// be tried, all is checked, and nothing is done.
func (s *Server) seal(ctx context.Context, name *string, plaintext []byte, with map[string]string, try bool) (api.KeyRef, []byte, error) {
	ref, err := s.key(ctx, name)
	if err == nil {
		err = ref.Usable()
	}
	if err == nil && try {
		err = wouldSucceed()
	}
	if err != nil {
		return ref, nil, err
	}
	id, err := uuid.Parse(ref.Key.ID)
	if err != nil {
		return ref, nil, err
	}
	sealer, err := s.sealer(ctx, ref.Key)
	if err != nil {
		return ref, nil, err
	}
	sealed, err := sealer.Seal(ctx, plaintext, keyring.Context(with).With(contextKey, ref.Name))
	if err != nil {
		return ref, nil, outsideError(*ref.Key, err)
	}
	return ref, append(append([]byte{format}, id[:]...), sealed...), nil
}

// sealedBy is the ID of the key that a ciphertext says it was sealed with; "" if
// it is none of ours.
func sealedBy(blob []byte) string {
	if len(blob) <= headLen || blob[0] != format {
		return ""
	}
	return uuid.UUID(blob[1:headLen]).String()
}

func invalidCiphertext() error {
	return sallyport.Errorf(sallyport.InvalidCiphertextException, "The ciphertext was altered, or was not sealed here, or with another encryption context.")
}

// refuse refuses what requests may ask for and this service does not have.
func refuse(recipient *RecipientInfo) error {
	if recipient != nil {
		return sallyport.Errorf(sallyport.UnsupportedOperationException, "Recipient is for AWS's enclaves. Leave it out.")
	}
	return nil
}

// wouldSucceed answers a request with DryRun that is let in and makes sense.
func wouldSucceed() error {
	return sallyport.Errorf(sallyport.DryRunOperationException, "The request would have succeeded, but the DryRun option is set.")
}

func (s *Server) encryptOn(ctx context.Context, c *api.Call, in *EncryptInput) ([]api.Question, error) {
	return s.onKey(ctx, c, in.KeyId, in.EncryptionContext)
}

func (s *Server) encrypt(ctx context.Context, _ *api.Call, in *EncryptInput) (*EncryptOutput, error) {
	if err := checkAlgorithm(in.EncryptionAlgorithm); err != nil {
		return nil, err
	}
	ref, blob, err := s.seal(ctx, &in.KeyId, in.Plaintext, in.EncryptionContext, deref(in.DryRun))
	if err != nil {
		return nil, err
	}
	return &EncryptOutput{CiphertextBlob: blob, KeyId: &ref.Name, EncryptionAlgorithm: EncryptionAlgorithmSpecSymmetricDefault}, nil
}

func checkAlgorithm(a EncryptionAlgorithmSpec) error {
	if a != "" && a != EncryptionAlgorithmSpecSymmetricDefault {
		return sallyport.Errorf(sallyport.UnsupportedOperationException, "Keys here are symmetric, and EncryptionAlgorithm has to be SYMMETRIC_DEFAULT.")
	}
	return nil
}

// decryptOn asks about the key that the ciphertext was sealed with, or the one
// that is named if it says none.
func (s *Server) decryptOn(ctx context.Context, c *api.Call, in *DecryptInput) ([]api.Question, error) {
	name := sealedBy(in.CiphertextBlob)
	if name == "" || in.ignoresCiphertext() {
		name = deref(in.KeyId)
	}
	if name == "" {
		return []api.Question{{Action: c.Action()}}, nil
	}
	return s.onKey(ctx, c, name, in.EncryptionContext)
}

// ignoresCiphertext reports whether the request, which is to be tried alone, is about
// the key that it names, and has no ciphertext.
func (in *DecryptInput) ignoresCiphertext() bool {
	return slices.Contains(in.DryRunModifiers, DryRunModifierTypeIgnoreCiphertext)
}

func (s *Server) decrypt(ctx context.Context, _ *api.Call, in *DecryptInput) (*DecryptOutput, error) {
	if err := refuse(in.Recipient); err != nil {
		return nil, err
	}
	if err := checkAlgorithm(in.EncryptionAlgorithm); err != nil {
		return nil, err
	}
	id := sealedBy(in.CiphertextBlob)
	switch {
	case !in.ignoresCiphertext() && id == "":
		return nil, invalidCiphertext()
	case !in.ignoresCiphertext():
	case !deref(in.DryRun):
		return nil, sallyport.Errorf(sallyport.ValidationException, "DryRunModifiers are for requests with DryRun.")
	case in.KeyId == nil:
		return nil, sallyport.Errorf(sallyport.ValidationException, "A request whose ciphertext is ignored has to name the key: give KeyId.")
	default:
		id = *in.KeyId
	}
	ref, err := s.key(ctx, &id)
	if sallyport.CodeOf(err) == sallyport.NotFoundException && !in.ignoresCiphertext() {
		return nil, invalidCiphertext() // as AWS says of a key that has been deleted
	}
	if err != nil {
		return nil, err
	}
	if in.KeyId != nil {
		named, err := s.key(ctx, in.KeyId)
		if err != nil {
			return nil, err
		}
		if named.Key.ID != ref.Key.ID {
			return nil, sallyport.Errorf(sallyport.IncorrectKeyException, "The key ID in the request does not identify the key that sealed the ciphertext.")
		}
	}
	if err := ref.Usable(); err != nil {
		return nil, err
	}
	if deref(in.DryRun) {
		return nil, wouldSucceed()
	}
	sealer, err := s.sealer(ctx, ref.Key)
	if err != nil {
		return nil, err
	}
	plaintext, err := sealer.Open(ctx, in.CiphertextBlob[headLen:], keyring.Context(in.EncryptionContext).With(contextKey, ref.Name))
	if errors.Is(err, keyring.ErrWrongKey) {
		return nil, invalidCiphertext()
	}
	if err != nil {
		return nil, outsideError(*ref.Key, err)
	}
	return &DecryptOutput{Plaintext: plaintext, KeyId: &ref.Name, EncryptionAlgorithm: EncryptionAlgorithmSpecSymmetricDefault}, nil
}

func (s *Server) generateDataKeyOn(ctx context.Context, c *api.Call, in *GenerateDataKeyInput) ([]api.Question, error) {
	return s.onKey(ctx, c, in.KeyId, in.EncryptionContext)
}

func (s *Server) generateDataKey(ctx context.Context, _ *api.Call, in *GenerateDataKeyInput) (*GenerateDataKeyOutput, error) {
	if err := refuse(in.Recipient); err != nil {
		return nil, err
	}
	size, err := dataKeySize(in.KeySpec, in.NumberOfBytes)
	if err != nil {
		return nil, err
	}
	plaintext := keyring.NewDataKey(size)
	ref, blob, err := s.seal(ctx, &in.KeyId, plaintext, in.EncryptionContext, deref(in.DryRun))
	if err != nil {
		return nil, err
	}
	return &GenerateDataKeyOutput{Plaintext: plaintext, CiphertextBlob: blob, KeyId: &ref.Name}, nil
}

func dataKeySize(spec DataKeySpec, bytes *int32) (int, error) {
	switch {
	case (spec == "") == (bytes == nil):
		return 0, sallyport.Errorf(sallyport.ValidationException, "Please specify either number of bytes or key spec.")
	case bytes != nil && (*bytes < 1 || *bytes > maxDataKey):
		return 0, sallyport.Errorf(sallyport.ValidationException, "NumberOfBytes is %d, and must be from 1 to %d.", *bytes, maxDataKey)
	case bytes != nil:
		return int(*bytes), nil
	case spec == DataKeySpecAes128:
		return 16, nil
	}
	return 32, nil
}

func (s *Server) generateSealedOn(ctx context.Context, c *api.Call, in *GenerateDataKeyWithoutPlaintextInput) ([]api.Question, error) {
	return s.onKey(ctx, c, in.KeyId, in.EncryptionContext)
}

func (s *Server) generateSealed(ctx context.Context, c *api.Call, in *GenerateDataKeyWithoutPlaintextInput) (*GenerateDataKeyWithoutPlaintextOutput, error) {
	out, err := s.generateDataKey(ctx, c, &GenerateDataKeyInput{
		KeyId: in.KeyId, EncryptionContext: in.EncryptionContext, KeySpec: in.KeySpec, NumberOfBytes: in.NumberOfBytes, DryRun: in.DryRun,
	})
	if err != nil {
		return nil, err
	}
	return &GenerateDataKeyWithoutPlaintextOutput{CiphertextBlob: out.CiphertextBlob, KeyId: out.KeyId}, nil
}
