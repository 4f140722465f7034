// Package pgtest runs a throwaway PostgreSQL for tests: [Start] makes a cluster in
// a directory of its own, on a socket and no port, and runs it until
// [Cluster.Stop], or until this process ends, however it ends. [Cluster.Kill] and
// [Cluster.Run] are for tests of what the database's end does to its users.
package pgtest

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver pgx
)

// A Cluster is one PostgreSQL.
type Cluster struct {
	URL string // of its first database

	dir     string
	program string
	attr    *syscall.SysProcAttr
	serve   *exec.Cmd
	input   io.WriteCloser
	log     lastWords
}

func program(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	paths, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if len(paths) == 0 {
		return "", fmt.Errorf("%s is not installed: it is neither on the path nor under /usr/lib/postgresql", name)
	}
	return paths[len(paths)-1], nil
}

// Start makes a cluster and runs it. An error says why there is none, as where
// PostgreSQL is not installed.
func Start() (c *Cluster, err error) {
	initdb, err := program("initdb")
	if err != nil {
		return nil, err
	}
	postgres, err := program("postgres")
	if err != nil {
		return nil, err
	}
	// Short, because the name of a socket must be; not the test's own
	// directory, because the user that PostgreSQL runs as must get there.
	dir, err := os.MkdirTemp("", "pg")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	attr, err := asNobody(dir) // PostgreSQL refuses root
	if err != nil {
		return nil, err
	}
	init := exec.Command(initdb, "--pgdata", dir+"/data", "--username", "postgres", "--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync")
	init.Dir, init.SysProcAttr = dir, attr
	if out, err := init.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, bytes.TrimSpace(out))
	}
	c = &Cluster{URL: "postgres://postgres@/postgres?host=" + dir, dir: dir, program: postgres, attr: attr}
	return c, c.Run()
}

// Run runs a cluster that was killed, and returns when it answers.
func (c *Cluster) Run() error {
	// The shell ends PostgreSQL and takes its directory away when its standard
	// input ends, which it does with us however we end. After a kill the directory
	// stays.
	c.serve = exec.Command("/bin/sh", "-c", `"$0" "$@" </dev/null & read -r word; test "$word" = killed && exit; kill -INT $!; wait $!; status=$?; rm -rf "$PWD"; exit $status`,
		c.program, "-D", c.dir+"/data", "-k", c.dir, "-c", "listen_addresses=", "-c", "max_connections=200",
		"-c", "fsync=off", "-c", "full_page_writes=off", "-c", "shared_buffers=64MB", "-c", "max_wal_size=2GB")
	c.serve.Dir, c.serve.SysProcAttr = c.dir, c.attr
	c.serve.Stdout, c.serve.Stderr = &c.log, &c.log
	input, err := c.serve.StdinPipe()
	if err != nil {
		return err
	}
	c.input = input
	if err := c.serve.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	pool, err := sql.Open("pgx", c.URL)
	if err != nil {
		return errors.Join(err, c.Stop())
	}
	defer pool.Close()
	for {
		err := pool.PingContext(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("it did not answer in 30 s: %w: %s", err, c.log.String()), c.Stop())
		case <-time.After(20 * time.Millisecond): // it has no way to tell us
		}
	}
}

// Stop ends the cluster, unless it was killed, and removes it.
func (c *Cluster) Stop() error {
	var err error
	if c.input.Close(); c.serve.ProcessState == nil {
		err = c.serve.Wait()
	}
	return errors.Join(err, os.RemoveAll(c.dir))
}

// Kill is kill -9 of the cluster, which Run may run again.
func (c *Cluster) Kill() error {
	b, err := os.ReadFile(c.dir + "/data/postmaster.pid")
	if err != nil {
		return err
	}
	first, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		return fmt.Errorf("kill PostgreSQL: %w", err)
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	if err := p.Kill(); err != nil {
		return err
	}
	io.WriteString(c.input, "killed\n")
	c.input.Close()
	c.serve.Wait()
	for _, name := range []string{"/data/postmaster.pid", "/.s.PGSQL.5432.lock", "/.s.PGSQL.5432"} {
		os.Remove(c.dir + name) // its process is no more
	}
	return nil
}

// lastWords keep the last of what a program says.
type lastWords struct {
	mu   sync.Mutex
	last []byte
}

func (w *lastWords) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = append(w.last, p...)
	w.last = w.last[max(0, len(w.last)-4096):]
	return len(p), nil
}

func (w *lastWords) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(w.last)
}
