package service

import (
	"context"
	"slices"

	"gitcluster/internal/cluster"
)

// NameOf returns a repository's name. It authorizes nobody: whoever asks with it must
// pass a method that does before anything about the repository is told, its name included.
func (s *Service) NameOf(ctx context.Context, id cluster.RepoID, f cluster.Freshness) (cluster.RepoName, error) {
	return s.Engine.NameOf(ctx, id, f)
}

// Remembered lists the repositories that an identity may read, in the order of their
// names, from after the given name on. It is what [Service.Repos] would have
// answered when this node last heard from the journal, which is not asked.
func (s *Service) Remembered(id cluster.Identity, after cluster.RepoName) []cluster.Repo {
	rules := s.Directory.Snapshot()
	return slices.DeleteFunc(s.Engine.Remembered(after), func(repo cluster.Repo) bool {
		return rules.Role(id, &repo) < cluster.RoleRead
	})
}
