package repository

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"gitcluster/internal/cluster"
)

func (w *world) writer() *refWriter {
	w.store.writers.mu.Lock()
	defer w.store.writers.mu.Unlock()
	return w.store.writers.byDir[w.Dir]
}

// TestRefWriterServesAgain has one process make several transactions, between which
// refs, packs and the file of packed refs change without it.
func TestRefWriterServesAgain(t *testing.T) {
	w := newWorld(t)
	one := w.commit()
	w.receive(one)
	w.change(set("refs/heads/main", "", one), set("refs/heads/dir/a", "", one))
	first := w.writer()
	if first == nil {
		t.Fatal("no process waits for more")
	}
	two := w.commit(one)
	w.receive(two) // a pack it has not seen
	w.change(set("refs/heads/main", one, two))
	w.git(w.Dir, "pack-refs", "--all")
	w.change(set("refs/heads/dir/a", one, two))
	w.git(w.Dir, "update-ref", "-d", "refs/heads/dir/a")
	w.change(set("refs/heads/dir", "", two)) // where a folder was
	w.git(w.Dir, "update-ref", "refs/heads/main", string(one))
	if err := w.tryChange(t.Context(), set("refs/heads/main", two, one)); err == nil {
		t.Error("took the value it had written for the one that is there")
	}
	if w.writer() != nil {
		t.Error("a process that failed is kept")
	}
	w.change(set("refs/heads/main", one, two), set("refs/heads/dir", two, ""))
	w.show(map[string]string{"refs/heads/main": string(two)})
	if first.uses != 4 {
		t.Errorf("the first process made %d transactions, want 4", first.uses)
	}
}

// TestRefWriterEnds has idle processes be killed, be let go and meet a context that
// ends: none is used again, and none is left.
func TestRefWriterEnds(t *testing.T) {
	w := newWorld(t)
	one := w.commit()
	w.receive(one)
	w.change(set("refs/heads/a", "", one))
	killed := w.writer()
	killed.cancel()
	<-killed.wait
	w.change(set("refs/heads/b", "", one))

	ctx, cancel := context.WithCancel(t.Context())
	tx, err := w.Begin(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.Prepare([]cluster.RefUpdate{set("refs/heads/c", "", one)}); err != nil {
		t.Fatal(err)
	}
	cancel()
	tx.Abort()
	if w.writer() != nil || !tx.isGone() {
		t.Error("a process outlives the context of its transaction")
	}
	if _, err := os.Stat(filepath.Join(w.Dir, "refs/heads/c.lock")); err == nil {
		t.Error("its lock is left")
	}

	w.change(set("refs/heads/c", "", one))
	idle := w.writer()
	w.store.writers.drop(idle) // as the timer does
	w.change(set("refs/heads/d", "", one))
	last := w.writer()
	w.store.Close()
	if !idle.isGone() || !last.isGone() {
		t.Error("an idle process is left")
	}
	w.change(set("refs/heads/e", "", one))
	if w.writer() != nil {
		t.Error("a process is kept by a store that is closed")
	}
	w.show(map[string]string{"refs/heads/a": string(one), "refs/heads/b": string(one), "refs/heads/c": string(one), "refs/heads/d": string(one), "refs/heads/e": string(one)})
}

// TestRefWritersAreFew keeps no more than there is room for.
func TestRefWritersAreFew(t *testing.T) {
	w := newWorld(t)
	one := w.commit()
	w.receive(one)
	kept := &w.store.writers
	kept.byDir = map[string]*refWriter{}
	for i := range writersKept {
		kept.byDir[string(rune('a'+i))] = nil
	}
	w.change(set("refs/heads/a", "", one))
	if w.writer() != nil {
		t.Error("one more is kept")
	}
	kept.byDir = nil
	for range 2 {
		w.change(set("refs/heads/b", "", one), set("refs/heads/a", one, ""))
		if now := w.writer(); now != nil {
			now.uses = writerUses - 1
		}
		w.change(set("refs/heads/a", "", one), set("refs/heads/b", one, ""))
		if now := w.writer(); now != nil {
			t.Errorf("one is kept after %d transactions", now.uses)
		}
	}
}
