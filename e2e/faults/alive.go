package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"gitcluster/e2e/faults/disk"
	"gitcluster/internal/clustertest"
)

// While one node is faulty, the others must go on: what is never answered is never
// answered wrongly either. Beside the other faults nobody could say which node is to
// blame, so this one waits until they are over, and keeps further ones waiting.

// oneFaulty is that fault.
const oneFaulty = "one faulty"

// A witness asks nodes whether they serve.
type witness interface {
	// serves has a node show a repository's refs and take a push, as often as it takes,
	// and returns how long it took, or what it last said when the limit was over.
	serves(ctx context.Context, n *clustertest.Node, limit time.Duration) (took time.Duration, problem string)
}

// How long a node may take: as many times what it took when nothing was wrong, on a
// machine as busy as it is, and what it needs to find out that another is gone.
const (
	aliveTimes = 3
	aliveExtra = 5 * time.Second
)

// checkOthers makes one node faulty and has the others serve.
func (i *injector) checkOthers(ctx context.Context, f fault, n *clustertest.Node) error {
	i.calm.Lock()
	defer i.calm.Unlock()
	i.busy[f.node].Lock()
	defer i.busy[f.node].Unlock()
	if ctx.Err() != nil {
		return nil
	}
	usual := i.check(ctx, "nothing", i.cluster.Nodes, operationLimit)
	if ctx.Err() != nil {
		return nil
	}
	i.begin(f)
	heal := func() error { return nil }
	what := []string{"nothing", "kill", "pause"}
	if i.links != nil {
		what = append(what, "isolate", "cut peers")
	}
	if i.states[n.Name] != "" {
		what = append(what, "slow disk")
	}
	f.kind = what[f.choice%uint64(len(what))]
	switch f.kind {
	case "kill":
		n.Kill()
		heal = func() error { return start(n) }
	case "pause":
		release := n.Hold()
		heal = func() error { release(); return nil }
	case "isolate", "cut peers":
		restore, err := i.sever(f)
		if err != nil {
			return errors.Join(err, restore())
		}
		heal = restore
	case "slow disk":
		if err := disk.Slow(i.states[n.Name], 300*time.Millisecond); err != nil {
			return err
		}
		heal = func() error { return disk.Slow(i.states[n.Name], 0) }
	}
	var others []*clustertest.Node
	for _, other := range i.cluster.Nodes {
		if other != n {
			others = append(others, other)
		}
	}
	i.check(ctx, f.String(), others, aliveExtra+aliveTimes*usual)
	if ctx.Err() != nil {
		<-i.looked
	}
	return heal()
}

// check has nodes serve within a limit, and returns what the slowest took.
func (i *injector) check(ctx context.Context, while string, nodes []*clustertest.Node, limit time.Duration) (slowest time.Duration) {
	for _, n := range nodes {
		i.asking.Lock()
		if ctx.Err() != nil {
			i.asking.Unlock()
			return slowest
		}
		took, problem := i.witness.serves(ctx, n, limit)
		if problem != "" && ctx.Err() == nil {
			// On a busy machine any process may stand still for a while. What is wrong is
			// wrong at a second look.
			i.history.note("%s is looked at again: %s", n.Name, problem)
			took, problem = i.witness.serves(ctx, n, limit)
		}
		i.asking.Unlock()
		if ctx.Err() != nil {
			return slowest
		}
		i.history.noteAlive(took)
		if problem != "" {
			i.history.anomaly("%s does not serve within %v, with this wrong: %s: %s", n.Name, limit.Round(time.Millisecond), while, problem)
		}
		slowest = max(slowest, took)
	}
	return slowest
}

// serves implements witness: the client pushes to the branch that is its own.
func (k *client) serves(ctx context.Context, n *clustertest.Node, limit time.Duration) (time.Duration, string) {
	begin, random := time.Now(), rand.New(rand.NewPCG(k.Seed, uint64(k.done)))
	ref, repo := ownRef(k.number), k.repos[0]
	problem := "it was not asked"
	for ; ; pause(failurePause) {
		left := limit - time.Since(begin)
		if left <= 0 || ctx.Err() != nil {
			return time.Since(begin), problem
		}
		o := operation{Client: k.number, Number: k.done, Kind: "list", Repo: repo, Outcome: unknown}
		k.through(&o, ssh, n)
		k.done++
		if r := k.git(&o, left, k.work[repo], nil, "ls-remote", "--refs", o.Address); r.Status != 0 {
			k.history.add(o)
			problem = "a read: " + r.Stderr
			continue
		} else if o.Seen = refsIn(r.Stdout); true {
			o.Outcome, o.Said = done, ""
			k.history.add(o)
		}
		was := o.Seen[ref]
		value, err := k.commit(repo, was, 100, random)
		if err != nil {
			return time.Since(begin), fmt.Sprintf("no commit can be made: %v", err)
		}
		o = operation{Client: k.number, Number: k.done, Kind: "push", Repo: repo, Outcome: unknown, Changes: []change{{Ref: ref, Was: was, WasKnown: true, Value: value}}}
		k.through(&o, ssh, n)
		k.done++
		r := k.git(&o, max(time.Millisecond, limit-time.Since(begin)), k.work[repo], nil, "push", "--porcelain", "--force-with-lease="+ref+":"+was, o.Address, value+":"+ref)
		k.judge(&o, r)
		if o.Outcome == done {
			o.Said = ""
		}
		k.history.add(o)
		if o.Outcome == done {
			return time.Since(begin), ""
		}
		problem = fmt.Sprintf("a push: %s%s", r.Stdout, r.Stderr)
	}
}
