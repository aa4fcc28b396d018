package admin

import (
	"context"
	"fmt"
	"slices"

	"gitcluster/internal/cluster"
	"gitcluster/internal/engine"
)

// RepoMaintain has the replicas of a repository looked after now.
type RepoMaintain struct {
	Name   string             `json:"name"`
	Device cluster.DeviceName `json:"device,omitempty"` // one node's; "" for all
	Full   bool               `json:"full,omitempty"`   // gather all packs in one
}

func (s *Server) repoMaintain(ctx context.Context, id cluster.Identity, p RepoMaintain, tell func(string)) (any, error) {
	at, err := s.resolve(ctx, id, p.Name, cluster.RoleAdmin)
	if err != nil {
		return nil, err
	}
	done := []engine.Upkeep{}
	// One after the other: while one works the others serve.
	for _, d := range s.Rules.Snapshot().Nodes() {
		if !d.Enabled || d.New || p.Device != "" && p.Device != d.Name {
			continue
		}
		tell(fmt.Sprintf("%s…", d.Name))
		u := engine.Upkeep{Device: d.Name}
		if err := s.on(ctx, d.Name, "replica.maintain", replicaAsk{Repo: at.Repo.ID, Deep: p.Full}, &u); err != nil {
			u.Error = err.Error()
		}
		done = append(done, u)
	}
	if len(done) == 0 {
		return nil, fmt.Errorf("node %q: %w", p.Device, cluster.ErrNotFound)
	}
	slices.SortFunc(done, func(a, b engine.Upkeep) int {
		if a.Device < b.Device {
			return -1
		}
		return 1
	})
	return done, nil
}
