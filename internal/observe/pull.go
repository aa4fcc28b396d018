package observe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/engine"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/journal"
	"gitcluster/internal/repository"
)

// A pull is one attempt to make a mirror show what its remote does.
type pull struct {
	*Observer
	claim   *journal.Claim
	repo    cluster.Repo
	head    journal.Head
	secrets journal.Secrets
	say     Progress
	start   time.Time
	asked   string // the address tried last
}

// A remoteError is what a remote, or the way to it, does wrong: another address
// may do better.
type remoteError struct{ error }

func (e remoteError) Unwrap() error { return e.error }

// errMoved: a ref has gone between the remote's listing and the fetch.
var errMoved = errors.New("the remote's refs keep changing")

// debug notes a step with the time since the pull began.
func (p *pull) debug(format string, a ...any) {
	if p.say.Debug != nil {
		p.say.Debug(fmt.Sprintf("%8.3fs  %s", time.Since(p.start).Seconds(), p.clean(fmt.Sprintf(format, a...))))
	}
}

// run tries the remotes in their order.
func (p *pull) run(ctx context.Context) (Result, error) {
	view, err := p.Engine.Sync(ctx, engine.Resolved{Repo: p.repo, Head: p.head}, p.say.Tell)
	if err != nil {
		return Result{}, err
	}
	p.debug("the replica shows version %d", view.Applied.Version)
	var failures []string
	hint := ""
	for n, remote := range p.repo.Observe.Remotes {
		p.asked = remote.URI
		result, err := p.from(ctx, n)
		var theirs remoteError
		switch {
		case err == nil || ctx.Err() != nil:
			return result, err
		case !errors.As(err, &theirs):
			return result, err // this node's business: another address would not help
		}
		p.debug("%s: %v", remote.URI, err)
		failures = append(failures, fmt.Sprintf("%s: %s", remote.URI, p.clean(err.Error())))
		hint = cmp.Or(hint, cluster.Hint(err))
	}
	err = errors.New(strings.Join(failures, "; "))
	if hint != "" {
		err = cluster.WithHint(err, hint)
	}
	return Result{}, err
}

// from pulls from one remote, again if its refs change meanwhile.
func (p *pull) from(ctx context.Context, n int) (Result, error) {
	s, err := p.newScratch(n)
	if err != nil {
		return Result{}, err
	}
	defer s.remove()
	for attempt := 0; ; attempt++ {
		list, err := s.list(ctx)
		if err != nil {
			return Result{}, err
		}
		d, err := p.compare(ctx, list)
		if err != nil {
			return Result{}, err
		}
		p.debug("%d lines listed; %d refs are mirrored, %d differ", list.lines, len(list.refs), len(d.updates))
		if err = p.fetch(ctx, s, &d); errors.Is(err, errMoved) && attempt < 2 {
			p.debug("%v; looking again", err)
			continue
		}
		if err != nil {
			return Result{}, err
		}
		result, err := p.commit(ctx, d)
		result.Note = p.clean(note(append(list.skipped, result.refused...)))
		return result, err
	}
}

// A difference is what the mirror lacks to show what its remote does.
type difference struct {
	updates []cluster.RefUpdate // deletions first
	head    cluster.RefName     // what HEAD is to name, or ""
	oldHead cluster.RefName
}

// compare compares the replica with what the remote lists.
func (p *pull) compare(ctx context.Context, list *listing) (d difference, err error) {
	zero := p.repo.Format.Zero()
	covered := func(ref cluster.RefName) bool {
		return slices.ContainsFunc(list.patterns, func(pattern cluster.RefPattern) bool { return pattern.Covers(ref) })
	}
	var deletions, others []cluster.RefUpdate
	err = p.Engine.Compare(ctx, p.repo.ID, func(t *repository.RefTable) {
		for ref, value := range list.refs {
			if old := t.Get(ref); old != value {
				others = append(others, cluster.RefUpdate{Ref: ref, Old: cmp.Or(old, zero), New: value})
			}
		}
		t.Values(func(ref cluster.RefName, value cluster.OID) bool {
			if _, there := list.refs[ref]; !there && covered(ref) {
				deletions = append(deletions, cluster.RefUpdate{Ref: ref, Old: value, New: zero})
			}
			return true
		})
		d.oldHead = t.Head()
	})
	if err != nil {
		return d, err
	}
	if len(list.refs) == 0 && len(deletions) > 0 {
		return d, remoteError{cluster.WithHint(fmt.Errorf("it lists none of the refs that are mirrored, and %d are here: nothing was deleted", len(deletions)),
			"if that is right, delete them here: `git cluster repo observe --stop`, and push the deletion")}
	}
	byName := func(a, b cluster.RefUpdate) int { return cmp.Compare(a.Ref, b.Ref) }
	slices.SortFunc(deletions, byName)
	slices.SortFunc(others, byName)
	d.updates = append(deletions, others...)
	if d.head = chooseHead(list, d.oldHead); d.head == d.oldHead {
		d.head = ""
	}
	return d, nil
}

// chooseHead is the branch that the mirror's HEAD is to name: the remote's, or,
// where that says none that is mirrored, what it names now, if that is still there.
func chooseHead(list *listing, now cluster.RefName) cluster.RefName {
	for _, head := range []cluster.RefName{list.head, now, "refs/heads/main", "refs/heads/master"} {
		if _, ok := list.refs[head]; ok && head.IsBranch() {
			return head
		}
	}
	for _, ref := range sorted(list.refs) {
		if ref.IsBranch() {
			return ref
		}
	}
	return now
}

// fetch gets the objects of a difference into the replica. What the remote shows
// by then counts, not what it listed before.
func (p *pull) fetch(ctx context.Context, s *scratch, d *difference) error {
	var refs []cluster.RefName
	for _, u := range d.updates {
		if !u.New.IsZero() {
			refs = append(refs, u.Ref)
		}
	}
	if len(refs) == 0 {
		return nil
	}
	p.say.tell("Fetching %s from %s…", count(len(refs), "ref"), p.asked)
	values, err := s.fetch(ctx, refs)
	if err != nil {
		return err
	}
	d.updates = slices.DeleteFunc(d.updates, func(u cluster.RefUpdate) bool { return !u.New.IsZero() && values[u.Ref] == u.Old })
	for i := range d.updates {
		if u := &d.updates[i]; !u.New.IsZero() {
			if u.New = values[u.Ref]; u.New == "" {
				return remoteError{errMoved}
			}
		}
	}
	if err := s.importInto(ctx, p.repo.ID, d.updates); err != nil && !ours(err) {
		return remoteError{err} // it sent less than it should have
	} else if err != nil {
		return err
	}
	return nil
}

// ours reports whether a failure lies with this node or the journal and says
// nothing of a remote.
func ours(err error) bool {
	return errors.Is(err, cluster.ErrUnavailable) || errors.Is(err, cluster.ErrFenced) || errors.Is(err, cluster.ErrStopping) || errors.Is(err, cluster.ErrDraining)
}

// maxUpdates is how many updates one entry of the journal is to hold.
const maxUpdates = 20_000

// commit makes the difference part of the journal, in one entry unless it is
// large or HEAD moves. A pull that ends between two leaves a mirror that the next
// one completes.
func (p *pull) commit(ctx context.Context, d difference) (Result, error) {
	result := Result{From: p.head.Version, To: p.head.Version}
	// The engine keeps the branch that HEAD names, so HEAD moves before that goes.
	var last []cluster.RefUpdate
	if d.head != "" {
		for i, u := range d.updates {
			if u.Ref == d.oldHead && u.New.IsZero() {
				d.updates, last = slices.Delete(d.updates, i, i+1), []cluster.RefUpdate{u}
				break
			}
		}
	}
	var pushes []engine.Push
	for part := range slices.Chunk(d.updates, maxUpdates) {
		pushes = append(pushes, engine.Push{Updates: part})
	}
	if d.head != "" {
		pushes = append(pushes, engine.Push{Head: d.head})
	}
	if len(last) > 0 {
		pushes = append(pushes, engine.Push{Updates: last})
	}
	for _, push := range pushes {
		push.ID, push.Actor = journal.NewID(), cluster.Identity{Device: p.Device}
		// Fewer copies will do if it must be: what is lost of a mirror the remote
		// still has.
		push.Copies, push.Degraded = p.repo.Copies, true
		p.debug("committing %s", what(push))
		results, err := p.Engine.Commit(ctx, p.repo.ID, push)
		if err != nil {
			return result, err
		}
		if push.Head != "" {
			result.Changed++
		}
		for _, r := range results {
			if r.Refused == "" {
				result.Changed++
			} else {
				result.refused = append(result.refused, fmt.Sprintf("%q: %s", r.Ref, r.Refused))
			}
		}
	}
	if len(result.refused) > 0 && result.Changed == 0 {
		return result, errors.New(note(result.refused))
	}
	if len(pushes) == 0 {
		return result, nil
	}
	_, now, err := p.Journal.LookupID(ctx, p.repo.ID)
	result.To = now.Version
	return result, err
}

func what(push engine.Push) string {
	if push.Head != "" {
		return "HEAD as " + string(push.Head)
	}
	return count(len(push.Updates), "update")
}

// note says on one line what could not be mirrored.
func note(refs []string) string {
	switch len(refs) {
	case 0:
		return ""
	case 1:
		return refs[0]
	}
	return fmt.Sprintf("%s, such as %s", count(len(refs), "ref"), refs[0])
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// remoteOf is a remote of the mirror with its credential, and "" for none.
func (p *pull) remoteOf(n int) (gitcmd.RemoteURI, string, journal.Credential, error) {
	remote := p.repo.Observe.Remotes[n]
	uri, err := gitcmd.ParseRemote(remote.URI)
	if err != nil {
		return uri, "", journal.Credential{}, err
	}
	var c journal.Credential
	if n < len(p.secrets.Credentials) {
		c = p.secrets.Credentials[n]
	}
	if c == (journal.Credential{}) && remote.Credential != "" && remote.Credential != cluster.CredentialDevice {
		return uri, "", c, errors.New("its credential is not in the journal; give it again with `git cluster repo observe`")
	}
	return uri, remote.Credential, c, nil
}
