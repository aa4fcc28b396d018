package journal

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"gitcluster/internal/cluster"
)

// A Lock says that an operator holds a repository's writes.
type Lock struct {
	Device cluster.DeviceName `json:"device"` // where refs may be changed on disk
	By     string             `json:"by"`
	Since  time.Time          `json:"since"`

	raw string // the record as it was read
}

// text is the record, as it must be for the lock to be this one.
func (l Lock) text() string {
	if l.raw != "" {
		return l.raw
	}
	return encode(l)
}

func (l Lock) refusal() error {
	return fmt.Errorf("%s holds the repository since %s: %w", l.By, l.Since.Format(time.RFC3339), cluster.ErrLocked)
}

// Lock has [Journal.Append] refuse every entry of the repository from now on. It
// writes the head again as it is: an append that was refused because of the lock
// may have an earlier attempt that has not reached etcd yet, and would find the
// head it knows when the lock has ended.
func (j *Journal) Lock(ctx context.Context, id cluster.RepoID, l Lock) error {
	key, headKey := keyLock+string(id), keyHead+string(id)
	for {
		r, err := j.getAll(ctx, clientv3.OpGet(headKey), clientv3.OpGet(key))
		if err != nil {
			return err
		}
		heads, locks := r.Responses[0].GetResponseRange().Kvs, r.Responses[1].GetResponseRange().Kvs
		if len(heads) == 0 {
			return fmt.Errorf("repository %s: %w", id, cluster.ErrNotFound)
		}
		if len(locks) > 0 {
			var held Lock
			if err := json.Unmarshal(locks[0].Value, &held); err != nil {
				return fmt.Errorf("lock of %s: %w", id, err)
			}
			return held.refusal()
		}
		t, err := j.kv.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0), clientv3.Compare(clientv3.ModRevision(headKey), "=", heads[0].ModRevision)).
			Then(clientv3.OpPut(key, encode(l)), clientv3.OpPut(headKey, string(heads[0].Value))).Commit()
		if err != nil {
			return unavailable(err)
		}
		if t.Succeeded {
			return nil
		}
	}
}

// LockOf returns the lock of a repository, or [cluster.ErrNotFound].
func (j *Journal) LockOf(ctx context.Context, id cluster.RepoID) (l Lock, err error) {
	r, err := j.get(ctx, keyLock+string(id))
	if err != nil {
		return l, err
	}
	if len(r.Kvs) == 0 {
		return l, fmt.Errorf("a lock of repository %s: %w", id, cluster.ErrNotFound)
	}
	l.raw = string(r.Kvs[0].Value)
	return l, json.Unmarshal(r.Kvs[0].Value, &l)
}

// Unlock ends a lock without an entry.
func (j *Journal) Unlock(ctx context.Context, id cluster.RepoID, held Lock) error {
	key := keyLock + string(id)
	r, err := j.kv.Txn(ctx).If(clientv3.Compare(clientv3.Value(key), "=", held.text())).Then(clientv3.OpDelete(key)).Commit()
	if err != nil {
		return unavailable(err)
	}
	if !r.Succeeded {
		return fmt.Errorf("the lock of repository %s changed meanwhile: %w", id, cluster.ErrNotFound)
	}
	return nil
}
