package engine

import (
	"cmp"
	"context"
	"slices"

	"gitcluster/internal/cluster"
)

// NameOf returns the name that the journal has for a repository, or with stale
// data the one last heard of.
func (e *Engine) NameOf(ctx context.Context, id cluster.RepoID, f cluster.Freshness) (cluster.RepoName, error) {
	if f == cluster.StaleOK {
		e.mu.Lock()
		name, ok := e.nameOf[id]
		e.mu.Unlock()
		if ok {
			return name, nil
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, e.Bound, errNoAnswer)
	defer cancel()
	repo, err := e.Journal.Repo(ctx, id)
	return repo.Name, err
}

// Remembered returns all repositories as last heard of, in the order of their names,
// from after the given name on.
func (e *Engine) Remembered(after cluster.RepoName) []cluster.Repo {
	var repos []cluster.Repo
	e.mu.Lock()
	for name, repo := range e.names {
		if name > after {
			repos = append(repos, repo)
		}
	}
	e.mu.Unlock()
	slices.SortFunc(repos, func(a, b cluster.Repo) int { return cmp.Compare(a.Name, b.Name) })
	return repos
}
