package engine

import (
	"context"
	"testing"
	"time"

	"gitcluster/internal/cluster"
)

// Whoever was told of a head that the journal gives up before their turn comes gets
// where the journal ends then; and the node does not look for what is gone for ever.

func TestHeadOfAnEarlierEpoch(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	a, b := w.nodes["a"], w.nodes["b"]
	tips := a.history(2)
	b.sync()
	w.nodes["c"].sync()
	a.historyFrom(tips[1], 6)
	if err := a.Journal.Trim(t.Context(), w.repo.ID, 6); err != nil {
		t.Fatal(err)
	}
	a.setDown(true)
	at, err := b.Resolve(t.Context(), w.repo.Name, cluster.Current)
	if err != nil {
		t.Fatal(err)
	}
	loss, err := b.Loss(t.Context(), w.repo.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.AcceptLoss(t.Context(), w.repo.ID, loss, "tester", t.TempDir()); err != nil {
		t.Fatal(err)
	}
	b.mustServe(at, string(tips[1]))
}

func TestHeadOfAJournalThatWasPutBack(t *testing.T) {
	w := newWorld(t, "a", "b")
	a := w.nodes["a"]
	tips := a.history(4)
	at, err := a.Resolve(t.Context(), w.repo.Name, cluster.Current)
	if err != nil {
		t.Fatal(err)
	}
	w.putBack(2)
	a.sync()
	done := a.replica(w.repo.ID)
	resynchronized := done.since
	a.mustServe(at, string(tips[1]))
	if done.since != resynchronized || done.hasBeenPutBack() != "" {
		t.Error("the old head was taken for another journal's")
	}
}

// mustServe reads at a head that was told of before, in bounded time.
func (n *node) mustServe(at Resolved, main string) {
	n.w.t.Helper()
	ctx, cancel := context.WithTimeout(n.w.t.Context(), time.Minute)
	defer cancel()
	v, err := n.Sync(ctx, at, nil)
	if err != nil {
		n.w.t.Fatal(err)
	}
	if got := n.w.git(v.Dir, "rev-parse", "refs/heads/main"); got != main {
		n.w.t.Errorf("main is at %s, want %s", got, main)
	}
}
