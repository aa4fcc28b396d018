package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
	"gitcluster/internal/repository"
)

// Lock has the journal refuse every push to a repository until it is released,
// and this node serve nobody from its replica: an operator may change its refs on
// disk meanwhile. Other nodes go on to serve what the journal says.
func (e *Engine) Lock(ctx context.Context, id cluster.RepoID, by string) error {
	if err := e.begin(); err != nil {
		return err
	}
	defer e.work.Done()
	ctx, cancel := e.withNode(ctx)
	defer cancel()
	r := e.replica(id)
	if err := r.lock(ctx); err != nil {
		return err
	}
	defer r.unlock()
	if err := e.journalAhead(ctx, r); err != nil {
		return err
	}
	if err := e.catchUp(ctx, r, func(string) {}); err != nil {
		return err
	}
	// Also on the disk: another node may end the hold while this one is down, and what
	// was changed here by then is not the journal's.
	if err := r.repo.SetHeld(true); err != nil {
		return err
	}
	if err := e.lockJournal(ctx, r, journal.Lock{Device: e.Device, By: by, Since: time.Now().UTC()}); err != nil {
		return err
	}
	r.hold(e.Device, by)
	return nil
}

// lockJournal has the journal lock the repository, and then follows it. If that fails,
// the disk must not say any longer that it is held: a later life of the node would not
// trust it. The caller holds apply.
func (e *Engine) lockJournal(ctx context.Context, r *replica, lock journal.Lock) error {
	err := e.Journal.Lock(ctx, r.id, lock)
	if err == nil {
		// A push that was appended before the lock is replayed; none comes after.
		if err = e.journalAhead(ctx, r); err == nil {
			err = e.catchUp(ctx, r, func(string) {})
		}
	}
	if err == nil {
		return nil
	}
	// Also where it is not known whether the lock was made.
	ctx, cancel := context.WithTimeout(e.ctx, lockPatience)
	defer cancel()
	held, lookErr := e.Journal.LockOf(ctx, r.id)
	if lookErr == nil && held.Device == e.Device {
		if held.By != lock.By || !held.Since.Equal(lock.Since) {
			return err // an earlier one of this node's, which still stands
		}
		lookErr = e.Journal.Unlock(ctx, r.id, held)
	}
	if lookErr != nil && !errors.Is(lookErr, cluster.ErrNotFound) {
		return errors.Join(err, lookErr)
	}
	return errors.Join(err, r.repo.SetHeld(false))
}

// lockPatience is how long it may take to undo a lock that came to nothing.
const lockPatience = 5 * time.Second

// hold has the replica serve nobody while an operator changes it.
func (r *replica) hold(device cluster.DeviceName, by string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fenced = fmt.Errorf("%s holds the repository on %q: %w: %w", by, device, cluster.ErrLocked, cluster.ErrFenced)
}

// released lets a replica that was held go on if the hold has been ended elsewhere.
// What an operator has done to its refs is then nobody's word.
func (e *Engine) released(ctx context.Context, r *replica) error {
	held, err := e.Journal.LockOf(ctx, r.id)
	if err == nil && held.Device == e.Device || err != nil && !errors.Is(err, cluster.ErrNotFound) {
		return err
	}
	if err := r.lock(ctx); err != nil {
		return err
	}
	defer r.unlock()
	if !errors.Is(r.fence(), cluster.ErrLocked) {
		return nil
	}
	return e.resyncFor(e.ctx, r, func(string) {}, "an operator's hold on it was ended on another node")
}

// journalAhead notes the newest head.
func (e *Engine) journalAhead(ctx context.Context, r *replica) error {
	_, head, err := e.Journal.LookupID(ctx, r.id)
	if err == nil {
		r.noteHead(head)
	}
	return err
}

// Release ends a lock. What the refs on disk show then becomes one entry of the
// journal; with abandon it is kept aside, and the replica follows the journal. It
// returns what changed. A lock of another node can only be abandoned: that node may
// be gone for good.
func (e *Engine) Release(ctx context.Context, id cluster.RepoID, by cluster.Identity, abandon bool) (changed []cluster.RefUpdate, err error) {
	if err := e.begin(); err != nil {
		return nil, err
	}
	defer e.work.Done()
	ctx, cancel := e.withNode(ctx)
	defer cancel()
	r := e.replica(id)
	held, err := e.Journal.LockOf(ctx, id)
	ended := errors.Is(err, cluster.ErrNotFound) && errors.Is(r.fence(), cluster.ErrLocked) // and we were not told
	switch {
	case ended:
	case err != nil:
		return nil, err
	case held.Device != e.Device && abandon:
		return nil, e.Journal.Unlock(ctx, id, held)
	case held.Device != e.Device:
		return nil, cluster.WithHint(fmt.Errorf("the repository is held on %q, not here: %w", held.Device, cluster.ErrLocked),
			"if that node is gone for good: git cluster unlock --abandon")
	case !abandon:
		if changed, err = e.enter(ctx, r, by, held); err != nil {
			return nil, err
		}
	}
	if err := r.lock(ctx); err != nil {
		return nil, err
	}
	defer r.unlock()
	if abandon && !ended {
		// If the node dies before the next step, the disk says that it was held.
		if err := e.Journal.Unlock(ctx, id, held); err != nil {
			return nil, err
		}
	}
	_, err = e.resync(ctx, r, "it was held by an operator", func(string) {})
	return changed, err
}

// enter appends what the disk shows as one entry, and unlocks in the same
// transaction.
func (e *Engine) enter(ctx context.Context, r *replica, by cluster.Identity, held journal.Lock) ([]cluster.RefUpdate, error) {
	head, wanted, disk, err := e.changedByHand(ctx, r)
	if err != nil {
		return nil, err
	}
	updates := difference(wanted, disk)
	p := &pending{Push: Push{ID: journal.NewID(), Actor: by, Updates: updates}, came: time.Now()}
	if err := e.spread(ctx, r, p); err != nil {
		return nil, err
	}
	entry := journal.Entry{
		Epoch: head.Epoch, Version: head.Version + 1, Updates: updates, Digest: disk.Digest(), Device: e.Device, Time: time.Now().UTC(),
		Pushes: []journal.Push{{ID: p.ID, Actor: by.String(), Refs: len(updates)}},
	}
	if disk.Head() != wanted.Head() {
		entry.Head = disk.Head()
	}
	counted := p.copies.counted()
	for _, c := range counted {
		entry.Copies = append(entry.Copies, c.Device)
	}
	if len(updates) == 0 && entry.Head == "" {
		return nil, e.Journal.Unlock(ctx, r.id, held)
	}
	next, err := e.Journal.AppendUnlocking(ctx, r.id, head, entry, counted, held)
	if err != nil {
		return nil, err
	}
	r.noteHead(next)
	return updates, nil
}

// changedByHand reads what the journal says and what the disk shows, and checks
// that the latter can be an entry.
func (e *Engine) changedByHand(ctx context.Context, r *replica) (head journal.Head, wanted, disk *repository.RefTable, err error) {
	if err := r.lock(ctx); err != nil {
		return head, nil, nil, err
	}
	defer r.unlock()
	if why, err := e.doubted(r); err != nil || why != "" {
		if err == nil {
			err = cluster.WithHint(fmt.Errorf("what this disk shows may not be what was changed on it: %s", why), "git cluster unlock --abandon follows the journal")
		}
		return head, nil, nil, err
	}
	record, head, err := e.Journal.LookupID(ctx, r.id)
	if err != nil {
		return head, nil, nil, err
	}
	repo, err := e.Store.Open(r.id)
	if err != nil {
		return head, nil, nil, err
	}
	if disk, err = repo.LoadRefs(ctx); err != nil {
		return head, nil, nil, err
	}
	if wanted, err = e.refsAt(ctx, r, record, head, disk); err != nil {
		return head, nil, nil, err
	}
	updates := difference(wanted, disk)
	if size(updates) > maxEntry {
		return head, nil, nil, errors.New("too many refs were changed for one entry")
	}
	if err := enterable(wanted, disk, updates); err != nil {
		return head, nil, nil, err
	}
	if faults, err := repo.CheckValues(ctx, updates); err != nil {
		return head, nil, nil, err
	} else if len(faults) > 0 {
		for _, why := range faults {
			return head, nil, nil, errors.New(why)
		}
	}
	ok, err := repo.Closed(ctx, newValues(updates), knownClosed(wanted, updates))
	if err == nil && !ok {
		err = errors.New("what the refs name is not complete: objects are missing")
	}
	if err == nil {
		err = repo.SyncAll() // the entry will count this disk, and the operator's tools sync little
	}
	return head, wanted, disk, err
}

// enterable checks that every replica can hold what a disk shows: Git and this
// file system have let it pass, which is not what a push has to pass.
func enterable(wanted, disk *repository.RefTable, updates []cluster.RefUpdate) error {
	if !disk.Head().IsBranch() {
		return fmt.Errorf("HEAD names %q, which is no branch", disk.Head())
	}
	after := wanted.Clone()
	for _, deleting := range []bool{true, false} {
		for _, u := range updates {
			if u.New.IsZero() != deleting {
				continue
			}
			if !deleting {
				if _, err := cluster.ParseRefName(string(u.Ref)); err != nil {
					return err
				}
				if _, why := after.Clash(u.Ref); why != "" {
					return fmt.Errorf("%q cannot be a ref: %s", u.Ref, why)
				}
			}
			after.Set(u.Ref, u.New)
		}
	}
	return nil
}
