package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
	"gitcluster/internal/repository"
)

// A Push is the ref updates of one `git push`, after its objects have been
// stored and found complete.
type Push struct {
	ID      string
	Actor   cluster.Identity
	Updates []cluster.RefUpdate
	Atomic  bool
	// Head, if set, is the branch HEAD is to name. No client can push that; an
	// administrator can.
	Head cluster.RefName
	// Copies is on how many nodes the objects must be before the push is
	// accepted; 0 means a majority of the enabled nodes. If Degraded is set, a push
	// that finds fewer is accepted with a warning.
	Copies   int
	Degraded bool
	// Incoming, if not nil, is what the push has brought, whose history was not looked at
	// yet. If that is not complete the error is [ErrIncomplete].
	Incoming *repository.Incoming
	// Generation is that of the [View] in which the objects were found complete. If
	// objects were removed since, they are looked at again.
	Generation uint64
	// Admitted: whoever asks has looked whether the node takes pushes, before there was
	// anything to commit. Others are refused on one that is drained.
	Admitted bool
	// Tell, if not nil, gets lines for the person who waits.
	Tell func(string)

	forwarded bool // another node has handed it over; it goes no further
}

// ErrTooFewCopies: not enough nodes could be reached that store the objects.
var ErrTooFewCopies = errors.New("not enough replicas hold this push")

// pending is a push that waits for its turn, or for the batch it is in.
type pending struct {
	Push
	came    time.Time
	copies  *spreading
	need    int                        // how many must hold the objects
	faults  map[cluster.RefName]string // what Git itself was found to refuse
	results []cluster.RefResult
	err     error
	done    chan struct{}
}

// Commit makes a push part of the journal and returns the outcome of each of its
// updates. Pushes that wait for the same repository are appended together.
// An error means that the outcome is not known, or that nothing was tried.
func (e *Engine) Commit(ctx context.Context, id cluster.RepoID, push Push) ([]cluster.RefResult, error) {
	if err := e.begin(); err != nil {
		return nil, err
	}
	defer e.work.Done()
	// Counted before it is asked whether it may be: who has heard of the drain and then
	// counts none will see none come.
	e.committing.Add(1)
	defer e.committing.Add(-1)
	if !push.Admitted && e.Drained() {
		return nil, cluster.WithHint(fmt.Errorf("%q is being drained: %w", e.Device, cluster.ErrDraining), "use another node")
	}
	r := e.replica(id)
	came := time.Now()
	if push.Incoming != nil {
		// Pledged first, so that what is looked at from here on stays.
		r.pledge(newValues(push.Updates), pledgeFor)
	} else if ok, err := e.stillWhole(ctx, r, push); err != nil {
		return nil, err
	} else if !ok {
		return refuseAll(push.Updates, "missing necessary objects"), nil // in Git's own words
	}
	for try := 0; ; try++ {
		p := &pending{Push: push, came: came, done: make(chan struct{})}
		if err := e.spread(ctx, r, p); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return nil, cause
			}
			if errors.Is(err, cluster.ErrStopping) || errors.Is(err, ErrIncomplete) {
				return nil, err
			}
			e.Log.Warn("too few copies", "repo", id, "push", push.ID, "error", err)
			p.tell(err.Error())
			return refuseAll(push.Updates, ErrTooFewCopies.Error()), nil
		}
		if p.Incoming != nil {
			if err := e.admitObjects(ctx, r, p); err != nil {
				return nil, err
			}
			push.Incoming = nil
		}
		results, err := e.decide(ctx, r, p)
		switch {
		case errors.Is(err, errOutrun):
			if results, err := e.forward(ctx, r, p); !errors.Is(err, errOutrun) {
				return results, err
			} else if time.Since(came) > retryFor {
				e.Log.Warn("a push was outrun", "repo", id, "push", push.ID, "error", err)
				return refuseAll(push.Updates, errBusy.Error()), nil
			}
			try = 0
			continue
		case !errors.Is(err, journal.ErrIncarnation):
			return results, err
		case try == copyTries:
			return refuseAll(push.Updates, reason(err)), nil
		}
		// A node that took a copy has been started again since, on this disk or
		// another; it has to say anew that it holds the objects.
	}
}

// Committing returns how many pushes are being committed. One may go on for a while
// after whoever asked for it has left.
func (e *Engine) Committing() int { return int(e.committing.Load()) }

// copyTries is how often copies are taken again that no longer count.
const copyTries = 3

// decide waits until the push has had its turn.
func (e *Engine) decide(ctx context.Context, r *replica, p *pending) ([]cluster.RefResult, error) {
	r.mu.Lock()
	r.queue = append(r.queue, p)
	r.mu.Unlock()
	for {
		select {
		case <-p.done:
			return p.results, p.err
		case r.apply <- struct{}{}:
			r.locked()
			if batch := r.take(); len(batch) > 0 {
				e.commit(r, batch)
			}
			r.unlock()
		case <-ctx.Done():
			if r.withdraw(p) {
				return nil, context.Cause(ctx)
			}
			<-p.done // it is in a batch: only the journal can say what becomes of it
			return p.results, p.err
		}
	}
}

// ErrUnclear marks a push of which nobody knows whether it is in the journal.
// The client must get no answer: neither would be true.
var ErrUnclear = journal.ErrUnclear

// retryFor bounds how long a push that keeps losing against other nodes tries again.
const retryFor = time.Minute

// errBusy: other nodes' pushes came first for as long as we tried.
var errBusy = errors.New("other pushes to this repository kept coming first; push again")

// take empties the queue, up to a bound that keeps an entry small.
func (r *replica) take() []*pending {
	const most, mostUpdates = 64, 10_000
	r.mu.Lock()
	defer r.mu.Unlock()
	n, updates := 0, 0
	for n < min(len(r.queue), most) && (n == 0 || updates+len(r.queue[n].Updates) <= mostUpdates) {
		updates += len(r.queue[n].Updates)
		n++
	}
	batch := slices.Clone(r.queue[:n])
	r.queue = slices.Delete(r.queue, 0, n)
	return batch
}

func (r *replica) withdraw(p *pending) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.Index(r.queue, p)
	if i >= 0 {
		r.queue = slices.Delete(r.queue, i, i+1)
	}
	return i >= 0
}

func (p *pending) tell(line string) {
	if p.Tell != nil {
		p.Tell(line)
	}
}

func (p *pending) end(results []cluster.RefResult, err error) {
	p.results, p.err = results, err
	close(p.done)
}

// commit decides all pushes, in as few entries as their refs allow. The caller
// holds apply.
func (e *Engine) commit(r *replica, waiting []*pending) {
	deadline := time.Now().Add(retryFor)
	for losses := 0; len(waiting) > 0; {
		err := r.fence()
		if err == nil {
			err = e.current(r)
		}
		var b *batch
		if err == nil {
			b, waiting = e.admit(r, waiting)
			err = e.append(r, b)
		}
		switch {
		case err == nil:
			continue
		case errors.Is(err, journal.ErrHeadMoved):
			// Somebody else's push came first. Ours is judged again against
			// what is there now.
			waiting = append(b.pushes(), waiting...)
			if losses++; losses >= outrunAfter {
				waiting = slices.DeleteFunc(waiting, func(p *pending) bool {
					if p.forwarded || len(p.Updates) == 0 {
						return false
					}
					p.end(nil, errOutrun)
					return true
				})
			}
			if time.Now().Before(deadline) {
				if err = e.loseGracefully(r, losses); err == nil {
					continue
				}
			}
			if err == nil || errors.Is(err, journal.ErrHeadMoved) {
				err = errBusy
			}
		case errors.Is(err, errFaults):
			waiting = append(b.pushes(), waiting...)
			continue
		case b != nil:
			waiting = append(b.pushes(), waiting...)
		}
		for _, p := range waiting {
			if errors.Is(err, ErrUnclear) || errors.Is(err, journal.ErrIncarnation) || len(p.Updates) == 0 {
				p.end(nil, err) // there is no answer to give, or no ref to give it for
			} else {
				p.end(refuseAll(p.Updates, reason(err)), nil)
			}
		}
		return
	}
}

// current makes sure that the table is loaded and at the head last heard of.
func (e *Engine) current(r *replica) error {
	r.mu.Lock()
	known := r.loaded && r.putBack == "" && r.applied.Reached(r.head.Position)
	if r.head.Position == r.shown.Position {
		r.shown = r.head // trimming and a lock change the record, and not what it says of refs
	}
	r.mu.Unlock()
	if known && r.table != nil {
		return nil
	}
	return e.catchUp(e.ctx, r, func(string) {})
}

// loseGracefully catches up with the entry that came first, after a short random
// wait that grows, so that a distant node wins its turn too.
func (e *Engine) loseGracefully(r *replica, losses int) error {
	_, head, err := e.Journal.LookupID(e.ctx, r.id)
	if err != nil {
		return err
	}
	r.noteHead(head)
	wait := time.NewTimer(rand.N(5*time.Millisecond) << min(losses-1, 5))
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-e.ctx.Done():
		return context.Cause(e.ctx)
	}
	return e.catchUp(e.ctx, r, func(string) {})
}

// append makes a batch real: refs locked, one transaction in the journal, refs
// written. On an error other than [ErrUnclear] nothing has changed.
func (e *Engine) append(r *replica, b *batch) error {
	if b.empty() {
		b.table.Decide()
		b.acknowledge()
		return nil
	}
	// Objects first: once the journal names them they must survive a power loss.
	if err := r.repo.SyncObjects(); err != nil {
		b.undo()
		return err
	}
	tx, err := e.prepare(r, b)
	if err != nil {
		b.undo()
		return err
	}
	defer tx.Abort()
	e.At(StepPrepared)
	entry := journal.Entry{
		Epoch:   r.shown.Epoch,
		Version: r.shown.Version + 1,
		Updates: b.updates,
		Head:    b.head,
		Digest:  r.table.Digest(),
		Device:  e.Device,
		Time:    time.Now().UTC(),
		Pushes:  b.records,
	}
	for _, c := range b.counted {
		entry.Copies = append(entry.Copies, c.Device)
	}
	b.noteWaits()
	head, err := e.Journal.Append(e.ctx, r.id, r.shown, entry, b.counted)
	if err != nil {
		tx.Abort()
		b.undo()
		return err
	}
	e.At(StepAppended)
	// From here on the push is real. Whatever fails is made good by a replay.
	b.table.Decide()
	r.noteHead(head)
	r.shown = head
	if err := e.show(r, tx, b, head); err != nil {
		e.Log.Warn("the push is in the journal; its refs are not yet written", "repo", r.id, "version", head.Version, "error", err)
		r.mu.Lock()
		r.loaded = false
		r.mu.Unlock()
		r.table = nil
		if err := e.catchUp(e.ctx, r, func(string) {}); err != nil {
			e.Log.Warn("replay failed", "repo", r.id, "error", err)
		}
	}
	b.acknowledge()
	e.trim(r.id, head)
	return nil
}

// trim removes old entries now and then, in the background. Nothing depends on it.
func (e *Engine) trim(id cluster.RepoID, head journal.Head) {
	keep := cluster.Version(e.Keep)
	if head.Version < head.Oldest+keep+keep/8 || e.begin() != nil {
		return
	}
	go func() {
		defer e.work.Done()
		if err := e.Journal.Trim(e.ctx, id, head.Version-keep+1); err != nil {
			e.Log.Warn("trim the journal", "repo", id, "error", err)
		}
	}()
}

// show writes the refs of a batch that is in the journal.
func (e *Engine) show(r *replica, tx *repository.Transaction, b *batch, head journal.Head) error {
	if err := tx.Commit(); err != nil {
		return err
	}
	if len(b.deferred) > 0 {
		if err := transact(e.ctx, r.repo, b.deferred); err != nil {
			return err
		}
	}
	if b.head != "" {
		if err := setHead(e.ctx, r.repo, b.head); err != nil {
			return err
		}
	}
	e.At(StepWritten)
	if err := e.finish(r, head.Position, b.refs()); err != nil {
		return err
	}
	e.At(StepApplied)
	return nil
}

func reason(err error) string {
	switch {
	case errors.Is(err, cluster.ErrLocked) && errors.Is(err, cluster.ErrFenced):
		return "an operator holds this repository; push later"
	case errors.Is(err, cluster.ErrFenced):
		return "this replica is fenced; push to another node"
	case errors.Is(err, cluster.ErrStopping):
		return "the node is stopping; push again"
	case errors.Is(err, cluster.ErrUnavailable):
		return "the journal is unavailable; push again"
	case errors.Is(err, cluster.ErrNotFound):
		return "the repository was deleted"
	case errors.Is(err, cluster.ErrLocked):
		return strings.TrimSuffix(err.Error(), ": "+cluster.ErrLocked.Error())
	case errors.Is(err, journal.ErrIncarnation):
		return "a node that holds this push has been replaced; push again"
	}
	return err.Error()
}

func refuseAll(updates []cluster.RefUpdate, why string) []cluster.RefResult {
	results := make([]cluster.RefResult, len(updates))
	for i, u := range updates {
		results[i] = cluster.RefResult{Ref: u.Ref, Refused: why}
	}
	return results
}
