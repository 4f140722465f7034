package clientcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sallyport/sallyport/internal/client"
	"github.com/sallyport/sallyport/internal/usage"
)

func replayCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "replay SESSION",
		Short: "Play the recording of a session that is over",
		Long: `Play the recording of a session that is over, as it was seen. sessions --history
lists them. SESSION may also be a recording's file, whose name ends in .cast.

	sallyport replay alice-0c4f1e9ab27d3355e
	sallyport replay --speed 4 --max-idle 500ms alice-0c4f1e9ab27d3355e
	sallyport replay --to alice.cast alice-0c4f1e9ab27d3355e

Space pauses, and then . shows what comes next; + and - change the speed; the
right arrow skips ten seconds; q or Ctrl-C ends it. Where standard output is no
terminal, all that was shown is written at once.

What is played was written by the programs of the session, and is shown to your
terminal as ssh would show it. The recording is fetched whole, and its SHA-256
is checked, before any of it is shown. It is in asciicast format, version 2,
which asciinema plays too.

Policy says who may: sallyport:GetRecording.`,
		Args: cobra.ExactArgs(1),
	}
	settings := settingsFlags(c.Flags())
	speed := c.Flags().Float64("speed", 1, "play `n` times as fast")
	var maxIdle time.Duration
	usage.DurationVar(c.Flags(), &maxIdle, "max-idle", 2*time.Second, "wait no longer than that where nothing was shown; 0 waits as long as it was")
	to := c.Flags().String("to", "", "play nothing, and write the recording to a `file`; - is standard output")
	c.RunE = func(c *cobra.Command, args []string) error {
		if !(*speed >= client.MinSpeed && *speed <= client.MaxSpeed) { // NaN neither
			return usage.Errorf("--speed has to be from %v to %v, not %v", client.MinSpeed, client.MaxSpeed, *speed)
		}
		if maxIdle < 0 {
			return usage.Errorf("--max-idle has to be 0, for as long as it was, or more, not %v", maxIdle)
		}
		if isCast(args[0]) && *to == "" {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			return play(c, f, args[0], *speed, maxIdle)
		}
		cl, err := load(c.Context(), settings)
		if err != nil {
			return err
		}
		if *to != "" {
			return fetchTo(c, cl, args[0], *to)
		}
		f, err := os.CreateTemp("", "sallyport-replay-*")
		if err != nil {
			return err
		}
		defer os.Remove(f.Name()) // once it is closed, which Windows wants
		defer f.Close()
		if _, err := fetchRecording(c, cl, args[0], f); err != nil {
			return err
		}
		return play(c, f, "session "+args[0], *speed, maxIdle)
	}
	return c
}

// isCast reports whether an argument is a recording's file. No session's ID ends
// like one.
func isCast(name string) bool { return strings.HasSuffix(name, ".cast") }

// fetchRecording writes a session's recording to w. On a terminal it shows how far
// it is, when that takes a while.
func fetchRecording(c *cobra.Command, cl *client.Client, session string, w io.Writer) (client.RecordingPart, error) {
	began, shown := time.Now(), false
	errOut, ok := c.ErrOrStderr().(*os.File)
	isTerminal := ok && term.IsTerminal(int(errOut.Fd()))
	part, err := cl.GetRecording(c.Context(), session, w, func(done, size int64) {
		if isTerminal && time.Since(began) > time.Second {
			fmt.Fprintf(errOut, "\r\x1b[Ksallyport: %d%% of %s", 100*done/max(size, 1), bytesText(size))
			shown = true
		}
	})
	if shown {
		fmt.Fprint(errOut, "\r\x1b[K")
	}
	if errors.Is(err, context.Canceled) {
		return part, errors.New("interrupted")
	}
	if err != nil {
		return part, fmt.Errorf("%s", client.Explain(err))
	}
	return part, nil
}

// bytesText is a number of bytes for people.
func bytesText(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d bytes", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}

// fetchTo writes a session's recording to a file. A file that is there is replaced
// once the whole recording has come, and not touched otherwise.
func fetchTo(c *cobra.Command, cl *client.Client, session, name string) error {
	if name == "-" {
		_, err := fetchRecording(c, cl, session, c.OutOrStdout())
		return err
	}
	info, err := os.Stat(name)
	if err == nil && info.IsDir() {
		return fmt.Errorf("%s is a directory; give a file's name, as in --to %s", name, filepath.Join(name, session+".cast"))
	}
	if err == nil && !info.Mode().IsRegular() { // a pipe, or /dev/stdout
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = fetchRecording(c, cl, session, f)
		return errors.Join(err, f.Close())
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+client.BesideMark+"*")
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no directory %s", filepath.Dir(name))
	}
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // does nothing once it has been renamed
	part, err := fetchRecording(c, cl, session, f)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	note(c.ErrOrStderr(), "wrote %s: %s, SHA-256 %s", name, bytesText(part.Size), part.SHA256)
	return nil
}

func play(c *cobra.Command, f io.ReadSeeker, what string, speed float64, maxIdle time.Duration) error {
	p := &client.Player{
		Recording: f, Speed: speed, MaxIdle: maxIdle,
		Stdin: c.InOrStdin(), Stdout: c.OutOrStdout(), Stderr: c.ErrOrStderr(),
	}
	played, err := p.Run(c.Context(), func(found client.Played) {
		if out, ok := c.OutOrStdout().(*os.File); ok && found.Output && term.IsTerminal(int(out.Fd())) {
			introduce(c.ErrOrStderr(), what, found, speed, out)
		}
	})
	if err != nil {
		return fmt.Errorf("play %s: %w", what, err)
	}
	if !played.Output {
		note(c.ErrOrStderr(), "nothing was shown on a screen in %s; this is what happened:", what)
	}
	if played.Stopped {
		return nil
	}
	for _, m := range played.Markers {
		note(c.ErrOrStderr(), "%s  %s", clock(m.At), m.Text)
	}
	return nil
}

// introduce says what is going to be played.
func introduce(w io.Writer, what string, found client.Played, speed float64, out *os.File) {
	when := ""
	if found.Header.Timestamp > 0 {
		when = " of " + time.Unix(found.Header.Timestamp, 0).Format(timeLayout)
	}
	note(w, "%s%s: %s; space pauses, q ends it", what, when, clock(time.Duration(float64(found.Duration)/speed)))
	cols, rows, err := term.GetSize(int(out.Fd()))
	if err == nil && cols > 0 && (cols < found.Header.Width || rows < found.Header.Height) {
		note(w, "it was recorded at %d by %d, and this terminal is %d by %d: lines may be broken", found.Header.Width, found.Header.Height, cols, rows)
	}
}

// clock is a duration as a player shows it: 1:02:03.
func clock(d time.Duration) string {
	s := int(d.Round(time.Second) / time.Second)
	if s >= 3600 {
		return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
	}
	return fmt.Sprintf("%d:%02d", s/60, s%60)
}
