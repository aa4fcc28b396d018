package journal

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"gitcluster/internal/cluster"
)

// slowKV keeps back the first transaction that changes something, and says that
// its answer was lost. It reaches etcd when the test lets it.
type slowKV struct {
	clientv3.KV
	then func()      // called when it is kept back
	land func() bool // lets it go, and reports whether it changed anything
}

func (s *slowKV) Txn(ctx context.Context) clientv3.Txn {
	return &slowTxn{Txn: s.KV.Txn(ctx), s: s}
}

type slowTxn struct {
	clientv3.Txn
	s         *slowKV
	cs        []clientv3.Cmp
	then, els []clientv3.Op
}

func (t *slowTxn) If(c ...clientv3.Cmp) clientv3.Txn {
	t.Txn, t.cs = t.Txn.If(c...), c
	return t
}

func (t *slowTxn) Then(o ...clientv3.Op) clientv3.Txn {
	t.Txn, t.then = t.Txn.Then(o...), o
	return t
}

func (t *slowTxn) Else(o ...clientv3.Op) clientv3.Txn {
	t.Txn, t.els = t.Txn.Else(o...), o
	return t
}

func (t *slowTxn) Commit() (*clientv3.TxnResponse, error) {
	if len(t.cs) == 0 || t.s.land != nil {
		return t.Txn.Commit()
	}
	t.s.land = func() bool {
		r, err := t.s.KV.Txn(context.Background()).If(t.cs...).Then(t.then...).Else(t.els...).Commit()
		return err == nil && r.Succeeded
	}
	t.s.then()
	return nil, context.DeadlineExceeded
}

// A push of which an attempt is late, and whose repetition a lock refuses, stays
// refused, however late the attempt comes.
func TestRefusedByALockStaysRefused(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		repo, head := w.create("a")
		operator := New(w.client)
		lock := Lock{Device: "b", By: "tester", Since: time.Now().UTC()}
		slow := &slowKV{KV: w.client, then: func() {
			if err := operator.Lock(ctx, repo.ID, lock); err != nil {
				t.Error(err)
			}
		}}
		if _, err := NewOver(w.client, slow).Append(ctx, repo.ID, head, entry(head, 1), nil); !errors.Is(err, cluster.ErrLocked) {
			t.Fatalf("under a lock: %v", err)
		}
		if err := operator.Unlock(ctx, repo.ID, lock); err != nil {
			t.Fatal(err)
		}
		if slow.land() {
			t.Error("the push was refused and is in the journal")
		}
		_, now, err := w.LookupID(ctx, repo.ID)
		if err != nil || now.Position != head.Position || w.count(keyJournal+string(repo.ID)) != 0 {
			t.Fatalf("the head is %+v, %v; it was %+v", now, err, head)
		}
		w.append(repo.ID, now, entry(now, 2))
	})
}

// Where nobody can know whether an earlier attempt will land, its chunks stay. The
// lock is that of a node from before locks moved the head.
func TestChunksOfALateAttemptStay(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		repo, head := w.create("a")
		e := entry(head, 1)
		e.Updates = many(10_000)
		slow := &slowKV{KV: w.client, then: func() {
			if _, err := w.client.Put(ctx, keyLock+string(repo.ID), encode(Lock{Device: "b", By: "tester"})); err != nil {
				t.Error(err)
			}
		}}
		if _, err := NewOver(w.client, slow).Append(ctx, repo.ID, head, e, nil); !errors.Is(err, cluster.ErrLocked) {
			t.Fatalf("under a lock: %v", err)
		}
		if _, err := w.client.Delete(ctx, keyLock+string(repo.ID)); err != nil {
			t.Fatal(err)
		}
		if !slow.land() {
			t.Fatal("the late attempt did not land")
		}
		if got, err := w.Entries(ctx, repo.ID, 0, 1); err != nil || len(got) != 1 || !slices.Equal(got[0].Updates, e.Updates) {
			t.Errorf("%d entries, %v", len(got), err)
		}
	})
}

func TestLockHoldsAppends(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		repo, head := w.create("a")
		lock := Lock{Device: "b", By: "tester", Since: time.Now().UTC()}
		if err := w.Lock(ctx, "ffffffffffffffff", lock); !errors.Is(err, cluster.ErrNotFound) {
			t.Errorf("a repository that is not there: %v", err)
		}
		if err := w.Lock(ctx, repo.ID, lock); err != nil {
			t.Fatal(err)
		}
		if err := w.Lock(ctx, repo.ID, Lock{Device: "c"}); !errors.Is(err, cluster.ErrLocked) {
			t.Errorf("locked twice: %v", err)
		}
		_, now, err := w.LookupID(ctx, repo.ID)
		if err != nil || now.Position != head.Position || now.Oldest != head.Oldest || now.rev == head.rev {
			t.Errorf("under the lock the head is %+v, %v; it was %+v", now, err, head)
		}
		for _, h := range []Head{head, now} {
			if _, err := w.Append(ctx, repo.ID, h, entry(h, 1), nil); !errors.Is(err, cluster.ErrLocked) {
				t.Errorf("appended under a lock: %v", err)
			}
		}
		if _, err := w.AppendUnlocking(ctx, repo.ID, now, entry(now, 1), nil, Lock{Device: "c"}); !errors.Is(err, cluster.ErrLocked) {
			t.Errorf("appended under the lock of somebody else: %v", err)
		}
		next, err := w.AppendUnlocking(ctx, repo.ID, now, entry(now, 1), nil, lock)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.LockOf(ctx, repo.ID); !errors.Is(err, cluster.ErrNotFound) {
			t.Errorf("the lock has not ended: %v", err)
		}
		w.append(repo.ID, next, entry(next, 2))
	})
}
