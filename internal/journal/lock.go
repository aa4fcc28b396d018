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
}

func (l Lock) refusal() error {
	return fmt.Errorf("%s holds the repository since %s: %w", l.By, l.Since.Format(time.RFC3339), cluster.ErrLocked)
}

// Lock has [Journal.Append] refuse every entry of the repository from now on.
func (j *Journal) Lock(ctx context.Context, id cluster.RepoID, l Lock) error {
	key := keyLock + string(id)
	r, err := j.kv.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0), clientv3.Compare(clientv3.CreateRevision(keyHead+string(id)), ">", 0)).
		Then(clientv3.OpPut(key, encode(l))).Commit()
	if err != nil {
		return unavailable(err)
	}
	if !r.Succeeded {
		held, err := j.LockOf(ctx, id)
		if err != nil {
			return err
		}
		return held.refusal()
	}
	return nil
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
	return l, json.Unmarshal(r.Kvs[0].Value, &l)
}

// Unlock ends a lock without an entry.
func (j *Journal) Unlock(ctx context.Context, id cluster.RepoID, held Lock) error {
	key := keyLock + string(id)
	r, err := j.kv.Txn(ctx).If(clientv3.Compare(clientv3.Value(key), "=", encode(held))).Then(clientv3.OpDelete(key)).Commit()
	if err == nil && !r.Succeeded {
		err = fmt.Errorf("the lock of repository %s changed meanwhile: %w", id, cluster.ErrNotFound)
	}
	return unavailable(err)
}
