package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
)

// A landed push is one as the journal has it.
type landed struct {
	Version cluster.Version
	ID      string
	Actor   string
	Copies  []cluster.DeviceName
	Updates []cluster.RefUpdate
}

// A journalLog is the pushes of a repository, the oldest first.
type journalLog []landed

// refs are what the log leads to.
func (l journalLog) refs() map[string]string {
	refs := map[string]string{}
	for _, p := range l {
		for _, u := range p.Updates {
			if refs[string(u.Ref)] = value(u.New); u.New.IsZero() {
				delete(refs, string(u.Ref))
			}
		}
	}
	return refs
}

// value is "" for Git's way to write that there is none.
func value(o cluster.OID) string {
	if o.IsZero() {
		return ""
	}
	return string(o)
}

// A recorder reads the journal while it grows, because nodes trim it.
type recorder struct {
	journal *journal.Journal

	mu   sync.Mutex
	logs map[cluster.RepoID]*recorded
}

type recorded struct {
	read cluster.Version
	log  journalLog
}

// follow records until the context ends. It also looks by itself: a watch may stand
// still with the server it is at.
func (r *recorder) follow(ctx context.Context, repos []string) {
	for _, repo := range repos {
		go func() {
			for sleep(ctx, 300*time.Millisecond) {
				r.all(ctx, repo)
			}
		}()
	}
	r.journal.WatchHeads(ctx, func(id cluster.RepoID, head journal.Head) {
		// What fails now is read at the next head, or at the end.
		r.readTo(ctx, id, head.Version)
	}, func(cluster.RepoID) {})
}

// all reads what is left, and returns the whole log of a repository.
func (r *recorder) all(ctx context.Context, name string) (journalLog, error) {
	repo, head, err := r.journal.Lookup(ctx, cluster.RepoName(name))
	if err != nil {
		return nil, err
	}
	return r.readTo(ctx, repo.ID, head.Version)
}

func (r *recorder) readTo(ctx context.Context, id cluster.RepoID, upTo cluster.Version) (journalLog, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.logs == nil {
		r.logs = map[cluster.RepoID]*recorded{}
	}
	all := r.logs[id]
	if all == nil {
		all = &recorded{}
		r.logs[id] = all
	}
	for e, err := range r.journal.Entries(ctx, id, all.read, upTo) {
		if err != nil {
			return nil, fmt.Errorf("the journal after version %d: %w", all.read, err)
		}
		all.read = e.Version
		updates := e.Updates
		for _, p := range e.Pushes {
			all.log = append(all.log, landed{e.Version, p.ID, p.Actor, e.Copies, foldUpdates(updates[:p.Refs])})
			updates = updates[p.Refs:]
		}
	}
	return all.log, nil
}
