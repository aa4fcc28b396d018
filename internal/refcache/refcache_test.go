package refcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

// A world is a repository whose refs have a state, and how often Git was run for it.
type world struct {
	*Cache
	t      *testing.T
	dir    string
	format cluster.ObjectFormat
	state  uint64
	runs   atomic.Int64
	during func() // called while a process runs, before it is heard
}

func newWorld(t *testing.T, o Options, format cluster.ObjectFormat) *world {
	t.Helper()
	w := &world{Cache: New(o), t: t, dir: filepath.Join(t.TempDir(), "r.git"), format: format, state: 1}
	w.git("", "init", "-q", "--bare", "-b", "main", "--object-format="+string(format), w.dir)
	return w
}

func (w *world) git(stdin string, args ...string) string {
	w.t.Helper()
	cmd := exec.Command("git", args...)
	if _, err := os.Stat(w.dir); err == nil {
		cmd.Dir = w.dir
	}
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@x", "GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@x")
	out, err := cmd.Output()
	if err != nil {
		w.t.Fatalf("git %q: %v", args, err)
	}
	return strings.TrimSpace(string(out))
}

func (w *world) commit() string {
	w.t.Helper()
	commit := w.git("", "commit-tree", "-m", "c", w.git("", "mktree"))
	w.git("", "update-ref", "refs/heads/main", commit)
	return commit
}

func (w *world) fetch(stdin io.Reader, stdout io.Writer, stateless bool) Fetch {
	run := func(command func(dir, protocol string) gitcmd.Command) func(context.Context, io.Reader, io.Writer, io.Writer) error {
		return func(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) error {
			w.runs.Add(1)
			if stdin != nil && w.during != nil {
				w.during()
			}
			return (&gitexec.Runner{}).Run(ctx, command(w.dir, Version2), gitexec.IO{Stdin: stdin, Stdout: stdout, Stderr: stderr})
		}
	}
	f := Fetch{Repo: "r", Format: w.format, State: w.state, Now: func() uint64 { return w.state }, Stateless: stateless, Stdin: stdin, Stdout: stdout, Stderr: io.Discard,
		Turn: func() (func(), error) { return func() {}, nil }, Run: run(gitcmd.UploadPack), Once: run(gitcmd.StatelessUploadPack)}
	if stateless {
		f.Run = f.Once
	}
	return f
}

// ask returns what a client is told, and how many processes that took.
func (w *world) ask(says string, stateless bool) (told string, runs int64, err error) {
	var out bytes.Buffer
	before := w.runs.Load()
	err = w.Serve(w.t.Context(), w.fetch(strings.NewReader(says), &out, stateless))
	return out.String(), w.runs.Load() - before, err
}

func packets(lines ...string) string {
	var b strings.Builder
	for _, l := range lines {
		switch l {
		case "0000", "0001", "0002":
			b.WriteString(l)
		default:
			fmt.Fprintf(&b, "%04x%s", len(l)+4, l)
		}
	}
	return b.String()
}

var (
	refs = packets("command=ls-refs\n", "agent=git/2.39.5", "0001", "peel\n", "symrefs\n", "unborn\n", "0000")
	tags = packets("command=ls-refs\n", "0001", "ref-prefix refs/tags/\n", "0000")
)

// Whatever a client says, it is told what Git by itself tells, also again and in any
// order; and what can be kept takes a process once.
func TestTellsWhatGitTells(t *testing.T) {
	for _, format := range []cluster.ObjectFormat{cluster.SHA1, cluster.SHA256} {
		for _, empty := range []bool{true, false} {
			w := newWorld(t, Options{}, format)
			refs := strings.Replace(refs, "0001", packets("object-format="+string(format))+"0001", 1)
			tags := strings.Replace(tags, "0001", packets("object-format="+string(format))+"0001", 1)
			want := strings.Repeat("1", 40)
			if !empty {
				want = w.commit()
				w.git("", "tag", "-a", "-m", "v", "v1", want)
			}
			fetch := packets("command=fetch", "object-format="+string(format), "0001", "no-progress\n", "want "+want+"\n", "done\n", "0000")
			for i, says := range []string{
				"", "0000", refs, refs + "0000", tags + "0000", refs + tags + refs + "0000",
				refs + fetch, tags + fetch + "0000", fetch + refs, fetch,
				packets("command=ls-refs", "0000"), packets("command=ls-refs\n", "0000"), packets("command=ls-refs\n", "0001", "0000"), packets("command=ls-refs\n\n", "0001", "0000"),
				packets("command=ls-refs\n", "0001", "peel\n", "0001", "0000"), packets("command=ls-refs\n", "0002"), packets("command=ls-refs\n", "command=fetch\n", "0001", "0000"),
				packets("command=ls-refs\n", "object-format=sha512\n", "0001", "0000"), packets("agent=x", "command=ls-refs", "0001", "0000"), packets("command=ls-refs\n", "0001", "ref-prefix", "", "0000"),
				packets("command=object-info", "0001", "size\n", "oid "+want+"\n", "0000"), packets("command=none\n", "0000"), packets("ERR x", "0000"), packets("command=ls-refs\n", "ERR x", "0000"),
				packets(""), packets("", refs), packets("0001"), packets("0002"), "0003", "fff1", "ffff", "zzzz", "+014command=ls-refs\n", "00", "0014", "0014comm", "0014command=ls-refs\n", refs[:len(refs)-1], refs + "00", refs + "zzzz",
				packets("command=ls-refs\n", strings.Repeat("a", 65516), "0001", "0000"), packets("command=ls-refs\n", "0001") + strings.Repeat(packets("ref-prefix refs/heads/main"), 4000) + "0000",
				packets("command=ls-refs\n") + strings.Repeat("0001", 40_000),
			} {
				if i > 10 && (empty || format != cluster.SHA1) {
					continue // as above
				}
				for _, stateless := range []bool{false, true} {
					var want bytes.Buffer
					asWell := w.fetch(nil, nil, stateless).Run(t.Context(), strings.NewReader(says), &want, io.Discard)
					for again := range 2 {
						told, runs, err := w.ask(says, stateless)
						if plain(told) != plain(want.String()) || (err == nil) != (asWell == nil) {
							t.Errorf("%s, empty: %v, stateless: %v: %.80q (%d bytes): told %.300q, %v\nby Git %.300q, %v", format, empty, stateless, says, len(says), told, err, &want, asWell)
						}
						if kept := says == "" || says == "0000" || says == refs || says == refs+"0000"; kept && again > 0 && runs > 0 {
							t.Errorf("%.80q took %d processes", says, runs)
						}
					}
				}
			}
			before := w.runs.Load()
			for _, stateless := range []bool{false, true} {
				for _, says := range []string{"", refs, refs + "0000"} {
					if _, _, err := w.ask(says, stateless); err != nil {
						t.Error(err)
					}
				}
			}
			if w.runs.Load() != before {
				t.Errorf("what is kept took %d processes", w.runs.Load()-before)
			}
		}
	}
}

// plain cuts off a pack, which Git sends in pieces of any size.
func plain(said string) string {
	before, _, _ := strings.Cut(said, "000dpackfile\n")
	return before + said[max(len(before), len(said)-4):]
}

// An answer is for the refs that it was given of: not if they change before it is asked
// for, nor while Git reads them.
func TestAnswersAreOfTheirRefs(t *testing.T) {
	w := newWorld(t, Options{}, cluster.SHA1)
	one := w.commit()
	live := func(what string, want int64) {
		t.Helper()
		told, runs, err := w.ask(refs, true)
		if err != nil || runs != want {
			t.Errorf("%s: %d processes, want %d; %v", what, runs, want, err)
		}
		if now := w.git("", "rev-parse", "main"); !strings.Contains(told, now) && w.during == nil {
			t.Errorf("%s: told\n%s, and main is %s", what, told, now)
		}
	}
	live("at first", 1)
	live("again", 0)
	w.git("", "update-ref", "refs/heads/x", one)
	w.state = 2
	live("after a change", 1)
	live("again", 0)
	w.state = 0
	live("during one", 1)
	live("still", 1)
	w.state = 3
	w.during = func() { w.state++ }
	live("where the refs change under Git", 1)
	live("again", 1)
	w.during = nil
	live("when that is over", 1)
	live("again", 0)
	if n := len(w.repos["r"].answers); n != 1 {
		t.Errorf("%d answers are kept of one state", n)
	}
	old := w.fetch(nil, nil, true)
	w.state++
	live("after another change", 1)
	w.keep(&old, ask(&old, []byte(refs)), []byte("0000")) // who was slow
	live("again", 0)
	f := w.fetch(strings.NewReader(refs), io.Discard, true)
	w.state++ // since the client has synchronized
	before := w.runs.Load()
	if err := w.Serve(t.Context(), f); err != nil || w.runs.Load() != before+1 {
		t.Errorf("refs that changed after the synchronization: %d processes, %v", w.runs.Load()-before, err)
	}
}

// Git leaves out what a tag names that it cannot read, and says so. That may be made good,
// and then nobody has changed a ref.
func TestComplaintsAreNotKept(t *testing.T) {
	w := newWorld(t, Options{}, cluster.SHA1)
	w.git("", "tag", "-a", "-m", "v", "v1", w.commit())
	tag := w.git("", "rev-parse", "v1")
	object := filepath.Join(w.dir, "objects", tag[:2], tag[2:])
	if err := errors.Join(os.Remove(object), os.WriteFile(object, []byte("rotten"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, runs, err := w.ask(refs, true); runs != 1 || err != nil {
			t.Errorf("%d processes, %v", runs, err)
		}
	}
}

type failing struct{ after int }

func (f *failing) Write(p []byte) (int, error) {
	if f.after -= len(p); f.after < 0 {
		return 0, errors.New("hung up")
	}
	return len(p), nil
}

// A client that hangs up leaves no part of an answer.
func TestHangUp(t *testing.T) {
	w := newWorld(t, Options{}, cluster.SHA1)
	one := w.commit()
	var many strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&many, "create refs/heads/b%d %s\n", i, one)
	}
	w.git(many.String(), "update-ref", "--stdin")
	if err := w.Serve(t.Context(), w.fetch(strings.NewReader(refs), &failing{50_000}, true)); err == nil {
		t.Error("nobody noticed")
	}
	told, runs, err := w.ask(refs, true)
	if err != nil || runs != 0 || strings.Count(told, "\n") != 2002 {
		t.Errorf("%d refs by %d processes, %v", strings.Count(told, "\n"), runs, err)
	}
	// Nor of one that is too long to be kept.
	many.Reset()
	for i := range 20_000 {
		fmt.Fprintf(&many, "create refs/heads/c%d %s\n", i, one)
	}
	w.git(many.String(), "update-ref", "--stdin")
	w.state++
	if err := w.Serve(t.Context(), w.fetch(strings.NewReader(refs), &failing{50_000}, true)); err == nil {
		t.Error("nobody noticed")
	}
	for range 2 {
		told, runs, err := w.ask(refs, true)
		if err != nil || runs != 1 || strings.Count(told, "\n") != 22002 {
			t.Errorf("%d refs by %d processes, %v", strings.Count(told, "\n"), runs, err)
		}
	}
	if len(w.asked) > 0 {
		t.Errorf("somebody is still asking: %v", w.asked)
	}
}

// What is kept stays within its bounds, and what was not used for long goes first.
func TestBounds(t *testing.T) {
	w := newWorld(t, Options{Limit: 20_000}, cluster.SHA1)
	w.commit()
	ask := func(repo, prefix string) (runs int64) {
		before := w.runs.Load()
		f := w.fetch(strings.NewReader(packets("command=ls-refs", "0001", "ref-prefix "+prefix, "0000")), io.Discard, true)
		f.Repo = cluster.RepoID(repo)
		if err := w.Serve(t.Context(), f); err != nil {
			t.Fatal(err)
		}
		return w.runs.Load() - before
	}
	for i := range 3 * maxOf {
		ask("r", fmt.Sprint(i))
	}
	if n := len(w.repos["r"].answers); n != maxOf {
		t.Errorf("%d answers of a repository are kept, want %d", n, maxOf)
	}
	if ask("r", fmt.Sprint(3*maxOf-1)) != 0 || ask("r", fmt.Sprint(2*maxOf-1)) != 1 {
		t.Error("the latest are not the ones that are kept")
	}
	for i := range 50 {
		ask(fmt.Sprint("r", i), "refs/heads/")
		ask("r0", "refs/heads/")
	}
	if w.bytes > w.Limit || w.used.Len() < 10 || ask("r0", "refs/heads/") != 0 || ask("r1", "refs/heads/") != 1 {
		t.Errorf("%d bytes in %d answers are kept, of at most %d", w.bytes, w.used.Len(), w.Limit)
	}
	sum := 0
	for e := w.used.Front(); e != nil; e = e.Next() {
		sum += len(e.Value.(*answer).said) + overhead
	}
	if sum != w.bytes {
		t.Errorf("%d bytes are kept and %d counted", sum, w.bytes)
	}
	s := &section{limit: maxAnswer}
	s.write([]byte(strings.Repeat(packets(strings.Repeat("a", 60_000)), 20) + "0000"))
	if !s.bad || s.whole || len(s.said) > maxAnswer {
		t.Errorf("an answer that is too long: %v, %v, %d bytes", s.bad, s.whole, len(s.said))
	}
}

// Packets may come in pieces of any size.
func TestSection(t *testing.T) {
	whole := packets("version 2\n", "0001", "", "a", "0002", strings.Repeat("b", 300), "0000")
	for size := 1; size < len(whole); size++ {
		s := &section{limit: 1000}
		said := whole + "rest"
		var rest string
		for len(said) > 0 {
			n := min(size, len(said))
			rest += string(s.write([]byte(said[:n])))
			said = said[n:]
		}
		if !s.whole || string(s.said) != whole || rest != "rest" {
			t.Fatalf("in pieces of %d: %q, and then %q", size, s.said, rest)
		}
	}
}

// A list of capabilities that is not the program's any more ends one fetch, and no other.
func TestGitIsExchanged(t *testing.T) {
	w := newWorld(t, Options{}, cluster.SHA1)
	wants := packets("command=fetch", "0001", "no-progress\n", "want "+w.commit()+"\n", "done\n", "0000")
	if _, _, err := w.ask("", false); err != nil {
		t.Fatal(err)
	}
	for _, old := range []string{packets("version 2\n", "agent=git/1\n", "0000"), packets("version 2\n", "0000"), packets("version 2\n"), ""} {
		f := w.fetch(nil, nil, false)
		if old == "" { // as long as the right one
			old = strings.Replace(string(w.list(&f)), "agent=git/", "agent=got/", 1)
		}
		w.keepList(&f, []byte(old))
		told, _, err := w.ask(wants, false)
		if !errors.Is(err, errChanged) || told != old {
			t.Errorf("told %q, %v", told, err)
		}
		told, _, err = w.ask(refs+wants, false)
		if err != nil || !strings.Contains(told, "refs/heads/main") || !strings.Contains(told, "packfile") {
			t.Errorf("then told %q, %v", told, err)
		}
	}
	f := w.fetch(nil, nil, false)
	for _, unlike := range []string{packets("version 2\n", "session-id=1\n", "0000"), packets("version 1\n", "0000"), packets("version 2\n")} {
		w.dropList(&f)
		watched := &watch{to: io.Discard, list: &section{limit: maxList}}
		watched.Write([]byte(unlike))
		if err := w.heard(&f, watched); err != nil || w.list(&f) != nil {
			t.Errorf("%q is kept, %v", unlike, err)
		}
	}
}

// A client that says nothing holds no process, and is let go with its connection.
func TestIdle(t *testing.T) {
	w := newWorld(t, Options{}, cluster.SHA1)
	if _, _, err := w.ask("", false); err != nil {
		t.Fatal(err)
	}
	before := w.runs.Load()
	silent, end := io.Pipe()
	defer end.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Serve(ctx, w.fetch(silent, io.Discard, false)) }()
	gone := errors.New("gone")
	cancel(gone)
	select {
	case err := <-ended:
		if !errors.Is(err, gone) || w.runs.Load() != before {
			t.Errorf("%v, after %d processes", err, w.runs.Load()-before)
		}
	case <-time.After(time.Minute):
		t.Fatal("it still waits for the client")
	}
}

// Many who ask the same of new refs have one process between them, also if the first of
// them is slow to take what it is told; and if nothing comes of that, each has its own.
func TestManyAskAtOnce(t *testing.T) {
	for name, state := range map[string]uint64{"refs that stay": 1, "refs that change": 0} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Options{}, cluster.SHA1)
			w.commit()
			w.state, w.patience = state, time.Minute
			if _, _, err := w.ask("", false); err != nil {
				t.Fatal(err)
			}
			const clients = 8
			asking, proceed := make(chan struct{}, clients), make(chan struct{})
			w.during = func() {
				asking <- struct{}{}
				<-proceed
			}
			before := w.runs.Load()
			told := make(chan string, clients)
			ask := func() {
				var out bytes.Buffer
				if err := w.Serve(t.Context(), w.fetch(strings.NewReader(refs), &out, false)); err != nil {
					t.Error(err)
				}
				told <- out.String()
			}
			stuck, taken := io.Pipe()
			slow := make(chan error, 1)
			go func() { slow <- w.Serve(t.Context(), w.fetch(strings.NewReader(refs), taken, true)) }()
			<-asking
			for range clients {
				go ask()
			}
			if state == 0 {
				for range clients {
					<-asking
				}
			}
			close(proceed)
			start := time.Now()
			for range clients {
				select {
				case said := <-told:
					if !strings.Contains(said, "refs/heads/main") {
						t.Errorf("told %q", said)
					}
				case <-time.After(2 * time.Minute):
					t.Fatal("they wait for one who does not take what it is told")
				}
			}
			if took := time.Since(start); state != 0 && took >= w.patience {
				t.Errorf("they waited for %v for one who does not take what it is told", took)
			}
			if want := map[uint64]int64{1: 1, 0: 1 + clients}[state]; w.runs.Load()-before != want {
				t.Errorf("%d processes, want %d", w.runs.Load()-before, want)
			}
			if said, err := io.ReadAll(io.LimitReader(stuck, 4)); err != nil || string(said) == "0000" {
				t.Errorf("the first is told %q, %v", said, err)
			}
			stuck.Close()
			<-slow
			if len(w.asked) > 0 {
				t.Errorf("somebody is still asking: %v", w.asked)
			}
		})
	}
}

// What takes no upload-pack is answered between what does.
func TestPackIsAsked(t *testing.T) {
	w := newWorld(t, Options{}, cluster.SHA1)
	wants := packets("command=fetch", "0001", "no-progress\n", "want "+w.commit()+"\n", "done\n", "0000")
	if _, _, err := w.ask(refs, false); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	for _, c := range []struct {
		says      string
		stateless bool
		ok        bool
		err       error
		asked     int
		runs      int64
		ends      string // what is told last
	}{
		{wants, false, true, nil, 1, 0, "pack"},
		{wants, true, true, nil, 1, 0, "pack"},
		{refs + wants + "0000", false, true, nil, 1, 0, "pack"},
		{wants + wants + refs, false, true, nil, 2, 0, "0000"},
		{wants, false, false, nil, 1, 1, "0000"},
		{wants, true, false, nil, 1, 1, "0000"},
		{wants, false, false, broken, 1, 0, "0000"}, // of the list
		{packets("command=fetch", "0001", strings.Repeat("a", 65000)) + packets(strings.Repeat("a", 1000), "0000"), true, true, nil, 0, 1, ""}, // too long
	} {
		asked := 0
		var out bytes.Buffer
		f := w.fetch(strings.NewReader(c.says), &out, c.stateless)
		f.Pack = func(_ context.Context, request []byte) (bool, error) {
			asked++
			if string(request) != wants {
				t.Errorf("it is put %q", request)
			}
			if c.ok {
				out.WriteString("pack")
			}
			return c.ok, c.err
		}
		before := w.runs.Load()
		err := w.Serve(t.Context(), f)
		if c.ends != "" && !errors.Is(err, c.err) || asked != c.asked || w.runs.Load()-before != c.runs || !strings.HasSuffix(out.String(), c.ends) {
			t.Errorf("%+v: %v, asked %d times, %d processes, told %q", c, err, asked, w.runs.Load()-before, out.String())
		}
	}
}

// What ends without a word has not begun to answer: whoever is between may say why.
func TestFailureSaysNothing(t *testing.T) {
	w := newWorld(t, Options{}, cluster.SHA1)
	w.commit()
	stopping := errors.New("stopping")
	writes := &counting{}
	f := w.fetch(strings.NewReader(refs), writes, true)
	f.Once = func(context.Context, io.Reader, io.Writer, io.Writer) error { return stopping }
	if err := w.Serve(t.Context(), f); !errors.Is(err, stopping) || writes.n > 0 {
		t.Errorf("%v, %d writes", err, writes.n)
	}
	full := errors.New("full")
	f = w.fetch(strings.NewReader(refs), writes, true)
	f.Turn = func() (func(), error) { return nil, full }
	if err := w.Serve(t.Context(), f); !errors.Is(err, full) || writes.n > 0 {
		t.Errorf("%v, %d writes", err, writes.n)
	}
}

type counting struct{ n int }

func (c *counting) Write(p []byte) (int, error) { c.n++; return len(p), nil }

// Nobody waits for an answer that is known to be too long to be kept, nor for ever for
// any.
func TestNobodyWaitsInVain(t *testing.T) {
	w := newWorld(t, Options{}, cluster.SHA1)
	w.commit()
	f := w.fetch(nil, nil, true)
	q := ask(&f, []byte(refs))
	synctest.Test(t, func(t *testing.T) {
		defer w.asking(&f, q)() // who does not come to an end
		start := time.Now()
		if said, err := w.await(t.Context(), &f, q); said != nil || err != nil || time.Since(start) != w.patience {
			t.Errorf("%q, %v after %v", said, err, time.Since(start))
		}
		w.keep(&f, q, nil)
		start = time.Now()
		if said, err := w.await(t.Context(), &f, q); said != nil || err != nil || time.Since(start) != 0 {
			t.Errorf("what is too long: %q, %v after %v", said, err, time.Since(start))
		}
	})
	if n := w.Answers(); n != 0 {
		t.Errorf("%d answers are counted", n)
	}
}
