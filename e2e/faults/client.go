package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"regexp"
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
}

// sharedRefs are those that all clients push to. Some cannot be there together.
var sharedRefs = []string{"refs/heads/main", "refs/heads/one", "refs/heads/two", "refs/heads/dir", "refs/heads/dir/below", "refs/tags/t"}

func newClient(r *run, number int, u *clustertest.User, token string) (*client, error) {
	k := &client{run: r, number: number, random: rand.New(rand.NewPCG(r.Seed, uint64(number))), user: u, token: token,
		refs: append(slices.Clone(sharedRefs), ownRef(number)),
		work: map[string]string{}, seen: map[string]map[string]string{}, own: map[string]bool{}}
	for _, repo := range r.repos {
		work := filepath.Join(r.folder, fmt.Sprintf("client%d-%s.git", number, filepath.Base(repo)))
		if err := u.Run("", "git", "init", "-q", "--bare", work).Err(); err != nil {
			return nil, err
		}
		k.work[repo], k.seen[repo] = work, map[string]string{}
	}
	return k, nil
}

// ownRef is the branch that one client alone pushes to.
func ownRef(client int) string { return fmt.Sprintf("refs/heads/of%d", client) }

// live works until the context ends; what is under way then is finished.
func (k *client) live(ctx context.Context) error {
	for ctx.Err() == nil {
		// All that is random is drawn first, whatever will come of it, so that a
		// seed always leads to the same plan.
		repo, draw := k.repos[k.random.IntN(len(k.repos))], k.random.IntN(100)
		front := chooseFront(k.random, draw < reads, k.sshds != nil)
		node := k.cluster.Nodes[k.random.IntN(len(k.cluster.Nodes))]
		plan := rand.New(rand.NewPCG(k.random.Uint64(), k.random.Uint64()))
		o := operation{Client: k.number, Number: k.done, Repo: repo, Outcome: unknown}
		k.through(&o, front, node)
		k.done++
		var err error
		switch {
		case front == conduit, front == pages:
			k.look(o)
		case draw < lists:
			k.list(o)
		case draw < reads:
			err = k.fetch(o, plan)
		default:
			err = k.push(o, plan)
		}
		if err != nil {
			return fmt.Errorf("client %d, operation %d: %w", k.number, o.Number, err)
		}
	}
	return nil
}

// Of a hundred operations, how many list refs, and how many read at all.
const lists, reads = 40, 50

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
		o.Outcome, o.Seen, o.Said = done, map[string]string{}, ""
		for line := range strings.Lines(r.Stdout) {
			oid, ref, _ := strings.Cut(strings.TrimSpace(line), "\t")
			o.Seen[ref] = oid
		}
		k.seen[o.Repo] = maps.Clone(o.Seen)
	}
	k.history.add(o)
	if o.Outcome != done {
		pause(failurePause)
	}
}

// fetch gets what a ref reaches, and looks whether it is whole: into the client's
// own repository, or into an empty one.
func (k *client) fetch(o operation, plan *rand.Rand) error {
	o.Kind = "fetch"
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

// push draws what to push, makes the commits for it and pushes.
func (k *client) push(o operation, plan *rand.Rand) error {
	o.Kind = "push"
	limit := operationLimit
	switch draw := plan.IntN(100); {
	case draw < 45: // on top of what main or a ref of its own was
		ref := k.refs[0]
		if plan.IntN(3) == 0 {
			ref = k.refs[len(k.refs)-1]
		}
		o.Changes = []change{{Ref: ref, WasKnown: true, Value: "new"}}
	case draw < 60:
		o.Changes = []change{{Ref: k.refs[plan.IntN(len(k.refs))], WasKnown: true, Value: "new"}}
	case draw < 66: // whatever is there
		o.Changes = []change{{Ref: k.refs[plan.IntN(len(k.refs))], Value: "new"}}
	case draw < 80:
		o.Changes = []change{{Ref: k.refs[1+plan.IntN(len(k.refs)-1)], WasKnown: true}}
	default: // several, whole or each for itself
		o.Atomic = plan.IntN(3) > 0
		for _, i := range plan.Perm(len(k.refs))[:2+plan.IntN(3)] {
			c := change{Ref: k.refs[i], WasKnown: true, Value: "new"}
			if plan.IntN(4) == 0 {
				c.Value = ""
			}
			o.Changes = append(o.Changes, c)
		}
	}
	looks := plan.IntN(100) < k.Looks
	if plan.IntN(25) == 0 { // the client does not wait to the end
		limit = time.Duration(20+plan.IntN(400)) * time.Millisecond
	}
	size := 1 + plan.IntN(2000)
	if plan.IntN(30) == 0 {
		size = 200_000
	}
	if plan.IntN(2) == 0 {
		k.list(operation{Client: o.Client, Number: o.Number, Repo: o.Repo, Front: o.Front, Address: o.Address, Pinned: o.Pinned, Outcome: unknown})
	}
	args := []string{"push", "--porcelain"}
	if o.Atomic {
		args = append(args, "--atomic")
	}
	var specs []string
	var changes []change
	for _, c := range o.Changes {
		c.Was = k.seen[o.Repo][c.Ref]
		if c.Value == "" && c.Was == "" {
			continue // a client does not send the deletion of what it does not see
		}
		if c.Value != "" {
			var err error
			if c.Value, err = k.commit(o.Repo, c.Was, size, plan); err != nil {
				return err
			}
		}
		if c.WasKnown {
			args = append(args, "--force-with-lease="+c.Ref+":"+c.Was)
			specs = append(specs, c.Value+":"+c.Ref)
		} else {
			c.Was = ""
			specs = append(specs, "+"+c.Value+":"+c.Ref)
		}
		changes = append(changes, c)
	}
	if o.Changes = changes; len(changes) == 0 {
		k.list(operation{Client: o.Client, Number: o.Number, Repo: o.Repo, Front: o.Front, Address: o.Address, Pinned: o.Pinned, Outcome: unknown})
		return nil
	}
	var see func(string) bool
	var held *holding
	if looks {
		see = func(line string) bool {
			if held == nil && okLine.MatchString(line) {
				h := k.atOK(&o)
				held = &h
			}
			return !strings.Contains(line, " packet: ")
		}
	}
	r := k.git(&o, limit, k.work[o.Repo], see, append(append(args, o.Address), specs...)...)
	k.judge(&o, r)
	for _, c := range o.Changes {
		if c.Why == "not sent" {
			pause(failurePause)
		}
		if c.Outcome != done {
			continue
		}
		k.seen[o.Repo][c.Ref] = c.Value
		if held != nil && c.Value != "" {
			if few := held.few(c.Value); few != "" {
				k.history.anomaly("%s: client %d, operation %d: when %s to %.8s was acknowledged, it %s", o.Repo, o.Client, o.Number, c.Ref, c.Value, few)
			}
		}
	}
	k.history.add(o)
	return nil
}

// okLine is what Git traces when it reads that a ref was accepted.
var okLine = regexp.MustCompile(` packet: +(push|send-pack)< ok refs/`)

// judge reads what git says of each ref.
func (k *client) judge(o *operation, r clustertest.Result) {
	o.Outcome = done
	lines := map[string][]string{} // of a ref: flag, names, summary
	for line := range strings.Lines(r.Stdout) {
		if fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t"); len(fields) == 3 {
			_, ref, _ := strings.Cut(fields[1], ":")
			lines[ref] = fields
		}
	}
	for i := range o.Changes {
		c := &o.Changes[i]
		said := lines[c.Ref]
		switch {
		case said == nil && notSent(r.Stderr):
			c.Outcome, c.Why = refused, "not sent"
		case said == nil, strings.HasPrefix(said[2], "[remote failure]"):
			c.Outcome = unknown
		case said[0] == "!":
			c.Outcome, c.Why = refused, said[2]
		default:
			c.Outcome = done
			// "old..new" and "old...new (forced update)" tell what was replaced.
			if old, _, ok := strings.Cut(said[2], ".."); ok && !c.WasKnown && len(old) == len(c.Value) {
				c.Was, c.WasKnown = old, true
			} else if strings.HasPrefix(said[2], "[new") {
				c.Was, c.WasKnown = "", true
			}
		}
		if c.Outcome == unknown || c.Outcome == refused && o.Outcome == done {
			o.Outcome = c.Outcome
		}
	}
}

// notSent reports whether a push ended before it had sent any command, as far as
// what it said shows that without a doubt.
func notSent(said string) bool {
	has := func(signs ...string) bool {
		return slices.ContainsFunc(signs, func(sign string) bool { return strings.Contains(said, sign) })
	}
	return has("remote ref does not exist", "onnection refused", "did not confirm within", "dial tcp", "Failed to connect", "Permission denied (publickey)") &&
		!has("disconnect", "hung up", "closed by", "reset by", "roken pipe", "RPC failed")
}

// commit makes a commit on top of parent, if the client has that, in the client's
// repository.
func (k *client) commit(repo, parent string, size int, plan *rand.Rand) (string, error) {
	text := make([]byte, size)
	for i := range text {
		text[i] = "0123456789abcdefghijklmnopqrstuvwxyz \n"[plan.IntN(38)]
	}
	var b strings.Builder
	fmt.Fprintf(&b, "commit refs/made/%x\nmark :1\ncommitter c%d <c@example.org> %d +0000\ndata 0\n", plan.Uint64(), k.number, 1_700_000_000+k.done)
	if k.own[parent] {
		fmt.Fprintf(&b, "from %s\n", parent)
	}
	fmt.Fprintf(&b, "M 100644 inline file%d\ndata %d\n%s\nget-mark :1\n", plan.IntN(20), len(text), text)
	ctx, cancel := context.WithTimeout(context.Background(), operationLimit)
	defer cancel()
	r := k.user.RunContext(ctx, k.work[repo], b.String(), "git", "fast-import", "--quiet", "--force")
	if err := r.Err(); err != nil {
		return "", err
	}
	oid := strings.TrimSpace(r.Stdout)
	k.own[oid] = true
	return oid, nil
}
