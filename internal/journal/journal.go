// Package journal is the cluster's only truth: the ordered ref updates of every
// repository, and the records of devices, users and grants, in one etcd key
// space. No other package speaks etcd.
//
// Entry points: [New] over an etcd client; [Journal.Lookup] is the linearizable
// read that a synchronized read starts with; [Journal.Append] is the one
// transaction by which a push becomes real; [Journal.WatchHeads] and
// [Journal.WatchDirectory] follow changes. [StartMember] runs an embedded etcd
// server, [Members] keeps its membership, [Authority] issues its certificates, which
// [Journal.RemoveDevice] revokes, and [Upkeep] keeps its files small.
//
// It promises that Append answers only when the outcome is certain; that an
// entry is whole or absent; that Lookup shows every entry appended before it was called;
// and that nothing it returns comes from a cache.
package journal

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"gitcluster/internal/cluster"
)

// A Journal is the key space, as one node sees it.
type Journal struct {
	kv      clientv3.KV
	watcher clientv3.Watcher
	leases  clientv3.Lease
	ids     sync.Map // cluster.RepoName → cluster.RepoID: guesses that Lookup verifies

	// Observe, if set, is told how long each lookup and append took, and how it
	// ended. It must be set before the first call.
	Observe func(operation string, took time.Duration, err error)
}

// New returns the journal behind an etcd client.
func New(client *clientv3.Client) *Journal {
	return NewOver(client, client)
}

// NewOver is New with the key-value calls going through kv, for tests that
// lose answers.
func NewOver(client *clientv3.Client, kv clientv3.KV) *Journal {
	return &Journal{kv: boundedKV{kv}, watcher: client, leases: client}
}

// A Head is the newest position of a repository's journal, the point at which
// Append compares and swaps.
type Head struct {
	cluster.Position
	Oldest cluster.Version    `json:"oldest"`           // the first entry that has not been trimmed
	Device cluster.DeviceName `json:"device,omitempty"` // who appended the newest entry
	// GivenUp is the newest version that gave up others before it as lost; it stays
	// when that entry is trimmed.
	GivenUp cluster.Version `json:"given_up,omitempty"`

	// Asked is when the journal was asked for it: nothing that was appended before is
	// missing in it. Zero for a head that a watch has told of.
	Asked time.Time `json:"-"`

	rev int64  // etcd's modification revision of the key
	raw string // the record as it was read, with what a newer node may have in it
}

// The key space. Everything is below /gc/, so that an etcd cluster can be
// shared.
const (
	keyCluster     = "/gc/cluster"
	keyDevice      = "/gc/device/"
	keyIncarnation = "/gc/incarnation/"
	keyUser        = "/gc/user/"
	keyGrant       = "/gc/grant/"
	keyName        = "/gc/name/"
	keyRepo        = "/gc/repo/"
	keyHead        = "/gc/head/"
	keyJournal     = "/gc/journal/"
	keyChunk       = "/gc/chunk/"
	keyReplica     = "/gc/replica/"
	keyLock        = "/gc/lock/"
	keyToken       = "/gc/token/"
	keyAuthority   = "/gc/authority"
	keyMember      = "/gc/member/"
	keyCredential  = "/gc/credential/"
	keyObserved    = "/gc/observed/"
	keyObserving   = "/gc/observing/"
	keyUpkeep      = "/gc/upkeep/"
	keySwept       = "/gc/swept"
	keyCertificate = "/gc/certificate/"
	keyRevoked     = "/gc/revoked/"
)

func entryKey(id cluster.RepoID, v cluster.Version) string {
	return fmt.Sprintf("%s%s/%016x", keyJournal, id, uint64(v))
}

func chunkKey(id cluster.RepoID, chunk string, n int) string {
	return fmt.Sprintf("%s%s/%s/%06d", keyChunk, id, chunk, n)
}

// Lookup finds a repository by name, with its head, in one linearizable read.
// A name nobody has is [cluster.ErrNotFound].
func (j *Journal) Lookup(ctx context.Context, name cluster.RepoName) (_ cluster.Repo, _ Head, err error) {
	asked := time.Now()
	defer j.observe("lookup", asked, &err)
	guess, _ := j.ids.Load(name)
	id, _ := guess.(cluster.RepoID)
	for range 3 {
		ops := []clientv3.Op{clientv3.OpGet(keyName + string(name))}
		if id != "" {
			ops = append(ops, clientv3.OpGet(keyRepo+string(id)), clientv3.OpGet(keyHead+string(id)))
		}
		r, err := j.getAll(ctx, ops...)
		if err != nil {
			return cluster.Repo{}, Head{}, err
		}
		named := r.Responses[0].GetResponseRange().Kvs
		if len(named) == 0 {
			j.ids.Delete(name)
			return cluster.Repo{}, Head{}, fmt.Errorf("repository %q: %w", name, cluster.ErrNotFound)
		}
		found := cluster.RepoID(named[0].Value)
		if found == id {
			j.ids.Store(name, id)
			repo, head, err := decodeRepo(r.Responses[1].GetResponseRange().Kvs, r.Responses[2].GetResponseRange().Kvs)
			if err != nil {
				return cluster.Repo{}, Head{}, fmt.Errorf("repository %q: %w", name, err)
			}
			head.Asked = asked
			return repo, head, nil
		}
		id = found
	}
	return cluster.Repo{}, Head{}, fmt.Errorf("repository %q keeps being renamed: %w", name, cluster.ErrUnavailable)
}

func (j *Journal) observe(operation string, start time.Time, err *error) {
	if j.Observe != nil {
		j.Observe(operation, time.Since(start), *err)
	}
}

// LookupID is Lookup by id.
func (j *Journal) LookupID(ctx context.Context, id cluster.RepoID) (cluster.Repo, Head, error) {
	asked := time.Now()
	r, err := j.getAll(ctx, clientv3.OpGet(keyRepo+string(id)), clientv3.OpGet(keyHead+string(id)))
	if err != nil {
		return cluster.Repo{}, Head{}, err
	}
	repo, head, err := decodeRepo(r.Responses[0].GetResponseRange().Kvs, r.Responses[1].GetResponseRange().Kvs)
	if err != nil {
		return repo, head, fmt.Errorf("repository %s: %w", id, err)
	}
	head.Asked = asked
	return repo, head, nil
}

func decodeRepo(repoKV, headKV []*mvccpb.KeyValue) (repo cluster.Repo, head Head, err error) {
	if len(repoKV) == 0 || len(headKV) == 0 {
		return repo, head, cluster.ErrNotFound
	}
	if err := json.Unmarshal(repoKV[0].Value, &repo); err != nil {
		return repo, head, fmt.Errorf("settings: %w", err)
	}
	head, err = decodeHead(headKV[0])
	return repo, head, err
}

func decodeHead(kv *mvccpb.KeyValue) (Head, error) {
	var h Head
	if err := json.Unmarshal(kv.Value, &h); err != nil {
		return h, fmt.Errorf("head: %w", err)
	}
	h.rev, h.raw = kv.ModRevision, string(kv.Value)
	return h, nil
}

// WatchHeads calls changed with the head of every repository there is and then
// with each change, until the context ends; gone is called for a repository
// that was deleted. It survives lost connections and compactions by reading
// everything again.
func (j *Journal) WatchHeads(ctx context.Context, changed func(cluster.RepoID, Head), gone func(cluster.RepoID)) error {
	return j.follow(ctx, keyHead, func(kv *mvccpb.KeyValue) {
		if h, err := decodeHead(kv); err == nil {
			changed(cluster.RepoID(strings.TrimPrefix(string(kv.Key), keyHead)), h)
		}
	}, func(key string) { gone(cluster.RepoID(strings.TrimPrefix(key, keyHead))) })
}

// WatchRepos calls changed with every repository there is and then with each
// change of its record, until the context ends; gone is called for one that was
// deleted.
func (j *Journal) WatchRepos(ctx context.Context, changed func(cluster.Repo), gone func(cluster.RepoID)) error {
	return j.follow(ctx, keyRepo, func(kv *mvccpb.KeyValue) {
		var repo cluster.Repo
		if json.Unmarshal(kv.Value, &repo) == nil {
			changed(repo)
		}
	}, func(key string) { gone(cluster.RepoID(strings.TrimPrefix(key, keyRepo))) })
}

// follow lists a prefix and then watches it, from the start again whenever the
// watch breaks.
func (j *Journal) follow(ctx context.Context, prefix string, put func(*mvccpb.KeyValue), del func(key string)) error {
	wait := time.Duration(0)
	known := map[string]bool{}
	for {
		if err := pause(ctx, wait); err != nil {
			return err
		}
		wait = time.Second
		list, err := j.list(ctx, prefix)
		if err != nil {
			continue
		}
		there := make(map[string]bool, len(list.Kvs))
		for _, kv := range list.Kvs {
			there[string(kv.Key)] = true
			put(kv)
		}
		for key := range known { // deleted while nobody watched
			if !there[key] {
				del(key)
			}
		}
		known = there
		watch, stop := context.WithCancel(clientv3.WithRequireLeader(ctx))
		events := j.watcher.Watch(watch, prefix, clientv3.WithPrefix(), clientv3.WithRev(list.Header.Revision+1))
		for r := range events {
			if r.Err() != nil {
				break
			}
			wait = 0
			for _, e := range r.Events {
				if e.Type == mvccpb.Event_DELETE {
					delete(known, string(e.Kv.Key))
					del(string(e.Kv.Key))
				} else {
					known[string(e.Kv.Key)] = true
					put(e.Kv)
				}
			}
		}
		stop()
	}
}

func (j *Journal) list(ctx context.Context, prefix string) (*clientv3.GetResponse, error) {
	return j.get(ctx, prefix, clientv3.WithPrefix())
}

// read makes a call that changes nothing again until it succeeds, is refused,
// or the context ends: an election makes etcd fail reads that a moment later it
// answers, and a connection may hang on a server that is gone.
func read[T any](ctx context.Context, call func(context.Context) (T, error)) (T, error) {
	for {
		attempt, cancel := context.WithTimeout(ctx, callTimeout/3)
		r, err := call(attempt)
		cancel()
		if err == nil || refused(err) {
			return r, unavailable(err)
		}
		if pause(ctx, 20*time.Millisecond) != nil {
			return r, unavailable(err)
		}
	}
}

// get reads a key, or a range.
func (j *Journal) get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	return read(ctx, func(ctx context.Context) (*clientv3.GetResponse, error) { return j.kv.Get(ctx, key, opts...) })
}

// getAll reads several keys or ranges at one revision.
func (j *Journal) getAll(ctx context.Context, ops ...clientv3.Op) (*clientv3.TxnResponse, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	return read(ctx, func(ctx context.Context) (*clientv3.TxnResponse, error) { return j.kv.Txn(ctx).Then(ops...).Commit() })
}

// bounded gives a context an end if it has none.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, callTimeout)
}

// boundedKV gives every change an end, too: without a quorum etcd's client waits
// for one as long as it may.
type boundedKV struct{ clientv3.KV }

func (b boundedKV) Put(ctx context.Context, key, value string, opts ...clientv3.OpOption) (*clientv3.PutResponse, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	return b.KV.Put(ctx, key, value, opts...)
}

func (b boundedKV) Delete(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.DeleteResponse, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	return b.KV.Delete(ctx, key, opts...)
}

func (b boundedKV) Txn(ctx context.Context) clientv3.Txn {
	ctx, cancel := bounded(ctx)
	return &boundedTxn{b.KV.Txn(ctx), cancel}
}

type boundedTxn struct {
	clientv3.Txn
	cancel context.CancelFunc
}

func (t *boundedTxn) If(c ...clientv3.Cmp) clientv3.Txn  { t.Txn = t.Txn.If(c...); return t }
func (t *boundedTxn) Then(o ...clientv3.Op) clientv3.Txn { t.Txn = t.Txn.Then(o...); return t }
func (t *boundedTxn) Else(o ...clientv3.Op) clientv3.Txn { t.Txn = t.Txn.Else(o...); return t }
func (t *boundedTxn) Commit() (*clientv3.TxnResponse, error) {
	defer t.cancel()
	return t.Txn.Commit()
}

// callTimeout bounds one call to etcd that the caller has not bounded tighter.
const callTimeout = 5 * time.Second

// unavailable marks an error of etcd as one that says nothing about the data.
func unavailable(err error) error {
	if err == nil {
		return nil
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		err = worded{err, "no answer in time"}
	case errors.Is(err, rpctypes.ErrNoSpace):
		err = worded{err, "it is full"}
	}
	return fmt.Errorf("%w: %w", cluster.ErrUnavailable, err)
}

// worded is an error in words that say something to people.
type worded struct {
	error
	text string
}

func (w worded) Error() string { return w.text }
func (w worded) Unwrap() error { return w.error }

func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return context.Cause(ctx)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

func encode(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic("journal: a record that JSON cannot hold: " + err.Error()) // a programming error: all records are plain structs
	}
	return string(data)
}

// NewID returns 16 random hexadecimal digits: the form of repository ids, push ids
// and incarnations.
func NewID() string {
	var b [8]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

var errNoRecord = errors.New("no such record")
