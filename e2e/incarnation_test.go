package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/clustertest"
)

// TestRestoredDisk starts a node on an old backup of its data directory, made
// badly: the newest refs are there, and not all their objects. Nobody repairs it.
func TestRestoredDisk(t *testing.T) {
	c := clustertest.Start(t, 3)
	u, n := c.Admin, c.Node(t, "node2")
	work := newWork(t, u)
	u.Commit(t, work, "f", "one")
	u.Via("node1").Git(t, work, "push", "-q", "cluster::restored/a", "main")
	checkEverywhere(t, c, "restored/a", nil)
	if err := n.Stop(20 * time.Second); err != nil {
		t.Fatal(err)
	}
	replicas, backup := filepath.Join(n.Data, "repositories"), filepath.Join(n.Data, "backup")
	if out, err := exec.Command("cp", "-a", replicas, backup).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	head := u.Commit(t, work, "f", "two")
	u.Via("node2").Git(t, work, "push", "-q", "cluster::restored/a", "main")
	dir := c.Repository(t, "restored/a")["node2"]
	n.Kill()
	// The refs are the new ones, everything else is old.
	kept := map[string][]byte{}
	for _, name := range []string{"refs/heads/main", "cluster-applied"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		kept[name] = data
	}
	if err := os.RemoveAll(replicas); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(backup, replicas); err != nil {
		t.Fatal(err)
	}
	for name, data := range kept {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	checkEverywhere(t, c, "restored/a", map[string]string{"refs/heads/main": head})
	if !strings.Contains(n.Log(), "this disk is not the one the node ran on last") {
		t.Error("the node did not notice")
	}

	// A disk whose replicas are gone altogether.
	n.Kill()
	if err := os.RemoveAll(replicas); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	checkEverywhere(t, c, "restored/a", map[string]string{"refs/heads/main": head})
}
