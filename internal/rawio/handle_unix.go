//go:build unix && !linux

package rawio

func handle(fd uintptr) int { return int(fd) }
