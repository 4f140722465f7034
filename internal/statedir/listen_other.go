//go:build unix && !linux

package statedir

import "net"

func listenUnix(path string) (net.Listener, error) { return listenAside(path) }
