package clustertest

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

// TestLife holds what the other tests rely on: a node that was killed, paused or
// stopped comes back with its data, under its address.
func TestLife(t *testing.T) {
	start := time.Now()
	if _, err := Programs(); err != nil {
		t.Fatal(err)
	}
	t.Log("built", time.Since(start))
	c := Start(t, 1)
	t.Log("started", time.Since(start))
	u := c.Admin
	dir := t.TempDir()
	u.Git(t, dir, "init", "-q", "w")
	w := dir + "/w"
	head := u.Commit(t, w, "f", "text")
	u.Via("node1").Git(t, w, "push", "-q", "cluster::a/b", "main")
	n := c.Node(t, "node1")

	n.Kill()
	if n.Running() {
		t.Error("it runs after SIGKILL")
	}
	u.Run("", "git", "ls-remote", "cluster::a/b").Refused(t)
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	if got := u.Git(t, "", "ls-remote", "ssh://node1/a/b", "main"); !strings.HasPrefix(got, head) {
		t.Errorf("after the kill: %q", got)
	}
	if err := n.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := n.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := n.Stop(time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	if got := u.Git(t, "", "ls-remote", "ssh://node1/a/b", "main"); !strings.HasPrefix(got, head) {
		t.Errorf("after the stop: %q", got)
	}
	if _, err := os.Stat(c.Repository(t, "a/b")["node1"]); err != nil {
		t.Error(err)
	}
	t.Log("ended", time.Since(start))
}
