//go:build !linux

package agent

import "os"

// namelessFile makes a file that loses its name, in a directory that is the
// agent's alone, before anything is in it: that may be secret.
func namelessFile(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, ".handover-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
