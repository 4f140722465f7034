package simulation

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"sync/atomic"
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

// stuckAfter is how long a run may take, of real time: most take a second.
const stuckAfter = 3 * time.Minute

// inWorld runs test in a bubble with a world, and returns what is wrong
// afterwards, and what happened.
func inWorld(t *testing.T, seed uint64, idle time.Duration, test func(w *World) []Problem) (problems []Problem, log *Log) {
	t.Helper()
	templateOnce.Do(func() {
		synctest.Test(t, func(t *testing.T) { template = NewTemplate(t, templateDir) })
	})
	cryptotest.SetGlobalRandom(t, seed)
	var running atomic.Pointer[World]
	stuck := time.AfterFunc(stuckAfter, func() {
		// Time stands still in a bubble while a goroutine waits for a lock that is
		// held over a call: the goroutines say which.
		b := make([]byte, 8<<20)
		fmt.Fprintf(os.Stderr, "seed %d: stuck\n%s\n", seed, b[:runtime.Stack(b, true)])
		if w := running.Load(); w != nil {
			fmt.Fprintf(os.Stderr, "events:\n%s\n", w.Log)
		}
		os.Exit(1)
	})
	defer stuck.Stop()
	dir := t.TempDir()
	// The library of the mux pools channels, and those of another bubble cannot be
	// used in this one. What is pooled lives through one collection, not two.
	runtime.GC()
	runtime.GC()
	synctest.Test(t, func(t *testing.T) {
		w := NewWorld(t, template, dir, seed, idle)
		log = w.Log
		running.Store(w)
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
