package e2e

import (
	"fmt"
	"maps"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"gitcluster/internal/clustertest"
)

// loadFor is how long the tests with many clients run.
func loadFor(t testing.TB) time.Duration {
	if text := os.Getenv("GIT_CLUSTER_TEST_SECONDS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("GIT_CLUSTER_TEST_SECONDS: %v", err)
		}
		return time.Duration(n) * time.Second
	}
	return 10 * time.Second
}

// TestManyClients lets eight clients push to branches of their own through
// different nodes; every push that was acknowledged is on every node, and every
// node's repository is sound.
func TestManyClients(t *testing.T) {
	c := sharedCluster(t)
	acknowledged := pushUntil(t, c, "load/a", 8, time.Now().Add(loadFor(t)), func(i int, r clustertest.Result) {
		if err := r.Err(); err != nil {
			t.Errorf("client %d: %v", i, err)
		}
	})
	checkEverywhere(t, c, "load/a", acknowledged)
}

// pushUntil runs clients that push until the deadline and returns the value of each
// ref whose push was acknowledged last. after sees every push.
func pushUntil(t *testing.T, c *clustertest.Cluster, repo string, clients int, deadline time.Time, after func(int, clustertest.Result)) map[string]string {
	t.Helper()
	c.Admin.Must(t, "", "git-cluster", "repo", "create", repo, "--data", c.Nodes[0].Data)
	var mu sync.Mutex
	acknowledged := map[string]string{}
	pushes := 0
	var wg sync.WaitGroup
	for i := range clients {
		work := newWork(t, c.Admin)
		u := c.Admin.Via(c.Nodes[i%len(c.Nodes)].Name)
		wg.Go(func() {
			for n := 0; time.Now().Before(deadline) && !t.Failed(); n++ {
				if err := writeFile(work+"/f", fmt.Sprint(i, n)); err != nil {
					t.Error(err)
					return
				}
				made := u.Run(work, "sh", "-c", "git add f && git commit -q -m f && git rev-parse HEAD")
				if err := made.Err(); err != nil {
					t.Error(err)
					return
				}
				ref := fmt.Sprintf("refs/heads/c%d", i)
				r := u.Run(work, "git", "push", "-q", "cluster::"+repo, "HEAD:"+ref)
				if r.Status == 0 {
					mu.Lock()
					acknowledged[ref] = made.Stdout[:40]
					pushes++
					mu.Unlock()
				}
				after(i, r)
			}
		})
	}
	wg.Wait()
	t.Logf("%d pushes acknowledged", pushes)
	if pushes == 0 {
		t.Error("no push was acknowledged")
	}
	return acknowledged
}

// checkEverywhere looks for every value on every node, and lets Git check every
// node's repository.
func checkEverywhere(t *testing.T, c *clustertest.Cluster, repo string, want map[string]string) {
	t.Helper()
	var first map[string]string
	for _, n := range c.Nodes {
		got := lsRemote(t, c.Admin, n.Name, repo)
		for ref, oid := range want {
			if got[ref] != oid {
				t.Errorf("%s shows %s at %q, acknowledged was %s", n.Name, ref, got[ref], oid)
			}
		}
		if first == nil {
			first = got
		} else if !maps.Equal(first, got) {
			t.Errorf("%s and %s show different refs:\n%v\n%v", n.Name, c.Nodes[0].Name, got, first)
		}
	}
	fsck(t, c, repo)
}

func fsck(t *testing.T, c *clustertest.Cluster, repo string) {
	t.Helper()
	for name, dir := range c.Repository(t, repo) {
		r := c.Admin.Run("", "git", "-c", "safe.directory=*", "-C", dir, "fsck", "--full", "--no-dangling", "--no-progress")
		if err := r.Err(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
