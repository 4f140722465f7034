package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

// A RecordingPart is what GetRecording answers: one part of a recording.
type RecordingPart struct {
	Format string // "asciicast-v2"
	Size   int64  // of the whole recording
	SHA256 string `json:"Sha256"` // of the whole recording, in hexadecimal digits
	Offset int64
	Data   []byte
}

// ErrRecordingChanged is that the parts of a recording do not make the file whose
// hash the control plane stored when the session ended.
var ErrRecordingChanged = errors.New("the recording is not what the server stored when the session ended: its SHA-256 is another; it was damaged or changed on the server's disk")

// GetRecording writes the recording of a session that is over to w. When all of it
// was written, its hash is checked: what w has after an error is not to be used.
// Progress is called after each part, unless it is nil.
func (c *Client) GetRecording(ctx context.Context, session string, w io.Writer, progress func(done, size int64)) (RecordingPart, error) {
	if c.aws {
		return RecordingPart{}, errors.New("AWS keeps no recordings to be played; its Session Manager logs to S3 and CloudWatch Logs")
	}
	hash := sha256.New()
	var first RecordingPart
	for done := int64(0); ; {
		var part RecordingPart
		in := map[string]any{"SessionId": session, "Offset": done}
		if err := c.api.Call(ctx, "sallyport", "Sallyport.GetRecording", in, &part); err != nil {
			return RecordingPart{}, err
		}
		if done == 0 {
			first = part
			first.Data = nil
		}
		if part.Offset != done || part.Size != first.Size || part.SHA256 != first.SHA256 || int64(len(part.Data)) > part.Size-done || len(part.Data) == 0 && done < part.Size {
			return RecordingPart{}, fmt.Errorf("get recording: the answer is not the part at %d of one of %d bytes", done, first.Size)
		}
		hash.Write(part.Data)
		if _, err := w.Write(part.Data); err != nil {
			return RecordingPart{}, fmt.Errorf("write recording: %w", err)
		}
		done += int64(len(part.Data))
		if progress != nil {
			progress(done, part.Size)
		}
		if done == part.Size {
			break
		}
	}
	if hex.EncodeToString(hash.Sum(nil)) != first.SHA256 {
		return RecordingPart{}, ErrRecordingChanged
	}
	return first, nil
}
