// Package wire says what the bytes between two ends of a session mean.
//
// A frame is one binary WebSocket message: a header of fixed size, then a
// payload. Integers are big-endian.
//
//	offset  size  field
//	     0     4  header length: 116, the offset of the payload length
//	     4    32  message type, padded with spaces
//	    36     4  schema version: 1
//	    40     8  created, in milliseconds since 1970
//	    48     8  sequence number
//	    56     8  flags
//	    64    16  message ID: a UUID, its halves swapped
//	    80    32  SHA-256 of the payload; or its CRC-32C, and 28 zero bytes
//	   112     4  payload type
//	   116     4  payload length
//	   120        payload
//
// That is what we write. Some services of AWS's leave the payload type out: the
// header length is then 112 and everything after it sits four bytes earlier. We
// read both, and types padded with NULs or on the left, and empty payloads, which
// AWS's own encoders cannot write.
//
// The checksum instead of the digest is ours, for ends that announced
// [CapChecksum]: a digest takes a processor without instructions for it longer
// than all the rest of a message's way. It finds accidental changes; TLS prevents
// deliberate ones. The end that makes the frame makes either.
//
// The two ends [Decode]. The relay between them forwards frames as they came
// and only needs to [Peek], which reads the header, allocates nothing, and
// leaves the digest to the end that the payload is for.
//
// AWS publishes no specification. The table is read off amazon-ssm-agent
// (agent/session/contracts/agentmessage.go) and session-manager-plugin
// (src/message), and testdata holds frames their own encoders wrote. The
// payloads, in payload.go, come from the same two programs. What is ours alone
// is in members and messages those programs never see or skip; each says so.
//
// This is the only package that knows an offset. It trusts nothing it reads,
// and knows nothing of order, retries or sockets.
package wire

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/sallyport/sallyport/internal/strictjson"
)

const (
	longHeader  = 116 // the offset of the payload length
	shortHeader = 112 // the same, in a frame without a payload type
	typeLen     = 32
	digestAt    = 80
	digestEnd   = 112
	schema      = 1

	// Overhead is what a frame of ours is longer than its payload.
	Overhead = longHeader + 4

	// MaxPayload is the most a frame may carry. AWS's peers send 1 KiB of a
	// stream at a time, but an agent_job carries a whole document.
	MaxPayload = 256 << 10

	// MaxFrame is the longest frame there is: the read limit for a socket.
	MaxFrame = Overhead + MaxPayload
)

// Reasons a frame is refused.
var (
	ErrShort   = errors.New("frame shorter than its header")
	ErrHeader  = errors.New("frame header malformed")
	ErrLength  = errors.New("payload length disagrees with frame")
	ErrTooLong = errors.New("payload too long")
	ErrDigest  = errors.New("payload does not match its digest")
)

// A Frame is one message between a person's end of a session and the node's, or
// between one of them and the control plane.
type Frame struct {
	Type    Type
	Created time.Time // to the millisecond
	Seq     int64     // a stream message's place in its stream, from 0
	Flags   Flags
	ID      ID

	Kind    Kind // what a stream message's payload is
	Payload []byte

	Checksum bool // written with a checksum instead of a digest
}

// A Head is a frame's header, as a relay reads it.
type Head struct {
	Type    Type // "" if it is none of this package's
	Seq     int64
	Flags   Flags
	ID      ID
	Kind    Kind
	Payload int // where in the frame its payload begins
}

// NewFrame returns a frame with a fresh message ID.
func NewFrame(t Type, payload []byte, now time.Time) Frame {
	return Frame{Type: t, Created: now, ID: NewID(), Payload: payload}
}

// Decode reads the frame in b and checks its payload against its digest, or its
// checksum. The frame's payload shares b's memory.
func Decode(b []byte) (Frame, error) {
	f, err := DecodeInput(b)
	if err == nil && !f.Checksum && sha256.Sum256(f.Payload) != [32]byte(b[digestAt:digestEnd]) {
		return Frame{}, ErrDigest
	}
	return f, err
}

// DecodeInput is [Decode] for what clients send, whose digest AWS's agent does not
// check, and whose programs may write another: npm's ssm-session writes the hex
// digits. A checksum is ours, and is checked.
// (amazon-ssm-agent agent/session/contracts/messageparser.go.)
func DecodeInput(b []byte) (Frame, error) {
	h, err := Peek(b)
	if err != nil {
		return Frame{}, err
	}
	payload := b[h.Payload:]
	checksum := HasChecksum(b)
	if checksum && be.Uint32(b[digestAt:]) != crc32.Checksum(payload, castagnoli) {
		return Frame{}, ErrDigest
	}
	if h.Type == "" {
		h.Type = Type(typeField(b)) // a copy, of at most 32 bytes
	}
	return Frame{
		Type:    h.Type,
		Created: time.UnixMilli(int64(be.Uint64(b[40:]))),
		Seq:     h.Seq,
		Flags:   h.Flags,
		ID:      h.ID,
		Kind:    h.Kind,
		Payload: payload,

		Checksum: checksum,
	}, nil
}

// Peek reads the header of the frame in b. It checks that the lengths add up,
// so that b[h.Payload:] is the payload, but not the digest. It does not
// allocate unless it refuses.
func Peek(b []byte) (h Head, err error) {
	if len(b) < shortHeader+4 {
		return Head{}, fmt.Errorf("%w: %d bytes", ErrShort, len(b))
	}
	switch n := be.Uint32(b); {
	case n == shortHeader:
		h.Payload = shortHeader + 4
	case n != longHeader:
		return Head{}, fmt.Errorf("%w: header length %d", ErrHeader, n)
	case len(b) < Overhead:
		return Head{}, fmt.Errorf("%w: %d bytes", ErrShort, len(b))
	default:
		h.Payload = Overhead
		h.Kind = Kind(be.Uint32(b[112:]))
	}
	if v := be.Uint32(b[36:]); v != schema {
		return Head{}, fmt.Errorf("%w: schema version %d", ErrHeader, v)
	}
	rest := len(b) - h.Payload
	if n := be.Uint32(b[h.Payload-4:]); uint64(n) != uint64(rest) {
		return Head{}, fmt.Errorf("%w: says %d, carries %d", ErrLength, n, rest)
	}
	if rest > MaxPayload {
		return Head{}, fmt.Errorf("%w: %d bytes", ErrTooLong, rest)
	}
	name := typeField(b)
	if !wellFormed(name) {
		return Head{}, fmt.Errorf("%w: message type %q", ErrHeader, b[4:4+typeLen])
	}
	h.Type = intern(name)
	h.Seq = int64(be.Uint64(b[48:]))
	h.Flags = Flags(be.Uint64(b[56:]))
	h.ID = swapHalves(ID(b[64:80]))
	return h, nil
}

// AppendBinary appends the encoded frame to b. It allocates only what b lacks.
func (f Frame) AppendBinary(b []byte) ([]byte, error) {
	if len(f.Type) > typeLen || !wellFormed(f.Type) {
		return b, fmt.Errorf("%w: message type %q", ErrHeader, string(f.Type))
	}
	if len(f.Payload) > MaxPayload {
		return b, fmt.Errorf("%w: %d bytes", ErrTooLong, len(f.Payload))
	}
	id := swapHalves(f.ID)
	var digest [32]byte
	if f.Checksum {
		be.PutUint32(digest[:], crc32.Checksum(f.Payload, castagnoli))
	} else {
		digest = sha256.Sum256(f.Payload)
	}

	b = be.AppendUint32(b, longHeader)
	b = append(b, f.Type...)
	b = append(b, spaces[len(f.Type):]...)
	b = be.AppendUint32(b, schema)
	b = be.AppendUint64(b, uint64(f.Created.UnixMilli()))
	b = be.AppendUint64(b, uint64(f.Seq))
	b = be.AppendUint64(b, uint64(f.Flags))
	b = append(b, id[:]...)
	b = append(b, digest[:]...)
	b = be.AppendUint32(b, uint32(f.Kind))
	b = be.AppendUint32(b, uint32(len(f.Payload)))
	return append(b, f.Payload...), nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// HasChecksum reports whether the frame in b, which [Peek] has read, has a
// checksum instead of a digest.
func HasChecksum(b []byte) bool {
	return [digestEnd - digestAt - 4]byte(b[digestAt+4:digestEnd]) == [digestEnd - digestAt - 4]byte{}
}

// Digest gives the frame in b, which [Peek] has read, a digest instead of its
// checksum, for an end that knows no other.
func Digest(b []byte, h Head) {
	digest := sha256.Sum256(b[h.Payload:])
	copy(b[digestAt:digestEnd], digest[:])
}

// Unmarshal reads the frame's payload as JSON into v, one of this package's
// payloads. A member that is there twice is an error: AWS's programs would take
// the last, and what is relayed must not mean one thing here and another there.
func (f Frame) Unmarshal(v any) error {
	if err := strictjson.Unmarshal(f.Payload, v); err != nil {
		return fmt.Errorf("parse %s: %w", f.Type, err)
	}
	return nil
}

var be = binary.BigEndian

const spaces = "                                " // typeLen of them

// typeField returns the message type without its padding. AWS's programs pad
// with spaces on the right, and read NULs and the left as well.
func typeField(b []byte) []byte {
	name := b[4 : 4+typeLen]
	for len(name) > 0 && (name[len(name)-1] == ' ' || name[len(name)-1] == 0) {
		name = name[:len(name)-1]
	}
	for len(name) > 0 && (name[0] == ' ' || name[0] == 0) {
		name = name[1:]
	}
	return name
}

// wellFormed reports whether a message type may be shown to people: one or
// more printing characters of ASCII.
func wellFormed[T Type | []byte](name T) bool {
	for i := range len(name) {
		if name[i] <= ' ' || name[i] >= 0x7f {
			return false
		}
	}
	return len(name) > 0
}

// An ID names one message: a UUID in its usual byte order. A message that is
// sent again keeps its ID.
type ID [16]byte

// NewID returns a random UUID, version 4.
func NewID() (id ID) {
	rand.Read(id[:]) // never fails
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id
}

// String returns the ID as UUIDs are written, with hyphens.
func (id ID) String() string { return string(id.append(make([]byte, 0, 36))) }

func (id ID) append(b []byte) []byte {
	for i, part := range [...][]byte{id[:4], id[4:6], id[6:8], id[8:10], id[10:]} {
		if i > 0 {
			b = append(b, '-')
		}
		b = hex.AppendEncode(b, part)
	}
	return b
}

// ParseID reads a UUID with hyphens, in either case.
func ParseID(s string) (ID, error) {
	id, ok := parseID(s)
	if !ok {
		return ID{}, fmt.Errorf("%.40q is not a UUID", s)
	}
	return id, nil
}

func parseID[T string | []byte](s T) (id ID, ok bool) {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return ID{}, false
	}
	at := 0
	for i := range id {
		if s[at] == '-' {
			at++
		}
		hi, lo := unhex(s[at]), unhex(s[at+1])
		if hi > 15 || lo > 15 {
			return ID{}, false
		}
		id[i] = hi<<4 | lo
		at += 2
	}
	return id, true
}

func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 0xff
}

// swapHalves turns a UUID's byte order into the wire's, and back. AWS's first
// peers were Java, which writes a UUID as two longs, low one first.
func swapHalves(id ID) (out ID) {
	copy(out[:8], id[8:])
	copy(out[8:], id[:8])
	return out
}
