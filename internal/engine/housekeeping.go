package engine

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
	"gitcluster/internal/repository"
)

// Housekeeping gathers the packs that pushes leave, so that the work for one grows
// with what was pushed since and not with the whole: the packs that remain are
// each at least twice as large as all smaller ones together. When the largest is
// due, a pack of everything that refs reach is written, with a bitmap, which makes
// clones cheap; what no ref reaches is set aside, and removed weeks later.

// When a replica is looked after.
const (
	manyPacks   = 24     // packs, without those set aside
	manyLoose   = 256    // loose objects
	manyRefs    = 1000   // refs that are files of their own, and at least a quarter of all
	worthBitmap = 20_000 // objects, without a pack that has a bitmap
	// orphanAge is how long ago somebody must have written to what looks like an
	// upload that was broken off.
	orphanAge = 24 * time.Hour
	// discardBound bounds the time in which pushes to the repository wait while
	// objects are removed.
	discardBound = 10 * time.Second
)

// An Upkeep is what was done for one replica.
type Upkeep struct {
	Device    cluster.DeviceName `json:"device"`
	Packs     int                `json:"packs"` // before
	Left      int                `json:"left"`  // packs after it
	Full      bool               `json:"full,omitempty"`
	Refs      bool               `json:"refs,omitempty"`      // refs were packed
	Discarded int                `json:"discarded,omitempty"` // packs of objects that no ref reached
	Orphans   int                `json:"orphans,omitempty"`   // broken uploads that were removed
	Took      time.Duration      `json:"took"`
	Error     string             `json:"error,omitempty"`
}

// Maintain looks after a replica now, one at a time on this node; full also gathers
// all packs in one. Reads and pushes go on meanwhile.
func (e *Engine) Maintain(ctx context.Context, id cluster.RepoID, full bool) Upkeep {
	u := Upkeep{Device: e.Device}
	if err := e.begin(); err != nil {
		u.Error = err.Error()
		return u
	}
	defer e.work.Done()
	ctx, cancel := e.withNode(ctx)
	defer cancel()
	err := e.maintain(ctx, e.replica(id), full, true, &u)
	if err != nil {
		u.Error = err.Error()
	}
	return u
}

// errNotNow: the replica is being synchronized, or another node looks after its own;
// its time will come.
var errNotNow = errors.New("it is not the time to look after this replica")

// maintain does what is due, or with now all that may be.
func (e *Engine) maintain(ctx context.Context, r *replica, full, now bool, u *Upkeep) error {
	select {
	case e.upkeep <- struct{}{}:
		defer func() { <-e.upkeep }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	start := time.Now()
	repo, err := e.Store.Open(r.id)
	if err != nil {
		return err
	}
	if u.Orphans, err = repo.RemoveOrphans(ctx, orphanAge); err != nil {
		return err
	}
	due, err := e.planUpkeep(repo, full, now)
	if err != nil || !due.any() {
		return err
	}
	u.Packs = due.packs
	claim, err := e.claimUpkeep(ctx, r, now)
	if err != nil {
		return err
	}
	defer claim.Release()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(claim.Context(), func() { cancel(context.Cause(claim.Context())) })()
	refs, err := e.mayMaintain(ctx, r, now)
	if err != nil {
		return err
	}
	if due.full && refs == 0 {
		due.full, due.rollUp = false, repository.Unbalanced(due.rollUp)
	}
	if due.refs {
		if u.Refs, err = e.packRefs(ctx, r, now); err != nil {
			return err
		}
	}
	if err := e.quiet(ctx, r, now); err != nil { // what it took to pack the refs may have been long
		return err
	}
	if due.full {
		if err = repo.PackReached(ctx, due.rollUp); err == nil {
			u.Full = true
			u.Discarded, err = e.discard(ctx, r, repo)
		}
		if due.expired && u.Discarded == 0 {
			r.rest(upkeepRetry) // something keeps it; to pack everything again would not change that
		}
	} else if len(due.rollUp) > 0 || due.loose {
		err = repo.RollUp(ctx, due.rollUp)
	}
	if err != nil {
		return err
	}
	if due.full || len(due.rollUp) > 0 {
		if err := repo.WriteCommitGraph(ctx); err != nil {
			return err
		}
	}
	packs, _, err := repo.Packs()
	u.Left, u.Took = len(packs), time.Since(start)
	e.Log.Info("housekeeping", "repo", r.id, "packs", u.Packs, "left", u.Left, "full", u.Full, "refs", u.Refs, "discarded", u.Discarded, "orphans", u.Orphans, "took", u.Took.Round(time.Millisecond))
	return err
}

// mayMaintain makes sure that the replica is what the journal says, and is not
// catching up, or with wait that it was not a moment ago: one that is fenced, or that
// an operator holds, is left as it is. It returns the number of refs.
func (e *Engine) mayMaintain(ctx context.Context, r *replica, wait bool) (refs int, err error) {
	if err := e.quiet(ctx, r, wait); err != nil {
		return 0, err
	}
	return refs, e.Compare(ctx, r.id, func(t *repository.RefTable) { refs = t.Len() })
}

// quiet makes sure that the replica is not catching up; with wait it was not a moment
// ago.
func (e *Engine) quiet(ctx context.Context, r *replica, wait bool) error {
	r.mu.Lock()
	f := r.flight
	r.mu.Unlock()
	switch {
	case f == nil:
		return nil
	case !wait:
		return fmt.Errorf("%w: it is catching up", errNotNow)
	}
	return f.await(ctx, nil)
}

// claimUpkeep takes the right to look after this replica, which one node has at a
// time, or with wait when the other has given it back.
func (e *Engine) claimUpkeep(ctx context.Context, r *replica, wait bool) (*journal.Claim, error) {
	for {
		claim, holder, err := e.Journal.ClaimUpkeep(ctx, r.id, e.Device)
		switch {
		case !errors.Is(err, journal.ErrClaimed):
			return claim, err
		case !wait:
			return nil, fmt.Errorf("%w: %q is looking after its own", errNotNow, holder)
		}
		if err := e.Journal.AwaitUpkeep(ctx, r.id); err != nil {
			return nil, err
		}
	}
}

// A plan is what is due for a replica.
type plan struct {
	packs   int
	rollUp  []repository.Pack
	full    bool // rollUp is to become one pack of what refs reach, and one of the rest
	expired bool // something was set aside long enough ago
	loose   bool
	refs    bool
}

func (p plan) any() bool { return len(p.rollUp) > 0 || p.loose || p.refs }

// planUpkeep looks at the disk only: it is asked for every replica again and again.
func (e *Engine) planUpkeep(repo *repository.Repository, full, now bool) (p plan, err error) {
	packs, reached, err := repo.Packs()
	if err != nil {
		return p, err
	}
	loose, err := repo.LooseObjects(manyLoose)
	if err != nil {
		return p, err
	}
	refs, err := repo.LooseRefs(manyRefs)
	if err != nil {
		return p, err
	}
	p.packs, p.loose, p.refs = len(packs), loose >= manyLoose || now && loose > 0, refs >= manyRefs || now && refs > 0
	expired, objects := false, 0
	var ours []repository.Pack
	for _, pack := range packs {
		switch {
		case !pack.Aside.IsZero():
			expired = expired || time.Since(pack.Aside) > e.Unreached
		case !pack.Keep:
			ours = append(ours, pack)
			objects += pack.Objects
		}
	}
	p.expired = expired
	p.full = full || expired || reached == "" && objects >= worthBitmap
	if p.full {
		p.rollUp = ours
		return p, nil
	}
	if len(ours) < manyPacks && !now {
		return p, nil
	}
	p.rollUp = repository.Unbalanced(ours)
	if slices.ContainsFunc(p.rollUp, func(pack repository.Pack) bool { return pack.Name == reached }) {
		p.rollUp, p.full = ours, true
	}
	return p, nil
}

// packRefs moves the refs of a replica into one file. That takes the apply lock: two
// who change refs at once would remove each other's lock files. It is let go now and
// then, for pushes.
func (e *Engine) packRefs(ctx context.Context, r *replica, now bool) (bool, error) {
	var packed *repository.PackedRefs
	err := e.alone(ctx, r, func() (err error) {
		if !now {
			// The file holds all refs, so it is written when many are not in it.
			many := max(manyRefs, r.table.Len()/4)
			if n, err := r.repo.LooseRefs(many); err != nil || n < many {
				return err
			}
		}
		// Under the node's context: a Git process that is ended in the middle
		// leaves locks, and a command of an operator may end any time.
		packed, err = r.repo.PackRefs(e.ctx)
		return err
	})
	for left := 1; err == nil && packed != nil && left > 0; {
		err = e.alone(ctx, r, func() (err error) {
			left, err = packed.Drop(dropAtOnce)
			return err
		})
	}
	return packed != nil, err
}

// dropAtOnce is how many files are removed while pushes wait.
const dropAtOnce = 500

// alone does something under the apply lock on a replica that is what the journal
// says.
func (e *Engine) alone(ctx context.Context, r *replica, do func() error) error {
	if err := r.lock(ctx); err != nil {
		return err
	}
	defer r.unlock()
	if err := r.fence(); err != nil {
		return err
	}
	if err := e.current(r); err != nil {
		return err
	}
	return do()
}

// discard removes what was set aside long enough ago and nothing needs: no ref, none
// that was kept aside, and no push or copy that is under way.
func (e *Engine) discard(ctx context.Context, r *replica, repo *repository.Repository) (int, error) {
	packs, reached, err := repo.Packs()
	if err != nil || reached == "" {
		return 0, err
	}
	var old []string
	for _, p := range packs {
		if !p.Aside.IsZero() && time.Since(p.Aside) > e.Unreached {
			old = append(old, p.Name)
		}
	}
	if len(old) == 0 {
		return 0, nil
	}
	// Whatever is in the pack of what refs reached has its history there, too. For
	// most refs that is found out without anybody waiting.
	var tips []cluster.OID
	if err := e.Compare(ctx, r.id, func(t *repository.RefTable) {
		for _, value := range t.Values {
			tips = append(tips, value)
		}
	}); err != nil {
		return 0, err
	}
	settled, err := repo.In(reached, tips)
	if err != nil {
		return 0, err
	}
	if err := e.journalAhead(ctx, r); err != nil {
		return 0, err // pushes may be under way that this node cannot hear of
	}
	e.At(StepDiscarding)
	ctx, cancel := context.WithTimeoutCause(ctx, discardBound, errors.New("it takes too long to find out what is needed"))
	defer cancel()
	n := 0
	err = e.alone(ctx, r, func() (err error) {
		n, err = e.discardNow(ctx, r, repo, reached, old, settled)
		return err
	})
	return n, err
}

// discardNow removes the packs old, or reclaims them. The caller holds apply; settled
// are values of refs whose history is in the pack reached.
func (e *Engine) discardNow(ctx context.Context, r *replica, repo *repository.Repository, reached string, old []string, settled map[cluster.OID]bool) (int, error) {
	r.keep.Lock()
	defer r.keep.Unlock()
	r.expirePledges()
	if time.Now().Before(r.untold) {
		return 0, nil
	}
	wants, err := repo.Strays(ctx)
	if err != nil {
		return 0, err
	}
	for _, p := range r.pledged {
		wants = append(wants, p.values...)
	}
	wants = slices.AppendSeq(wants, maps.Keys(r.offered))
	slices.Sort(wants)
	wants = slices.Compact(wants)
	var haves []cluster.OID
	for _, value := range r.table.Values {
		if !settled[value] {
			wants = append(wants, value)
		} else if len(haves) < 256 {
			haves = append(haves, value)
		}
	}
	needed, err := repo.Needed(ctx, wants, haves, reached, old)
	if err != nil {
		// An upload that is not complete yet, most likely. There is no hurry.
		e.Log.Info("nothing is discarded: what is needed cannot be told now", "repo", r.id, "error", err)
		return 0, nil
	}
	var gone, back []string
	for _, name := range old {
		if needed[name] {
			back = append(back, name)
		} else {
			gone = append(gone, name)
		}
	}
	if err := repo.Reclaim(back); err != nil || len(gone) == 0 {
		return 0, err
	}
	r.generation++
	return len(gone), repo.Discard(gone)
}

// upkeepSlot is how long a node has its turn with a repository.
const upkeepSlot = 10 * time.Minute

// turn reports whether it is this node's turn to look after its replica. By the
// clock each node has its own, so that all get theirs. That of a repository's replicas one
// works and the others serve is seen to by a claim in the journal.
func (e *Engine) turn(id cluster.RepoID, now time.Time) bool {
	nodes := append(e.Peers.Nearest(), e.Device)
	slices.Sort(nodes)
	h := fnv.New64a()
	h.Write([]byte(id))
	slot := h.Sum64() + uint64(now.Unix()/int64(upkeepSlot/time.Second))
	return nodes[slot%uint64(len(nodes))] == e.Device
}

// upkeepRetry is how long a replica is left alone for which housekeeping failed: it
// would take as long again, and fail the same way.
const upkeepRetry = 6 * time.Hour

func (r *replica) rest(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.upkeepAfter = time.Now().Add(d)
}

func (r *replica) rested() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.upkeepAfter
}

// upkeepLoop looks after one replica after another.
func (e *Engine) upkeepLoop(ctx context.Context) {
	for {
		t := time.NewTimer(e.Housekeeping)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
		if n, err := e.Store.Expire(e.Unreached); err != nil || n > 0 {
			e.Log.Info("removed what was set aside of deleted repositories", "repositories", n, "error", err)
		}
		ids, err := e.Store.List()
		if err != nil {
			e.Log.Warn("list the replicas", "error", err)
		}
		for _, id := range ids {
			if ctx.Err() != nil {
				return
			}
			r := e.replica(id)
			if !e.turn(id, time.Now()) || time.Now().Before(r.rested()) {
				continue
			}
			err := e.maintain(ctx, r, false, false, &Upkeep{})
			if err != nil && ctx.Err() == nil && !errors.Is(err, errNotNow) && !errors.Is(err, cluster.ErrNotFound) && !errors.Is(err, cluster.ErrFenced) {
				e.Log.Warn("housekeeping failed", "repo", id, "error", err)
				r.rest(upkeepRetry)
			}
		}
	}
}
