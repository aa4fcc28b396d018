package admin

import (
	"context"
	"fmt"

	"gitcluster/internal/cluster"
)

// RepoLock holds a repository's writes, or lets them go.
type RepoLock struct {
	Name    string `json:"name"`
	Abandon bool   `json:"abandon,omitempty"` // on release: keep what was changed aside instead of entering it
}

// Locked says where the operator may work.
type Locked struct {
	Device cluster.DeviceName `json:"device"`
	Dir    string             `json:"dir"`
}

func (s *Server) repoLock(ctx context.Context, id cluster.Identity, p RepoLock) (any, error) {
	if !id.Operator {
		return nil, cluster.WithHint(fmt.Errorf("a lock is for somebody who changes files on the node: %w", cluster.ErrDenied),
			"run it on the node, as the account the node runs as")
	}
	at, err := s.resolve(ctx, id, p.Name, cluster.RoleAdmin)
	if err != nil {
		return nil, err
	}
	return Locked{Device: s.Device, Dir: s.Engine.Store.Path(at.Repo.ID)}, s.Engine.Lock(ctx, at.Repo.ID, id.String())
}

func (s *Server) repoUnlock(ctx context.Context, id cluster.Identity, p RepoLock) (any, error) {
	at, err := s.resolve(ctx, id, p.Name, cluster.RoleAdmin)
	if err != nil {
		return nil, err
	}
	changed, err := s.Engine.Release(ctx, at.Repo.ID, id, p.Abandon)
	if changed == nil {
		changed = []cluster.RefUpdate{}
	}
	return changed, err
}
