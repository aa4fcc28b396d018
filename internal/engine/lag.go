package engine

// A Lag is how far a node's replicas are behind what it has heard of the journal.
type Lag struct {
	Replicas int    // looked at since the node's start
	Behind   int    // of them, those that lag
	Versions uint64 // by which they lag, in all
}

// Lag looks at all replicas that the node has looked at since its start.
func (e *Engine) Lag() Lag {
	e.mu.Lock()
	all := make([]*replica, 0, len(e.replicas))
	for _, r := range e.replicas {
		all = append(all, r)
	}
	e.mu.Unlock()
	lag := Lag{Replicas: len(all)}
	for _, r := range all {
		r.mu.Lock()
		switch {
		case r.loaded && !r.applied.Reached(r.head.Position):
			lag.Behind++
			if r.head.Version > r.applied.Version {
				lag.Versions += uint64(r.head.Version - r.applied.Version)
			}
		case !r.loaded && r.following:
			lag.Behind++ // by how much is not known before its disk was read
		}
		r.mu.Unlock()
	}
	return lag
}
