package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/clustertest"
)

// TestBackupAndRestore takes a cluster into a folder, a second time after more
// pushes, a third time until its node is killed, and from there into another
// cluster.
func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 1)
	boss := c.Admin
	alice := c.AddUser(t, "alice")
	token := alice.Token(t)
	on := func(c *clustertest.Cluster, args ...string) clustertest.Result {
		return c.Admin.Run("", append(append([]string{"git-cluster"}, args...), "--data", c.Nodes[0].Data)...)
	}
	must := func(c *clustertest.Cluster, args ...string) string {
		t.Helper()
		r := on(c, args...)
		if err := r.Err(); err != nil {
			t.Fatal(err)
		}
		return r.Stdout
	}
	must(c, "grant", "alice", "write", "team/*")
	must(c, "repo", "create", "team/plain", "--default-branch", "dev")
	must(c, "repo", "create", "team/empty", "--public")
	must(c, "repo", "create", "team/new", "--object-format", "sha256")
	must(c, "repo", "set", "team/plain", "--deny-deletes")
	work := newWork(t, boss)
	writeRandom(t, filepath.Join(work, "large"), 1<<20)
	boss.Commit(t, work, "f", "one")
	boss.Git(t, work, "add", "large")
	boss.Git(t, work, "commit", "-q", "-m", "large")
	boss.Git(t, work, "tag", "-a", "-m", "a tag", "v1")
	boss.Git(t, work, "push", "-q", "cluster::team/plain", "main:dev", "main:a/b", "v1", "HEAD:refs/notes/x")
	other := filepath.Join(t.TempDir(), "sha256")
	boss.Git(t, "", "init", "-q", "--object-format=sha256", other)
	boss.Commit(t, other, "g", "two")
	boss.Git(t, other, "push", "-q", "cluster::team/new", "main")

	dir := filepath.Join(t.TempDir(), "backup")
	write := func() (changed, bytes int) {
		t.Helper()
		said := must(c, "backup", dir)
		m := regexp.MustCompile(`(\d+) changed, with (\d+) bytes`).FindStringSubmatch(said)
		if m == nil {
			t.Fatalf("backup says %q", said)
		}
		changed, _ = strconv.Atoi(m[1])
		bytes, _ = strconv.Atoi(m[2])
		return changed, bytes
	}
	if changed, bytes := write(); changed != 3 || bytes < 1<<20 {
		t.Errorf("the first backup: %d changed, %d bytes", changed, bytes)
	}
	if changed, bytes := write(); changed != 0 || bytes != 0 {
		t.Errorf("with nothing new: %d changed, %d bytes", changed, bytes)
	}
	boss.Commit(t, work, "f", "three")
	boss.Git(t, work, "push", "-q", "cluster::team/plain", "main:dev", "main:c")
	if changed, bytes := write(); changed != 1 || bytes > 4096 {
		t.Errorf("after one commit: %d changed, %d bytes", changed, bytes)
	}
	// A repository that cannot be copied is no reason to have nothing new of the others.
	boss.Git(t, work, "push", "-q", "cluster::team/odd", "main")
	boss.Git(t, c.Repository(t, "team/odd")["node1"], "update-ref", "refs/heads/edited", "main")
	on(c, "verify", "team/odd")
	boss.Commit(t, work, "f", "more")
	boss.Git(t, work, "push", "-q", "cluster::team/plain", "main:dev")
	if said := on(c, "backup", dir).Refused(t); !strings.Contains(said, "1 of 4 repositories are not as new in it as in the cluster: team/odd: ") {
		t.Errorf("with one that is fenced: %s", said)
	}
	must(c, "repair", "team/odd")
	if changed, _ := write(); changed != 1 {
		t.Errorf("after the repair %d changed, and only one had not been copied", changed)
	}
	must(c, "repo", "delete", "team/odd", "--yes")
	write()
	manifest := filepath.Join(dir, "manifest.json")
	if info, err := os.Stat(manifest); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the manifest: %v, %v", info.Mode(), err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder: %v, %v", info.Mode(), err)
	}
	good, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	want := stateOf(t, c)

	// The node dies while it copies a large repository.
	writeRandom(t, filepath.Join(work, "large"), 48<<20)
	boss.Commit(t, work, "f", "four")
	boss.Git(t, work, "commit", "-q", "-a", "-m", "larger")
	boss.Git(t, work, "push", "-q", "cluster::team/plain", "main:dev")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ended := make(chan clustertest.Result, 1)
	go func() {
		ended <- boss.RunContext(ctx, "", "", "git-cluster", "backup", dir, "--data", c.Nodes[0].Data)
	}()
	for { // as often as may be: the moment is short
		found, err := filepath.Glob(filepath.Join(dir, "repositories/*/*.git/objects/incoming-*/pack/tmp_pack*"))
		if err != nil {
			t.Fatal(err)
		}
		if len(found) > 0 {
			break
		}
		select {
		case r := <-ended:
			t.Fatalf("the backup ended before it could be killed: %v\n%s", r.Err(), r.Stdout)
		default:
		}
	}
	c.Nodes[0].Kill()
	if r := <-ended; r.Status == 0 {
		t.Error("a backup succeeded whose node was killed")
	}
	if now, err := os.ReadFile(manifest); err != nil || string(now) != string(good) {
		t.Errorf("a backup that was broken off changed the manifest: %v", err)
	}

	to := clustertest.Start(t, 1)
	if said := must(to, "restore", dir); !strings.Contains(said, "Restored 3 repositories") {
		t.Errorf("restore says %q", said)
	}
	if got := stateOf(t, to); got != want {
		t.Errorf("restored:\n%s\nwant:\n%s", got, want)
	}
	fsck(t, to, "team/plain")
	fsck(t, to, "team/new")
	// Alice's key and her token are worth what they were.
	again := to.NewUser(t, "alice")
	for _, f := range []string{"", ".pub"} {
		data, err := os.ReadFile(strings.TrimSuffix(alice.PublicKey(), ".pub") + f)
		if err == nil {
			err = os.WriteFile(strings.TrimSuffix(again.PublicKey(), ".pub")+f, data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	clone := filepath.Join(t.TempDir(), "clone")
	again.Git(t, "", "clone", "-q", "cluster::team/plain", clone)
	head := again.Commit(t, clone, "f", "five")
	again.Git(t, clone, "push", "-q")
	known := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(known, fmt.Appendf(nil, "https://alice:%s@%s\n", token, to.Nodes[0].HTTP), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := again.With("GIT_CONFIG_PARAMETERS='credential.helper'='store --file="+known+"'").Git(t, "", "ls-remote", to.Nodes[0].URL("team/plain"), "dev"); !strings.HasPrefix(got, head) {
		t.Errorf("with the token: %q", got)
	}

	if said := on(to, "restore", dir).Refused(t); !strings.Contains(said, "already exists") || !strings.Contains(said, "hint:") {
		t.Errorf("restored over what is there: %s", said)
	}
	if said := on(to, "restore", dir, "--repo", "team/none").Refused(t); !strings.Contains(said, "not found") {
		t.Errorf("a repository that is not there: %s", said)
	}
	must(to, "restore", dir, "--repo", "team/plain", "--as", "team/before")
	if got, was := lsRemote(t, to.Admin, "node1", "team/before")["refs/heads/dev"], lsRemote(t, to.Admin, "node1", "team/plain")["refs/heads/dev"]; got == "" || got == was {
		t.Errorf("the repository of before shows %q, and that of now %q", got, was)
	}
	// What was changed in the folder is not restored.
	refs, err := filepath.Glob(filepath.Join(dir, "refs/*"))
	if err != nil || len(refs) != 4 { // what was deleted stays in it
		t.Fatalf("refs: %v, %v", refs, err)
	}
	for _, f := range refs {
		text, err := os.ReadFile(f)
		if err == nil {
			err = os.WriteFile(f, []byte(strings.ReplaceAll(string(text), "refs/heads/dev", "refs/heads/evil")), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if said := on(to, "restore", dir, "--repo", "team/plain", "--as", "team/changed").Refused(t); !strings.Contains(said, "the backup was changed") {
		t.Errorf("a changed backup: %s", said)
	}
	if said := must(to, "repo", "list"); strings.Contains(said, "changed") || strings.Contains(said, "restoring") {
		t.Errorf("something is left of it:\n%s", said)
	}

	// The backup goes on where it was, and keeps what was deleted by mistake.
	if err := c.Nodes[0].Start(); err != nil {
		t.Fatal(err)
	}
	must(c, "repo", "delete", "team/new", "--yes")
	if changed, bytes := write(); changed != 1 || bytes < 48<<20 {
		t.Errorf("after the broken one: %d changed, %d bytes", changed, bytes)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "repositories/*/*.git/objects/incoming-*")); len(left) > 0 {
		t.Errorf("left of the broken one: %v", left)
	}
	must(to, "restore", dir, "--repo", "team/new", "--as", "team/rescued")
	// It is an ordinary repository to any Git.
	for _, repo := range backupOf(t, dir) {
		boss.Git(t, "", "-c", "safe.directory=*", "-C", repo, "fsck", "--full", "--no-dangling")
	}

	if said := boss.Run("", "git-cluster", "backup", filepath.Join(t.TempDir(), "x")).Refused(t); !strings.Contains(said, "permission denied") {
		t.Errorf("an administrator from elsewhere writes to the node's disk: %s", said)
	}
	if said := on(c, "backup", work).Refused(t); !strings.Contains(said, "holds no backup") {
		t.Errorf("a backup into a folder with something else: %s", said)
	}
	if said := on(to, "backup", dir).Refused(t); !strings.Contains(said, "is a backup of the cluster") {
		t.Errorf("a backup over another cluster's: %s", said)
	}
}

// stateOf is what a restore has to bring back.
func stateOf(t *testing.T, c *clustertest.Cluster) string {
	t.Helper()
	var b strings.Builder
	data := c.Nodes[0].Data
	for _, list := range [][]string{{"repo", "list", "--json"}, {"user", "list", "--json"}} {
		var records []map[string]any
		if err := json.Unmarshal([]byte(c.Admin.Must(t, "", append(append([]string{"git-cluster"}, list...), "--data", data)...)), &records); err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			if r["name"] == c.Admin.Name {
				continue // each cluster has one of its own
			}
			for _, other := range []string{"id", "version", "initial_head"} {
				delete(r, other)
			}
			text, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, "%s\n", text)
		}
	}
	b.WriteString(c.Admin.Must(t, "", "git-cluster", "grants", "--data", data) + "\n")
	for _, repo := range []string{"team/plain", "team/new", "team/empty"} {
		b.WriteString(repo + "\n" + c.Admin.Must(t, "", "git", "ls-remote", "--symref", "ssh://node1/"+repo) + "\n")
	}
	return b.String()
}

func backupOf(t *testing.T, dir string) []string {
	t.Helper()
	repos, err := filepath.Glob(filepath.Join(dir, "repositories/??/*.git"))
	if err != nil || len(repos) == 0 {
		t.Fatal("no repositories: ", err)
	}
	return repos
}

// writeRandom writes a file that does not compress.
func writeRandom(t *testing.T, path string, size int) {
	t.Helper()
	f, err := os.Open("/dev/urandom")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data := make([]byte, size)
	if _, err := f.Read(data); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
