package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/clustertest"
	"gitcluster/internal/config"
)

// TestDevice enrols a fourth machine and lets it fetch as itself, with no user
// key that the cluster knows, and checks when it is refused.
func TestDevice(t *testing.T) {
	c := clustertest.Start(t, 3)
	u := c.Admin
	work := newWork(t, u)
	head := u.Commit(t, work, "f", "one")
	u.Git(t, work, "push", "-q", "cluster::device/a", "main")

	dir := filepath.Join(t.TempDir(), "device")
	machine := c.NewUser(t, "machine").With("GIT_CLUSTER_DEVICE_DIR="+dir, "SSH_AUTH_SOCK=", config.EnvClient+"=") // a new machine has no client.toml
	device := machine.With("PHABRICATOR_AS_DEVICE=1")
	device.Run("", "git", "ls-remote", "cluster::device/a").Refused(t)

	node := u.Must(t, "", "git-cluster", "token", "create")
	if got := machine.Feed("", node+"\n", "git-cluster", "device", "enroll", c.Nodes[0].SSH, "--token", "-", "--name", "ci7").Refused(t); !strings.Contains(got, "admits a node") {
		t.Errorf("a node's token for a device: %q", got)
	}
	token := u.Must(t, "", "git-cluster", "token", "create", "--device")
	enrolled := machine.Feed("", token+"\n", "git-cluster", "device", "enroll", c.Nodes[0].SSH, "--token", "-", "--name", "ci7")
	if err := enrolled.Err(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(enrolled.Stdout, "Try it: PHABRICATOR_AS_DEVICE=1 git ls-remote cluster::REPOSITORY\n") {
		t.Errorf("device enroll says %q", enrolled.Stdout)
	}

	for _, n := range c.Nodes {
		if got := device.Via(n.Name).Must(t, "", "git", "ls-remote", "cluster::device/a", "refs/heads/main"); !strings.HasPrefix(got, head) {
			t.Errorf("through %s the device reads %q, want %s", n.Name, got, head)
		}
	}
	machine.Run("", "git", "ls-remote", "cluster::device/a").Refused(t)
	machine.With("PHABRICATOR_AS_DEVICE=0").Run("", "git", "ls-remote", "cluster::device/a").Refused(t)
	both := device.With("PHABRICATOR_CREDENTIAL=alice").Run("", "git", "ls-remote", "cluster::device/a").Refused(t)
	if !strings.Contains(both, "PHABRICATOR_AS_DEVICE") || !strings.Contains(both, "PHABRICATOR_CREDENTIAL") {
		t.Errorf("the device and a user at once: %q names not both", both)
	}

	clone := filepath.Join(t.TempDir(), "clone")
	device.Must(t, "", "git", "clone", "-q", "cluster::device/a", clone)
	device.Commit(t, clone, "g", "two")
	if got := device.Run(clone, "git", "push", "origin", "main").Refused(t); !strings.Contains(got, "device/ci7 may read") {
		t.Errorf("a push without a grant: %q", got)
	}
	u.Must(t, "", "git-cluster", "grant", "device/ci7", "write", "device/a")
	device.Must(t, clone, "git", "push", "-q", "origin", "main")

	welcome := device.Run("", "git-cluster", "ssh", "node2")
	if welcome.Status != 1 || !strings.Contains(welcome.Stderr, "logged in as device/ci7") {
		t.Errorf("git cluster ssh: status %d, %q", welcome.Status, welcome.Stderr)
	}
	plain := fmt.Sprintf("ssh://%s/device/a", c.Nodes[2].SSH)
	device.With("GIT_SSH_COMMAND=git-cluster ssh").Must(t, "", "git", "ls-remote", plain)

	for _, change := range []struct{ off, on string }{{"disable", "enable"}, {"untrust", "trust"}} {
		u.Must(t, "", "git-cluster", "device", change.off, "ci7")
		start := time.Now()
		clustertest.Await(t, 30*time.Second, func() string {
			for _, n := range c.Nodes {
				if device.Via(n.Name).Run("", "git", "ls-remote", "cluster::device/a").Status == 0 {
					return n.Name + " still serves the device after " + change.off
				}
			}
			return ""
		})
		t.Logf("refused everywhere %v after device %s", time.Since(start).Round(time.Millisecond), change.off)
		u.Must(t, "", "git-cluster", "device", change.on, "ci7")
		clustertest.Await(t, 30*time.Second, func() string {
			if r := device.Run("", "git", "ls-remote", "cluster::device/a"); r.Status != 0 {
				return r.Stderr
			}
			return ""
		})
	}
}

// TestNodeAsDevice fetches on a node with the identity the node itself has.
func TestNodeAsDevice(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 1)
	u := c.Admin
	work := newWork(t, u)
	head := u.Commit(t, work, "f", "one")
	u.Git(t, work, "push", "-q", "cluster::device/b", "main")
	node := c.NewUser(t, "nobody").With("PHABRICATOR_AS_DEVICE=1", "SSH_AUTH_SOCK=", "GIT_CLUSTER_DEVICE_DIR="+filepath.Join(c.Nodes[0].Data, "device"))
	if got := node.Must(t, "", "git", "ls-remote", "cluster::device/b", "refs/heads/main"); !strings.HasPrefix(got, head) {
		t.Errorf("the node reads %q, want %s", got, head)
	}
}
