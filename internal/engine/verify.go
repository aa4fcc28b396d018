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
// each of them to see that no object is missing. A replica that is found wrong is
// fenced.
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
	err := e.compare(ctx, r, &v)
	if err == nil && deep {
		// Without the lock: objects do not change, and this may take minutes.
		if err = e.fsck(ctx, id); err != nil && context.Cause(ctx) == nil {
			err = e.fenceBroken(ctx, r, err)
		}
	}
	if err != nil {
		v.Problem = err.Error()
	}
	return v
}

// fenceBroken fences a replica whose objects were found wanting; a push that is
// under way finishes first.
func (e *Engine) fenceBroken(ctx context.Context, r *replica, found error) error {
	if err := r.lock(ctx); err != nil {
		return errors.Join(found, err)
	}
	defer r.unlock()
	e.fenceOff(r, "objects are missing or broken: %v", found)
	return found
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

func (e *Engine) fsck(ctx context.Context, id cluster.RepoID) error {
	repo, err := e.Store.Open(id)
	if err != nil {
		return err
	}
	return repo.Fsck(ctx)
}

// Defaults of Options.VerifyPause and VerifyRound.
const (
	verifyPause = 10 * time.Second
	verifyRound = 24 * time.Hour
)

// deepEvery is in how many rounds a replica's objects are looked at once.
const deepEvery = 7

// verifyLoop compares one replica after another with the journal, so that a disk
// that rots or was edited is found before somebody needs it. The order is another in
// each round: a node that is often started would else look at the same ones only.
func (e *Engine) verifyLoop(ctx context.Context) {
	for {
		ids, err := e.Store.List()
		if err != nil {
			e.Log.Warn("list the replicas", "error", err)
		}
		rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
		gap := max(e.VerifyPause, e.VerifyRound/time.Duration(max(1, len(ids))))
		for _, id := range append(ids, "") {
			t := time.NewTimer(gap)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				return
			}
			if id != "" { // else a pause of its own when there is nothing to verify
				e.verifyOne(ctx, id)
			}
		}
	}
}

func (e *Engine) verifyOne(ctx context.Context, id cluster.RepoID) {
	if _, _, err := e.Journal.LookupID(ctx, id); errors.Is(err, cluster.ErrNotFound) {
		e.forget(id) // it was deleted while this node was away
		return
	}
	if v := e.Verify(ctx, id, rand.N(deepEvery) == 0); !v.OK() && ctx.Err() == nil {
		e.Log.Warn("a replica is not what the journal says", "repo", id, "wrong_refs", v.WrongRefs, "problem", v.Problem)
	}
}
