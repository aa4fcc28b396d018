package engine

import (
	"fmt"
	"testing"

	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
)

// A node that loses every race has its push committed by the one that wins.
func TestDistantNode(t *testing.T) {
	for _, copies := range []int{1, 2} {
		t.Run(fmt.Sprint("copies ", copies), func(t *testing.T) {
			w := newWorld(t, "a", "b")
			a, b := w.nodes["a"], w.nodes["b"]
			base := w.commit()
			a.accept(set("refs/heads/main", "", base))
			mine, bad := w.commit(base), w.commit()
			b.upload(base)
			n := 0
			a.At = func(s Step) {
				if s != StepPrepared {
					return
				}
				n++ // each time a has locked its refs, b is faster
				got, err := b.Commit(t.Context(), w.repo.ID, Push{ID: journal.NewID(), Copies: 1,
					Updates: []cluster.RefUpdate{set(fmt.Sprintf("refs/heads/b%d", n), "", base)}})
				if err != nil || got[0].Refused != "" {
					t.Errorf("b: %v, %v", got, err)
				}
			}
			got := a.push(Push{Copies: copies, Updates: []cluster.RefUpdate{set("refs/heads/main", base, mine), set("refs/heads/x", bad, mine)}})
			if got[0].Refused != "" || got[1].Refused == "" {
				t.Errorf("got %v", got)
			}
			if n != outrunAfter || b.given != 1 {
				t.Errorf("a lost %d times, b was handed %d pushes", n, b.given)
			}
			a.At = func(Step) {}
			want := map[string]string{"refs/heads/main": string(mine)}
			for i := range n {
				want[fmt.Sprintf("refs/heads/b%d", i+1)] = string(base)
			}
			w.same(want)
			if e := w.newest(); e.Device != "b" || e.Pushes[0].Actor != "tester" {
				t.Errorf("the entry: %+v", e)
			}
		})
	}
}

// While the winner cannot be reached, the push goes on by itself.
func TestDistantNodeWithoutHelp(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.nodes["a"], w.nodes["b"]
	base := w.commit()
	a.accept(set("refs/heads/main", "", base))
	mine := w.commit(base)
	b.upload(base)
	n := 0
	a.At = func(s Step) {
		if n++; s != StepPrepared || n > 2*outrunAfter {
			return
		}
		if got, err := b.Commit(t.Context(), w.repo.ID, Push{ID: journal.NewID(), Copies: 1,
			Updates: []cluster.RefUpdate{set(fmt.Sprintf("refs/heads/b%d", n), "", base)}}); err != nil || got[0].Refused != "" {
			t.Errorf("b: %v, %v", got, err)
		}
	}
	b.setDown(true)
	if got := refused(a.push(Push{Updates: []cluster.RefUpdate{set("refs/heads/main", base, mine)}})); got["refs/heads/main"] != "" {
		t.Error(got)
	}
}
