package agent

// descriptors is how many handles the process may have; Windows has no limit
// worth the name.
func descriptors() int64 { return 1 << 14 }
