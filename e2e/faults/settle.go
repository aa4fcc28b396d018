package main

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	"gitcluster/internal/clustertest"
)

// settle waits until all replicas' refs are the same on disk and stay so, with
// nobody's help.
func (r *run) settle(ctx context.Context) {
	r.history.note("the faults are over")
	for _, n := range r.cluster.Nodes {
		if n.Running() {
			if err := n.AwaitReady(startLimit); err != nil { // the last look may just have started it
				r.history.anomaly("%v", err)
			}
		}
		if !n.Running() {
			r.history.anomaly("%s ended by itself", n.Name)
			if err := start(n); err != nil {
				r.history.anomaly("%v", err)
			}
		}
	}
	began := time.Now()
	for _, repo := range r.repos {
		last := r.different(ctx, repo)
		for last != "" && time.Since(began) < r.Settle && sleep(ctx, 200*time.Millisecond) {
			last = r.different(ctx, repo)
		}
		if last != "" {
			r.history.anomaly("%v after the last fault: %s", r.Settle, last)
		}
	}
	r.history.note("settled after %v", time.Since(began))
}

// different says how the disks of two nodes differ, or "". It only looks at files.
func (r *run) different(ctx context.Context, repo string) string {
	log, err := r.recorder.all(ctx, repo)
	if err != nil {
		return err.Error()
	}
	want := log.refs()
	for _, n := range r.cluster.Nodes {
		got, err := r.refsOnDisk(n, repo)
		if err != nil {
			return err.Error()
		}
		if !maps.Equal(got, want) {
			return fmt.Sprintf("%s on %s has on disk\n%v, and the journal\n%v", repo, n.Name, got, want)
		}
	}
	return ""
}

func (r *run) refsOnDisk(n *clustertest.Node, repo string) (map[string]string, error) {
	dir, err := r.dir(n, repo)
	if err != nil {
		return nil, err
	}
	res := r.bare(dir, "for-each-ref", "--format=%(refname) %(objectname)")
	if err := res.Err(); err != nil {
		return nil, err
	}
	refs := map[string]string{}
	for line := range strings.Lines(res.Stdout) {
		ref, oid, _ := strings.Cut(strings.TrimSpace(line), " ")
		if !strings.HasPrefix(ref, "refs/strays/") {
			refs[ref] = oid
		}
	}
	return fold(refs), nil
}

func (r *run) bare(dir string, args ...string) clustertest.Result {
	return r.cluster.Admin.Run("", append([]string{"git", "-c", "safe.directory=*", "-C", dir}, args...)...)
}
