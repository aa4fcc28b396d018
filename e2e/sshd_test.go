package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/clustertest"
)

// TestOpenSSH puts Debian's sshd in front of a node, with git-cluster's
// authorized-keys and shell behind it.
func TestOpenSSH(t *testing.T) {
	sshd, err := exec.LookPath("sshd")
	if err != nil {
		if sshd = "/usr/sbin/sshd"; !isFile(sshd) {
			t.Skip("there is no sshd on this machine")
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("sshd runs AuthorizedKeysCommand only as root")
	}
	c := clustertest.Start(t, 2)
	front := startSSHD(t, sshd, c)
	u, back := c.Admin, c.Nodes[0]
	through := func(u *clustertest.User) *clustertest.User {
		return u.With("GIT_SSH_COMMAND=ssh -F " + front.config(t, u))
	}

	work := newWork(t, u)
	head := u.Commit(t, work, "f", "one")
	through(u).Git(t, work, "push", "-q", "ssh://front/sshd/a", "main")
	if got := u.Via("node2").Git(t, "", "ls-remote", "cluster::sshd/a", "main"); !strings.HasPrefix(got, head) {
		t.Errorf("pushed through sshd, read from node2: %q", got)
	}
	clone := filepath.Join(t.TempDir(), "clone")
	through(u).Git(t, "", "clone", "-q", "ssh://front/sshd/a", clone)
	head = u.Commit(t, clone, "f", "two")
	u.Via("node2").Git(t, clone, "push", "-q", "cluster::sshd/a", "main")
	if got := through(u).Git(t, "", "ls-remote", "ssh://front/sshd/a", "main"); !strings.HasPrefix(got, head) {
		t.Errorf("pushed to node2, read through sshd: %q", got)
	}

	// Version 2 of the protocol, by the variable sshd was told to accept.
	r := through(u).With("GIT_TRACE_PACKET=1").Run("", "git", "-c", "protocol.version=2", "ls-remote", "ssh://front/sshd/a")
	if err := r.Err(); err != nil || !strings.Contains(r.Stderr, "< version 2") {
		t.Errorf("no version 2: %v\n%s", err, r.Stderr)
	}
	r = through(u).Run("", "git", "archive", "--remote=ssh://front/sshd/a", "main")
	if err := r.Err(); err != nil || !strings.Contains(r.Stdout, "two") {
		t.Errorf("archive: %v", err)
	}

	// The helper knows it as a node too.
	host := fmt.Sprintf("cluster://%s@%s/sshd/a", "root", front.addr)
	r = u.With("GIT_CLUSTER_CONFIG="+front.client(t, u)).Run("", "git", "ls-remote", host, "main")
	if err := r.Err(); err != nil || !strings.HasPrefix(r.Stdout, head) {
		t.Errorf("through the helper: %v\n%s", err, r.Stdout)
	}

	// Nothing else is to be had.
	for what, args := range map[string][]string{
		"a shell":          {"front"},
		"a command":        {"front", "id"},
		"a file":           {"front", "cat", "/etc/passwd"},
		"a piece of shell": {"front", "git-upload-pack 'sshd/a'; id"},
		"another user":     {"front", "@bob", "git-upload-pack", "sshd/a"},
		"peers' objects":   {"front", "cluster-pack", "0123456789abcdef"},
		"forwarding":       {"-o", "ExitOnForwardFailure=yes", "-L", "0:localhost:22", "-R", "0:localhost:22", "front", "git-upload-pack"},
	} {
		r := u.Run("", append([]string{"ssh", "-F", front.config(t, u)}, args...)...)
		r.Refused(t)
		if strings.Contains(r.Stdout, "uid=") || strings.Contains(r.Stdout, "root:") {
			t.Errorf("%s: %s", what, r.Stdout)
		}
	}
	r = u.Run("", "ssh", "-F", front.config(t, u), "front")
	if said := r.Refused(t); !strings.Contains(said, "Welcome to git-cluster node") || !strings.Contains(said, "logged in as boss") {
		t.Errorf("welcome: %s", said)
	}

	// A key the cluster does not know, and one it has forgotten.
	eve := c.NewUser(t, "eve")
	if said := through(eve).Run("", "git", "ls-remote", "ssh://front/sshd/a").Refused(t); !strings.Contains(said, "Permission denied") {
		t.Errorf("eve: %s", said)
	}
	alice := c.AddUser(t, "alice")
	if said := through(alice).Run("", "git", "ls-remote", "ssh://front/sshd/a").Refused(t); !strings.Contains(said, "not found, or you may not read it") {
		t.Errorf("alice: %s", said)
	}
	u.Must(t, "", "git-cluster", "grant", "alice", "read", "sshd/a")
	through(alice).Git(t, "", "ls-remote", "ssh://front/sshd/a")
	u.Must(t, "", "git-cluster", "user", "remove", "alice")
	if said := through(alice).Run("", "git", "ls-remote", "ssh://front/sshd/a").Refused(t); !strings.Contains(said, "Permission denied") {
		t.Errorf("alice when removed: %s", said)
	}

	// shell is nothing to be run by hand, and without its node nobody gets in.
	oneLine(t, u.Run("", "git-cluster", "shell", "--data", back.Data, "--user", "boss"), "SSH_CONNECTION is not set")
	oneLine(t, u.Run("", "git-cluster", "shell", "--data", back.Data), "one of --user and --device")
	back.Kill()
	if said := through(u).Run("", "git", "ls-remote", "ssh://front/sshd/a").Refused(t); !strings.Contains(said, "Permission denied") {
		t.Errorf("with its node down: %s", said)
	}
}

// An openSSHD is a private sshd on a free port.
type openSSHD struct{ dir, addr string }

func startSSHD(t *testing.T, sshd string, c *clustertest.Cluster) *openSSHD {
	t.Helper()
	// sshd wants every folder above the command to be root's alone, which those
	// of temporary files are not.
	dir, err := os.MkdirTemp("/root", "gc-sshd-")
	if err != nil {
		t.Skipf("no folder that only root can write: %v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().(*net.TCPAddr)
	f := &openSSHD{dir: dir, addr: addr.String()}
	keygen := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, "host"))
	if out, err := keygen.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	program := filepath.Join(c.Bin, "git-cluster")
	command := filepath.Join(dir, "keys")
	text := fmt.Sprintf("#!/bin/sh\nexec %s authorized-keys --data %s \"$1\" \"$2\"\n", program, c.Nodes[0].Data)
	if err := os.WriteFile(command, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	settings := fmt.Sprintf(`Port %d
ListenAddress 127.0.0.1
HostKey %s
PidFile none
UsePAM no
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
AuthorizedKeysFile none
AuthorizedKeysCommand %s %%t %%k
AuthorizedKeysCommandUser root
AcceptEnv GIT_PROTOCOL GIT_CLUSTER_STALE_OK
LogLevel VERBOSE
`, addr.Port, filepath.Join(dir, "host"), command)
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // where sshd separates its privileges
		t.Skipf("sshd cannot run here: %v", err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	l.Close()
	ctx, cancel := context.WithCancel(context.Background())
	server := exec.CommandContext(ctx, sshd, "-D", "-e", "-f", filepath.Join(dir, "config"))
	server.Stderr = log
	if err := server.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		server.Wait() // killed: its error says so
		if t.Failed() {
			said, _ := os.ReadFile(log.Name())
			t.Logf("sshd:\n%s", said)
		}
	})
	clustertest.Await(t, 10*time.Second, func() string {
		conn, err := net.Dial("tcp", f.addr)
		if err != nil {
			return err.Error()
		}
		conn.Close()
		return ""
	})
	return f
}

// config writes a file for `ssh -F` by which the user reaches the sshd as "front".
func (f *openSSHD) config(t *testing.T, u *clustertest.User) string {
	t.Helper()
	host, port, err := net.SplitHostPort(f.addr)
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(f.dir, "host.pub"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(f.dir, u.Name+"_config")
	known := filepath.Join(f.dir, "known_hosts")
	text := fmt.Sprintf("Host front\n  HostName %s\n  Port %s\n  HostKeyAlias front\n  User root\n  IdentityFile %s\n  IdentitiesOnly yes\n  IdentityAgent none\n  BatchMode yes\n  SendEnv GIT_PROTOCOL\n  UserKnownHostsFile %s\n  GlobalKnownHostsFile /dev/null\n",
		host, port, strings.TrimSuffix(u.PublicKey(), ".pub"), known)
	for file, content := range map[string]string{path: text, known: "front " + string(key)} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// client writes a client.toml in which the sshd is the only node.
func (f *openSSHD) client(t *testing.T, u *clustertest.User) string {
	t.Helper()
	key, err := os.ReadFile(filepath.Join(f.dir, "host.pub"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(f.dir, u.Name+".toml")
	text := fmt.Sprintf("[cluster.front]\nuser = \"root\"\nidentity = %q\n[[cluster.front.node]]\nname = \"front\"\nssh = %q\nhost-key = %q\n",
		strings.TrimSuffix(u.PublicKey(), ".pub"), f.addr, strings.TrimSpace(string(key)))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}
