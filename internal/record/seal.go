package record

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/asciicast"
	"github.com/sallyport/sallyport/internal/wire"
)

// A Sealed is a recording that is complete.
type Sealed struct {
	Size   int64 // of the recording, in bytes
	SHA256 []byte
}

// Seal makes the recording of a session that is over from its log. The log stays
// until [Shelf.Discard], which is for when the recording's size and hash are
// stored. A session that has no log, because it never began, has no recording
// either: [fs.ErrNotExist]. Sealing again makes the same recording.
//
// Frames that arrived out of order are put in order, which is why the log is
// not the recording.
func (s *Shelf) Seal(id sallyport.SessionID) (Sealed, error) {
	f, err := s.disk.OpenFile(s.logPath(id), os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return s.sealed(id)
	}
	if err != nil {
		return Sealed{}, fmt.Errorf("seal recording: %w", err)
	}
	defer f.Close()

	tmp, err := s.disk.CreateTemp(s.dir, ".seal-*")
	if err != nil {
		return Sealed{}, fmt.Errorf("seal recording: %w", err)
	}
	defer s.disk.Remove(tmp.Name()) // does nothing once it has been renamed
	defer tmp.Close()

	hash := sha256.New()
	if err := transcribe(io.MultiWriter(tmp, hash), f, id); err != nil {
		return Sealed{}, fmt.Errorf("seal recording: %w", err)
	}
	if err := tmp.Sync(); err != nil {
		return Sealed{}, fmt.Errorf("seal recording: %w", err)
	}
	info, err := tmp.Stat()
	if err != nil {
		return Sealed{}, fmt.Errorf("seal recording: %w", err)
	}
	if err := s.disk.Rename(tmp.Name(), s.CastPath(id)); err != nil {
		return Sealed{}, fmt.Errorf("seal recording: %w", err)
	}
	s.disk.SyncDir(s.dir)
	return Sealed{info.Size(), hash.Sum(nil)}, nil
}

// Discard removes the log of a session whose recording is sealed.
func (s *Shelf) Discard(id sallyport.SessionID) error {
	if err := s.disk.Remove(s.logPath(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove session log: %w", err)
	}
	return nil
}

// sealed describes a recording made earlier.
func (s *Shelf) sealed(id sallyport.SessionID) (Sealed, error) {
	f, err := s.disk.OpenFile(s.CastPath(id), os.O_RDONLY, 0)
	if err != nil {
		return Sealed{}, fmt.Errorf("open recording: %w", err)
	}
	defer f.Close()
	hash := sha256.New()
	n, err := io.Copy(hash, f)
	if err != nil {
		return Sealed{}, fmt.Errorf("read recording: %w", err)
	}
	return Sealed{n, hash.Sum(nil)}, nil
}

// Remove deletes a session's recording and log.
func (s *Shelf) Remove(id sallyport.SessionID) error {
	err := s.disk.Remove(s.CastPath(id))
	if e := s.disk.Remove(s.logPath(id)); errors.Is(err, fs.ErrNotExist) {
		err = e
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Expire deletes recordings last written before then.
func (s *Shelf) Expire(then time.Time) error {
	entries, err := s.disk.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("expire recordings: %w", err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !strings.HasSuffix(e.Name(), ".cast") || !info.ModTime().Before(then) {
			continue
		}
		if err := s.disk.Remove(filepath.Join(s.dir, e.Name())); err != nil {
			return fmt.Errorf("expire recordings: %w", err)
		}
	}
	return nil
}

// transcribe writes the recording of the log in f to w. It reads the log
// twice: sizes come before the output they belong to, and the header wants the
// first one.
func transcribe(w io.Writer, f io.ReaderAt, id sallyport.SessionID) error {
	head := asciicast.Header{Title: id.String(), Env: map[string]string{"TERM": "xterm-256color"}}
	var start time.Time
	if _, err := read(f, id, func(_ int64, e Entry) {
		if start.IsZero() {
			start = e.At
			head.Timestamp = e.At.Unix()
		}
		if size, ok := sizeOf(e); ok && head.Width == 0 {
			head.Width, head.Height = int(size.Cols), int(size.Rows)
		}
	}); err != nil {
		return err
	}

	cast := asciicast.NewWriter(w, head)
	early := map[int64][]byte{} // output that came before what it follows
	next, cols, rows := int64(0), head.Width, head.Height
	encrypted := false
	_, err := read(f, id, func(_ int64, e Entry) {
		at := e.At.Sub(start)
		switch e.What {
		case NodeFrame:
			h, err := wire.Peek(e.Body)
			if err != nil || h.Seq < next {
				return
			}
			if !encrypted && h.Kind == wire.KindHandshakeRequest && asksForKey(e.Body) {
				encrypted = true
				cast.Marker(at, "encrypted with a KMS key: what was shown is not here")
			}
			early[h.Seq] = shown(h, e.Body)
			for b, ok := early[next]; ok; b, ok = early[next] {
				delete(early, next)
				next++
				if len(b) > 0 && !encrypted {
					cast.Output(at, b)
				}
			}
		case PersonFrame:
			if size, ok := sizeOf(e); ok && (int(size.Cols) != cols || int(size.Rows) != rows) {
				cols, rows = int(size.Cols), int(size.Rows)
				cast.Resize(at, cols, rows)
			}
		case Event:
			cast.Marker(at, string(e.Body))
		default:
			if text := markers[e.What]; text != "" {
				cast.Marker(at, text)
			}
		}
	})
	if err != nil {
		return err
	}
	return cast.Close()
}

// shown returns what of a node's frame a person sees, as a copy; nil for a
// handshake.
func shown(h wire.Head, frame []byte) []byte {
	switch h.Kind {
	case wire.KindOutput, wire.KindError, wire.KindStdErr:
		return append([]byte(nil), frame[h.Payload:]...)
	}
	return nil
}

// asksForKey reports whether a node's handshake asks for a data key. What comes
// after it is encrypted from one end to the other.
func asksForKey(frame []byte) bool {
	f, err := wire.Decode(frame)
	var req wire.HandshakeRequest
	return err == nil && f.Unmarshal(&req) == nil && slices.ContainsFunc(req.RequestedClientActions, func(a wire.RequestedClientAction) bool {
		return a.ActionType == wire.ActionKMSEncryption
	})
}

func sizeOf(e Entry) (size wire.Size, ok bool) {
	if e.What != PersonFrame {
		return size, false
	}
	frame, err := wire.Decode(e.Body)
	if err != nil || frame.Kind != wire.KindSize || frame.Unmarshal(&size) != nil {
		return size, false
	}
	return size, size.Cols > 0 && size.Rows > 0 && size.Cols < 1<<16 && size.Rows < 1<<16
}

// Unsealed lists the sessions that have a log: those that are on, and those
// whose recording could not be made.
func (s *Shelf) Unsealed() (ids []sallyport.SessionID, err error) {
	entries, err := s.disk.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list session logs: %w", err)
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".log")
		if !ok {
			continue
		}
		if id, err := sallyport.ParseSessionID(name); err == nil {
			ids = append(ids, id)
		}
	}
	return ids, nil
}
