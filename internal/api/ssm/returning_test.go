package ssm_test

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/sallyport/sallyport/internal/servertest"
)

// A node that was connected before a restart is waited for as it comes back, and
// no longer than that.
func TestNodeComesBackAfterRestart(t *testing.T) {
	inBubble(t, func(t *testing.T, s *servertest.Server) {
		node, never := s.Register(""), s.Register("")
		node.Online()()
		s.Restart()
		ann := s.SSM(s.User("ann", everything))
		start := func(n *servertest.Node) (time.Duration, error) {
			began := time.Now()
			_, err := ann.StartSession(t.Context(), &ssm.StartSessionInput{Target: aws.String(n.ID.String())})
			return time.Since(began), err
		}
		if took, err := start(never); err == nil || took > time.Second {
			t.Errorf("a node that was never there: %v after %v", err, took)
		}
		if took, err := start(node); err == nil || took < 3*time.Second || took > 4*time.Second {
			t.Errorf("a node that does not come back: %v after %v", err, took)
		}
		offline := make(chan func())
		go func() {
			time.Sleep(time.Second)
			offline <- node.Online()
		}()
		if took, err := start(node); err != nil || took > 2*time.Second {
			t.Errorf("a node that comes back: %v after %v", err, took)
		}
		(<-offline)()
		time.Sleep(10 * time.Second)
		if took, err := start(node); err == nil || took > time.Second {
			t.Errorf("long after the start: %v after %v", err, took)
		}
	})
}
