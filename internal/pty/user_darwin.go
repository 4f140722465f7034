package pty

// whoIs are the programs that print a user's line. On macOS id does, with the
// ten fields of BSD.
var whoIs = [][]string{
	{"/usr/bin/id", "-P"},
}
