package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"gitcluster/internal/cluster"
)

// Each push removes what its repository has too many entries of. That bounds a
// repository, and not the journal: with many of them it would fill. So the upkeep
// removes more where the quota comes near, first from those that have most.

const (
	// From trimAbove percent of the quota on entries are removed, until trimTo are left.
	trimAbove, trimTo = 70, 60
	// trimFloor is how many entries a repository keeps in any case, for replicas that
	// are a little behind. Those further behind compare themselves with a peer.
	trimFloor = 64
	// trimmedFor is how long the upkeep waits until it looks at the outcome: what is
	// free is counted with a later write.
	trimmedFor = 10 * time.Minute
)

// Trim removes the entries before the version oldest. The newest is never
// removed. A replica that needs one of them compares itself with a peer instead.
func (j *Journal) Trim(ctx context.Context, id cluster.RepoID, oldest cluster.Version) error {
	// First the word that they are gone, then they: a reader that finds one
	// missing finds out why.
	if err := j.tellOldest(ctx, id, oldest); err != nil {
		return err
	}
	return j.removeBefore(ctx, id, oldest)
}

// tellOldest writes down that entries before a version are gone.
func (j *Journal) tellOldest(ctx context.Context, id cluster.RepoID, oldest cluster.Version) error {
	return changeRecord(ctx, j, keyHead+string(id), fmt.Sprintf("head of %s", id), func(h *Head) error {
		if oldest > h.Version {
			return fmt.Errorf("trim to version %d of %d", oldest, h.Version)
		}
		h.Oldest = max(h.Oldest, oldest)
		return nil
	})
}

// removeBefore removes entries and writes nothing, which etcd allows when it is full.
func (j *Journal) removeBefore(ctx context.Context, id cluster.RepoID, oldest cluster.Version) error {
	for {
		r, err := j.get(ctx, entryKey(id, 0), clientv3.WithRange(entryKey(id, oldest)), clientv3.WithLimit(entryPage))
		if err != nil || len(r.Kvs) == 0 {
			return err
		}
		var ops []clientv3.Op
		for _, kv := range r.Kvs {
			ops = append(ops, clientv3.OpDelete(string(kv.Key)))
			var e Entry
			if json.Unmarshal(kv.Value, &e) == nil && e.ChunkID != "" {
				ops = append(ops, clientv3.OpDelete(keyChunk+string(id)+"/"+e.ChunkID+"/", clientv3.WithPrefix()))
			}
		}
		if _, err := j.kv.Txn(ctx).Then(ops...).Commit(); err != nil {
			return unavailable(err)
		}
	}
}

// tell has the heads say what is gone, unless they do.
func (u *Upkeep) tell(ctx context.Context) error {
	if u.told {
		return nil
	}
	err := u.journal.tellTrimmed(ctx)
	u.told = err == nil
	return err
}

// tellTrimmed has the heads say which entries are gone, where those were removed when
// nothing could be written.
func (j *Journal) tellTrimmed(ctx context.Context) error {
	for repo, err := range j.Repos(ctx, "") {
		if err != nil {
			return err
		}
		oldest, err := j.oldest(ctx, repo)
		if err != nil {
			return err
		}
		if oldest > max(repo.Head.Oldest, 1) {
			if err := j.tellOldest(ctx, repo.ID, oldest); err != nil && !errors.Is(err, cluster.ErrNotFound) {
				return err
			}
		}
	}
	return nil
}

// oldest returns the first entry that is there, whatever the head says.
func (j *Journal) oldest(ctx context.Context, repo RepoHead) (cluster.Version, error) {
	r, err := j.get(ctx, entryKey(repo.ID, 0), clientv3.WithRange(entryKey(repo.ID, repo.Head.Version+1)), clientv3.WithLimit(1), clientv3.WithKeysOnly())
	if err != nil || len(r.Kvs) == 0 {
		return repo.Head.Oldest, err
	}
	key := string(r.Kvs[0].Key)
	v, err := strconv.ParseUint(key[strings.LastIndexByte(key, '/')+1:], 16, 64)
	if err != nil {
		return 0, fmt.Errorf("entry %s: %w", key, err)
	}
	return cluster.Version(v), nil
}

// trim removes entries if the fullest server has used too much of its quota, and
// returns how many. Where nothing can be written the heads do not learn of it.
func (u *Upkeep) trim(ctx context.Context, all []database, full bool) (removed cluster.Version, err error) {
	share := 1.0 // of what is used that may stay
	for _, d := range all {
		if d.used > d.quota/100*trimAbove {
			share = min(share, float64(d.quota)/100*trimTo/float64(d.used))
		}
	}
	if share == 1 {
		return 0, nil
	}
	u.looked = time.Now()
	remove := u.journal.Trim
	if full {
		remove = u.journal.removeBefore
	}
	heads := map[cluster.RepoID]Head{}
	var total float64
	for repo, err := range u.journal.Repos(ctx, "") {
		if err != nil {
			return 0, err
		}
		if full {
			if repo.Head.Oldest, err = u.journal.oldest(ctx, repo); err != nil {
				return 0, err
			}
		}
		heads[repo.ID] = repo.Head
		total += float64(repo.Head.entries())
	}
	keep := level(heads, total*share)
	for id, head := range heads {
		n := head.entries()
		if n <= keep {
			continue
		}
		if err := remove(ctx, id, head.Version-keep+1); err != nil && !errors.Is(err, cluster.ErrNotFound) {
			return removed, err
		}
		removed += n - keep
	}
	if removed == 0 {
		return 0, nil
	}
	u.log.Warn("the journal is filling up; old entries were removed", "entries", removed, "kept_of_each", keep)
	return removed, u.compact(ctx)
}

// entries is how many entries a repository has.
func (h Head) entries() cluster.Version {
	if h.Version == 0 {
		return 0
	}
	return h.Version - max(h.Oldest, 1) + 1
}

// level is how many entries each repository may keep so that there are no more than
// budget of them: those with few lose none.
func level(heads map[cluster.RepoID]Head, budget float64) cluster.Version {
	low, high := cluster.Version(trimFloor), cluster.Version(trimFloor)
	for _, h := range heads {
		high = max(high, h.entries())
	}
	for low < high {
		mid := low + (high-low+1)/2
		sum := 0.0
		for _, h := range heads {
			sum += float64(min(h.entries(), mid))
		}
		if sum <= budget {
			low = mid
		} else {
			high = mid - 1
		}
	}
	return low
}
