package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
	"gitcluster/internal/repository"
)

// Resynchronizing makes a replica what the journal says, whatever its disk shows.
// A replay trusts the disk up to the position recorded there; this trusts nothing
// but objects whose history was walked. It is what happens to a replica
//
//   - of a disk that is not the one the node last ran on: restored from a backup,
//     or exchanged;
//   - that is ahead of the journal, or of another epoch: the journal was restored;
//   - that is older than the oldest entry still kept;
//   - that an operator has repaired.

// A replica is doubted, for any of these reasons but the last, by a mark on the
// disk: it must outlive the node, which may be killed before it gets to it.

// doubted says why a replica is not to be trusted before it was resynchronized, if
// it is not.
func (e *Engine) doubted(r *replica) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.doubt != nil {
		return *r.doubt, nil
	}
	repo, err := e.Store.Open(r.id)
	if errors.Is(err, cluster.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	why, err := repo.Doubt()
	if err == nil {
		r.doubt = &why
	}
	return why, err
}

// Repair resynchronizes a replica that is fenced, or any. It returns what was on
// disk and not in the journal, each with the ref it is kept under.
func (e *Engine) Repair(ctx context.Context, id cluster.RepoID) (kept []Stray, err error) {
	if err := e.begin(); err != nil {
		return nil, err
	}
	defer e.work.Done()
	r := e.replica(id)
	if err := r.lock(ctx); err != nil {
		return nil, err
	}
	defer r.unlock()
	return e.resync(e.ctx, r, "an operator asked for it", func(string) {})
}

// A Stray is a value that a ref had on a replica and never in the journal.
type Stray struct {
	Ref   cluster.RefName `json:"ref"`
	Value cluster.OID     `json:"value"`
	// Kept is where it is kept, below refs/strays/; "" if objects that it reaches
	// are missing, so that there is nothing to keep.
	Kept cluster.RefName `json:"kept,omitempty"`
}

// resync is what the above describes. The caller holds apply.
func (e *Engine) resync(ctx context.Context, r *replica, why string, tell func(string)) ([]Stray, error) {
	start := time.Now()
	r.forgetFound()
	record, head, err := e.Journal.LookupID(ctx, r.id)
	if err != nil {
		return nil, err
	}
	if held, err := e.Journal.LockOf(ctx, r.id); err == nil && held.Device == e.Device {
		r.hold(e.Device, held.By) // what they have done so far must not go
		return nil, r.fence()
	} else if err != nil && !errors.Is(err, cluster.ErrNotFound) {
		return nil, err
	}
	tell(fmt.Sprintf("Comparing this replica with the journal: %s…", why))
	if _, err := e.Store.Mend(record); err != nil {
		return nil, err
	}
	repo, err := e.Store.Create(ctx, record)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(repo.RemoveLocks(), repo.RemoveBrokenRefs(record.InitialHead)); err != nil {
		return nil, err
	}
	r.repo, r.table = repo, nil
	disk, err := repo.LoadRefs(ctx)
	if err != nil {
		return nil, err
	}
	wanted, err := e.refsAt(ctx, r, record, head, disk)
	if err != nil {
		return nil, err
	}
	r.known.Store(nil)
	if err := e.fetchAll(ctx, r, wanted, tell); err != nil {
		return nil, err
	}
	// Not before it can be finished: each further attempt would keep them again.
	strays, err := e.keepStrays(ctx, r, head, disk, wanted)
	if err != nil {
		return nil, err
	}
	updates := difference(disk, wanted)
	if err := write(ctx, repo, disk, updates); err != nil {
		return nil, err
	}
	if err := setHead(ctx, repo, wanted.Head()); err != nil {
		return nil, err
	}
	disk.SetHead(wanted.Head())
	if disk.Digest() != head.Digest {
		return nil, fmt.Errorf("after a resynchronization the refs of %s have the digest %s, not %s", r.id, disk.Digest(), head.Digest)
	}
	refs := make([]cluster.RefName, 0, disk.Len())
	for ref := range disk.Values {
		refs = append(refs, ref)
	}
	for _, u := range updates {
		refs = append(refs, u.Ref)
	}
	r.mu.Lock()
	r.fenced, r.applied, r.loaded, r.putBack = nil, cluster.Position{}, false, ""
	r.mu.Unlock()
	r.replaceHead(head)
	if err := e.finish(r, head.Position, refs); err != nil {
		return nil, err
	}
	if err := errors.Join(repo.SetHeld(false), repo.SetDoubt("")); err != nil {
		return nil, err
	}
	r.table, r.shown = disk, head
	r.known.Store(disk)
	r.mu.Lock()
	r.doubt = new(string)
	r.mu.Unlock()
	e.Log.Info("resynchronized", "repo", r.id, "why", why, "to", head.Version, "refs", len(updates), "strays", len(strays), "took", time.Since(start).Round(time.Microsecond))
	return strays, nil
}

// refsAt returns the refs that the journal says a repository has at its head: by
// its entries from the first on, or, where those have been trimmed, by the refs that
// this node knew, or its disk shows, or a peer's, and the entries since. None is
// believed unless the outcome has the head's digest. The caller holds apply.
func (e *Engine) refsAt(ctx context.Context, r *replica, record cluster.Repo, head journal.Head, disk *repository.RefTable) (*repository.RefTable, error) {
	if head.Oldest <= 1 {
		table := repository.NewRefTable()
		table.SetHead(record.InitialHead)
		if err := e.replayOnto(ctx, record.ID, table, 0, head); err != nil {
			return nil, err
		}
		return table, nil
	}
	if table := r.known.Load(); table != nil && table.Digest() == head.Digest {
		return table.Clone(), nil
	}
	if disk.Digest() == head.Digest { // whatever version it is said to be
		return disk.Clone(), nil
	}
	if repo, err := e.Store.Open(r.id); err == nil {
		at, err := repo.Applied()
		if err == nil && at.Epoch == head.Epoch && at.Version+1 >= head.Oldest && at.Version <= head.Version {
			table := disk.Clone()
			if e.replayOnto(ctx, r.id, table, at.Version, head) == nil {
				return table, nil
			}
		}
	}
	var failures []error
	for _, device := range r.talking(e.Peers.Nearest()) {
		at, table, err := e.peerRefs(ctx, r, device)
		switch {
		case err != nil:
		case at.Epoch != head.Epoch || at.Version+1 < head.Oldest || at.Version > head.Version:
			err = fmt.Errorf("its replica is at %v", at)
		default:
			err = e.replayOnto(ctx, record.ID, table, at.Version, head)
		}
		if err == nil {
			return table, nil
		}
		failures = append(failures, fmt.Errorf("%s: %v", device, err))
	}
	return nil, fmt.Errorf("the journal of %s begins at version %d, and no replica shows its refs: %w", record.ID, head.Oldest, errors.Join(append(failures, cluster.ErrNoReplica)...))
}

// replayOnto applies the entries of (after, head] to a table.
func (e *Engine) replayOnto(ctx context.Context, id cluster.RepoID, table *repository.RefTable, after cluster.Version, head journal.Head) error {
	for entry, err := range e.Journal.Entries(ctx, id, after, head.Version) {
		if err != nil {
			return err
		}
		for _, u := range entry.Updates {
			table.Set(u.Ref, u.New)
		}
		if entry.Head != "" {
			table.SetHead(entry.Head)
		}
	}
	if table.Digest() != head.Digest {
		return fmt.Errorf("refs with the digest %s, and those of version %d have %s", table.Digest(), head.Version, head.Digest)
	}
	return nil
}

// keepStrays keeps under refs/strays/ what the disk's refs show and the journal
// does not, unless the disk shows a version that the journal has had: then nothing
// of it is strange.
func (e *Engine) keepStrays(ctx context.Context, r *replica, head journal.Head, disk, wanted *repository.RefTable) ([]Stray, error) {
	if applied, err := r.repo.Applied(); err == nil && applied.Digest == disk.Digest() && applied.Epoch == head.Epoch {
		if applied.Version < head.Oldest && applied.Version >= head.GivenUp {
			return nil, nil // it was once, and is trimmed
		}
		had, given := false, false
		for entry, err := range e.Journal.Entries(ctx, r.id, max(applied.Version, head.Oldest, 1)-1, head.Version) {
			if err != nil {
				return nil, err
			}
			had = had || entry.Position() == applied
			given = given || entry.GivenUp > 0 && entry.GivenUp <= applied.Version && entry.Version > applied.Version
		}
		if had && !given || applied.Version == 0 && !given {
			return nil, nil
		}
	}
	folder := cluster.StraysPrefix + time.Now().UTC().Format("20060102T150405.000Z")
	var strays []Stray
	var updates []cluster.RefUpdate
	for ref, value := range disk.Values {
		if wanted.Get(ref) != value {
			strays = append(strays, Stray{Ref: ref, Value: value})
		}
	}
	// Git takes what any ref reaches for granted when it checks a push.
	whole, err := e.whole(ctx, r.repo, strays, newValues(difference(repository.NewRefTable(), wanted)))
	if err != nil {
		return nil, err
	}
	for i, s := range strays {
		if !whole[s.Value] {
			e.Log.Warn("a ref is not in the journal, and objects that it reaches are missing: it is not kept", "repo", r.id, "ref", s.Ref, "value", s.Value)
			continue
		}
		strays[i].Kept = cluster.RefName(folder + string(s.Ref[len("refs"):]))
		updates = append(updates, cluster.RefUpdate{Ref: strays[i].Kept, New: s.Value})
	}
	if len(updates) == 0 {
		return strays, nil
	}
	if err := transact(ctx, r.repo, updates); err != nil {
		return nil, fmt.Errorf("keep %d strays: %w", len(updates), err)
	}
	slices.SortFunc(strays, func(a, b Stray) int { return strings.Compare(string(a.Ref), string(b.Ref)) })
	return strays, nil
}

// whole finds the strays whose history is complete, given that that of haves is.
func (e *Engine) whole(ctx context.Context, repo *repository.Repository, strays []Stray, haves []cluster.OID) (map[cluster.OID]bool, error) {
	found := map[cluster.OID]bool{}
	var search func([]Stray) error
	search = func(part []Stray) error {
		var values []cluster.OID
		for _, s := range part {
			values = append(values, s.Value)
		}
		ok, err := repo.Closed(ctx, values, haves)
		switch {
		case err != nil:
			return err
		case ok:
			for _, value := range values {
				found[value] = true
			}
		case len(part) > 1:
			half := len(part) / 2
			if err := search(part[:half]); err != nil {
				return err
			}
			return search(part[half:])
		}
		return nil
	}
	return found, search(strays)
}

// fetchAll gets whatever the wanted refs reach and the disk lacks. Nothing that is
// there is trusted before its history was walked.
func (e *Engine) fetchAll(ctx context.Context, r *replica, wanted *repository.RefTable, tell func(string)) error {
	var wants []cluster.OID
	for _, value := range wanted.Values {
		wants = append(wants, value)
	}
	slices.Sort(wants)
	wants = slices.Compact(wants)
	if held, err := e.held(ctx, r, wants, nil); err != nil || held {
		return err
	}
	err := e.gather(ctx, r, r.repo.Apart(), r.talking(e.Peers.Nearest()), wants, nil, func(device cluster.DeviceName) {
		tell(fmt.Sprintf("Synchronizing from %q…", device))
	})
	if errors.Is(err, cluster.ErrNoReplica) {
		err = fmt.Errorf("resynchronize repository %s: %w", r.id, err)
	}
	return err
}

// difference returns what leads from one table to another.
func difference(from, to *repository.RefTable) (updates []cluster.RefUpdate) {
	for ref, value := range from.Values {
		if to.Get(ref) == "" {
			updates = append(updates, cluster.RefUpdate{Ref: ref, Old: value})
		}
	}
	for ref, value := range to.Values {
		if old := from.Get(ref); old != value {
			updates = append(updates, cluster.RefUpdate{Ref: ref, Old: old, New: value})
		}
	}
	return updates
}

// WriteRefs gives another node the refs of this replica and the position they
// are at.
func (e *Engine) WriteRefs(ctx context.Context, id cluster.RepoID, write func(at cluster.Position, head cluster.RefName, refs []cluster.RefUpdate) error) error {
	r := e.replica(id)
	// Two nodes that resynchronize at once may each hold their own lock and wait
	// for the other's refs.
	wait, cancel := context.WithTimeout(ctx, e.RefsPatience)
	defer cancel()
	if err := r.lock(wait); err != nil {
		return err
	}
	if why, err := e.doubted(r); err != nil || why != "" {
		r.unlock()
		return fmt.Errorf("this replica is not to be trusted itself (%s): %w", why, errors.Join(err, cluster.ErrUnavailable))
	}
	// Not first brought to the head: that could take a resynchronization, in which
	// this node would ask the one that asks. Who asks adds the entries since.
	err := e.load(wait, r, func(string) {})
	if err == nil {
		err = r.fence()
	}
	if err == nil && !r.asRecorded() {
		err = e.catchUp(wait, r, func(string) {})
	}
	if err != nil {
		r.unlock()
		return err
	}
	at, head := r.position(), r.table.Head()
	refs := make([]cluster.RefUpdate, 0, r.table.Len())
	for ref, value := range r.table.Values {
		refs = append(refs, cluster.RefUpdate{Ref: ref, New: value})
	}
	r.unlock()
	return write(at, head, refs)
}
