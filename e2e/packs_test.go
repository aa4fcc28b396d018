package e2e

import (
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// TestClonesWhilePushing has many clone the same in several ways at once, and fetch
// again, while tags and branches come and go: nodes share the packs of equal requests,
// and nobody may miss an object.
func TestClonesWhilePushing(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	u, repo := c.Admin, "packs/a"
	work := newWork(t, u)
	heads := []string{u.Commit(t, work, "f", strings.Repeat("zero\n", 2000))}
	for i := range 3 {
		heads = append(heads, u.Commit(t, work, fmt.Sprint("f", i), fmt.Sprint(i)))
	}
	u.Git(t, work, "tag", "-a", "-m", "v0", "v0")
	u.Git(t, work, "push", "-q", "cluster::"+repo, heads[3]+":refs/heads/main", heads[1]+":refs/heads/old", "v0")
	stop, pushed := make(chan struct{}), make(chan error, 1)
	go func() {
		for i := 1; ; i++ {
			select {
			case <-stop:
				pushed <- nil
				return
			default:
			}
			script := fmt.Sprintf("git commit -q --allow-empty -m c && git tag -a -m v v%d && git push -q cluster::%s +HEAD:main v%d HEAD:b%d && git push -q -d cluster::%s v%d b%d", i, repo, i, i, repo, i, i)
			if err := u.Run(work, "sh", "-c", script).Err(); err != nil {
				pushed <- err
				return
			}
		}
	}()
	node := c.Nodes[1].Name
	ways := [][]string{
		{"cluster::" + repo}, {"cluster::" + repo}, {"ssh://" + node + "/" + repo}, {"--no-tags", "cluster::" + repo},
		{"--depth=2", "cluster::" + repo}, {"--depth=2", "ssh://" + node + "/" + repo},
		{"--filter=blob:none", "--no-checkout", "cluster::" + repo}, {"--filter=blob:none", "--no-checkout", "cluster::" + repo},
		{"--filter=sparse:oid=old:f", "--no-checkout", "cluster::" + repo}, {"--filter=sparse:oid=old:f", "--no-checkout", "cluster::" + repo}, // never shared
		{"--filter=blob:limit=1k", "--no-checkout", "cluster::" + repo},
		{"-c", "protocol.version=0", "ssh://" + node + "/" + repo}, {"--mirror", "cluster::" + repo}, {"--mirror", "ssh://" + node + "/" + repo},
	}
	for range 2 {
		var all sync.WaitGroup
		dir := t.TempDir()
		for i, way := range ways {
			all.Go(func() {
				to := filepath.Join(dir, fmt.Sprint(i))
				args := append([]string{"git", "clone", "-q"}, append(way[:len(way):len(way)], to)...)
				if err := u.Via(node).Run("", args...).Err(); err != nil {
					t.Errorf("%q: %v", way, err)
					return
				}
				if err := u.Via(node).Run(to, "git", "fetch", "-q").Err(); err != nil {
					t.Errorf("%q: fetch: %v", way, err)
				}
				if err := u.Run(to, "git", "fsck", "--connectivity-only", "--no-dangling").Err(); err != nil {
					t.Errorf("%q: %v", way, err)
				}
			})
		}
		all.Wait()
	}
	close(stop)
	if err := <-pushed; err != nil {
		t.Error(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.Nodes[1].URL("metrics"), nil)
	if err != nil {
		t.Fatal(err)
	}
	request.SetBasicAuth(u.Name, u.Token(t))
	status, page := fetch(t, c.HTTPClient(t), request)
	shared := regexp.MustCompile(`(?m)^gitcluster_packs_shared_total (\d+)$`).FindStringSubmatch(page)
	if status != http.StatusOK || shared == nil || shared[1] == "0" {
		t.Errorf("status %d; packs shared: %q", status, shared)
	} else {
		t.Logf("%s packs were shared", shared[1])
	}
}
