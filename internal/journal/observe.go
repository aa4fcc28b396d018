package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"gitcluster/internal/cluster"
)

// A Credential is what a mirror shows its remote: an SSH private key, or a user
// with a password or token. It prints as nothing, so that no message or log can hold it.
type Credential struct {
	Key      string `json:"key,omitempty"` // PEM
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
}

func (Credential) String() string       { return "(credential)" }
func (Credential) GoString() string     { return "(credential)" }
func (Credential) LogValue() slog.Value { return slog.StringValue("(credential)") }

// Secrets are what belongs to a repository's observation and is for nodes only.
type Secrets struct {
	Credentials []Credential `json:"credentials,omitempty"` // one for each remote, in their order
	KnownHosts  string       `json:"known_hosts,omitempty"` // host keys, as ssh wrote them at first contact

	rev int64 // etcd's modification revision of the key; 0 if there is none
}

// SetObservation makes the repository a mirror, changes what it follows, or makes
// it an ordinary repository again. change gets what is there now (nil and zero if
// nothing) and returns what shall be; it must not alter what it gets. With an observation
// that changes, what is known of its last pulls goes.
func (j *Journal) SetObservation(ctx context.Context, id cluster.RepoID, change func(*cluster.Observation, Secrets) (*cluster.Observation, Secrets, error)) error {
	for {
		repo, was, err := j.repoRecord(ctx, id)
		if err != nil {
			return fmt.Errorf("repository %s: %w", id, err)
		}
		secrets, err := j.Secrets(ctx, id)
		if err != nil {
			return err
		}
		next, nextSecrets, err := change(repo.Observe, secrets)
		if err != nil {
			return err
		}
		repo.Observe = next
		key, secretKey := keyRepo+string(id), keyCredential+string(id)
		ops := []clientv3.Op{clientv3.OpPut(key, recode(was.value, repo)), clientv3.OpDelete(keyObserved + string(id))}
		if next == nil || nextSecrets.empty() {
			ops = append(ops, clientv3.OpDelete(secretKey))
		} else {
			ops = append(ops, clientv3.OpPut(secretKey, encode(nextSecrets)))
		}
		r, err := j.kv.Txn(ctx).If(
			clientv3.Compare(clientv3.ModRevision(key), "=", was.rev),
			clientv3.Compare(clientv3.ModRevision(secretKey), "=", secrets.rev),
		).Then(ops...).Commit()
		if err != nil {
			return unavailable(err)
		}
		if r.Succeeded {
			return nil
		}
	}
}

func (s Secrets) empty() bool { return len(s.Credentials) == 0 && s.KnownHosts == "" }

// Secrets returns the secrets of the repository's observation; none are no error.
func (j *Journal) Secrets(ctx context.Context, id cluster.RepoID) (s Secrets, err error) {
	r, err := j.get(ctx, keyCredential+string(id))
	if err != nil {
		return s, err
	}
	return decodeSecrets(r.Kvs)
}

func decodeSecrets(kvs []*mvccpb.KeyValue) (s Secrets, err error) {
	if len(kvs) == 0 {
		return s, nil
	}
	if err := json.Unmarshal(kvs[0].Value, &s); err != nil {
		return s, fmt.Errorf("%s cannot be read", kvs[0].Key) // not err: it may repeat them
	}
	s.rev = kvs[0].ModRevision
	return s, nil
}

// Observed is how the pulls of a mirror have gone.
type Observed struct {
	Repo      cluster.RepoID     `json:"-"`
	Device    cluster.DeviceName `json:"device"` // who pulled last
	Remote    string             `json:"remote"` // the address it tried last
	Tried     time.Time          `json:"tried"`
	Succeeded time.Time          `json:"succeeded,omitzero"`
	Next      time.Time          `json:"next"`               // not before
	Failures  int                `json:"failures,omitempty"` // since the last success
	Error     string             `json:"error,omitempty"`    // one line
	Note      string             `json:"note,omitempty"`     // what of the remote could not be mirrored
}

// Observed returns how the pulls of one mirror have gone, or of all if id is "".
func (j *Journal) Observed(ctx context.Context, id cluster.RepoID) (map[cluster.RepoID]Observed, error) {
	list, err := j.list(ctx, keyObserved+string(id))
	if err != nil {
		return nil, err
	}
	all := map[cluster.RepoID]Observed{}
	for _, kv := range list.Kvs {
		if o, ok := decodeObserved(kv); ok {
			all[o.Repo] = o
		}
	}
	return all, nil
}

// WatchObserved calls changed with how the pulls of every mirror have gone and
// then after each pull, until the context ends; gone is called for one of which
// nothing is known any more.
func (j *Journal) WatchObserved(ctx context.Context, changed func(Observed), gone func(cluster.RepoID)) error {
	return j.follow(ctx, keyObserved, func(kv *mvccpb.KeyValue) {
		if o, ok := decodeObserved(kv); ok {
			changed(o)
		}
	}, func(key string) { gone(cluster.RepoID(strings.TrimPrefix(key, keyObserved))) })
}

func decodeObserved(kv *mvccpb.KeyValue) (o Observed, ok bool) {
	err := json.Unmarshal(kv.Value, &o)
	o.Repo = cluster.RepoID(strings.TrimPrefix(string(kv.Key), keyObserved))
	return o, err == nil
}

var (
	// ErrClaimed: another node is at it.
	ErrClaimed = errors.New("it is under way")
	// ErrClaimLost: the journal has not heard of this node for so long that
	// another may begin, or the repository is another by now.
	ErrClaimLost = errors.New("the claim has been lost")
)

// claimTTL is how long the claim of a dead node keeps others waiting, in
// seconds.
const claimTTL = 15

// A Claim is the right to do something for a repository, which one node has at a
// time: to pull a mirror, or to look after its replica. It ends with the node.
type Claim struct {
	j     *Journal
	key   string
	id    cluster.RepoID
	lease clientv3.LeaseID
	rev   int64 // at which the claim's key was made
	repo  int64 // etcd's modification revision of the repository's record, as Lookup saw it
	ctx   context.Context
	end   context.CancelCauseFunc
}

// Claim takes the right to pull a mirror, if nobody has it; if somebody does,
// the error wraps ErrClaimed and holder says who. The caller must Release it.
func (j *Journal) Claim(ctx context.Context, id cluster.RepoID, device cluster.DeviceName) (_ *Claim, holder cluster.DeviceName, err error) {
	return j.claim(ctx, keyObserving+string(id), id, device)
}

// ClaimUpkeep is Claim for the right to look after a replica, while those of the other
// nodes serve.
func (j *Journal) ClaimUpkeep(ctx context.Context, id cluster.RepoID, device cluster.DeviceName) (_ *Claim, holder cluster.DeviceName, err error) {
	return j.claim(ctx, keyUpkeep+string(id), id, device)
}

func (j *Journal) claim(ctx context.Context, key string, id cluster.RepoID, device cluster.DeviceName) (_ *Claim, holder cluster.DeviceName, err error) {
	taken := func(kvs []*mvccpb.KeyValue) (*Claim, cluster.DeviceName, error) {
		holder := cluster.DeviceName(kvs[0].Value)
		return nil, holder, fmt.Errorf("%w on %q", ErrClaimed, holder)
	}
	// All nodes come when a pull is due; a read costs those who lose less than a
	// lease does.
	there, err := j.get(ctx, key)
	if err != nil {
		return nil, "", err
	}
	if len(there.Kvs) > 0 {
		return taken(there.Kvs)
	}
	call, cancel := bounded(ctx)
	defer cancel()
	lease, err := j.leases.Grant(call, claimTTL)
	if err != nil {
		return nil, "", unavailable(err)
	}
	c := &Claim{j: j, key: key, id: id, lease: lease.ID}
	c.ctx, c.end = context.WithCancelCause(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			c.Release()
		}
	}()
	r, err := j.kv.Txn(call).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, string(device), clientv3.WithLease(lease.ID))).
		Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return nil, "", unavailable(err)
	}
	if !r.Succeeded {
		return taken(r.Responses[0].GetResponseRange().Kvs)
	}
	c.rev = r.Header.Revision
	alive, err := j.leases.KeepAlive(c.ctx, lease.ID)
	if err != nil {
		return nil, "", unavailable(err)
	}
	go func() {
		for range alive {
		}
		c.end(ErrClaimLost)
	}()
	return c, device, nil
}

// Context ends, with ErrClaimLost for its cause, when another node may begin.
func (c *Claim) Context() context.Context { return c.ctx }

// Release gives the right back. Without an answer from the journal it ends by
// itself.
func (c *Claim) Release() {
	c.end(context.Canceled)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), callTimeout)
	defer cancel()
	c.j.leases.Revoke(ctx, c.lease)
}

// Lookup is [Journal.LookupID] for the mirror, with its secrets. What the claim
// writes afterwards is written only if these settings still hold.
func (c *Claim) Lookup(ctx context.Context) (repo cluster.Repo, head Head, s Secrets, err error) {
	r, err := c.j.getAll(ctx, clientv3.OpGet(keyRepo+string(c.id)), clientv3.OpGet(keyHead+string(c.id)), clientv3.OpGet(keyCredential+string(c.id)))
	if err != nil {
		return repo, head, s, err
	}
	record := r.Responses[0].GetResponseRange().Kvs
	if repo, head, err = decodeRepo(record, r.Responses[1].GetResponseRange().Kvs); err != nil {
		return repo, head, s, fmt.Errorf("repository %s: %w", c.id, err)
	}
	c.repo = record[0].ModRevision
	s, err = decodeSecrets(r.Responses[2].GetResponseRange().Kvs)
	return repo, head, s, err
}

// Report records how the pull went, if the claim still holds.
func (c *Claim) Report(ctx context.Context, o Observed) error {
	return c.write(ctx, clientv3.OpPut(keyObserved+string(c.id), encode(o)))
}

// RememberHosts replaces the known hosts of secrets, unless these have been
// changed since they were read.
func (c *Claim) RememberHosts(ctx context.Context, s Secrets, knownHosts string) error {
	key := keyCredential + string(c.id)
	s.KnownHosts = knownHosts
	var was []byte
	r, err := c.j.get(ctx, key) // not kept in Secrets, where a log could find it
	if err != nil {
		return err
	}
	if len(r.Kvs) > 0 {
		was = r.Kvs[0].Value
	}
	return c.write(ctx, clientv3.OpPut(key, recode(was, s)), clientv3.Compare(clientv3.ModRevision(key), "=", s.rev))
}

func (c *Claim) write(ctx context.Context, op clientv3.Op, also ...clientv3.Cmp) error {
	conditions := append(also,
		clientv3.Compare(clientv3.CreateRevision(c.key), "=", c.rev),
		// A deleted repository, or one that follows something else by now, must
		// not get the record of this pull.
		clientv3.Compare(clientv3.ModRevision(keyRepo+string(c.id)), "=", c.repo))
	r, err := c.j.kv.Txn(ctx).If(conditions...).Then(op).Commit()
	if err == nil && !r.Succeeded {
		return fmt.Errorf("repository %s: %w", c.id, ErrClaimLost)
	}
	return unavailable(err)
}

// AwaitClaim waits until nobody has the right to pull the mirror; it may be
// taken again at once.
func (j *Journal) AwaitClaim(ctx context.Context, id cluster.RepoID) error {
	return j.awaitNobody(ctx, keyObserving+string(id))
}

// AwaitUpkeep is AwaitClaim for [Journal.ClaimUpkeep].
func (j *Journal) AwaitUpkeep(ctx context.Context, id cluster.RepoID) error {
	return j.awaitNobody(ctx, keyUpkeep+string(id))
}

func (j *Journal) awaitNobody(ctx context.Context, key string) error {
	for {
		r, err := j.get(ctx, key)
		if err != nil {
			return err
		}
		if len(r.Kvs) == 0 {
			return nil
		}
		j.awaitChange(ctx, r.Header.Revision, func() {}, key)
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}
