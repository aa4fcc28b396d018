package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/clustertest"
)

// TestVerifyAndRepair edits a replica behind its node's back.
func TestVerifyAndRepair(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 3)
	u := c.Admin
	work := newWork(t, u)
	first := u.Commit(t, work, "f", "one")
	head := u.Commit(t, work, "f", "two")
	u.Git(t, work, "push", "-q", "cluster::care/a", "main")
	checkEverywhere(t, c, "care/a", nil)
	data := []string{"--data", c.Nodes[0].Data}
	run := func(args ...string) clustertest.Result {
		return u.Run("", append(append([]string{"git-cluster"}, args...), data...)...)
	}
	if r := run("verify", "--deep"); r.Err() != nil || strings.Count(r.Stdout, "care/a: node") != 3 {
		t.Fatalf("sound replicas: %v\n%s", r.Err(), r.Stdout)
	}
	dir := c.Repository(t, "care/a")["node2"]
	if err := os.WriteFile(filepath.Join(dir, "refs/heads/main"), []byte(first+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := run("verify", "care/a")
	if said := r.Refused(t); !strings.Contains(said, "1 replicas are not what the journal says") || !strings.Contains(said, "hint:") {
		t.Errorf("verify says %q", said)
	}
	if want := "refs/heads/main is " + first + " on disk and " + head + " in the journal"; !strings.Contains(r.Stdout, want) {
		t.Errorf("verify does not say %q:\n%s", want, r.Stdout)
	}
	// It serves nobody; through the helper, others do.
	if said := u.Run("", "git", "ls-remote", "ssh://node2/care/a").Refused(t); !strings.Contains(said, "fenced") {
		t.Errorf("an edited replica: %s", said)
	}
	if r := run("repair", "care/a"); r.Err() != nil || !strings.Contains(r.Stdout, "refs/heads/main was "+first+", kept as refs/strays/") {
		t.Errorf("repair: %v\n%s", r.Err(), r.Stdout)
	}
	checkEverywhere(t, c, "care/a", map[string]string{"refs/heads/main": head})
	if r := run("verify", "--deep"); r.Err() != nil {
		t.Errorf("after the repair: %v\n%s", r.Err(), r.Stdout)
	}
	if got := lsRemote(t, u, "node2", "care/a"); len(got) != 2 {
		t.Errorf("a client sees the strays: %v", got)
	}
	if said := run("accept-loss", "care/a").Refused(t); !strings.Contains(said, "nothing is lost") {
		t.Errorf("accept-loss without a loss: %s", said)
	}
}

// TestAcceptLoss has every replica of a repository gone but one, on a node that
// is away.
func TestAcceptLoss(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 3)
	u := c.Admin
	work := newWork(t, u)
	head := u.Commit(t, work, "f", "one")
	u.Via("node1").Git(t, work, "push", "-q", "cluster::loss/a", "main")
	checkEverywhere(t, c, "loss/a", nil)
	strayDir := c.Repository(t, "loss/a")["node1"]
	for _, n := range c.Nodes {
		n.Kill()
	}
	config := filepath.Join(strayDir, "config")
	kept, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, []byte("[broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, n := range c.Nodes {
		if i > 0 {
			if err := os.RemoveAll(filepath.Join(n.Data, "repositories")); err != nil {
				t.Fatal(err)
			}
		}
		if err := n.Launch(); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range c.Nodes {
		if err := n.AwaitReady(2 * time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) clustertest.Result {
		return u.Run("", append(append([]string{"git-cluster"}, args...), "--data", c.Nodes[1].Data)...)
	}
	// Everything is on a node that is up and cannot be asked.
	for _, args := range [][]string{{"accept-loss", "loss/a"}, {"accept-loss", "loss/a", "--give-up", "1"}} {
		r := run(args...)
		if said := r.Refused(t); !strings.Contains(said, "node1 is up and does not say what it has") || !strings.Contains(r.Stdout, "node1 is up") {
			t.Errorf("%v with a node that fails: %s\n%s", args, said, r.Stdout)
		}
	}
	c.Nodes[0].Kill()
	if err := os.WriteFile(config, kept, 0o600); err != nil {
		t.Fatal(err)
	}
	// The journal may have lost its leader with that node, and confirm nothing for a while.
	clustertest.Await(t, 2*time.Minute, func() string {
		if said := u.Via("node2").Run("", "git", "ls-remote", "cluster::loss/a").Refused(t); !strings.Contains(said, `"node1"`) {
			return "a reader is not told where the objects are: " + said
		}
		return ""
	})
	dry := run("accept-loss", "loss/a")
	if said := dry.Refused(t); !strings.Contains(said, "git cluster accept-loss loss/a --give-up 1") {
		t.Errorf("the dry run does not say how: %s", said)
	}
	for _, want := range []string{"version 1", "node1 cannot be reached", "boss through node1, 1 refs", "refs/heads/main from " + head + " to absent"} {
		if !strings.Contains(dry.Stdout, want) {
			t.Errorf("the dry run does not say %q:\n%s", want, dry.Stdout)
		}
	}
	for _, other := range []string{"1-2", "2", "0", "yes"} {
		if said := run("accept-loss", "loss/a", "--give-up", other).Refused(t); !strings.Contains(said, "would be given up are 1, not "+other) {
			t.Errorf("other versions than were shown are given up: %s", said)
		}
	}
	if r := run("accept-loss", "loss/a", "--give-up", "1"); r.Err() != nil {
		t.Fatal(r.Err())
	}
	if got := lsRemote(t, u, "node3", "loss/a"); len(got) != 0 {
		t.Errorf("after the loss: %v", got)
	}
	other := u.Commit(t, work, "f", "again")
	u.Via("node3").Git(t, work, "push", "-q", "--force", "cluster::loss/a", "HEAD:refs/heads/again")
	if err := c.Nodes[0].Start(); err != nil {
		t.Fatal(err)
	}
	checkEverywhere(t, c, "loss/a", map[string]string{"refs/heads/again": other})
	strays := u.Git(t, "", "-c", "safe.directory=*", "-C", strayDir, "for-each-ref", "refs/strays")
	if !strings.Contains(strays, head) {
		t.Errorf("the node that came back did not keep what it had: %q", strays)
	}
}
