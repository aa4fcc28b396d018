package observe

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
)

// run runs an observer until the test ends or the returned function is called.
func run(t *testing.T, o *Observer) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); o.Run(ctx) }()
	once := sync.OnceFunc(func() { cancel(); <-ended })
	t.Cleanup(once)
	return once
}

// Two nodes see that a mirror is due and one of them pulls it, each time.
func TestSchedule(t *testing.T) {
	w := newWorld(t)
	w.commit("one")
	run(t, w.node)
	run(t, w.start("node2", filepath.Join(t.TempDir(), "node2")))
	w.mirror(func(o *cluster.Observation, _ *journal.Secrets) { o.Every = time.Second })
	version := func() cluster.Version {
		_, head, err := w.journal.LookupID(t.Context(), w.repo.ID)
		if err != nil {
			t.Fatal(err)
		}
		return head.Version
	}
	await(t, func() string {
		if v := version(); v != 1 {
			return fmt.Sprintf("the mirror is at version %d", v)
		}
		return ""
	})
	w.commit("two")
	await(t, func() string {
		if v := version(); v != 2 {
			return fmt.Sprintf("the mirror is at version %d", v)
		}
		return ""
	})
	// A change of settings counts at once: slower from now on.
	w.observe(nil)
	await(t, func() string {
		if s := w.state(); s.Next.Before(time.Now().Add(time.Minute)) {
			return fmt.Sprintf("the record is %+v", s)
		}
		return ""
	})
	if strings.Contains(w.log.String(), "could not be pulled") {
		t.Error("a node failed; see its log")
	}
}

// A pull that another node has under way is waited for, and named.
func TestPullWaitsForAnother(t *testing.T) {
	w := newWorld(t)
	w.commit("one")
	w.mirror(nil)
	claim, _, err := w.journal.Claim(t.Context(), w.repo.ID, "node7")
	if err != nil {
		t.Fatal(err)
	}
	defer claim.Release()
	said := make(chan string, 10)
	ended := make(chan error, 1)
	go func() {
		_, err := w.node.Pull(context.Background(), w.repo.ID, Progress{Tell: func(line string) { said <- line }})
		ended <- err
	}()
	if line := <-said; !strings.Contains(line, `"node7"`) {
		t.Errorf("it says %q", line)
	}
	if w.asked.Load() != 0 {
		t.Error("the remote was asked without the claim")
	}
	claim.Release()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	w.same()
}

// A stop ends what is under way, and counts for nothing against the remote.
func TestStopBreaksOff(t *testing.T) {
	w := newWorld(t)
	w.commit("one")
	w.hold = make(chan struct{})
	w.mirror(nil)
	stop := run(t, w.node)
	await(t, func() string {
		if w.asked.Load() == 0 {
			return "the remote was not asked"
		}
		return ""
	})
	start := time.Now()
	stop()
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
	if s := w.state(); s.Failures != 0 {
		t.Errorf("the record is %+v", s)
	}
	if err := w.journal.AwaitClaim(t.Context(), w.repo.ID); err != nil {
		t.Error(err)
	}
}

// A node that has lost the journal's ear stops pulling.
func TestLostClaimBreaksOff(t *testing.T) {
	w := newWorld(t)
	w.commit("one")
	w.hold = make(chan struct{})
	w.mirror(nil)
	claim, _, err := w.journal.Claim(t.Context(), w.repo.ID, "node1")
	if err != nil {
		t.Fatal(err)
	}
	defer claim.Release()
	ended := make(chan error, 1)
	go func() {
		_, err := w.node.pull(context.Background(), claim, w.repo.ID, Progress{})
		ended <- err
	}()
	await(t, func() string {
		if w.asked.Load() == 0 {
			return "the remote was not asked"
		}
		return ""
	})
	leases, err := testClient.Leases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, lease := range leases.Leases {
		if _, err := testClient.Revoke(t.Context(), lease.ID); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "claim") {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(40 * time.Second):
		t.Fatal("it goes on without the claim")
	}
	if s := w.state(); s.Failures != 0 {
		t.Errorf("the record is %+v", s)
	}
}
