package engine

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
)

// held is two nodes with a repository that an operator holds on b.
func held(t *testing.T) (w *world, b *node, tips []cluster.OID, dir string) {
	t.Helper()
	w = newWorld(t, "a", "b")
	tips = w.nodes["a"].history(2)
	b = w.nodes["b"]
	v, _ := b.sync()
	if err := b.Lock(t.Context(), w.repo.ID, "tester"); err != nil {
		t.Fatal(err)
	}
	return w, b, tips, v.Dir
}

var operator = cluster.Identity{User: "tester"}

// What an operator changes on the disk becomes one entry; until then nobody
// pushes, and nobody reads it there.
func TestLock(t *testing.T) {
	w, b, tips, dir := held(t)
	a := w.nodes["a"]
	got := refused(a.push(Push{Updates: []cluster.RefUpdate{set("refs/heads/x", "", tips[1])}}))
	if !strings.Contains(got["refs/heads/x"], "tester holds the repository") {
		t.Errorf("a push to a held repository: %v", got)
	}
	if _, err := b.read(t.Context()); !errors.Is(err, cluster.ErrLocked) {
		t.Errorf("read where it is held: %v", err)
	}
	a.sync()
	w.git(dir, "update-ref", "refs/heads/main", string(tips[0]))
	w.git(dir, "update-ref", "refs/heads/new", string(tips[1]))
	w.git(dir, "symbolic-ref", "HEAD", "refs/heads/new")
	b = w.restart("b", func(string) {}) // which changes nothing of that
	if _, err := b.read(t.Context()); !errors.Is(err, cluster.ErrLocked) {
		t.Errorf("read after a restart: %v", err)
	}
	changed, err := b.Release(t.Context(), w.repo.ID, operator, false)
	if err != nil || len(changed) != 2 {
		t.Fatal(changed, err)
	}
	w.same(map[string]string{"HEAD": "refs/heads/new", "refs/heads/main": string(tips[0]), "refs/heads/new": string(tips[1])})
	a.accept(set("refs/heads/x", "", tips[1]))
}

// A repair leaves alone what an operator is at work on.
func TestRepairWhileHeld(t *testing.T) {
	w, b, tips, dir := held(t)
	w.git(dir, "update-ref", "refs/heads/main", string(tips[0]))
	if kept, err := b.Repair(t.Context(), w.repo.ID); !errors.Is(err, cluster.ErrLocked) {
		t.Errorf("repaired: %v, %v", kept, err)
	}
	if _, err := b.Release(t.Context(), w.repo.ID, operator, false); err != nil {
		t.Fatal(err)
	}
	w.same(map[string]string{"refs/heads/main": string(tips[0])})
}

// A lock that another has leaves no mark on this disk, by which a later life of the node
// would not trust it.
func TestLockThatFails(t *testing.T) {
	w, _, _, _ := held(t)
	a := w.nodes["a"]
	v, _ := a.sync()
	if err := a.Lock(t.Context(), w.repo.ID, "another"); !errors.Is(err, cluster.ErrLocked) {
		t.Errorf("locked twice: %v", err)
	}
	if _, err := os.Stat(filepath.Join(v.Dir, "cluster-held")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the disk is marked as held: %v", err)
	}
	a.sync()
}

// One of which nobody knows whether it was made is undone: the operator was told that it
// failed.
func TestLockThatIsUnclear(t *testing.T) {
	w := newWorld(t, "a")
	a := w.nodes["a"]
	tips := a.history(2)
	v, _ := a.sync()
	ctx, cancel := context.WithCancel(t.Context())
	r := a.replica(w.repo.ID)
	if err := r.lock(ctx); err != nil {
		t.Fatal(err)
	}
	if err := r.repo.SetHeld(true); err != nil {
		t.Fatal(err)
	}
	lock := journal.Lock{Device: "a", By: "tester", Since: time.Now().UTC()}
	if err := a.Journal.Lock(ctx, w.repo.ID, lock); err != nil { // as the attempt below has, unheard
		t.Fatal(err)
	}
	cancel()
	if err := a.lockJournal(ctx, r, lock); err == nil {
		t.Error("locked under a context that has ended")
	}
	r.unlock()
	if _, err := os.Stat(filepath.Join(v.Dir, "cluster-held")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the disk is marked as held: %v", err)
	}
	a.accept(set("refs/heads/x", "", tips[1]))
}

// An operator who did not hear that the lock has ended can end it again.
func TestReleaseTwice(t *testing.T) {
	w, b, tips, _ := held(t)
	lock, err := b.Journal.LockOf(t.Context(), w.repo.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Journal.Unlock(t.Context(), w.repo.ID, lock); err != nil { // as the first attempt has
		t.Fatal(err)
	}
	if _, err := b.Release(t.Context(), w.repo.ID, operator, false); err != nil {
		t.Fatal(err)
	}
	w.same(map[string]string{"refs/heads/main": string(tips[1])})
	if _, err := b.Release(t.Context(), w.repo.ID, operator, false); !errors.Is(err, cluster.ErrNotFound) {
		t.Errorf("released what nobody holds: %v", err)
	}
}

// A lock whose node is gone can be abandoned on another.
func TestHolderIsGone(t *testing.T) {
	w, b, tips, _ := held(t)
	b.Close(t.Context())
	a := w.nodes["a"]
	if _, err := a.Release(t.Context(), w.repo.ID, operator, false); !errors.Is(err, cluster.ErrLocked) {
		t.Errorf("what another node's disk shows was entered: %v", err)
	}
	if _, err := a.Release(t.Context(), w.repo.ID, operator, true); err != nil {
		t.Fatal(err)
	}
	a.accept(set("refs/heads/x", "", tips[1]))
}

// What a disk shows that was exchanged meanwhile is nobody's work.
func TestHeldDiskIsExchanged(t *testing.T) {
	w, _, tips, _ := held(t)
	b := w.restart("b", func(dir string) {
		w.git(dir, "update-ref", "refs/heads/main", string(tips[0]))
		doubt(t, dir)
	})
	if changed, err := b.Release(t.Context(), w.repo.ID, operator, false); err == nil {
		t.Errorf("entered from a backup: %v", changed)
	}
	if _, err := b.Release(t.Context(), w.repo.ID, operator, true); err != nil {
		t.Fatal(err)
	}
	b.dropStrays()
	w.same(map[string]string{"refs/heads/main": string(tips[1])})
}

// What no push could make is not entered either.
func TestEnterWhatNoPushCould(t *testing.T) {
	w, b, tips, dir := held(t)
	w.git(dir, "update-ref", "refs/heads/Main", string(tips[0]))
	if changed, err := b.Release(t.Context(), w.repo.ID, operator, false); err == nil {
		t.Errorf("two names that differ only in case: %v", changed)
	}
	w.git(dir, "update-ref", "-d", "refs/heads/Main")
	w.git(dir, "symbolic-ref", "HEAD", "refs/tags/x")
	if changed, err := b.Release(t.Context(), w.repo.ID, operator, false); err == nil {
		t.Errorf("HEAD is no branch: %v", changed)
	}
	w.git(dir, "symbolic-ref", "HEAD", "refs/heads/main")
	if _, err := b.Release(t.Context(), w.repo.ID, operator, false); err != nil {
		t.Error(err)
	}
}
