package repository

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitexec"
)

// A world is a store with one repository, and a scratch repository in which
// history is made.
type world struct {
	*Repository
	t      testing.TB
	store  *Store
	record cluster.Repo
	home   string
	work   string
	made   int
}

const testID cluster.RepoID = "0123456789abcdef"

func newWorld(t testing.TB) *world { return newWorldOf(t, cluster.SHA1) }

func newWorldOf(t testing.TB, format cluster.ObjectFormat) *world {
	t.Helper()
	w := &world{t: t, home: t.TempDir(), work: filepath.Join(t.TempDir(), "work")}
	w.git("", "init", "-q", "--object-format="+string(format), w.work)
	var err error
	if w.store, err = NewStore(filepath.Join(t.TempDir(), "repositories"), &gitexec.Runner{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.store.Close() })
	w.record = cluster.Repo{ID: testID, Name: "demo/hello", Format: format, InitialHead: "refs/heads/main"}
	if w.Repository, err = w.store.Create(t.Context(), w.record); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) git(dir string, args ...string) string {
	w.t.Helper()
	out, err := w.tryGit(dir, "", args...)
	if err != nil {
		w.t.Fatalf("git %s: %v", strings.Join(args, " "), err)
	}
	return out
}

func (w *world) tryGit(dir, stdin string, args ...string) (string, error) {
	out, err := w.tryGitBytes(dir, stdin, args...)
	return strings.TrimSpace(string(out)), err
}

func (w *world) tryGitBytes(dir, stdin string, args ...string) ([]byte, error) {
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(stdin)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.home, "GIT_CONFIG_NOSYSTEM=1", "LC_ALL=C",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com"}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, &stderr)
	}
	return out, err
}

// commit makes a commit on top of parents in the scratch repository.
func (w *world) commit(parents ...cluster.OID) cluster.OID {
	w.t.Helper()
	w.made++
	// Most of the file stays the same and does not compress, so that a thin pack
	// is seen to hold a delta.
	rng := rand.New(rand.NewPCG(1, 1))
	var text strings.Builder
	for range 200 {
		fmt.Fprintf(&text, "%x\n", rng.Uint64())
	}
	fmt.Fprintf(&text, "version %d\n", w.made)
	if err := os.WriteFile(filepath.Join(w.work, "file"), []byte(text.String()), 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.git(w.work, "add", "file")
	args := []string{"commit-tree", "-m", fmt.Sprint("commit ", w.made), w.git(w.work, "write-tree")}
	for _, p := range parents {
		args = append(args, "-p", string(p))
	}
	return cluster.OID(w.git(w.work, args...))
}

// pack is a thin pack of what wants reach and haves do not.
func (w *world) pack(wants, haves []cluster.OID) []byte {
	w.t.Helper()
	out, err := w.tryGitBytes(w.work, revs(wants, haves), "pack-objects", "--revs", "--stdout", "--thin", "-q")
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// revs names what a pack is to have.
func revs(wants, haves []cluster.OID) string {
	var revs strings.Builder
	for _, oid := range wants {
		fmt.Fprintln(&revs, oid)
	}
	for _, oid := range haves {
		fmt.Fprintf(&revs, "^%s\n", oid)
	}
	return revs.String()
}

// bare is a pack of exactly these objects.
func (w *world) bare(oids ...cluster.OID) []byte {
	w.t.Helper()
	var list strings.Builder
	for _, oid := range oids {
		fmt.Fprintln(&list, oid)
	}
	cmd := exec.Command("git", "pack-objects", "--stdout", "-q")
	cmd.Dir, cmd.Stdin = w.work, strings.NewReader(list.String())
	out, err := cmd.Output()
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// receive stores the history of oids in the repository.
func (w *world) receive(oids ...cluster.OID) {
	w.t.Helper()
	if err := w.ReadPack(w.t.Context(), bytes.NewReader(w.pack(oids, nil)), oids, nil); err != nil {
		w.t.Fatal(err)
	}
}

// change commits a transaction.
func (w *world) change(updates ...cluster.RefUpdate) {
	w.t.Helper()
	if err := w.tryChange(w.t.Context(), updates...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) tryChange(ctx context.Context, updates ...cluster.RefUpdate) error {
	tx, err := w.Begin(ctx, 1)
	if err != nil {
		return err
	}
	defer tx.Abort()
	if err := tx.Prepare(updates); err != nil {
		return err
	}
	return tx.Commit()
}

func (w *world) refs() map[string]string {
	w.t.Helper()
	refs := map[string]string{}
	for line := range strings.Lines(w.git(w.Dir, "for-each-ref", "--format=%(refname) %(objectname)")) {
		ref, oid, _ := strings.Cut(strings.TrimSpace(line), " ")
		refs[ref] = oid
	}
	return refs
}

func (w *world) show(want map[string]string) {
	w.t.Helper()
	if got := w.refs(); fmt.Sprint(got) != fmt.Sprint(want) {
		w.t.Errorf("the refs are %v, want %v", got, want)
	}
}

// files lists what is below a folder of the repository.
func (w *world) files(folder string) []string {
	w.t.Helper()
	var all []string
	root := filepath.Join(w.Dir, folder)
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		rel, _ := filepath.Rel(root, path)
		all = append(all, rel)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return all
}

// locks lists the lock files and unfinished files of the repository.
func (w *world) locks() []string {
	var locks []string
	for _, f := range w.files(".") {
		if strings.HasSuffix(f, ".lock") || strings.HasSuffix(f, ".new") {
			locks = append(locks, f)
		}
	}
	return locks
}

func set(ref string, old, new cluster.OID) cluster.RefUpdate {
	return cluster.RefUpdate{Ref: cluster.RefName(ref), Old: old, New: new}
}

// within fails the test if do takes longer than anything here may.
func within(t testing.TB, what string, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s: still not done after 20 s", what)
	}
}
