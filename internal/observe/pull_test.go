package observe

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/journal"
)

// The mirror follows whatever the remote's refs do.
func TestMirrorFollows(t *testing.T) {
	w := newWorld(t)
	w.commit("one")
	w.git(w.work, "branch", "topic")
	w.git(w.work, "tag", "-a", "-m", "first", "v1")
	w.git(w.work, "update-ref", "refs/notes/hidden", "HEAD") // no pattern covers it
	w.mirror(nil)
	if r := w.mustPull(); r.Changed != 3 || r.From != 0 || r.To == 0 {
		t.Errorf("the first pull: %+v", r)
	}
	w.git(w.work, "update-ref", "-d", "refs/notes/hidden")
	w.same()
	before := w.state()
	if before.Succeeded.IsZero() || before.Failures != 0 || before.Device != "node1" || before.Remote != w.uri() || !before.Next.After(time.Now().Add(50*time.Minute)) {
		t.Errorf("the record is %+v", before)
	}
	if r := w.mustPull(); r.Changed != 0 || r.From != r.To {
		t.Errorf("nothing has changed: %+v", r)
	}
	for _, step := range []struct {
		name    string
		do      func()
		changed int
	}{
		{"a commit", func() { w.commit("two") }, 1},
		{"a branch rewritten and one deleted", func() {
			w.git(w.work, "commit", "-q", "--amend", "--allow-empty", "-m", "two again")
			w.git(w.work, "branch", "-D", "topic")
		}, 2},
		{"a tag moved, a branch of a tag's commit", func() {
			w.git(w.work, "tag", "-f", "v1")
			w.git(w.work, "branch", "old", "HEAD~1")
		}, 2},
		{"a branch becomes a folder", func() {
			w.git(w.work, "branch", "-D", "old")
			w.git(w.work, "branch", "old/one")
			w.git(w.work, "branch", "old/two")
		}, 3},
		{"and a folder a branch", func() {
			w.git(w.work, "branch", "-D", "old/one", "old/two")
			w.git(w.work, "branch", "old")
		}, 3},
		{"the default branch is renamed", func() { w.git(w.work, "branch", "-m", "main", "trunk") }, 3},
		{"another is the default branch", func() { w.git(w.work, "symbolic-ref", "HEAD", "refs/heads/old") }, 1},
		{"the default branch is deleted", func() {
			w.git(w.work, "symbolic-ref", "HEAD", "refs/heads/trunk")
			w.git(w.work, "branch", "-D", "old")
		}, 2},
		{"a name that differs only in case takes its place", func() {
			w.git(w.work, "update-ref", "refs/tags/V1", "refs/tags/v1")
			w.git(w.work, "update-ref", "-d", "refs/tags/v1")
		}, 2},
	} {
		step.do()
		if r := w.mustPull(); r.Changed != step.changed || r.To <= r.From || r.Note != "" {
			t.Errorf("%s: %+v, want %d changed", step.name, r, step.changed)
		}
		w.same()
	}
}

// HEAD names a branch that is gone on the remote, which names no other.
func TestDefaultBranchGoesWithoutAnother(t *testing.T) {
	w := newWorld(t)
	w.commit("one")
	w.git(w.work, "branch", "other")
	w.mirror(nil)
	w.mustPull()
	w.git(w.work, "checkout", "-q", "--detach")
	w.git(w.work, "branch", "-D", "main")
	w.mustPull()
	if got := w.shows(w.node.Engine.Store.Path(w.repo.ID)); !strings.HasSuffix(got, "HEAD refs/heads/other") || strings.Contains(got, "heads/main") {
		t.Errorf("it shows\n%s", got)
	}
}

func TestRefsThatCannotBeMirrored(t *testing.T) {
	w := newWorld(t)
	w.commit("one")
	w.git(w.work, "branch", "Topic")
	w.git(w.work, "branch", "topic")
	long := strings.Repeat("x", 245)
	w.git(w.work, "pack-refs", "--all")
	packed := filepath.Join(w.work, ".git", "packed-refs")
	text, err := os.ReadFile(packed)
	if err != nil {
		t.Fatal(err)
	}
	head := w.git(w.work, "rev-parse", "HEAD")
	text = append(text, fmt.Sprintf("%s refs/tags/%s\n%s refs/tags/caf\xe9\n", head, long, head)...)
	if err := os.WriteFile(packed, text, 0o600); err != nil {
		t.Fatal(err)
	}
	w.mirror(nil)
	r := w.mustPull()
	if r.Changed != 2 || !strings.Contains(r.Note, "3 refs, such as") {
		t.Errorf("%+v", r)
	}
	if w.state().Failures != 0 || w.state().Note != r.Note {
		t.Errorf("the record is %+v", w.state())
	}
	if r := w.mustPull(); r.Changed != 0 {
		t.Errorf("the second pull: %+v", r)
	}
}

// A remote that suddenly lists nothing deletes nothing.
func TestEmptyRemoteDeletesNothing(t *testing.T) {
	w := newWorld(t)
	w.mirror(nil)
	if r := w.mustPull(); r.Changed != 0 {
		t.Errorf("both are empty: %+v", r)
	}
	w.commit("one")
	w.mustPull()
	before := w.shows(w.node.Engine.Store.Path(w.repo.ID))
	w.git(w.work, "update-ref", "-d", "refs/heads/main")
	_, _, err := w.pull()
	if err == nil || !strings.Contains(err.Error(), "nothing was deleted") || cluster.Hint(err) == "" {
		t.Errorf("it says %v", err)
	}
	if after := w.shows(w.node.Engine.Store.Path(w.repo.ID)); after != before {
		t.Errorf("it shows\n%s", after)
	}
	if s := w.state(); s.Failures != 1 || s.Succeeded.IsZero() {
		t.Errorf("the record is %+v", s)
	}
}

// What is below no pattern is left alone on both sides.
func TestPatterns(t *testing.T) {
	w := newWorld(t)
	w.commit("one")
	w.git(w.work, "branch", "release/1")
	w.git(w.work, "branch", "topic")
	w.git(w.work, "tag", "v1")
	w.mirror(func(o *cluster.Observation, _ *journal.Secrets) {
		o.Refs = []cluster.RefPattern{"refs/heads/release/*", "refs/tags/v1"}
	})
	w.mustPull()
	dir := w.node.Engine.Store.Path(w.repo.ID)
	if got := w.git(dir, "for-each-ref", "--format=%(refname)"); got != "refs/heads/release/1\nrefs/tags/v1" {
		t.Errorf("it mirrors %q", got)
	}
	w.observe(func(o *cluster.Observation, _ *journal.Secrets) { o.Refs = []cluster.RefPattern{"refs/heads/topic"} })
	w.mustPull()
	if got := w.git(dir, "for-each-ref", "--format=%(refname)"); got != "refs/heads/release/1\nrefs/heads/topic\nrefs/tags/v1" {
		t.Errorf("it mirrors %q", got)
	}
}

func TestWrongCredential(t *testing.T) {
	w := newWorld(t)
	w.commit("one")
	w.mirror(nil)
	w.deny.Store(true)
	last := time.Duration(0)
	for n := range 3 {
		_, said, err := w.pull()
		if err == nil || !strings.Contains(err.Error(), "Authentication failed") || !strings.Contains(cluster.Hint(err), "--credential") {
			t.Fatalf("it says %v\n%s", err, said)
		}
		if !strings.Contains(said, "$ git ls-remote --symref --end-of-options "+w.uri()) {
			t.Errorf("the command is not shown:\n%s", said)
		}
		s := w.state()
		if s.Failures != n+1 || !strings.Contains(s.Error, "Authentication failed") || strings.ContainsAny(s.Error, "\n\x1b") {
			t.Errorf("the record is %+v", s)
		}
		pause := s.Next.Sub(s.Tried)
		if pause < last*3/2 && last < 2*time.Hour {
			t.Errorf("after failure %d it pauses %v, after the one before %v", n+1, pause, last)
		}
		last = pause
	}
	w.deny.Store(false)
	w.mustPull()
	w.same()
	if s := w.state(); s.Failures != 0 || s.Error != "" {
		t.Errorf("the record is %+v", s)
	}
	if strings.Contains(w.log.String(), secret) {
		t.Error("the secret is in the log")
	}
}

// A host that repeats the credential gets it into no message.
func TestSecretIsTakenOutOfMessages(t *testing.T) {
	p := &pull{secrets: journal.Secrets{Credentials: []journal.Credential{{Username: "bob", Password: "hunter2"}}}}
	for text, want := range map[string]string{
		"remote: no \"hunter2\"":         "remote: no \"…\"",
		"Basic Ym9iOmh1bnRlcjI= is bad":  "Basic … is bad",
		"a\x1b[31m\nb\u202e":             "a [31m b ",
		strings.Repeat("é", 600) + "end": strings.Repeat("é", 500) + "…",
	} {
		if got := p.clean(text); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}

func TestNextRemoteIsTried(t *testing.T) {
	w := newWorld(t)
	w.commit("one")
	w.mirror(func(o *cluster.Observation, s *journal.Secrets) {
		o.Remotes = append([]cluster.Remote{{URI: "http://127.0.0.1:1/gone"}}, o.Remotes...)
		s.Credentials = append([]journal.Credential{{}}, s.Credentials...)
	})
	w.mustPull()
	w.same()
	if s := w.state(); s.Remote != w.uri() || s.Failures != 0 {
		t.Errorf("the record is %+v", s)
	}
	w.deny.Store(true)
	if _, _, err := w.pull(); err == nil || !strings.Contains(err.Error(), "127.0.0.1:1/gone: ") || !strings.Contains(err.Error(), w.uri()+": ") {
		t.Errorf("it says %v", err)
	}
}

func TestSilentRemoteIsGivenUp(t *testing.T) {
	w := newWorld(t)
	w.commit("one")
	w.mirror(nil)
	w.hold = make(chan struct{})
	w.node.silence = 300 * time.Millisecond
	if _, _, err := w.pull(); err == nil || !strings.Contains(err.Error(), "said nothing for") {
		t.Errorf("it says %v", err)
	}
	if s := w.state(); s.Failures != 1 {
		t.Errorf("the record is %+v", s)
	}
}

func TestOtherObjectFormat(t *testing.T) {
	w := newWorld(t)
	if err := os.RemoveAll(w.work); err != nil {
		t.Fatal(err)
	}
	w.git("", "init", "-q", "-b", "main", "--object-format=sha256", w.work)
	w.commit("one")
	w.mirror(nil)
	if _, _, err := w.pull(); err == nil || !strings.Contains(err.Error(), "64 digits") || !strings.Contains(cluster.Hint(err), "--object-format") {
		t.Errorf("it says %v", err)
	}
}

func TestObservationWithoutItsCredential(t *testing.T) {
	w := newWorld(t)
	w.mirror(func(_ *cluster.Observation, s *journal.Secrets) { s.Credentials = nil })
	if _, _, err := w.pull(); err == nil || !strings.Contains(err.Error(), "not in the journal") || w.asked.Load() != 0 {
		t.Errorf("it says %v", err)
	}
	w.observe(func(o *cluster.Observation, _ *journal.Secrets) { *o = cluster.Observation{} })
	repo := w.repo
	repo.ID, repo.Name = cluster.RepoID(journal.NewID()), "plain"
	if _, err := w.node.Engine.Create(t.Context(), repo); err != nil {
		t.Fatal(err)
	}
	if _, err := w.node.Pull(t.Context(), repo.ID, Progress{}); !errors.Is(err, cluster.ErrNotFound) {
		t.Errorf("a repository that follows nothing: %v", err)
	}
}

// The folder of pulls is nobody else's, and a start empties it.
func TestFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "observing")
	if err := os.MkdirAll(filepath.Join(dir, "left", "credential"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Options{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(dir)
	left, _ := os.ReadDir(dir)
	if err != nil || info.Mode().Perm() != 0o700 || len(left) != 0 {
		t.Errorf("%v, %v, %v", info, left, err)
	}
}

func TestPauseBefore(t *testing.T) {
	for _, c := range []struct {
		every    time.Duration
		failures int
		want     time.Duration
	}{
		{time.Minute, 0, time.Minute}, {time.Minute, 1, 2 * time.Minute}, {time.Minute, 5, 32 * time.Minute}, {time.Minute, 9, maxPause},
		{time.Minute, 1 << 30, maxPause}, {24 * time.Hour, 0, 24 * time.Hour}, {24 * time.Hour, 7, 24 * time.Hour},
	} {
		for range 100 {
			if got := pauseBefore(c.every, c.failures); got < c.want*9/10 || got > c.want*11/10+1 {
				t.Fatalf("every %v after %d failures: %v, want about %v", c.every, c.failures, got, c.want)
			}
		}
	}
}

// What Git and ssh say at their end makes one line, and progress none.
func TestMessages(t *testing.T) {
	uri, err := gitcmd.ParseRemote("git@h.example:x")
	if err != nil {
		t.Fatal(err)
	}
	for said, want := range map[string]string{
		"Receiving: 1%\rReceiving: 100%, done.\nfatal: early EOF\n": "Receiving: 100%, done.; fatal: early EOF",
		"git@h.example: Permission denied (publickey).\r\nfatal: Could not read from remote repository.\n\nPlease make sure you have the correct access rights\n": "git@h.example: Permission denied (publickey).",
		"@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\r\nHost key verification failed.\r\n":                                                        "the host key of h.example is not the one it had at first contact",
		"fatal: couldn't find remote ref refs/heads/x\n": errMoved.Error() + ": fatal: couldn't find remote ref refs/heads/x",
		"": "git ended with status 128",
		"fatal: Could not read from remote repository.": "fatal: Could not read from remote repository.; git ended with status 128",
		strings.Repeat("x", 1<<20) + "\nlast\n":         strings.Repeat("x", 1000) + "; last",
	} {
		var lines []string
		m := &messages{alive: func() {}, line: func(line string) { lines = append(lines, line) }}
		for i := 0; i < len(said); i += 7 {
			m.Write([]byte(said[i:min(i+7, len(said))]))
		}
		if got := m.failure(uri, 128).Error(); got != want {
			t.Errorf("%.80q makes %q, want %q", said, got, want)
		}
		if strings.Contains(strings.Join(lines, "\n"), " 1%") {
			t.Errorf("progress is shown: %q", lines)
		}
	}
}
