package admin

import (
	"context"
	"fmt"

	"gitcluster/internal/cluster"
	"gitcluster/internal/engine"
	"gitcluster/internal/journal"
)

// RepoCreate makes an empty repository.
type RepoCreate struct {
	Name   string `json:"name"`
	Format string `json:"format,omitempty"` // sha1 (the default) or sha256
	Branch string `json:"branch,omitempty"` // what HEAD names; main by default
	Public bool   `json:"public,omitempty"`
}

// RepoName names a repository.
type RepoName struct {
	Name string `json:"name"`
}

// RepoDelete removes a repository; with IfEmpty, only if nothing was ever pushed
// to it.
type RepoDelete struct {
	Name    string `json:"name"`
	IfEmpty bool   `json:"if_empty,omitempty"`
}

// RepoList asks for a page of repositories.
type RepoList struct {
	After string `json:"after,omitempty"`
	Limit int    `json:"limit,omitempty"`
}

// RepoPage is a page of repositories; Next, if not empty, is what After of the
// next request has to be.
type RepoPage struct {
	Repos []RepoView `json:"repositories"`
	Next  string     `json:"next,omitempty"`
}

// RepoRename gives a repository another name.
type RepoRename struct {
	Name string `json:"name"`
	To   string `json:"to"`
}

// RepoSet changes settings; a nil field stays as it is.
type RepoSet struct {
	Name        string `json:"name"`
	Branch      string `json:"branch,omitempty"`
	Public      *bool  `json:"public,omitempty"`
	DenyNonFF   *bool  `json:"deny_non_fast_forwards,omitempty"`
	DenyDeletes *bool  `json:"deny_deletes,omitempty"`
	// Copies 0 goes back to the default, a majority.
	Copies       *int    `json:"copies,omitempty"`
	WhenDegraded *string `json:"when_degraded,omitempty"`
}

// RepoView is a repository with its newest version and its replicas.
type RepoView struct {
	cluster.Repo
	Version  cluster.Version `json:"version"`
	Digest   string          `json:"digest"`
	Replicas []ReplicaView   `json:"replicas,omitempty"`
	// Observed is how the pulls of a mirror have gone; nil for another repository,
	// or if none has ended yet.
	Observed *journal.Observed `json:"observed,omitempty"`
}

// ReplicaView is what a node last reported of its replica.
type ReplicaView struct {
	Device  cluster.DeviceName `json:"device"`
	Version cluster.Version    `json:"version"`
	Behind  cluster.Version    `json:"behind"`
	Fenced  string             `json:"fenced,omitempty"`
}

func (s *Server) repoCreate(ctx context.Context, id cluster.Identity, p RepoCreate) (any, error) {
	name, err := cluster.ParseRepoName(p.Name)
	if err != nil {
		return nil, err
	}
	format, err := cluster.ParseObjectFormat(p.Format)
	if err != nil {
		return nil, err
	}
	repo := cluster.Repo{Name: name, Format: format, Public: p.Public}
	if p.Branch != "" {
		if repo.InitialHead, err = branch(p.Branch); err != nil {
			return nil, err
		}
	}
	at, err := s.Service.Create(ctx, id, repo)
	return RepoView{Repo: at.Repo}, err
}

func (s *Server) repoList(ctx context.Context, id cluster.Identity, p RepoList) (any, error) {
	const most = 1000
	if p.Limit <= 0 || p.Limit > most {
		p.Limit = most
	}
	repos, next, err := s.Service.Repos(ctx, id, cluster.RepoName(p.After), p.Limit)
	if err != nil {
		return nil, err
	}
	page := RepoPage{Repos: []RepoView{}, Next: string(next)}
	for _, r := range repos {
		page.Repos = append(page.Repos, RepoView{Repo: r.Repo, Version: r.Head.Version, Digest: r.Head.Digest.String()})
	}
	return page, nil
}

func (s *Server) repoShow(ctx context.Context, id cluster.Identity, p RepoName) (any, error) {
	at, err := s.resolve(ctx, id, p.Name, cluster.RoleRead)
	if err != nil {
		return nil, err
	}
	v := RepoView{Repo: at.Repo, Version: at.Head.Version, Digest: at.Head.Digest.String()}
	replicas, err := s.Journal.Replicas(ctx, at.Repo.ID)
	if err != nil {
		return nil, err
	}
	for _, r := range replicas {
		v.Replicas = append(v.Replicas, replicaView(r, at.Head))
	}
	if at.Repo.Observe != nil {
		states, err := s.Journal.Observed(ctx, at.Repo.ID)
		if err != nil {
			return nil, err
		}
		if state, ok := states[at.Repo.ID]; ok {
			v.Observed = &state
		}
	}
	return v, nil
}

func (s *Server) repoRename(ctx context.Context, id cluster.Identity, p RepoRename) error {
	to, err := cluster.ParseRepoName(p.To)
	if err != nil {
		return err
	}
	at, err := s.resolve(ctx, id, p.Name, cluster.RoleAdmin)
	if err != nil {
		return err
	}
	if s.Rules.Snapshot().Role(id, &cluster.Repo{Name: to}) < cluster.RoleAdmin {
		return fmt.Errorf("you may not create the repository %q: %w", to, cluster.ErrDenied)
	}
	return s.Journal.RenameRepo(ctx, at.Repo, to)
}

func (s *Server) repoDelete(ctx context.Context, id cluster.Identity, p RepoDelete) error {
	at, err := s.resolve(ctx, id, p.Name, cluster.RoleAdmin)
	if err != nil {
		return err
	}
	if p.IfEmpty {
		if at.Head.Version == 0 {
			_, err = s.Journal.DeleteIfEmpty(ctx, at.Repo, at.Head)
		}
		return err
	}
	return s.Journal.DeleteRepo(ctx, at.Repo)
}

// repoSet changes HEAD first: that can be refused, and then nothing has changed.
func (s *Server) repoSet(ctx context.Context, id cluster.Identity, p RepoSet) error {
	at, err := s.resolve(ctx, id, p.Name, cluster.RoleAdmin)
	if err != nil {
		return err
	}
	if p.Copies != nil && (*p.Copies < 0 || *p.Copies > maxCopies) {
		return fmt.Errorf("%d copies: use 1 to %d, or 0 for a majority of the nodes", *p.Copies, maxCopies)
	}
	var degraded *cluster.WhenDegraded
	if p.WhenDegraded != nil {
		choice, err := cluster.ParseWhenDegraded(*p.WhenDegraded)
		if err != nil {
			return err
		}
		degraded = &choice
	}
	if p.Branch != "" {
		head, err := branch(p.Branch)
		if err != nil {
			return err
		}
		if _, err := s.Engine.Sync(ctx, at, nil); err != nil {
			return err
		}
		if _, err := s.Engine.Commit(ctx, at.Repo.ID, engine.Push{ID: journal.NewID(), Actor: id, Head: head}); err != nil {
			return err
		}
	}
	return s.Journal.ChangeRepo(ctx, at.Repo.ID, func(repo *cluster.Repo) {
		set(&repo.Public, p.Public)
		set(&repo.DenyNonFF, p.DenyNonFF)
		set(&repo.DenyDeletes, p.DenyDeletes)
		set(&repo.Copies, p.Copies)
		set(&repo.WhenDegraded, degraded)
	})
}

// maxCopies is more than any cluster has nodes.
const maxCopies = 99

func (s *Server) resolve(ctx context.Context, id cluster.Identity, name string, role cluster.Role) (engine.Resolved, error) {
	repo, err := cluster.ParseRepoName(name)
	if err != nil {
		return engine.Resolved{}, err
	}
	return s.Service.Resolve(ctx, id, repo, role)
}

func branch(name string) (cluster.RefName, error) {
	return cluster.ParseRefName("refs/heads/" + name)
}

func replicaView(r journal.Replica, head journal.Head) ReplicaView {
	v := ReplicaView{Device: r.Device, Version: r.Version, Fenced: r.Fenced}
	if head.Version > r.Version {
		v.Behind = head.Version - r.Version
	}
	return v
}
