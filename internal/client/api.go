package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
)

// The documents that the commands of this package start. All but the
// last are AWS's; DocumentExec is built into our servers, and runs its parameter command,
// split as a shell would, with its standard streams apart.
const (
	DocumentSSH        = "AWS-StartSSHSession"                        // portNumber
	DocumentPort       = "AWS-StartPortForwardingSession"             // portNumber, localPortNumber
	DocumentPortRemote = "AWS-StartPortForwardingSessionToRemoteHost" // and host
	DocumentExec       = "Sallyport-Exec"                             // command
)

// A StartSession asks for a session. Only Target is required.
type StartSession struct {
	Target       string              // a node's ID
	DocumentName string              `json:",omitempty"` // "" is the account's preferences
	Reason       string              `json:",omitempty"`
	Parameters   map[string][]string `json:",omitempty"`
}

// An Invitation lets its holder into one session, where its owner is awaited.
type Invitation struct {
	// SessionID is text, not a sallyport.SessionID: AWS's and ECS's sessions
	// have names of other forms.
	SessionID string
	StreamURL string
	Token     sallyport.Secret // empty if the session is over

	// Target is the node's ID, which an encrypted session needs.
	Target string
}

type invitation struct {
	SessionID  string `json:"SessionId"` // and sessionId, as ECS spells it: matching ignores case
	StreamURL  string `json:"StreamUrl"`
	TokenValue string
}

func (i invitation) value() Invitation {
	return Invitation{SessionID: i.SessionID, StreamURL: i.StreamURL, Token: sallyport.NewSecret(i.TokenValue)}
}

// StartSession asks for a session. A refusal is a *sallyport.Error; one of the
// document says what to add to the caller's policy.
func (c *Client) StartSession(ctx context.Context, in StartSession) (Invitation, error) {
	var out invitation
	if err := c.api.Call(ctx, "ssm", "AmazonSSM.StartSession", in, &out); err != nil {
		return Invitation{}, explainDocument(err, in.DocumentName)
	}
	if out.SessionID == "" || out.StreamURL == "" || out.TokenValue == "" {
		return Invitation{}, fmt.Errorf("start session: the answer lacks a SessionId, a StreamUrl or a TokenValue")
	}
	inv := out.value()
	inv.Target = in.Target
	return inv, nil
}

// explainDocument adds to a refusal of the document that a session was asked for
// with what a policy has to have: people who may start shells on a node have named
// the node in it, and no document.
func explainDocument(err error, document string) error {
	refused, ok := errors.AsType[*sallyport.Error](err)
	if !ok || document == "" || refused.Code != sallyport.AccessDeniedException || !strings.Contains(refused.Message, ":document/"+document+" ") {
		return err
	}
	return sallyport.Errorf(refused.Code, "%s. This starts a session with the document %s, so the Resource of the statement that allows ssm:StartSession has to have \"arn:aws:ssm:*:*:document/%[2]s\" too.",
		strings.TrimSuffix(refused.Message, "."), document)
}

// ResumeSession asks for another token for a session that is on. If it is over
// the invitation's token is empty.
func (c *Client) ResumeSession(ctx context.Context, id string) (Invitation, error) {
	var out invitation
	err := c.api.Call(ctx, "ssm", "AmazonSSM.ResumeSession", map[string]string{"SessionId": id}, &out)
	return out.value(), err
}

// TerminateSession ends a session. One that is over stays as it is.
func (c *Client) TerminateSession(ctx context.Context, id string) error {
	return c.api.Call(ctx, "ssm", "AmazonSSM.TerminateSession", map[string]string{"SessionId": id}, nil)
}

// A Time is a moment as AWS's JSON has it. It is written as RFC 3339.
type Time struct{ time.Time }

// UnmarshalJSON reads seconds since 1970, with a fraction.
func (t *Time) UnmarshalJSON(b []byte) error {
	var seconds float64
	if err := json.Unmarshal(b, &seconds); err != nil {
		return err
	}
	t.Time = time.UnixMilli(int64(seconds * 1000))
	return nil
}

// MarshalJSON writes the time as people and jq read it.
func (t Time) MarshalJSON() ([]byte, error) {
	if t.IsZero() {
		return []byte("null"), nil
	}
	return json.Marshal(t.UTC().Format(time.RFC3339))
}

// A Node is a managed node, as DescribeInstanceInformation tells of it.
type Node struct {
	InstanceID       string `json:"InstanceId"`
	Name             string
	ComputerName     string
	PlatformType     string
	PlatformName     string
	PlatformVersion  string
	AgentVersion     string
	PingStatus       string
	LastPingDateTime Time
	IPAddress        string
}

// Nodes returns every node the caller may see.
func (c *Client) Nodes(ctx context.Context) (all []Node, err error) {
	in := struct {
		MaxResults int
		NextToken  string `json:",omitempty"`
	}{MaxResults: 50} // AWS's most
	for {
		var out struct {
			InstanceInformationList []Node
			NextToken               string
		}
		if err := c.api.Call(ctx, "ssm", "AmazonSSM.DescribeInstanceInformation", in, &out); err != nil {
			return nil, err
		}
		all = append(all, out.InstanceInformationList...)
		if out.NextToken == "" || out.NextToken == in.NextToken {
			return all, nil
		}
		in.NextToken = out.NextToken
	}
}

// A SessionInfo is a session, as DescribeSessions tells of it.
type SessionInfo struct {
	SessionID    string `json:"SessionId"`
	Target       string
	Status       string
	StartDate    Time
	EndDate      Time
	DocumentName string
	Owner        string
	Reason       string
	Details      string
}

// A SessionQuery says which sessions are meant.
type SessionQuery struct {
	History bool   // those that are over; otherwise those that are on
	ID      string // a session's, or "" for any
	Target  string // a node's ID, or "" for any
	Owner   string // an ARN, or "" for any
	Limit   int    // 0 is all of them
}

// Sessions returns the sessions asked for, newest first, and whether there are
// more than the limit.
func (c *Client) Sessions(ctx context.Context, q SessionQuery) (all []SessionInfo, more bool, err error) {
	type filter struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	}
	in := struct {
		State      string
		MaxResults int
		Filters    []filter `json:",omitempty"`
		NextToken  string   `json:",omitempty"`
	}{State: "Active", MaxResults: 200} // AWS's most
	if q.History {
		in.State = "History"
	}
	if q.Target != "" {
		in.Filters = append(in.Filters, filter{"Target", q.Target})
	}
	if q.ID != "" {
		in.Filters = append(in.Filters, filter{"SessionId", q.ID})
	}
	if q.Owner != "" {
		in.Filters = append(in.Filters, filter{"Owner", q.Owner})
	}
	for {
		if q.Limit > 0 {
			in.MaxResults = min(200, q.Limit-len(all))
		}
		var out struct {
			Sessions  []SessionInfo
			NextToken string
		}
		if err := c.api.Call(ctx, "ssm", "AmazonSSM.DescribeSessions", in, &out); err != nil {
			return nil, false, err
		}
		all = append(all, out.Sessions...)
		more = out.NextToken != "" && out.NextToken != in.NextToken
		if q.Limit > 0 && len(all) >= q.Limit {
			return all[:q.Limit], more || len(all) > q.Limit, nil
		}
		if !more {
			return all, false, nil
		}
		in.NextToken = out.NextToken
	}
}
