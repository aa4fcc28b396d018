package engine

import "gitcluster/internal/cluster"

// What refs show is looked up in memory, as far as it is there: nobody waits for it, and no
// process is started.

// sortHaves tells the values that the replica's refs have, as far as that is known without
// Git, from others.
func (e *Engine) sortHaves(id cluster.RepoID, haves []cluster.OID) (known, doubtful []cluster.OID) {
	here := e.shownBy(id)
	for _, oid := range haves {
		if here != nil && here(oid) {
			known = append(known, oid)
		} else {
			doubtful = append(doubtful, oid)
		}
	}
	return known, doubtful
}

// shownBy tells of values whether they are among those that the replica's refs have, as
// far as that is known without Git; of many refs it knows some.
func (e *Engine) shownBy(id cluster.RepoID) func(cluster.OID) bool {
	table := e.replica(id).known.Load()
	if table == nil {
		return nil
	}
	shown := map[cluster.OID]bool{}
	for _, value := range knownClosed(table, nil) {
		shown[value] = true
	}
	return func(oid cluster.OID) bool { return shown[oid] }
}

// AreValues reports whether each of the objects is known to be the value of a ref of the
// local replica. It waits for nothing: where its refs are not in memory it says no, and
// has them read for the next who asks.
func (e *Engine) AreValues(id cluster.RepoID, wants []cluster.OID) bool {
	r := e.replica(id)
	table := r.known.Load()
	if table == nil {
		if r.reading.CompareAndSwap(false, true) && e.begin() == nil {
			go func() {
				defer e.work.Done()
				defer r.reading.Store(false)
				if _, _, err := e.taking(e.ctx, id); err != nil && e.ctx.Err() == nil {
					e.Log.Warn("the refs cannot be read", "repo", id, "error", err)
				}
			}()
		}
		return false
	}
	left := make(map[cluster.OID]bool, len(wants))
	for _, oid := range wants {
		left[oid] = true
	}
	table.Values(func(_ cluster.RefName, value cluster.OID) bool {
		delete(left, value)
		return len(left) > 0
	})
	return len(left) == 0
}
