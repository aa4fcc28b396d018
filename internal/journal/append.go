package journal

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"

	"gitcluster/internal/cluster"
)

// An Entry is one version of a repository: the ref updates that lead to it from
// the version before.
type Entry struct {
	Epoch   cluster.Epoch        `json:"epoch"`
	Version cluster.Version      `json:"version"`
	Updates []cluster.RefUpdate  `json:"updates,omitempty"`
	Head    cluster.RefName      `json:"head,omitempty"` // HEAD's new target, if it changes
	Digest  cluster.Digest       `json:"digest"`
	Device  cluster.DeviceName   `json:"device"`
	Time    time.Time            `json:"time"`
	Pushes  []Push               `json:"pushes"`
	Copies  []cluster.DeviceName `json:"copies"` // who is known to hold the objects
	// GivenUp, if not 0, is the first of the versions before this one that were
	// given up as lost: the entry goes back to the refs before it.
	GivenUp cluster.Version `json:"given_up,omitempty"`

	// A large update list is kept in chunks, written before the entry.
	Chunks    int    `json:"chunks,omitempty"`
	ChunkHash string `json:"chunk_hash,omitempty"` // SHA-256 of the list's JSON
	ChunkID   string `json:"chunk_id,omitempty"`   // in the chunks' keys; no two appends share one
}

// A Push says who made some of an entry's updates. The updates of the pushes
// follow each other in the entry's list.
type Push struct {
	ID    string `json:"push"`
	Actor string `json:"actor"`
	Refs  int    `json:"refs"` // how many of the entry's updates are its own
	// Waited is how long the push waited for its turn and its copies, in
	// milliseconds.
	Waited int64 `json:"waited_ms,omitempty"`
}

// Position returns the position the entry leads to.
func (e *Entry) Position() cluster.Position {
	return cluster.Position{Epoch: e.Epoch, Version: e.Version, Digest: e.Digest}
}

// A Counted is a device whose copy of the objects an entry relies on. If its
// disk has been replaced meanwhile, its incarnation is another and the entry
// must not be appended.
type Counted struct {
	Device      cluster.DeviceName
	Incarnation string
}

var (
	// ErrHeadMoved: another entry came first; catch up and try again.
	ErrHeadMoved = errors.New("the head has moved")
	// ErrIncarnation: a counted device is no longer the one that took the copy.
	ErrIncarnation = errors.New("a counted replica has been replaced")
	// ErrTrimmed: an entry is no longer there.
	ErrTrimmed = errors.New("the entry has been trimmed")
	// ErrUnclear: the context ended before etcd said whether the entry was
	// appended. It may have been, and may yet be.
	ErrUnclear = errors.New("the journal's answer is unknown")
)

// chunkBytes is the size above which an update list leaves its entry; etcd
// refuses requests of more than 1.5 MiB.
const chunkBytes = 512 << 10

// Append appends the entry if the head still is what the caller saw, and
// returns the new head. It returns an error other than [ErrUnclear] only if the
// entry is certainly not in the journal. A lost answer is not an answer: the
// same transaction is repeated until etcd gives a definite one, and an entry that
// bears our push id is success.
// A repository that an operator holds takes none: [cluster.ErrLocked].
func (j *Journal) Append(ctx context.Context, id cluster.RepoID, head Head, e Entry, counted []Counted) (Head, error) {
	key := keyLock + string(id)
	return j.append(ctx, id, head, e, counted, clientv3.Compare(clientv3.CreateRevision(key), "=", 0))
}

// AppendUnlocking appends the entry that an operator's work leads to, and ends
// their lock in the same transaction.
func (j *Journal) AppendUnlocking(ctx context.Context, id cluster.RepoID, head Head, e Entry, counted []Counted, held Lock) (Head, error) {
	key := keyLock + string(id)
	return j.append(ctx, id, head, e, counted, clientv3.Compare(clientv3.Value(key), "=", held.text()), clientv3.OpDelete(key))
}

func (j *Journal) append(ctx context.Context, id cluster.RepoID, head Head, e Entry, counted []Counted, lock clientv3.Cmp, also ...clientv3.Op) (_ Head, err error) {
	defer j.observe("append", time.Now(), &err)
	stored, chunks, err := split(e)
	if err != nil {
		return Head{}, err
	}
	for n, chunk := range chunks {
		if err := j.put(ctx, chunkKey(id, stored.ChunkID, n), chunk); err != nil {
			return Head{}, err // garbage chunks are harmless; no entry names them
		}
	}
	unclear := false // an attempt may yet land
	defer func() {
		// A refused entry's chunks are named by nothing, ever; one that may yet
		// land would name chunks that are gone.
		if err != nil && len(chunks) > 0 && !unclear {
			j.kv.Delete(ctx, keyChunk+string(id)+"/"+stored.ChunkID+"/", clientv3.WithPrefix())
		}
	}()
	next := head
	next.Position, next.Device = e.Position(), e.Device
	if next.Oldest == 0 || e.Epoch != head.Epoch {
		next.Oldest = e.Version // what is before it leads nowhere now
	}
	if e.GivenUp > 0 {
		next.GivenUp = e.Version
	}
	next.raw = recode([]byte(head.raw), next)
	headKey, key := keyHead+string(id), entryKey(id, e.Version)
	conditions := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(headKey), "=", head.rev), lock}
	onSuccess := append([]clientv3.Op{clientv3.OpPut(key, encode(stored)), clientv3.OpPut(headKey, next.raw)}, also...)
	onFailure := []clientv3.Op{clientv3.OpGet(headKey), clientv3.OpGet(key), clientv3.OpGet(keyLock + string(id))}
	for _, c := range counted {
		conditions = append(conditions, clientv3.Compare(clientv3.Value(keyIncarnation+string(c.Device)), "=", c.Incarnation))
	}
	txn := func() (*clientv3.TxnResponse, error) {
		attempt, cancel := context.WithTimeout(ctx, callTimeout/3) // an election must not cost more
		defer cancel()
		return j.kv.Txn(attempt).If(conditions...).
			Then(onSuccess...).Else(onFailure...).Commit()
	}
	for {
		r, err := txn()
		switch {
		case err == nil && r.Succeeded:
			next.rev = r.Header.Revision
			return next, nil
		case err == nil:
			kvs := r.Responses[0].GetResponseRange().Kvs
			if len(kvs) == 0 {
				return Head{}, fmt.Errorf("repository %s: %w", id, cluster.ErrNotFound)
			}
			now, err := decodeHead(kvs[0])
			if err != nil {
				return Head{}, err
			}
			if at := r.Responses[1].GetResponseRange().Kvs; len(at) > 0 {
				var there Entry
				if err := json.Unmarshal(at[0].Value, &there); err != nil {
					return Head{}, fmt.Errorf("entry %s: %w", key, err)
				}
				if there.Epoch == e.Epoch && bears(there, e) {
					next.rev = at[0].ModRevision
					return next, nil
				}
			}
			if locks := r.Responses[2].GetResponseRange().Kvs; len(locks) > 0 && len(also) == 0 {
				var l Lock
				if err := json.Unmarshal(locks[0].Value, &l); err != nil {
					return Head{}, fmt.Errorf("lock of %s: %w", id, err)
				}
				return Head{}, l.refusal()
			}
			if now.rev == head.rev && len(also) > 0 {
				return Head{}, fmt.Errorf("the lock or a counted replica changed meanwhile: %w", cluster.ErrLocked)
			}
			if now.rev == head.rev {
				return Head{}, ErrIncarnation
			}
			return Head{}, ErrHeadMoved
		case !unclear && refused(err):
			return Head{}, unavailable(err)
		}
		// From here on even a refusal proves nothing: it is the answer to a
		// repetition, and the first attempt may still land.
		unclear = true
		if pause(ctx, 50*time.Millisecond) != nil {
			return Head{}, fmt.Errorf("%w: %w", ErrUnclear, err)
		}
	}
}

// entryPage is how many entries are read at once: each may be as large as
// chunkBytes, and an answer must come within one attempt of a read.
const entryPage = 16

// Entries gives the entries of the versions in (after, upTo], in order and with
// their updates. It ends with an error if one is missing: that one has been
// trimmed.
func (j *Journal) Entries(ctx context.Context, id cluster.RepoID, after, upTo cluster.Version) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for at := after + 1; at <= upTo; {
			page, err := j.readPage(ctx, id, at, upTo)
			if err != nil {
				yield(Entry{}, err)
				return
			}
			for _, e := range page {
				// Chunks are read one entry at a time: sixteen large entries
				// at once would be too much to hold.
				e.Updates, err = j.updates(ctx, id, e)
				if !yield(e, err) || err != nil {
					return
				}
			}
			at += cluster.Version(len(page))
		}
	}
}

// Newest returns at most limit entries, the newest first, of the versions before
// the given one, or all if that is 0. The update list of a large entry is left
// out: who looks through the log wants to see many entries and not all of one.
func (j *Journal) Newest(ctx context.Context, id cluster.RepoID, before cluster.Version, limit int) ([]Entry, error) {
	end := clientv3.GetPrefixRangeEnd(keyJournal + string(id) + "/")
	if before > 0 {
		end = entryKey(id, before)
	}
	var all []Entry
	for len(all) < limit {
		r, err := j.get(ctx, entryKey(id, 0), clientv3.WithRange(end), clientv3.WithLimit(int64(min(entryPage, limit-len(all)))),
			clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend))
		if err != nil {
			return nil, err
		}
		if len(r.Kvs) == 0 {
			break
		}
		for _, kv := range r.Kvs {
			var e Entry
			if err := json.Unmarshal(kv.Value, &e); err != nil {
				return nil, fmt.Errorf("entry %s: %w", kv.Key, err)
			}
			all = append(all, e)
			end = string(kv.Key)
		}
	}
	return all, nil
}

// readPage reads some entries from the version at on.
func (j *Journal) readPage(ctx context.Context, id cluster.RepoID, at, upTo cluster.Version) ([]Entry, error) {
	missing := func(v cluster.Version) error { return fmt.Errorf("repository %s: entry %d: %w", id, v, ErrTrimmed) }
	r, err := j.get(ctx, entryKey(id, at), clientv3.WithRange(entryKey(id, upTo+1)), clientv3.WithLimit(entryPage))
	if err != nil {
		return nil, err
	}
	if len(r.Kvs) == 0 {
		return nil, missing(at)
	}
	page := make([]Entry, len(r.Kvs))
	for i, kv := range r.Kvs {
		e := &page[i]
		if err := json.Unmarshal(kv.Value, e); err != nil {
			return nil, fmt.Errorf("entry %s: %w", kv.Key, err)
		}
		if want := at + cluster.Version(i); e.Version != want {
			return nil, missing(want)
		}
	}
	return page, nil
}

// updates returns the entry's update list, joined from its chunks if it has any.
func (j *Journal) updates(ctx context.Context, id cluster.RepoID, e Entry) ([]cluster.RefUpdate, error) {
	if e.Chunks == 0 {
		return e.Updates, nil
	}
	var data []byte
	for n := range e.Chunks {
		r, err := j.get(ctx, chunkKey(id, e.ChunkID, n))
		if err != nil {
			return nil, err
		}
		if len(r.Kvs) == 0 {
			return nil, fmt.Errorf("repository %s: entry %d: chunk %d: %w", id, e.Version, n, errNoRecord)
		}
		data = append(data, r.Kvs[0].Value...)
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != e.ChunkHash {
		return nil, fmt.Errorf("repository %s: entry %d: its chunks do not have its hash", id, e.Version)
	}
	var updates []cluster.RefUpdate
	if err := json.Unmarshal(data, &updates); err != nil {
		return nil, fmt.Errorf("repository %s: entry %d: %w", id, e.Version, err)
	}
	return updates, nil
}

// split moves a large update list out of the entry.
func split(e Entry) (Entry, []string, error) {
	data, err := json.Marshal(e.Updates)
	if err != nil {
		return e, nil, err
	}
	if len(data) <= chunkBytes {
		return e, nil, nil
	}
	if len(e.Pushes) == 0 {
		return e, nil, errors.New("a large entry without a push id")
	}
	sum := sha256.Sum256(data)
	// Not the push's id: a push that is tried again must not share its chunks with
	// the attempt before, whose removal may yet be on its way to etcd.
	e.ChunkHash, e.ChunkID, e.Updates = hex.EncodeToString(sum[:]), NewID(), nil
	var chunks []string
	for len(data) > 0 {
		n := min(len(data), chunkBytes)
		chunks = append(chunks, string(data[:n]))
		data = data[n:]
	}
	e.Chunks = len(chunks)
	return e, chunks, nil
}

func bears(there, ours Entry) bool {
	return len(there.Pushes) > 0 && len(ours.Pushes) > 0 && there.Pushes[0].ID == ours.Pushes[0].ID
}

// refused reports whether etcd's error says that it did not, and will not, run
// the transaction.
func refused(err error) bool {
	var etcd rpctypes.EtcdError
	if !errors.As(err, &etcd) {
		return false
	}
	switch etcd.Code() {
	case codes.ResourceExhausted, codes.InvalidArgument, codes.PermissionDenied, codes.Unauthenticated, codes.OutOfRange:
		return true
	}
	return false
}

func (j *Journal) put(ctx context.Context, key, value string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := j.kv.Put(ctx, key, value)
	return unavailable(err)
}
