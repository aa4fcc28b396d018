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
	reading sync.Mutex // held while the journal is asked

	mu    sync.Mutex
	logs  map[cluster.RepoID]*recorded
	names map[string]cluster.RepoID
}

type recorded struct {
	read cluster.Version
	log  journalLog
}

func newRecorder(j *journal.Journal) *recorder {
	return &recorder{journal: j, logs: map[cluster.RepoID]*recorded{}, names: map[string]cluster.RepoID{}}
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
	r.mu.Lock()
	r.names[name] = repo.ID
	r.mu.Unlock()
	return r.readTo(ctx, repo.ID, head.Version)
}

// known is the log of a repository as far as it was read.
func (r *recorder) known(name string) journalLog {
	r.mu.Lock()
	defer r.mu.Unlock()
	if all := r.logs[r.names[name]]; all != nil {
		return all.log
	}
	return nil
}

func (r *recorder) readTo(ctx context.Context, id cluster.RepoID, upTo cluster.Version) (journalLog, error) {
	r.reading.Lock()
	defer r.reading.Unlock()
	r.mu.Lock()
	all := r.logs[id]
	if all == nil {
		all = &recorded{}
		r.logs[id] = all
	}
	r.mu.Unlock()
	for e, err := range r.journal.Entries(ctx, id, all.read, upTo) {
		if err != nil {
			return nil, fmt.Errorf("the journal after version %d: %w", all.read, err)
		}
		r.mu.Lock()
		all.read = e.Version
		updates := e.Updates
		for _, p := range e.Pushes {
			all.log = append(all.log, landed{e.Version, p.ID, p.Actor, e.Copies, foldUpdates(updates[:p.Refs])})
			updates = updates[p.Refs:]
		}
		r.mu.Unlock()
	}
	return all.log, nil
}
