package engine

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
	"gitcluster/internal/peer"
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

// hanging is the other nodes, which take a push over and never answer.
type hanging struct {
	peersOf
	asked chan struct{}
}

func (h hanging) Commit(ctx context.Context, _ cluster.DeviceName, _ peer.Commit) ([]cluster.RefResult, error) {
	close(h.asked)
	<-ctx.Done()
	return nil, peer.ErrUnclear
}

// A node that stops does not wait for another's answer, and tells the client
// none.
func TestStopsWhileAnotherCommits(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.nodes["a"], w.nodes["b"]
	base := w.commit()
	a.accept(set("refs/heads/main", "", base))
	mine := w.commit(base)
	b.upload(base)
	a.upload(mine)
	asked := make(chan struct{})
	a.Peers = hanging{peersOf{a}, asked}
	n := 0
	a.At = func(s Step) {
		if n++; s == StepPrepared {
			b.accept(set(fmt.Sprintf("refs/heads/b%d", n), "", base))
		}
	}
	ended := make(chan error, 1)
	go func() {
		_, err := a.Commit(t.Context(), w.repo.ID, Push{ID: journal.NewID(), Copies: 1, Updates: []cluster.RefUpdate{set("refs/heads/main", base, mine)}})
		ended <- err
	}()
	<-asked
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	closed := make(chan struct{})
	go func() { a.Close(ctx); close(closed) }()
	select {
	case <-closed:
	case <-time.After(30 * time.Second):
		t.Fatal("the node waits for another's answer")
	}
	if err := <-ended; !errors.Is(err, ErrUnclear) {
		t.Errorf("the push ends with %v", err)
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
