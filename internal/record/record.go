// Package record keeps what was on the screen: one append-only log for each
// session, and the recording made of it when the session is over.
//
// The log of a live session is three things at once:
//
//	what was shown     the recording is made from it, later the transcript
//	what must wait     frames for an end that is slow or away are read from it
//	what had happened  a restarted server resumes from it
//
// So an entry is written before its frame is passed on, and synced to disk
// within [SyncEvery], or [SyncLate] where many sessions say much at once. A log
// holds
//
//	header   "SALLYLOG" version session-ID salt
//	entry    length u32 · CRC-32C u32 · time i64 (ns) · what u8 · body
//
// The first entry is a reserve: 8 KiB that a full disk cannot take, since they
// are written when the log is made. [Log.AppendLast] writes over them, in place,
// where a file system that does so needs no room. It is for how a session ended,
// which would otherwise be told and not stored. The reserve is each log's own:
// any number of sessions may end at once on a full disk.
//
// where what says whether the body is a node's frame, a person's, how far one
// of them has acknowledged, or an event. Integers are big-endian. A log cut
// short in an entry, as a power cut leaves it, is read up to there and goes on
// from there; nothing before the cut is lost. An entry that is damaged is left
// out, and said to be; reading goes on at the next one. That is found by its
// checksum, which begins with the log's salt: what a node says cannot pass for
// an entry, because the node does not know the salt.
//
// What people type is not kept: a password is typed like anything else. Of a
// person's frames the log has sizes, and how far the node acknowledged them.
//
// The package does not know who may watch a recording.
package record

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/sallyport/sallyport"
)

// SyncEvery is how much of a session a power cut may take, and SyncLate how
// much of each when syncing them all takes long.
const (
	SyncEvery = 25 * time.Millisecond
	SyncLate  = 250 * time.Millisecond
)

const (
	magic     = "SALLYLOG\x02"
	magicBare = "SALLYLOG\x01" // of a log without a salt, as servers before this one wrote it
	saltSize  = 16
	entryHead = 4 + 4 + 8 + 1

	// maxBody bounds an entry: a frame and room to spare.
	maxBody = 512 << 10

	// ReserveSize is the longest body that [Log.AppendLast] takes.
	ReserveSize = 8 << 10

	// maxScratch bounds what a log keeps between two entries.
	maxScratch = 64 << 10
)

// A What says what an entry is.
type What uint8

const (
	NodeFrame   What = iota + 1 // the body is a frame the node sent, as it came
	PersonFrame                 // the body is a frame the person sent that is worth keeping: a size
	PersonAcked                 // the body is a sequence number: the person has the node's frames up to it
	NodeAcked                   // the body is a sequence number: the node has the person's frames up to it
	Event                       // the body is text that a player of the recording shows

	PersonJoined // the person's end has attached; no body, here and below
	NodeJoined
	PersonLeft // the person's end has detached
	NodeLeft

	// Fate is that the session ends, and why: the broker's, as JSON, of which a
	// recording shows Cause and ExitStatus. It is on disk before either end is told.
	Fate

	// Flow says that what is carried is not a screen: a port's bytes, or a file's.
	// Frames in the log are there because they had to wait.
	Flow

	// Reserve is room for an entry that has to be written when nothing else can be:
	// the log's first. What it has is of no meaning.
	Reserve

	lastWhat = Reserve

	// Unread is not in a log: it stands for bytes that could not be read. The body
	// is their number, as u64.
	Unread What = 0xff
)

// markers are what a recording says of an entry without a body.
var markers = map[What]string{
	PersonJoined: "person connected", NodeJoined: "node connected",
	PersonLeft: "person disconnected", NodeLeft: "node disconnected",
}

// An Entry is one thing that happened.
type Entry struct {
	At   time.Time
	What What
	Body []byte
}

// Shelf is a directory of logs and recordings.
type Shelf struct {
	dir  string
	disk Disk

	// mu guards the logs that are to be synced; passing, while there are any.
	mu      sync.Mutex
	due     []*Log
	passing bool
	passes  sync.WaitGroup

	// usedMu guards what Used found last, and when.
	usedMu sync.Mutex
	used   int64
	usedAt time.Time
}

// OpenShelf makes the directory if it is not there. It is for its owner alone. A nil
// disk is the machine's own.
func OpenShelf(disk Disk, dir string) (*Shelf, error) {
	if disk == nil {
		disk = realDisk{}
	}
	if err := disk.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory for session logs: %w", err)
	}
	s := &Shelf{dir: dir, disk: disk}
	if err := s.removeUnfinished(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Shelf) logPath(id sallyport.SessionID) string {
	return filepath.Join(s.dir, id.String()+".log")
}

// CastPath is where the recording of a sealed session is.
func (s *Shelf) CastPath(id sallyport.SessionID) string {
	return filepath.Join(s.dir, id.String()+".cast")
}

// A Log is one session's. Its methods may be called from many goroutines.
type Log struct {
	id    sallyport.SessionID
	shelf *Shelf
	file  File
	salt  []byte

	reserve int64 // where the reserve is; 0 for a log of before, which has none

	// mu guards all below.
	mu    sync.Mutex
	buf   []byte // scratch for one entry
	size  int64  // of what is whole
	dirty bool   // something was written and a sync is due
	err   error  // the first failure; the log takes nothing after it
	torn  bool   // a sync failed: what was appended may not be on disk
}

// Create begins the log of a session that has none.
func (s *Shelf) Create(id sallyport.SessionID) (*Log, error) {
	f, err := s.disk.OpenFile(s.logPath(id), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create session log: %w", err)
	}
	salt := make([]byte, saltSize)
	rand.Read(salt)
	head := slices.Concat([]byte(magic+id.String()+"\n"), salt)
	reserve := make([]byte, ReserveSize)
	rand.Read(reserve) // a file system may keep zeros without giving them room
	reserveAt := int64(len(head))
	head = appendEntry(head, salt, Entry{At: time.Now(), What: Reserve, Body: reserve})
	_, err = f.Write(head)
	if err == nil {
		err = f.Sync() // a session that is stored has a log that can be opened
	}
	if err != nil {
		f.Close()
		s.disk.Remove(f.Name())
		return nil, fmt.Errorf("create session log: %w", err)
	}
	return &Log{id: id, shelf: s, file: f, salt: salt, reserve: reserveAt, size: int64(len(head))}, nil
}

// Open goes on with the log of a session that was live when the server
// stopped. It calls replay with each entry in order and where it is; the
// entry's body is good until replay returns. What follows the last whole entry
// is cut off; what cannot be read before that stays where it is, and replay is
// told of it by an entry that is [Unread].
func (s *Shelf) Open(id sallyport.SessionID, replay func(at int64, e Entry)) (*Log, error) {
	f, err := s.disk.OpenFile(s.logPath(id), os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open session log: %w", err)
	}
	salt, size, _, err := read(f, id, replay)
	var reserve int64
	if at := headSize(id, salt); err == nil && isReserve(f, at) {
		reserve = at
	}
	if err == nil {
		err = f.Truncate(size)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open session log: %w", err)
	}
	return &Log{id: id, shelf: s, file: f, salt: salt, reserve: reserve, size: size}, nil
}

// headSize is how long the header of a log with a salt is.
func headSize(id sallyport.SessionID, salt []byte) int64 {
	return int64(len(magic) + len(id.String()) + 1 + len(salt))
}

// isReserve reports whether there is a reserve at an offset, written over or not.
func isReserve(f io.ReaderAt, at int64) bool {
	b := make([]byte, entryHead+ReserveSize)
	if n, _ := f.ReadAt(b, at); n < len(b) {
		return false
	}
	what := What(b[entryHead-1])
	return binary.BigEndian.Uint32(b) == ReserveSize && (what == Reserve || what == Fate)
}

// read calls each with every whole entry of f, and returns the log's salt, where
// the last whole entry ends, and how many bytes before that could not be read.
func read(f io.ReaderAt, id sallyport.SessionID, each func(at int64, e Entry)) (salt []byte, size, unread int64, err error) {
	bare, salted := magicBare+id.String()+"\n", magic+id.String()+"\n"
	head := make([]byte, len(salted)+saltSize)
	n, _ := f.ReadAt(head, 0)
	switch head = head[:n]; {
	case n == len(salted)+saltSize && string(head[:len(salted)]) == salted:
		salt, size = head[len(salted):], int64(n)
	case n >= len(bare) && string(head[:len(bare)]) == bare:
		size = int64(len(bare))
	default:
		return nil, 0, 0, fmt.Errorf("it is not the log of session %s", id)
	}
	r := newReader(f, salt, size)
	if isReserve(f, size) {
		// One that is damaged was being written over as the power was cut, before it
		// was told.
		if e, _, err := r.next(); err == nil && e.What == Fate {
			each(size, e)
		}
		size += entryHead + ReserveSize
		r = newReader(f, salt, size)
	}
	last := time.Time{}
	for {
		e, n, err := r.next()
		if err == nil {
			each(size, e)
			size, last = size+n, e.At
			continue
		}
		next, ok := r.find(size, last)
		if !ok {
			return salt, size, unread, nil // the end, or a cut: the same to us
		}
		lost := next - size
		unread += lost
		each(size, Entry{At: last, What: Unread, Body: binary.BigEndian.AppendUint64(nil, uint64(lost))})
		size = next
		r = newReader(f, salt, size)
	}
}

// A reader reads entries one after another.
type reader struct {
	f    io.ReaderAt
	r    io.Reader
	salt []byte
	head [entryHead]byte
	body []byte
}

func newReader(f io.ReaderAt, salt []byte, at int64) *reader {
	return &reader{f: f, salt: salt, r: bufio.NewReaderSize(io.NewSectionReader(f, at, 1<<62), 64<<10)}
}

// find returns where the first whole entry after a damaged one at is. The entry
// before that was written at last.
func (r *reader) find(at int64, last time.Time) (next int64, ok bool) {
	plausible := func(head []byte) bool {
		what, length := What(head[16]), binary.BigEndian.Uint32(head)
		if what == 0 || what > lastWhat || length > maxBody {
			return false
		}
		wrote := time.Unix(0, int64(binary.BigEndian.Uint64(head[8:])))
		return last.IsZero() || wrote.Sub(last).Abs() < 366*24*time.Hour
	}
	whole := func(at int64) bool {
		_, _, err := newReader(r.f, r.salt, at).next()
		return err == nil
	}
	if r.salt == nil { // only its own length can be believed
		var head [entryHead]byte
		if _, err := r.f.ReadAt(head[:], at); err != nil || binary.BigEndian.Uint32(head[:]) > maxBody {
			return 0, false
		}
		next = at + entryHead + int64(binary.BigEndian.Uint32(head[:]))
		return next, whole(next)
	}
	window := make([]byte, 256<<10)
	for from := at + 1; ; {
		n, _ := r.f.ReadAt(window, from)
		for i := range max(n-entryHead+1, 0) {
			if plausible(window[i:]) && whole(from+int64(i)) {
				return from + int64(i), true
			}
		}
		if n < len(window) {
			return 0, false
		}
		from += int64(n - entryHead + 1)
	}
}

// checksum is an entry's: of the log's salt, of its head from the time on, and of
// its body.
func checksum(salt []byte, parts ...[]byte) uint32 {
	sum := crc32.Checksum(salt, crcTable)
	for _, p := range parts {
		sum = crc32.Update(sum, crcTable, p)
	}
	return sum
}

var crcTable = crc32.MakeTable(crc32.Castagnoli)

var errCut = errors.New("entry is cut short or damaged")

func (r *reader) next() (e Entry, n int64, err error) {
	if _, err := io.ReadFull(r.r, r.head[:]); err != nil {
		return Entry{}, 0, errCut
	}
	length := binary.BigEndian.Uint32(r.head[0:])
	if length > maxBody {
		return Entry{}, 0, errCut
	}
	if cap(r.body) < int(length) {
		r.body = make([]byte, length)
	}
	r.body = r.body[:length]
	if _, err := io.ReadFull(r.r, r.body); err != nil {
		return Entry{}, 0, errCut
	}
	if checksum(r.salt, r.head[8:], r.body) != binary.BigEndian.Uint32(r.head[4:]) {
		return Entry{}, 0, errCut
	}
	return Entry{
		At:   time.Unix(0, int64(binary.BigEndian.Uint64(r.head[8:]))),
		What: What(r.head[16]),
		Body: r.body,
	}, entryHead + int64(length), nil
}

// Append writes e and returns where it is. When it fails, as on a full disk,
// the log holds what it held before, and takes nothing more: a session that
// cannot be logged must end.
func (l *Log) Append(e Entry) (at int64, err error) {
	if len(e.Body) > maxBody {
		return 0, fmt.Errorf("append to session log: entry of %d bytes", len(e.Body))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return 0, l.err
	}
	b := appendEntry(l.buf[:0], l.salt, e)
	if l.buf = b; cap(b) > maxScratch {
		l.buf = nil
	}

	if _, err := l.file.WriteAt(b, l.size); err != nil {
		l.err = fmt.Errorf("append to session log: %w", err)
		l.file.Truncate(l.size) // best effort: a torn entry would be cut off anyway
		return 0, l.err
	}
	at = l.size
	l.size += int64(len(b))
	if !l.dirty {
		l.dirty = true
		l.shelf.syncSoon(l)
	}
	return at, nil
}

// ErrNoReserve is that a log has no reserve: an earlier version made it.
var ErrNoReserve = errors.New("the log was made without a reserve")

// AppendLast writes e, a [Fate] in JSON, over the reserve, and returns when it is
// on disk. It is for when Append failed, and needs no room on the disk if the file
// system overwrites in place. It may be called again: the last one counts.
func (l *Log) AppendLast(e Entry) error {
	if len(e.Body) > ReserveSize {
		return fmt.Errorf("append to session log: %d bytes, with a reserve of %d", len(e.Body), ReserveSize)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reserve == 0 {
		return ErrNoReserve
	}
	body := slices.Concat(e.Body, bytes.Repeat([]byte(" "), ReserveSize-len(e.Body))) // which JSON may end with
	e.Body = body
	_, err := l.file.WriteAt(appendEntry(nil, l.salt, e), l.reserve)
	if err == nil {
		err = l.file.Sync()
	}
	if err != nil {
		return fmt.Errorf("append to session log: %w", err)
	}
	return nil
}

// appendEntry appends e to b as a log has it.
func appendEntry(b, salt []byte, e Entry) []byte {
	at := len(b)
	b = binary.BigEndian.AppendUint32(b, uint32(len(e.Body)))
	b = append(b, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint64(b, uint64(e.At.UnixNano()))
	b = append(b, byte(e.What))
	b = append(b, e.Body...)
	binary.BigEndian.PutUint32(b[at+4:], checksum(salt, b[at+8:]))
	return b
}

// syncSoon has l synced in the next pass, with the other logs that are due.
func (s *Shelf) syncSoon(l *Log) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.due = append(s.due, l)
	if !s.passing {
		s.passing = true
		s.passIn(SyncEvery)
	}
}

// passIn has pass run in a while. The caller holds mu.
func (s *Shelf) passIn(d time.Duration) {
	s.passes.Add(1)
	time.AfterFunc(d, func() {
		defer s.passes.Done()
		s.pass()
	})
}

// Close returns when what was written to the logs has been synced, and no more
// is under way. Logs are closed before it is called.
func (s *Shelf) Close() { s.passes.Wait() }

// pass syncs what is due. No more than a fifth of the time goes into it: a
// crowd's syncs would delay everybody's keystrokes, which are written to the
// same disk.
func (s *Shelf) pass() {
	s.mu.Lock()
	logs := s.due
	s.due = nil
	s.mu.Unlock()
	began := time.Now()
	for _, l := range logs {
		l.Sync() // an error is the next Append's
	}
	took := time.Since(began)

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.passing = len(s.due) > 0; s.passing {
		s.passIn(min(max(SyncEvery, 4*took), SyncLate))
	}
}

// Sync returns when all that was appended is on disk. What was appended is not
// known to be there after an error, and the log takes nothing more.
func (l *Log) Sync() error {
	l.mu.Lock()
	l.dirty = false
	failed := l.err
	l.mu.Unlock()
	if failed != nil {
		return failed
	}
	if err := l.file.Sync(); err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.err == nil { // else it was closed meanwhile
			l.err, l.torn = fmt.Errorf("sync session log: %w", err), true
		}
		return l.err
	}
	return nil
}

// SyncFailed reports whether a sync has failed. What was appended since the one
// before may be gone, even if a later sync succeeds.
func (l *Log) SyncFailed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.torn
}

// Failed returns why the log takes nothing more but its last entry; nil if it does.
func (l *Log) Failed() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// ReadBody returns the body of the entry at an offset that Append or Open's
// replay named, appended to b.
func (l *Log) ReadBody(b []byte, at int64) ([]byte, error) {
	var head [entryHead]byte
	if _, err := l.file.ReadAt(head[:], at); err != nil {
		return b, fmt.Errorf("read session log: %w", err)
	}
	length := binary.BigEndian.Uint32(head[0:])
	if length > maxBody {
		return b, fmt.Errorf("read session log: %w", errCut)
	}
	start := len(b)
	b = append(b, make([]byte, length)...)
	if _, err := l.file.ReadAt(b[start:], at+entryHead); err != nil {
		return b[:start], fmt.Errorf("read session log: %w", err)
	}
	if checksum(l.salt, head[8:], b[start:]) != binary.BigEndian.Uint32(head[4:]) {
		return b[:start], fmt.Errorf("read session log: %w", errCut)
	}
	return b, nil
}

// Size is how long the log is, in bytes, less its reserve.
func (l *Log) Size() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reserve == 0 {
		return l.size
	}
	return l.size - entryHead - ReserveSize
}

// Close syncs what was written and lets go of the file. The log can be opened
// again, or sealed.
func (l *Log) Close() error {
	l.mu.Lock()
	failed := l.err
	if l.err == nil {
		l.err = os.ErrClosed
	}
	l.mu.Unlock()

	err := failed
	if err == nil {
		err = l.file.Sync()
	}
	if cerr := l.file.Close(); err == nil {
		err = cerr
	}
	return err
}
