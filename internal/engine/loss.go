package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
	"gitcluster/internal/repository"
)

// A Loss is what would be given up if a repository went back to the newest
// version that this replica can show: acknowledged pushes, of which no replica that
// can be reached has the objects.
type Loss struct {
	Device   cluster.DeviceName  `json:"device"` // whose replica it would go back to
	Head     cluster.Version     `json:"head"`
	Survives cluster.Version     `json:"survives"` // the newest version this replica can show
	Entries  []journal.Entry     `json:"entries"`  // what is after it, without their updates beyond lossUpdates
	Refs     []cluster.RefUpdate `json:"refs"`     // from what the journal says to what the refs would be
	NewHead  cluster.RefName     `json:"new_head,omitempty"`
	// Untold, if not 0, is the last of the versions after Survives of which the journal
	// no longer says what they were. Then Refs are not known.
	Untold cluster.Version `json:"untold,omitempty"`
}

// lossUpdates is how many updates of an entry a Loss tells.
const lossUpdates = 50

// ErrNothingLost: the replica can show the newest version.
var ErrNothingLost = errors.New("nothing is lost")

// Loss finds out what this replica would lose. If it, or another that can be
// reached, has the newest version, the error is [ErrNothingLost].
func (e *Engine) Loss(ctx context.Context, id cluster.RepoID) (Loss, error) {
	if err := e.begin(); err != nil {
		return Loss{}, err
	}
	defer e.work.Done()
	ctx, cancel := e.withNode(ctx)
	defer cancel()
	r := e.replica(id)
	if err := r.lock(ctx); err != nil {
		return Loss{}, err
	}
	defer r.unlock()
	found, err := e.loss(ctx, r)
	return found.Loss, err
}

// lossAt is a Loss with what it was found from.
type lossAt struct {
	Loss
	repo     cluster.Repo
	head     journal.Head         // the newest version when it was looked for
	at       cluster.Position     // of the version that survives
	survives *repository.RefTable // its refs
}

// loss looks how far the journal can be followed with the objects there are. The
// caller holds apply.
func (e *Engine) loss(ctx context.Context, r *replica) (lossAt, error) {
	record, head, err := e.Journal.LookupID(ctx, r.id)
	if err != nil {
		return lossAt{}, err
	}
	r.noteHead(head)
	err = e.catchUp(ctx, r, func(string) {})
	switch {
	case err == nil:
		return lossAt{}, ErrNothingLost
	case !errors.Is(err, cluster.ErrNoReplica):
		return lossAt{}, err
	}
	why, err := e.doubted(r)
	if err == nil && why == "" {
		err = e.load(ctx, r, func(string) {})
	}
	if err != nil {
		return lossAt{}, err
	}
	at := r.position()
	if at == (cluster.Position{}) {
		at = cluster.Position{Epoch: head.Epoch, Digest: repository.NewRefTable().Digest()} // it never had anything
	}
	loss := Loss{Device: e.Device, Head: head.Version, Survives: at.Version}
	if why != "" {
		loss.Survives, at = 0, cluster.Position{Epoch: head.Epoch} // nothing but what is walked below
		if head.Oldest > 1 {
			return lossAt{}, fmt.Errorf("the replica on %q is not to be trusted (%s), and the journal begins at version %d: %w", e.Device, why, head.Oldest, cluster.ErrUnavailable)
		}
	}
	survives, err := e.refsBefore(ctx, record, head, loss.Survives)
	if err != nil {
		return lossAt{}, err
	}
	if loss.Survives+1 < head.Oldest || at.Epoch != head.Epoch {
		if survives.Digest() != at.Digest {
			return lossAt{}, fmt.Errorf("the refs on %q are not those of version %d, which it last showed: %w", e.Device, at.Version, cluster.ErrUnavailable)
		}
		loss.Untold = head.Oldest - 1
		for entry, err := range e.Journal.Entries(ctx, r.id, loss.Untold, head.Version) {
			if err != nil {
				return lossAt{}, err
			}
			loss.Entries = append(loss.Entries, shortened(entry))
		}
		return lossAt{loss, record, head, at, survives}, nil
	}
	last := repository.NewRefTable() // the refs at the head
	last.SetHead(survives.Head())
	for ref, value := range survives.Values {
		last.Set(ref, value)
	}
	closed := true
	for entry, err := range e.Journal.Entries(ctx, r.id, loss.Survives, head.Version) {
		if err != nil {
			return lossAt{}, err
		}
		if closed {
			if closed, err = r.repo.Closed(ctx, newValues(entry.Updates), knownClosed(survives, entry.Updates)); err != nil {
				return lossAt{}, err
			}
		}
		apply(last, entry)
		if closed {
			apply(survives, entry)
			loss.Survives, at = entry.Version, entry.Position()
			continue
		}
		loss.Entries = append(loss.Entries, shortened(entry))
	}
	if len(loss.Entries) == 0 {
		return lossAt{}, ErrNothingLost
	}
	loss.Refs = difference(last, survives)
	if last.Head() != survives.Head() {
		loss.NewHead = survives.Head()
	}
	return lossAt{loss, record, head, at, survives}, nil
}

func shortened(entry journal.Entry) journal.Entry {
	entry.Updates = entry.Updates[:min(len(entry.Updates), lossUpdates)]
	return entry
}

// refsBefore returns the refs of a version that this replica shows, by the
// journal rather than by the disk, which an operator may just have touched.
func (e *Engine) refsBefore(ctx context.Context, record cluster.Repo, head journal.Head, at cluster.Version) (*repository.RefTable, error) {
	if head.Oldest > 1 {
		// Trimmed: the disk is all there is, and its digest was compared when it
		// was loaded.
		repo, err := e.Store.Open(record.ID)
		if err != nil {
			return nil, err
		}
		return repo.LoadRefs(ctx)
	}
	table := repository.NewRefTable()
	table.SetHead(record.InitialHead)
	for entry, err := range e.Journal.Entries(ctx, record.ID, 0, at) {
		if err != nil {
			return nil, err
		}
		apply(table, entry)
	}
	return table, nil
}

func apply(table *repository.RefTable, entry journal.Entry) {
	for _, u := range entry.Updates {
		table.Set(u.Ref, u.New)
	}
	if entry.Head != "" {
		table.SetHead(entry.Head)
	}
}

// AcceptLoss gives up what [Engine.Loss] told of, if that still is what would be
// lost: it writes a bundle of what survives here to a new file in folder, and
// appends one entry that leads back. Versions do not go back; a replica that
// returns with what was given up keeps it below refs/strays/.
func (e *Engine) AcceptLoss(ctx context.Context, id cluster.RepoID, told Loss, actor, folder string) (bundle string, err error) {
	if err := e.begin(); err != nil {
		return "", err
	}
	defer e.work.Done()
	ctx, cancel := e.withNode(ctx)
	defer cancel()
	r := e.replica(id)
	if err := r.lock(ctx); err != nil {
		return "", err
	}
	defer r.unlock()
	loss, err := e.loss(ctx, r)
	if err != nil {
		return "", err
	}
	if loss.Head != told.Head || loss.Survives != told.Survives {
		return "", fmt.Errorf("meanwhile the newest version is %d and version %d survives; look again", loss.Head, loss.Survives)
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return "", err
	}
	// The replica may hold more than its refs show: they follow, so that the bundle has
	// it all.
	if why, err := e.doubted(r); err == nil && why == "" && loss.at.Version > r.position().Version {
		survives := loss.head
		survives.Position = loss.at
		if err := e.replay(ctx, r, survives, func(string) {}); err != nil {
			return "", err
		}
	}
	if disk, err := r.repo.LoadRefs(ctx); err != nil {
		return "", err
	} else if disk.Len() > 0 { // Git makes no empty bundle
		bundle = filepath.Join(folder, fmt.Sprintf("%s-%s.bundle", id, time.Now().UTC().Format("20060102T150405Z")))
		if err := r.repo.Bundle(ctx, bundle); err != nil {
			return "", err
		}
	}
	// The condition is the head that was looked at: an entry that came since is not
	// among those that this one takes back.
	head := loss.head
	entry := journal.Entry{
		Epoch: head.Epoch, Version: head.Version + 1, Updates: loss.Refs, Head: loss.NewHead, Digest: loss.survives.Digest(),
		Device: e.Device, Time: time.Now().UTC(), Copies: []cluster.DeviceName{e.Device}, GivenUp: loss.Survives + 1,
		Pushes: []journal.Push{{ID: journal.NewID(), Actor: actor, Refs: len(loss.Refs)}},
	}
	if loss.Untold > 0 {
		// No list of updates leads from refs that nobody knows any more to these: a new
		// epoch begins with them, and every other replica takes them from here.
		entry.Epoch++
	}
	next, err := e.Journal.Append(ctx, id, head, entry, []journal.Counted{{Device: e.Device, Incarnation: e.Incarnation}})
	if err != nil {
		return bundle, err
	}
	e.Log.Warn("versions were given up as lost", "repo", loss.repo.Name, "survives", loss.Survives, "head", loss.Head, "by", actor)
	r.noteHead(next)
	if err := e.catchUp(ctx, r, func(string) {}); err != nil {
		return bundle, err
	}
	if loss.Untold > 0 {
		err = e.Journal.Trim(ctx, id, next.Version)
	}
	return bundle, err
}
