package engine

import (
	"context"
	"errors"
	"sync"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
)

// Run follows the journal and catches up with it in the background, so that a
// reader seldom waits. It returns when the context ends.
func (e *Engine) Run(ctx context.Context) error {
	go e.reportLoop(ctx)
	go e.verifyLoop(ctx)
	go e.upkeepLoop(ctx)
	go e.Journal.WatchRepos(ctx, e.learnName, e.forgetName)
	slots := make(chan struct{}, 4)
	return e.Journal.WatchHeads(ctx, func(id cluster.RepoID, head journal.Head) {
		r := e.replica(id)
		r.noteHead(head)
		if !e.at(r, head) {
			e.follow(ctx, r, slots)
		}
	}, e.forget)
}

// follow brings a replica to the newest head in the background, however many
// heads come meanwhile: one task for each replica, and so many at work as there are
// slots. It tries again until it succeeds, because the node that has the objects
// may be the one that is down; while it waits for that it holds no slot.
func (e *Engine) follow(ctx context.Context, r *replica, slots chan struct{}) {
	r.mu.Lock()
	start := !r.following
	r.following = true
	r.mu.Unlock()
	if !start {
		return
	}
	go func() {
		for wait := 500 * time.Millisecond; ; wait = min(2*wait, 15*time.Second) {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			err := e.reachNewest(ctx, r)
			<-slots
			if r.followed(err) || ctx.Err() != nil {
				return
			}
			if err == nil {
				wait = 250 * time.Millisecond // another head came
				continue
			}
			e.Log.Warn("background catch-up failed", "repo", r.id, "error", err)
			t := time.NewTimer(wait)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				return
			}
		}
	}()
}

// CatchUpAll brings all replicas to the heads that the journal has now, some at a
// time. One for which that fails is left to follow on its own; how many there were
// is returned.
func (e *Engine) CatchUpAll(ctx context.Context) (failed int, err error) {
	var work sync.WaitGroup
	var mu sync.Mutex
	const atOnce = 4
	slots := make(chan struct{}, atOnce)
	for repo, listed := range e.Journal.Repos(ctx, "") {
		if err = listed; err != nil {
			break
		}
		slots <- struct{}{}
		work.Go(func() {
			defer func() { <-slots }()
			if err := e.reach(ctx, e.replica(repo.ID), repo.Head, nil); err != nil && !errors.Is(err, cluster.ErrNotFound) {
				mu.Lock()
				failed++
				mu.Unlock()
			}
		})
	}
	work.Wait()
	if err == nil {
		err = context.Cause(ctx)
	}
	return failed, err
}

func (e *Engine) reachNewest(ctx context.Context, r *replica) error {
	r.mu.Lock()
	head := r.head
	r.mu.Unlock()
	return e.reach(ctx, r, head, nil)
}

// followed ends the background task if there is nothing left for it to do.
func (r *replica) followed(err error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case errors.Is(err, cluster.ErrNotFound), errors.Is(err, cluster.ErrFenced), errors.Is(err, cluster.ErrStopping):
	case err != nil || !r.applied.Reached(r.head.Position):
		return false
	}
	r.following = false
	return true
}

// at reports whether the replica shows the head, as far as the recorded
// position tells; a replica not looked at yet is compared when it is first read.
func (e *Engine) at(r *replica, head journal.Head) bool {
	if r.isLoaded() {
		return r.hasBeenPutBack() == "" && r.position().Reached(head.Position)
	}
	local, err := e.Store.Open(r.id)
	if err != nil {
		return false
	}
	if why, err := e.doubted(r); err != nil || why != "" {
		return false
	}
	applied, err := local.Applied()
	return err == nil && applied == head.Position
}

// forget sets the replica of a repository aside that was deleted.
func (e *Engine) forget(id cluster.RepoID) {
	if e.begin() != nil {
		return
	}
	go func() {
		defer e.work.Done()
		r := e.replica(id)
		if r.lock(e.ctx) != nil {
			return
		}
		defer r.unlock()
		e.mu.Lock()
		delete(e.replicas, id)
		e.mu.Unlock()
		r.mu.Lock()
		r.fenced = cluster.ErrNotFound
		r.mu.Unlock()
		if err := e.Store.Retire(id); err != nil {
			e.Log.Warn("set a replica aside", "repo", id, "error", err)
		}
	}()
}

// learnName keeps the names that stale reads go by. They follow the journal as
// closely as everything else, so that a renamed or deleted repository is not
// read under the rights of its old name.
func (e *Engine) learnName(repo cluster.Repo) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dropName(repo.ID)
	e.names[repo.Name], e.nameOf[repo.ID] = repo, repo.Name
}

func (e *Engine) forgetName(id cluster.RepoID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dropName(id)
}

func (e *Engine) dropName(id cluster.RepoID) {
	if name, ok := e.nameOf[id]; ok {
		delete(e.nameOf, id)
		if e.names[name].ID == id {
			delete(e.names, name)
		}
	}
}

func (e *Engine) reportSoon(id cluster.RepoID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.reports[id] = true
}

// reportEvery is how often a replica's position is reported at most. A report
// is for people who look at the status; it is not worth a write per push.
const reportEvery = time.Second

// reportLoop tells the journal what the replicas show.
func (e *Engine) reportLoop(ctx context.Context) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		e.mu.Lock()
		due := e.reports
		e.reports = map[cluster.RepoID]bool{}
		e.mu.Unlock()
		for id := range due {
			if err := e.report(ctx, id); err != nil && ctx.Err() == nil {
				e.reportSoon(id)
			}
		}
	}
}

func (e *Engine) report(ctx context.Context, id cluster.RepoID) error {
	e.mu.Lock()
	r := e.replicas[id]
	e.mu.Unlock()
	if r == nil {
		return nil
	}
	report := journal.Replica{Repo: id, Device: e.Device, Position: r.position()}
	if err := r.fence(); err != nil {
		report.Fenced = err.Error()
	}
	return e.Journal.ReportReplica(ctx, report)
}
