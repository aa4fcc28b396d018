package packcache

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
	"sync"
	"testing"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitexec"
)

const repoID cluster.RepoID = "0123456789abcdef"

// A world is a repository, and how often git pack-objects was run for it.
type world struct {
	t    *testing.T
	dir  string // bare
	log  string
	hold string // while this file is there, pack-objects waits before it begins
	*Cache
}

func newWorld(t *testing.T, o Options) *world {
	t.Helper()
	bin := t.TempDir()
	w := &world{t: t, dir: filepath.Join(t.TempDir(), "r.git"), log: filepath.Join(bin, "log"), hold: filepath.Join(bin, "hold")}
	real, err := exec.LookPath("git")
	if err != nil {
		t.Skip(err)
	}
	t.Setenv("GIT_CONFIG_GLOBAL", os.DevNull)
	t.Setenv("GIT_CONFIG_NOSYSTEM", "1")
	for _, who := range []string{"AUTHOR", "COMMITTER"} {
		t.Setenv("GIT_"+who+"_NAME", "t")
		t.Setenv("GIT_"+who+"_EMAIL", "t@example.com")
	}
	script := fmt.Sprintf("#!/bin/sh\ncase $* in\n*pack-objects*--stdout*) echo \"$$\" >>'%s'; while [ -e '%s' ]; do sleep 0.01; done ;;\nesac\nexec '%s' \"$@\"\n", w.log, w.hold, real)
	if err := os.WriteFile(filepath.Join(bin, "git"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	w.git("", "init", "-q", "--bare", "-b", "main", w.dir)
	o.Dir, o.Run = t.TempDir(), &gitexec.Runner{}
	w.Cache = New(o)
	t.Cleanup(func() {
		os.Remove(w.hold)
		w.Close()
		if left, err := os.ReadDir(o.Dir); err != nil || len(left) > 0 {
			t.Errorf("left on disk: %v, %v", left, err)
		}
		if w.reserved != 0 || len(w.entries) != 0 {
			t.Errorf("%d bytes in %d entries are left", w.reserved, len(w.entries))
		}
	})
	return w
}

func (w *world) git(stdin string, args ...string) string {
	w.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Stdin = w.dir, strings.NewReader(stdin)
	if _, err := os.Stat(w.dir); err != nil {
		cmd.Dir = ""
	}
	out, err := cmd.Output()
	if err != nil {
		w.t.Fatalf("git %v: %v", args, err)
	}
	return strings.TrimSpace(string(out))
}

// commit adds a commit with a file of some size to main.
func (w *world) commit(size int) string {
	w.t.Helper()
	text := make([]byte, size)
	for i := range text {
		text[i] = byte('a' + (i*i+size)%23)
	}
	blob := w.git(string(text)+fmt.Sprint(time.Now().UnixNano()), "hash-object", "-w", "--stdin")
	tree := w.git(fmt.Sprintf("100644 blob %s\tf%d\n", blob, size), "mktree")
	args := []string{"commit-tree", tree, "-m", "c"}
	if old, err := exec.Command("git", "-C", w.dir, "rev-parse", "-q", "--verify", "main").Output(); err == nil {
		args = append(args, "-p", strings.TrimSpace(string(old)))
	}
	commit := w.git("", args...)
	w.git("", "update-ref", "refs/heads/main", commit)
	return commit
}

// runs returns how often pack-objects was run.
func (w *world) runs() int {
	log, _ := os.ReadFile(w.log)
	return bytes.Count(log, []byte("\n"))
}

var usual = []string{"git", "pack-objects", "--revs", "--thin", "--stdout", "--progress", "--delta-base-offset", "--include-tag"}

func (w *world) fetch(ctx context.Context, want string, haves ...string) ([]byte, error) {
	question := want + "\n--not\n"
	for _, have := range haves {
		question += have + "\n"
	}
	var out, said bytes.Buffer
	err := w.Serve(ctx, repoID, w.dir, usual, strings.NewReader(question+"\n"), &out, &said)
	return out.Bytes(), err
}

// mustHave has a client unpack a pack, beside what it has, and look for all that want
// reaches.
func (w *world) mustHave(pack []byte, want string, have ...string) {
	w.t.Helper()
	client := filepath.Join(w.t.TempDir(), "client.git")
	w.git("", "init", "-q", "--bare", client)
	for _, old := range have {
		w.git(old+"\n", "-C", w.dir, "pack-objects", "-q", "--revs", filepath.Join(client, "objects/pack/pack"))
	}
	w.git(string(pack), "-C", client, "index-pack", "--stdin", "--fix-thin")
	w.git("", "-C", client, "rev-list", "--objects", "--quiet", want)
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// TestShared has many ask the same at once, and later, while refs move and what they
// asked for is removed: one run, and everybody has all objects.
func TestShared(t *testing.T) {
	w := newWorld(t, Options{})
	old := w.commit(1000)
	tip := w.commit(300_000)
	before := w.runs()
	if err := os.WriteFile(w.hold, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	packs := make([][]byte, 8)
	for i := range packs {
		all.Go(func() {
			pack, err := w.fetch(t.Context(), tip, old)
			if err != nil {
				t.Error(err)
			}
			packs[i] = pack
		})
	}
	await(t, "the readers", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, e := range w.entries {
			return e.readers == len(packs)
		}
		return false
	})
	newer := w.commit(2000) // main moves meanwhile
	os.Remove(w.hold)
	all.Wait()
	for _, pack := range packs {
		w.mustHave(pack, tip, old)
	}
	if n := w.runs() - before; n != 1 {
		t.Errorf("%d runs for %d equal fetches", n, len(packs))
	}
	if n := w.Shared(); n != uint64(len(packs)-1) {
		t.Errorf("%d packs are said to be shared, of %d", n, len(packs))
	}
	// Other questions have other answers.
	before = w.runs()
	for _, q := range [][]string{{newer, old}, {tip}, {newer, tip}} {
		pack, err := w.fetch(t.Context(), q[0], q[1:]...)
		if err != nil {
			t.Fatal(err)
		}
		w.mustHave(pack, q[0], q[1:]...)
	}
	if n := w.runs() - before; n != 3 {
		t.Errorf("%d runs for three further questions", n)
	}
	// What no ref reaches any more may be gone before somebody asks once more.
	pack, err := w.fetch(t.Context(), tip)
	if err != nil {
		t.Fatal(err)
	}
	w.git("", "update-ref", "-d", "refs/heads/main")
	w.git("", "gc", "-q", "--prune=now")
	again, err := w.fetch(t.Context(), tip)
	if err != nil || !bytes.Equal(pack, again) {
		t.Errorf("%d bytes, and then %d, %v", len(pack), len(again), err)
	}
	// What cannot be made fails for everybody, and is tried again.
	before = w.runs()
	for range 2 {
		var exit *gitexec.ExitError
		if pack, err := w.fetch(t.Context(), strings.Repeat("1", 40)); !errors.As(err, &exit) {
			t.Errorf("%d bytes, %v", len(pack), err)
		}
	}
	if n := w.runs() - before; n != 2 {
		t.Errorf("%d runs of what fails, want 2", n)
	}
}

// TestQuestions holds that whatever may change the answer is part of the question.
func TestQuestions(t *testing.T) {
	args := usual
	base := ask(repoID, args, []byte("abc"))
	for name, other := range map[string]question{
		"another repository": ask("fedcba9876543210", args, []byte("abc")),
		"another want":       ask(repoID, args, []byte("abd")),
		"another argument":   ask(repoID, append(args[:len(args):len(args)], "--shallow"), []byte("abc")),
		"cut elsewhere":      ask(repoID, []string{"gitpack-objects"}, []byte("abc")),
	} {
		if other == base {
			t.Errorf("%s: the same question", name)
		}
	}
	if ask(repoID, args, []byte("abc")) != base {
		t.Error("the same is not the same")
	}
	w := newWorld(t, Options{})
	for _, bad := range [][]string{nil, {"git", "gc"}, {"git", "pack-objects", "--revs", "--stdout", "/tmp/x"}, {"sh", "pack-objects", "--revs", "--stdout"}, {"git", "pack-objects", "--revs", "--stdout", "--uri-protocol=https"}} {
		if err := w.Serve(t.Context(), repoID, w.dir, bad, strings.NewReader(""), io.Discard, io.Discard); err == nil {
			t.Errorf("%q was run", bad)
		}
	}
}

// TestLeaving has readers leave and not read: the others do not mind, and what nobody
// waits for is ended.
func TestLeaving(t *testing.T) {
	w := newWorld(t, Options{})
	tip := w.commit(200_000)
	if err := os.WriteFile(w.hold, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 2)
	for range 2 {
		go func() { _, err := w.fetch(ctx, tip); left <- err }()
	}
	await(t, "a run", func() bool { return w.runs() > 0 })
	leave()
	for range 2 {
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	log, err := os.ReadFile(w.log)
	if err != nil {
		t.Fatal(err)
	}
	first := strings.Fields(string(log))[0]
	await(t, "the end of what nobody waits for", func() bool { _, err := os.Stat("/proc/" + first); return err != nil })
	os.Remove(w.hold)

	// One who takes nothing.
	stuck, release := io.Pipe()
	defer release.Close()
	slow := make(chan error, 1)
	slowCtx, enough := context.WithCancel(t.Context())
	go func() {
		slow <- w.Serve(slowCtx, repoID, w.dir, usual, strings.NewReader(tip+"\n--not\n\n"), release, io.Discard)
	}()
	pack, err := w.fetch(t.Context(), tip)
	if err != nil {
		t.Fatal(err)
	}
	w.mustHave(pack, tip)
	enough()
	stuck.Close()
	if err := <-slow; err == nil {
		t.Error("who took nothing had no error")
	}
}

// TestBound keeps the cache within its limit.
func TestBound(t *testing.T) {
	w := newWorld(t, Options{Limit: 1 << 20})
	tips := []string{w.commit(60_000), w.commit(70_000), w.commit(80_000)}
	w.git("", "repack", "-q", "-a", "-d")
	for _, tip := range tips {
		if _, err := w.fetch(t.Context(), tip); err != nil {
			t.Fatal(err)
		}
		w.mu.Lock()
		if w.reserved > w.Limit {
			t.Errorf("%d bytes are kept, of at most %d", w.reserved, w.Limit)
		}
		w.mu.Unlock()
	}
	size, err := packed(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	w.Limit = 4*size - 1 // now it is too large
	kept := len(w.entries)
	w.mu.Unlock()
	before := w.runs()
	for range 2 {
		pack, err := w.fetch(t.Context(), tips[2], tips[1])
		if err != nil {
			t.Fatal(err)
		}
		w.mustHave(pack, tips[2], tips[1])
	}
	if n := w.runs() - before; n != 2 || len(w.entries) > kept {
		t.Errorf("%d runs and %d entries of a repository that is too large, want 2 and %d", n, len(w.entries), kept)
	}
	w.mu.Lock()
	w.Limit = 4*size + 1
	room := w.makeRoom(4 * size)
	w.mu.Unlock()
	if !room || len(w.entries) != 0 {
		t.Errorf("no room was made: %d entries are left", len(w.entries))
	}
}

// TestJoin has one fetch by itself do without.
func TestJoin(t *testing.T) {
	w := newWorld(t, Options{})
	first, leave := w.Join(repoID)
	second, leave2 := w.Join(repoID)
	other, leave3 := w.Join("fedcba9876543210")
	if first || !second || other {
		t.Errorf("shared: %v, %v and of another repository %v", first, second, other)
	}
	leave()
	leave2()
	leave3()
	if third, leave := w.Join(repoID); !third {
		t.Error("one that comes right after is not expected to want the same")
	} else {
		leave()
	}
	w.mu.Lock()
	w.fetches[repoID].last = time.Now().Add(-recently)
	w.mu.Unlock()
	w.forget(repoID, w.fetches[repoID])
	if len(w.fetches) != 1 {
		t.Errorf("%d are remembered, want the other one", len(w.fetches))
	}
}

// TestManyQuestions asks more questions than are kept, of a small repository: what each
// takes beside its pack is bounded by their number.
func TestManyQuestions(t *testing.T) {
	w := newWorld(t, Options{})
	for range maxEntries + 3 {
		w.mu.Lock()
		if !w.makeRoom(1) {
			t.Fatal("no room for one more")
		}
		q := ask(repoID, []string{time.Now().String()}, nil)
		w.entries[q] = &entry{q: q, done: true, used: time.Now(), cancel: func(error) {}, reserved: 1}
		w.reserved++
		n := len(w.entries)
		w.mu.Unlock()
		if n > maxEntries {
			t.Fatalf("%d are kept, of at most %d", n, maxEntries)
		}
	}
}

// TestHaveIsGone asks with an object that was there when upload-pack heard of it, and was
// removed since because no ref reached it: it makes the pack no smaller, and nothing else.
// What is wanted must be there.
func TestHaveIsGone(t *testing.T) {
	w := newWorld(t, Options{})
	old := w.commit(1000)
	tip := w.commit(2000)
	gone := strings.Repeat("1", 40)
	pack, err := w.fetch(t.Context(), tip, gone, old)
	if err != nil {
		t.Fatal(err)
	}
	w.mustHave(pack, tip, old)
	whole, err := w.fetch(t.Context(), tip, gone)
	if err != nil {
		t.Fatal(err)
	}
	w.mustHave(whole, tip)
	if len(whole) <= len(pack) {
		t.Errorf("%d bytes with a have that is there, and %d without", len(pack), len(whole))
	}
	if _, err := w.fetch(t.Context(), gone, old); err == nil {
		t.Error("what is not there was fetched")
	}
	const shallow = "--shallow "
	asked := tip + "\n" + shallow + old + "\n--not\n" + gone + "\n" + old + "\n\n"
	if rest, err := w.stillThere(t.Context(), w.dir, []byte(asked)); err != nil || string(rest) != tip+"\n"+shallow+old+"\n--not\n"+old+"\n\n" {
		t.Errorf("%q, %v", rest, err)
	}
}

// TestHaveGoesMeanwhile has what the client has be removed between the look at it and the
// run.
func TestHaveGoesMeanwhile(t *testing.T) {
	w := newWorld(t, Options{})
	base := w.commit(100)
	gone := w.git("", "commit-tree", base+"^{tree}", "-p", base, "-m", "a branch that is deleted")
	tip := w.commit(200)
	if err := os.WriteFile(w.hold, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	type answer struct {
		pack []byte
		err  error
	}
	got := make(chan answer)
	go func() {
		pack, err := w.fetch(t.Context(), tip, base, gone)
		got <- answer{pack, err}
	}()
	await(t, "the run", func() bool { return w.runs() == 1 })
	if err := os.Remove(filepath.Join(w.dir, "objects", gone[:2], gone[2:])); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(w.hold); err != nil {
		t.Fatal(err)
	}
	a := <-got
	if a.err != nil || w.runs() != 2 {
		t.Fatalf("after %d runs: %v", w.runs(), a.err)
	}
	w.mustHave(a.pack, tip, base)
}
