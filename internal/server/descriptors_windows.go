package server

// descriptors is how many handles the process may have; Windows has no limit
// near what a server opens.
func descriptors() int { return 1 << 16 }
