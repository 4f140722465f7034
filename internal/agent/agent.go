// Package agent is the machine's side of Sallyport. It answers one question:
// what does the control plane want of this machine?
//
//	Register ──▶ mi-…, once
//
//	Run:  credentials ──▶ control channel ──▶ interactive_shell ──▶ session
//	         ▲  half life       ▲  lost: again                        │
//	         └──────────────────┴────────── pings, every 5 minutes    ▼
//	                                                     data channel ◀──▶ pty
//
// It dials out and listens nowhere. One process does all of it. A session keeps no
// files but one: how it ended, while the control plane has not acknowledged that,
// for the next process to report. What it says on the wire is what amazon-ssm-agent says
// (agent/session, agent/ssm), so either may stand in for the other.
//
// A control channel that is lost is opened again, at first at once and never
// later than a minute; a data channel likewise, while its shell runs on: what
// the shell says waits, and what it said is sent again. Only the control
// plane's word, or the shell's end, ends a session.
//
// An agent makes way for its next version in the same process, which takes its
// shells over: see [Upgrade].
//
// Sessions are shells, commands and ports. They run as the user the agent runs
// as, as ssm-user, or as whom the control plane names (Run As), with an
// environment made from a list.
//
// The package knows nothing of the server's rooms.
package agent

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/endpoint"
	"github.com/sallyport/sallyport/internal/panics"
	"github.com/sallyport/sallyport/internal/retry"
	"github.com/sallyport/sallyport/internal/socket"
	"github.com/sallyport/sallyport/internal/wire"
)

const userAgent = "sallyport-agent/" + sallyport.Version

// How patient an agent is.
const (
	firstRetry  = 500 * time.Millisecond
	openedAfter = time.Second // a channel that held for that long had been opened
	soonRetry   = 1500 * time.Millisecond
	lastRetry   = time.Minute
	stableAfter = 10 * time.Second // a channel that held for that long starts the retries over
	pingEvery   = 25 * time.Second
	pongWithin  = 20 * time.Second
	infoEvery   = 5 * time.Minute // UpdateInstanceInformation, as the stock agent
	lookEvery   = 2 * time.Second // at the machine's addresses, while waiting to try again
	ackWithin   = time.Second     // for agent_task_complete, before it is sent again
	stopWithin  = 3 * time.Second // for sessions, when the agent stops

	ackWithinLast = 5 * time.Second  // the longest that ackWithin grows to
	knownAfter    = 10 * time.Minute // the end of a session, in which a repeat is known for one
)

// An Agent runs on a machine that has registered. Its fields are set before
// [Agent.Run].
type Agent struct {
	State string // directory, as [Register] had it
	Log   *slog.Logger

	// HTTP is used instead of a client that believes what the registration
	// says, if it is not nil.
	HTTP *http.Client

	// SSMUser has sessions run as ssm-user, who is made when first needed, unless
	// they say another. It needs root; false, sessions are the agent's own
	// user's. NoSudo keeps ssm-user from becoming root.
	SSMUser, NoSudo bool

	// Shell is what runs in sessions of a shell instead of the user's own: the path of
	// a program, which is not told that it is a login shell. "" is the user's own.
	// Windows has but one.
	Shell string

	// ForwardAllow and ForwardDeny are where port sessions may and may not go.
	// The longest prefix decides. Where neither says anything they may go
	// anywhere but to link-local addresses and clouds' metadata.
	ForwardAllow, ForwardDeny []netip.Prefix

	// MaxConnections is how many connections all port sessions may have at once.
	// 0 is what the system's limit on open files leaves.
	MaxConnections int

	// Upgrade is how the agent makes way for its next version; the zero Upgrade
	// is not at all. Inherited is what the version before left to this one, or
	// nil.
	Upgrade   Upgrade
	Inherited *os.File

	// Machine is where the agent runs. Nil is the machine that this process runs
	// on.
	Machine Machine

	// Connected is called each time a control channel has been opened. Nil is not
	// called.
	Connected func()

	instance string // of this process, for the control plane to tell two from one
	place    string // the state directory, on the machine as it was booted
	reg      *Registration
	key      *rsa.PrivateKey
	client   *endpoint.Client

	// keysTurn holds one token while the credentials are read or renewed, which may
	// take as long as a call does.
	keysTurn chan struct{}
	keys     endpoint.Credentials
	issued   time.Time
	expires  time.Time

	connections atomic.Int64 // of all port sessions

	alive      context.Context // from Run until the agent stops
	announcing chan struct{}   // holds a token for each end that is being reported late
	endsMu     sync.Mutex      // held while a file is added to the ends that are kept

	// mu guards all below.
	mu       sync.Mutex
	control  *socket.Conn        // nil while there is none
	sessions map[string]*session // by ID; nil for a while after their end, so that a repeat is known for one
	acks     map[wire.ID]chan struct{}
	kept     map[string]struct{} // by ID, the sessions that are over here and whose end is to be reported

	forgetting map[string]*time.Timer // by ID, of sessions that have ended; stopped with the agent

	running sync.WaitGroup

	era     context.Context // the sessions', until they are handed over
	hold    context.CancelCauseFunc
	holding bool
	handed  []handed // what sessions left while holding
}

// Run serves the control plane until ctx is done, and returns when every
// session has ended. It returns earlier only for what waiting does not mend: a
// registration that is missing, or one that the control plane has forgotten.
func (a *Agent) Run(ctx context.Context) error {
	var err error
	if a.reg, err = Load(a.State); err != nil {
		return err
	}
	if a.key, err = loadKey(a.State); err != nil {
		return err
	}
	base, err := endpoint.ParseURL(a.reg.Endpoint)
	if err != nil {
		return fmt.Errorf("the registration's endpoint %w", err)
	}
	web := a.HTTP
	if web == nil {
		if web, err = (endpoint.Trust{PEM: []byte(a.reg.CA), Pin: a.reg.Pin}).HTTP(); err != nil {
			return err
		}
	}
	a.keysTurn = make(chan struct{}, 1)
	a.client = &endpoint.Client{Base: base, HTTP: web, Region: a.reg.Region, UserAgent: userAgent, Credentials: a.credentials}
	a.instance, a.place = uuid.NewString(), a.machine().Place(a.State)
	a.sessions, a.acks, a.forgetting = map[string]*session{}, map[wire.ID]chan struct{}{}, map[string]*time.Timer{}
	a.kept, a.announcing = map[string]struct{}{}, make(chan struct{}, announcers)
	a.Log = a.Log.With(sallyport.LogNode, a.reg.Node)
	defer web.CloseIdleConnections()

	// Sessions outlive a lost channel, and end with the agent. The channel goes
	// last, so that the control plane hears of their end.
	alive, end := context.WithCancelCause(context.WithoutCancel(ctx))
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	a.alive = alive
	a.beginEra(alive)
	a.inherit()
	a.takeUpEnds()
	var upgrading sync.WaitGroup
	upgrading.Go(func() { a.upgradeWhenAsked(alive) })
	stopped := make(chan struct{})
	stop := func() {
		defer close(stopped)
		a.mu.Lock() // a session begins before this, and is waited for, or not at all
		end(errStopping)
		a.mu.Unlock()
		upgrading.Wait() // it may have sessions to give back
		a.running.Wait()
		stopServing()
	}
	forget := context.AfterFunc(ctx, stop)
	defer func() {
		if forget() {
			stop()
		}
		<-stopped
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, t := range a.forgetting {
			t.Stop()
		}
	}()

	wait := retry.Backoff{First: firstRetry, Soon: soonRetry, Last: lastRetry}
	for {
		began := time.Now()
		err := panics.Run(func() error { return a.serve(serving) })
		if ctx.Err() != nil {
			return nil
		}
		if forgotten(err) {
			return fmt.Errorf("the control plane does not know this machine any more; register it again: %w", err)
		}
		if sallyport.CodeOf(err) == sallyport.UnrecognizedClientException {
			a.dropKeys(ctx) // what they are refused for is said when new ones are asked for
		}
		switch held := time.Since(began); {
		case held > stableAfter:
			wait.Reset()
		case held > openedAfter:
			wait.Answered()
		}
		if _, ok := endpoint.UnknownCA(err); ok {
			err = fmt.Errorf("%w; the CA is another than when this machine was registered: register it again, with --force and --ca-pin or --ca-file", err)
		}
		delay := wait.Next()
		a.Log.Warn("control channel lost", sallyport.LogErr, err, panics.Stack(err), "retry_in", delay.Round(100*time.Millisecond))
		web.CloseIdleConnections() // they were on the same network: a call on one that is dead would wait for long
		if !a.pause(ctx, delay) {
			return nil
		}
	}
}

// errStopping is why sessions end when the agent stops.
var errStopping = errors.New("the agent was stopped")

// forgotten reports whether err says that the registration is good for nothing.
func forgotten(err error) bool {
	return sallyport.CodeOf(err) == sallyport.MachineFingerprintDoesNotMatch ||
		sallyport.CodeOf(err) == sallyport.UnrecognizedClientException && strings.Contains(err.Error(), "not registered here")
}

// credentials returns the node's, asking for new ones at half the life of the
// old. (amazon-ssm-agent core/app/credentialrefresher does the same.)
func (a *Agent) credentials(ctx context.Context) (endpoint.Credentials, error) {
	select {
	case a.keysTurn <- struct{}{}:
		defer func() { <-a.keysTurn }()
	case <-ctx.Done():
		return endpoint.Credentials{}, fmt.Errorf("get credentials: %w", context.Cause(ctx))
	}
	now := a.client.Now()
	if a.keys.AccessKeyID != "" && now.Before(a.issued.Add(a.expires.Sub(a.issued)/2)) {
		return a.keys, nil
	}
	var out struct {
		AccessKeyId, SecretAccessKey, SessionToken string
		TokenExpirationDate                        float64
	}
	err := a.client.CallRSA(ctx, a.reg.Node, a.key, "AmazonSSM.RequestManagedInstanceRoleToken", map[string]string{"Fingerprint": a.reg.Fingerprint}, &out)
	if err != nil {
		if a.keys.AccessKeyID != "" && now.Before(a.expires.Add(-time.Minute)) {
			return a.keys, nil // they do for a while yet
		}
		return endpoint.Credentials{}, fmt.Errorf("get credentials: %w", err)
	}
	a.keys = endpoint.Credentials{AccessKeyID: out.AccessKeyId, Secret: sallyport.NewSecret(out.SecretAccessKey), Token: sallyport.NewSecret(out.SessionToken)}
	a.issued, a.expires = now, time.Unix(int64(out.TokenExpirationDate), 0)
	return a.keys, nil
}

// dropKeys has the next call ask for new credentials.
func (a *Agent) dropKeys(ctx context.Context) {
	select {
	case a.keysTurn <- struct{}{}:
		a.keys = endpoint.Credentials{}
		<-a.keysTurn
	case <-ctx.Done():
	}
}

// serve opens the control channel and answers what comes on it, until it is
// lost or serving is done.
func (a *Agent) serve(serving context.Context) error {
	ctx, cancel := context.WithCancelCause(serving)
	defer cancel(nil)
	if err := a.inform(ctx); err != nil {
		return err
	}
	conn, err := a.openControl(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if serving.Err() != nil {
			conn.Close(errStopping.Error()) // which the server's log then has
			return
		}
		conn.Drop()
	}()
	a.mu.Lock()
	a.control = conn
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		a.control = nil
		a.mu.Unlock()
	}()
	if err := a.tellSessions(ctx, conn); err != nil {
		return fmt.Errorf("open control channel: %w", err)
	}
	a.Log.Info("control channel opened", sallyport.LogAddr, a.reg.Endpoint)
	if a.Connected != nil {
		a.Connected()
	}

	var both sync.WaitGroup
	defer both.Wait()
	both.Go(func() {
		if err := panics.Run(func() error { return conn.KeepAlive(ctx, pingEvery, pongWithin) }); err != nil {
			cancel(err)
		}
	})
	both.Go(func() {
		err := panics.Run(func() error {
			a.informEvery(ctx)
			return nil
		})
		if err != nil {
			cancel(err)
		}
	})
	err = panics.Run(func() error { return a.listen(ctx, conn) })
	cancel(err)
	return context.Cause(ctx)
}

// listen answers what comes on the control channel.
func (a *Agent) listen(ctx context.Context, conn *socket.Conn) error {
	for {
		b, err := conn.ReadFrame(ctx)
		if err != nil {
			return err
		}
		a.receive(b)
	}
}

func (a *Agent) openControl(ctx context.Context) (*socket.Conn, error) {
	path := "/v1/control-channel/" + a.reg.Node.String()
	channel, err := a.client.CreateChannel(ctx, path, createChannel{MessageSchemaVersion: "1.0", RequestId: uuid.NewString()})
	if err != nil {
		return nil, fmt.Errorf("create control channel: %w", err)
	}
	conn, err := a.client.Socket(ctx, path+"?role=subscribe&stream=input", "ssmmessages")
	if err != nil {
		return nil, fmt.Errorf("open control channel: %w", err)
	}
	b, err := json.Marshal(wire.OpenControlChannel{
		MessageSchemaVersion: "1.0", RequestId: uuid.NewString(), TokenValue: wire.NewToken(channel.Token),
		AgentVersion: sallyport.WireAgentVersion, PlatformType: strings.ToLower(platformType()), Instance: a.instance,
	})
	if err == nil {
		err = conn.WriteText(ctx, b)
	}
	if err != nil {
		conn.Drop()
		return nil, fmt.Errorf("open control channel: %w", err)
	}
	return conn, nil
}

// createChannel is what CreateControlChannel and CreateDataChannel are sent.
type createChannel struct {
	MessageSchemaVersion string
	RequestId            string
	ClientId             string `json:",omitempty"`
}

// receive deals with one message on the control channel. What makes no sense is
// dropped, as the stock agent does.
func (a *Agent) receive(b []byte) {
	f, err := wire.Decode(b)
	if err != nil {
		return
	}
	switch f.Type {
	case wire.TypeInteractiveShell:
		task, err := wire.ReadAgentTask(f.Payload)
		if err != nil {
			a.Log.Error("session not understood", sallyport.LogErr, err)
			return
		}
		a.begin(task)
	case wire.TypeChannelClosed:
		var closed wire.ChannelClosed
		if f.Unmarshal(&closed) == nil {
			a.mu.Lock()
			s := a.sessions[closed.SessionId]
			a.mu.Unlock()
			if s != nil {
				s.close()
			}
		}
	case wire.TypeSallyportNotice:
		var notice wire.SallyportNotice
		if f.Unmarshal(&notice) == nil {
			a.Log.Warn("the control plane says", sallyport.LogCause, sallyport.Clip(notice.Text, 1000))
		}
	case wire.TypeAgentTaskAcknowledge:
		var ack wire.AgentTaskAcknowledge
		if f.Unmarshal(&ack) != nil {
			return
		}
		if id, err := wire.ParseID(ack.MessageId); err == nil {
			a.mu.Lock()
			if c, ok := a.acks[id]; ok {
				close(c)
				delete(a.acks, id)
			}
			a.mu.Unlock()
		}
	}
}

// begin starts a session, unless it has been started: the control plane asks
// again when it is not sure that we have heard.
func (a *Agent) begin(task wire.AgentTaskPayload) {
	id, err := sallyport.ParseSessionID(task.SessionId)
	if err != nil {
		a.Log.Error("session not understood", sallyport.LogErr, err)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, known := a.sessions[task.SessionId]; known || a.era.Err() != nil {
		return // if the agent is making way, it will be asked again
	}
	s := newSession(a, id, task, a.era)
	s.log.Info("session started", sallyport.LogWho, s.task.SessionOwner)
	a.launch(s)
}

// launch runs a session. The caller holds mu.
func (a *Agent) launch(s *session) {
	id := s.id.String()
	a.sessions[id] = s
	a.running.Go(func() {
		s.guard(s.run)
		a.mu.Lock()
		if a.sessions[id] == s { // and has not been handed over
			a.forget(id)
		}
		a.mu.Unlock()
		if held(s.era) {
			return
		}
		a.machine().FreeMemory() // a session's buffers are the most an agent ever holds
	})
}

// forget has a session that is over known for a while yet. The caller holds mu.
func (a *Agent) forget(id string) {
	a.sessions[id] = nil
	a.forgetting[id] = time.AfterFunc(knownAfter, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.forgetting, id)
		if a.sessions[id] == nil {
			delete(a.sessions, id)
		}
	})
}

// complete tells the control plane that a session is over, on whichever channel
// there is, until it says that it has heard. It reports whether it has, and ctx
// did not end before.
func (a *Agent) complete(ctx context.Context, msg wire.AgentTaskComplete) bool {
	frame := msg.Frame(time.Now())
	acked := make(chan struct{})
	a.mu.Lock()
	a.acks[frame.ID] = acked
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		delete(a.acks, frame.ID)
		a.mu.Unlock()
	}()
	for try := 1; ; {
		a.mu.Lock()
		conn := a.control
		a.mu.Unlock()
		if conn != nil {
			msg.RetryNumber = wire.Int(try)
			again := msg.Frame(time.Now())
			again.ID = frame.ID
			if b, err := again.AppendBinary(nil); err == nil && conn.WriteFrame(ctx, b) == nil {
				try++
			}
		}
		timer := time.NewTimer(min(time.Duration(try)*ackWithin, ackWithinLast))
		select {
		case <-acked:
			timer.Stop()
			return true
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return false
		}
	}
}

// process says which process this is.
func (a *Agent) process() wire.Process { return wire.Process{Instance: a.instance, Place: a.place} }

// tellSessions says on a new control channel which sessions this process has, or
// has the end of, so that those of a process before it, which it has not, end at
// once.
func (a *Agent) tellSessions(ctx context.Context, conn *socket.Conn) error {
	has := wire.SallyportSessions{Process: a.process()}
	a.mu.Lock()
	for id, s := range a.sessions {
		if s != nil {
			has.Sessions = append(has.Sessions, id)
		}
	}
	for id := range a.kept {
		has.Sessions = append(has.Sessions, id)
	}
	a.mu.Unlock()
	b, err := has.Frame(time.Now()).AppendBinary(nil)
	if err != nil {
		return nil // the list is longer than a frame, and than the control plane reads: it waits for the sessions as for those of a lost node
	}
	return conn.WriteFrame(ctx, b)
}

// inform tells the control plane what this machine is: UpdateInstanceInformation.
func (a *Agent) inform(ctx context.Context) error {
	name, version := a.machine().Platform()
	err := a.client.Call(ctx, "ssm", "AmazonSSM.UpdateInstanceInformation", map[string]string{
		"AgentName": "amazon-ssm-agent", "AgentStatus": "Active", "AgentVersion": sallyport.WireAgentVersion,
		"ComputerName": a.machine().Hostname(), "IPAddress": a.address(), "InstanceId": a.reg.Node.String(),
		"PlatformName": name, "PlatformType": platformType(), "PlatformVersion": version,
		"SSMConnectionChannel": "ssmmessages",
	}, nil)
	if err != nil {
		return fmt.Errorf("update instance information: %w", err)
	}
	return nil
}

func (a *Agent) informEvery(ctx context.Context) {
	tick := time.NewTicker(infoEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := a.inform(ctx); err != nil && ctx.Err() == nil {
				a.Log.Warn("instance information not updated", sallyport.LogErr, err)
			}
		}
	}
}

// address is the one this machine reaches the control plane from.
func (a *Agent) address() string {
	host, port := a.client.Base.Hostname(), a.client.Base.Port()
	if port == "" {
		port = "443"
	}
	return a.machine().AddressTo(host, port)
}

func platformType() string {
	switch runtime.GOOS {
	case "windows":
		return "Windows"
	case "darwin":
		return "MacOS"
	}
	return "Linux"
}

// pause waits for d, or until the machine's addresses change: the network may
// be back. It reports false if ctx ended.
func (a *Agent) pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	before := a.machine().Addresses()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		case <-look.C:
			if a.machine().Addresses() != before {
				return true
			}
		}
	}
}
