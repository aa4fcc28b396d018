package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
	"gitcluster/internal/repository"
)

// reach waits until the replica shows at least head, or, if the journal has not got
// that any more, where it ends. One catch-up runs at a
// time; whoever needs it waits for it.
func (e *Engine) reach(ctx context.Context, r *replica, head journal.Head, tell func(string)) error {
	r.noteHead(head)
	r.mu.Lock()
	underWay := r.flight
	r.mu.Unlock()
	asked := false // whether it is still held
	for {
		r.mu.Lock()
		switch {
		case r.fenced != nil && errors.Is(r.fenced, cluster.ErrLocked) && !asked:
			r.mu.Unlock()
			if err := e.released(ctx, r); err != nil {
				return err
			}
			asked = true
			continue
		case r.fenced != nil:
			defer r.mu.Unlock()
			return r.fenced
		case r.loaded && r.putBack == "" && r.applied.Reached(head.Position):
			r.mu.Unlock()
			return nil
		}
		f := r.flight
		if f == nil {
			if err := e.begin(); err != nil {
				r.mu.Unlock()
				return err
			}
			f = &flight{done: make(chan struct{}), since: time.Now()}
			r.flight = f
			go e.fly(r, f)
		}
		r.mu.Unlock()
		if err := f.await(ctx, tell); err != nil {
			return err
		}
		// A flight that was under way before we came may have failed for a
		// reason that is gone; any later one speaks for us, too.
		ours := f != underWay
		underWay = nil
		if f.err != nil && ours {
			return f.err
		}
		if ours && !r.shows(head.Position) {
			// What was asked for is not on the journal's way any more: versions were
			// given up meanwhile, or it was put back. Where it ends now is what counts.
			_, now, err := e.Journal.LookupID(ctx, r.id)
			if err != nil {
				return err
			}
			r.noteHead(now)
			head = now
		}
	}
}

// await waits for the flight's end and passes on what it tells.
func (f *flight) await(ctx context.Context, tell func(string)) error {
	lines, deaf := f.listen()
	defer deaf()
	for {
		select {
		case line := <-lines:
			if tell != nil {
				tell(line)
			}
		case <-f.done:
			select {
			case line := <-lines:
				if tell != nil {
					tell(line)
				}
			default:
			}
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// fly runs one catch-up under the node's context, so that a reader who leaves
// does not stop it for the others.
func (e *Engine) fly(r *replica, f *flight) {
	defer e.work.Done()
	defer close(f.done)
	defer func() {
		r.mu.Lock()
		r.flight = nil
		r.mu.Unlock()
	}()
	if f.err = r.lock(e.ctx); f.err != nil {
		return
	}
	defer r.unlock()
	f.err = e.catchUp(e.ctx, r, f.tell)
	if f.err != nil {
		e.Log.Warn("catch-up failed", "repo", r.id, "error", f.err)
	}
}

// catchUp brings the replica to the newest head heard of. The caller holds apply.
func (e *Engine) catchUp(ctx context.Context, r *replica, tell func(string)) error {
	if why, err := e.doubted(r); err != nil || why != "" {
		if err == nil {
			_, err = e.resync(ctx, r, why, tell)
		}
		return err
	}
	if err := e.load(ctx, r, tell); err != nil {
		return err
	}
	if err := e.knowHead(ctx, r); err != nil {
		return err
	}
	if r.fence() != nil {
		return r.fence()
	}
	for attempt := 0; ; attempt++ {
		if why := r.hasBeenPutBack(); why != "" {
			return e.resyncFor(ctx, r, tell, "%s", why)
		}
		r.mu.Lock()
		head, applied, loaded := r.head, r.applied, r.loaded
		r.mu.Unlock()
		if loaded && applied.Reached(head.Position) {
			return nil
		}
		err := e.replay(ctx, r, head, tell)
		if errors.Is(err, errFound) {
			// Perhaps what was found complete is gone, by somebody's hand.
			if err = e.load(ctx, r, tell); err == nil {
				err = e.replay(ctx, r, head, tell)
			}
		}
		if err == nil || attempt == 3 || !errors.Is(err, cluster.ErrNoReplica) {
			return err
		}
		// The objects may be gone because their refs have moved on meanwhile.
		_, now, lookErr := e.Journal.LookupID(ctx, r.id)
		if lookErr != nil {
			return errors.Join(err, lookErr)
		}
		if r.noteHead(now).Version == head.Version {
			return err
		}
	}
}

// errFound: refs could not be written whose objects were not looked at, because they
// had been found complete before.
var errFound = errors.New("objects were taken for granted")

// replay applies the entries between what the replica shows and head. Doing so
// twice, or after a crash anywhere in it, comes to the same.
func (e *Engine) replay(ctx context.Context, r *replica, head journal.Head, tell func(string)) error {
	from := r.position()
	switch {
	case from == (cluster.Position{}):
		from.Epoch = head.Epoch
	case from.Epoch != head.Epoch:
		return e.resyncFor(ctx, r, tell, "it is of epoch %d and the journal of epoch %d", from.Epoch, head.Epoch)
	case from.Version > head.Version:
		return e.resyncFor(ctx, r, tell, "it shows version %d and the journal ends at %d", from.Version, head.Version)
	}
	if other, err := e.another(ctx, r, from, head); err != nil {
		return err
	} else if other {
		return e.resyncFor(ctx, r, tell, "the version %d that it shows is another in the journal", from.Version)
	}
	start := time.Now()
	missed, err := e.readMissed(ctx, r, from.Version, head.Version)
	if errors.Is(err, journal.ErrTrimmed) {
		return e.resyncFor(ctx, r, tell, "it shows version %d and the journal begins at %d", from.Version, head.Oldest)
	}
	if missed.gaveUp(from.Version) {
		// What this disk shows was given up while it was away. It is here after
		// all: it is kept where people can find it.
		return e.resyncFor(ctx, r, tell, "version %d, which it shows, was given up as lost", from.Version)
	}
	if err != nil {
		return err
	}
	r.used = time.Now()
	updates, newHead := missed.updates(r.table), missed.head
	if err := e.fetchMissing(ctx, r, from, head, missed.newest, updates, tell); err != nil {
		return err
	}
	if err := write(ctx, r.repo, r.table, updates); err != nil {
		r.table = nil
		if r.forgetFound() {
			err = fmt.Errorf("%w: %w", errFound, err)
		}
		return err
	}
	if newHead != "" {
		// Also where it has that target: a former life may have died before it
		// was synced.
		if err := setHead(ctx, r.repo, newHead); err != nil {
			r.table = nil
			return err
		}
		r.table.SetHead(newHead)
	}
	if r.table.Digest() != head.Digest {
		return e.fenceOff(r, "its refs have the digest %s and those of version %d have %s", r.table.Digest(), head.Version, head.Digest)
	}
	r.shown = head
	r.known.Store(r.table)
	if from == head.Position {
		r.setApplied(from) // it was at the head; now that is known
		return nil
	}
	if err := e.finish(r, head.Position, missed.refs()); err != nil {
		return err
	}
	if head.Version > from.Version {
		e.Log.Info("caught up", "repo", r.id, "from", from.Version, "to", head.Version, "refs", len(updates), "took", time.Since(start).Round(time.Microsecond))
	}
	return nil
}

// another reports whether the journal has another entry of the version that the disk
// showed when it was loaded: then it was put back to an earlier state while this node
// was away, and has grown since.
func (e *Engine) another(ctx context.Context, r *replica, from cluster.Position, head journal.Head) (bool, error) {
	switch {
	case r.isLoaded(), from.Version == 0, from.Version < head.Oldest: // compared before, or nothing to compare with
		return false, nil
	case from.Version == head.Version:
		return from.Digest != head.Digest, nil
	}
	entries, err := e.Journal.Newest(ctx, r.id, from.Version+1, 1)
	if err != nil || len(entries) == 0 || entries[0].Version != from.Version {
		return false, err
	}
	return entries[0].Position() != from, nil
}

func (e *Engine) resyncFor(ctx context.Context, r *replica, tell func(string), format string, a ...any) error {
	_, err := e.resync(ctx, r, fmt.Sprintf(format, a...), tell)
	return err
}

// finish makes the refs that were written durable and records the position.
func (e *Engine) finish(r *replica, at cluster.Position, refs []cluster.RefName) error {
	if err := r.repo.SyncRefs(refs); err != nil {
		return err
	}
	if err := r.repo.SetApplied(at); err != nil {
		return err
	}
	r.setApplied(at)
	e.reportSoon(r.id)
	return nil
}

// fenceOff stops serving the replica: its disk contradicts the journal.
func (e *Engine) fenceOff(r *replica, format string, a ...any) error {
	err := cluster.WithHint(fmt.Errorf("the replica %s on %q: %s: %w", r.id, e.Device, fmt.Sprintf(format, a...), cluster.ErrFenced),
		"another node serves it; this one's disk was changed from outside: `git cluster repair` on it keeps what was changed and follows the journal")
	r.mu.Lock()
	r.fenced = err
	r.mu.Unlock()
	r.table = nil
	e.Log.Error("replica fenced", "repo", r.id, "error", err)
	e.reportSoon(r.id)
	return err
}

// missed is what a replica has not seen: of each ref and of HEAD only the last
// value, and the newest entry without its updates.
type missed struct {
	last    map[cluster.RefName]cluster.OID
	head    cluster.RefName
	newest  journal.Entry
	givenUp [][2]cluster.Version // the first and the last of those that were given up
}

// gaveUp reports whether a version was given up by an entry that was missed.
func (m missed) gaveUp(v cluster.Version) bool {
	return slices.ContainsFunc(m.givenUp, func(g [2]cluster.Version) bool { return g[0] <= v && v <= g[1] })
}

// readMissed reads the entries of (after, upTo] and collapses them as they come.
func (e *Engine) readMissed(ctx context.Context, r *replica, after, upTo cluster.Version) (missed, error) {
	m := missed{last: map[cluster.RefName]cluster.OID{}}
	for entry, err := range e.Journal.Entries(ctx, r.id, after, upTo) {
		if err != nil {
			return m, err
		}
		for _, u := range entry.Updates {
			m.last[u.Ref] = u.New
		}
		if entry.Head != "" {
			m.head = entry.Head
		}
		if entry.GivenUp > 0 {
			m.givenUp = append(m.givenUp, [2]cluster.Version{entry.GivenUp, entry.Version - 1})
		}
		entry.Updates = nil
		m.newest = entry
	}
	return m, nil
}

// updates are those that lead from what the table shows to what was missed.
func (m missed) updates(table *repository.RefTable) (updates []cluster.RefUpdate) {
	for ref, value := range m.last {
		if old := table.Get(ref); old != value && !(old.IsZero() && value.IsZero()) {
			updates = append(updates, cluster.RefUpdate{Ref: ref, Old: old, New: value})
		}
	}
	return updates
}

// refs are all refs that were missed, also those that already have their value:
// a former life may have died before they were synced.
func (m missed) refs() []cluster.RefName {
	return slices.Collect(maps.Keys(m.last))
}
