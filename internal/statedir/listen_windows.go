package statedir

import "net"

// listenUnix leaves who may connect to the directory, whose rights the socket has.
func listenUnix(path string) (net.Listener, error) { return net.Listen("unix", path) }
