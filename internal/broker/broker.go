// Package broker answers two questions about a session: is it on, and should it
// be?
//
// It connects clients to nodes and owns every session's life. Which caller may open
// a session was decided before ([Broker.Start] is called by the API when policy
// has agreed), and what passes in it is none of the broker's business: it reads
// the headers of frames, never their payloads.
//
//	Start ──▶ Connecting ──▶ Connected ◀──▶ Disconnected
//	              │              │               │
//	              ▼              ▼               ▼
//	           Failed       Terminating ──▶ Terminated
//
// A session's frames are relayed verbatim, one message for one message, by two
// pumps that always keep reading. What the other end cannot take yet waits in
// the session's lane and log; an end that comes back on another socket is sent
// again all it has not acknowledged. So the two ends keep their promises of
// order and completeness to each other, and the broker adds none of its own.
//
// The node's last byte and its exit status reach the client and the disk before
// the broker forgets them, whichever link stalls, is cut, or which process is
// restarted meanwhile; and what the client was told is what the history says: it
// is stored before it is told, on a full disk too.
//
// A server that is stopped, or killed, leaves its sessions in the store and in
// their logs. [Broker.Run] takes them up where they were: the ends come back in
// time, or the session ends with a cause. None stays on for ever.
package broker

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/keyring"
	"github.com/sallyport/sallyport/internal/panics"
	"github.com/sallyport/sallyport/internal/record"
	"github.com/sallyport/sallyport/internal/route"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/wire"
)

// A Broker owns the sessions of this server node. Its fields are set before
// [Broker.Run].
type Broker struct {
	Store *store.DB
	Bus   route.Bus
	Shelf *record.Shelf
	Keys  *keyring.Keyring
	Log   *slog.Logger

	// DispatchAgain is how long a node may take to answer before it is asked
	// again; after the third time the session fails. 0 means 5 seconds.
	DispatchAgain time.Duration

	// ClientWait is how long a session waits for its first client. 0 means 2
	// minutes.
	ClientWait time.Duration

	// Idle ends a session in which no stream data has passed for that long. 0
	// means 20 minutes, which is AWS's default; negative means never.
	Idle time.Duration

	// PersonGrace is how long a client may be away. 0 means as long as Idle.
	PersonGrace time.Duration

	// NodeGrace is how long a node's data channel may be away. 0 means 90
	// seconds: a stock agent takes 60 to report that its worker crashed.
	NodeGrace time.Duration

	// Limits bound what sessions may take.
	Limits Limits

	dropped atomic.Int64

	// mu guards all below.
	mu    sync.Mutex
	live  map[sallyport.SessionID]*session
	ctx   context.Context // of Run; nil before it and after
	lives sync.WaitGroup  // of the sessions' run
}

func (b *Broker) dispatchAgain() time.Duration { return or(b.DispatchAgain, 5*time.Second) }
func (b *Broker) clientWait() time.Duration    { return or(b.ClientWait, 2*time.Minute) }
func (b *Broker) idle() time.Duration          { return max(or(b.Idle, 20*time.Minute), 0) }
func (b *Broker) personGrace() time.Duration   { return or(b.PersonGrace, or(b.idle(), 20*time.Minute)) }
func (b *Broker) nodeGrace() time.Duration     { return or(b.NodeGrace, 90*time.Second) }

// errStopped is why a session is let go of when the server stops.
var errStopped = errors.New("the server is stopping")

// Run takes up the sessions that an earlier server left, calls ready, and keeps
// all sessions going until ctx is done. It returns when their goroutines have
// stopped; the sessions themselves stay, for the next server.
func (b *Broker) Run(ctx context.Context, ready func()) error {
	parent := ctx
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(parent)) // so that the cause is ours
	defer cancel(nil)
	left, err := b.Store.Sessions().TakeUp(parent)
	if err != nil {
		return fmt.Errorf("take up sessions: %w", err)
	}
	b.mu.Lock()
	b.live = map[sallyport.SessionID]*session{}
	b.ctx = ctx
	b.mu.Unlock()
	for _, rec := range left {
		b.takeUp(ctx, rec)
	}
	for _, rec := range left {
		if err := b.endIfGone(ctx, b.find(rec.ID)); err != nil && sallyport.CodeOf(err) == "" {
			return fmt.Errorf("take up sessions: %w", err)
		}
	}
	ready()
	<-parent.Done()

	b.mu.Lock()
	b.ctx = nil
	b.mu.Unlock()
	cancel(errStopped)
	b.lives.Wait()
	return nil
}

// resumed is what the broker keeps in the store beside a session.
type resumed struct {
	Task wire.AgentTaskPayload
	Idle time.Duration
}

// takeUp goes on with a session an earlier server left.
func (b *Broker) takeUp(ctx context.Context, rec *store.SessionRecord) {
	now := time.Now()
	s := b.newSession(rec.Session)
	s.access = rec.Access
	var kept resumed
	var was replayed
	err := json.Unmarshal(rec.Resume, &kept)
	if err == nil {
		s.setTask(kept.Task)
		s.idle = kept.Idle
		err = panics.Run(func() (err error) { // what reads the log meets what strangers sent
			s.log, err = b.Shelf.Open(s.id, func(at int64, e record.Entry) { s.replay(&was, at, e) })
			return err
		})
	}
	s.takenUp, s.dispatchAt, s.stirred = now, now, now
	state := s.rec.State()
	switch {
	case err != nil && state == sallyport.Terminating:
		// Its log was sealed and removed, and only its end is missing from the store.
		s.fate, s.endingAt, s.nodeDone, s.committed = sallyport.Terminated, now, true, true
	case err != nil:
		s.out.Error("session not taken up", sallyport.LogErr, err, panics.Stack(err))
		s.beginEnd(sallyport.Terminated, "The session was cut short: the server was restarted and has lost its log.")
		s.nodeDone = true // nothing of it can be relayed any more
		s.endingAt = now.Add(-endGrace)
	default:
		s.goOn(was, now)
	}
	s.out.Info("session taken up", "state", s.rec.State().String())
	b.launch(ctx, s)
}

// goOn makes the session what its log says that it was.
func (s *session) goOn(was replayed, now time.Time) {
	s.attachedOnce, s.process = was.joined, was.process
	state := s.rec.State()
	if state == sallyport.Connected || state == sallyport.Disconnected { // a log from before it had this
		s.attachedOnce = [2]bool{true, true}
	}
	for _, at := range []side{person, node} {
		switch {
		case !s.attachedOnce[at]:
		case was.left[at].IsZero(): // it was attached, and lost this server's predecessor
			s.detachedSince[at] = now
			s.log.Append(record.Entry{At: now, What: at.left()})
		default:
			s.detachedSince[at] = was.left[at]
		}
	}
	if was.ended != nil {
		s.rec.Cause, s.rec.ExitStatus, s.byNode = was.ended.Cause, was.ended.ExitStatus, was.ended.ByNode
		s.endSeq, s.told = was.ended.EndSeq, was.ended.Told
		s.nodeDone = s.byNode
	}
	switch {
	case was.ended != nil && was.ended.State == sallyport.Failed.String() && state == sallyport.Connecting:
		s.fate, s.endingAt, s.committed = sallyport.Failed, was.endAt, true
	case was.ended != nil || state == sallyport.Terminating:
		if state != sallyport.Terminating {
			if err := s.rec.Advance(sallyport.Terminating, now); err != nil {
				s.out.Error("session not ended", sallyport.LogErr, err)
			}
			s.unsaved = true
		}
		s.fate, s.endingAt, s.committed = sallyport.Terminated, now, true
		s.endedAt = now
		if was.ended != nil {
			s.endedAt = was.endAt
		}
		s.kept = s.endSeq >= 0
		s.tellNode = !s.nodeDone
	case state == sallyport.Connecting:
		// Dispatched again: a node that was told already ignores the repeat.
	case state == sallyport.Connected:
		if err := s.rec.Advance(sallyport.Disconnected, now); err == nil {
			s.unsaved = true
		}
	}
}

func (b *Broker) newSession(rec *sallyport.Session) *session {
	s := &session{
		b: b, id: rec.ID, rec: rec,
		out:    b.Log.With(sallyport.LogSession, rec.ID.String(), sallyport.LogNode, rec.Node.String()),
		lanes:  [2]lane{newLane(), newLane()},
		kick:   make(chan struct{}, 1),
		over:   make(chan struct{}),
		endSeq: -1,

		accessTurn: make(chan struct{}, 1),
		noted:      [2]int64{-1, -1},
	}
	return s
}

func (s *session) setTask(task wire.AgentTaskPayload) {
	s.task = task
	kind := task.DocumentContent.SessionType
	s.unpausable = kind == "NonInteractiveCommands"
	s.flow = kind == "Port" || isFileServer(task)
	s.unlogged = s.flow
	s.awaited = kind == "NonInteractiveCommands" || kind == "Port" || task.DocumentContent.Inputs.KmsKeyId != ""
}

// isFileServer reports whether a session copies files.
func isFileServer(task wire.AgentTaskPayload) bool {
	var all wire.CommandProperties
	if json.Unmarshal(task.DocumentContent.Properties, &all) != nil {
		return false
	}
	for _, c := range []wire.PlatformCommand{all.Linux, all.MacOS, all.Windows} {
		if strings.TrimSpace(c.Commands) == wire.FileServer {
			return true
		}
	}
	return false
}

// enter has Run wait for done before it returns. The error is for a server that
// is stopping.
func (b *Broker) enter() (ctx context.Context, done func(), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ctx == nil {
		return nil, nil, sallyport.Errorf(sallyport.ServiceUnavailableException, "The server is stopping. Try again in a moment.")
	}
	b.lives.Add(1)
	return b.ctx, b.lives.Done, nil
}

// reserve makes s one of the sessions that are on, if there may be one more. Until
// it is launched nothing finds it.
func (b *Broker) reserve(s *session) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.admitOne(s.rec.Root, s.rec.Node); err != nil {
		return err
	}
	b.live[s.id] = s
	return nil
}

// launch starts a session's life. It is called between enter and done, or by
// Run.
func (b *Broker) launch(ctx context.Context, s *session) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.live[s.id] = s
	s.launched.Store(true)
	b.lives.Go(func() { s.run(ctx) })
}

func (b *Broker) find(id sallyport.SessionID) *session {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.live[id]; s != nil && s.launched.Load() {
		return s
	}
	return nil
}

func (b *Broker) forget(s *session) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.live, s.id)
}

// Stats is what a broker counts.
type Stats struct {
	Live    int   // sessions that are on
	Dropped int64 // frames that made no sense or found no room, ever
}

// Stats counts.
func (b *Broker) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	return Stats{Live: len(b.live), Dropped: b.dropped.Load()}
}

// A Request asks for a session. Who asks has been authorized.
type Request struct {
	Who         *sallyport.Principal
	Node        sallyport.NodeID
	Document    string // its name
	Reason      string
	MaxDuration time.Duration         // 0: no limit
	Idle        time.Duration         // 0: the broker's
	Parameters  json.RawMessage       // as StartSession had them
	Task        wire.AgentTaskPayload // what the node is to start; its ids are filled in here

	// Notice is logged, and told to the client when it is there, if it can show it.
	// Empty is none.
	Notice string

	// Admit is called once the session has an ID, before the session is stored and
	// before the node is told. Its error is Start's. Nil admits.
	Admit func(id sallyport.SessionID) error
}

// An Invitation lets a person's end into a session.
type Invitation struct {
	Session sallyport.SessionID
	Token   sallyport.Secret // empty if the session is over
}

// Start begins a session and has the node told: at once, or, if the node would
// ask the client something first and wait for no more than 15 seconds, when the
// client is there (amazon-ssm-agent agent/session/datachannel). By the time it
// returns, the session is stored. It does not wait for the node to answer: a
// node that does not is the session's cause to fail.
func (b *Broker) Start(ctx context.Context, r Request) (Invitation, error) {
	id := sallyport.NewSessionID(r.Who.Name)
	if r.Admit != nil {
		if err := r.Admit(id); err != nil {
			return Invitation{}, err
		}
	}
	rec := sallyport.NewSession(id, r.Who, r.Node, r.Document, time.Now())
	rec.Reason, rec.MaxDuration = r.Reason, r.MaxDuration
	rec.Kind, rec.RunAs = r.Task.DocumentContent.SessionType, r.Task.RunAsUser

	s := b.newSession(rec)
	task := r.Task
	task.SessionId, task.SessionOwner, task.DocumentName = id.String(), r.Who.ARN, r.Document
	s.setTask(task)
	if _, err := encodeTask(task); err != nil {
		return Invitation{}, fmt.Errorf("start session: %w", err)
	}
	s.idle, s.notice = or(r.Idle, b.idle()), r.Notice
	s.dispatchAt = rec.Started
	s.stirred = rec.Started

	token := sallyport.GenerateSecret()
	s.access.Token = token.Hash()
	resume, err := json.Marshal(resumed{task, s.idle})
	if err != nil {
		return Invitation{}, fmt.Errorf("start session: %w", err)
	}
	running, done, err := b.enter() // before the session is stored, so that each that is stored is launched
	if err != nil {
		return Invitation{}, fmt.Errorf("start session: %w", err)
	}
	defer done()
	if err := b.room(); err != nil {
		return Invitation{}, err
	}
	if err := b.reserve(s); err != nil {
		return Invitation{}, err
	}
	launched := false
	defer func() {
		if !launched {
			b.forget(s)
		}
	}()
	if s.log, err = b.Shelf.Create(id); err != nil {
		return Invitation{}, fmt.Errorf("start session: %w", err)
	}
	if err := b.Store.Sessions().Insert(ctx, &store.SessionRecord{Session: rec, Parameters: r.Parameters, Access: s.access, Resume: resume}); err != nil {
		s.log.Close()
		b.Shelf.Remove(id)
		return Invitation{}, fmt.Errorf("start session: %w", err)
	}
	if s.flow {
		s.log.Append(record.Entry{At: rec.Started, What: record.Flow})
		if isFileServer(task) {
			s.sums = newSums()
		}
	}
	launched = true
	b.launch(running, s)
	s.out.InfoContext(ctx, "session started", sallyport.LogWho, r.Who.ARN)
	if r.Notice != "" {
		s.out.WarnContext(ctx, "session started with a notice", sallyport.LogCause, r.Notice)
	}
	if err := b.endIfGone(ctx, s); err != nil { // since the caller was authorized
		return Invitation{}, err
	}
	return Invitation{id, token}, nil
}

// Resume mints another token for a session that is on; the one before is then
// good for nothing. A session that is over, or ending, has no token to give:
// the invitation's is empty, which is how a client learns that it is over. One
// that the node ended has, until its client has had what the node said last.
func (b *Broker) Resume(ctx context.Context, id sallyport.SessionID) (Invitation, error) {
	s := b.find(id)
	if s == nil {
		return Invitation{Session: id}, nil
	}
	token := sallyport.GenerateSecret()
	over := false
	err := s.changeAccess(ctx, func(access *store.Access) error {
		if over = s.fate != 0 && !s.owed(); over {
			return errOver
		}
		access.Token, access.Client, access.Bound = token.Hash(), "", false
		return nil
	})
	switch {
	case over:
		return Invitation{Session: id}, nil
	case err != nil:
		return Invitation{}, fmt.Errorf("resume session: %w", err)
	}
	return Invitation{id, token}, nil
}

// Latest returns a session as it is, where the store, which takes nothing on a full
// disk, has it as it was before its end. An end that is not on disk yet is not told
// here either.
func (b *Broker) Latest(rec *sallyport.Session) *sallyport.Session {
	s := b.find(rec.ID)
	if s == nil {
		return rec
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.committed {
		return rec
	}
	latest := *s.rec
	return &latest
}

// changeAccess has change say, while it holds mu, who may attach from now on,
// and stores that. Nothing is changed by an error, which may be change's.
func (s *session) changeAccess(ctx context.Context, change func(*store.Access) error) error {
	select {
	case s.accessTurn <- struct{}{}:
		defer func() { <-s.accessTurn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.mu.Lock()
	access := s.access
	err := change(&access)
	same := access == s.access
	s.mu.Unlock()
	if err != nil || same {
		return err
	}
	if err := s.b.Store.Sessions().SetAccess(ctx, s.id, s.rec.Epoch, access); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.access = access
	return nil
}

// Terminate ends a session for a cause, a sentence that its owner is told. A
// session that is over stays as it is; one that has ended and waits for its client
// does not wait any more. It returns once the end is stored, or
// could not be: with a full disk the session ends all the same.
func (b *Broker) Terminate(ctx context.Context, id sallyport.SessionID, cause string) {
	s := b.find(id)
	if s == nil {
		return
	}
	s.giveUp()
	s.end(cause)
	s.save(ctx)
}

// giveUp has a session that has ended not wait for its client any more.
func (s *session) giveUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fate != 0 {
		s.told = true
		s.look()
	}
}

// refused is the error for an end that may not attach. It gives no reason: an end
// without a token learns nothing about sessions.
func refused() error {
	return sallyport.Errorf(sallyport.AccessDeniedException, "The token is not good for this session.")
}

// SessionOver is the text that keeps a stock agent from trying again.
// (amazon-ssm-agent agent/session/config/config.go.)
const SessionOver = "Session is already terminated"

// controlTokenLife is how long a node has between CreateControlChannel and its
// socket.
const controlTokenLife = time.Minute

// ControlToken mints a token for a node's control channel: CreateControlChannel.
// It is sealed rather than stored, so that any server node can tell it.
func (b *Broker) ControlToken(node sallyport.NodeID) sallyport.Secret {
	expires := strconv.FormatInt(time.Now().Add(controlTokenLife).Unix(), 10)
	return sallyport.NewSecret(base64.RawURLEncoding.EncodeToString(b.Keys.For("control-channel").Seal([]byte(expires), []byte(node.String()))))
}

// CheckControlToken reports whether token was minted for node lately.
func (b *Broker) CheckControlToken(node sallyport.NodeID, token sallyport.Secret) error {
	bad := sallyport.Errorf(sallyport.AccessDeniedException, "The token is not good for this control channel.")
	sealed, err := base64.RawURLEncoding.DecodeString(token.Reveal())
	if err != nil {
		return bad
	}
	text, err := b.Keys.For("control-channel").Open(sealed, []byte(node.String()))
	if err != nil {
		return bad
	}
	expires, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil || time.Now().After(time.Unix(expires, 0)) {
		return bad
	}
	return nil
}

// EndNode ends every session on a node, for a cause.
func (b *Broker) EndNode(node sallyport.NodeID, cause string) {
	for _, s := range b.on(node) {
		s.end(cause)
	}
}

// Lost ends the sessions of a node that its agent had, and has no more. It is for
// what the agent says when it opens its control channel. An agent of another
// place, as of a copy of the machine, says nothing about them.
func (b *Broker) Lost(node sallyport.NodeID, has wire.SallyportSessions) {
	for _, s := range b.on(node) {
		if !slices.Contains(has.Sessions, s.id.String()) {
			s.lost(has.Process)
		}
	}
}

// on lists the sessions on a node.
func (b *Broker) on(node sallyport.NodeID) (all []*session) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.live {
		if s.rec.Node == node && s.launched.Load() { // a session's node never changes
			all = append(all, s)
		}
	}
	return all
}

// tidy seals one session's log, has the store know, and removes the log. That of
// a session that is not stored is removed as it is: its StartSession was never
// answered, or it has been forgotten.
func (b *Broker) tidy(ctx context.Context, id sallyport.SessionID) error {
	if _, err := b.Store.Sessions().Get(ctx, id); sallyport.CodeOf(err) == sallyport.DoesNotExistException {
		return b.Shelf.Remove(id)
	} else if err != nil {
		return err
	}
	log, err := b.Shelf.Seal(id)
	if err != nil {
		return err
	}
	err = b.Store.Sessions().SetLog(ctx, id, store.Log{Size: log.Size, Hash: log.SHA256})
	if err != nil && sallyport.CodeOf(err) != sallyport.DoesNotExistException {
		return err
	}
	return b.Shelf.Discard(id, log)
}

// SealJob is the kind of the jobs that [Broker.SealLate] does. Their name is the
// session's ID.
const SealJob = "seal recording"

// SealLate makes the recording of a session that ended when that could not be done,
// as on a full disk.
func (b *Broker) SealLate(ctx context.Context, job store.Item) error {
	id, err := sallyport.ParseSessionID(job.Name)
	if err != nil {
		return err
	}
	if err := b.tidy(ctx, id); !errors.Is(err, fs.ErrNotExist) { // Tidy may have been there before
		return err
	}
	return nil
}

// Capabilities are what this control plane can do for agents of ours.
func Capabilities() []string { return []string{wire.CapEnd} }

// NodeToken mints a token for the node's end of a session: CreateDataChannel.
// It answers only the node the session was dispatched to.
func (b *Broker) NodeToken(ctx context.Context, at sallyport.NodeID, id sallyport.SessionID) (sallyport.Secret, error) {
	s := b.find(id)
	if s == nil || s.rec.Node != at { // a session's node never changes
		return sallyport.Secret{}, sallyport.Errorf(sallyport.DoesNotExistException, SessionOver+", or was never started on this node.")
	}
	token := sallyport.GenerateSecret()
	err := s.changeAccess(ctx, func(access *store.Access) error {
		access.NodeToken = token.Hash()
		s.dispatchAt = time.Now().Add(b.dispatchAgain()) // it has answered; it need not be asked again yet
		return nil
	})
	if err != nil {
		return sallyport.Secret{}, fmt.Errorf("create data channel: %w", err)
	}
	return token, nil
}

// JoinNode attaches a node's socket to a session and carries its frames until
// the socket fails, which is an error, or the session is over.
func (b *Broker) JoinNode(ctx context.Context, at sallyport.NodeID, id sallyport.SessionID, token sallyport.Secret, conn Conn, capabilities []string, process wire.Process) error {
	s := b.find(id)
	if s == nil || s.rec.Node != at {
		return refused()
	}
	s.mu.Lock()
	ok := s.access.NodeToken.Matches(token)
	s.mu.Unlock()
	if !ok {
		return refused()
	}
	return s.attach(ctx, node, conn, capabilities, process)
}

// JoinPerson attaches a person's socket to a session and carries its frames
// until the socket fails, which is an error, or the session is over.
//
// A token is good for one session and, from its first use, for one client ID
// or for none at all: another client that has read it off a screen is refused. Who
// is the principal that signed for the socket; nil if the request was not signed.
//
// A client that comes when the session is over, as where a shell could not be
// started, is told how it ended: the error is an [Ended].
func (b *Broker) JoinPerson(ctx context.Context, who *sallyport.Principal, id sallyport.SessionID, token sallyport.Secret, client string, conn Conn, capabilities []string) error {
	s := b.find(id)
	if s == nil {
		return b.late(ctx, who, id, token, client)
	}
	if err := s.admit(ctx, who, token, client); err != nil {
		return err
	}
	if err := b.endIfGone(ctx, s); err != nil {
		return err
	}
	err := s.attach(ctx, person, conn, capabilities, wire.Process{})
	if errors.Is(err, errOver) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return ended(s.rec)
	}
	return err
}

// An Ended is the error of a client that comes when the session is over. It is a
// *[sallyport.Error] too, whose message is the cause.
type Ended struct {
	error
	ExitStatus *int
}

func (e *Ended) Unwrap() error { return e.error }

// late answers a client that comes when the session is over. Its owner, who has
// signed for the socket, needs no token: the last may have been lost on its way.
func (b *Broker) late(ctx context.Context, who *sallyport.Principal, id sallyport.SessionID, token sallyport.Secret, client string) error {
	rec, err := b.Store.Sessions().Get(ctx, id)
	switch {
	case sallyport.CodeOf(err) != "":
		return refused()
	case err != nil:
		return err
	case !rec.State().Final(), !mayJoin(rec.Session, rec.Access, who, token, client) && (who == nil || !who.Owns(rec.Session)):
		return refused()
	}
	return ended(rec.Session)
}

func ended(rec *sallyport.Session) error {
	return &Ended{sallyport.Errorf(sallyport.DoesNotExistException, "%s", sallyport.Clip(rec.Cause, 1000)), rec.ExitStatus}
}

// mayJoin reports whether a client may attach with a token.
func mayJoin(rec *sallyport.Session, access store.Access, who *sallyport.Principal, token sallyport.Secret, client string) bool {
	return access.Token.Matches(token) && (who == nil || who.Owns(rec)) && (!access.Bound || access.Client == client)
}

func (s *session) admit(ctx context.Context, who *sallyport.Principal, token sallyport.Secret, client string) error {
	err := s.changeAccess(ctx, func(access *store.Access) error {
		if !mayJoin(s.rec, *access, who, token, client) {
			return refused()
		}
		access.Client, access.Bound = client, true
		return nil
	})
	if err != nil {
		return fmt.Errorf("bind token: %w", err)
	}
	return nil
}

// maxTaskID is how many bytes of a task's ID an answer repeats. A session's ID
// has 96 at most; nothing reads the member. (amazon-ssm-agent
// agent/messageservice.)
const maxTaskID = 128

// Complete takes a node's word that a session is over there, and returns the
// answer that stops the agent's repeats: nil if that is sent once the end is on disk.
// A report about another node's session changes nothing.
func (b *Broker) Complete(at sallyport.NodeID, frame wire.Frame) (answer []byte, err error) {
	var msg wire.AgentTaskComplete
	if err := frame.Unmarshal(&msg); err != nil {
		return nil, err
	}
	answer = encode(wire.AgentTaskAcknowledge{
		SchemaVersion: 1, MessageId: frame.ID.String(), TaskId: sallyport.Clip(msg.TaskId, maxTaskID), Topic: string(wire.TypeAgentTaskComplete),
	}.Frame(time.Now()))
	if id, err := sallyport.ParseSessionID(msg.TaskId); err == nil {
		if s := b.find(id); s != nil && s.rec.Node == at && !s.complete(msg, answer) {
			return nil, nil
		}
	}
	return answer, nil
}

// Tidy seals what was left unsealed, because the disk was full or a server was
// killed between the end of a session and its recording, and has the store know
// the recordings' hashes. It returns how many recordings it made.
func (b *Broker) Tidy(ctx context.Context) (sealed int, err error) {
	ids, err := b.Shelf.Unsealed()
	if err != nil {
		return 0, err
	}
	for _, id := range ids {
		if ctx.Err() != nil || b.find(id) != nil {
			continue
		}
		e := panics.Run(func() error { return b.tidy(ctx, id) })
		if e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
			continue
		}
		sealed++
	}
	return sealed, err
}
