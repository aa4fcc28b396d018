package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/clustertest"
)

// TestJournalWiped takes the journal's folder from a voter, the one that made the
// cluster. It comes back by itself, as a voter, and nobody waits for it meanwhile.
func TestJournalWiped(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 3)
	u, n := c.Admin, c.Node(t, "node1")
	work := newWork(t, u)
	u.Commit(t, work, "f", "one")
	u.Via("node2").Git(t, work, "push", "-q", "cluster::wiped/a", "main")
	n.Kill()
	if err := os.RemoveAll(filepath.Join(n.Data, "journal")); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	head := u.Commit(t, work, "f", "two")
	u.Via("node1").Git(t, work, "push", "-q", "cluster::wiped/a", "main")
	if log := n.Log(); !strings.Contains(log, "its data is gone") {
		t.Errorf("it does not say so:\n%s", log)
	}
	clustertest.Await(t, 60*time.Second, func() string {
		st, err := c.Node(t, "node2").Status()
		if err != nil {
			return err.Error()
		}
		for _, m := range st.Journal {
			if m.Name == "node1" && m.Voter {
				return ""
			}
		}
		return fmt.Sprintf("node1 does not vote: %+v", st.Journal)
	})
	// It is one of a majority.
	c.Node(t, "node2").Kill()
	if got := lsRemote(t, u, "node1", "wiped/a")["refs/heads/main"]; got != head {
		t.Errorf("node1 shows %q, not %q", got, head)
	}
	head = u.Commit(t, work, "f", "three")
	u.Via("node3").Git(t, work, "push", "-q", "cluster::wiped/a", "main")
	if err := c.Node(t, "node2").Start(); err != nil {
		t.Fatal(err)
	}
	checkEverywhere(t, c, "wiped/a", map[string]string{"refs/heads/main": head})
}

// TestOnlyJournalWiped takes the folder from the only voter. It says so, instead of
// making an empty cluster or waiting for what cannot come.
func TestOnlyJournalWiped(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 1)
	u, n := c.Admin, c.Nodes[0]
	work := newWork(t, u)
	head := u.Commit(t, work, "f", "one")
	u.Git(t, work, "push", "-q", "cluster::wiped/a", "main")
	n.Kill()
	journal, away := filepath.Join(n.Data, "journal"), filepath.Join(n.Data, "away")
	if err := os.Rename(journal, away); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		oneLine(t, u.Run("", "git-cluster", "serve", "--data", n.Data), "is gone, and there was no other that votes")
	}
	if err := os.RemoveAll(journal); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(away, journal); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	checkEverywhere(t, c, "wiped/a", map[string]string{"refs/heads/main": head})
}
