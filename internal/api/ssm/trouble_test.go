package ssm_test

import (
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/servertest"
)

// Why a node is not connected has what went wrong last only if the node was not
// heard of since: what it came back from is over.
func TestTroubleThatIsOver(t *testing.T) {
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		ctx := t.Context()
		node := s.Register("")
		root := s.SSM(s.Root())
		why := func() string {
			_, err := root.StartSession(ctx, &ssm.StartSessionInput{Target: aws.String(node.ID.String())})
			if err == nil {
				t.Fatal("a session started on a node that is not connected")
			}
			return err.Error()
		}
		s.Store.Trouble(ctx, node.ID, sallyport.Trouble{At: time.Now(), Reason: "Its clock was wrong."})
		time.Sleep(time.Minute)
		if said := why(); !strings.Contains(said, "The last thing that went wrong, 1 min ago: Its clock was wrong.") {
			t.Errorf("before it came back: %s", said)
		}
		node.Online()()
		time.Sleep(time.Minute)
		if said := why(); strings.Contains(said, "clock") || !strings.Contains(said, "It was last seen") {
			t.Errorf("after it came back: %s", said)
		}
	})
}
