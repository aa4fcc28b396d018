package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gitcluster/internal/clustertest"
)

// checkLimit bounds the search for an order of one ref's operations.
const checkLimit = 2 * time.Minute

// check compares what clients were told with what the journal and the disks have.
func (r *run) check(ctx context.Context, sum *Summary) {
	h := r.history
	happened := map[string]bool{}
	for _, repo := range r.repos {
		log, err := r.recorder.all(ctx, repo)
		if err != nil {
			h.anomaly("%s: %v", repo, err)
			continue
		}
		for _, a := range checkLog(log, len(r.cluster.Nodes)/2+1) {
			h.anomaly("%s: %s", repo, a)
		}
		for ref, value := range log.refs() {
			if few := r.last[repo].few(value); few != "" {
				h.anomaly("%s: at the end %s, which is at %.8s, %s", repo, ref, value, few)
			}
		}
		for _, p := range log {
			for _, u := range p.Updates {
				happened[key(repo, string(u.Ref), value(u.Old), value(u.New))] = true
				happened[key(repo, string(u.Ref), "", value(u.New))] = true
			}
		}
		for _, a := range sum.count(log, h.of(repo)) {
			h.anomaly("%s: %s", repo, a)
		}
		r.checkDisks(repo)
	}
	for _, o := range h.operations {
		for ref, oid := range o.Seen {
			happened[key(o.Repo, ref, "", oid)] = true
			if set := setOf(ref); set != "" {
				happened[key(o.Repo, set, "", oid)] = true
			}
		}
	}
	sum.Operations, sum.Faults, sum.Alive, sum.Slowest = len(h.operations), h.faults, h.alive, h.slowest
	for _, o := range h.operations {
		if o.End-o.Start >= operationLimit {
			sum.Cut++
		}
	}
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

// checkLog looks at the journal alone: every update begins where the one before it
// ended, and enough nodes are said to have held what it needs.
func checkLog(log journalLog, needed int) (anomalies []string) {
	now := map[string]string{}
	for _, p := range log {
		creates := false
		for _, u := range p.Updates {
			if now[string(u.Ref)] != value(u.Old) {
				anomalies = append(anomalies, fmt.Sprintf("version %d replaces %s at %q, which is at %q", p.Version, u.Ref, value(u.Old), now[string(u.Ref)]))
			}
			now[string(u.Ref)] = value(u.New)
			creates = creates || !u.New.IsZero()
		}
		if creates && len(p.Copies) < needed {
			anomalies = append(anomalies, fmt.Sprintf("version %d was acknowledged on %v, not on %d nodes", p.Version, p.Copies, needed))
		}
	}
	return anomalies
}

// actor is whose pushes a client's are in the journal.
func actor(client int) string { return fmt.Sprintf("c%d", client) }

// effect names what a change does. No two values are the same, so only deletions of
// one value by one client share a name, of which at most one can take place.
func effect(actor, ref, was, now string) string {
	if now == "" {
		return key(actor, ref, "deleted", was)
	}
	return key(actor, ref, now)
}

// An attempt is all changes of one effect, and where the journal has it.
type attempt struct {
	changes [3]int // by outcome: done, refused, unknown
	why     string // one was refused
	in      []landed
	by      []int // operations that may have done it
}

// count compares what clients were told of their pushes to one repository with its
// journal, both ways.
func (s *Summary) count(log journalLog, operations []operation) (anomalies []string) {
	wrong := func(what string, a ...any) { anomalies = append(anomalies, fmt.Sprintf(what, a...)) }
	attempts := map[string]*attempt{}
	for i, o := range operations {
		for _, c := range o.Changes {
			k := effect(actor(o.Client), c.Ref, c.Was, c.Value)
			a := attempts[k]
			if a == nil {
				a = &attempt{}
				attempts[k] = a
			}
			switch c.Outcome {
			case done:
				s.Acknowledged++
				a.changes[0]++
			case refused:
				s.Refused++
				a.changes[1]++
				a.why = c.Why
				continue
			case unknown:
				s.Unknown++
				a.changes[2]++
			}
			a.by = append(a.by, i)
		}
	}
	for _, p := range log {
		pushed := map[int]bool{}
		for _, u := range p.Updates {
			a := attempts[effect(p.Actor, string(u.Ref), value(u.Old), value(u.New))]
			if a == nil {
				wrong("nobody pushed what version %d has: %s by %s from %.8q to %.8q", p.Version, u.Ref, p.Actor, value(u.Old), value(u.New))
				continue
			}
			a.in = append(a.in, p)
			if len(a.by) == 1 {
				pushed[a.by[0]] = true
			}
		}
		if len(pushed) > 1 {
			wrong("push %s of version %d is of %d operations of %s", p.ID, p.Version, len(pushed), p.Actor)
		}
	}
	for k, a := range attempts {
		what := strings.ReplaceAll(k, "\x00", " ")
		switch times := len(a.in); {
		case times < a.changes[0]:
			s.Lost += a.changes[0] - times
			wrong("%s was acknowledged %d times and is in the journal %d times", what, a.changes[0], times)
		case times > a.changes[0]+a.changes[2] && a.changes[1] > 0:
			wrong("%s was refused (%s) and is in version %d", what, a.why, a.in[0].Version)
		case times > 1:
			wrong("%s is in the journal %d times", what, times)
		}
	}
	for i, o := range operations {
		pushes, missing := map[string]bool{}, false
		for _, c := range o.Changes {
			a := attempts[effect(actor(o.Client), c.Ref, c.Was, c.Value)]
			switch {
			case len(a.by) > 1, len(a.by) == 1 && a.by[0] != i:
				// A deletion that was tried again: which one it was nobody knows.
			case len(a.in) == 0:
				missing = true
			default:
				pushes[a.in[0].ID] = true
			}
		}
		if len(pushes) > 1 || o.Atomic && missing && len(pushes) > 0 {
			wrong("client %d, operation %d (atomic: %v) is in the journal as %d pushes, parts missing: %v", o.Client, o.Number, o.Atomic, len(pushes), missing)
		}
	}
	return anomalies
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
	id := r.ids[repo]
	dir, err := filepath.EvalSymlinks(filepath.Join(n.Data, "repositories", id[:2], id+".git"))
	if err != nil {
		return "", fmt.Errorf("%s on %s: %w", repo, n.Name, err)
	}
	_, err = os.Stat(dir)
	return dir, err
}
