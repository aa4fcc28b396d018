package engine

import (
	"bufio"
	"context"
	"errors"
	"io"
	"iter"

	"gitcluster/internal/cluster"
	"gitcluster/internal/repository"
)

// A push that this node itself receives brings its objects in a quarantine. They are
// admitted once their history was found complete, and by then the copies are mostly
// taken: the pack for the first of them comes of the same walk over all that is new.

// ErrIncomplete: objects that a push needs are nowhere. Nothing was tried.
var ErrIncomplete = errors.New("missing necessary objects") // in Git's own words

// Decided lists the refs of a replica in the order of their names, for one who is about to
// push. A push that is just being decided is not among them: if nothing came of it, who
// was told that the cluster has it would not push it.
func (e *Engine) Decided(ctx context.Context, id cluster.RepoID) (iter.Seq2[cluster.RefName, cluster.OID], error) {
	_, table, err := e.taking(ctx, id)
	if err != nil {
		return nil, err
	}
	return table.Decided(), nil
}

// Receive stores the pack of a push in quarantine; see [repository.Repository.Receive].
func (e *Engine) Receive(ctx context.Context, repo cluster.Repo, rd *bufio.Reader, progress bool, said io.Writer) (*repository.Incoming, error) {
	local, err := e.Store.Open(repo.ID)
	if err != nil {
		return nil, err
	}
	return local.Receive(ctx, repo.Format, rd, progress, said)
}

// Whole reports whether the objects that an update needs are here, those of the push it is
// in counted.
func (e *Engine) Whole(ctx context.Context, id cluster.RepoID, in *repository.Incoming, u cluster.RefUpdate) (bool, error) {
	r, table, err := e.taking(ctx, id)
	if err != nil {
		return false, err
	}
	r.pledge(newValues([]cluster.RefUpdate{u}), pledgeFor)
	return in.Closed(ctx, newValues([]cluster.RefUpdate{u}), e.closedHere(table, []cluster.RefUpdate{u}))
}

// closedHere returns some values whose whole history is in this replica: those of the refs
// that the updates change, and others. What a client says that a ref has is not among
// them.
func (e *Engine) closedHere(table *repository.RefTable, updates []cluster.RefUpdate) []cluster.OID {
	known := make([]cluster.RefUpdate, 0, len(updates))
	for _, u := range updates {
		known = append(known, cluster.RefUpdate{Ref: u.Ref, Old: table.Get(u.Ref)})
	}
	return knownClosed(table, known)
}

// admit makes the objects of a push the replica's. Where no copy's pack has shown that
// they are complete, it looks itself.
func (e *Engine) admitObjects(ctx context.Context, r *replica, p *pending) error {
	if !p.copies.walked() {
		_, table, err := e.taking(ctx, r.id)
		if err != nil {
			return err
		}
		ok, err := p.Incoming.Closed(ctx, newValues(p.Updates), e.closedHere(table, p.Updates))
		if err != nil {
			return err
		} else if !ok {
			return ErrIncomplete
		}
	}
	err := p.Incoming.Admit()
	if err == nil {
		p.Incoming = nil
	}
	return err
}
