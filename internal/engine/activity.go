package engine

import (
	"time"

	"gitcluster/internal/cluster"
)

// An Activity is a catch-up under way on this node.
type Activity struct {
	From  cluster.Version `json:"from"`
	To    cluster.Version `json:"to"`
	Since time.Time       `json:"since"`
	Says  string          `json:"says,omitempty"` // what those who wait were told last
}

// Working tells which replicas are catching up now.
func (e *Engine) Working() map[cluster.RepoID]Activity {
	e.mu.Lock()
	all := make([]*replica, 0, len(e.replicas))
	for _, r := range e.replicas {
		all = append(all, r)
	}
	e.mu.Unlock()
	working := map[cluster.RepoID]Activity{}
	for _, r := range all {
		r.mu.Lock()
		f := r.flight
		a := Activity{From: r.applied.Version, To: r.head.Version}
		r.mu.Unlock()
		if f == nil {
			continue
		}
		f.mu.Lock()
		a.Since, a.Says = f.since, f.last
		f.mu.Unlock()
		if a.To > a.From {
			working[r.id] = a
		}
	}
	return working
}
