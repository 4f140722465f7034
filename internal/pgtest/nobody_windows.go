package pgtest

import (
	"errors"
	"syscall"
)

func asNobody(string) (*syscall.SysProcAttr, error) {
	return nil, errors.New("a PostgreSQL without a port needs Unix sockets")
}
