package engine

import (
	"errors"
	"testing"

	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
	"gitcluster/internal/peer"
)

// A node that is being drained finishes what it let in and takes nothing else:
// neither from another node nor from a mirror's pull.
func TestDrainedNodeCommitsNothingNew(t *testing.T) {
	w := newWorld(t, "a")
	a := w.nodes["a"]
	base := w.commit()
	a.accept(set("refs/heads/main", "", base))
	counted := 0
	a.Drained = func() bool { counted = a.Committing(); return true }
	update := []cluster.RefUpdate{set("refs/heads/x", "", base)}
	if _, err := a.Commit(t.Context(), w.repo.ID, Push{ID: journal.NewID(), Copies: 1, Updates: update}); !errors.Is(err, cluster.ErrDraining) {
		t.Errorf("a new one: %v", err)
	}
	if counted != 1 || a.Committing() != 0 {
		t.Errorf("%d counted when it was asked, %d afterwards", counted, a.Committing())
	}
	if _, err := a.CommitFor(t.Context(), peer.Commit{Repo: w.repo.ID, ID: journal.NewID(), Updates: update, Copies: 1}); !errors.Is(err, peer.ErrNotTried) {
		t.Errorf("another node's: %v", err)
	}
	results, err := a.Commit(t.Context(), w.repo.ID, Push{ID: journal.NewID(), Copies: 1, Updates: update, Admitted: true})
	if err != nil || results[0].Refused != "" {
		t.Errorf("one that was let in: %v, %v", results, err)
	}
}
