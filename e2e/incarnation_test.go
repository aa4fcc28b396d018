package e2e

import (
	"bytes"
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
	t.Parallel()
	c := clustertest.Start(t, 3)
	u, n := c.Admin, c.Node(t, "node2")
	work := newWork(t, u)
	u.Commit(t, work, "f", "one")
	u.Via("node1").Git(t, work, "push", "-q", "cluster::restored/a", "main")
	checkEverywhere(t, c, "restored/a", nil)
	if err := n.Stop(time.Minute); err != nil {
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

// TestSwappedDisks starts two nodes with each other's replicas, those of one older than
// the other's. Nobody repairs that, and nothing is lost.
func TestSwappedDisks(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 3)
	u := c.Admin
	work := newWork(t, u)
	u.Commit(t, work, "f", "one")
	u.Via("node1").Git(t, work, "push", "-q", "cluster::swapped/a", "main")
	checkEverywhere(t, c, "swapped/a", nil)
	ahead, behind := c.Node(t, "node2"), c.Node(t, "node3")
	behind.Kill()
	head := u.Commit(t, work, "f", "two")
	u.Via("node2").Git(t, work, "push", "-q", "cluster::swapped/a", "main") // on node1 and node2
	ahead.Kill()
	swap(t, filepath.Join(ahead.Data, "repositories"), filepath.Join(behind.Data, "repositories"))
	for _, n := range []*clustertest.Node{ahead, behind} {
		if err := n.Launch(); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []*clustertest.Node{ahead, behind} {
		if err := n.AwaitReady(2 * time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	checkEverywhere(t, c, "swapped/a", map[string]string{"refs/heads/main": head})
	for _, n := range []*clustertest.Node{ahead, behind} {
		if !strings.Contains(n.Log(), "this disk is not the one the node ran on last") {
			t.Errorf("%s did not notice", n.Name)
		}
	}
	// They count as copies again, and lead to the next one.
	c.Node(t, "node1").Kill()
	head = u.Commit(t, work, "f", "three")
	u.Via("node3").Git(t, work, "push", "-q", "cluster::swapped/a", "main")
	if err := c.Node(t, "node1").Start(); err != nil {
		t.Fatal(err)
	}
	checkEverywhere(t, c, "swapped/a", map[string]string{"refs/heads/main": head})
	fsck(t, c, "swapped/a")
}

// TestTwins runs a copy of a node's data directory as a machine of its own. Of the
// two only one goes on, and the other says why.
func TestTwins(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 4) // the fourth has no server of the journal, and so no files of one
	node := c.Node(t, "node4")
	if err := node.Stop(time.Minute); err != nil {
		t.Fatal(err)
	}
	twin, err := c.NewNode("twin")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", node.Data, twin.Data).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	settings := filepath.Join(twin.Data, "node.toml")
	text, err := os.ReadFile(settings)
	if err != nil {
		t.Fatal(err)
	}
	for _, move := range [][2]string{{node.SSH, twin.SSH}, {node.HTTP, twin.HTTP}} {
		text = bytes.ReplaceAll(text, []byte(move[0]), []byte(move[1]))
	}
	if err := os.WriteFile(settings, text, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(twin.Kill)
	said := map[string]int{}
	ends := func(n *clustertest.Node) {
		t.Helper()
		clustertest.Await(t, time.Minute, func() string {
			if n.Running() {
				return n.Name + " runs beside its twin"
			}
			return ""
		})
		log := n.Log()
		now := strings.Count(log, "another process runs as node")
		if now == said[n.Name] || strings.Contains(log, "goroutine ") {
			t.Errorf("%s says\n%s", n.Name, log)
		}
		said[n.Name] = now
	}
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	// Where the node is known to be, it answers: the copy does not start.
	for try := 1; twin.Start() == nil; try++ {
		if try == 3 {
			t.Fatal("a copy started beside the node")
		}
		// On a busy machine the node may be too slow to answer. It is gone then.
		t.Log("once more: a copy started beside the node")
		ends(node)
		twin.Kill()
		if err := node.Start(); err != nil {
			t.Fatal(err)
		}
	}
	ends(twin)
	// When it gives no answer, the copy takes over, and the node notices.
	if err := node.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := twin.Start(); err != nil {
		t.Fatal(err)
	}
	if err := node.Resume(); err != nil {
		t.Fatal(err)
	}
	ends(node)
	// It stays the node of that name when it is started again, and the copy ends.
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	ends(twin)
	if !node.Running() {
		t.Error("both have ended")
	}
}
