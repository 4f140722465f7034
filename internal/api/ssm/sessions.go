package ssm

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/broker"
	"github.com/sallyport/sallyport/internal/document"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/wire"
)

// shellDocument is the account's preferences, and what a session is started by
// when no document is named.
const shellDocument = "SSM-SessionManagerRunShell"

// documentName is a document's name, from its name or its ARN.
func documentName(text *string) string {
	if deref(text) == "" {
		return shellDocument
	}
	return (*text)[strings.LastIndexByte(*text, '/')+1:]
}

// askStartSession asks about the node and about the document.
//
// A document that is named must be allowed. One that is not need only be
// allowed to those whose statement about the node has the condition
// ssm:SessionDocumentAccessCheck: it is true here if the document is. (User
// guide, "Enforce a session document permission check".)
func (s *Server) askStartSession(ctx context.Context, c *api.Call, in *StartSessionInput) ([]api.Question, error) {
	onNode, err := s.onNode(ctx, c, in.Target)
	if err != nil && sallyport.CodeOf(err) != sallyport.InvalidInstanceID {
		return nil, err
	}
	if err != nil {
		return nil, sallyport.Errorf(sallyport.TargetNotConnected, "%q is not connected: it is not the ID of a managed node. They look like mi-0123456789abcdef0.", sallyport.Clip(in.Target, 64))
	}
	onDocument := api.Question{
		Action:    c.Action(),
		Resources: []string{s.realm().Document(documentName(in.DocumentName))},
		Keys:      map[string]string{"ssm:SessionDocumentAccessCheck": "true"},
	}
	d, err := c.Decide(ctx, onDocument)
	if err != nil {
		return nil, err
	}
	onNode.Keys = map[string]string{"ssm:SessionDocumentAccessCheck": strconv.FormatBool(d.Allowed)}
	if in.DocumentName == nil && !d.Explicit {
		return []api.Question{onNode}, nil
	}
	return []api.Question{onNode, onDocument}, nil
}

func (s *Server) startSession(ctx context.Context, c *api.Call, in *StartSessionInput) (*StartSessionOutput, error) {
	name := documentName(in.DocumentName)
	what, err := s.settle(ctx, name, in.Parameters)
	if err != nil {
		return nil, err
	}
	id, err := sallyport.ParseNodeID(in.Target)
	if err != nil {
		return nil, err
	}
	if err := s.connected(ctx, c, id); err != nil {
		return nil, err
	}
	if err := s.capable(ctx, id, what); err != nil {
		return nil, err
	}
	user, err := runAs(c.Who, what.Document.Inputs)
	if err != nil {
		return nil, err
	}
	encrypts, err := s.encrypts(ctx, c, id, what.Document)
	if err != nil {
		return nil, err
	}
	parameters, err := json.Marshal(in.Parameters)
	if err != nil {
		return nil, err
	}
	var notice string
	if input, place := what.LogsTo(); place != "" { // the document was stored before that was refused
		notice = fmt.Sprintf("the session's document or the account's preferences name %q as %s, and session logs are not sent there; the server keeps a recording", sallyport.Clip(place, 64), input)
	}
	inv, err := s.Broker.Start(ctx, broker.Request{
		Who: c.Who, Node: id, Document: name, Reason: deref(in.Reason), Parameters: parameters,
		Idle: what.Idle, MaxDuration: what.Max, Notice: notice,
		Task:  wire.AgentTaskPayload{Parameters: map[string]any{}, DocumentContent: what.Document, RunAsUser: user},
		Admit: encrypts,
	})
	if err != nil {
		return nil, err
	}
	return &StartSessionOutput{
		SessionId:  some(inv.Session.String()),
		TokenValue: some(inv.Token.Reveal()),
		StreamUrl:  s.streamURL(inv.Session),
	}, nil
}

// settle says what kind of session a document and its parameters ask for. What
// the document does not say, the account's preferences do; they are read at
// $LATEST, because AWS's sample policies may update the document and not set its
// default version.
func (s *Server) settle(ctx context.Context, name string, parameters map[string][]string) (*document.Session, error) {
	preferences, err := s.document(ctx, shellDocument, "$LATEST", "")
	switch {
	case sallyport.CodeOf(err) == sallyport.InvalidDocument:
		preferences = &text{parsed: defaults}
	case err != nil:
		return nil, err
	}
	if name == shellDocument {
		if preferences.parsed.Type != document.Shell {
			return nil, sallyport.Errorf(sallyport.InvalidDocument, "Document %s holds the account's preferences, and its sessionType has to be %s.", shellDocument, document.Shell)
		}
		return preferences.parsed.Fill(parameters, nil)
	}
	t, err := s.document(ctx, name, "", "")
	if err != nil {
		return nil, err
	}
	if t.kind != document.SessionKind { // AWS's words
		return nil, sallyport.Errorf(sallyport.InvalidDocument, "Document type: '%s' is not supported. Only type: 'Session' is supported for Session Manager.", t.kind)
	}
	return t.parsed.Fill(parameters, preferences.parsed)
}

// defaults are the preferences of an account that has none.
var defaults = func() *document.Document {
	d, err := document.Parse(`{"schemaVersion":"1.0","sessionType":"Standard_Stream"}`, document.JSON)
	if err != nil {
		panic(err)
	}
	return d
}()

// since says which agents can do what. (amazon-ssm-agent's tags; user guide,
// "Session Manager prerequisites".)
var since = []struct {
	what    string
	version string
	is      func(d *wire.SessionDocument, p wire.PortProperties) bool
}{
	{"sessions encrypted with a KMS key", "2.3.539.0", func(d *wire.SessionDocument, _ wire.PortProperties) bool {
		return d.Inputs.KmsKeyId != "" && d.SessionType != document.Port
	}},
	{"interactive commands", "2.3.668.0", func(d *wire.SessionDocument, _ wire.PortProperties) bool { return d.SessionType == document.Command }},
	{"Run As", "2.3.672.0", func(d *wire.SessionDocument, _ wire.PortProperties) bool { return bool(d.Inputs.RunAsEnabled) }},
	{"commands without a terminal", "3.0.1124.0", func(d *wire.SessionDocument, _ wire.PortProperties) bool {
		return d.SessionType == document.NonInteractive
	}},
	{"port sessions", "3.0.222.0", func(d *wire.SessionDocument, _ wire.PortProperties) bool { return d.SessionType == document.Port }},
	{"ports of other hosts", "3.1.1374.0", func(d *wire.SessionDocument, p wire.PortProperties) bool {
		return d.SessionType == document.Port && p.Host != "" && p.Host != "localhost"
	}},
}

// capable checks that a node's agent can do what is asked of it.
func (s *Server) capable(ctx context.Context, id sallyport.NodeID, what *document.Session) error {
	n, err := s.db().Nodes().Get(ctx, id)
	if err != nil {
		return err
	}
	var port wire.PortProperties
	if what.Document.SessionType == document.Port {
		json.Unmarshal(what.Document.Properties, &port) // ours: document wrote it
	}
	for _, f := range since {
		if v := n.Agent.Version; v != "" && f.is(&what.Document, port) && sallyport.CompareVersions(v, f.version) < 0 {
			return sallyport.Errorf(sallyport.TargetNotConnected, "The agent on %s is version %s, and %s need %s or later. Update the agent.", id, sallyport.Clip(v, 32), f.what, f.version)
		}
	}
	return nil
}

// userName is what a user of a machine may be called here. A stock agent puts
// the name into a root shell's command line (agent/session/shell/shell_unix.go),
// so what it may not have in it is a matter of security.
var userName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.@-]{0,63}$`)

// runAs says whom the session is to run as: by the tag SSMSessionRunAs of the
// caller, or else by the preferences; "" if Run As is off. (User guide, "Turn on
// Run As support".)
func runAs(who *sallyport.Principal, in wire.SessionInputs) (string, error) {
	if !in.RunAsEnabled {
		return "", nil
	}
	user, from := who.SessionTags[runAsTag], "session tag "+runAsTag
	if user == "" {
		user, from = who.Tags[runAsTag], "tag "+runAsTag
	}
	if user == "" {
		user, from = in.RunAsDefaultUser, "preference runAsDefaultUser"
	}
	switch {
	case user == "":
		return "", sallyport.Errorf(sallyport.ValidationException, "Run As is on, and no user is named for %s's sessions: neither by the tag %s nor by the preference runAsDefaultUser.", who.Name, runAsTag)
	case !userName.MatchString(user):
		return "", sallyport.Errorf(sallyport.ValidationException, "The %s names the user %q, which is no user's name.", from, sallyport.Clip(user, 64))
	case user == "root":
		return "", sallyport.Errorf(sallyport.ValidationException, "The %s names root, and sessions do not run as root.", from)
	}
	return user, nil
}

const runAsTag = "SSMSessionRunAs"

func (s *Server) streamURL(id sallyport.SessionID) *string {
	return some("wss://" + s.StreamHost + "/v1/data-channel/" + id.String() + "?role=publish_subscribe")
}

// A sessionCall is a call about one session: what is known of it.
type sessionCall struct {
	id  sallyport.SessionID
	rec *store.SessionRecord // nil if there is none
}

// aboutSession finds a session, reports whether the caller owns it, and returns
// the question for policy. The session goes by both of the names that policies
// use: session/<owner's name>-… and session/<owner's user ID>-…. To a caller who
// does not own it, neither is a name that begins with the caller's own.
func (s *Server) aboutSession(ctx context.Context, c *api.Call, text string) (call sessionCall, mine bool, q api.Question, err error) {
	if call.id, err = sallyport.ParseSessionID(text); err != nil {
		return call, false, q, err
	}
	rec, err := s.db().Sessions().Get(ctx, call.id)
	switch {
	case err == nil:
		call.rec = rec
		mine = c.Who.Owns(rec.Session)
	case sallyport.CodeOf(err) != sallyport.DoesNotExistException:
		return call, false, q, err
	}
	q = api.Question{Action: c.Action(), Resources: []string{s.realm().Session(call.id)}}
	if rec != nil && call.rec != nil {
		suffix := text[strings.LastIndexByte(text, '-'):]
		q.Resources = append(q.Resources, s.realm().SessionNamed(rec.OwnerID+suffix))
		q.Tags = map[string]string{ // the two tags every session has
			"aws:ssmmessages:session-id": rec.OwnerID,
			"aws:ssmmessages:target-id":  rec.Node.String(),
		}
		q.Unnamed = !mine && (strings.HasPrefix(text, c.Who.Name+"-") || strings.HasPrefix(rec.OwnerID+suffix, c.Who.ID+"-"))
	}
	return call, mine, q, nil
}

// ownerMay reports whether the owner of a session may resume and terminate it
// though no policy allows that, since AWS's sample policies do not mention it:
// unless policy said in d that it is denied, as the user or role that the session
// was started as, and with credentials whose session policies, if they have any,
// allow it. Other credentials of the owner's have to be allowed.
func ownerMay(c *api.Call, rec *sallyport.Session, d api.Decision) bool {
	startedAs, _, _ := strings.Cut(rec.OwnerID, ":")
	return d.Allowed || !d.Explicit && startedAs == c.Who.EntityID() && d.Layer != api.SessionPolicies
}

func (s *Server) askResumeSession(ctx context.Context, c *api.Call) ([]api.Question, error) {
	call, mine, q, err := s.aboutSession(ctx, c, c.Text("SessionId"))
	if err != nil {
		return nil, err
	}
	d, err := c.Decide(ctx, q)
	switch {
	case err != nil:
		return nil, err
	case d.Explicit:
		return []api.Question{q}, nil // which says so
	case mine && ownerMay(c, call.rec.Session, d):
		return nil, nil
	case mine:
		return []api.Question{q}, nil
	case call.rec == nil && d.Allowed:
		return nil, sallyport.Errorf(sallyport.DoesNotExistException, "There is no session %s.", call.id)
	}
	return nil, sallyport.Errorf(sallyport.AccessDeniedException,
		"User: %s is not authorized to perform: ssm:ResumeSession on resource: %s because a session is resumed by its owner alone", c.Who.ARN, q.Resources[0])
}

func (s *Server) resumeSession(ctx context.Context, _ *api.Call, in *ResumeSessionInput) (*ResumeSessionOutput, error) {
	id, err := sallyport.ParseSessionID(in.SessionId)
	if err != nil {
		return nil, err
	}
	inv, err := s.Broker.Resume(ctx, id)
	if err != nil {
		return nil, err
	}
	token := inv.Token.Reveal() // empty, but there, if the session is over: clients read that as its end
	return &ResumeSessionOutput{SessionId: some(id.String()), TokenValue: &token, StreamUrl: s.streamURL(id)}, nil
}

func (s *Server) askTerminateSession(ctx context.Context, c *api.Call) ([]api.Question, error) {
	call, mine, q, err := s.aboutSession(ctx, c, c.Text("SessionId"))
	if err != nil {
		return nil, err
	}
	if mine {
		if d, err := c.Decide(ctx, q); err != nil || ownerMay(c, call.rec.Session, d) {
			return nil, err
		}
	}
	return []api.Question{q}, nil
}

func (s *Server) terminateSession(ctx context.Context, c *api.Call, in *TerminateSessionInput) (*TerminateSessionOutput, error) {
	id, err := sallyport.ParseSessionID(in.SessionId)
	if err != nil {
		return nil, err
	}
	s.Broker.Terminate(ctx, id, "Terminated by "+c.Who.ARN+".")
	return &TerminateSessionOutput{SessionId: &in.SessionId}, nil // of a session that was over, too
}

var sessionFilters = []string{"InvokedAfter", "InvokedBefore", "Target", "Owner", "Status", "SessionId", "AccessType"}

func (s *Server) describeSessions(ctx context.Context, _ *api.Call, in *DescribeSessionsInput) (*DescribeSessionsOutput, error) {
	var f store.SessionFilter
	seen := map[SessionFilterKey]bool{}
	none := false // whether a filter is such that nothing can match it
	for _, filter := range in.Filters {
		value, err := filter.Value, error(nil)
		if seen[filter.Key] {
			return nil, sallyport.Errorf(sallyport.InvalidFilterKey, "The filter %s is given twice.", filter.Key)
		}
		seen[filter.Key] = true
		switch filter.Key {
		case SessionFilterKeyInvokedAfter:
			f.InvokedAfter, err = parseTime(value)
		case SessionFilterKeyInvokedBefore:
			f.InvokedBefore, err = parseTime(value)
		case SessionFilterKeyTarget:
			if f.Node, err = sallyport.ParseNodeID(value); err != nil {
				none, err = true, nil
			}
		case SessionFilterKeyOwner:
			f.Owner = value
		case SessionFilterKeyStatus:
			f.State, err = sallyport.ParseState(value)
		case SessionFilterKeySessionId:
			if f.ID, err = sallyport.ParseSessionID(value); err != nil {
				none, err = true, nil
			}
		case SessionFilterKeyAccessType:
			none = none || value != string(AccessTypeStandard)
		default:
			err = unknownFilter(string(filter.Key), sessionFilters...)
		}
		if err != nil {
			return nil, err
		}
	}
	out := &DescribeSessionsOutput{Sessions: []Session{}}
	if none {
		return out, nil
	}
	list := s.db().Sessions().Active
	if in.State == SessionStateHistory {
		list = s.db().Sessions().History
	}
	sessions, cursor, err := list(ctx, f, page(in.NextToken, in.MaxResults, 50))
	if err != nil {
		return nil, err
	}
	for _, rec := range sessions {
		out.Sessions = append(out.Sessions, describe(s.Broker.Latest(rec)))
	}
	out.NextToken = next(cursor)
	return out, nil
}

func parseTime(text string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, sallyport.Errorf(sallyport.ValidationException, "%q is not a time like 2006-01-02T15:04:05Z.", sallyport.Clip(text, 40))
	}
	return t, nil
}

func describe(rec *sallyport.Session) Session {
	out := Session{
		SessionId:    some(rec.ID.String()),
		Target:       some(rec.Node.String()),
		Status:       SessionStatus(rec.State().String()),
		StartDate:    &rec.Started,
		DocumentName: some(rec.Document),
		Owner:        some(rec.Owner),
		Reason:       some(rec.Reason),
		Details:      some(rec.Cause),
		OutputUrl:    &SessionManagerOutputUrl{},
		AccessType:   AccessTypeStandard,
	}
	if at, over := rec.Ended(); over {
		out.EndDate = &at
	}
	if rec.MaxDuration > 0 {
		out.MaxSessionDuration = some(strconv.Itoa(int(rec.MaxDuration.Minutes())))
	}
	return out
}

func (s *Server) askConnectionStatus(ctx context.Context, c *api.Call, in *GetConnectionStatusInput) ([]api.Question, error) {
	q, err := s.onNode(ctx, c, in.Target)
	if sallyport.CodeOf(err) == sallyport.InvalidInstanceID {
		return []api.Question{{Action: c.Action()}}, nil // not a node: every caller is told that it is not connected
	}
	return []api.Question{q}, err
}

func (s *Server) getConnectionStatus(ctx context.Context, _ *api.Call, in *GetConnectionStatusInput) (*GetConnectionStatusOutput, error) {
	out := &GetConnectionStatusOutput{Target: &in.Target, Status: ConnectionStatusNotconnected}
	if id, err := sallyport.ParseNodeID(in.Target); err == nil && s.Bus.Online(id) {
		out.Status = ConnectionStatusConnected
	}
	return out, nil
}

// connected returns nil if a session can be started on a node, and otherwise a
// TargetNotConnected. Why it cannot is said to those who may ask for the node's
// connection status.
func (s *Server) connected(ctx context.Context, c *api.Call, id sallyport.NodeID) error {
	n, err := s.node(ctx, id)
	if err != nil {
		return err
	}
	s.awaitReturn(ctx, n, id)
	why := s.whyNot(ctx, n, id)
	if why == "" {
		return nil
	}
	q := api.Question{Action: "ssm:GetConnectionStatus", Resources: []string{s.realm().Node(id)}}
	if n != nil {
		q.Tags = n.Tags
	}
	if d, err := c.Decide(ctx, q); err != nil || !d.Allowed {
		return sallyport.Errorf(sallyport.TargetNotConnected, "%s is not connected.", id)
	}
	return sallyport.Errorf(sallyport.TargetNotConnected, "%s is not connected. %s", id, why)
}

// How a session waits for a node that comes back to a server that was restarted.
const (
	returning  = 10 * time.Second // from the start on, in which agents of ours try again within 1.5 s
	wasOn      = time.Minute      // before the start the node was heard of, if it is to be waited for
	returnWait = 3 * time.Second
	returnLook = 50 * time.Millisecond
)

// awaitReturn waits, for returnWait at most, until a node is online that was so
// when the server before this one stopped.
func (s *Server) awaitReturn(ctx context.Context, n *sallyport.Node, id sallyport.NodeID) {
	if n == nil || s.Started.IsZero() || time.Since(s.Started) > returning || n.LastPing.Before(s.Started.Add(-wasOn)) || s.Bus.Online(id) {
		return
	}
	limit, look := time.NewTimer(returnWait), time.NewTicker(returnLook)
	defer limit.Stop()
	defer look.Stop()
	for !s.Bus.Online(id) {
		select {
		case <-look.C:
		case <-limit.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// minAgent is the first agent that knows sessions. (User guide, "Session
// Manager prerequisites".)
const minAgent = "2.3.68.0"

// whyNot says in sentences why no session can be started on a node; "" if one
// can.
func (s *Server) whyNot(ctx context.Context, n *sallyport.Node, id sallyport.NodeID) string {
	if n == nil {
		return fmt.Sprintf("There is no such node in account %s, region %s. Check the ID, or register the machine.", s.realm().Account, s.realm().Region)
	}
	if v := n.Agent.Version; v != "" && sallyport.CompareVersions(v, minAgent) < 0 {
		return fmt.Sprintf("Its agent is version %s, and sessions need %s or later. Update the agent.", sallyport.Clip(v, 32), minAgent)
	}
	if s.Bus.Online(id) {
		return ""
	}
	var why []string
	if n.LastPing.IsZero() {
		why = append(why, fmt.Sprintf("It registered at %s, and its agent has never connected since. Check that the agent is running.", n.Registered.UTC().Format(time.RFC3339)))
	} else {
		why = append(why, fmt.Sprintf("It was last seen %s ago, at %s.", age(time.Since(n.LastPing)), n.LastPing.UTC().Format(time.RFC3339)))
	}
	lacks, err := s.API.NodeLacks(ctx, id)
	if err == nil && lacks != "" {
		why = append(why, lacks)
	}
	// What went wrong before the node was last heard of is over.
	if t := n.Trouble; t.Reason != "" && t.Reason != lacks && !t.At.Before(n.LastPing) && time.Since(t.At) < 24*time.Hour {
		why = append(why, fmt.Sprintf("The last thing that went wrong, %s ago: %s", age(time.Since(t.At)), t.Reason))
	}
	return strings.Join(why, " ")
}

// age is a duration as a person says it.
func age(d time.Duration) string {
	switch {
	case d < time.Minute:
		return strconv.Itoa(int(d.Seconds())) + " s"
	case d < time.Hour:
		return strconv.Itoa(int(d.Minutes())) + " min"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d.Hours())) + " h"
	}
	return strconv.Itoa(int(d.Hours()/24)) + " days"
}
