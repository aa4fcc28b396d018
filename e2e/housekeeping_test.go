package e2e

import (
	"sync"
	"sync/atomic"
	"testing"

	"gitcluster/internal/clustertest"
)

// TestHousekeepingUnderLoad gathers packs and refs over and over while clients push
// and read; nobody notices.
func TestHousekeepingUnderLoad(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	var wg sync.WaitGroup
	var done atomic.Int64
	s := newSpan(loadFor(t)/2, func() bool { return done.Load() > 0 })
	goesOn := func() bool {
		select {
		case <-s.ended:
			return false
		case <-s.begun:
			return !s.over()
		}
	}
	wg.Go(func() {
		for goesOn() {
			// The repository may not be there yet; at the end it was done often.
			if r := c.Admin.Run("", "git-cluster", "maintain", "load/kept", "--full", "--data", c.Nodes[done.Load()%3].Data); r.Status == 0 {
				done.Add(1)
			} else if done.Load() > 0 {
				t.Errorf("maintain: %v", r.Err())
				return
			}
		}
	})
	wg.Go(func() {
		for goesOn() {
			was := done.Load() // the repository is there
			r := c.Admin.Run(t.TempDir(), "git", "clone", "-q", "ssh://node2/load/kept", "clone")
			if err := r.Err(); err != nil && was > 0 {
				t.Errorf("clone: %v", err)
				return
			}
		}
	})
	acknowledged := pushFor(t, c, "load/kept", 4, s, func(i int, r clustertest.Result) {
		if err := r.Err(); err != nil {
			t.Errorf("client %d: %v", i, err)
		}
	})
	wg.Wait()
	t.Logf("%d rounds", done.Load())
	if done.Load() == 0 {
		t.Errorf("only %d rounds of housekeeping", done.Load())
	}
	checkEverywhere(t, c, "load/kept", acknowledged)
}
