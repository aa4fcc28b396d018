//go:build linux

package disk

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// A world is a disk with its memory.
type world struct {
	t *testing.T
	*memory
}

func newWorld(t *testing.T) *world {
	dir := t.TempDir()
	m, err := open(filepath.Join(dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t, m}
	w.must(os.Mkdir(w.root, 0o700))
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) path(name string) string { return filepath.Join(w.root, name) }

// write makes a file anew and puts it in the place of another.
func (w *world) write(name, text string, synced bool) {
	w.t.Helper()
	path := w.path(name)
	w.must(os.MkdirAll(filepath.Dir(path), 0o700))
	w.must(os.WriteFile(path+".new", []byte(text), 0o600))
	if synced {
		w.syncs(name + ".new")
	}
	w.must(os.Rename(path+".new", path))
}

func (w *world) syncs(name string) {
	w.t.Helper()
	f, err := os.Open(w.path(name))
	w.must(err)
	defer f.Close()
	w.must(w.sync(f))
}

func (w *world) has(name, want string) {
	w.t.Helper()
	got, err := os.ReadFile(w.path(name))
	if err != nil || string(got) != want {
		w.t.Errorf("%s has %q (%v), want %q", name, got, err, want)
	}
}

func (w *world) lacks(name string) {
	w.t.Helper()
	if _, err := os.Lstat(w.path(name)); !errors.Is(err, os.ErrNotExist) {
		w.t.Errorf("%s is there (%v)", name, err)
	}
}

func TestLose(t *testing.T) {
	w := newWorld(t)
	w.write("kept", "old", false)
	w.write("removed", "old", false)
	w.write("gone/below", "old", false)
	w.must(Trust(w.state))

	w.write("whole", "new", true)
	w.write("unsynced", "new", false)
	w.syncs(".")
	w.write("nameless", "new", true)
	w.write("kept", "newer", true)
	w.must(os.Remove(w.path("removed")))
	w.must(os.RemoveAll(w.path("gone")))
	w.write("made/below", "new", true)
	w.syncs("made")

	lost, err := Lose(w.state, func(string) bool { return false })
	w.must(err)
	w.has("whole", "new")
	w.has("unsynced", "")
	w.lacks("nameless")
	w.has("kept", "old")
	w.has("removed", "old")
	w.has("gone/below", "old")
	w.lacks("made")
	if lost == 0 {
		t.Error("nothing is said to be lost")
	}

	// What was left is on the disk.
	if lost, err := Lose(w.state, func(string) bool { return false }); err != nil || lost != 0 {
		t.Errorf("lost %d once more, %v", lost, err)
	}
	w.has("gone/below", "old")
}

// Names may reach the disk that nobody has synced, in one directory and not in another.
func TestLoseByChance(t *testing.T) {
	w := newWorld(t)
	w.write("a/old", "old", false)
	w.write("b/old", "old", false)
	w.must(Trust(w.state))
	w.write("a/new", "new", true)
	w.write("a/empty", "new", false)
	w.write("b/new", "new", true)
	_, err := Lose(w.state, func(dir string) bool { return dir == w.path("a") })
	w.must(err)
	w.has("a/new", "new")
	w.has("a/empty", "")
	w.lacks("b/new")
	w.has("b/old", "old")
}

// A directory that took another's place has nothing of the other's.
func TestLoseOfAnotherDirectory(t *testing.T) {
	w := newWorld(t)
	w.write("d/old", "old", false)
	w.must(Trust(w.state))
	w.must(os.RemoveAll(w.path("d")))
	w.write("d/new", "new", true)
	w.syncs(".")
	_, err := Lose(w.state, func(string) bool { return false })
	w.must(err)
	w.lacks("d/old")
	w.lacks("d/new")
}

// Without the whole memory nothing is taken away.
func TestUntold(t *testing.T) {
	w := newWorld(t)
	w.must(Trust(w.state))
	w.must(os.RemoveAll(filepath.Join(w.state, dirsFolder)))
	w.must(os.WriteFile(filepath.Join(w.state, dirsFolder), nil, 0o600)) // cannot be written to
	w.write("new", "new", true)
	w.syncs(".")
	if _, err := Lose(w.state, func(string) bool { return false }); !errors.Is(err, ErrUntold) {
		t.Errorf("%v", err)
	}
	w.has("new", "new")
}

// TestLibrary has Git sync what it writes: that is remembered, and takes its time.
func TestLibrary(t *testing.T) {
	w := newWorld(t)
	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("there is no compiler for C")
	}
	library := filepath.Join(t.TempDir(), "preload.so")
	if out, err := exec.CommandContext(t.Context(), cc, "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, "preload/preload.c").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Setenv(EnvLibrary, library)
	t.Setenv(EnvState, w.state)
	git := func(args ...string) time.Duration {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "git", append([]string{"-c", "core.fsync=all", "-c", "core.fsyncMethod=fsync"}, args...)...)
		cmd.Dir = w.root
		cmd.Env = Environment(append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull))
		start := time.Now()
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return time.Since(start)
	}
	git("init", "-q", "--bare", "r.git")
	w.must(Trust(w.state))
	w.write("file", "text", true)
	const pace = 300 * time.Millisecond
	w.must(Slow(w.state, pace))
	if took := git("--git-dir=r.git", "hash-object", "-w", "file"); took < pace {
		t.Errorf("a sync on a slow disk took %v", took)
	}
	w.must(Slow(w.state, 0))
	objects := filepath.Join("r.git", "objects")
	w.syncs(objects)
	found, err := filepath.Glob(w.path(filepath.Join(objects, "??")))
	if err != nil || len(found) != 1 {
		t.Fatalf("%v, %v", found, err)
	}
	w.syncs(filepath.Join(objects, filepath.Base(found[0])))
	git("--git-dir=r.git", "update-ref", "refs/tags/t", "f3a34851d44d6b97c90fbb99dd3d18c261b9a237") // "text", as a blob
	_, err = Lose(w.state, func(string) bool { return false })
	w.must(err)
	git("--git-dir=r.git", "cat-file", "-e", "f3a34851d44d6b97c90fbb99dd3d18c261b9a237")
	w.lacks("r.git/refs/tags/t")
}
