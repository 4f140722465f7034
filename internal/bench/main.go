// Command bench answers how fast, and how small: it measures the true programs
// on this machine, and what runs beside them in the same minute, and prints
// ratios. Run it with make bench.
//
// A shell's bulk output and a keystroke's echo are measured against OpenSSH
// through a jump host, which makes as many hops; a bare relay over TLS is there
// for scale. Figures of one run on one machine say little. Ratios say more, and
// those of a quiet machine most.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	played, err := atFloor(ctx)
	if !played {
		err = run(ctx, os.Args[1:])
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// A figure is one line of the table.
type figure struct{ what, ours, beside, ratio, aim string }

// A measurement is one group of figures.
type measurement struct {
	name    string
	measure func(context.Context, *world) ([]figure, error)
}

// measurements are all there are, in the order they are made.
var measurements = []measurement{
	{"online", online}, {"calls", calls}, {"prompt", prompt}, {"echo", echo}, {"bulk", bulk},
	{"command", command}, {"forward", forward}, {"talk", talk}, {"memory", memory}, {"restart", restart},
}

// run measures what only names, or everything.
func run(ctx context.Context, only []string) error {
	for _, name := range only {
		if !slices.ContainsFunc(measurements, func(m measurement) bool { return m.name == name }) {
			return fmt.Errorf("there is no measurement %q", name)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "sp-bench-") // short: sockets have room for little
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	w, err := newWorld(ctx, dir)
	if err != nil {
		return err
	}
	defer w.close()

	var table []figure
	for _, m := range measurements {
		if len(only) > 0 && !slices.Contains(only, m.name) {
			continue
		}
		figures, err := m.measure(ctx, w)
		if err != nil {
			return err
		}
		table = append(table, figures...)
	}
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "WHAT\tOURS\tBESIDE\tRATIO\tAIM")
	for _, f := range table {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", f.what, f.ours, f.beside, f.ratio, f.aim)
	}
	return t.Flush()
}

// online measures how long an agent takes from its start to being online.
func online(ctx context.Context, w *world) ([]figure, error) {
	var took []time.Duration
	for range 5 {
		if err := w.stopAgent(); err != nil {
			return nil, err
		}
		if err := w.waitOnline(ctx, false); err != nil {
			return nil, err
		}
		began := time.Now()
		if err := w.startAgent(ctx); err != nil {
			return nil, err
		}
		if err := w.waitOnline(ctx, true); err != nil {
			return nil, err
		}
		took = append(took, time.Since(began))
	}
	return []figure{{"agent start to online, p50", ms(percentile(took, 50)), "-", "-", "< 1 s"}}, nil
}

// prompt measures StartSession to the first byte of the prompt: of the login
// shell as it is on this machine, the time of its profile included, and of one in an
// empty home, which leaves the time that this program adds.
func prompt(ctx context.Context, w *world) ([]figure, error) {
	measure := func() (p50 time.Duration, err error) {
		var took []time.Duration
		for range 20 {
			d, err := w.firstByte(ctx)
			if err != nil {
				return 0, err
			}
			took = append(took, d)
		}
		return percentile(took, 50), nil
	}
	whole, err := measure()
	if err != nil {
		return nil, err
	}
	bash, err := w.bareShell(ctx)
	if err != nil {
		return nil, err
	}
	figures := []figure{{"StartSession to first prompt byte, p50", ms(whole), ms(bash) + " (the shell alone)", ratio(whole, bash), "-"}}
	bare := figure{"the same, in an empty home, p50", "-", "-", "-", "< 60 ms"}
	if err := w.restartAgent(ctx, true); err != nil {
		bare.beside = err.Error()
		return append(figures, bare), w.restartAgent(ctx, false)
	}
	quick, err := measure()
	if err != nil {
		return nil, err
	}
	bare.ours = ms(quick)
	return append(figures, bare), w.restartAgent(ctx, false)
}

// echo measures a keystroke there and back.
func echo(ctx context.Context, w *world) ([]figure, error) {
	ssh, missing := w.ssh(ctx)
	commands := [][]string{w.connect()}
	if missing == nil {
		commands = append(commands, ssh)
	}
	took, err := w.keystrokes(ctx, commands...)
	if err != nil {
		return nil, fmt.Errorf("keystrokes: %w", err)
	}
	ours := took[0]
	if missing != nil {
		return []figure{{"keystroke to echo, p50 / p99", us(percentile(ours, 50)) + " / " + us(percentile(ours, 99)), missing.Error(), "-", "<= 1.2"}}, nil
	}
	theirs := took[1]
	return []figure{
		{"keystroke to echo, p50", us(percentile(ours, 50)), us(percentile(theirs, 50)) + " (ssh -J)", ratio(percentile(ours, 50), percentile(theirs, 50)), "<= 1.2"},
		{"keystroke to echo, p99", us(percentile(ours, 99)), us(percentile(theirs, 99)) + " (ssh -J)", ratio(percentile(ours, 99), percentile(theirs, 99)), "<= 1.2"},
	}, nil
}

// bulkBytes is how much a shell says in the bulk measurement.
const bulkBytes = 256 << 20

// bulk measures cat of a large file, thrice each, the best of each.
func bulk(ctx context.Context, w *world) ([]figure, error) {
	best := func(command func() []string) (time.Duration, error) {
		least := time.Duration(0)
		for range 3 {
			d, err := w.cat(ctx, command())
			if err != nil {
				return 0, err
			}
			if least == 0 || d < least {
				least = d
			}
		}
		return least, nil
	}
	ours, err := best(w.connect)
	if err != nil {
		return nil, fmt.Errorf("bulk output: %w", err)
	}
	bare, err := relay(ctx)
	if err != nil {
		return nil, fmt.Errorf("bare relay: %w", err)
	}
	figures := []figure{{"the same bytes, bare TLS relay", rate(ours), rate(bare), ratio(bare, ours), "for scale"}}
	ssh, err := w.ssh(ctx)
	if err != nil {
		return append(figures, figure{"cat of 256 MiB on a pty", rate(ours), err.Error(), "-", ">= 1, aim 2"}), nil
	}
	theirs, err := best(func() []string { return ssh })
	if err != nil {
		return nil, fmt.Errorf("bulk output through ssh: %w", err)
	}
	return append([]figure{{"cat of 256 MiB on a pty", rate(ours), rate(theirs) + " (ssh -tt -J)", ratio(theirs, ours), ">= 1, aim 2"}}, figures...), nil
}

func rate(d time.Duration) string {
	return fmt.Sprintf("%.0f MB/s", float64(bulkBytes)/1e6/d.Seconds())
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }
func us(d time.Duration) string { return fmt.Sprintf("%d us", d.Microseconds()) }

func ratio(a, b time.Duration) string { return fmt.Sprintf("%.2f", float64(a)/float64(b)) }

func percentile(all []time.Duration, p int) time.Duration {
	slices.Sort(all)
	return all[min(len(all)-1, len(all)*p/100)]
}

// program finds one of ours, built by make build.
func program(name string) (string, error) {
	path, err := filepath.Abs(filepath.Join("bin", name))
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%s is not there; make build makes it", path)
	}
	return path, nil
}

var errNoSSH = errors.New("no sshd or ssh-keygen here")

func sshd() (string, error) {
	for _, name := range []string{"sshd", "/usr/sbin/sshd", "/usr/local/sbin/sshd"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errNoSSH
}
