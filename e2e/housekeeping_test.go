package e2e

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gitcluster/internal/clustertest"
)

// TestHousekeepingUnderLoad gathers packs and refs over and over while clients push
// and read; nobody notices.
func TestHousekeepingUnderLoad(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	deadline := time.Now().Add(loadFor(t) / 2)
	var wg sync.WaitGroup
	var done atomic.Int64
	wg.Go(func() {
		for time.Now().Before(deadline) {
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
		for time.Now().Before(deadline) {
			r := c.Admin.Run(t.TempDir(), "git", "clone", "-q", "ssh://node2/load/kept", "clone")
			if err := r.Err(); err != nil && done.Load() > 0 {
				t.Errorf("clone: %v", err)
				return
			}
		}
	})
	acknowledged := pushUntil(t, c, "load/kept", 4, deadline, func(i int, r clustertest.Result) {
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
