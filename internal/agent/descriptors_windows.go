package agent

// descriptors is how many handles the process may have; Windows' own limit is far
// above what an agent opens.
func descriptors() int64 { return 1 << 14 }
