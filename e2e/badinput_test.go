package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/clustertest"
)

// oneLine checks that a command was refused in one line of ours, perhaps with a
// hint, that says what it should.
func oneLine(t *testing.T, r clustertest.Result, want string) {
	t.Helper()
	said := r.Refused(t)
	var ours []string
	for line := range strings.Lines(said) {
		switch {
		case strings.HasPrefix(line, "time="): // a node's log
		case strings.HasPrefix(line, "hint: "):
		default:
			ours = append(ours, line)
		}
	}
	if len(ours) != 1 || !strings.HasPrefix(ours[0], "git-cluster: ") || !regexp.MustCompile(want).MatchString(ours[0]) {
		t.Errorf("%s\nsaid %q\nwant one line with %q", strings.Join(r.Args, " "), said, want)
	}
}

// leftovers fails the test if a folder, but for what is named, is not empty.
func leftovers(t *testing.T, dir string, expected ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		known := false
		for _, name := range expected {
			known = known || name == e.Name()
		}
		if !known {
			t.Errorf("%s was left in %s", e.Name(), dir)
		}
	}
}

// TestJoinRefused joins with tokens that are no good, and by names that are taken.
func TestJoinRefused(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 1)
	u, seed := c.Admin, c.Nodes[0]
	parent := t.TempDir()
	newcomer := func(name string) *clustertest.Node {
		n, err := c.NewNode(name)
		if err != nil {
			t.Fatal(err)
		}
		n.Data = filepath.Join(parent, name)
		return n
	}
	join := func(n *clustertest.Node, token string) clustertest.Result {
		return u.Run("", n.Settings("join", seed.SSH, "--token", token)...)
	}
	token := func(args ...string) string {
		return u.Must(t, "", append([]string{"git-cluster", "token", "create", "--data", seed.Data}, args...)...)
	}
	members := func() int {
		st, err := seed.Status()
		if err != nil {
			t.Fatal(err)
		}
		return len(st.Nodes)*10 + len(st.Journal)
	}
	before := members()

	n := newcomer("late")
	oneLine(t, join(n, "nonsense"), "no join token")
	oneLine(t, join(n, token("--valid", "1ns")), "unknown, used or expired")
	good := token()
	wrong := good[:len(good)-4] + "AAAA"
	oneLine(t, join(n, wrong), "token")
	unknown := strings.Replace(good, "gcjoin-"+good[7:23], "gcjoin-0123456789abcdef", 1)
	oneLine(t, join(n, unknown), "unknown, used or expired")
	oneLine(t, u.Run("", n.Settings("join", "127.0.0.1:1", "--token", good)...), "reach the node at 127.0.0.1:1")
	oneLine(t, u.Run("", n.Settings("join", seed.SSH)...), "--token is missing")
	taken := newcomer("node1")
	oneLine(t, join(taken, good), `device "node1": already exists`)
	bad := newcomer("no good")
	oneLine(t, join(bad, good), "bad device name")
	leftovers(t, parent)
	if now := members(); now != before {
		t.Errorf("after refused joins: %d, before: %d (ten times the nodes, and the journal's servers)", now, before)
	}

	// None of that has used the token; joining does.
	if err := join(n, good).Err(); err != nil {
		t.Fatal(err)
	}
	oneLine(t, join(newcomer("later"), good), "unknown, used or expired")
	oneLine(t, join(n, token()), "is not empty")
	leftovers(t, parent, "late")
	for _, valid := range []string{"-1s", "0s", "1000h"} {
		oneLine(t, u.Run("", "git-cluster", "token", "create", "--data", seed.Data, "--valid", valid), "valid")
	}
}

// TestInitRefused makes clusters that cannot be made.
func TestInitRefused(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	u, parent := c.Admin, t.TempDir()
	n, err := c.NewNode("init")
	if err != nil {
		t.Fatal(err)
	}
	n.Data = filepath.Join(parent, "data")
	if err := writeFile(filepath.Join(n.Data, "file"), "mine"); err != nil {
		t.Fatal(err)
	}
	oneLine(t, u.Run("", n.Settings("init")...), "is not empty")
	leftovers(t, n.Data, "file")
	leftovers(t, parent, "data")

	n.Data = filepath.Join(parent, "other")
	oneLine(t, u.Run("", n.Settings("init", "--admin", "a")...), "--admin and --admin-key go together")
	garbage := filepath.Join(t.TempDir(), "garbage.pub")
	if err := os.WriteFile(garbage, []byte("ssh-ed25519 nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{os.DevNull, garbage} {
		if r := u.Run("", n.Settings("init", "--admin", "a", "--admin-key", key)...); r.Status == 0 {
			t.Errorf("%s was taken for a key: %s", key, r.Stdout)
			os.RemoveAll(n.Data)
		} else {
			oneLine(t, r, "public key")
		}
	}
	oneLine(t, u.Run("", n.Settings("init", "--admin", "a b", "--admin-key", u.PublicKey())...), "bad user name")
	oneLine(t, u.Run("", n.Settings("init", "--trusted-network", "10.0.0.0/99")...), "trusted-network")
	oneLine(t, u.Run("", "git-cluster", "init", "--data", n.Data, "--name", "x", "--ssh", "nonsense"), "nonsense")
	oneLine(t, u.Run("", "git-cluster", "init", "--data", n.Data, "--name", "x", "--ssh", ":2222"), "--ssh names no host")
	oneLine(t, u.Run("", "git-cluster", "serve", "--data", n.Data), "holds no node")
	leftovers(t, parent, "data")
}

// TestForeignData starts nodes on data that are not theirs.
func TestForeignData(t *testing.T) {
	t.Parallel()
	one, other := clustertest.Start(t, 1), clustertest.Start(t, 1)
	a, b := one.Nodes[0], other.Nodes[0]
	u := one.Admin
	work := newWork(t, u)
	head := u.Commit(t, work, "f", "one")
	u.Git(t, work, "push", "-q", "cluster::foreign/a", "main")
	a.Kill()
	b.Kill()

	// Another cluster's journal.
	swap(t, filepath.Join(a.Data, "journal"), filepath.Join(b.Data, "journal"))
	oneLine(t, u.Run("", "git-cluster", "serve", "--data", a.Data), "belongs to cluster .*journal is that of cluster|journal")
	swap(t, filepath.Join(a.Data, "journal"), filepath.Join(b.Data, "journal"))

	// A key that others may read.
	key := filepath.Join(a.Data, "device", "id_ed25519")
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	oneLine(t, u.Run("", "git-cluster", "serve", "--data", a.Data), "may be read by others")
	if err := os.Chmod(key, 0o600); err != nil {
		t.Fatal(err)
	}

	// Its configuration with a mistake in it.
	settings := filepath.Join(a.Data, "node.toml")
	text, err := os.ReadFile(settings)
	if err != nil {
		t.Fatal(err)
	}
	for _, broken := range []string{"nonsense", "name = 3\n", strings.Replace(string(text), "[ssh]", "[shh]", 1)} {
		if err := os.WriteFile(settings, []byte(broken), 0o600); err != nil {
			t.Fatal(err)
		}
		oneLine(t, u.Run("", "git-cluster", "serve", "--data", a.Data), "node.toml")
	}
	if err := os.WriteFile(settings, text, 0o600); err != nil {
		t.Fatal(err)
	}

	// None of that has changed anything.
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	checkEverywhere(t, one, "foreign/a", map[string]string{"refs/heads/main": head})

	// Its address is taken.
	a.Kill()
	squatter := listen(t, a.SSH)
	oneLine(t, u.Run("", "git-cluster", "serve", "--data", a.Data), "address already in use")
	squatter.Close()
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
}

// TestReplicaFromBackup takes a replica's directory away and puts an old one
// back: the node serves what the journal says or nothing.
func TestReplicaFromBackup(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 3)
	u, n := c.Admin, c.Node(t, "node2")
	work := newWork(t, u)
	u.Commit(t, work, "f", "one")
	u.Via("node1").Git(t, work, "push", "-q", "cluster::backup/a", "main")
	lsRemote(t, u, "node2", "backup/a")
	dir := c.Repository(t, "backup/a")["node2"]
	n.Kill()
	old := filepath.Join(t.TempDir(), "old")
	if out, err := exec.Command("cp", "-a", dir, old).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	head := u.Commit(t, work, "f", "two")
	u.Via("node1").Git(t, work, "push", "-q", "cluster::backup/a", "main")
	lsRemote(t, u, "node2", "backup/a")

	// A backup is only behind: it catches up by itself.
	n.Kill()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(old, dir); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	checkEverywhere(t, c, "backup/a", map[string]string{"refs/heads/main": head})

	// One that was lost is filled again.
	n.Kill()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	checkEverywhere(t, c, "backup/a", map[string]string{"refs/heads/main": head})

	// One that was edited is fenced, with a line that says so; the helper goes
	// on to the next node.
	n.Kill()
	u.Git(t, "", "-c", "safe.directory=*", "-C", dir, "update-ref", "refs/heads/main", head+"~1")
	u.Git(t, "", "-c", "safe.directory=*", "-C", dir, "update-ref", "refs/heads/stray", head)
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	r := u.Run("", "git", "ls-remote", "ssh://node2/backup/a")
	if said := r.Refused(t); !strings.Contains(said, "replica is fenced") || !strings.Contains(said, "# hint: ") {
		t.Errorf("%s", said)
	}
	if got := u.Git(t, "", "ls-remote", "cluster::backup/a", "main"); !strings.HasPrefix(got, head) {
		t.Errorf("through the helper: %s", got)
	}
	if st := u.Must(t, "", "git-cluster", "repo", "show", "backup/a"); !strings.Contains(st, "fenced") {
		clustertest.Await(t, 10*time.Second, func() string {
			if st := u.Must(t, "", "git-cluster", "repo", "show", "backup/a"); !strings.Contains(st, "fenced") {
				return st
			}
			return ""
		})
	}
}

// TestOldGit runs the programs with a Git that is too old.
func TestOldGit(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 1)
	n, dir := c.Nodes[0], t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "git"), []byte("#!/bin/sh\necho git version 2.30.2\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	old := c.Admin.With("PATH=" + dir + ":/usr/bin:/bin")
	n.Kill()
	oneLine(t, old.Run("", "git-cluster", "serve", "--data", n.Data), "git version 2.30.2 is too old")
	fresh, err := c.NewNode("fresh")
	if err != nil {
		t.Fatal(err)
	}
	oneLine(t, old.Run("", fresh.Settings("init")...), "too old")
	if _, err := os.Stat(fresh.Data); !os.IsNotExist(err) {
		t.Errorf("init left something: %v", err)
	}
	none := c.Admin.With("PATH=" + t.TempDir())
	oneLine(t, none.Run("", "git-cluster", "serve", "--data", n.Data), "git")
}
