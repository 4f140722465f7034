package datachannel

import (
	"math/bits"
	"sync"
)

// A queue is a ring that grows.
type queue[T any] struct {
	ring []T
	head int
	n    int
}

func (q *queue[T]) at(i int) *T { return &q.ring[(q.head+i)&(len(q.ring)-1)] }

func (q *queue[T]) push(v T) {
	if q.n == len(q.ring) {
		ring := make([]T, max(16, 2*len(q.ring)))
		for i := range q.n {
			ring[i] = *q.at(i)
		}
		q.ring, q.head = ring, 0
	}
	q.n++
	*q.at(q.n - 1) = v
}

func (q *queue[T]) pop() T {
	p := q.at(0)
	v := *p
	*p = *new(T)
	q.head++
	q.n--
	if q.n == 0 && len(q.ring) > 1024 {
		q.ring, q.head = nil, 0 // an idle session holds no more than it needs
	}
	return v
}

// A buffer is a slice from a pool. Each holder is counted; the stream's mutex guards
// the count, once the stream has it.
type buffer struct {
	b     []byte
	users int
}

// Buffers come in powers of two, so that none is more than half empty and the
// bounds on a stream are bounds on its memory.
const (
	minBufferBits = 6
	maxBufferBits = 16
)

var pools [maxBufferBits + 1]sync.Pool

// newBuffer returns an empty buffer with room for n bytes, held once.
func newBuffer(n int) *buffer {
	class := max(bits.Len(uint(max(n, 1)-1)), minBufferBits)
	if class > maxBufferBits {
		return &buffer{b: make([]byte, 0, n), users: 1}
	}
	if b, ok := pools[class].Get().(*buffer); ok {
		b.users = 1
		return b
	}
	return &buffer{b: make([]byte, 0, 1<<class), users: 1}
}

func (b *buffer) retain() *buffer {
	b.users++
	return b
}

func (b *buffer) release() {
	b.users--
	if b.users > 0 {
		return
	}
	class := bits.Len(uint(cap(b.b) - 1))
	if class <= maxBufferBits && cap(b.b) == 1<<class {
		b.b = b.b[:0]
		pools[class].Put(b)
	}
}
