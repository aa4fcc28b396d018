package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/clustertest"
)

// TestQuorumLost takes two of three nodes away: the third refuses what it cannot
// confirm, in bounded time and with the reason, serves stale data to who asks for
// it, and is whole again with the others.
func TestQuorumLost(t *testing.T) {
	c := clustertest.Start(t, 3)
	u := c.Admin
	work := newWork(t, u)
	head := u.Commit(t, work, "f", "one")
	u.Via("node1").Git(t, work, "push", "-q", "cluster::quorum/a", "main")
	if got := lsRemote(t, u, "node3", "quorum/a")["refs/heads/main"]; got != head {
		t.Fatalf("node3 shows %q", got)
	}
	lone := c.Node(t, "node3")
	onNode := func(args ...string) func() clustertest.Result {
		return func() clustertest.Result {
			return u.Run("", slices.Concat([]string{"git-cluster"}, args, []string{"--data", lone.Data})...)
		}
	}
	// All at once: readers who share a question to the journal still each have
	// their answer in time.
	clients := map[string]func() clustertest.Result{
		"read through the helper": func() clustertest.Result {
			return u.Via("node3").Run(work, "git", "ls-remote", "cluster::quorum/a")
		},
		"read by ssh": func() clustertest.Result { return u.Run(work, "git", "ls-remote", "ssh://node3/quorum/a") },
		"push through the helper": func() clustertest.Result {
			return u.Via("node3").Run(work, "git", "push", "cluster::quorum/a", "main")
		},
		"push by ssh": func() clustertest.Result { return u.Run(work, "git", "push", "ssh://node3/quorum/a", "main") },
	}
	_, usual := atOnce(clients) // there is nothing to push yet
	_, usualOnNode := atOnce(map[string]func() clustertest.Result{"status": onNode("status"), "users": onNode("user", "list"), "repositories": onNode("repo", "list")})
	c.Node(t, "node1").Kill()
	c.Node(t, "node2").Kill()
	u.Commit(t, work, "f", "two")

	clients["push of a new name"] = func() clustertest.Result {
		return u.Via("node3").Run(work, "git", "push", "cluster::quorum/new", "main")
	}
	attempt(t, func() string {
		refused, slowest := atOnce(clients)
		for what, r := range refused {
			if r.Status <= 0 || !strings.Contains(r.Stderr, "journal did not confirm") || !strings.Contains(r.Stderr, "hint: ") {
				t.Errorf("%s: status %d, no reason in\n%s", what, r.Status, r.Stderr)
			}
		}
		if slowest > within(7*time.Second, usual) {
			return fmt.Sprintf("clients are refused after %v, usually served after %v", slowest, usual)
		}
		return ""
	})
	// Without a pin the helper tries the dead nodes first.
	r := u.Run(work, "git", "ls-remote", "cluster::quorum/a")
	if said := r.Refused(t); !strings.Contains(said, "git-remote-cluster: none of 3 replicas can serve") {
		t.Errorf("%s", said)
	}
	attempt(t, func() string {
		refused, slowest := atOnce(map[string]func() clustertest.Result{"status": onNode("status"), "user add": onNode("user", "add", "late"), "repo create": onNode("repo", "create", "quorum/b")})
		for _, r := range refused {
			if r.Status <= 0 || !strings.Contains(r.Stderr, "git-cluster: ") || !strings.Contains(r.Stderr, "journal") {
				t.Errorf("%v: status %d: %s", r.Args, r.Status, r.Stderr)
			}
		}
		if slowest > within(8*time.Second, usualOnNode) {
			return fmt.Sprintf("an operator is refused after %v, usually served after %v", slowest, usualOnNode)
		}
		return ""
	})

	// Stale data is served where it is asked for, and called that.
	attempt(t, func() string {
		stale := u.Via("node3").Run(work, "git", "-c", "cluster.staleOk=true", "ls-remote", "cluster::quorum/a")
		if err := stale.Err(); err != nil || !strings.Contains(stale.Stdout, head+"\trefs/heads/main") || !strings.Contains(stale.Stderr, "may be stale") {
			t.Errorf("stale read: %v\n%s%s", err, stale.Stdout, stale.Stderr)
		}
		if stale.Took > within(3*time.Second, usual) {
			return fmt.Sprintf("the stale read took %v, a usual one beside others %v", stale.Took, usual)
		}
		return ""
	})
	clone := u.Run("", "git", "-c", "cluster.staleOk=true", "clone", "-q", "cluster::quorum/a", t.TempDir()+"/stale")
	if err := clone.Err(); err != nil {
		t.Errorf("stale clone: %v", err)
	}

	// A restart of the lone node waits for the others, and says so.
	lone.Kill()
	for _, n := range []string{"node3", "node1", "node2"} {
		if err := c.Node(t, n).Launch(); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range c.Nodes {
		if err := n.AwaitReady(2 * time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	checkEverywhere(t, c, "quorum/a", map[string]string{"refs/heads/main": head})
	head = u.Git(t, work, "rev-parse", "HEAD")
	u.Git(t, work, "push", "-q", "cluster::quorum/a", "main")
	checkEverywhere(t, c, "quorum/a", map[string]string{"refs/heads/main": head})
	if users := u.Must(t, "", "git-cluster", "user", "list"); strings.Contains(users, "late") {
		t.Errorf("a refused change was made: %s", users)
	}
}

// TestSourceIsDown reads a push from a node that missed it, while the node that took
// it is down: another node has the objects by then.
func TestSourceIsDown(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 3)
	u := c.Admin
	work := newWork(t, u)
	u.Commit(t, work, "f", "one")
	u.Via("node1").Git(t, work, "push", "-q", "cluster::only/a", "main")
	for _, n := range c.Nodes {
		lsRemote(t, u, n.Name, "only/a")
	}
	if err := c.Node(t, "node3").Pause(); err != nil {
		t.Fatal(err)
	}
	head := u.Commit(t, work, "f", "two")
	u.Via("node1").Git(t, work, "push", "-q", "cluster::only/a", "main")
	if got := lsRemote(t, u, "node2", "only/a")["refs/heads/main"]; got != head {
		t.Fatalf("node2 shows %q", got)
	}
	c.Node(t, "node1").Kill()
	if err := c.Node(t, "node3").Resume(); err != nil {
		t.Fatal(err)
	}
	// node2 has a copy by now, and node3 finds it there.
	clustertest.Await(t, 2*time.Minute, func() string {
		r := u.Run("", "git", "ls-remote", "ssh://node3/only/a", "main")
		if !strings.HasPrefix(r.Stdout, head) {
			return r.Stdout + r.Stderr
		}
		return ""
	})
}
