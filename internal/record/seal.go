package record

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
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

	// Unread is how many bytes of the log could not be read. The recording says
	// where.
	Unread int64
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

	tmp, err := s.disk.CreateTemp(s.dir, unfinished+"*")
	if err != nil {
		return Sealed{}, fmt.Errorf("seal recording: %w", err)
	}
	defer s.disk.Remove(tmp.Name()) // does nothing once it has been renamed
	defer tmp.Close()

	hash := sha256.New()
	unread, err := transcribe(io.MultiWriter(tmp, hash), f, id)
	if err != nil {
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
	return Sealed{info.Size(), hash.Sum(nil), unread}, nil
}

// OpenCast opens the recording of a sealed session for reading. The error of one
// that is not there is [fs.ErrNotExist].
func (s *Shelf) OpenCast(id sallyport.SessionID) (File, error) {
	f, err := s.disk.OpenFile(s.CastPath(id), os.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("open recording: %w", err)
	}
	return f, nil
}

// HasLog reports whether a session has a log: it is on, or its recording could not
// be made yet.
func (s *Shelf) HasLog(id sallyport.SessionID) bool {
	f, err := s.disk.OpenFile(s.logPath(id), os.O_RDONLY, 0)
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	f.Close()
	return true
}

// Discard removes the log of a session whose recording is sealed. One that could
// not be read in whole is kept, under the name ID.damaged, as long as the
// recording is.
func (s *Shelf) Discard(id sallyport.SessionID, sealed Sealed) error {
	var err error
	if sealed.Unread > 0 {
		err = s.disk.Rename(s.logPath(id), filepath.Join(s.dir, id.String()+damaged))
	} else {
		err = s.disk.Remove(s.logPath(id))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove session log: %w", err)
	}
	return nil
}

// damaged is how the name of a log ends that could not be read in whole.
const damaged = ".damaged"

// unfinished is how the name of a recording begins that is being made.
const unfinished = ".seal-"

// removeUnfinished removes the recordings that a server was making when it was
// killed. Their logs are there still.
func (s *Shelf) removeUnfinished() error {
	entries, err := s.disk.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("list session logs: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), unfinished) {
			continue
		}
		if err := s.disk.Remove(filepath.Join(s.dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove unfinished recording: %w", err)
		}
	}
	return nil
}

// sealed describes a recording made earlier.
func (s *Shelf) sealed(id sallyport.SessionID) (Sealed, error) {
	f, err := s.OpenCast(id)
	if err != nil {
		return Sealed{}, err
	}
	defer f.Close()
	hash := sha256.New()
	n, err := io.Copy(hash, f)
	if err != nil {
		return Sealed{}, fmt.Errorf("read recording: %w", err)
	}
	return Sealed{Size: n, SHA256: hash.Sum(nil)}, nil
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
		old := strings.HasSuffix(e.Name(), ".cast") || strings.HasSuffix(e.Name(), damaged)
		if err != nil || !old || !info.ModTime().Before(then) {
			continue
		}
		if err := s.disk.Remove(filepath.Join(s.dir, e.Name())); err != nil {
			return fmt.Errorf("expire recordings: %w", err)
		}
	}
	return nil
}

// What a transcription keeps of frames that came before those they follow. A
// session's lane holds as many as maxEarly (internal/broker maxHeld); after damage
// what is missing is not waited for.
const (
	maxEarly       = 120_000
	earlyAfterLoss = 64
)

// transcribe writes the recording of the log in f to w, and returns how many
// bytes of the log could not be read. It reads the log twice: sizes come before
// the output they belong to, and the header wants the first one.
func transcribe(w io.Writer, f io.ReaderAt, id sallyport.SessionID) (unread int64, err error) {
	t := transcription{f: f, early: map[int64]int64{}}
	head := asciicast.Header{Title: id.String(), Env: map[string]string{"TERM": "xterm-256color"}}
	t.salt, _, unread, err = read(f, id, func(_ int64, e Entry) {
		if t.start.IsZero() && e.What != Reserve && e.What != Fate { // a fate may be written over the reserve
			t.start = e.At
			head.Timestamp = e.At.Unix()
		}
		if size, ok := sizeOf(e); ok && head.Width == 0 {
			head.Width, head.Height = int(size.Cols), int(size.Rows)
		}
		t.flow = t.flow || e.What == Flow
		if e.What == Fate && !e.At.Before(t.endAt) { // one over the reserve is read first, and may be the later
			t.end, t.endAt = endMarker(e.Body), e.At
		}
	})
	if err != nil {
		return 0, err
	}
	t.cast = asciicast.NewWriter(w, head)
	t.cols, t.rows = head.Width, head.Height
	if _, _, _, err := read(f, id, t.entry); err != nil {
		return 0, err
	}
	for len(t.early) > 0 {
		t.skip()
	}
	if t.start.IsZero() { // nothing else happened
		t.start = t.endAt
	}
	if t.end != "" {
		t.cast.Marker(t.endAt.Sub(t.start), t.end)
	}
	return unread, t.cast.Close()
}

// endMarker is the last marker of a recording, of a [Fate]: "" if that says neither
// why the session ended nor with which status.
func endMarker(body []byte) string {
	var end struct {
		Cause      string
		ExitStatus *int
	}
	if json.Unmarshal(body, &end) != nil {
		return ""
	}
	cause := sallyport.Clip(sallyport.Printable(end.Cause), 1000)
	switch {
	case cause != "" && end.ExitStatus != nil:
		return fmt.Sprintf("ended with status %d: %s", *end.ExitStatus, cause)
	case cause != "":
		return "ended: " + cause
	case end.ExitStatus != nil:
		return fmt.Sprintf("ended with status %d", *end.ExitStatus)
	}
	return ""
}

// A transcription is a recording that is being made of a log.
type transcription struct {
	f     io.ReaderAt
	salt  []byte
	cast  *asciicast.Writer
	start time.Time
	at    time.Duration // of the last entry
	flow  bool          // it is not a screen

	end   string    // the last marker
	endAt time.Time // of the last Fate in the log

	next       int64           // the frame whose turn it is
	early      map[int64]int64 // frames that came before what they follow: where they are in the log, by number
	lost       bool            // some of the log could not be read
	cols, rows int
	encrypted  bool
}

func (t *transcription) entry(at int64, e Entry) {
	t.at = e.At.Sub(t.start)
	switch e.What {
	case NodeFrame:
		t.frame(at, e.Body)
	case PersonFrame:
		if size, ok := sizeOf(e); ok && (int(size.Cols) != t.cols || int(size.Rows) != t.rows) {
			t.cols, t.rows = int(size.Cols), int(size.Rows)
			t.cast.Resize(t.at, t.cols, t.rows)
		}
	case Event:
		t.cast.Marker(t.at, string(e.Body))
	case Unread:
		t.lost = true
		t.cast.Marker(t.at, fmt.Sprintf("%d bytes of the session's log are damaged: what was shown here is missing", binary.BigEndian.Uint64(e.Body)))
	default:
		if text := markers[e.What]; text != "" {
			t.cast.Marker(t.at, text)
		}
	}
}

// frame shows a node's frame, if it is its turn, and those that waited for it.
func (t *transcription) frame(at int64, frame []byte) {
	h, err := wire.Peek(frame)
	if err != nil || h.Seq < t.next || t.flow {
		return
	}
	if !t.encrypted && h.Kind == wire.KindHandshakeRequest && asksForKey(frame) {
		t.encrypted = true
		t.cast.Marker(t.at, "encrypted with a KMS key: what was shown is not here")
	}
	if h.Seq > t.next {
		t.early[h.Seq] = at
		if len(t.early) > maxEarly || t.lost && len(t.early) > earlyAfterLoss {
			t.skip()
		}
		return
	}
	t.show(h, frame)
	t.follow()
}

func (t *transcription) show(h wire.Head, frame []byte) {
	t.next++
	if b := shown(h, frame); len(b) > 0 && !t.encrypted {
		t.cast.Output(t.at, b)
	}
}

// follow shows the frames that waited and whose turn it is.
func (t *transcription) follow() {
	for {
		at, ok := t.early[t.next]
		if !ok {
			return
		}
		delete(t.early, t.next)
		r := reader{r: io.NewSectionReader(t.f, at, 1<<62), salt: t.salt}
		e, _, err := r.next()
		h, perr := wire.Peek(e.Body)
		if err != nil || perr != nil { // it was read before
			t.next++
			continue
		}
		t.show(h, e.Body)
	}
}

// skip goes on at the first frame that waits: those before it did not come.
func (t *transcription) skip() {
	first := int64(math.MaxInt64)
	for seq := range t.early {
		first = min(first, seq)
	}
	t.cast.Marker(t.at, fmt.Sprintf("%d messages of the node are missing here", first-t.next))
	t.next = first
	t.follow()
}

// shown returns what of a node's frame a person sees; nil for a
// handshake.
func shown(h wire.Head, frame []byte) []byte {
	switch h.Kind {
	case wire.KindOutput, wire.KindError, wire.KindStdErr:
		return frame[h.Payload:]
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
	frame, err := wire.DecodeInput(e.Body)
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
