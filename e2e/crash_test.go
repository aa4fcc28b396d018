package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gitcluster/internal/clustertest"
)

// TestKillAmongPushes kills one node after another while clients push, and
// starts each again: nobody has to repair anything, and nothing is lost.
func TestKillAmongPushes(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 3)
	var kills, refused atomic.Int64
	s := newSpan(loadFor(t), func() bool { return kills.Load() > 0 && refused.Load() > 0 })
	landed := make(chan struct{}, 1000) // one for every push that was acknowledged
	victims := make(chan struct{})
	go func() {
		defer close(victims)
		for i := 0; ; i++ {
			// Kill a node with a push of every client, more or less, under way.
			for range 4 {
				select {
				case <-landed:
				case <-s.ended:
					return
				}
			}
			if s.over() {
				return
			}
			n := c.Nodes[i%3]
			n.Kill()
			kills.Add(1)
			if err := n.Start(); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	acknowledged := pushFor(t, c, "kill/a", 6, s, func(_ int, r clustertest.Result) {
		if r.Status != 0 {
			refused.Add(1) // its node was down, or went down
			return
		}
		select {
		case landed <- struct{}{}:
		default:
		}
	})
	<-victims
	t.Logf("%d pushes failed, %d nodes were killed", refused.Load(), kills.Load())
	if refused.Load() == 0 || kills.Load() == 0 {
		t.Error("no push met a dead node: nothing was tested")
	}
	// A push that got no answer may have landed. So a client's ref is at what was
	// acknowledged last or at something later.
	for _, n := range c.Nodes {
		got := lsRemote(t, c.Admin, n.Name, "kill/a")
		dir := c.Repository(t, "kill/a")[n.Name]
		for ref, oid := range acknowledged {
			r := c.Admin.Run("", "git", "-c", "safe.directory=*", "-C", dir, "merge-base", "--is-ancestor", oid, got[ref])
			if err := r.Err(); err != nil {
				t.Errorf("%s: %s is at %q, acknowledged was %s: %v", n.Name, ref, got[ref], oid, err)
			}
		}
	}
	checkEverywhere(t, c, "kill/a", nil)
	for _, dir := range c.Repository(t, "kill/a") {
		noLocks(t, dir)
	}
	work := newWork(t, c.Admin)
	c.Admin.Commit(t, work, "f", "afterwards")
	for i := range 6 {
		c.Admin.Via(c.Nodes[i%3].Name).Git(t, work, "push", "-q", "--force", "cluster::kill/a", fmt.Sprintf("HEAD:refs/heads/c%d", i))
	}
}

// TestOrphan holds the data directory's lock as a Git process would that
// outlives its killed node: the next life waits for it, and only then takes away
// the locks it left.
func TestOrphan(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 1)
	u, n := c.Admin, c.Nodes[0]
	work := newWork(t, u)
	head := u.Commit(t, work, "f", "one")
	u.Git(t, work, "push", "-q", "cluster::orphan/a", "main")
	dir := c.Repository(t, "orphan/a")["node1"]
	n.Kill()

	lock, err := os.OpenFile(filepath.Join(n.Data, "lock"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	clustertest.Await(t, time.Minute, func() string { // the node's own Git processes may be about to end
		if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			return fmt.Sprintf("the lock of a killed node is not free: %v", err)
		}
		return ""
	})
	stale := []string{"refs/heads/main.lock", "HEAD.lock", "packed-refs.lock", "refs/heads/new.lock"}
	for _, name := range stale {
		if err := writeFile(filepath.Join(dir, name), head+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Launch(); err != nil {
		t.Fatal(err)
	}
	clustertest.Await(t, time.Minute, func() string {
		if strings.Contains(n.Log(), "waiting for the data directory's lock") {
			return ""
		}
		return "the node says nothing of the lock"
	})
	if _, err := os.Stat(filepath.Join(dir, stale[0])); err != nil || n.Ready() {
		t.Fatalf("it went on although the lock is held (ready: %v, its lock file: %v)", n.Ready(), err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if err := n.AwaitReady(2 * time.Minute); err != nil {
		t.Fatal(err)
	}
	noLocks(t, dir)
	u.Commit(t, work, "f", "two")
	u.Git(t, work, "push", "-q", "cluster::orphan/a", "main", "main:new")
	fsck(t, c, "orphan/a")
}

// TestTwoServes starts a second node on a directory that has one.
func TestTwoServes(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 1)
	r := c.Admin.Run("", "git-cluster", "serve", "--data", c.Nodes[0].Data)
	if said := r.Refused(t); !strings.Contains(said, "is in use by another node") || !strings.Contains(said, "hint: ") {
		t.Errorf("%s", said)
	}
	c.Admin.Must(t, "", "git-cluster", "status")
}

// TestPausedNode reads from the others while one node does not move, and from
// that one when it does again.
func TestPausedNode(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 3)
	u := c.Admin
	work := newWork(t, u)
	u.Commit(t, work, "f", "one")
	u.Via("node1").Git(t, work, "push", "-q", "cluster::pause/a", "main")
	third := c.Node(t, "node3")
	if err := third.Pause(); err != nil {
		t.Fatal(err)
	}
	head := u.Commit(t, work, "f", "two")
	u.Via("node1").Git(t, work, "push", "-q", "cluster::pause/a", "main")
	if got := lsRemote(t, u, "node2", "pause/a")["refs/heads/main"]; got != head {
		t.Errorf("node2 shows %q, want %s", got, head)
	}
	if err := third.Resume(); err != nil {
		t.Fatal(err)
	}
	if got := lsRemote(t, u, "node3", "pause/a")["refs/heads/main"]; got != head {
		t.Errorf("node3 shows %q, want %s", got, head)
	}
	checkEverywhere(t, c, "pause/a", map[string]string{"refs/heads/main": head})
}

// TestFiftyPushesBehind stops a replica for fifty pushes: it comes back and
// catches up by itself, as a device, with no user involved.
func TestFiftyPushesBehind(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 3)
	u := c.Admin
	work := newWork(t, u)
	u.Commit(t, work, "f", "zero")
	u.Via("node1").Git(t, work, "push", "-q", "cluster::behind/a", "main")
	away := c.Node(t, "node3")
	away.Kill()
	head := ""
	for i := range 50 {
		head = u.Commit(t, work, "f", strings.Repeat("x", i+1))
		u.Via([]string{"node1", "node2"}[i%2]).Git(t, work, "push", "-q", "cluster::behind/a", "main")
	}
	if err := away.Start(); err != nil {
		t.Fatal(err)
	}
	// Nobody reads there: what brings it to the head is its own doing.
	clustertest.Await(t, 2*time.Minute, func() string {
		for _, r := range c.Show(t, "behind/a").Replicas {
			if r.Device == "node3" && r.Behind > 0 {
				return fmt.Sprintf("node3 is %d versions behind", r.Behind)
			}
		}
		return ""
	})
	checkEverywhere(t, c, "behind/a", map[string]string{"refs/heads/main": head})
}

// TestStop ends nodes with SIGTERM: each ends with status 0, soon, and what was
// acknowledged is there at its next start.
func TestStop(t *testing.T) {
	c := clustertest.Start(t, 3)
	u := c.Admin
	work := newWork(t, u)
	head := u.Commit(t, work, "f", "one")
	u.Git(t, work, "push", "-q", "cluster::stop/a", "main")
	attempt(t, func() (slow string) {
		for _, n := range c.Nodes {
			start := time.Now()
			if err := n.Stop(time.Minute); err != nil {
				t.Errorf("%s: %v", n.Name, err)
			}
			// Nobody is served, so there is nothing to wait for.
			if took := time.Since(start); took > 8*time.Second {
				slow += fmt.Sprintf("%s took %v to stop with nothing to do; ", n.Name, took)
			}
		}
		for _, n := range c.Nodes {
			if err := n.Launch(); err != nil {
				t.Fatal(err)
			}
		}
		for _, n := range c.Nodes {
			if err := n.AwaitReady(2 * time.Minute); err != nil {
				t.Fatal(err)
			}
		}
		checkEverywhere(t, c, "stop/a", map[string]string{"refs/heads/main": head})
		return slow
	})
}

// noLocks waits until a repository has no lock files: what is at work there has some,
// and goes on without them.
func noLocks(t *testing.T, dir string) {
	t.Helper()
	clustertest.Await(t, 30*time.Second, func() (left string) {
		err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
			if strings.HasSuffix(path, ".lock") {
				left += "a lock is left: " + path + "\n"
			}
			return err
		})
		if err != nil {
			return err.Error() // something went away meanwhile
		}
		return left
	})
}
