package broker

import (
	"math/bits"
	"sync"
)

// A buffer holds one frame. The session's mu guards users once a lane has it.
type buffer struct {
	b     []byte
	users int // the lane, and each writer that is sending it
}

// Buffers are pooled by the power of two that their capacity reaches, so that a
// session at full speed makes no garbage.
const (
	minBufferBits = 8  // 256 bytes: a keystroke and its header
	maxBufferBits = 18 // the longest frame is a little longer, and grows in place
)

var buffers [maxBufferBits + 1]sync.Pool

// getBuffer returns an empty buffer with room for n bytes, or for the most that
// is pooled.
func getBuffer(n int) *buffer {
	class := min(max(bits.Len(uint(max(n, 1)-1)), minBufferBits), maxBufferBits)
	if buf, ok := buffers[class].Get().(*buffer); ok {
		return buf
	}
	return &buffer{b: make([]byte, 0, 1<<class)}
}

// put gives a buffer back that has no users.
func (buf *buffer) put() {
	class := bits.Len(uint(cap(buf.b))) - 1
	if class >= minBufferBits && class <= maxBufferBits {
		buf.b = buf.b[:0]
		buffers[class].Put(buf)
	}
}

// fit returns buf if its frame fills half of it or more, and otherwise a copy in
// a buffer of the frame's own size. So what a lane holds is at most twice what
// its frames are long. It reports whether it was buf.
func (buf *buffer) fit() (*buffer, bool) {
	if 2*len(buf.b) >= cap(buf.b) || cap(buf.b) <= 1<<minBufferBits {
		return buf, true
	}
	own := getBuffer(len(buf.b))
	own.b = append(own.b[:0], buf.b...)
	return own, false
}
