package engine

import (
	"context"
	"errors"
	"fmt"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitexec"
	"gitcluster/internal/repository"
)

// knowHead asks the journal for the head if what this node has heard of is not
// newer than what the disk shows.
func (e *Engine) knowHead(ctx context.Context, r *replica) error {
	r.mu.Lock()
	known := r.head.Epoch != 0 && r.head.Version >= r.applied.Version
	r.mu.Unlock()
	if known {
		return nil
	}
	_, head, err := e.Journal.LookupID(ctx, r.id)
	if err == nil {
		r.noteHead(head)
	}
	return err
}

// load opens the replica, makes it if this node has none yet, and reads its
// refs. What the disk shows is compared with the journal by the replay that
// follows.
func (e *Engine) load(ctx context.Context, r *replica, tell func(string)) error {
	if r.table != nil && e.Store.Has(r.id) {
		return nil
	}
	if r.table != nil {
		e.Log.Error("the folder of a replica is gone, or parts of it; making it anew", "repo", r.id, "folder", e.Store.Path(r.id))
		r.table = nil
		r.known.Store(nil)
		r.forgetFound()
	}
	repo, err := e.Store.Open(r.id)
	if errors.Is(err, cluster.ErrNotFound) || err == nil && !repo.Whole() {
		var why string
		if repo, why, err = e.makeReplica(ctx, r); err == nil && why != "" {
			return e.doubt(ctx, r, repo, why, tell)
		}
	}
	if err != nil {
		return err
	}
	// An operator may be at work on this disk since a former life of the node, or may
	// have been.
	held, err := e.Journal.LockOf(ctx, r.id)
	if err != nil && !errors.Is(err, cluster.ErrNotFound) {
		return err
	}
	if err == nil && held.Device == e.Device {
		r.hold(e.Device, held.By)
	} else if touched, err := repo.Held(); err != nil {
		return err
	} else if touched {
		return e.doubt(ctx, r, repo, "an operator's hold on it was given up elsewhere", tell)
	}
	applied, err := repo.Applied()
	if err != nil {
		return err
	}
	table, err := repo.LoadRefs(ctx)
	if exit := (*gitexec.ExitError)(nil); errors.As(err, &exit) && exit.Status > 0 && context.Cause(ctx) == nil {
		return cluster.WithHint(fmt.Errorf("the replica %s on %q: its refs cannot be read: %w: %w", r.id, e.Device, err, cluster.ErrFenced),
			"another node serves it; `git cluster repair` on this one follows the journal")
	}
	if err != nil {
		return err
	}
	reported, err := e.Journal.ReportedReplica(ctx, r.id, e.Device)
	if err != nil && !errors.Is(err, cluster.ErrNotFound) {
		return err
	}
	if reported.Version > applied.Version && (reported.Epoch == applied.Epoch || applied.Epoch == 0) && table.Len() > 0 {
		// It was restored from a backup, even one that was made in this life of
		// the disk, while refs and objects were being written.
		return e.doubt(ctx, r, repo, fmt.Sprintf("it shows version %d and has shown version %d", applied.Version, reported.Version), tell)
	}
	r.repo, r.table = repo, table
	r.mu.Lock()
	r.applied, r.loaded = applied, false
	r.mu.Unlock()
	return nil
}

// makeReplica makes the replica that the journal says there is. why says, if it is not
// "", what was there of it, that must not be trusted.
func (e *Engine) makeReplica(ctx context.Context, r *replica) (repo *repository.Repository, why string, err error) {
	record, head, err := e.Journal.LookupID(ctx, r.id)
	if err != nil {
		return nil, "", err
	}
	r.noteHead(head)
	mended, err := e.Store.Mend(record)
	if err != nil {
		return nil, "", err
	}
	if mended {
		why = "parts of its folder were missing"
	} else if again, err := e.Store.Reclaim(r.id); err != nil {
		return nil, "", err
	} else if again {
		why = "the journal has a repository again that it had not"
	}
	repo, err = e.Store.Create(ctx, record)
	return repo, why, err
}

// doubt marks a replica as one not to be trusted, and resynchronizes it.
func (e *Engine) doubt(ctx context.Context, r *replica, repo *repository.Repository, why string, tell func(string)) error {
	if err := repo.SetDoubt(why); err != nil {
		return err
	}
	r.mu.Lock()
	r.doubt = &why
	r.mu.Unlock()
	return e.resyncFor(ctx, r, tell, "%s", why)
}
