package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/clustertest"
)

// TestJournalOlderThanConfirmed starts a node on a journal that lacks what the
// node has told the others it holds, as one from a backup does. It must not take
// part, and says so in a line instead of a trace.
func TestJournalOlderThanConfirmed(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 3)
	u := c.Admin
	work := newWork(t, u)
	node := c.Node(t, "node3")
	if err := node.Stop(time.Minute); err != nil {
		t.Fatal(err)
	}
	journal, backup := filepath.Join(node.Data, "journal"), filepath.Join(t.TempDir(), "journal")
	if err := os.CopyFS(backup, os.DirFS(journal)); err != nil {
		t.Fatal(err)
	}
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		u.Commit(t, work, "f", time.Now().String())
		u.Git(t, work, "push", "-q", "cluster::old/a", "main")
	}
	// The last entry must be on its disk before it goes.
	u.Via("node3").Must(t, "", "git", "ls-remote", "cluster::old/a")
	if err := node.Stop(time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(journal); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(journal, os.DirFS(backup)); err != nil {
		t.Fatal(err)
	}
	if err := node.Start(); err == nil {
		t.Fatal("it started on a journal that lacks what it had confirmed")
	}
	log := node.Log()
	log = log[strings.LastIndex(log, "level=INFO msg=stopping"):]
	if !strings.Contains(log, "git-cluster: the journal's server gave up") || !strings.Contains(log, "hint: this node's journal is older") {
		t.Errorf("it says\n%s", log)
	}
	if strings.Contains(log, "goroutine ") {
		t.Error("it shows a trace")
	}
	u.Via("node1").Must(t, "", "git", "ls-remote", "cluster::old/a")

	// As the hint says.
	if err := os.RemoveAll(filepath.Join(journal, "member")); err != nil {
		t.Fatal(err)
	}
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	awaitVoters(t, node, 3)
}
