package admin

import (
	"context"
	"fmt"

	"gitcluster/internal/backup"
	"gitcluster/internal/cluster"
)

// BackupWrite asks a node to write a backup to a folder of its machine.
type BackupWrite struct {
	Dir   string   `json:"dir"`
	Repos []string `json:"repositories,omitempty"` // none: all
}

// BackupRestore asks a node to restore a backup from a folder of its machine.
type BackupRestore struct {
	Dir  string `json:"dir"`
	Repo string `json:"repository,omitempty"` // "": everything
	As   string `json:"as,omitempty"`         // the repository's new name
}

func (s *Server) backupWrite(ctx context.Context, id cluster.Identity, p BackupWrite, tell func(string)) (any, error) {
	if err := mustOperate(id); err != nil {
		return nil, err
	}
	var only []cluster.RepoName
	for _, text := range p.Repos {
		name, err := cluster.ParseRepoName(text)
		if err != nil {
			return nil, err
		}
		only = append(only, name)
	}
	return s.backup().Write(ctx, p.Dir, only, tell)
}

func (s *Server) backupRestore(ctx context.Context, id cluster.Identity, p BackupRestore, tell func(string)) (any, error) {
	if err := mustOperate(id); err != nil {
		return nil, err
	}
	var c backup.Choice
	var err error
	if p.Repo != "" {
		if c.Repo, err = cluster.ParseRepoName(p.Repo); err != nil {
			return nil, err
		}
	}
	if p.As != "" {
		if c.As, err = cluster.ParseRepoName(p.As); err != nil {
			return nil, err
		}
	}
	return s.backup().Restore(ctx, p.Dir, c, id, tell)
}

func (s *Server) backup() *backup.Backup {
	return &backup.Backup{Cluster: s.Cluster, Device: s.Device, Version: s.Version, Journal: s.Journal, Engine: s.Engine, Log: s.Log}
}

// mustOperate refuses whoever is not on the node's own machine, as its account: a
// path is one of that machine, and writing there with the node's rights is nothing
// for somebody who administers the cluster from elsewhere.
func mustOperate(id cluster.Identity) error {
	if id.Operator {
		return nil
	}
	return cluster.WithHint(fmt.Errorf("a backup is in a folder of the node's machine: %w", cluster.ErrDenied),
		"run it on the node, as the account the node runs as")
}
