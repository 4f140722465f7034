//go:build !linux

package client

import (
	"io"
	"os"
)

// openKeyboard reports false: kqueue does not know every terminal.
func openKeyboard(*os.File) (r io.Reader, interrupt func(), ok bool) { return nil, nil, false }

// A display is a terminal that output can be shown on without waiting, which is
// for Linux alone.
type display struct{}

func openDisplay(*os.File) *display      { return nil }
func (s *display) writeNow(p []byte) int { return 0 }
func (s *display) close()                {}

const fionread = 0x4004667f // as in every system that comes from BSD
