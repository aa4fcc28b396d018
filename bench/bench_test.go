package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == reapArg {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestHistory holds that runs can be compared: the same seed makes the same commits.
func TestHistory(t *testing.T) {
	s := shape{Files: 20, Lines: 30, Commits: 40, Touched: 3, Hunk: 5, NewFile: 10}
	text := func(way uint64) string {
		var b bytes.Buffer
		h := newHistory(s)
		if err := h.write(&b, "refs/heads/main", "", s.Commits); err != nil {
			t.Fatal(err)
		}
		if err := h.fork(way).write(&b, "refs/heads/new", "main", 5); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	one := text(1)
	if again := text(1); again != one {
		t.Error("two histories of one seed differ")
	}
	if text(2) == one {
		t.Error("two ways to go on are the same")
	}
}

func TestRecipe(t *testing.T) {
	r := recipe{shape{Files: 10, Lines: 20, Commits: 30, Touched: 2, Hunk: 5}, 60}
	cache := t.TempDir()
	dir, err := r.make(t.Context(), cache)
	if err != nil {
		t.Fatal(err)
	}
	out, err := new(gitexec.Runner).Output(t.Context(), plainGit(dir, "for-each-ref", "--format=%(refname)"), nil)
	if n := strings.Count(string(out), "\n"); err != nil || n != r.Refs {
		t.Errorf("%d refs, %v; want %d", n, err, r.Refs)
	}
	if err := new(gitexec.Runner).Run(t.Context(), plainGit(dir, "fsck", "--strict"), gitexec.IO{}); err != nil {
		t.Error(err)
	}
	if again, err := r.make(t.Context(), cache); again != dir || err != nil {
		t.Errorf("made again: %q, %v", again, err)
	}
	p, err := r.newPusher(t.Context(), dir, t.TempDir()+"/pusher", 1, 7)
	if err != nil || len(p.commits) != 7 {
		t.Fatalf("%+v, %v", p, err)
	}
	for i := range 8 {
		commit, err := p.take("there")
		if (i < 7) != (err == nil) || err == nil && commit != p.commits[i] {
			t.Errorf("commit %d: %q, %v", i, commit, err)
		}
	}
}

func TestSamples(t *testing.T) {
	s := newSample("ms", 5, 1, 2, 4, 3)
	if s.Median != 3 || s.Low != 2 || s.High != 4 || s.String() != "3.00 ms (2.00–4.00)" {
		t.Errorf("%+v, %v", s, s)
	}
	for f, want := range map[float64]string{0: "0", 0.0123: "0.012", 0.123: "0.123", 1.234: "1.23", 56.78: "56.8", 1234.5: "1234"} {
		if got := number(f); got != want {
			t.Errorf("%v: %q, want %q", f, got, want)
		}
	}
	var rounds []string
	contestant := func(name string) contestant {
		return contestant{name, func(context.Context) (time.Duration, error) {
			rounds = append(rounds, name)
			return time.Duration(len(rounds)) * time.Millisecond, nil
		}}
	}
	got, err := alternate(t.Context(), 2, contestant("a"), contestant("b"))
	if err != nil || strings.Join(rounds, "") != "abbaab" || got["a"].N != 2 || got["a"].Median != 4.5 || got["b"].Median != 4.5 {
		t.Errorf("%v, %+v, %v", rounds, got, err)
	}
}

func TestVerdicts(t *testing.T) {
	var r report
	r.ratio("a", newSample("ms", 30), "b", newSample("ms", 20), 1.5)
	r.ratio("a", newSample("ms", 31), "b", newSample("ms", 20), 1.5)
	r.faster("a", newSample("/s", 40), "b", newSample("/s", 20), 2)
	r.faster("a", newSample("/s", 39), "b", newSample("/s", 20), 2)
	r.number("a", newSample("ms", 5), 5, "")
	r.number("a", newSample("ms", 6), 5, "")
	r.number("a", newSample("ms", 6), 0, "said")
	var b strings.Builder
	r.table(&b)
	for i, l := range r.Lines {
		if want := i%2 == 0 && i < 6; l.Reached != want {
			t.Errorf("line %d is reached: %v\n%s", i, l.Reached, b.String())
		}
	}
	if !strings.Contains(b.String(), "|  | 40.0 /s | b 20.0 /s | 2.00 | ≥ 2.00 | reached |\n") || !strings.Contains(b.String(), "|  | 6.00 ms | said |  | report |  |\n") {
		t.Error(b.String())
	}
	path, err := r.write(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.compareWith(path); err != nil {
		t.Fatal(err)
	}
	b.Reset()
	if r.table(&b); !strings.Contains(b.String(), "| ≥ 2.00 | reached | 1.95 (39.0 /s) |\n") {
		t.Error(b.String()) // of two lines alike the later one
	}
	if svg := plot(&r); strings.Count(svg, "<rect") != 1+6 {
		t.Error(svg)
	}
}

// spin is a shell command that takes some CPU time.
const spin = `i=0; while [ $i -lt 500000 ]; do i=$((i+1)); done`

// TestUsed holds that the CPU time of what has ended counts, also where a parent
// left before its child and nobody but the reaper waits for it.
func TestUsed(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("no proc(5) here")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, script string }{
		{"waited for", "sh -c '" + spin + "'; "},
		{"left alone", "sh -c '(" + spin + ") & exit'; "},
	} {
		t.Run(test.name, func(t *testing.T) {
			// The shell that stays has itself done nothing.
			words := []string{self, reapArg, "sh", "-c", test.script + "echo ready; exec sleep 100"}
			out, in := io.Pipe()
			ctx, end := context.WithCancel(t.Context())
			p, err := new(gitexec.Runner).Start(ctx, gitcmd.Command{Args: words, Env: os.Environ()}, gitexec.IO{Stdout: in})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Wait()
			defer end()
			if _, err := io.ReadFull(out, make([]byte, 6)); err != nil {
				t.Fatal(err)
			}
			err = await(t.Context(), 20*time.Second, func() string {
				u, err1 := used(p.PID())
				reaper, err2 := readStat(p.PID())
				if err := errors.Join(err1, err2); err != nil {
					return err.Error()
				}
				if below := u.cpu - reaper.self; u.processes != 2 || below < 5*tick {
					return fmt.Sprintf("%d processes; those below the reaper have used %v", u.processes, below)
				}
				return ""
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

func TestDetour(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	d, err := newDetour(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	c, err := net.Dial("tcp", d.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, far := range []time.Duration{0, 100 * time.Millisecond} {
		d.roundTrip(far)
		start := time.Now()
		answer := make([]byte, 5)
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, answer); err != nil || string(answer) != "hello" {
			t.Fatalf("%q, %v", answer, err)
		}
		if took := time.Since(start); took < far {
			t.Errorf("%v, want at least %v", took, far)
		}
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
		t.Errorf("%q, %v", rest, err)
	}
}

func TestReadLogs(t *testing.T) {
	log := `time=t level=INFO msg="caught up" repo=0123 from=1 to=2 refs=1 took=5ms
time=t level=INFO msg="caught up" repo=4567 from=1 to=2 refs=1 took=5ms
time=t level=INFO msg=request service=upload-pack front=ssh repo=bench/a identity=x remote=y version=2 outcome=ok took=1ms waited=1ms bytes_in=1 bytes_out=2
time=t level=INFO msg=request service=receive-pack front=ssh repo=bench/a identity=x remote=y refs=1 outcome=ok took=1ms waited=1ms bytes_in=30 bytes_out=40
`
	if n := catchUps(log, "0123"); n != 1 {
		t.Errorf("%d catch-ups", n)
	}
	if in, out, err := transferred(log, "receive-pack", "bench/a"); in != 30 || out != 40 || err != nil {
		t.Error(in, out, err)
	}
	if _, _, err := transferred(log, "receive-pack", "bench/b"); err == nil {
		t.Error("found what is not there")
	}
}
