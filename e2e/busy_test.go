package e2e

import (
	"testing"
	"time"
)

// On a machine that others use, any process may stand still for seconds. A test that is
// about how fast something is, or about who is the fastest, allows for that as follows.

// within is how long something may take that has a limit where nothing else runs: it
// also has three times what the same takes when nothing is wrong, measured just before,
// and a pause.
func within(limit, usual time.Duration) time.Duration { return limit + 3*usual + 2*time.Second }

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
