package engine

import (
	"context"
	"errors"
	"io"

	"gitcluster/internal/cluster"
	"gitcluster/internal/repository"
)

// Compare calls f with the replica's refs, as they are after every version this
// node has heard of. It waits for catch-ups and commits, and they for f: f must
// be quick, and keep and change nothing.
func (e *Engine) Compare(ctx context.Context, id cluster.RepoID, f func(*repository.RefTable)) error {
	if err := e.begin(); err != nil {
		return err
	}
	defer e.work.Done()
	r := e.replica(id)
	if err := r.lock(ctx); err != nil {
		return err
	}
	defer r.unlock()
	if err := r.fence(); err != nil {
		return err
	}
	if err := e.current(r); err != nil {
		return err
	}
	f(r.table)
	return nil
}

// Import stores what a push that came by another way than receive-pack needs:
// pack, which may be nil if nothing is new, has what the updates' new values reach and this
// replica has not. It is stored, and synced to disk, only if their history is
// complete with it. No ref changes; that is [Engine.Commit]'s business.
func (e *Engine) Import(ctx context.Context, id cluster.RepoID, updates []cluster.RefUpdate, pack io.Reader) error {
	wants := newValues(updates)
	if len(wants) == 0 {
		return nil
	}
	var haves []cluster.OID
	if err := e.Compare(ctx, id, func(t *repository.RefTable) { haves = knownClosed(t, updates) }); err != nil {
		return err
	}
	repo, err := e.Store.Open(id)
	if err != nil {
		return err
	}
	e.replica(id).pledge(wants, pledgeFor)
	if pack != nil {
		return repo.ReadPack(ctx, pack, wants, haves)
	}
	held, err := repo.Closed(ctx, wants, haves)
	if err == nil && !held {
		err = errors.New("the remote left out objects that this replica does not have")
	}
	if err != nil {
		return err
	}
	return repo.SyncObjects()
}
