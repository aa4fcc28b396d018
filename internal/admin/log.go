package admin

import (
	"context"

	"gitcluster/internal/cluster"
	"gitcluster/internal/service"
)

// RepoLog asks for a page of a repository's pushes, the newest first.
type RepoLog struct {
	Name   string          `json:"name"`
	Before cluster.Version `json:"before,omitempty"` // 0: from the newest on
	Limit  int             `json:"limit,omitempty"`  // versions, each of which may hold several pushes
}

// LogPage is a page of pushes; Next, if not 0, is what Before of the next request
// has to be.
type LogPage struct {
	Pushes []service.PushRecord `json:"pushes"`
	Next   cluster.Version      `json:"next,omitempty"`
}

func (s *Server) repoLog(ctx context.Context, id cluster.Identity, p RepoLog) (any, error) {
	const most = 200
	if p.Limit <= 0 || p.Limit > most {
		p.Limit = most
	}
	name, err := cluster.ParseRepoName(p.Name)
	if err != nil {
		return nil, err
	}
	page := LogPage{}
	page.Pushes, page.Next, err = s.Service.PushLog(ctx, id, name, p.Before, p.Limit)
	return page, err
}
