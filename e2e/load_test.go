package e2e

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
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
	if clustertest.Long() {
		return 30 * time.Second
	}
	return 10 * time.Second
}

// A span is the time for which clients push. It begins when all are ready, and goes on
// for a while until enough has happened, which takes longer on a busy machine.
type span struct {
	length time.Duration
	enough func() bool   // nil: always
	begun  chan struct{} // closed when it begins
	ended  chan struct{} // closed when the clients have ended
	start  time.Time
}

func newSpan(length time.Duration, enough func() bool) *span {
	return &span{length: length, enough: enough, begun: make(chan struct{}), ended: make(chan struct{})}
}

// over may be asked when it has begun.
func (s *span) over() bool {
	since := time.Since(s.start)
	return since > s.length && (s.enough == nil || s.enough() || since > s.length+2*time.Minute)
}

// TestManyClients lets eight clients push to branches of their own through
// different nodes; every push that was acknowledged is on every node, and every
// node's repository is sound.
func TestManyClients(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	acknowledged := pushFor(t, c, "load/a", 8, newSpan(loadFor(t), nil), func(i int, r clustertest.Result) {
		if err := r.Err(); err != nil {
			t.Errorf("client %d: %v", i, err)
		}
	})
	checkEverywhere(t, c, "load/a", acknowledged)
}

// pushFor runs clients that push for a span, and until a push was acknowledged, and
// returns the value of each ref whose push was acknowledged last. after sees every push.
func pushFor(t *testing.T, c *clustertest.Cluster, repo string, clients int, s *span, after func(int, clustertest.Result)) map[string]string {
	t.Helper()
	defer close(s.ended)
	c.Admin.Must(t, "", "git-cluster", "repo", "create", repo, "--data", c.Nodes[0].Data)
	var mu sync.Mutex
	acknowledged := map[string]string{}
	pushes := 0
	over := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return t.Failed() || s.over() && (pushes > 0 || time.Since(s.start) > s.length+2*time.Minute)
	}
	var works []string
	for range clients {
		works = append(works, newWork(t, c.Admin))
	}
	s.start = time.Now()
	close(s.begun)
	var wg sync.WaitGroup
	for i, work := range works {
		u := c.Admin.Via(c.Nodes[i%len(c.Nodes)].Name)
		wg.Go(func() {
			for n := 0; !over(); n++ {
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

// TestOneBranch lets clients of all nodes push to the same branch, each on top of
// what it finds: every acknowledged commit is in the history, once.
func TestOneBranch(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	u := c.Admin
	first := newWork(t, u)
	u.Commit(t, first, "start", "0")
	u.Git(t, first, "push", "-q", "cluster::load/one", "main")
	const clients, each = 4, 5
	var wg sync.WaitGroup
	for i := range clients {
		via := u.Via(c.Nodes[i%3].Name)
		work := filepath.Join(t.TempDir(), "clone")
		via.Git(t, "", "clone", "-q", "cluster::load/one", work)
		wg.Go(func() {
			for n := range each {
				if err := writeFile(filepath.Join(work, fmt.Sprintf("c%d", i)), fmt.Sprint(n)); err != nil {
					t.Error(err)
					return
				}
				r := via.Run(work, "sh", "-c", "git add . && git commit -q -m "+fmt.Sprintf("c%d.%d", i, n))
				for tries := 0; r.Status == 0; tries++ {
					if r = via.Run(work, "git", "push", "-q", "origin", "main"); r.Status == 0 {
						break
					}
					if !strings.Contains(r.Stderr, "fetch first") && !strings.Contains(r.Stderr, "non-fast-forward") || tries == 50 {
						break
					}
					r = via.Run(work, "git", "pull", "-q", "--rebase")
				}
				if err := r.Err(); err != nil {
					t.Errorf("client %d, commit %d: %v", i, n, err)
					return
				}
			}
		})
	}
	wg.Wait()
	u.Via("node2").Git(t, first, "pull", "-q", "--ff-only", "cluster::load/one", "main")
	var subjects, want []string
	for line := range strings.Lines(u.Git(t, first, "log", "--format=%s", "main", "--", "c*")) {
		subjects = append(subjects, strings.TrimSpace(line))
	}
	for i := range clients {
		for n := range each {
			want = append(want, fmt.Sprintf("c%d.%d", i, n))
		}
	}
	slices.Sort(subjects)
	if !slices.Equal(subjects, want) {
		t.Errorf("commits on the branch: %v, want %v", subjects, want)
	}
	checkEverywhere(t, c, "load/one", map[string]string{"refs/heads/main": u.Git(t, first, "rev-parse", "main")})
}
