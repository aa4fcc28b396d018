package e2e

import (
	"os"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/clustertest"
)

// TestPushOutlivesItsDisk takes away the node that took a push, with its data
// directory, in the moment the client has its "ok": the push is on the others,
// and reads and writes go on.
func TestPushOutlivesItsDisk(t *testing.T) {
	c := clustertest.Start(t, 3)
	u := c.Admin
	work := newWork(t, u)
	u.Commit(t, work, "f", "zero")
	u.Via("node2").Git(t, work, "push", "-q", "cluster::outlive/a", "main")
	head := u.Commit(t, work, "f", "one")
	u.Via("node1").Git(t, work, "push", "-q", "cluster::outlive/a", "main")
	lost := c.Node(t, "node1")
	lost.Kill()
	if err := os.RemoveAll(lost.Data); err != nil {
		t.Fatal(err)
	}
	gone := time.Now()
	for _, name := range []string{"node2", "node3"} {
		if got := lsRemote(t, u, name, "outlive/a")["refs/heads/main"]; got != head {
			t.Errorf("%s shows %q, acknowledged was %s", name, got, head)
		}
	}
	u.Commit(t, work, "f", "two")
	u.Via("node3").Git(t, work, "push", "-q", "cluster::outlive/a", "main")
	if took := time.Since(gone); took > 5*time.Second {
		t.Errorf("reads and a push took %v after the node was gone", took)
	}
	for _, name := range []string{"node2", "node3"} {
		u.Via(name).Git(t, "", "clone", "-q", "cluster::outlive/a", t.TempDir()+"/clone")
	}
}

// TestTooFewCopies has a cluster of two whose second node is gone: a push is
// refused in words, or accepted with a warning where the repository says so.
func TestTooFewCopies(t *testing.T) {
	c := clustertest.Start(t, 2)
	u := c.Admin.Via("node1")
	work := newWork(t, u)
	first := u.Commit(t, work, "f", "one")
	u.Git(t, work, "push", "-q", "cluster::few/a", "main")
	if view := c.Show(t, "few/a"); view.Copies != 0 {
		t.Errorf("copies are %d by default", view.Copies)
	}
	c.Node(t, "node2").Kill()
	head := u.Commit(t, work, "f", "two")
	said := u.Run(work, "git", "push", "cluster::few/a", "main").Refused(t)
	for _, want := range []string{"not enough replicas hold this push: 1 of 2", "node2", "--when-degraded warn"} {
		if !strings.Contains(said, want) {
			t.Errorf("the refusal does not say %q:\n%s", want, said)
		}
	}
	if got := lsRemote(t, u, "node1", "few/a")["refs/heads/main"]; got != first {
		t.Errorf("after the refusal main is at %q, was at %s", got, first)
	}
	u.Must(t, "", "git-cluster", "repo", "set", "few/a", "--when-degraded", "warn", "--data", c.Nodes[0].Data)
	r := u.Run(work, "git", "push", "cluster::few/a", "main")
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(r.Stderr, "# Warning: not enough replicas hold this push: 1 of 2") {
		t.Errorf("accepted on one disk without a warning:\n%s", r.Stderr)
	}
	if err := c.Node(t, "node2").Start(); err != nil {
		t.Fatal(err)
	}
	checkEverywhere(t, c, "few/a", map[string]string{"refs/heads/main": head})
	u.Must(t, "", "git-cluster", "repo", "set", "few/a", "--copies", "1", "--data", c.Nodes[0].Data)
	c.Node(t, "node2").Kill()
	u.Commit(t, work, "f", "three")
	if r := u.Run(work, "git", "push", "cluster::few/a", "main"); r.Err() != nil || strings.Contains(r.Stderr, "Warning") {
		t.Errorf("one copy was asked for: %v\n%s", r.Err(), r.Stderr)
	}
}
