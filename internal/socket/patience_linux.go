package socket

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// transportOf asks the system about a connection. What it says of one that is not
// TCP is nothing.
//
// The peer's system answers if it has acknowledged all that was sent, or something
// within a time, and no more than one of the probes is unanswered by which ours asks
// a peer that takes nothing, at intervals of up to two minutes, or that has said
// nothing, every 15 seconds.
func transportOf(c net.Conn, within time.Duration) (t transport) {
	for {
		raw, ok := c.(syscall.Conn)
		if !ok {
			inner, ok := c.(interface{ NetConn() net.Conn })
			if !ok {
				return t
			}
			c = inner.NetConn()
			continue
		}
		conn, err := raw.SyscallConn()
		if err != nil {
			return t
		}
		var info *unix.TCPInfo
		cerr := conn.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
		if err != nil || cerr != nil {
			return t
		}
		acknowledged := info.Unacked == 0 || time.Duration(info.Last_ack_recv)*time.Millisecond < within
		return transport{answers: acknowledged && info.Probes <= 1, stuck: info.Notsent_bytes > 0}
	}
}
