package e2e

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"gitcluster/internal/admin"
	"gitcluster/internal/cluster"
	"gitcluster/internal/clustertest"
	"gitcluster/internal/localsocket"
	"gitcluster/internal/shell"
)

// TestLargePushes pushes a blob of 200 MB, and commits of a gigabyte, to a cluster
// of three nodes. No process of any node may need much memory for that.
func TestLargePushes(t *testing.T) {
	clustertest.NeedLong(t)
	c := clustertest.Start(t, 3)
	u := c.Admin.With("GIT_CONFIG_PARAMETERS='core.compression'='0' 'core.bigFileThreshold'='1m'")
	work := newWork(t, u)
	watched := watchMemory(c)
	push := func(what string) {
		t.Helper()
		start := time.Now()
		u.Git(t, work, "push", "-q", "cluster::large/a", "main")
		took := time.Since(start)
		start = time.Now()
		for _, n := range c.Nodes {
			lsRemote(t, c.Admin, n.Name, "large/a")
		}
		t.Logf("%s: pushed in %v, on all nodes after %v", what, took, time.Since(start))
	}
	writeRandom(t, filepath.Join(work, "blob"), 200<<20)
	u.Git(t, work, "add", ".")
	u.Git(t, work, "commit", "-q", "-m", "blob")
	push("a blob of 200 MB")
	for i := range 4 {
		for n := range 8 {
			writeRandom(t, filepath.Join(work, fmt.Sprint("f", n)), 32<<20)
		}
		u.Git(t, work, "add", ".")
		u.Git(t, work, "commit", "-q", "-m", fmt.Sprint(i))
	}
	push("a gigabyte")
	clone := filepath.Join(t.TempDir(), "clone")
	start := time.Now()
	u.Via("node3").Git(t, "", "clone", "-q", "--bare", "cluster::large/a", clone)
	t.Logf("cloned in %v", time.Since(start))
	start = time.Now()
	t.Logf("%s, in %v", c.Admin.Must(t, "", "git-cluster", "maintain", "large/a", "--full", "--node", "node2"), time.Since(start))
	dir := filepath.Join(t.TempDir(), "backup")
	start = time.Now()
	c.Admin.Must(t, "", "git-cluster", "backup", dir, "--data", c.Nodes[0].Data)
	t.Logf("backed up in %v", time.Since(start))
	for process, kib := range watched() {
		t.Logf("%s: at most %d MiB", process, kib>>10)
		if kib>>10 > 500 {
			t.Errorf("%s took %d MiB", process, kib>>10)
		}
	}
	fsck(t, c, "large/a")
}

// watchMemory notes the memory of the nodes and of the processes they start, until
// the function it returns is called: by command, in KiB, the most of any one.
func watchMemory(c *clustertest.Cluster) func() map[string]int {
	ctx, stop := context.WithCancel(context.Background())
	most := map[string]int{}
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			parents := map[string]bool{}
			for _, n := range c.Nodes {
				parents[strconv.Itoa(n.PID())] = true
			}
			all, _ := filepath.Glob("/proc/[0-9]*")
			for range 3 { // processes of processes
				for _, p := range all {
					status := procStatus(p)
					pid := filepath.Base(p)
					if !parents[pid] && !parents[status["PPid"]] {
						continue
					}
					parents[pid] = true
					args, _ := os.ReadFile(p + "/cmdline")
					words := strings.Split(string(args), "\x00")
					name := filepath.Base(words[0]) + " " + words[min(1, len(words)-1)]
					kib, _ := strconv.Atoi(strings.TrimSuffix(status["RssAnon"], " kB"))
					most[name] = max(most[name], kib)
				}
			}
		}
	})
	return func() map[string]int { stop(); wg.Wait(); return most }
}

func procStatus(dir string) map[string]string {
	values := map[string]string{}
	data, _ := os.ReadFile(dir + "/status")
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(line, ":")
		values[name] = strings.TrimSpace(value)
	}
	return values
}

// TestTenThousandRefs pushes them at once.
func TestTenThousandRefs(t *testing.T) {
	clustertest.NeedLong(t)
	c := clustertest.Start(t, 3)
	u := c.Admin
	work := newWork(t, u)
	head := u.Commit(t, work, "f", "one")
	var refs strings.Builder
	refs.WriteString("# pack-refs with: sorted\n")
	for i := range 10_000 {
		fmt.Fprintf(&refs, "%s refs/heads/b/%05d\n", head, i)
	}
	if err := os.WriteFile(filepath.Join(work, ".git/packed-refs"), []byte(refs.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	u.Git(t, work, "push", "-q", "cluster::many/a", "refs/heads/*:refs/heads/*")
	t.Logf("10,000 refs: pushed in %v", time.Since(start))
	start = time.Now()
	checkEverywhere(t, c, "many/a", map[string]string{"refs/heads/b/09999": head})
	t.Logf("on all nodes after %v", time.Since(start))
	u.Commit(t, work, "f", "two")
	start = time.Now()
	u.Git(t, work, "push", "-q", "cluster::many/a", "main")
	t.Logf("one more: %v", time.Since(start))
}

// TestTenThousandRepositories makes them, and starts a node that has them.
func TestTenThousandRepositories(t *testing.T) {
	clustertest.NeedLong(t)
	const repos = 10_000
	c := clustertest.Start(t, 1)
	n := c.Nodes[0]
	u := c.Admin
	call := func(method string, params any) error {
		in, stdin := io.Pipe()
		stdout, out := io.Pipe()
		go func() {
			_, err := localsocket.RunSession(context.Background(), n.Data, localsocket.SessionRequest{Command: shell.AdminCommand, As: cluster.Identity{Operator: true}}, in, out, io.Discard)
			out.CloseWithError(err)
		}()
		return admin.Call(stdout, stdin, method, params, nil)
	}
	start := time.Now()
	for i := range repos {
		if err := call("repo.create", admin.RepoCreate{Name: fmt.Sprintf("many/r%d", i)}); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("made in %v", time.Since(start))
	clustertest.Await(t, 10*time.Minute, func() string {
		found, _ := filepath.Glob(filepath.Join(n.Data, "repositories/??/*.git/cluster-applied"))
		if len(found) < repos {
			return fmt.Sprintf("%d replicas", len(found))
		}
		return ""
	})
	t.Logf("on disk after %v", time.Since(start))
	work := newWork(t, u)
	u.Commit(t, work, "f", "one")
	for life := range 2 {
		if life > 0 {
			if err := n.Stop(time.Minute); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			if err := n.Start(); err != nil {
				t.Fatal(err)
			}
			t.Logf("started in %v", time.Since(start))
		}
		start := time.Now()
		if _, err := n.Status(); err != nil {
			t.Fatal(err)
		}
		t.Logf("status in %v", time.Since(start))
		u.Commit(t, work, "f", fmt.Sprint(life))
		start = time.Now()
		u.Git(t, work, "push", "-q", "cluster::many/r77", "main")
		t.Logf("a push in %v", time.Since(start))
		start = time.Now()
		u.Git(t, work, "push", "-q", "cluster::many/r77", "main:b")
		lsRemote(t, u, "node1", "many/r77")
		t.Logf("another, and a read, in %v", time.Since(start))
		status := procStatus(fmt.Sprintf("/proc/%d", n.PID()))
		t.Logf("memory: %s, at most %s", status["VmRSS"], status["VmHWM"])
	}
	dir := filepath.Join(t.TempDir(), "backup")
	for range 2 {
		start = time.Now()
		r := u.RunContext(t.Context(), "", "", "git-cluster", "backup", dir, "--data", n.Data)
		if err := r.Err(); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s, in %v", strings.TrimSpace(r.Stdout), time.Since(start))
	}
}
