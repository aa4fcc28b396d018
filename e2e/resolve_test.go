package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gitcluster/internal/config"
)

// TestResolvedAddresses hands Git the plain addresses that `resolve` prints: each logs
// in as the helper would.
func TestResolvedAddresses(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	u := addUser(t, "resolver", "--admin")
	work := newWork(t, u)
	head := u.Commit(t, work, "f", "one")
	u.Git(t, work, "push", "-q", "cluster::resolved/a", "main")
	identity := strings.TrimSuffix(u.PublicKey(), ".pub")

	home := t.TempDir()
	k := &config.Cluster{Identity: identity} // and no user
	for _, n := range c.Nodes {
		k.Nodes = append(k.Nodes, config.Node{Name: n.Name, SSH: n.SSH, HostKey: hostKey(t, n)})
	}
	if err := (&config.Client{Clusters: map[string]*config.Cluster{"test": k}}).Write(filepath.Join(home, "client.toml")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, ".ssh", "config"), []byte("Host *\n  User somebody\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	v := u.With("HOME="+home, "XDG_CACHE_HOME="+filepath.Join(home, "cache"), config.EnvClient+"="+filepath.Join(home, "client.toml"))
	if got := v.Git(t, home, "ls-remote", "cluster::resolved/a", "main"); !strings.HasPrefix(got, head) { // learns the HTTPS addresses
		t.Fatalf("%q, want %s", got, head)
	}
	plain := v.With("GIT_SSH_COMMAND=ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o IdentitiesOnly=yes -i " + identity)
	token := u.Token(t)
	for _, tc := range []struct{ address, user string }{
		{"cluster::resolved/a", "somebody"}, {"cluster::alice@resolved/a", "alice"}, {"cluster://" + c.Nodes[0].SSH + "/resolved/a", "somebody"},
	} {
		var r struct{ Replicas []struct{ SSH, HTTPS string } }
		if err := json.Unmarshal([]byte(v.Must(t, home, "git-cluster", "resolve", "--json", tc.address)), &r); err != nil {
			t.Fatal(err)
		}
		named := strings.HasPrefix(tc.address, "cluster::")
		if named && len(r.Replicas) != 3 {
			t.Errorf("%s has the replicas %+v", tc.address, r.Replicas)
		}
		for _, at := range r.Replicas {
			if !strings.HasPrefix(at.SSH, "ssh://"+tc.user+"@") {
				t.Errorf("%s: %s, and not %s's", tc.address, at.SSH, tc.user)
			}
			if got := plain.Run(home, "git", "ls-remote", at.SSH, "main"); got.Err() != nil || !strings.HasPrefix(got.Stdout, head) {
				t.Errorf("%s: %q, %v", at.SSH, got.Stdout, got.Err())
			}
			rest, ok := strings.CutPrefix(at.HTTPS, "https://")
			if !ok {
				if named {
					t.Errorf("%s has no HTTPS address for %s", tc.address, at.SSH)
				}
				continue
			}
			if got := plain.Run(home, "git", "ls-remote", "https://x:"+token+"@"+rest, "main"); got.Err() != nil || !strings.HasPrefix(got.Stdout, head) {
				t.Errorf("%s: %q, %v", at.HTTPS, got.Stdout, got.Err())
			}
		}
	}
}
