// Package sallyportapi answers the operations that AWS does not have. They are a
// service of their own, signed for and named in policies as "sallyport", so that
// no policy which allows ssm:* allows them.
//
//	sallyport:GetRecording  one part of a session's recording
//
// Its wire is that of AWS's JSON services: POST / with X-Amz-Target:
// Sallyport.GetRecording.
package sallyportapi

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/record"
	"github.com/sallyport/sallyport/internal/store"
)

// MaxPart is how many bytes of a recording one answer has at most, and has if the
// caller does not say.
const MaxPart = 512 << 10

// A Server answers the operations. Its fields are set before [Server.Service] is
// called.
type Server struct {
	API   *api.Server
	Shelf *record.Shelf
}

// Service lists the operations.
func (s *Server) Service() *api.Service {
	return &api.Service{
		Name:  "sallyport",
		Door:  api.JSON{Target: "Sallyport"},
		Model: model,
		Ops: map[string]api.Op{
			"GetRecording": api.Read(s.getRecording, api.By(s.askRecording, api.Resource("recording"))),
		},
	}
}

// askRecording asks about the recording by both of the names that policies use
// for a session's: recording/<owner's name>-… and recording/<owner's user ID>-….
// To a caller who does not own the session, neither is a name that begins with
// the caller's own: ann is not asked about ann-marie's by ${aws:username}-*.
func (s *Server) askRecording(ctx context.Context, c *api.Call, in *GetRecordingInput) ([]api.Question, error) {
	id, err := sallyport.ParseSessionID(in.SessionId)
	if err != nil {
		return nil, err
	}
	q := api.Question{Action: c.Action(), Resources: []string{s.API.Realm.Recording(id)}}
	rec, err := s.API.Store.Sessions().Get(ctx, id)
	switch {
	case sallyport.CodeOf(err) == sallyport.DoesNotExistException:
		return []api.Question{q}, nil // only who may see it hears that it is not there
	case err != nil:
		return nil, err
	}
	suffix := in.SessionId[strings.LastIndexByte(in.SessionId, '-'):]
	q.Resources = append(q.Resources, s.API.Realm.RecordingNamed(rec.OwnerID+suffix))
	q.Tags = map[string]string{ // the session's
		"aws:ssmmessages:session-id": rec.OwnerID,
		"aws:ssmmessages:target-id":  rec.Node.String(),
	}
	q.Unnamed = !c.Who.Owns(rec.Session) && (strings.HasPrefix(in.SessionId, c.Who.Name+"-") || strings.HasPrefix(rec.OwnerID+suffix, c.Who.ID+"-"))
	return []api.Question{q}, nil
}

func (s *Server) getRecording(ctx context.Context, _ *api.Call, in *GetRecordingInput) (*GetRecordingOutput, error) {
	id, err := sallyport.ParseSessionID(in.SessionId)
	if err != nil {
		return nil, err
	}
	var offset, n int64
	if in.Offset != nil {
		offset = *in.Offset
	}
	if in.MaxBytes != nil {
		n = *in.MaxBytes
	}
	if offset < 0 || n < 0 || n > MaxPart {
		return nil, sallyport.Errorf(sallyport.ValidationException, "Offset must be 0 or more, and MaxBytes from 1 to %d, or 0 for that.", MaxPart)
	}
	rec, err := s.API.Store.Sessions().Get(ctx, id)
	if err != nil {
		return nil, err
	}
	if len(rec.Log.Hash) == 0 {
		return nil, s.unrecorded(rec)
	}
	f, err := s.Shelf.OpenCast(id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, sallyport.Errorf(sallyport.RecordingNotAvailableException, "The recording of session %s was deleted from the server.", id)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size := rec.Log.Size
	if offset > size {
		return nil, sallyport.Errorf(sallyport.ValidationException, "Offset %d is beyond the end of the recording, which has %d bytes.", offset, size)
	}
	if n == 0 {
		n = MaxPart
	}
	data := make([]byte, min(n, size-offset))
	if _, err := io.ReadFull(io.NewSectionReader(f, offset, int64(len(data))), data); err != nil {
		return nil, fmt.Errorf("read recording of session %s at %d of %d: %w", id, offset, size, err)
	}
	return &GetRecordingOutput{
		SessionId: new(id.String()), Format: new("asciicast-v2"), Size: &size, Sha256: new(hex.EncodeToString(rec.Log.Hash)), Offset: &offset, Data: data,
	}, nil
}

// unrecorded says why a session has no recording.
func (s *Server) unrecorded(rec *store.SessionRecord) error {
	why := func(format string, args ...any) error {
		return sallyport.Errorf(sallyport.RecordingNotAvailableException, format, args...)
	}
	switch {
	case !rec.State().Final():
		return why("Session %s is still on. Its recording is made when it ends.", rec.ID)
	case s.Shelf.HasLog(rec.ID):
		return why("The recording of session %s has not been made yet. The server tries again within an hour; its log says what prevents it.", rec.ID)
	case rec.State() == sallyport.Failed && rec.Cause != "":
		return why("Nothing was recorded of session %s, which never began: %s", rec.ID, rec.Cause)
	}
	return why("Nothing was recorded of session %s.", rec.ID)
}
