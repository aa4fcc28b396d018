package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"gitcluster/internal/cluster"
	"gitcluster/internal/clustertest"
)

// What a push was acknowledged for is looked for on the disks themselves, whatever the
// journal says of its copies: while all nodes stand still in the moment a client reads
// "ok", and once more at the end, when all have been killed and nothing has healed yet.

// A holding is on which nodes' disks values were found, each with all that it reaches.
type holding struct {
	on map[string][]string
	// required is on how many each must be: a majority, without those whose disks
	// have just been taken away.
	required int
}

// few says of a value that it is on too few disks, or "".
func (h holding) few(value string) string {
	if on := h.on[value]; len(on) < h.required {
		return fmt.Sprintf("is whole on the disks of %v, and must be on %d", on, h.required)
	}
	return ""
}

// required is on how many disks a push must be that was acknowledged after a moment.
func (r *run) required(lost int) int { return len(r.cluster.Nodes)/2 + 1 - lost }

// atOK looks, in the middle of a push, for what it sent.
func (r *run) atOK(o *operation) holding {
	var values []string
	for _, c := range o.Changes {
		if c.Value != "" {
			values = append(values, c.Value)
		}
	}
	for _, n := range r.cluster.Nodes {
		defer n.Hold()()
	}
	return holding{r.whole(o.Repo, values), r.required(r.history.wiped(o.Start, false))}
}

// whole tells on which nodes' disks values are with all that they reach.
func (r *run) whole(repo string, values []string) map[string][]string {
	var mu sync.Mutex
	on := map[string][]string{}
	var all sync.WaitGroup
	for _, n := range r.cluster.Nodes {
		all.Go(func() {
			for _, value := range r.wholeOn(n, repo, values) {
				mu.Lock()
				on[value] = append(on[value], n.Name)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return on
}

func (r *run) wholeOn(n *clustertest.Node, repo string, values []string) (whole []string) {
	dir, err := r.dir(n, repo)
	if err != nil {
		return nil // taken away
	}
	git := func(stdin string, args ...string) clustertest.Result {
		// The commit graph knows commits that may be gone.
		return r.cluster.Admin.Feed("", stdin, append([]string{"git", "-c", "safe.directory=*", "-c", "core.commitGraph=false", "-C", dir}, args...)...)
	}
	there := git(strings.Join(values, "\n")+"\n", "cat-file", "--batch-check")
	for i, line := range strings.Split(strings.TrimSpace(there.Stdout), "\n") {
		if i < len(values) && strings.HasPrefix(line, values[i]+" commit") {
			whole = append(whole, values[i])
		}
	}
	closed := func(values ...string) bool {
		return git(strings.Join(values, "\n")+"\n", "rev-list", "--objects", "--quiet", "--stdin").Status == 0
	}
	if len(whole) == 0 || closed(whole...) {
		return whole
	}
	tips := whole
	whole = nil
	for _, value := range tips {
		if closed(value) {
			whole = append(whole, value)
		}
	}
	return whole
}

// checkCopies looks, on the disk of a node that is down, for everything that refs are at
// and for which the journal counts this node.
func (r *run) checkCopies(n *clustertest.Node) {
	if r.history.isWiped(n.Name) {
		return
	}
	for _, repo := range r.repos {
		log := r.recorder.known(repo)
		now, counted := log.refs(), map[string]bool{}
		var values []string
		for _, p := range log {
			for _, u := range p.Updates {
				if value(u.New) != "" && now[string(u.Ref)] == value(u.New) && slices.Contains(p.Copies, cluster.DeviceName(n.Name)) {
					counted[value(u.New)] = true
				}
			}
		}
		for value := range counted {
			values = append(values, value)
		}
		for _, value := range r.wholeOn(n, repo, values) {
			delete(counted, value)
		}
		for value := range counted {
			r.history.anomaly("%s: %s was counted for %.8s, which is not whole on its disk", repo, n.Name, value)
		}
	}
}

// lastLook kills every node that no fault has in its hands, looks at the disks, and
// starts the nodes again. What is found is judged when the journal answers again.
func (r *run) lastLook(ctx context.Context, i *injector) error {
	defer close(i.looked)
	if ctx.Err() != nil {
		return nil
	}
	var killed []*clustertest.Node
	for k, n := range r.cluster.Nodes {
		if i.busy[k].TryLock() {
			defer i.busy[k].Unlock()
			n.Kill()
			killed = append(killed, n)
		}
	}
	// What clients have under way must not land when the nodes are back, and is among
	// what may have landed.
	r.stopClients()
	r.living.Wait()
	r.last = map[string]holding{}
	for _, repo := range r.repos {
		var values []string
		for _, o := range r.history.of(repo) {
			for _, c := range o.Changes {
				if c.Value != "" && c.Outcome != refused {
					values = append(values, c.Value)
				}
			}
		}
		r.last[repo] = holding{r.whole(repo, values), r.required(r.history.wiped(r.history.now(), true))}
	}
	r.history.note("looked at the disks of %d nodes that were killed", len(killed))
	for _, n := range killed {
		if err := n.Launch(); err != nil {
			return err
		}
	}
	return nil
}
