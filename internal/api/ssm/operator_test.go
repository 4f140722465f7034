package ssm_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/server"
	"github.com/sallyport/sallyport/internal/servertest"
)

// With --require-signed a token alone lets no client in.
func TestRequireSigned(t *testing.T) {
	for _, required := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			s := servertest.Start(t, func(c *server.Config) { c.RequireSigned = required })
			ann := s.User("ann", everything)
			node := s.Register("")
			node.Online()
			out, err := s.SSM(ann).StartSession(t.Context(), &ssm.StartSessionInput{Target: aws.String(node.ID.String())})
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.Join(*out.SessionId, *out.TokenValue, "client-1", nil)
			if refused := sallyport.CodeOf(err) == sallyport.MissingAuthenticationToken; refused != required {
				t.Errorf("required %v: an unsigned socket: %v", required, err)
			}
			if _, err := s.Join(*out.SessionId, *out.TokenValue, "client-1", ann); err != nil {
				t.Errorf("required %v: a signed socket: %v", required, err)
			}
		})
	}
}

// With --keep-history a session is forgotten once it has ended for that long, and
// not before.
func TestKeepHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := servertest.Start(t, func(c *server.Config) { c.KeepHistory = 24 * time.Hour })
		c := s.SSM(s.User("ann", everything))
		node := s.Register("")
		node.Online()
		out, err := c.StartSession(t.Context(), &ssm.StartSessionInput{Target: aws.String(node.ID.String())})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.TerminateSession(t.Context(), &ssm.TerminateSessionInput{SessionId: out.SessionId}); err != nil {
			t.Fatal(err)
		}
		history := func(want int) {
			t.Helper()
			list, err := c.DescribeSessions(t.Context(), &ssm.DescribeSessionsInput{State: types.SessionStateHistory})
			if err != nil || len(list.Sessions) != want {
				t.Errorf("%d sessions, %v; want %d", len(list.Sessions), err, want)
			}
		}
		time.Sleep(23 * time.Hour)
		history(1)
		time.Sleep(3 * time.Hour) // it is looked at every hour
		history(0)
	})
}
