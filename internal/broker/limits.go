package broker

import (
	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/record"
)

// Limits bound what sessions may take of the server. The zero value of each is
// the default beside it.
type Limits struct {
	// Sessions that are on at once: of one identity, on one node, and in all.
	// Starting one more is refused.
	PerUser int // 100
	PerNode int // 200
	Total   int // 5,000

	// Recording is how many bytes a session's log may have: 1 GiB. What is said
	// beyond that is relayed and not recorded, and the recording says so; or the
	// session ends, if EndAtRecording is set.
	Recording      int64
	EndAtRecording bool

	// MinFree is how many bytes must be free on the disk of the logs for a
	// session to start: 256 MiB. Negative does not ask.
	MinFree int64

	// Recordings is how many bytes all logs and recordings may have for a
	// session to start. 0 is as many as there is room for.
	Recordings int64
}

func (l Limits) perUser() int     { return or(l.PerUser, 100) }
func (l Limits) perNode() int     { return or(l.PerNode, 200) }
func (l Limits) total() int       { return or(l.Total, 5000) }
func (l Limits) recording() int64 { return or(l.Recording, 1<<30) }
func (l Limits) minFree() int64   { return or(l.MinFree, 256<<20) }

// heldFactor is how many times as many sessions as may be on may be in memory:
// those that have ended and wait for their client.
const heldFactor = 4

func or[T int | ~int64](v, otherwise T) T {
	if v == 0 {
		return otherwise
	}
	return v
}

// admitOne reports, as an error, why one more session of an identity on a node
// may not start. The caller holds mu.
func (b *Broker) admitOne(root string, at sallyport.NodeID) error {
	refuse := func(whose string, on int) error {
		return sallyport.Errorf(sallyport.ServiceQuotaExceededException,
			"%s as many sessions as there may be at once: %d. End one of them first, or have the server's operator raise the limit.", whose, on)
	}
	var ofUser, onNode, all, ofUserHeld int
	for _, s := range b.live {
		mine := root != "" && s.rec.Root == root
		if mine {
			ofUserHeld++
		}
		if s.ending.Load() {
			continue
		}
		all++
		if mine {
			ofUser++
		}
		if s.rec.Node == at {
			onNode++
		}
	}
	l := b.Limits
	switch {
	case ofUser >= l.perUser():
		return refuse("You have", l.perUser())
	case ofUserHeld >= heldFactor*l.perUser():
		return sallyport.Errorf(sallyport.ServiceQuotaExceededException,
			"%d sessions of yours have ended and wait for their clients to hear what was said last, which is as many as may. Terminate some of them (aws ssm terminate-session), or wait.", ofUserHeld-ofUser)
	case onNode >= l.perNode():
		return refuse(at.String()+" has", l.perNode())
	case all >= l.total(), len(b.live) >= heldFactor*l.total():
		return refuse("The server has", l.total())
	}
	return nil
}

// room reports, as an error, that there is no room on the disk for one more
// session's log.
func (b *Broker) room() error {
	if least := b.Limits.minFree(); least >= 0 {
		free, known := b.Shelf.Free()
		if known && free < least {
			return sallyport.Errorf(sallyport.ServiceUnavailableException,
				"The server's disk is nearly full: %s are free where session logs are kept, and a session starts where %s are. Its operator has to make room.", size(free), size(least))
		}
	}
	if most := b.Limits.Recordings; most > 0 {
		if used := b.Shelf.Used(); used >= most {
			return sallyport.Errorf(sallyport.ServiceUnavailableException,
				"The server has %s of session logs and recordings, and may have %s. Its operator has to remove some, or to raise the limit.", size(used), size(most))
		}
	}
	return nil
}

func size(n int64) string { return record.FormatSize(n) }
