package engine

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
	"gitcluster/internal/peer"
	"gitcluster/internal/repository"
)

// Known is the Taker's side of an offer, on this node.
func (e *Engine) Known(ctx context.Context, o peer.Offer) ([]cluster.OID, error) {
	r, table, err := e.taking(ctx, o.Repo)
	if err == nil && table.Len() == 0 && r.position().Version == 0 {
		// Nothing is here yet. What is in the journal comes once, by a catch-up, and not
		// with each push that comes meanwhile. A node that cannot ask it takes the copy
		// all the same, whole: another may be the one that is down.
		var head journal.Head
		if head, err = e.headSoon(ctx, r.id); err == nil && head.Version > 0 {
			if err = e.reach(ctx, r, head, nil); err == nil {
				r, table, err = e.taking(ctx, o.Repo)
			}
		}
	}
	if err != nil {
		return nil, err
	}
	r.pledge(o.Wants, pledgeOffered)
	if err := r.fence(); err != nil {
		return nil, err
	}
	// Whatever the table holds is closed here: the refs that were replayed, and
	// also those of a push that is being decided, whose objects Git has checked.
	var haves []cluster.OID
	unknown := false
	for _, ref := range o.Refs {
		if value := table.Get(ref); value != "" {
			haves = append(haves, value)
		} else {
			unknown = true
		}
	}
	if tip := table.Get(table.Head()); tip != "" {
		haves = append(haves, tip)
	}
	if unknown {
		const others = 64
		n := 0
		table.Values(func(_ cluster.RefName, value cluster.OID) bool {
			haves = append(haves, value)
			n++
			return n < others
		})
	}
	slices.Sort(haves)
	haves = slices.Compact(haves)
	r.keepOffered(haves)
	return haves, nil
}

// headSoon asks the journal for a head, and comes back with none if it does not answer
// soon.
func (e *Engine) headSoon(ctx context.Context, id cluster.RepoID) (journal.Head, error) {
	ask, cancel := context.WithTimeoutCause(ctx, copySpare, errNoAnswer)
	defer cancel()
	_, head, err := e.Journal.LookupID(ask, id)
	if err != nil && context.Cause(ctx) == nil && (errors.Is(err, cluster.ErrUnavailable) || ask.Err() != nil) {
		return journal.Head{}, nil
	}
	return head, err
}

// Take stores a copy of a push that another node has received.
func (e *Engine) Take(ctx context.Context, o peer.Offer, haves []cluster.OID, pack io.Reader) (incarnation string, err error) {
	r, _, err := e.taking(ctx, o.Repo)
	if err != nil {
		return "", err
	}
	repo, err := e.Store.Open(r.id)
	if err != nil {
		return "", err
	}
	pledged, _ := r.pledge(o.Wants, pledgeFor)
	defer r.comes(o.Wants)()
	if err := repo.ReadPack(ctx, pack, o.Wants, haves); err != nil {
		r.redeem(pledged) // while a value is pledged that is not there, nothing can be removed
		return "", err
	}
	// They may have been here already, from a push that came to nothing before
	// their names were synced.
	if err := repo.SyncObjects(); err != nil {
		return "", err
	}
	r.found(pledged)
	return e.Incarnation, r.fence()
}

// taking returns a replica that can take a copy, with its refs; if it was not
// looked at yet, or is not there, that is done first.
func (e *Engine) taking(ctx context.Context, id cluster.RepoID) (*replica, *repository.RefTable, error) {
	r := e.replica(id)
	why, err := e.doubted(r)
	if err != nil {
		return nil, nil, err
	}
	if table := r.known.Load(); table != nil && why == "" && e.Store.Has(id) {
		return r, table, nil
	}
	if err := r.lock(ctx); err != nil {
		return nil, nil, err
	}
	defer r.unlock()
	if why, err = e.doubted(r); err == nil && why != "" {
		_, err = e.resync(ctx, r, why, func(string) {})
	}
	if err == nil {
		err = e.load(ctx, r, func(string) {})
	}
	if err == nil && r.known.Load() == nil && !r.asRecorded() {
		// A former life died while it wrote refs, or somebody else wrote them.
		err = e.catchUp(ctx, r, func(string) {})
	}
	if err != nil {
		return nil, nil, err
	}
	r.used = time.Now()
	r.known.Store(r.table)
	return r, r.table, nil
}

// asRecorded reports whether the table just loaded is what the recorded position
// says, so that its values have been found complete. The caller holds apply.
func (r *replica) asRecorded() bool {
	at := r.position()
	return at == (cluster.Position{}) && r.table.Len() == 0 || at.Digest == r.table.Digest()
}
