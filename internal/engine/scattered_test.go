package engine

import (
	"errors"
	"testing"

	"gitcluster/internal/cluster"
)

// scatter has a take pushes at the same time that other nodes hold in part: held[i] is
// who holds the i-th besides a. Then a is gone.
func (w *world) scatter(held ...[]cluster.DeviceName) []cluster.OID {
	w.t.Helper()
	a := w.nodes["a"]
	base := w.commit()
	a.accept(set("refs/heads/main", "", base))
	for _, n := range w.nodes {
		n.sync()
	}
	never := make(chan struct{})
	w.t.Cleanup(func() { close(never) })
	var tips []cluster.OID
	for i, names := range held {
		tips = append(tips, w.commit(base))
		for name, n := range w.nodes {
			if name != "a" {
				n.setSlow(never)
			}
		}
		for _, name := range names {
			w.nodes[name].setSlow(nil)
		}
		branch := "refs/heads/" + string(rune('p'+i))
		results := a.push(Push{Copies: 1 + len(names), Updates: []cluster.RefUpdate{set(branch, "", tips[i])}})
		if results[0].Refused != "" {
			w.t.Fatalf("push %d: %s", i, results[0].Refused)
		}
	}
	a.setDown(true)
	return tips
}

// TestScattered holds that nothing is lost when the node that took several pushes is
// gone, and each of the others holds only some of them.
func TestScattered(t *testing.T) {
	type names = []cluster.DeviceName
	for name, c := range map[string]struct {
		nodes names
		held  []names
	}{
		"two pushes, three nodes": {names{"a", "b", "c"}, []names{{"b"}, {"c"}}},
		"five pushes, four nodes": {names{"a", "b", "c", "d"}, []names{{"b"}, {"c"}, {"d"}, {"c"}, {"b"}}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, c.nodes...)
			tips := w.scatter(c.held...)
			for _, name := range c.nodes[1:] {
				v, err := w.nodes[name].read(t.Context())
				if err != nil {
					t.Errorf("%s: %v", name, err)
					continue
				}
				for i, tip := range tips {
					if got := w.git(v.Dir, "rev-parse", "refs/heads/"+string(rune('p'+i))); got != string(tip) {
						t.Errorf("%s: push %d is at %s, want %s", name, i, got, tip)
					}
				}
				w.git(v.Dir, "fsck", "--connectivity-only")
			}
		})
	}
}

// TestScatteredResync is the same for a node that trusts nothing on its disk.
func TestScatteredResync(t *testing.T) {
	w := newWorld(t, "a", "b", "c", "d")
	w.scatter([]cluster.DeviceName{"b"}, []cluster.DeviceName{"c"}, []cluster.DeviceName{"b"})
	d := w.nodes["d"]
	if _, err := d.Repair(t.Context(), w.repo.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := d.read(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestScatteredAndLost holds that what nobody has is said to be lost after few
// questions, however many refs there are.
func TestScatteredAndLost(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	a, b, c := w.nodes["a"], w.nodes["b"], w.nodes["c"]
	base := w.commit()
	a.accept(set("refs/heads/main", "", base))
	b.sync()
	c.sync()
	never := make(chan struct{})
	defer close(never)
	b.setSlow(never)
	c.setSlow(never)
	var updates []cluster.RefUpdate
	for i := range 16 {
		updates = append(updates, set("refs/heads/n"+string(rune('a'+i/26))+string(rune('a'+i%26)), "", w.commit(base)))
	}
	if results := a.push(Push{Copies: 1, Updates: updates}); results[0].Refused != "" {
		t.Fatal(results[0].Refused)
	}
	a.setDown(true)
	before := c.served()
	if _, err := b.read(t.Context()); !errors.Is(err, cluster.ErrNoReplica) {
		t.Errorf("b reads what only a has: %v", err)
	}
	if asked := c.served() - before; asked > 2*5 {
		t.Errorf("c was asked %d times", asked)
	}
	a.setDown(false)
	if _, err := b.read(t.Context()); err != nil {
		t.Errorf("a is back: %v", err)
	}
}

func (n *node) served() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.packs
}
