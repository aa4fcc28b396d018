package engine

import (
	"context"
	"maps"
	"slices"
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

// A pledge is values whose objects stay until a time.
type pledge struct {
	values []cluster.OID
	until  time.Time
}

// pledge has the objects that values reach stay. It returns how often objects have
// been removed until now.
func (r *replica) pledge(values []cluster.OID, d time.Duration) (p *pledge, generation uint64) {
	p = &pledge{values, time.Now().Add(d)}
	r.keep.Lock()
	defer r.keep.Unlock()
	if r.pledgedValues+len(values) > maxPledges {
		r.expirePledges()
	}
	if r.pledgedValues+len(values) > maxPledges {
		if p.values = nil; p.until.After(r.untold) {
			r.untold = p.until
		}
	}
	r.pledged = append(r.pledged, p)
	r.pledgedValues += len(p.values)
	return p, r.generation
}

// keepOffered has the objects that values reach stay until a pack has come that leaves
// them out. Of many pushes these are mostly the same.
func (r *replica) keepOffered(values []cluster.OID) {
	now := time.Now()
	until := now.Add(pledgeOffered)
	r.keep.Lock()
	defer r.keep.Unlock()
	if r.offered == nil {
		r.offered = map[cluster.OID]time.Time{}
	}
	if len(r.offered)+len(values) > maxPledges {
		r.expirePledges()
	}
	for _, v := range values {
		if _, known := r.offered[v]; !known && len(r.offered) >= maxPledges {
			if until.After(r.untold) {
				r.untold = until
			}
			return
		}
		r.offered[v] = until
	}
}

// found notes that what a pledge is of has been found complete, and synced. It stays
// so for as long as the pledge lasts.
func (r *replica) found(p *pledge) {
	r.keep.Lock()
	defer r.keep.Unlock()
	if r.whole == nil {
		r.whole = map[cluster.OID]time.Time{}
	}
	for _, v := range p.values {
		if p.until.After(r.whole[v]) {
			r.whole[v] = p.until
		}
	}
}

// hasFound reports whether all values were found complete, and stay.
func (r *replica) hasFound(values []cluster.OID) bool {
	now := time.Now()
	r.keep.Lock()
	defer r.keep.Unlock()
	return !slices.ContainsFunc(values, func(v cluster.OID) bool { return !now.Before(r.whole[v]) })
}

// A coming is values of which a copy is being taken.
type coming struct {
	values []cluster.OID
	over   chan struct{}
}

// comes notes that a copy of values is being taken, until over is called.
func (r *replica) comes(values []cluster.OID) (over func()) {
	c := &coming{values, make(chan struct{})}
	r.keep.Lock()
	defer r.keep.Unlock()
	r.coming = append(r.coming, c)
	return func() {
		r.keep.Lock()
		defer r.keep.Unlock()
		r.coming = slices.DeleteFunc(r.coming, func(o *coming) bool { return o == c })
		close(c.over)
	}
}

// comesSoon is how long one waits for a copy without a word.
const comesSoon = 300 * time.Millisecond

// awaitComing waits for copies of the values that are being taken, up to a limit, and calls
// slow if that takes a while. The caller may hold apply, since to take a copy needs no lock.
func (r *replica) awaitComing(ctx context.Context, values []cluster.OID, limit time.Duration, slow func()) {
	var awaited []*coming
	r.keep.Lock()
	for _, c := range r.coming {
		if slices.ContainsFunc(c.values, func(v cluster.OID) bool { return slices.Contains(values, v) }) {
			awaited = append(awaited, c)
		}
	}
	r.keep.Unlock()
	if len(awaited) == 0 {
		return
	}
	late := time.NewTimer(limit)
	defer late.Stop()
	soon := time.NewTimer(comesSoon)
	defer soon.Stop()
	for len(awaited) > 0 {
		select {
		case <-awaited[0].over:
			awaited = awaited[1:]
		case <-soon.C:
			slow()
		case <-late.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// forgetFound has everything be looked at again, because the disk may not be what it
// was. It reports whether there was anything to forget.
func (r *replica) forgetFound() bool {
	r.keep.Lock()
	defer r.keep.Unlock()
	any := len(r.whole) > 0
	r.whole = nil
	return any
}

// redeem ends a pledge of which nothing came. Any other ends by itself: that a ref
// shows its values does not mean that nobody else relies on them any more.
func (r *replica) redeem(p *pledge) {
	r.keep.Lock()
	defer r.keep.Unlock()
	if i := slices.Index(r.pledged, p); i >= 0 {
		r.pledged = slices.Delete(r.pledged, i, i+1)
		r.pledgedValues -= len(p.values)
	}
}

// expirePledges forgets those that are over. The caller holds keep.
func (r *replica) expirePledges() {
	now := time.Now()
	r.pledged = slices.DeleteFunc(r.pledged, func(p *pledge) bool {
		over := now.After(p.until)
		if over {
			r.pledgedValues -= len(p.values)
		}
		return over
	})
	over := func(_ cluster.OID, until time.Time) bool { return now.After(until) }
	maps.DeleteFunc(r.offered, over)
	maps.DeleteFunc(r.whole, over)
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
	if len(wants) == 0 {
		return true, nil
	}
	if _, generation := r.pledge(wants, pledgeFor); generation == push.Generation {
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
