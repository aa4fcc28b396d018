package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/clustertest"
	"gitcluster/internal/journal"
)

// TestDrainRemoveReplace takes a node out of a cluster in use, and puts another in
// its place; then the same with a node that died.
func TestDrainRemoveReplace(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 3)
	u := c.Admin
	work := newWork(t, u)
	head := u.Commit(t, work, "f", "one")
	u.Git(t, work, "push", "-q", "cluster::two/a", "main")
	first, second, third := c.Node(t, "node1"), c.Node(t, "node2"), c.Node(t, "node3")
	run := func(args ...string) clustertest.Result {
		return u.Run("", append(append([]string{"git-cluster"}, args...), "--data", third.Data)...)
	}
	if said := run("device", "remove", "node1").Refused(t); !strings.Contains(said, "hint: `git cluster drain node1` first") {
		t.Errorf("a node in use was removed: %s", said)
	}
	if said := run("device", "remove", "node3").Refused(t); !strings.Contains(said, "cannot remove itself") {
		t.Errorf("a node removed itself: %s", said)
	}
	if r := run("drain", "node1"); r.Err() != nil || !strings.Contains(r.Stdout, "node1 is safe to stop.") {
		t.Fatalf("drain: %v\n%s", r.Err(), r.Stdout)
	}
	// It serves reads, and a push through the helper goes on to another.
	if got := lsRemote(t, u, "node1", "two/a")["refs/heads/main"]; got != head {
		t.Errorf("a drained node shows %q", got)
	}
	u.Commit(t, work, "f", "two")
	if said := u.Run(work, "git", "push", "ssh://node1/two/a", "main").Refused(t); !strings.Contains(said, "is being drained") {
		t.Errorf("a push to a drained node: %s", said)
	}
	u.Git(t, work, "push", "-q", "cluster::two/a", "main")
	if err := first.Stop(time.Minute); err != nil {
		t.Fatal(err)
	}
	removeDevice(t, run, "node1")
	if r := run("device", "list"); strings.Contains(r.Stdout, "node1") {
		t.Errorf("still there:\n%s", r.Stdout)
	}
	if said := u.Run("", "git-cluster", "serve", "--data", first.Data).Refused(t); !strings.Contains(said, "was removed from the cluster") {
		t.Errorf("a removed node starts: %s", said)
	}

	// Another in its place, while pushes go on.
	c.Nodes = c.Nodes[1:]
	fourth, err := c.Grow()
	if err != nil {
		t.Fatal(err)
	}
	awaitVoters(t, second, 3)
	head = u.Commit(t, work, "f", "three")
	u.Via(fourth.Name).Git(t, work, "push", "-q", "cluster::two/a", "main")
	checkEverywhere(t, c, "two/a", map[string]string{"refs/heads/main": head})

	// One that died is removed without a drain.
	second.Kill()
	removeDevice(t, run, "node2")
	c.Nodes = append([]*clustertest.Node{}, third, fourth)
	if _, err := c.Grow(); err != nil {
		t.Fatal(err)
	}
	awaitVoters(t, third, 3)
	head = u.Commit(t, work, "f", "four")
	u.Via("node3").Git(t, work, "push", "-q", "cluster::two/a", "main")
	checkEverywhere(t, c, "two/a", map[string]string{"refs/heads/main": head})
}

// removeDevice removes a device, as often as it takes: etcd wants its servers connected
// for some seconds, and a leader; and a try that was given up may have had its way.
func removeDevice(t *testing.T, run func(...string) clustertest.Result, args ...string) {
	t.Helper()
	again := false
	clustertest.Await(t, 2*time.Minute, func() string {
		r := run(append([]string{"device", "remove"}, args...)...)
		if r.Err() == nil || again && strings.Contains(r.Stderr, "not found") {
			return ""
		}
		again = true
		return r.Err().Error()
	})
}

// TestSeatIsTaken takes a voter of the journal out of a cluster of four: the node
// that had no server starts one, and nobody has to tell it.
func TestSeatIsTaken(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 4)
	u := c.Admin
	work := newWork(t, u)
	u.Commit(t, work, "f", "one")
	u.Git(t, work, "push", "-q", "cluster::seat/a", "main")
	checkEverywhere(t, c, "seat/a", nil)
	first, second, third, fourth := c.Node(t, "node1"), c.Node(t, "node2"), c.Node(t, "node3"), c.Node(t, "node4")
	run := func(args ...string) clustertest.Result {
		return u.Run("", append(append([]string{"git-cluster"}, args...), "--data", third.Data)...)
	}
	role := func(name string) string {
		st, err := third.Status()
		if err != nil {
			return err.Error()
		}
		for _, n := range st.Nodes {
			if string(n.Name) == name {
				return n.Journal
			}
		}
		return "gone"
	}
	if got := role("node4"); got != "client" {
		t.Fatalf("the fourth node is %q in the journal", got)
	}
	first.Kill()
	removeDevice(t, run, "node1")
	// What is on its disk opens nothing any more.
	clustertest.Await(t, 2*time.Minute, func() string {
		if whose := opened(t, third, first.Data); whose != "" {
			return "with a removed node's credentials one reads the journal of " + whose
		}
		return ""
	})
	if whose := opened(t, third, second.Data); whose == "" {
		t.Error("with another node's credentials one reads nothing")
	}
	awaitVoters(t, third, 3)
	if got := role("node4"); got != "voter" && got != "leader" {
		t.Errorf("the fourth node is %q in the journal", got)
	}
	// It is one for good, and any other may die.
	fourth.Kill()
	if err := fourth.Start(); err != nil {
		t.Fatal(err)
	}
	second.Kill()
	c.Nodes = []*clustertest.Node{third, fourth}
	head := u.Commit(t, work, "f", "two")
	u.Via("node4").Git(t, work, "push", "-q", "cluster::seat/a", "main")
	checkEverywhere(t, c, "seat/a", map[string]string{"refs/heads/main": head})

	// A node that is thrown out while it runs ends, and takes no seat again.
	if err := second.Start(); err != nil {
		t.Fatal(err)
	}
	removeDevice(t, run, "node2", "--force")
	clustertest.Await(t, 2*time.Minute, func() string {
		if second.Running() {
			return "a node that was removed runs"
		}
		return ""
	})
	if log := second.Log(); !strings.Contains(log, "was removed from the cluster") {
		t.Errorf("it says\n%s", log)
	}
	awaitVoters(t, third, 2)
}

// opened returns the names of the servers of the journal that can be read with the
// credentials in a data directory.
func opened(t *testing.T, n *clustertest.Node, data string) (names string) {
	t.Helper()
	st, err := n.Status()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range st.Journal {
		if m.Client == "" {
			continue
		}
		client, err := journal.Dial([]string{m.Client}, filepath.Join(data, "tls"))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		if _, err := journal.New(client).AuthorityKey(ctx); err == nil {
			names += m.Name + " "
		}
		cancel()
		client.Close()
	}
	return names
}

func awaitVoters(t *testing.T, n *clustertest.Node, want int) {
	t.Helper()
	clustertest.Await(t, 60*time.Second, func() string {
		st, err := n.Status()
		if err != nil {
			return err.Error()
		}
		voters := 0
		for _, m := range st.Journal {
			if m.Voter {
				voters++
			}
		}
		if voters != want || len(st.Journal) != want {
			return "the journal has not so many voters yet"
		}
		return ""
	})
}

// TestLock changes refs on disk under a lock.
func TestLock(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 3)
	u := c.Admin
	work := newWork(t, u)
	first := u.Commit(t, work, "f", "one")
	head := u.Commit(t, work, "f", "two")
	u.Git(t, work, "push", "-q", "cluster::lock/a", "main")
	checkEverywhere(t, c, "lock/a", nil)
	run := func(args ...string) clustertest.Result {
		return u.Run("", append(append([]string{"git-cluster"}, args...), "--data", c.Nodes[1].Data)...)
	}
	dir := strings.TrimSpace(u.Must(t, "", "git-cluster", "lock", "lock/a", "--data", c.Nodes[1].Data))
	if dir != c.Repository(t, "lock/a")["node2"] {
		t.Errorf("the lock names %q", dir)
	}
	if said := run("lock", "lock/a").Refused(t); !strings.Contains(said, "operator holds the repository") {
		t.Errorf("locked twice: %s", said)
	}
	for _, name := range []string{"node1", "node3"} {
		if said := u.Via(name).Run(work, "git", "push", "cluster::lock/a", "main:other").Refused(t); !strings.Contains(said, "operator holds the repository since") {
			t.Errorf("a push through %s under a lock: %s", name, said)
		}
	}
	ref := filepath.Join(dir, "refs/heads/main")
	if err := os.WriteFile(ref, []byte(first+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "refs/heads/old"), []byte(head+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// The work is not seen, also not after a restart of its node.
	for range 2 {
		if said := u.Run("", "git", "ls-remote", "ssh://node2/lock/a").Refused(t); !strings.Contains(said, "holds the repository on") {
			t.Errorf("the replica that is worked on serves: %s", said)
		}
		if got := lsRemote(t, u, "node1", "lock/a")["refs/heads/main"]; got != head {
			t.Errorf("node1 shows %q", got)
		}
		c.Nodes[1].Kill()
		if err := c.Nodes[1].Start(); err != nil {
			t.Fatal(err)
		}
	}
	if r := run("unlock", "lock/a"); r.Err() != nil || !strings.Contains(r.Stdout, "2 refs changed") {
		t.Fatalf("unlock: %v\n%s", r.Err(), r.Stdout)
	}
	checkEverywhere(t, c, "lock/a", map[string]string{"refs/heads/main": first, "refs/heads/old": head})
	u.Git(t, work, "push", "-q", "cluster::lock/a", "main")
	if r := run("log", "lock/a"); !strings.Contains(r.Stdout, "operator through node2") {
		t.Errorf("the log does not show it:\n%s", r.Stdout)
	}

	// Abandoned, it is kept aside.
	dir = strings.TrimSpace(u.Must(t, "", "git-cluster", "lock", "lock/a", "--data", c.Nodes[1].Data))
	if err := os.WriteFile(filepath.Join(dir, "refs/heads/mistake"), []byte(head+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := run("unlock", "lock/a", "--abandon"); r.Err() != nil {
		t.Fatal(r.Err())
	}
	checkEverywhere(t, c, "lock/a", map[string]string{"refs/heads/main": head, "refs/heads/old": head, "refs/heads/mistake": ""})
}
