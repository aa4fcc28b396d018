package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
	"gitcluster/internal/repository"
)

// fetchMissing gets the objects that the updates need from a replica that has
// them, unless they are held already. Held means with their whole history.
func (e *Engine) fetchMissing(ctx context.Context, r *replica, from cluster.Position, head journal.Head, newest journal.Entry, updates []cluster.RefUpdate, tell func(string)) error {
	wants := newValues(updates)
	if len(wants) == 0 {
		return nil
	}
	// A push goes on without its slowest copies, and this may be one that has almost
	// come. One that comes no further must not keep us from asking a peer.
	r.awaitComing(ctx, wants, e.hedge(), func() {
		tell(fmt.Sprintf("Synchronizing from a copy that is on its way (version %d → %d)…", from.Version, head.Version))
	})
	if r.hasFound(wants) {
		return nil // a copy that was taken
	}
	haves := knownClosed(r.table, updates)
	if held, err := e.held(ctx, r, wants, haves); err != nil || held {
		return err
	}
	err := e.gather(ctx, r, r.repo, r.talking(e.sources(newest)), wants, haves, func(device cluster.DeviceName) {
		tell(fmt.Sprintf("Synchronizing from %q (version %d → %d)…", device, from.Version, head.Version))
	})
	if !errors.Is(err, cluster.ErrNoReplica) {
		return err
	}
	err = fmt.Errorf("version %d of repository %s is on %q, and no replica that has it answers: %w", newest.Version, r.id, newest.Device, err)
	return cluster.WithHint(err, fmt.Sprintf("start %q again, or wait until it can be reached", newest.Device))
}

// gather gets what wants reach from the first of devices that has it all. Where pushes
// came at the same time, other nodes may have taken copies of one than of the other,
// and if the node that took both pushes is gone, none has all: then each half of the
// wants is looked for by itself, here and at the nodes that answered. That ends at the
// first value that nobody has; the error is then [cluster.ErrNoReplica].
func (e *Engine) gather(ctx context.Context, r *replica, repo *repository.Repository, devices []cluster.DeviceName, wants, haves []cluster.OID, asking func(cluster.DeviceName)) error {
	answering, failures, ok := e.fetch(ctx, r, repo, devices, wants, haves, asking)
	switch {
	case ok:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case len(wants) < 2 || len(answering) == 0:
		return errors.Join(append(failures, cluster.ErrNoReplica)...)
	}
	haves = slices.Clone(haves)
	for part := range slices.Chunk(wants, (len(wants)+1)/2) {
		if held, err := e.held(ctx, r, part, haves); err != nil {
			return err
		} else if !held {
			if err := e.gather(ctx, r, repo, answering, part, haves, asking); err != nil {
				return err
			}
		}
		if repo == r.repo {
			haves = append(haves, part...)
		} // else every pack must be whole by itself
	}
	return nil
}

// held reports whether everything that wants reach is on this disk, to stay.
func (e *Engine) held(ctx context.Context, r *replica, wants, haves []cluster.OID) (bool, error) {
	held, err := r.repo.Closed(ctx, wants, haves)
	if err == nil && held {
		// They may be left from a push that came to nothing before their names were
		// synced.
		err = r.repo.SyncObjects()
	}
	return held && err == nil, err
}

// sources lists the nodes to fetch from: those that the newest entry names, then
// all others, each nearest first.
func (e *Engine) sources(newest journal.Entry) []cluster.DeviceName {
	near := e.Peers.Nearest()
	named := append(slices.Clone(newest.Copies), newest.Device)
	var first, rest []cluster.DeviceName
	for _, device := range near {
		if slices.Contains(named, device) {
			first = append(first, device)
		} else {
			rest = append(rest, device)
		}
	}
	return append(first, rest...)
}

func newValues(updates []cluster.RefUpdate) []cluster.OID {
	var values []cluster.OID
	for _, u := range updates {
		if !u.New.IsZero() {
			values = append(values, u.New)
		}
	}
	slices.Sort(values)
	return slices.Compact(values)
}

// knownClosed returns some values whose whole history this replica holds: those
// that the updates replace, the default branch, and a bounded number of others,
// which let a peer leave out what a new branch shares with them.
func knownClosed(table *repository.RefTable, updates []cluster.RefUpdate) []cluster.OID {
	const others = 256
	var values []cluster.OID
	for _, u := range updates {
		if !u.Old.IsZero() {
			values = append(values, u.Old)
		}
	}
	if tip := table.Get(table.Head()); tip != "" {
		values = append(values, tip)
	}
	n := 0
	table.Values(func(_ cluster.RefName, value cluster.OID) bool {
		values = append(values, value)
		n++
		return n < others
	})
	slices.Sort(values)
	return slices.Compact(values)
}
