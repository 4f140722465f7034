package broker

import (
	"crypto/sha256"
	"fmt"
	"hash"

	"github.com/sallyport/sallyport/internal/wire"
)

// Sums are the hashes of what a file copy carried, by the side that sent it:
// they stand in its recording for the bytes, which do not. The zero value hashes
// nothing; a sum is lost when a message is out of its turn, as after a restart of
// the server.
type sums [2]*sum

type sum struct {
	hash hash.Hash
	next int64 // the message to be added
	lost bool
}

func newSums() sums { return sums{{hash: sha256.New()}, {hash: sha256.New()}} }

// add adds a message that side has sent.
func (s *sums) add(at side, head wire.Head, payload []byte) {
	sum := s[at]
	if sum == nil || sum.lost {
		return
	}
	if sum.lost = head.Seq != sum.next; sum.lost {
		return
	}
	sum.next++
	if head.Kind == wire.KindOutput {
		sum.hash.Write(payload)
	}
}

// String is the end of a sentence: empty, or ", SHA-256 …".
func (s *sums) String() string {
	if s[person] == nil || s[node] == nil || s[person].lost || s[node].lost {
		return ""
	}
	return fmt.Sprintf(", SHA-256 %x to the node, %x from it", s[person].hash.Sum(nil), s[node].hash.Sum(nil))
}
