package server

// descriptors is how many handles the process may have; Windows has no limit
// worth the name.
func descriptors() int { return 1 << 16 }
