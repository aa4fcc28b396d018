package observe

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
)

// atOnce is how many mirrors one node pulls at a time.
const atOnce = 4

// A schedule knows when each mirror is due. Every node has one and they agree,
// because they follow the same records; which of them pulls, the claim decides.
// What is not due costs a timer.
type schedule struct {
	*Observer
	ctx   context.Context
	slots chan struct{}
	work  sync.WaitGroup

	mu      sync.Mutex
	mirrors map[cluster.RepoID]*mirror
	ended   bool
}

type mirror struct {
	every time.Duration
	next  time.Time // as recorded by the last pull, on whatever node
	timer *time.Timer
	busy  bool
}

// Run pulls what is due until the context ends. It returns when no pull of its
// own is under way.
func (o *Observer) Run(ctx context.Context) error {
	s := &schedule{Observer: o, ctx: ctx, slots: make(chan struct{}, atOnce), mirrors: map[cluster.RepoID]*mirror{}}
	var watches sync.WaitGroup
	watches.Go(func() { o.Journal.WatchRepos(ctx, s.learn, s.forget) })
	watches.Go(func() {
		o.Journal.WatchObserved(ctx, func(state journal.Observed) { s.pulled(state.Repo, state.Next) },
			func(id cluster.RepoID) { s.pulled(id, time.Time{}) })
	})
	watches.Wait() // they end with the context
	s.mu.Lock()
	s.ended = true
	for _, m := range s.mirrors {
		m.timer.Stop()
	}
	s.mu.Unlock()
	s.work.Wait()
	return context.Cause(ctx)
}

// learn hears of a repository's settings.
func (s *schedule) learn(repo cluster.Repo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.mirrors[repo.ID]
	switch {
	case repo.Observe == nil:
		if m != nil {
			m.timer.Stop()
			delete(s.mirrors, repo.ID)
		}
	case m == nil:
		m = &mirror{every: repo.Observe.Every}
		m.timer = time.AfterFunc(m.wait(), func() { s.fire(repo.ID) })
		s.mirrors[repo.ID] = m
	default:
		m.every = repo.Observe.Every
	}
}

func (s *schedule) forget(id cluster.RepoID) { s.learn(cluster.Repo{ID: id}) }

// pulled hears when a mirror is due again.
func (s *schedule) pulled(id cluster.RepoID, next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.mirrors[id]; m != nil {
		m.next = next
		if !m.busy {
			m.timer.Reset(m.wait())
		}
	}
}

// wait is the time until the mirror is due, and a little more, so that not all
// nodes come for it at the same moment.
func (m *mirror) wait() time.Duration {
	return max(0, time.Until(m.next)) + rand.N(min(m.every/4, 2*time.Second)+1)
}

// fire pulls a mirror whose timer has gone off.
func (s *schedule) fire(id cluster.RepoID) {
	s.mu.Lock()
	m := s.mirrors[id]
	if m == nil || m.busy || s.ended {
		s.mu.Unlock()
		return
	}
	m.busy = true
	s.work.Add(1)
	s.mu.Unlock()
	defer s.work.Done()
	again := s.pullIfDue(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	m.busy = false
	if s.mirrors[id] != m || s.ended {
		return
	}
	if soonest := time.Now().Add(again); m.next.Before(soonest) {
		m.next = soonest
	}
	m.timer.Reset(m.wait())
}

// pullIfDue pulls a mirror unless somebody has done so or is at it, and returns
// the least time until it should be looked at again. Usually the record of the
// pull arrives before that and says when.
func (s *schedule) pullIfDue(id cluster.RepoID) time.Duration {
	const soon, later = 5 * time.Second, 30 * time.Second
	select {
	case s.slots <- struct{}{}:
	case <-s.ctx.Done():
		return 0
	}
	defer func() { <-s.slots }()
	if s.Engine.Drained() {
		return later // another node pulls it
	}
	if wait, err := s.untilDue(id); err != nil || wait > 0 {
		return max(wait, time.Second)
	}
	claim, _, err := s.Journal.Claim(s.ctx, id, s.Device)
	if err != nil {
		return soon // a node that dies at it is noticed within claimTTL
	}
	defer claim.Release()
	// Another node may have pulled between the look and the claim.
	if wait, err := s.untilDue(id); err != nil || wait > 0 {
		return max(wait, time.Second)
	}
	switch _, err := s.pull(s.ctx, claim, id, Progress{}); {
	case err == nil:
		return 0
	case ours(err) || errors.Is(err, journal.ErrClaimLost):
		if s.ctx.Err() == nil {
			s.Log.Warn("a mirror could not be pulled here", "repo", id, "error", err)
		}
		return later
	}
	return time.Second
}

func (s *schedule) untilDue(id cluster.RepoID) (time.Duration, error) {
	state, err := s.Journal.Observed(s.ctx, id)
	return time.Until(state[id].Next), err
}
