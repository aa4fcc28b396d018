package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gitcluster/internal/admin"
	"gitcluster/internal/cluster"
	"gitcluster/internal/clustertest"
	"gitcluster/internal/service"
)

// checkLimit bounds the search for an order of one ref's operations.
const checkLimit = 2 * time.Minute

// check compares what clients were told with what the journal and the disks have.
func (r *run) check(sum *Summary) {
	h := r.history
	happened := map[string]bool{}
	for _, repo := range r.repos {
		log, err := r.journal(repo)
		if err != nil {
			h.anomaly("%v", err)
			continue
		}
		r.checkLog(repo, log)
		for _, p := range log {
			for _, u := range p.Updates {
				happened[key(repo, string(u.Ref), value(u.Old), value(u.New))] = true
				happened[key(repo, string(u.Ref), "", value(u.New))] = true
			}
		}
		r.checkPushes(repo, log, sum)
		r.checkDisks(repo)
	}
	for _, o := range h.operations {
		for ref, oid := range o.Seen {
			happened[key(o.Repo, ref, "", oid)] = true
		}
	}
	sum.Operations, sum.Faults = len(h.operations), h.faults
	all := h.registers(func(repo string, c change) bool {
		if c.Value == "" {
			return happened[key(repo, c.Ref, c.Was, "")]
		}
		return happened[key(repo, c.Ref, "", c.Value)]
	})
	for _, a := range unlinearizable(all, checkLimit) {
		h.anomaly("%s", a)
	}
	for _, n := range r.cluster.Nodes {
		for line := range strings.Lines(n.Log()) {
			for _, sign := range []string{"panic", "replica fenced", "DATA RACE", "gave up", "missing or broken"} {
				if strings.Contains(line, sign) {
					h.anomaly("%s logged: %s", n.Name, strings.TrimSpace(line))
				}
			}
		}
	}
}

func key(words ...string) string { return strings.Join(words, "\x00") }

// value is "" for Git's way to write that there is none.
func value(o cluster.OID) string {
	if o.IsZero() {
		return ""
	}
	return string(o)
}

// A journalLog is the pushes of a repository, the oldest first.
type journalLog []service.PushRecord

func (r *run) journal(repo string) (journalLog, error) {
	res := r.cluster.Admin.Run("", "git-cluster", "log", repo, "--json", "-n", "1000000", "--data", r.cluster.Nodes[0].Data)
	if err := res.Err(); err != nil {
		return nil, err
	}
	var page admin.LogPage
	if err := json.Unmarshal([]byte(res.Stdout), &page); err != nil {
		return nil, err
	}
	// Newest first by version; the pushes of one version are in their order.
	slices.SortStableFunc(page.Pushes, func(a, b service.PushRecord) int { return int(a.Version) - int(b.Version) })
	return page.Pushes, nil
}

// refs are what the journal leads to.
func (l journalLog) refs() map[string]string {
	refs := map[string]string{}
	for _, p := range l {
		for _, u := range p.Updates {
			if refs[string(u.Ref)] = value(u.New); u.New.IsZero() {
				delete(refs, string(u.Ref))
			}
		}
	}
	return refs
}

// checkLog looks at the journal alone: every update begins where the one before it
// ended, and enough nodes held what it needs.
func (r *run) checkLog(repo string, log journalLog) {
	now := map[string]string{}
	needed := len(r.cluster.Nodes)/2 + 1
	for _, p := range log {
		creates := false
		for _, u := range p.Updates {
			if now[string(u.Ref)] != value(u.Old) {
				r.history.anomaly("%s: version %d replaces %s at %q, which is at %q", repo, p.Version, u.Ref, value(u.Old), now[string(u.Ref)])
			}
			now[string(u.Ref)] = value(u.New)
			creates = creates || !u.New.IsZero()
		}
		if creates && len(p.Copies) < needed {
			r.history.anomaly("%s: version %d was acknowledged on %v, not on %d nodes", repo, p.Version, p.Copies, needed)
		}
	}
}

// checkPushes looks for what every client was told in the journal, and for
// everything in the journal among what clients did.
func (r *run) checkPushes(repo string, log journalLog, sum *Summary) {
	type place struct{ version, times int }
	in := map[string]place{} // by ref and new value, or what a deletion replaced
	at := func(ref, was, now string) string {
		if now == "" {
			return key(ref, "deleted", was)
		}
		return key(ref, now)
	}
	for _, p := range log {
		for _, u := range p.Updates {
			k := at(string(u.Ref), value(u.Old), value(u.New))
			in[k] = place{int(p.Version), in[k].times + 1}
		}
	}
	sent := map[string]bool{}
	for _, o := range r.history.operations {
		if o.Repo != repo {
			continue
		}
		versions := map[int]bool{}
		for _, c := range o.Changes {
			k := at(c.Ref, c.Was, c.Value)
			sent[k] = true
			found := in[k]
			if c.Value != "" { // what one client deletes another may delete, too
				versions[found.version] = true
			}
			switch c.Outcome {
			case done:
				sum.Acknowledged++
				if found.times == 0 {
					sum.Lost++
				}
				if found.times != 1 {
					r.history.anomaly("%s: client %d, operation %d: %s to %.8q was acknowledged and is in the journal %d times", repo, o.Client, o.Number, c.Ref, c.Value, found.times)
				}
			case refused:
				sum.Refused++
				if found.times > 0 && c.Value != "" {
					r.history.anomaly("%s: client %d, operation %d: %s to %.8q was refused (%s) and is in version %d", repo, o.Client, o.Number, c.Ref, c.Value, c.Why, found.version)
				}
			case unknown:
				sum.Unknown++
			}
		}
		if o.Atomic && len(versions) > 1 {
			r.history.anomaly("%s: client %d, operation %d was atomic and is in the versions %v (0: not there)", repo, o.Client, o.Number, versions)
		}
	}
	for k := range in {
		if !sent[k] {
			r.history.anomaly("%s: nobody pushed what the journal has: %q", repo, k)
		}
	}
}

// checkDisks lets Git look at every replica, and finds what should not be there.
func (r *run) checkDisks(repo string) {
	for _, n := range r.cluster.Nodes {
		dir, err := r.dir(n, repo)
		if err != nil {
			r.history.anomaly("%v", err)
			continue
		}
		if err := r.bare(dir, "fsck", "--full", "--strict", "--no-dangling", "--no-progress").Err(); err != nil {
			r.history.anomaly("%s: %v", n.Name, err)
		}
		err = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if strings.HasSuffix(path, ".lock") {
				r.history.anomaly("%s: a lock is left: %s", n.Name, path)
			}
			return err
		})
		if err != nil {
			r.history.anomaly("%v", err)
		}
	}
	if err := r.cluster.Admin.Run("", "git-cluster", "verify", repo, "--deep", "--data", r.cluster.Nodes[0].Data).Err(); err != nil {
		r.history.anomaly("%v", err)
	}
}

// dir is the directory of a repository on a node.
func (r *run) dir(n *clustertest.Node, repo string) (string, error) {
	res := r.cluster.Admin.Run("", "git-cluster", "repo", "show", repo, "--json", "--data", r.cluster.Nodes[0].Data)
	if err := res.Err(); err != nil {
		return "", err
	}
	var view admin.RepoView
	if err := json.Unmarshal([]byte(res.Stdout), &view); err != nil {
		return "", err
	}
	id := string(view.ID)
	dir, err := filepath.EvalSymlinks(filepath.Join(n.Data, "repositories", id[:2], id+".git"))
	if err != nil {
		return "", fmt.Errorf("%s on %s: %w", repo, n.Name, err)
	}
	_, err = os.Stat(dir)
	return dir, err
}
