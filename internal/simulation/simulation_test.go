package simulation

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"
)

func TestMain(m *testing.M) {
	// The runtime's goroutine that delivers signals is started by the first call,
	// and must not be a bubble's.
	c := make(chan os.Signal, 1)
	signal.Notify(c, os.Interrupt)
	signal.Stop(c)
	dir, err := os.MkdirTemp("", "simulation-*")
	if err != nil {
		panic(err)
	}
	templateDir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

var (
	templateDir  string
	templateOnce sync.Once
	template     *Template
)

// inWorld runs test in a bubble with a world, and returns what is wrong
// afterwards, and what happened.
func inWorld(t *testing.T, seed uint64, idle time.Duration, test func(w *World) []Problem) (problems []Problem, log *Log) {
	t.Helper()
	templateOnce.Do(func() {
		synctest.Test(t, func(t *testing.T) { template = NewTemplate(t, templateDir) })
	})
	cryptotest.SetGlobalRandom(t, seed)
	dir := t.TempDir()
	// The library of the mux pools channels, and those of another bubble cannot be
	// used in this one. What is pooled lives through one collection, not two.
	runtime.GC()
	runtime.GC()
	synctest.Test(t, func(t *testing.T) {
		w := NewWorld(t, template, dir, seed, idle)
		log = w.Log
		defer func() {
			problems = append(problems, w.Stop()...) // also if the test gave up
			if left := goroutines(); len(left) > 0 { // the bubble panics, and says nothing
				fmt.Fprintf(os.Stderr, "seed %d: %v\nevents:\n%s\n", seed, problems, w.Log)
			}
		}()
		problems = test(w)
	})
	if *events {
		t.Logf("events:\n%s", log)
	}
	return problems, log
}

var events = flag.Bool("events", false, "print the events of every run, not only of those that fail")
