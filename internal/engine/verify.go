package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
	"gitcluster/internal/repository"
)

// A Verdict is what was found when a replica was compared with the journal.
type Verdict struct {
	Device   cluster.DeviceName `json:"device"`
	Position cluster.Position   `json:"position"`
	Refs     int                `json:"refs"`
	// Wrong are refs whose value on disk is not the journal's, at most wrongRefs
	// of them; WrongRefs is how many there are.
	Wrong     []WrongRef `json:"wrong,omitempty"`
	WrongRefs int        `json:"wrong_refs,omitempty"`
	// Problem is what else is wrong, or why nothing could be compared.
	Problem string `json:"problem,omitempty"`
	// Mended is what was wrong with its objects and is so no more.
	Mended string `json:"mended,omitempty"`
}

// OK reports whether the replica is what the journal says.
func (v Verdict) OK() bool { return v.WrongRefs == 0 && v.Problem == "" }

// A WrongRef has another value on disk than in the journal; "" is no value.
type WrongRef struct {
	Ref     cluster.RefName `json:"ref"`
	Disk    cluster.OID     `json:"disk,omitempty"`
	Journal cluster.OID     `json:"journal,omitempty"`
}

const wrongRefs = 20

// Verify compares the refs on this disk with the journal; deep also walks from
// each of them to see that no object is missing. A replica whose refs are found wrong is
// fenced; one whose objects are gets them from another node, and is fenced only until it
// has.
func (e *Engine) Verify(ctx context.Context, id cluster.RepoID, deep bool) Verdict {
	v := Verdict{Device: e.Device}
	if err := e.begin(); err != nil {
		v.Problem = err.Error()
		return v
	}
	defer e.work.Done()
	ctx, cancel := e.withNode(ctx)
	defer cancel()
	r := e.replica(id)
	var err error
	if fenced := r.fence(); errors.Is(fenced, repository.ErrDamaged) {
		err = e.mend(ctx, r, repository.ErrDamaged, &v)
	}
	if err == nil {
		err = e.compare(ctx, r, &v)
	}
	if err == nil && deep {
		err = e.verifyObjects(ctx, r, &v)
	}
	if err != nil {
		v.Problem = err.Error()
	}
	return v
}

// verifyObjects looks at the objects, without the lock: they do not change, and it may
// take minutes.
func (e *Engine) verifyObjects(ctx context.Context, r *replica, v *Verdict) error {
	repo, err := e.Store.Open(r.id)
	if err != nil {
		return err
	}
	switch err := repo.Fsck(ctx); {
	case err == nil:
		return nil
	case errors.Is(err, repository.ErrDamaged):
		return e.mend(ctx, r, err, v)
	case errors.Is(err, repository.ErrDerived):
		return e.writeDerived(ctx, repo, err, v)
	default: // Git was ended, or could not be run: that says nothing about the disk
		return fmt.Errorf("its objects could not be looked at: %w", err)
	}
}

// writeDerived has what Git computes from the objects be computed anew, as a part of
// housekeeping.
func (e *Engine) writeDerived(ctx context.Context, repo *repository.Repository, found error, v *Verdict) error {
	select {
	case e.upkeep <- struct{}{}:
		defer func() { <-e.upkeep }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := repo.WriteDerived(ctx); err != nil {
		return fmt.Errorf("%w; to write it anew: %w", found, err)
	}
	v.Mended = found.Error()
	e.Log.Warn("what Git computes from the objects was broken and has been removed", "repo", repo.ID, "found", found)
	return nil
}

// mend gets objects that were found missing or broken from another node. Where it does
// not succeed the replica is fenced, and it is tried again.
func (e *Engine) mend(ctx context.Context, r *replica, found error, v *Verdict) error {
	if err := e.refill(ctx, r, found); err != nil {
		return err
	}
	repo, err := e.Store.Open(r.id)
	if err != nil {
		return err
	}
	if err := repo.Fsck(ctx); err != nil && !errors.Is(err, repository.ErrDerived) {
		// All that the journal's refs reach was walked: it may serve.
		return fmt.Errorf("what its refs reach is there, and still: %w", err)
	}
	v.Mended = found.Error()
	e.Log.Warn("objects were missing or broken, and the replica has been mended", "repo", r.id, "found", found)
	return nil
}

// refill has the replica follow the journal as if nothing on its disk could be trusted;
// a push that is under way finishes first.
func (e *Engine) refill(ctx context.Context, r *replica, found error) error {
	if err := r.lock(ctx); err != nil {
		return errors.Join(found, err)
	}
	defer r.unlock()
	// Under the node's context, as every resynchronization that somebody asks for.
	_, err := e.resync(e.ctx, r, found.Error(), func(string) {})
	if err == nil {
		err = e.dropBrokenStrays(e.ctx, r)
	}
	if err == nil || errors.Is(err, cluster.ErrLocked) || errors.Is(err, cluster.ErrNotFound) {
		return err
	}
	if found = fmt.Errorf("%w; to get them from another node: %w", found, err); e.ctx.Err() != nil {
		return found
	}
	fence := cluster.WithHint(fmt.Errorf("the replica %s on %q: %w: %w", r.id, e.Device, found, cluster.ErrFenced),
		"another node serves it; this one tries again to get what it lacks from a node that has it")
	r.mu.Lock()
	r.fenced = fence
	r.mu.Unlock()
	r.table = nil
	e.Log.Error("replica fenced", "repo", r.id, "error", fence)
	e.reportSoon(r.id)
	return found
}

// dropBrokenStrays removes refs that were kept aside of which objects are missing: no
// other node has those, and Git would take whatever such a ref reaches for granted when it
// checks a push. The caller holds apply.
func (e *Engine) dropBrokenStrays(ctx context.Context, r *replica) error {
	refs, err := r.repo.StrayRefs(ctx)
	if err != nil || len(refs) == 0 {
		return err
	}
	var strays []Stray
	for _, u := range refs {
		strays = append(strays, Stray{Ref: u.Ref, Value: u.New})
	}
	whole, err := e.whole(ctx, r.repo, strays, newValues(difference(repository.NewRefTable(), r.table)))
	if err != nil {
		return err
	}
	var broken []cluster.RefUpdate
	for _, s := range strays {
		if !whole[s.Value] {
			broken = append(broken, cluster.RefUpdate{Ref: s.Ref})
			e.Log.Warn("objects that a ref kept aside reaches are missing: it is kept no longer", "repo", r.id, "ref", s.Ref, "value", s.Value)
		}
	}
	if len(broken) == 0 {
		return nil
	}
	return transact(ctx, r.repo, broken)
}

// idleTable is how long the refs of a replica stay in memory that nobody pushes to and
// that takes no copies.
const idleTable = time.Hour

// compare reads the refs on disk, under the apply lock, and compares them with
// the journal's.
func (e *Engine) compare(ctx context.Context, r *replica, v *Verdict) error {
	if err := r.lock(ctx); err != nil {
		return err
	}
	defer r.unlock()
	record, head, err := e.Journal.LookupID(ctx, r.id)
	if err != nil {
		return err
	}
	r.noteHead(head)
	if r.table == nil || time.Since(r.used) > idleTable {
		// Nobody uses it. All replicas come by here, and not all their refs may stay in
		// memory.
		defer func() {
			r.table = nil
			r.known.Store(nil)
		}()
	}
	if r.fence() == nil {
		if err := e.catchUp(ctx, r, func(string) {}); err != nil && r.fence() == nil {
			return err
		}
	}
	repo, err := e.Store.Open(r.id)
	if err != nil {
		return err
	}
	disk, err := repo.LoadRefs(ctx)
	if err != nil {
		return err
	}
	v.Position, v.Refs = r.position(), disk.Len()
	if r.table != nil && r.fence() == nil && disk.Digest() == r.table.Digest() {
		return nil
	}
	// Which refs are wrong is worth a look at the whole journal.
	wanted, err := e.refsAt(ctx, r, record, head, disk)
	if err != nil {
		return err
	}
	for _, u := range difference(wanted, disk) {
		v.WrongRefs++
		v.Wrong = append(v.Wrong, WrongRef{Ref: u.Ref, Disk: u.New, Journal: u.Old})
	}
	slices.SortFunc(v.Wrong, func(a, b WrongRef) int { return strings.Compare(string(a.Ref), string(b.Ref)) })
	v.Wrong = v.Wrong[:min(len(v.Wrong), wrongRefs)]
	if disk.Head() != wanted.Head() {
		v.Problem = fmt.Sprintf("HEAD is %q, and %q in the journal", disk.Head(), wanted.Head())
	}
	if r.fence() == nil && !v.OK() {
		e.fenceOff(r, "%d of its refs are not the journal's", v.WrongRefs)
	}
	if err := r.fence(); err != nil && v.OK() {
		return err
	}
	return nil
}

// Defaults of Options.VerifyPause and VerifyRound.
const (
	verifyPause = 10 * time.Second
	verifyRound = 24 * time.Hour
)

// deepEvery is in how many rounds a replica's objects are looked at once.
const deepEvery = 7

// mendAgain is how long after an attempt to mend a replica the next one is made.
const mendAgain = 10 * time.Minute

// verifyLoop compares one replica after another with the journal, so that a disk
// that rots or was edited is found before somebody needs it. The order is another in
// each round: a node that is often started would else look at the same ones only.
func (e *Engine) verifyLoop(ctx context.Context) {
	damaged := map[cluster.RepoID]time.Time{} // when each is to be tried again
	look := func(id cluster.RepoID) {
		if e.verifyOne(ctx, id) {
			damaged[id] = time.Now().Add(mendAgain)
		} else {
			delete(damaged, id)
		}
	}
	for {
		ids, err := e.Store.List()
		if err != nil {
			e.Log.Warn("list the replicas", "error", err)
		}
		rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
		gap := max(e.VerifyPause, e.VerifyRound/time.Duration(max(1, len(ids))))
		for _, id := range append(ids, "") {
			for due := time.Now().Add(gap); ; {
				again, at := soonest(damaged)
				if again == "" || at.After(due) {
					at = due
				}
				if !pause(ctx, max(time.Until(at), min(gap, e.VerifyPause))) {
					return
				}
				if at == due {
					break
				}
				look(again)
			}
			if id != "" { // else a pause of its own when there is nothing to verify
				look(id)
			}
		}
	}
}

func soonest(times map[cluster.RepoID]time.Time) (id cluster.RepoID, at time.Time) {
	for other, t := range times {
		if id == "" || t.Before(at) {
			id, at = other, t
		}
	}
	return id, at
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// verifyOne reports whether the replica is to be mended.
func (e *Engine) verifyOne(ctx context.Context, id cluster.RepoID) bool {
	record, _, err := e.Journal.LookupID(ctx, id)
	if errors.Is(err, cluster.ErrNotFound) {
		e.forget(id) // it was deleted while this node was away
		return false
	}
	if err == nil && record.Name == cluster.RestoringName(id) {
		if err := e.dropUnrestored(ctx, record); err != nil {
			e.Log.Warn("remove what a restore has left", "repo", id, "error", err)
		}
		return false
	}
	if v := e.Verify(ctx, id, rand.N(deepEvery) == 0); !v.OK() && ctx.Err() == nil {
		e.Log.Warn("a replica is not what the journal says", "repo", id, "wrong_refs", v.WrongRefs, "problem", v.Problem)
	}
	return errors.Is(e.replica(id).fence(), repository.ErrDamaged)
}

// dropUnrestored deletes a repository that was being restored by a node that died over
// it: as long as it lives it holds the claim.
func (e *Engine) dropUnrestored(ctx context.Context, repo cluster.Repo) error {
	claim, _, err := e.Journal.ClaimUpkeep(ctx, repo.ID, e.Device)
	if errors.Is(err, journal.ErrClaimed) {
		return nil
	}
	if err != nil {
		return err
	}
	defer claim.Release()
	// Unless it has another name by now.
	if err := e.Journal.DeleteRepo(ctx, repo); err != nil && !errors.Is(err, cluster.ErrNotFound) {
		return err
	}
	e.Log.Info("removed what a restore that was ended had left", "repo", repo.ID)
	e.forget(repo.ID)
	return nil
}
