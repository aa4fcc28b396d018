package e2e

import (
	"fmt"
	"testing"
	"time"

	"gitcluster/internal/clustertest"
)

// TestRollingUpgrade takes a cluster of an earlier version to this one, node by
// node, while it is in use.
func TestRollingUpgrade(t *testing.T) {
	t.Parallel()
	old := clustertest.OldPrograms(t)
	now, err := clustertest.Programs()
	if err != nil {
		t.Fatal(err)
	}
	c := clustertest.Start(t, 3, clustertest.Built(old))
	u := c.Admin
	work := newWork(t, u)
	n := 0
	// everyNode pushes through each node in turn, and reads on all after each push.
	everyNode := func(stage string) {
		t.Helper()
		for _, node := range c.Nodes {
			n++
			head := u.Commit(t, work, "f", fmt.Sprint(n))
			u.Via(node.Name).Git(t, work, "push", "-q", "cluster::mixed/a", "main", fmt.Sprintf("main:refs/heads/b%d", n))
			for _, reader := range c.Nodes {
				if got := lsRemote(t, u, reader.Name, "mixed/a"); got["refs/heads/main"] != head || got[fmt.Sprintf("refs/heads/b%d", n)] != head {
					t.Errorf("%s: pushed through %s, and %s shows %v", stage, node.Name, reader.Name, got)
				}
			}
		}
	}
	everyNode("before")
	for _, node := range c.Nodes {
		if err := node.Stop(time.Minute); err != nil {
			t.Fatal(err)
		}
		node.Bin = now
		if err := node.Start(); err != nil {
			t.Fatal(err)
		}
		everyNode("with " + node.Name + " upgraded")
	}
	// What the new version can do and the old could not.
	c.Bin = now
	u.Must(t, "", "git-cluster", "verify", "--deep", "--data", c.Nodes[0].Data)
	u.Must(t, "", "git-cluster", "maintain", "mixed/a", "--full", "--data", c.Nodes[0].Data)
	checkEverywhere(t, c, "mixed/a", nil)
}
