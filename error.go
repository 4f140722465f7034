package sallyport

import (
	"errors"
	"fmt"
)

// A Code is the name of an AWS exception. AWS's clients branch on it, so the
// spelling is the contract: some end in Exception and most do not.
type Code string

// The codes any service may answer with.
const (
	AccessDeniedException         Code = "AccessDeniedException"
	ExpiredTokenException         Code = "ExpiredTokenException"
	IncompleteSignatureException  Code = "IncompleteSignatureException"
	InternalServerError           Code = "InternalServerError"
	InvalidClientTokenID          Code = "InvalidClientTokenId" // STS and IAM say this where JSON services say UnrecognizedClientException
	InvalidSignatureException     Code = "InvalidSignatureException"
	MissingAuthenticationToken    Code = "MissingAuthenticationTokenException"
	RequestEntityTooLarge         Code = "RequestEntityTooLargeException"
	SerializationException        Code = "SerializationException"
	ServiceUnavailableException   Code = "ServiceUnavailableException"
	ThrottlingException           Code = "ThrottlingException"
	ServiceQuotaExceededException Code = "ServiceQuotaExceededException"
	UnknownOperationException     Code = "UnknownOperationException"
	UnrecognizedClientException   Code = "UnrecognizedClientException"
	ValidationException           Code = "ValidationException"
)

// The codes of Systems Manager.
const (
	DocumentAlreadyExists                 Code = "DocumentAlreadyExists"
	DocumentLimitExceeded                 Code = "DocumentLimitExceeded"
	DocumentPermissionLimit               Code = "DocumentPermissionLimit"
	DocumentVersionLimitExceeded          Code = "DocumentVersionLimitExceeded"
	DoesNotExistException                 Code = "DoesNotExistException"
	DuplicateDocumentContent              Code = "DuplicateDocumentContent"
	DuplicateDocumentVersionName          Code = "DuplicateDocumentVersionName"
	InvalidActivation                     Code = "InvalidActivation"
	InvalidActivationID                   Code = "InvalidActivationId"
	InvalidDocument                       Code = "InvalidDocument"
	InvalidDocumentContent                Code = "InvalidDocumentContent"
	InvalidDocumentOperation              Code = "InvalidDocumentOperation"
	InvalidDocumentSchemaVersion          Code = "InvalidDocumentSchemaVersion"
	InvalidDocumentVersion                Code = "InvalidDocumentVersion"
	InvalidFilter                         Code = "InvalidFilter"
	InvalidFilterKey                      Code = "InvalidFilterKey"
	InvalidInstanceID                     Code = "InvalidInstanceId"
	InvalidInstanceInformationFilterValue Code = "InvalidInstanceInformationFilterValue"
	InvalidInstancePropertyFilterValue    Code = "InvalidInstancePropertyFilterValue"
	InvalidNextToken                      Code = "InvalidNextToken"
	InvalidParameters                     Code = "InvalidParameters"
	InvalidResourceID                     Code = "InvalidResourceId"
	InvalidResourceType                   Code = "InvalidResourceType"
	MachineFingerprintDoesNotMatch        Code = "MachineFingerprintDoesNotMatch"
	MaxDocumentSizeExceeded               Code = "MaxDocumentSizeExceeded"
	TargetNotConnected                    Code = "TargetNotConnected"
	TooManyTagsError                      Code = "TooManyTagsError"
	TooManyUpdates                        Code = "TooManyUpdates"
)

// The codes of IAM and STS.
const (
	DeleteConflict          Code = "DeleteConflict"
	EntityAlreadyExists     Code = "EntityAlreadyExists"
	InvalidInput            Code = "InvalidInput"
	LimitExceeded           Code = "LimitExceeded"
	MalformedPolicyDocument Code = "MalformedPolicyDocument"
	NoSuchEntity            Code = "NoSuchEntity"
	PackedPolicyTooLarge    Code = "PackedPolicyTooLarge"
)

// The codes of KMS. It says NotFoundException where IAM says NoSuchEntity.
const (
	AlreadyExistsException           Code = "AlreadyExistsException"
	CustomKeyStoreNotFoundException  Code = "CustomKeyStoreNotFoundException"
	DisabledException                Code = "DisabledException"
	IncorrectKeyException            Code = "IncorrectKeyException"
	InvalidAliasNameException        Code = "InvalidAliasNameException"
	InvalidArnException              Code = "InvalidArnException"
	InvalidCiphertextException       Code = "InvalidCiphertextException"
	InvalidMarkerException           Code = "InvalidMarkerException"
	KMSInternalException             Code = "KMSInternalException"
	DryRunOperationException         Code = "DryRunOperationException"
	KMSInvalidStateException         Code = "KMSInvalidStateException"
	LimitExceededException           Code = "LimitExceededException"
	MalformedPolicyDocumentException Code = "MalformedPolicyDocumentException"
	NotFoundException                Code = "NotFoundException"
	TagException                     Code = "TagException"
	XksKeyAlreadyInUseException      Code = "XksKeyAlreadyInUseException"
	UnsupportedOperationException    Code = "UnsupportedOperationException"
)

// The codes of the operations that AWS does not have.
const (
	// RecordingNotAvailableException is that a session is there and its recording is
	// not: not yet, not any more, or not at all. The message says which.
	RecordingNotAvailableException Code = "RecordingNotAvailableException"
)

// An Error is a failure its caller is meant to see. Message is read by a
// person: it says what went wrong and, when we know, what to do about it.
//
// Every other kind of error that reaches the API is a fault of ours. The
// caller is told InternalServerError; the operator gets the error itself, in
// the log.
type Error struct {
	Code    Code
	Message string
}

// Errorf returns an [Error]. Its message is a sentence, with a full stop, and
// printable, though it quotes what a stranger sent.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{code, Printable(fmt.Sprintf(format, args...))}
}

func (e *Error) Error() string { return string(e.Code) + ": " + e.Message }

// Is makes errors.Is match two Errors by code alone, so that a caller may ask
// errors.Is(err, &Error{Code: NoSuchEntity}).
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && (t.Message == "" || t.Message == e.Message)
}

// CodeOf returns the code of the [Error] within err, or "" if there is none.
func CodeOf(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return ""
}

// Public returns what a caller may be told about err.
func Public(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{InternalServerError, "Something went wrong on our side. The operator's log has the details."}
}
