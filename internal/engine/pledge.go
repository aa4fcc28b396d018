package engine

import (
	"context"
	"time"

	"gitcluster/internal/cluster"
)

// Housekeeping may remove objects that no ref reaches while a push that names them
// is on its way: they were found complete, and no ref shows them yet. So whoever
// relies on objects first pledges that they stay, and then looks whether they are
// complete; and whoever removes some looks at all pledges first, while no further
// one can be made. What was found complete before the pledge, as Git does with a
// push, is looked at again if anything was removed since: that is what a
// replica's generation tells.

const (
	// pledgeFor is far longer than an entry that counts on the objects can still
	// come. It lasts no longer than the node: after a start the disk has another
	// incarnation, and no entry counts on what the last one held.
	pledgeFor = 24 * time.Hour
	// pledgeOffered is for a copy whose pack is yet to come.
	pledgeOffered = 10 * time.Minute
	// maxPledges bounds the memory of one replica. Beyond it nothing is removed
	// until pledgeFor has passed.
	maxPledges = 100_000
)

// pledge has the objects that values reach stay. It returns how often objects have
// been removed until now.
func (r *replica) pledge(values []cluster.OID, d time.Duration) (generation uint64) {
	until := time.Now().Add(d)
	r.keep.Lock()
	defer r.keep.Unlock()
	if r.pledged == nil {
		r.pledged = map[cluster.OID]time.Time{}
	}
	if len(r.pledged)+len(values) > maxPledges {
		r.expirePledges()
	}
	for _, v := range values {
		if len(r.pledged) >= maxPledges {
			r.untold = until
			break
		}
		if until.After(r.pledged[v]) {
			r.pledged[v] = until
		}
	}
	return r.generation
}

// expirePledges forgets those that are over. The caller holds keep.
func (r *replica) expirePledges() {
	now := time.Now()
	for v, until := range r.pledged {
		if now.After(until) {
			delete(r.pledged, v)
		}
	}
}

// redeem ends the pledges of values that refs show now.
func (r *replica) redeem(refs []cluster.RefName) {
	r.keep.Lock()
	defer r.keep.Unlock()
	if len(r.pledged) == 0 || r.table == nil {
		return
	}
	for _, ref := range refs {
		delete(r.pledged, r.table.Get(ref))
	}
}

func (r *replica) currentGeneration() uint64 {
	r.keep.Lock()
	defer r.keep.Unlock()
	return r.generation
}

// stillWhole pledges the objects of a push. If any object was removed since they were
// found complete, it finds out whether they still are.
func (e *Engine) stillWhole(ctx context.Context, r *replica, push Push) (bool, error) {
	wants := newValues(push.Updates)
	if len(wants) == 0 || r.pledge(wants, pledgeFor) == push.Generation {
		return true, nil
	}
	_, table, err := e.taking(ctx, r.id)
	if err != nil {
		return false, err
	}
	repo, err := e.Store.Open(r.id)
	if err != nil {
		return false, err
	}
	return repo.Closed(ctx, wants, knownClosed(table, nil))
}
