package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"gitcluster/internal/cluster"
	"gitcluster/internal/peer"
)

// A node far from the journal may lose every race for a busy repository against
// those that are near it. Such a push is handed to the node that won last, which
// has the journal's newest version under its own lock.

// outrunAfter is how often a push loses before it is handed over.
const outrunAfter = 5

// errOutrun: others came first so often that another node should have this push.
var errOutrun = errors.New("other nodes keep coming first")

// forward hands a push to the node that appended last. An error that is not
// [ErrUnclear] means that nothing was tried.
func (e *Engine) forward(ctx context.Context, r *replica, p *pending) ([]cluster.RefResult, error) {
	r.mu.Lock()
	to := r.head.Device
	r.mu.Unlock()
	if to == "" || to == e.Device || !slices.Contains(e.Peers.Nearest(), to) {
		return nil, errOutrun
	}
	ctx, cancel := e.withNode(ctx) // the other node may answer late, or never
	defer cancel()
	// It must have the objects. As one of the copies it has them already.
	if wants := newValues(p.Updates); len(wants) > 0 && !p.copies.isTakenBy(to) {
		if p.copies.offer.Refs == nil {
			for _, u := range p.Updates {
				p.copies.offer.Refs = append(p.copies.offer.Refs, u.Ref)
			}
		}
		bounded, cancel := context.WithTimeout(ctx, e.CopyBound+p.copies.patience())
		defer cancel()
		if _, err := p.copies.attempt(bounded, to); err != nil {
			return nil, fmt.Errorf("%w: %s takes no copy: %w", errOutrun, to, err)
		}
	}
	// It may be cut off from the journal, and would try for as long.
	bounded, cancelCommit := context.WithTimeoutCause(ctx, retryFor, fmt.Errorf("%q did not answer in time", to))
	defer cancelCommit()
	results, err := e.Peers.Commit(bounded, to, peer.Commit{
		Repo: r.id, ID: p.ID, Actor: p.Actor, Updates: p.Updates, Atomic: p.Atomic, Copies: p.Copies, Degraded: p.Degraded,
	})
	switch {
	case errors.Is(err, peer.ErrNotTried):
		return nil, fmt.Errorf("%w: %w", errOutrun, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrUnclear, err)
	}
	e.Log.Info("another node committed the push", "repo", r.id, "push", p.ID, "node", to)
	return results, nil
}

func (s *spreading) isTakenBy(device cluster.DeviceName) bool {
	for _, c := range s.counted() {
		if c.Device == device {
			return true
		}
	}
	return false
}

// CommitFor commits a push that another node has received and lost with.
func (e *Engine) CommitFor(ctx context.Context, c peer.Commit) ([]cluster.RefResult, error) {
	notTried := func(err error) ([]cluster.RefResult, error) { return nil, fmt.Errorf("%w: %w", peer.ErrNotTried, err) }
	if _, err := cluster.ParseRepoID(string(c.Repo)); err != nil {
		return notTried(err)
	}
	r, table, err := e.taking(ctx, c.Repo)
	if err != nil {
		return notTried(err)
	}
	repo, err := e.Store.Open(r.id)
	if err != nil {
		return notTried(err)
	}
	_, generation := r.pledge(newValues(c.Updates), pledgeFor)
	// A node's word that the objects are here is not enough.
	held, err := repo.Closed(ctx, newValues(c.Updates), knownClosed(table, nil))
	if err == nil && !held {
		err = cluster.ErrNoReplica
	}
	if err != nil {
		return notTried(err)
	}
	results, err := e.Commit(ctx, c.Repo, Push{ID: c.ID, Actor: c.Actor, Updates: c.Updates, Atomic: c.Atomic, Copies: c.Copies, Degraded: c.Degraded, Generation: generation, forwarded: true})
	switch {
	case errors.Is(err, ErrUnclear):
		return nil, fmt.Errorf("%w: %w", peer.ErrUnclear, err)
	case err != nil:
		return notTried(err)
	}
	return results, nil
}
