package sallyportapi_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/endpoint"
	"github.com/sallyport/sallyport/internal/servertest"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/wire"
)

type part struct {
	Size, Offset   int64
	Sha256, Format string
	Data           []byte
}

func get(t *testing.T, c *endpoint.Client, session string, offset, most int64) (part, error) {
	t.Helper()
	var out part
	err := c.Call(t.Context(), "sallyport", "Sallyport.GetRecording", map[string]any{"SessionId": session, "Offset": offset, "MaxBytes": most}, &out)
	return out, err
}

func wantRefused(t *testing.T, err error, code sallyport.Code, says string) {
	t.Helper()
	e, ok := errors.AsType[*sallyport.Error](err)
	if !ok || e.Code != code || !strings.Contains(e.Message, says) {
		t.Errorf("got %v, want %s with %q", err, code, says)
	}
}

const (
	start = `{"Effect":"Allow","Action":["ssm:StartSession","ssm:TerminateSession"],"Resource":"*"}`
	// The samples of docs/aws.md.
	ownRecordings = `{"Effect":"Allow","Action":"sallyport:GetRecording","Resource":"arn:aws:sallyport:*:*:recording/${aws:username}-*"}`
	ownByID       = `{"Effect":"Allow","Action":"sallyport:GetRecording","Resource":"arn:aws:sallyport:*:*:recording/${aws:userid}-*"}`
	allRecordings = `{"Effect":"Allow","Action":"sallyport:GetRecording","Resource":"*"}`
)

func policyOf(statements ...string) string {
	return `{"Version":"2012-10-17","Statement":[` + strings.Join(statements, ",") + `]}`
}

// record has a person say something in a session, and ends it. It returns the
// session's ID.
func record(t *testing.T, s *servertest.Server, node *servertest.Node, who aws.CredentialsProvider, say string, during func(id string)) string {
	t.Helper()
	ctx := t.Context()
	client := s.SSM(who)
	out, err := client.StartSession(ctx, &ssm.StartSessionInput{Target: aws.String(node.ID.String())})
	if err != nil {
		t.Fatal(err)
	}
	person, err := s.Join(*out.SessionId, *out.TokenValue, "client-1", who)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := person.Hear(ctx, 2); err != nil {
		t.Fatal(err)
	}
	if err := person.Stream.Send(ctx, wire.KindOutput, []byte(say)); err != nil {
		t.Fatal(err)
	}
	if _, err := person.Hear(ctx, len(say)); err != nil {
		t.Fatal(err)
	}
	if during != nil {
		during(*out.SessionId)
	}
	if _, err := client.TerminateSession(ctx, &ssm.TerminateSessionInput{SessionId: out.SessionId}); err != nil {
		t.Fatal(err)
	}
	<-person.Closed
	id, err := sallyport.ParseSessionID(*out.SessionId)
	if err != nil {
		t.Fatal(err)
	}
	servertest.Eventually(t, "the recording is made", func() bool {
		rec, err := s.Store.Sessions().Get(ctx, id)
		return err == nil && rec.Log.Hash != nil
	})
	return id.String()
}

// A recording comes in parts, which make the file that its hash is of.
func TestGetRecording(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := servertest.Start(t, nil)
		node := s.Register("")
		node.Online()
		ann := s.User("ann", policyOf(start, ownRecordings))
		as := s.Client(ann)
		id := record(t, s, node, ann, "the word is sesame", func(id string) {
			_, err := get(t, as, id, 0, 0)
			wantRefused(t, err, sallyport.RecordingNotAvailableException, "is still on. Its recording is made when it ends.")
		})

		whole, err := get(t, as, id, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(whole.Data)
		if whole.Format != "asciicast-v2" || whole.Size != int64(len(whole.Data)) || whole.Sha256 != hex.EncodeToString(sum[:]) || !bytes.Contains(whole.Data, []byte("sesame")) {
			t.Errorf("whole recording: %+v %q", whole, whole.Data)
		}
		var parts []byte
		for int64(len(parts)) < whole.Size {
			p, err := get(t, as, id, int64(len(parts)), 100)
			if err != nil || len(p.Data) == 0 || len(p.Data) > 100 || p.Offset != int64(len(parts)) || p.Size != whole.Size {
				t.Fatalf("part at %d: %+v, %v", len(parts), p, err)
			}
			parts = append(parts, p.Data...)
		}
		if !bytes.Equal(parts, whole.Data) {
			t.Errorf("in parts it is %q, whole %q", parts, whole.Data)
		}
		if p, err := get(t, as, id, whole.Size, 0); err != nil || len(p.Data) != 0 {
			t.Errorf("at the end: %+v, %v", p, err)
		}
		_, err = get(t, as, id, whole.Size+1, 0)
		wantRefused(t, err, sallyport.ValidationException, "beyond the end")
		for _, bad := range [][2]int64{{-1, 0}, {0, -1}, {0, 512<<10 + 1}} {
			_, err = get(t, as, id, bad[0], bad[1])
			wantRefused(t, err, sallyport.ValidationException, "MaxBytes from 1 to 524288")
		}
		_, err = get(t, as, "no id", 0, 0)
		wantRefused(t, err, sallyport.ValidationException, "is not a session ID")

		if err := os.Remove(filepath.Join(s.Config.State, "sessions", id+".cast")); err != nil {
			t.Fatal(err)
		}
		_, err = get(t, as, id, 0, 0)
		wantRefused(t, err, sallyport.RecordingNotAvailableException, "was deleted from the server")
	})
}

// Who may see a recording is for policy to say, by session; an owner has to be
// allowed like any other.
func TestWhoSeesARecording(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := servertest.Start(t, nil)
		node := s.Register("")
		node.Online()
		annMarie := s.User("ann-marie", policyOf(start, ownByID))
		ann := s.User("ann", policyOf(start, ownRecordings))
		everyone := map[string]aws.CredentialsProvider{
			"ann": ann, "ann-marie": annMarie,
			"a user who may only start sessions": s.User("bea", policyOf(start)),
			"a user who may all of ssm":          s.User("cleo", policyOf(`{"Effect":"Allow","Action":"ssm:*","Resource":"*"}`)),
			"an auditor":                         s.User("dora", policyOf(allRecordings)),
			"an auditor of another node": s.User("eve", policyOf(`{"Effect":"Allow","Action":"sallyport:GetRecording","Resource":"*",
				"Condition":{"StringEquals":{"aws:ResourceTag/aws:ssmmessages:target-id":"mi-00000000000000000"}}}`)),
			"an auditor of this node": s.User("fay", policyOf(`{"Effect":"Allow","Action":"sallyport:GetRecording","Resource":"*",
				"Condition":{"StringEquals":{"aws:ResourceTag/aws:ssmmessages:target-id":"`+node.ID.String()+`"}}}`)),
			"root": s.Root(),
		}
		anns, maries := record(t, s, node, ann, "of ann", nil), record(t, s, node, annMarie, "of ann-marie", nil)
		may := map[string][]string{
			anns:   {"ann", "an auditor", "an auditor of this node", "root"},
			maries: {"ann-marie", "an auditor", "an auditor of this node", "root"},
		}
		for id, allowed := range may {
			for name, who := range everyone {
				_, err := get(t, s.Client(who), id, 0, 0)
				ok := false
				for _, a := range allowed {
					ok = ok || a == name
				}
				if ok && err != nil {
					t.Errorf("%s may not see %s: %v", name, id, err)
				}
				if !ok {
					wantRefused(t, err, sallyport.AccessDeniedException, "sallyport:GetRecording on resource: arn:aws:sallyport:home-1:000000000000:recording/"+id)
				}
			}
		}
		// A session that is not there: only who may see it hears that.
		const ghost = "ann-00000000000000000"
		_, err := get(t, s.Client(ann), ghost, 0, 0)
		wantRefused(t, err, sallyport.DoesNotExistException, "There is no session "+ghost)
		_, err = get(t, s.Client(everyone["a user who may all of ssm"]), ghost, 0, 0)
		wantRefused(t, err, sallyport.AccessDeniedException, ghost)
	})
}

// Of a session of which nothing is kept, the answer says why.
func TestNothingRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := servertest.Start(t, nil)
		node := s.Register("")
		ended := func(to sallyport.State, cause string) string {
			rec := sallyport.NewSession(sallyport.NewSessionID("ann"), s.API.Root(), node.ID, "SSM-SessionManagerRunShell", time.Now())
			if to == sallyport.Terminated {
				rec.Advance(sallyport.Terminating, time.Now())
			}
			rec.Cause = cause
			if err := rec.Advance(to, time.Now()); err != nil {
				t.Fatal(err)
			}
			if err := s.Store.Sessions().Insert(t.Context(), &store.SessionRecord{Session: rec}); err != nil {
				t.Fatal(err)
			}
			return rec.ID.String()
		}
		root := s.Client(s.Root())
		_, err := get(t, root, ended(sallyport.Failed, "The disk was full."), 0, 0)
		wantRefused(t, err, sallyport.RecordingNotAvailableException, "never began: The disk was full.")
		id := ended(sallyport.Terminated, "")
		_, err = get(t, root, id, 0, 0)
		wantRefused(t, err, sallyport.RecordingNotAvailableException, "Nothing was recorded of session "+id+".")
		if err := os.WriteFile(filepath.Join(s.Config.State, "sessions", id+".log"), []byte("it cannot be sealed"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = get(t, root, id, 0, 0)
		wantRefused(t, err, sallyport.RecordingNotAvailableException, "has not been made yet")
	})
}
