package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gitcluster/internal/clustertest"
)

// operationLimit is how long a client waits. What has not ended by then has an
// unknown outcome.
const operationLimit = 40 * time.Second

// A client is somebody who reads and pushes, one operation after the other. What
// it does next depends on its own random numbers and on what it has seen.
type client struct {
	*run
	number int
	random *rand.Rand
	user   *clustertest.User
	token  string
	refs   []string
	done   int

	work map[string]string            // its own repository for each of the cluster's
	seen map[string]map[string]string // of each repository the refs as it saw them last
	own  map[string]bool              // the commits it has
	made map[string][]string          // of each repository the commits that it made for it
}

// sharedRefs are those that all clients push to. Some cannot be there together.
var sharedRefs = []string{"refs/heads/main", "refs/heads/one", "refs/heads/two", "refs/heads/dir", "refs/heads/dir/below", "refs/tags/t"}

func newClient(r *run, number int, u *clustertest.User, token string) (*client, error) {
	k := &client{run: r, number: number, random: randomOf(r.Seed, number), user: u, token: token,
		refs: append(slices.Clone(sharedRefs), ownRef(number)),
		work: map[string]string{}, seen: map[string]map[string]string{}, own: map[string]bool{}, made: map[string][]string{}}
	for _, repo := range r.repos {
		work := filepath.Join(r.folder, fmt.Sprintf("client%d-%s.git", number, filepath.Base(repo)))
		if err := u.Run("", "git", "init", "-q", "--bare", work).Err(); err != nil {
			return nil, err
		}
		k.work[repo], k.seen[repo] = work, map[string]string{}
	}
	return k, nil
}

// randomOf gives a client its random numbers.
func randomOf(seed uint64, client int) *rand.Rand { return rand.New(rand.NewPCG(seed, uint64(client))) }

// ownRef is the branch that one client alone pushes to.
func ownRef(client int) string { return fmt.Sprintf("refs/heads/of%d", client) }

// An intent is what a client does next, whatever came of what it did before.
type intent struct {
	kind  string
	repo  string
	front front
	node  int
	seed  [2]uint64 // of all else that is random
}

// next draws everything that is random, so that a seed always leads to the same plan.
func (k *client) next() intent {
	i := intent{repo: k.repos[k.random.IntN(len(k.repos))]}
	draw := k.random.IntN(100)
	i.front, i.node = chooseFront(k.random, draw < k.Reads, k.sshds != nil), k.random.IntN(3)
	i.seed = [2]uint64{k.random.Uint64(), k.random.Uint64()}
	switch {
	case i.front == conduit, i.front == pages:
		i.kind = "look"
	case draw < k.Reads*4/5:
		i.kind = "list"
	case draw < k.Reads:
		i.kind = "fetch"
	case draw >= 100-k.Upkeep:
		i.kind = "maintain"
	default:
		i.kind = "push"
	}
	return i
}

// live works until the context ends; what is under way then is finished.
func (k *client) live(ctx context.Context) error {
	for ctx.Err() == nil {
		i := k.next()
		node, random := k.cluster.Nodes[i.node], rand.New(rand.NewPCG(i.seed[0], i.seed[1]))
		o := operation{Client: k.number, Number: k.done, Kind: i.kind, Repo: i.repo, Outcome: unknown}
		k.through(&o, i.front, node)
		k.done++
		var err error
		switch i.kind {
		case "look":
			k.look(o)
		case "list":
			k.list(o)
		case "fetch":
			err = k.fetch(o, random)
		case "maintain":
			k.maintain(o, node, random)
		case "push":
			err = k.push(o, random)
		}
		if err != nil {
			return fmt.Errorf("client %d, operation %d: %w", k.number, o.Number, err)
		}
	}
	return nil
}

// maintain gathers packs and refs, and removes what no ref has reached for long. That
// may fail, as when a node is away; nobody may notice it.
func (k *client) maintain(o operation, n *clustertest.Node, plan *rand.Rand) {
	o.Address = n.Name
	args := []string{"git-cluster", "maintain", o.Repo, "--data", n.Data}
	if plan.IntN(4) > 0 {
		args = append(args, "--full")
	}
	ctx, cancel := context.WithTimeout(k.clients, operationLimit)
	defer cancel()
	o.Start = k.history.now()
	r := k.cluster.Admin.RunContext(ctx, "", "", args...)
	o.End, o.Said = k.history.now(), r.Stdout+r.Stderr
	if r.Status == 0 {
		o.Outcome = done
	}
	k.history.add(o)
	if r.Status != 0 {
		pause(failurePause)
	}
}

// failurePause keeps a client from asking a node again at once that is away.
const failurePause = 200 * time.Millisecond

// git runs git as the operation wants it and notes its times. see, if not nil, is shown
// what Git writes to stderr.
func (k *client) git(o *operation, limit time.Duration, dir string, see func(string) bool, args ...string) clustertest.Result {
	u := k.user
	if o.Pinned != "" {
		u = u.Via(o.Pinned)
	}
	if see != nil {
		u = u.With("GIT_TRACE_PACKET=2")
	}
	ctx, cancel := context.WithTimeoutCause(k.clients, limit, errors.New("the client gave up"))
	defer cancel()
	o.Start = k.history.now()
	r := u.Follow(ctx, dir, "", see, append([]string{"git"}, args...)...)
	o.End = k.history.now()
	o.Said = r.Stderr
	return r
}

// list reads all refs.
func (k *client) list(o operation) {
	o.Kind = "list"
	r := k.git(&o, operationLimit, k.work[o.Repo], nil, "ls-remote", "--refs", o.Address)
	if r.Status == 0 {
		o.Outcome, o.Seen, o.Said = done, refsIn(r.Stdout), ""
		k.seen[o.Repo] = maps.Clone(o.Seen)
	}
	k.history.add(o)
	if o.Outcome != done {
		pause(failurePause)
	}
}

// refsIn reads what ls-remote printed.
func refsIn(text string) map[string]string {
	seen := map[string]string{}
	for line := range strings.Lines(text) {
		oid, ref, _ := strings.Cut(strings.TrimSpace(line), "\t")
		seen[ref] = oid
	}
	return fold(seen)
}

// fetch gets what a ref reaches, and looks whether it is whole: into the client's
// own repository, or into an empty one.
func (k *client) fetch(o operation, plan *rand.Rand) error {
	ref := k.refs[plan.IntN(len(k.refs))]
	dir := k.work[o.Repo]
	if plan.IntN(2) == 0 {
		dir += ".fresh"
		if err := k.user.Run("", "sh", "-c", `rm -rf "$1" && git init -q --bare "$1"`, "sh", dir).Err(); err != nil {
			return err
		}
	}
	mine := fmt.Sprintf("refs/got/%d", o.Number)
	r := k.git(&o, operationLimit, dir, nil, "fetch", "-q", "--no-tags", o.Address, "+"+ref+":"+mine)
	switch {
	case r.Status == 0:
		got := k.user.Run(dir, "git", "rev-parse", "--verify", mine)
		if err := got.Err(); err != nil {
			return err
		}
		value := strings.TrimSpace(got.Stdout)
		o.Outcome, o.Seen, o.Only, o.Said = done, map[string]string{ref: value}, []string{ref}, ""
		if whole := k.user.Run(dir, "git", "fsck", "--connectivity-only", "--no-dangling", "--no-progress"); whole.Status != 0 {
			k.history.anomaly("operation %d of client %d: what was fetched is not whole: %v", o.Number, k.number, whole.Err())
		}
		if dir == k.work[o.Repo] {
			k.seen[o.Repo][ref], k.own[value] = value, true
		}
	case strings.Contains(r.Stderr, "couldn't find remote ref"):
		o.Outcome, o.Seen, o.Only = done, map[string]string{}, []string{ref}
	}
	k.history.add(o)
	return nil
}
