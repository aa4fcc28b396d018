package engine

import (
	"testing"
	"time"

	"gitcluster/internal/cluster"
)

// TestWorking holds a catch-up before its first step and looks at what the node says
// of it.
func TestWorking(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.nodes["a"].accept(set("refs/heads/main", "", w.commit()))
	b := w.nodes["b"]
	if working := b.Working(); len(working) != 0 {
		t.Fatalf("before: %v", working)
	}
	at, err := b.Resolve(t.Context(), w.repo.Name, cluster.Current)
	if err != nil {
		t.Fatal(err)
	}
	r := b.replica(w.repo.ID)
	if err := r.lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	synced := make(chan error, 1)
	go func() {
		_, err := b.Sync(t.Context(), at, nil)
		synced <- err
	}()
	deadline := time.Now().Add(time.Minute)
	for len(b.Working()) == 0 {
		if time.Now().After(deadline) {
			t.Fatal("the catch-up is not told of")
		}
		time.Sleep(time.Millisecond)
	}
	if a := b.Working()[w.repo.ID]; a.From != 0 || a.To != 1 || time.Since(a.Since) > time.Minute {
		t.Errorf("under way: %+v", a)
	}
	r.unlock()
	if err := <-synced; err != nil {
		t.Fatal(err)
	}
	if working := b.Working(); len(working) != 0 {
		t.Errorf("after: %v", working)
	}
}
