package journal

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"gitcluster/internal/cluster"
)

// A sweep removes the chunks that no entry names: those of a node that died between
// writing them and their entry, and those that were left because nobody knew whether
// their entry would land. Etcd does not say how old a key is, so each sweep notes
// the revision it found, and the next takes only what was there before that.

// swept is the record of the last sweep.
type swept struct {
	At       time.Time `json:"at"`
	Revision int64     `json:"revision"` // when it began
}

// sweepEvery is how long lies between two sweeps, and so how old a chunk at least
// is that is removed.
const sweepEvery = 24 * time.Hour

// Sweep removes the chunks that have been there since the last sweep and that no
// entry names, and returns how many. If the last was not long enough ago it does
// nothing. Of nodes that ask at once one does it.
func (j *Journal) Sweep(ctx context.Context, every time.Duration) (removed int, err error) {
	r, err := j.get(ctx, keySwept)
	if err != nil {
		return 0, err
	}
	var last swept
	rev := int64(0)
	if len(r.Kvs) > 0 {
		rev = r.Kvs[0].ModRevision
		if err := json.Unmarshal(r.Kvs[0].Value, &last); err != nil {
			return 0, fmt.Errorf("%s: %w", keySwept, err)
		}
	}
	// A clock that was wrong once must not put it off for ever.
	if since := time.Since(last.At); since >= 0 && since < every {
		return 0, nil
	}
	next := swept{At: time.Now().UTC(), Revision: r.Header.Revision}
	t, err := j.kv.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(keySwept), "=", rev)).Then(clientv3.OpPut(keySwept, encode(next))).Commit()
	if err != nil || !t.Succeeded {
		return 0, unavailable(err)
	}
	old, err := j.oldChunks(ctx, last.Revision)
	if err != nil {
		return 0, err
	}
	for id, chunks := range old {
		n, err := j.removeUnnamed(ctx, id, chunks)
		removed += n
		if err != nil {
			return removed, err
		}
	}
	return removed, nil
}

// oldChunks returns, by repository, the ids of chunks of which every part was
// there at the revision.
func (j *Journal) oldChunks(ctx context.Context, rev int64) (map[cluster.RepoID]map[string]bool, error) {
	old := map[cluster.RepoID]map[string]bool{}
	end := clientv3.GetPrefixRangeEnd(keyChunk)
	for from, more := keyChunk, true; more; {
		r, err := j.get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(listPage), clientv3.WithKeysOnly())
		if err != nil {
			return nil, err
		}
		for _, kv := range r.Kvs {
			from = string(kv.Key) + "\x00"
			parts := strings.Split(strings.TrimPrefix(string(kv.Key), keyChunk), "/")
			if len(parts) != 3 {
				continue
			}
			id := cluster.RepoID(parts[0])
			if old[id] == nil {
				old[id] = map[string]bool{}
			}
			was, seen := old[id][parts[1]]
			old[id][parts[1]] = (was || !seen) && kv.ModRevision <= rev
		}
		more = r.More
	}
	for id, chunks := range old {
		for chunk, all := range chunks {
			if !all {
				delete(chunks, chunk)
			}
		}
		if len(chunks) == 0 {
			delete(old, id)
		}
	}
	return old, nil
}

// removeUnnamed removes those of the chunks that no entry of the repository names.
// An append that has been waiting for etcd since they were written could yet name
// them: so the head is written again as it is, which that append will not find.
func (j *Journal) removeUnnamed(ctx context.Context, id cluster.RepoID, chunks map[string]bool) (int, error) {
	headKey := keyHead + string(id)
	head, err := j.get(ctx, headKey)
	if err != nil {
		return 0, err
	}
	condition, again := clientv3.Compare(clientv3.CreateRevision(headKey), "=", 0), []clientv3.Op(nil)
	if len(head.Kvs) > 0 {
		condition = clientv3.Compare(clientv3.ModRevision(headKey), "=", head.Kvs[0].ModRevision)
		again = append(again, clientv3.OpPut(headKey, string(head.Kvs[0].Value)))
	}
	from, end := entryKey(id, 0), clientv3.GetPrefixRangeEnd(keyJournal+string(id)+"/")
	for more := true; more; {
		r, err := j.get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(entryPage))
		if err != nil {
			return 0, err
		}
		for _, kv := range r.Kvs {
			from = string(kv.Key) + "\x00"
			var e Entry
			if err := json.Unmarshal(kv.Value, &e); err != nil {
				return 0, fmt.Errorf("entry %s: %w", kv.Key, err)
			}
			delete(chunks, e.ChunkID)
		}
		more = r.More
	}
	removed := 0
	for chunk := range chunks {
		remove := clientv3.OpDelete(keyChunk+string(id)+"/"+chunk+"/", clientv3.WithPrefix())
		t, err := j.kv.Txn(ctx).If(condition).Then(append([]clientv3.Op{remove}, again...)...).Commit()
		if err != nil {
			return removed, unavailable(err)
		}
		if !t.Succeeded {
			return removed, nil // somebody pushed meanwhile; the next sweep looks again
		}
		removed++
		if len(again) > 0 {
			condition = clientv3.Compare(clientv3.ModRevision(headKey), "=", t.Header.Revision)
		}
	}
	return removed, nil
}
