package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"gitcluster/internal/cluster"
)

// CreateRepo makes a repository of a new name, empty, at version 0. Neither a
// folder of the name nor a name below it may be a repository: an address such
// as "a/b/info/refs" must mean one thing.
func (j *Journal) CreateRepo(ctx context.Context, repo cluster.Repo) (Head, error) {
	return j.CreateRepoIn(ctx, repo, 1)
}

// CreateRepoIn is CreateRepo in another epoch than the first, for a repository that
// was restored: whoever remembers a version of it must not compare it with a new one.
func (j *Journal) CreateRepoIn(ctx context.Context, repo cluster.Repo, epoch cluster.Epoch) (Head, error) {
	head := Head{Position: cluster.Position{Epoch: epoch}}
	head.Digest.MoveHead("", repo.InitialHead)
	head.raw = encode(head)
	r, err := j.kv.Txn(ctx).If(freeName(repo.Name, "")...).Then(
		clientv3.OpPut(keyName+string(repo.Name), string(repo.ID)),
		clientv3.OpPut(keyRepo+string(repo.ID), encode(repo)),
		clientv3.OpPut(keyHead+string(repo.ID), head.raw),
	).Commit()
	if err != nil {
		return Head{}, unavailable(err)
	}
	if !r.Succeeded {
		return Head{}, j.nameTaken(ctx, repo.Name)
	}
	head.rev = r.Header.Revision
	return head, nil
}

// RenameRepo gives the repository another name; no data moves.
func (j *Journal) RenameRepo(ctx context.Context, repo cluster.Repo, to cluster.RepoName) error {
	from := repo.Name
	if from == to {
		return fmt.Errorf("repository %q: it has that name: %w", to, cluster.ErrExists)
	}
	for {
		now, was, err := j.repoRecord(ctx, repo.ID)
		if err == nil && now.Name != from {
			err = cluster.ErrNotFound // somebody else renamed it
		}
		if err != nil {
			return fmt.Errorf("repository %q: %w", from, err)
		}
		now.Name = to
		free := freeName(to, from)
		unchanged := clientv3.Compare(clientv3.ModRevision(keyRepo+string(repo.ID)), "=", was.rev)
		r, err := j.kv.Txn(ctx).If(append(free, unchanged)...).Then(
			clientv3.OpDelete(keyName+string(from)),
			clientv3.OpPut(keyName+string(to), string(repo.ID)),
			clientv3.OpPut(keyRepo+string(repo.ID), recode(was.value, now)),
		).Commit()
		if err != nil {
			return unavailable(err)
		}
		if r.Succeeded {
			return nil
		}
		if _, again, err := j.repoRecord(ctx, repo.ID); err == nil && again.rev == was.rev {
			return j.nameTaken(ctx, to)
		}
	}
}

// ChangeRepo changes the repository's settings with change, again if somebody
// else changed them meanwhile. Its name and id stay.
func (j *Journal) ChangeRepo(ctx context.Context, id cluster.RepoID, change func(*cluster.Repo)) error {
	for {
		now, was, err := j.repoRecord(ctx, id)
		if err != nil {
			return fmt.Errorf("repository %s: %w", id, err)
		}
		changed := now
		change(&changed)
		changed.ID, changed.Name = now.ID, now.Name
		if changed == now {
			return nil
		}
		key := keyRepo + string(id)
		r, err := j.kv.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", was.rev)).Then(clientv3.OpPut(key, recode(was.value, changed))).Commit()
		if err != nil {
			return unavailable(err)
		}
		if r.Succeeded {
			return nil
		}
	}
}

// Repo returns a repository's settings by its id.
func (j *Journal) Repo(ctx context.Context, id cluster.RepoID) (cluster.Repo, error) {
	repo, _, err := j.repoRecord(ctx, id)
	return repo, err
}

// stored is a record as etcd has it, with the revision at which it was last changed.
type stored struct {
	value []byte
	rev   int64
}

// repoRecord returns the settings as they are now.
func (j *Journal) repoRecord(ctx context.Context, id cluster.RepoID) (repo cluster.Repo, is stored, err error) {
	r, err := j.get(ctx, keyRepo+string(id))
	if err != nil {
		return repo, is, err
	}
	if len(r.Kvs) == 0 {
		return repo, is, cluster.ErrNotFound
	}
	err = json.Unmarshal(r.Kvs[0].Value, &repo)
	return repo, stored{r.Kvs[0].Value, r.Kvs[0].ModRevision}, err
}

// DeleteRepo removes the repository and its whole journal.
func (j *Journal) DeleteRepo(ctx context.Context, repo cluster.Repo) error {
	r, err := j.kv.Txn(ctx).If(clientv3.Compare(clientv3.Value(keyName+string(repo.Name)), "=", string(repo.ID))).Then(
		clientv3.OpDelete(keyName+string(repo.Name)),
		clientv3.OpDelete(keyRepo+string(repo.ID)),
		clientv3.OpDelete(keyHead+string(repo.ID)),
		clientv3.OpDelete(keyJournal+string(repo.ID)+"/", clientv3.WithPrefix()),
		clientv3.OpDelete(keyChunk+string(repo.ID)+"/", clientv3.WithPrefix()),
		clientv3.OpDelete(keyReplica+string(repo.ID)+"/", clientv3.WithPrefix()),
		clientv3.OpDelete(keyCredential+string(repo.ID)),
		clientv3.OpDelete(keyLock+string(repo.ID)),
		clientv3.OpDelete(keyObserved+string(repo.ID)),
	).Commit()
	if err != nil {
		return unavailable(err)
	}
	if !r.Succeeded {
		return fmt.Errorf("repository %q: %w", repo.Name, cluster.ErrNotFound)
	}
	return nil
}

// DeleteIfEmpty removes a repository that nothing was ever pushed to; head is
// that of its creation. It reports whether it did.
func (j *Journal) DeleteIfEmpty(ctx context.Context, repo cluster.Repo, head Head) (bool, error) {
	r, err := j.kv.Txn(ctx).If(
		clientv3.Compare(clientv3.Value(keyName+string(repo.Name)), "=", string(repo.ID)),
		clientv3.Compare(clientv3.ModRevision(keyHead+string(repo.ID)), "=", head.rev),
	).Then(
		clientv3.OpDelete(keyName+string(repo.Name)),
		clientv3.OpDelete(keyRepo+string(repo.ID)),
		clientv3.OpDelete(keyHead+string(repo.ID)),
		clientv3.OpDelete(keyCredential+string(repo.ID)),
		clientv3.OpDelete(keyObserved+string(repo.ID)),
	).Commit()
	if err != nil {
		return false, unavailable(err)
	}
	return r.Succeeded, nil
}

// A RepoHead is a repository with its head.
type RepoHead struct {
	cluster.Repo
	Head Head `json:"head"`
}

// listPage is how many repositories are read at once.
const listPage = 500

// Repos gives all repositories with their heads, in the order of their names and
// from after the given one on, as they were at one moment: what is created, renamed
// or deleted while somebody goes through them changes nothing in that. Only if that
// takes longer than etcd keeps what was, the rest is of a later moment.
func (j *Journal) Repos(ctx context.Context, after cluster.RepoName) iter.Seq2[RepoHead, error] {
	return j.reposIn(ctx, after, listPage)
}

func (j *Journal) reposIn(ctx context.Context, after cluster.RepoName, page int) iter.Seq2[RepoHead, error] {
	return func(yield func(RepoHead, error) bool) {
		for at, more := int64(0), true; more; {
			var repos []RepoHead
			var err error
			repos, more, err = j.repoPage(ctx, after, page, &at)
			if errors.Is(err, rpctypes.ErrCompacted) {
				at, more = 0, true
				continue
			}
			if err != nil {
				yield(RepoHead{}, err)
				return
			}
			for _, r := range repos {
				after = r.Name
				if !yield(r, nil) {
					return
				}
			}
		}
	}
}

// repoPage reads some repositories at the revision at, which is set if it is 0, and
// reports whether there are more.
func (j *Journal) repoPage(ctx context.Context, after cluster.RepoName, page int, at *int64) (repos []RepoHead, more bool, err error) {
	names, err := j.get(ctx, keyName+string(after)+"\x00",
		clientv3.WithRange(clientv3.GetPrefixRangeEnd(keyName)), clientv3.WithLimit(int64(page)), clientv3.WithRev(*at))
	if err != nil {
		return nil, false, err
	}
	if *at == 0 {
		*at = names.Header.Revision
	}
	const batch = 50 // etcd takes at most 128 operations in a transaction
	for i := 0; i < len(names.Kvs); i += batch {
		var ops []clientv3.Op
		for _, kv := range names.Kvs[i:min(i+batch, len(names.Kvs))] {
			ops = append(ops, clientv3.OpGet(keyRepo+string(kv.Value), clientv3.WithRev(*at)), clientv3.OpGet(keyHead+string(kv.Value), clientv3.WithRev(*at)))
		}
		r, err := j.getAll(ctx, ops...)
		if err != nil {
			return nil, false, err
		}
		for n := 0; n < len(r.Responses); n += 2 {
			repo, head, err := decodeRepo(r.Responses[n].GetResponseRange().Kvs, r.Responses[n+1].GetResponseRange().Kvs)
			if err != nil {
				return nil, false, fmt.Errorf("repository %q: %w", strings.TrimPrefix(string(names.Kvs[i+n/2].Key), keyName), err)
			}
			repos = append(repos, RepoHead{repo, head})
		}
	}
	return repos, names.More, nil
}

// A Replica is what a device last reported of its copy of a repository. It may
// lag; nothing depends on it for safety.
type Replica struct {
	Repo   cluster.RepoID     `json:"-"`
	Device cluster.DeviceName `json:"-"`
	cluster.Position
	Fenced string `json:"fenced,omitempty"` // why it serves nothing, if it does not
}

// ReportReplica records what this device's copy shows.
func (j *Journal) ReportReplica(ctx context.Context, r Replica) error {
	return j.put(ctx, keyReplica+string(r.Repo)+"/"+string(r.Device), encode(r))
}

// ReportedReplica returns what a device last reported of its copy of a
// repository, or [cluster.ErrNotFound].
func (j *Journal) ReportedReplica(ctx context.Context, id cluster.RepoID, device cluster.DeviceName) (Replica, error) {
	r := Replica{Repo: id, Device: device}
	err := j.record(ctx, keyReplica+string(id)+"/"+string(device), &r)
	return r, err
}

// Replicas returns the reports on one repository, or on all if id is "".
func (j *Journal) Replicas(ctx context.Context, id cluster.RepoID) ([]Replica, error) {
	prefix := keyReplica
	if id != "" {
		prefix += string(id) + "/"
	}
	list, err := j.list(ctx, prefix)
	if err != nil {
		return nil, err
	}
	var all []Replica
	for _, kv := range list.Kvs {
		repo, device, ok := strings.Cut(strings.TrimPrefix(string(kv.Key), keyReplica), "/")
		r := Replica{Repo: cluster.RepoID(repo), Device: cluster.DeviceName(device)}
		if ok && json.Unmarshal(kv.Value, &r) == nil {
			all = append(all, r)
		}
	}
	return all, nil
}

// ForgetReports removes all that a device has reported: its disk is another now.
func (j *Journal) ForgetReports(ctx context.Context, device cluster.DeviceName) error {
	all, err := j.Replicas(ctx, "")
	if err != nil {
		return err
	}
	const batch = 100 // etcd takes at most 128 operations in a transaction
	var ops []clientv3.Op
	for i, r := range all {
		if r.Device == device {
			ops = append(ops, clientv3.OpDelete(keyReplica+string(r.Repo)+"/"+string(device)))
		}
		if len(ops) == batch || i == len(all)-1 && len(ops) > 0 {
			if _, err := j.kv.Txn(ctx).Then(ops...).Commit(); err != nil {
				return unavailable(err)
			}
			ops = nil
		}
	}
	return nil
}

// freeName is the condition that the name is nobody's, that no folder of it is
// a repository and that it is no folder of one. The name except, which is
// about to go, does not count.
func freeName(name, except cluster.RepoName) []clientv3.Cmp {
	free := []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(keyName+string(name)), "=", 0)}
	for _, folder := range name.Ancestors() {
		if folder != except {
			free = append(free, clientv3.Compare(clientv3.CreateRevision(keyName+string(folder)), "=", 0))
		}
	}
	below := keyName + string(name) + "/"
	end := clientv3.GetPrefixRangeEnd(below)
	if inside := keyName + string(except); except != "" && strings.HasPrefix(inside, below) {
		return append(free,
			clientv3.Compare(clientv3.CreateRevision(below).WithRange(inside), "=", 0),
			clientv3.Compare(clientv3.CreateRevision(inside+"\x00").WithRange(end), "=", 0))
	}
	return append(free, clientv3.Compare(clientv3.CreateRevision(below).WithRange(end), "=", 0))
}

// NameClash returns an error that wraps [cluster.ErrExists] if another
// repository makes the name impossible: one that is a folder of it, or one
// below it.
func (j *Journal) NameClash(ctx context.Context, name cluster.RepoName) error {
	ops := []clientv3.Op{clientv3.OpGet(keyName+string(name)+"/", clientv3.WithPrefix(), clientv3.WithLimit(1), clientv3.WithKeysOnly())}
	for _, folder := range name.Ancestors() {
		ops = append(ops, clientv3.OpGet(keyName+string(folder), clientv3.WithKeysOnly()))
	}
	r, err := j.getAll(ctx, ops...)
	if err != nil {
		return err
	}
	for i, response := range r.Responses {
		found := response.GetResponseRange().Kvs
		if len(found) == 0 {
			continue
		}
		other := strings.TrimPrefix(string(found[0].Key), keyName)
		if i == 0 {
			return fmt.Errorf("%q cannot be a repository: it is the folder of the repository %q: %w", name, other, cluster.ErrExists)
		}
		return fmt.Errorf("%q cannot be a repository: %q is one, and nothing can be below it: %w", name, other, cluster.ErrExists)
	}
	return nil
}

func (j *Journal) nameTaken(ctx context.Context, name cluster.RepoName) error {
	if err := j.NameClash(ctx, name); err != nil {
		return err
	}
	return fmt.Errorf("repository %q: %w", name, cluster.ErrExists)
}
