package e2e

import (
	"sync"
	"testing"
	"time"

	"gitcluster/internal/clustertest"
)

// On a machine that others use, any process may stand still for seconds. A test that is
// about how fast something is, or about who is the fastest, allows for that as follows.

// within is how long something may take that has a limit where nothing else runs: it
// also has three times what the same takes when nothing is wrong, measured just before,
// and a pause.
func within(limit, usual time.Duration) time.Duration { return limit + 3*usual + 2*time.Second }

// atOnce runs commands beside each other and returns how they ended, by what they are
// called, and how long the slowest took.
func atOnce(commands map[string]func() clustertest.Result) (ended map[string]clustertest.Result, slowest time.Duration) {
	ended = map[string]clustertest.Result{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for what, run := range commands {
		all.Go(func() {
			r := run()
			mu.Lock()
			defer mu.Unlock()
			ended[what] = r
			slowest = max(slowest, r.Took)
		})
	}
	all.Wait()
	return ended, slowest
}

// attempt begins again some times when it finds a problem: what is wrong is wrong every
// time.
func attempt(t *testing.T, try func() (problem string)) {
	t.Helper()
	const tries = 5
	for n := 1; ; n++ {
		problem := try()
		if problem == "" {
			return
		}
		if n == tries {
			t.Errorf("for the %dth time: %s", n, problem)
			return
		}
		t.Logf("once more: %s", problem)
	}
}
