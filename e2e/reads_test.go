package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"gitcluster/internal/clustertest"
)

// TestReadYourWrites pushes to each node in turn and reads at once from the
// others, by plain ssh and through the helper: every read shows the push.
func TestReadYourWrites(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	u := c.Admin
	work := newWork(t, u)
	for i := range 20 {
		to, ssh, helper := c.Nodes[i%3].Name, c.Nodes[(i+1)%3].Name, c.Nodes[(i+2)%3].Name
		head := u.Commit(t, work, "f", fmt.Sprint(i))
		u.Via(to).Git(t, work, "push", "-q", "cluster::reads/a", "main", fmt.Sprintf("main:refs/heads/b%d", i))
		want := fmt.Sprintf("%s\trefs/heads/b%d", head, i)
		for how, got := range map[string]string{
			"ssh://" + ssh:        u.Git(t, work, "ls-remote", "ssh://"+ssh+"/reads/a"),
			"cluster:: " + helper: u.Via(helper).Git(t, work, "ls-remote", "cluster::reads/a"),
		} {
			if !strings.Contains(got, want) || !strings.Contains(got, head+"\trefs/heads/main") {
				t.Errorf("push %d to %s, then %s: no %s in\n%s", i, to, how, want, got)
			}
		}
	}
	clone := filepath.Join(t.TempDir(), "clone")
	u.Via("node3").Git(t, work, "clone", "-q", "cluster::reads/a", clone)
	if got := u.Git(t, clone, "rev-list", "--count", "HEAD"); got != "20" {
		t.Errorf("%s commits in the clone, want 20", got)
	}
}

// newWork makes an empty repository with a working tree.
func newWork(t testing.TB, u *clustertest.User) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "work")
	u.Git(t, "", "init", "-q", dir)
	return dir
}

// lsRemote returns a repository's refs as one node shows them.
func lsRemote(t testing.TB, u *clustertest.User, node, repo string) map[string]string {
	t.Helper()
	refs := map[string]string{}
	for line := range strings.Lines(u.Git(t, "", "ls-remote", "ssh://"+node+"/"+repo)) {
		if oid, ref, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok {
			refs[ref] = oid
		}
	}
	return refs
}
