package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"time"

	"gitcluster/internal/clustertest"
)

// A pushPlan is what a client has made up its mind to push, before it looks.
type pushPlan struct {
	changes []change // each new value is "new", and each old one what the client will have seen
	atomic  bool
	limit   time.Duration
	size    int  // bytes of a file
	first   bool // list the refs before
	looks   bool // look at the disks at "ok"
	// negotiates has Git ask first what the server has. leftover, if not negative,
	// chooses an earlier commit of the client to build on, wherever a ref is: what the
	// server has of it may be left from a push that failed, or of a ref that was
	// deleted.
	negotiates bool
	leftover   int
}

func (k *client) plan(random *rand.Rand) pushPlan {
	p := pushPlan{limit: operationLimit, leftover: -1}
	ref := func(from int) string { return k.refs[from+random.IntN(len(k.refs)-from)] }
	switch draw := random.IntN(100); {
	case draw < 40: // on top of what main or a ref of its own was
		own := k.refs[0]
		if random.IntN(3) == 0 {
			own = k.refs[len(k.refs)-1]
		}
		p.changes = []change{{Ref: own, WasKnown: true, Value: "new"}}
	case draw < 54:
		p.changes = []change{{Ref: ref(0), WasKnown: true, Value: "new"}}
	case draw < 60: // whatever is there
		p.changes = []change{{Ref: ref(0), Value: "new"}}
	case draw < 74:
		p.changes = []change{{Ref: ref(min(1, len(k.refs)-1)), WasKnown: true}}
	case draw < 80: // a whole set of refs
		p.atomic = true
		switch draw := random.IntN(10); {
		case draw < 2:
			p.changes = []change{{Ref: manyRefs, Value: "new"}}
		case draw < 4:
			p.changes = []change{{Ref: someRefs, WasKnown: true}}
		default:
			p.changes = []change{{Ref: someRefs, Value: "new"}}
		}
	default: // several, whole or each for itself
		p.atomic = random.IntN(3) > 0
		for _, i := range random.Perm(len(k.refs))[:min(len(k.refs), 2+random.IntN(3))] {
			c := change{Ref: k.refs[i], WasKnown: true, Value: "new"}
			if random.IntN(4) == 0 {
				c.Value = ""
			}
			p.changes = append(p.changes, c)
		}
	}
	p.looks = random.IntN(100) < k.Looks
	if random.IntN(25) == 0 { // the client does not wait to the end
		p.limit = time.Duration(20+random.IntN(400)) * time.Millisecond
	}
	p.size = 1 + random.IntN(2000)
	if random.IntN(30) == 0 {
		p.size = 200_000
	}
	p.first = random.IntN(2) == 0
	switch k.Aim {
	case hot:
		p.changes, p.atomic, p.first = []change{{Ref: k.refs[0], WasKnown: true, Value: "new"}}, false, true
	case apart:
		p.changes, p.atomic, p.first = []change{{Ref: ownRef(k.number), WasKnown: true, Value: "new"}}, false, false
	}
	if random.IntN(100) < k.Leftovers {
		p.negotiates, p.leftover = true, random.IntN(1<<20)
	}
	return p
}

// push makes the commits for a plan, and pushes them.
func (k *client) push(o operation, random *rand.Rand) error {
	p := k.plan(random)
	o.Atomic = p.atomic
	read := operation{Client: o.Client, Number: o.Number, Kind: "list", Repo: o.Repo, Front: o.Front, Address: o.Address, Pinned: o.Pinned, Outcome: unknown}
	if p.first {
		k.list(read)
	}
	args := []string{"push", "--porcelain"}
	if p.negotiates {
		args = append([]string{"-c", "push.negotiate=true"}, args...)
	}
	if p.atomic {
		args = append(args, "--atomic")
	}
	made, seen := k.made[o.Repo], k.seen[o.Repo]
	var specs []string
	for _, c := range p.changes {
		c.Was = seen[c.Ref]
		if c.Value == "" && c.Was == "" {
			continue // a client does not send the deletion of what it does not see
		}
		if c.Value != "" {
			parent := c.Was
			if p.leftover >= 0 && len(made) > 0 {
				parent, o.Leftover = made[p.leftover%len(made)], true
			}
			var err error
			if c.Value, err = k.commit(o.Repo, parent, p.size, random); err != nil {
				return err
			}
		}
		for _, ref := range unfold(c.Ref) {
			if c.WasKnown {
				args = append(args, "--force-with-lease="+ref+":"+c.Was)
				specs = append(specs, c.Value+":"+ref)
			} else {
				specs = append(specs, "+"+c.Value+":"+ref)
			}
		}
		if !c.WasKnown {
			c.Was = ""
		}
		o.Changes = append(o.Changes, c)
	}
	if len(o.Changes) == 0 {
		k.list(read)
		return nil
	}
	var see func(string) bool
	var held *holding
	if p.looks {
		see = func(line string) bool {
			if held == nil && okLine.MatchString(line) {
				h := k.atOK(&o)
				held = &h
			}
			return !strings.Contains(line, " packet: ")
		}
	}
	r := k.git(&o, p.limit, k.work[o.Repo], see, append(append(args, o.Address), specs...)...)
	k.judge(&o, r)
	for _, c := range o.Changes {
		if c.Why == "not sent" {
			pause(failurePause)
		}
		if c.Outcome != done {
			continue
		}
		seen[c.Ref] = c.Value
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
		for n, ref := range unfold(c.Ref) {
			was := c.Outcome
			c.judge(lines[ref], r.Stderr)
			if n > 0 && c.Outcome != was && was != unknown && c.Outcome != unknown {
				k.history.anomaly("%s: client %d, operation %d: of a push that is one, parts were %s and %s", o.Repo, o.Client, o.Number, was, c.Outcome)
			}
			if c.Outcome == unknown {
				break
			}
		}
		if c.Outcome == unknown || c.Outcome == refused && o.Outcome == done {
			o.Outcome = c.Outcome
		}
	}
}

// judge reads the line about one ref, if there is one.
func (c *change) judge(said []string, stderr string) {
	switch {
	case said == nil && notSent(stderr):
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
	k.own[oid], k.made[repo] = true, append(k.made[repo], oid)
	return oid, nil
}
