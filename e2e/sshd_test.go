package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gitcluster/internal/clustertest"
)

// TestOpenSSH puts Debian's sshd in front of a node, with git-cluster's
// authorized-keys and shell behind it.
func TestOpenSSH(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 2)
	u, back := c.Admin, c.Nodes[0]
	front, err := c.StartOpenSSH(back)
	if errors.Is(err, clustertest.ErrNoOpenSSH) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	address := "ssh://" + front.Name + "/sshd/a"

	work := newWork(t, u)
	head := u.Commit(t, work, "f", "one")
	u.Git(t, work, "push", "-q", address, "main")
	if got := u.Via("node2").Git(t, "", "ls-remote", "cluster::sshd/a", "main"); !strings.HasPrefix(got, head) {
		t.Errorf("pushed through sshd, read from node2: %q", got)
	}
	clone := filepath.Join(t.TempDir(), "clone")
	u.Git(t, "", "clone", "-q", address, clone)
	head = u.Commit(t, clone, "f", "two")
	u.Via("node2").Git(t, clone, "push", "-q", "cluster::sshd/a", "main")
	if got := u.Git(t, "", "ls-remote", address, "main"); !strings.HasPrefix(got, head) {
		t.Errorf("pushed to node2, read through sshd: %q", got)
	}

	// Version 2 of the protocol, by the variable sshd was told to accept.
	r := u.With("GIT_TRACE_PACKET=1").Run("", "git", "-c", "protocol.version=2", "ls-remote", address)
	if err := r.Err(); err != nil || !strings.Contains(r.Stderr, "< version 2") {
		t.Errorf("no version 2: %v\n%s", err, r.Stderr)
	}
	r = u.Run("", "git", "archive", "--remote="+address, "main")
	if err := r.Err(); err != nil || !strings.Contains(r.Stdout, "two") {
		t.Errorf("archive: %v", err)
	}

	// The helper knows it as a node too.
	host := fmt.Sprintf("cluster://%s@%s/sshd/a", "root", front.Addr)
	r = u.With("GIT_CLUSTER_CONFIG="+frontClient(t, front, u)).Run("", "git", "ls-remote", host, "main")
	if err := r.Err(); err != nil || !strings.HasPrefix(r.Stdout, head) {
		t.Errorf("through the helper: %v\n%s", err, r.Stdout)
	}

	// Nothing else is to be had.
	for what, args := range map[string][]string{
		"a shell":          {front.Name},
		"a command":        {front.Name, "id"},
		"a file":           {front.Name, "cat", "/etc/passwd"},
		"a piece of shell": {front.Name, "git-upload-pack 'sshd/a'; id"},
		"another user":     {front.Name, "@bob", "git-upload-pack", "sshd/a"},
		"peers' objects":   {front.Name, "cluster-pack", "0123456789abcdef"},
		"forwarding":       {"-o", "ExitOnForwardFailure=yes", "-L", "0:localhost:22", "-R", "0:localhost:22", front.Name, "git-upload-pack"},
	} {
		r := u.Run("", append([]string{"ssh", "-F", u.SSHConfig()}, args...)...)
		r.Refused(t)
		if strings.Contains(r.Stdout, "uid=") || strings.Contains(r.Stdout, "root:") {
			t.Errorf("%s: %s", what, r.Stdout)
		}
	}
	r = u.Run("", "ssh", "-F", u.SSHConfig(), front.Name)
	if said := r.Refused(t); !strings.Contains(said, "Welcome to git-cluster node") || !strings.Contains(said, "logged in as boss") {
		t.Errorf("welcome: %s", said)
	}

	// A key the cluster does not know, and one it has forgotten.
	eve := c.NewUser(t, "eve")
	if said := eve.Run("", "git", "ls-remote", address).Refused(t); !strings.Contains(said, "Permission denied") {
		t.Errorf("eve: %s", said)
	}
	alice := c.AddUser(t, "alice")
	if said := alice.Run("", "git", "ls-remote", address).Refused(t); !strings.Contains(said, "not found, or you may not read it") {
		t.Errorf("alice: %s", said)
	}
	u.Must(t, "", "git-cluster", "grant", "alice", "read", "sshd/a")
	alice.Git(t, "", "ls-remote", address)
	u.Must(t, "", "git-cluster", "user", "remove", "alice")
	if said := alice.Run("", "git", "ls-remote", address).Refused(t); !strings.Contains(said, "Permission denied") {
		t.Errorf("alice when removed: %s", said)
	}

	// shell is nothing to be run by hand, and without its node nobody gets in.
	oneLine(t, u.Run("", "git-cluster", "shell", "--data", back.Data, "--user", "boss"), "SSH_CONNECTION is not set")
	oneLine(t, u.Run("", "git-cluster", "shell", "--data", back.Data), "one of --user and --device")
	back.Kill()
	if said := u.Run("", "git", "ls-remote", address).Refused(t); !strings.Contains(said, "Permission denied") {
		t.Errorf("with its node down: %s", said)
	}
}

// frontClient writes a client.toml in which the sshd is the only node.
func frontClient(t *testing.T, f *clustertest.OpenSSH, u *clustertest.User) string {
	t.Helper()
	key, err := f.HostKey()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "client.toml")
	text := fmt.Sprintf("[cluster.front]\nuser = \"root\"\nidentity = %q\n[[cluster.front.node]]\nname = \"front\"\nssh = %q\nhost-key = %q\n",
		strings.TrimSuffix(u.PublicKey(), ".pub"), f.Addr, key)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
