package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gitcluster/internal/clustertest"
	"gitcluster/internal/config"
)

// TestOneAddressIsEnough has a single node in the configuration; the others are
// learned from it, and later ones from them.
func TestOneAddressIsEnough(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 3)
	work := newWork(t, c.Admin)
	c.Admin.Commit(t, work, "f", "one")
	c.Admin.Git(t, work, "push", "-q", "cluster::choice/learn", "main")
	p := &place{t: t, dir: t.TempDir(), clusters: c}
	p.newCache("")
	identity := strings.TrimSuffix(c.Admin.PublicKey(), ".pub")
	conf := &config.Client{Clusters: map[string]*config.Cluster{"test": {Identity: identity,
		Nodes: []config.Node{{Name: "first", SSH: c.Nodes[0].SSH, HostKey: hostKey(t, c.Nodes[0])}}}}}
	if err := conf.Write(filepath.Join(p.dir, "client.toml")); err != nil {
		t.Fatal(err)
	}
	serves := func(what string, want ...string) {
		t.Helper()
		r, served, trace := p.git("", "ls-remote", "cluster::choice/learn")
		for _, w := range want {
			if r.Err() == nil && served == w {
				return
			}
		}
		t.Fatalf("%s: %s served, want one of %q: %v\n%s", what, served, want, r.Err(), trace)
	}
	serves("the only node there is", "first")
	pinned := p.With("GIT_CLUSTER_REPLICA=node3").Run("", "git", "ls-remote", "cluster::choice/learn")
	if pinned.Err() != nil {
		t.Fatalf("a learned node by its name: %v", pinned.Err())
	}
	grown, err := c.Grow()
	if err != nil {
		t.Fatal(err)
	}
	clustertest.Await(t, 20*time.Second, func() string {
		p.git("", "ls-remote", "cluster::choice/learn")
		r := p.With("GIT_CLUSTER_REPLICA="+grown.Name).Run("", "git", "ls-remote", "cluster::choice/learn")
		if r.Err() != nil {
			return r.Err().Error()
		}
		return ""
	})
	c.Nodes[0].Kill()
	serves("the configured node is dead", "node2", "node3", "node4")
	serves("and stays so", "node2", "node3", "node4")
	if r := p.Run("", "git-cluster", "status"); r.Err() != nil || !strings.Contains(r.Stdout, "node4") {
		t.Errorf("administration while the configured node is dead: %v, %q", r.Err(), r.Stdout)
	}

	// A learned key is as good as a configured one: another's is refused.
	r := p.With("GIT_CLUSTER_REPLICA=node2").Run("", "git", "ls-remote", "cluster::choice/learn")
	if r.Err() != nil {
		t.Fatal(r.Err())
	}
	lists, err := filepath.Glob(filepath.Join(p.home, "git-cluster", "nodes-*.json"))
	if err != nil || len(lists) != 1 {
		t.Fatalf("lists of nodes: %q, %v", lists, err)
	}
	text, err := os.ReadFile(lists[0])
	if err != nil {
		t.Fatal(err)
	}
	swapped := strings.Replace(string(text), hostKey(t, c.Nodes[1]), hostKey(t, c.Nodes[2]), 1)
	if err := os.WriteFile(lists[0], []byte(swapped), 0o600); err != nil {
		t.Fatal(err)
	}
	r = p.With("GIT_CLUSTER_REPLICA=node2").Run("", "git", "ls-remote", "cluster::choice/learn")
	if r.Err() == nil || !strings.Contains(r.Stderr, "host key has changed") {
		t.Errorf("a learned node with another key: %v %q", r.Err(), r.Stderr)
	}
}

// TestDeadConnection has the node fall silent in the middle of a pack.
func TestDeadConnection(t *testing.T) {
	c := sharedCluster(t)
	work := newWork(t, c.Admin)
	grow(t, c, work, 99)
	c.Admin.Via("node1").With("GIT_SSH_COMMAND=").Git(t, work, "push", "-q", "cluster::choice/dead", "main")
	for what, tc := range map[string]struct{ cut, program bool }{
		"cut": {true, false}, "silent": {false, false}, "cut under ssh": {true, true}, "silent under ssh": {false, true},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t, c, 0)
			if tc.program {
				p.through(t)
			}
			after(1<<20, tc.cut)(t, p, c.Nodes[0])
			r, _, trace := p.git("", "clone", "-q", "cluster::choice/dead", filepath.Join(p.dir, "clone"))
			if r.Err() == nil || r.Took > time.Minute || !strings.Contains(r.Stderr, "git-remote-cluster: node1 (") ||
				strings.Count(r.Stderr, "safe to run the command again") != 1 {
				t.Errorf("after %v: %q\n%s", r.Took, r.Stderr, trace)
			}
		})
	}
}

// TestDeadConnectionOfAPush loses the answer to a push: whether it was accepted is
// not known, and pushing again is safe.
func TestDeadConnectionOfAPush(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	work := newWork(t, c.Admin)
	grow(t, c, work, 98)
	p := newPlace(t, c, 0)
	near := p.links["node1"]
	near.breakAt.Store(16 << 20) // of 32 MiB
	r, _, trace := p.git(work, "push", "-q", "cluster::choice/deadpush", "main")
	if r.Err() == nil || strings.Count(r.Stderr, "it is safe to push again: what was accepted is then already there") != 1 {
		t.Errorf("%v, %q\n%s", r.Err(), r.Stderr, trace)
	}
	near.breakAt.Store(0)
	near.limit.Store(-1)
	if r, _, trace := p.git(work, "push", "-q", "cluster::choice/deadpush", "main"); r.Err() != nil {
		t.Errorf("again: %v\n%s", r.Err(), trace)
	}
	if head := c.Admin.Git(t, work, "rev-parse", "main"); !strings.HasPrefix(c.Admin.Git(t, work, "ls-remote", "cluster::choice/deadpush", "main"), head) {
		t.Error("what was pushed twice is not there")
	}
}

// TestManyHelpers runs many commands on one machine at once that share a cache.
func TestManyHelpers(t *testing.T) {
	c := sharedCluster(t)
	u := addUser(t, "many", "--admin")
	work := newWork(t, u)
	u.Commit(t, work, "f", "one")
	u.With("GIT_SSH_COMMAND=").Git(t, work, "push", "-q", "cluster::many/a", "main")
	cache := t.TempDir()
	many := u.With("GIT_SSH_COMMAND=", "XDG_CACHE_HOME="+cache)
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			if err := many.Run("", "git", "ls-remote", "cluster::many/a").Err(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	files, err := os.ReadDir(filepath.Join(cache, "git-cluster"))
	if err != nil || len(files) != 2 {
		t.Errorf("the cache has %d files, want the servers and one list of nodes; %v", len(files), err)
	}
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(cache, "git-cluster", f.Name()))
		if err != nil || !json.Valid(text) {
			t.Errorf("%s: %v, %.200q", f.Name(), err, text)
		}
	}
	helper := filepath.Join(c.Bin, "git-remote-cluster")
	clustertest.Await(t, time.Minute, func() string {
		processes, _ := filepath.Glob("/proc/[0-9]*/exe")
		for _, p := range processes {
			exe, _ := os.Readlink(p)
			args, _ := os.ReadFile(filepath.Join(filepath.Dir(p), "cmdline"))
			if exe == helper && strings.Contains(string(args), "many/a") {
				return "a helper still runs: " + p
			}
		}
		return ""
	})
}
