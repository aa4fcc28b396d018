package engine

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
)

// large skips a test that takes minutes unless it is asked for.
func large(t *testing.T) {
	if os.Getenv("GIT_CLUSTER_TEST_LONG") == "" {
		t.Skip("takes minutes: set GIT_CLUSTER_TEST_LONG")
	}
}

// A push of one ref, and the catch-up of another node, cost about the same with
// many refs as with few. They are measured in turn, because a machine has its moods.
func TestManyRefs(t *testing.T) {
	large(t)
	few, loose, packed := withRefs(t, 10), withRefs(t, 100_000), withRefs(t, 100_000)
	start := time.Now()
	for _, n := range packed.nodes {
		n.maintain(false)
	}
	t.Logf("refs packed in %v", time.Since(start))
	for range 21 {
		for _, m := range []*measured{few, loose, packed} {
			m.measure()
		}
	}
	for what, m := range map[string]*measured{"10 refs": few, "100,000 refs": loose, "100,000 packed refs": packed} {
		push, follow := middle(m.pushes), middle(m.follows)
		t.Logf("%s: push %v, catch-up %v", what, push, follow)
		if push > 2*middle(few.pushes) || follow > 2*middle(few.follows) {
			t.Errorf("with %s a push takes %v and a catch-up %v; with 10 they take %v and %v", what, push, follow, middle(few.pushes), middle(few.follows))
		}
	}
}

// measured is two nodes with a repository of many refs.
type measured struct {
	*world
	tip             cluster.OID
	pushes, follows []time.Duration
}

func withRefs(t *testing.T, refs int) *measured {
	m := &measured{world: newWorld(t, "a", "b")}
	a, b := m.nodes["a"], m.nodes["b"]
	m.tip = m.commit()
	start := time.Now()
	for n := 0; n < refs; n += 20_000 {
		var updates []cluster.RefUpdate
		for i := n; i < min(refs, n+20_000); i++ {
			updates = append(updates, set(fmt.Sprintf("refs/heads/f%d/b%d", i/100, i), "", m.tip))
		}
		a.accept(updates...)
	}
	pushed := time.Since(start)
	start = time.Now()
	b.sync()
	t.Logf("%d refs were pushed in %v, and caught up with in %v", refs, pushed, time.Since(start))
	return m
}

// measure pushes to one ref, and catches up with it on the other node.
func (m *measured) measure() {
	a, b := m.nodes["a"], m.nodes["b"]
	next := m.commit(m.tip)
	a.upload(next)
	start := time.Now()
	got, err := a.Commit(m.t.Context(), m.repo.ID, Push{ID: journal.NewID(), Copies: 1, Updates: []cluster.RefUpdate{set("refs/heads/f0/b0", m.tip, next)}})
	if err != nil || got[0].Refused != "" {
		m.t.Fatal(got, err)
	}
	m.pushes = append(m.pushes, time.Since(start))
	start = time.Now()
	if _, err := b.read(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
	m.follows = append(m.follows, time.Since(start))
	m.tip = next
}

func middle(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}
