package journal

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"gitcluster/internal/cluster"
)

// abandoned writes the chunks of a large entry that is never appended, and returns
// the entry.
func (w *world) abandoned(repo cluster.RepoID, head Head) Entry {
	w.t.Helper()
	e := entry(head, 7)
	e.Updates = many(10_000)
	stored, chunks, err := split(e)
	if err != nil {
		w.t.Fatal(err)
	}
	for n, chunk := range chunks {
		if _, err := w.client.Put(w.t.Context(), chunkKey(repo, stored.ChunkID, n), chunk); err != nil {
			w.t.Fatal(err)
		}
	}
	return stored
}

func (w *world) sweep(every time.Duration) int {
	w.t.Helper()
	n, err := w.Sweep(w.t.Context(), every)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// What no entry names goes after a day; what one names, and what is new, stays.
func TestSweep(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		repo, head := w.create("a")
		e := entry(head, 1)
		e.Updates = many(10_000)
		head = w.append(repo.ID, head, e)
		named := w.count(keyChunk)
		w.abandoned(repo.ID, head)
		w.abandoned("ffffffffffffffff", Head{}) // written when its repository was deleted
		w.append(repo.ID, head, entry(head, 2))
		if n := w.sweep(0); n != 0 {
			t.Errorf("the first sweep removed %d: nobody knows how old they are", n)
		}
		fresh := w.abandoned(repo.ID, head)
		if n := w.sweep(time.Hour); n != 0 {
			t.Errorf("a sweep too soon removed %d", n)
		}
		if n := w.sweep(0); n != 2 {
			t.Errorf("the second sweep removed %d, want 2", n)
		}
		if n := w.count(keyChunk + string(repo.ID) + "/" + fresh.ChunkID); n == 0 {
			t.Error("it removed what was written since the first")
		}
		if n := w.sweep(0); n != 1 || w.count(keyChunk) != named {
			t.Errorf("the third sweep removed %d, want 1; %d keys are left, want %d", n, w.count(keyChunk), named)
		}
		if got, err := w.Entries(ctx, repo.ID, 0, 2); err != nil || !slices.Equal(got[0].Updates, e.Updates) {
			t.Errorf("%d entries, %v", len(got), err)
		}
		_, now, err := w.LookupID(ctx, repo.ID)
		if err != nil {
			t.Fatal(err)
		}
		w.append(repo.ID, now, entry(now, 3))
	})
}

// An append that has waited for etcd since before the last sweep lands whole or not
// at all.
func TestSweepBesideALateAppend(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		repo, head := w.create("a")
		e := entry(head, 1)
		e.Updates = many(10_000)
		slow := &slowKV{KV: w.client, then: cancel}
		if _, err := NewOver(w.client, slow).Append(ctx, repo.ID, head, e, nil); !errors.Is(err, ErrUnclear) {
			t.Fatal(err)
		}
		w.sweep(0)
		if n := w.sweep(0); n != 1 {
			t.Errorf("%d chunks were removed, want 1", n)
		}
		if slow.land() {
			_, err := w.Entries(t.Context(), repo.ID, 0, 1)
			t.Errorf("the append landed after its chunks were removed: %v", err)
		}
	})
}

// Of two nodes that sweep at once one does.
func TestSweepAtTheSameTime(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		repo, head := w.create("a")
		w.abandoned(repo.ID, head)
		w.sweep(0)
		other, looked := 0, false
		kv := &faultyKV{KV: &readKV{KV: w.client, prefix: keyChunk, read: func() { looked = true }}}
		kv.set(func(landed bool) bool {
			if !landed {
				kv.lose = nil
				other = w.sweep(0) // comes between this one's look at the record and its change
			}
			return false
		})
		n, err := NewOver(w.client, kv).Sweep(t.Context(), 0)
		if err != nil || n != 0 || other != 1 || looked {
			t.Errorf("one removed %d, the other %d, %v; it looked: %v", other, n, err, looked)
		}
	})
}
