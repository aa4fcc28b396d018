package journal

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"gitcluster/internal/cluster"
)

// A Directory is all records of who belongs to the cluster.
type Directory struct {
	Devices []cluster.Device
	Users   []cluster.User
	Grants  []cluster.Grant
}

// A ClusterRecord names the cluster; it is written once.
type ClusterRecord struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	Trusted []string  `json:"trusted_networks,omitempty"` // CIDR; none: the default
}

// Found writes the first records of a new cluster, all or none.
func (j *Journal) Found(ctx context.Context, record ClusterRecord, authority []byte, first cluster.Device, incarnation string, admin *cluster.User) error {
	ops := []clientv3.Op{
		clientv3.OpPut(keyCluster, encode(record)),
		clientv3.OpPut(keyAuthority, string(authority)),
		clientv3.OpPut(keyDevice+string(first.Name), encode(first)),
		clientv3.OpPut(keyIncarnation+string(first.Name), incarnation),
	}
	if admin != nil {
		ops = append(ops, clientv3.OpPut(keyUser+string(admin.Name), encode(admin)))
	}
	r, err := j.kv.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(keyCluster), "=", 0)).Then(ops...).Commit()
	if err != nil {
		return unavailable(err)
	}
	if !r.Succeeded {
		return fmt.Errorf("a cluster in this journal: %w", cluster.ErrExists)
	}
	return nil
}

// Cluster returns the record of the cluster this journal belongs to.
func (j *Journal) Cluster(ctx context.Context) (ClusterRecord, error) {
	var c ClusterRecord
	err := j.record(ctx, keyCluster, &c)
	return c, err
}

// AuthorityKey returns the certificate authority's PEM, kept so that every node
// can admit another.
func (j *Journal) AuthorityKey(ctx context.Context) ([]byte, error) {
	r, err := j.get(ctx, keyAuthority)
	if err != nil {
		return nil, err
	}
	if len(r.Kvs) == 0 {
		return nil, fmt.Errorf("certificate authority: %w", cluster.ErrNotFound)
	}
	return r.Kvs[0].Value, nil
}

// Directory reads the directory, linearizable and at one revision.
func (j *Journal) Directory(ctx context.Context) (Directory, error) {
	d, _, err := j.directory(ctx)
	return d, err
}

// WatchDirectory calls changed with the directory at the start and after every
// change, until the context ends.
func (j *Journal) WatchDirectory(ctx context.Context, changed func(Directory)) error {
	wait := time.Duration(0)
	for {
		if err := pause(ctx, wait); err != nil {
			return err
		}
		wait = time.Second
		d, rev, err := j.directory(ctx)
		if err != nil {
			continue
		}
		changed(d)
		j.awaitChange(ctx, rev, func() { wait = 0 }, keyDevice, keyUser, keyGrant)
	}
}

// awaitChange returns when something below one of the prefixes has changed
// after the revision, or when that can no longer be watched.
func (j *Journal) awaitChange(ctx context.Context, rev int64, seen func(), prefixes ...string) {
	ctx, stop := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer stop()
	woken := make(chan bool, len(prefixes))
	for _, prefix := range prefixes {
		events := j.watcher.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(rev+1))
		go func() {
			for r := range events {
				if r.Err() != nil {
					break
				}
				if len(r.Events) > 0 {
					woken <- true
					return
				}
			}
			woken <- false
		}()
	}
	if <-woken {
		seen()
	}
}

func (j *Journal) directory(ctx context.Context) (d Directory, rev int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := j.getAll(ctx,
		clientv3.OpGet(keyDevice, clientv3.WithPrefix()),
		clientv3.OpGet(keyUser, clientv3.WithPrefix()),
		clientv3.OpGet(keyGrant, clientv3.WithPrefix()))
	if err != nil {
		return d, 0, err
	}
	err = errors.Join(
		decodeAll(r.Responses[0].GetResponseRange().Kvs, &d.Devices),
		decodeAll(r.Responses[1].GetResponseRange().Kvs, &d.Users),
		decodeAll(r.Responses[2].GetResponseRange().Kvs, &d.Grants))
	return d, r.Header.Revision, err
}

func decodeAll[T any](kvs []*mvccpb.KeyValue, into *[]T) error {
	for _, kv := range kvs {
		var v T
		if err := json.Unmarshal(kv.Value, &v); err != nil {
			return fmt.Errorf("record %s: %w", kv.Key, err)
		}
		*into = append(*into, v)
	}
	return nil
}

// AddDevice records a device that has not been there before, or one whose key
// is unchanged, with its incarnation.
func (j *Journal) AddDevice(ctx context.Context, d cluster.Device, incarnation string) error {
	key := keyDevice + string(d.Name)
	put := []clientv3.Op{clientv3.OpPut(key, encode(d)), clientv3.OpPut(keyIncarnation+string(d.Name), incarnation)}
	r, err := j.kv.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).Then(put...).Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return unavailable(err)
	}
	if r.Succeeded {
		return nil
	}
	var there cluster.Device
	kv := r.Responses[0].GetResponseRange().Kvs[0]
	if err := json.Unmarshal(kv.Value, &there); err != nil {
		return err
	}
	if there.PublicKey != d.PublicKey {
		return fmt.Errorf("device %q with another key: %w", d.Name, cluster.ErrExists)
	}
	r, err = j.kv.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", kv.ModRevision)).Then(put...).Commit()
	if err == nil && !r.Succeeded {
		err = fmt.Errorf("device %q changed meanwhile", d.Name)
	}
	return unavailable(err)
}

// ChangeDevice changes a device's record with change, again if somebody else
// changed it meanwhile.
func (j *Journal) ChangeDevice(ctx context.Context, name cluster.DeviceName, change func(*cluster.Device) error) error {
	return changeRecord(ctx, j, keyDevice+string(name), fmt.Sprintf("device %q", name), change)
}

// RemoveDevice removes a device with everything that names it, and revokes its
// certificates. What it was counted for and is not yet in the journal fails.
func (j *Journal) RemoveDevice(ctx context.Context, name cluster.DeviceName) error {
	key := keyDevice + string(name)
	reports, err := j.get(ctx, keyReplica, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return err
	}
	for {
		still, revoke, err := j.revocation(ctx, name)
		if err != nil {
			return err
		}
		r, err := j.kv.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), ">", 0), still).Then(append(revoke,
			clientv3.OpDelete(key),
			clientv3.OpDelete(keyIncarnation+string(name)),
			clientv3.OpDelete(grantPrefix("device/"+string(name)), clientv3.WithPrefix()),
		)...).Else(clientv3.OpGet(key, clientv3.WithCountOnly())).Commit()
		if err != nil {
			return unavailable(err)
		}
		if r.Succeeded {
			break
		}
		if r.Responses[0].GetResponseRange().Count == 0 {
			return fmt.Errorf("device %q: %w", name, cluster.ErrNotFound)
		}
	}
	// Its reports are for people to look at; nothing depends on when they go.
	for _, kv := range reports.Kvs {
		if strings.HasSuffix(string(kv.Key), "/"+string(name)) {
			if _, err := j.kv.Delete(ctx, string(kv.Key)); err != nil {
				return unavailable(err)
			}
		}
	}
	return nil
}

// Incarnation returns the name of the disk the device last ran on.
func (j *Journal) Incarnation(ctx context.Context, name cluster.DeviceName) (string, error) {
	r, err := j.get(ctx, keyIncarnation+string(name))
	if err != nil {
		return "", err
	}
	if len(r.Kvs) == 0 {
		return "", fmt.Errorf("device %q: %w", name, cluster.ErrNotFound)
	}
	return string(r.Kvs[0].Value), nil
}

// WatchIncarnation calls changed with the name of the disk the device last ran on,
// at the start and after every change, until the context ends.
func (j *Journal) WatchIncarnation(ctx context.Context, name cluster.DeviceName, changed func(string)) error {
	key := keyIncarnation + string(name)
	return j.follow(ctx, key, func(kv *mvccpb.KeyValue) {
		if string(kv.Key) == key { // others may begin with it
			changed(string(kv.Value))
		}
	}, func(string) {})
}

// ChangeIncarnation gives the device the next incarnation if it still has the
// last.
func (j *Journal) ChangeIncarnation(ctx context.Context, name cluster.DeviceName, last, next string) error {
	key := keyIncarnation + string(name)
	// Repeated until the answer is definite: a lost one must not leave the caller
	// with an incarnation that the journal does not know.
	for {
		r, err := j.kv.Txn(ctx).If(clientv3.Compare(clientv3.Value(key), "=", last)).Then(clientv3.OpPut(key, next)).Else(clientv3.OpGet(key)).Commit()
		switch {
		case err == nil && r.Succeeded:
			return nil
		case err == nil:
			kvs := r.Responses[0].GetResponseRange().Kvs
			if len(kvs) > 0 && string(kvs[0].Value) == next {
				return nil
			}
			return fmt.Errorf("device %q has another incarnation meanwhile: %w", name, cluster.ErrExists)
		}
		if pause(ctx, 50*time.Millisecond) != nil {
			return unavailable(err)
		}
	}
}

// AddUser records a user of a new name.
func (j *Journal) AddUser(ctx context.Context, u cluster.User) error {
	key := keyUser + string(u.Name)
	r, err := j.kv.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).Then(clientv3.OpPut(key, encode(u))).Commit()
	if err != nil {
		return unavailable(err)
	}
	if !r.Succeeded {
		return fmt.Errorf("user %q: %w", u.Name, cluster.ErrExists)
	}
	return nil
}

// ChangeUser changes a user's record with change, again if somebody else
// changed it meanwhile.
func (j *Journal) ChangeUser(ctx context.Context, name cluster.UserName, change func(*cluster.User) error) error {
	return changeRecord(ctx, j, keyUser+string(name), fmt.Sprintf("user %q", name), change)
}

// changeRecord reads a record, changes it, and writes it if nobody else did
// meanwhile; else it does so again.
func changeRecord[T any](ctx context.Context, j *Journal, key, what string, change func(*T) error) error {
	for {
		r, err := j.get(ctx, key)
		if err != nil {
			return err
		}
		if len(r.Kvs) == 0 {
			return fmt.Errorf("%s: %w", what, cluster.ErrNotFound)
		}
		var record T
		if err := json.Unmarshal(r.Kvs[0].Value, &record); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if err := change(&record); err != nil {
			return err
		}
		t, err := j.kv.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", r.Kvs[0].ModRevision)).Then(clientv3.OpPut(key, recode(r.Kvs[0].Value, record))).Commit()
		if err != nil {
			return unavailable(err)
		}
		if t.Succeeded {
			return nil
		}
	}
}

// RemoveUser removes a user and the grants that name it.
func (j *Journal) RemoveUser(ctx context.Context, name cluster.UserName) error {
	key := keyUser + string(name)
	r, err := j.kv.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), ">", 0)).Then(
		clientv3.OpDelete(key),
		clientv3.OpDelete(grantPrefix(string(name)), clientv3.WithPrefix()),
	).Commit()
	if err != nil {
		return unavailable(err)
	}
	if !r.Succeeded {
		return fmt.Errorf("user %q: %w", name, cluster.ErrNotFound)
	}
	return nil
}

// SetGrant gives the subject exactly this role on the pattern.
func (j *Journal) SetGrant(ctx context.Context, g cluster.Grant) error {
	return j.put(ctx, grantPrefix(g.Subject)+string(g.Pattern), encode(g))
}

// RemoveGrant takes back what the subject has on the pattern.
func (j *Journal) RemoveGrant(ctx context.Context, subject string, pattern cluster.RepoPattern) error {
	r, err := j.kv.Delete(ctx, grantPrefix(subject)+string(pattern))
	if err != nil {
		return unavailable(err)
	}
	if r.Deleted == 0 {
		return fmt.Errorf("grant of %q on %q: %w", subject, pattern, cluster.ErrNotFound)
	}
	return nil
}

// A Token admits one new device. Its secret never enters the journal in a form
// that the wire shows: the joiner and the node prove to each other that they
// know it.
type Token struct {
	ID      string    `json:"id"`
	Secret  []byte    `json:"secret"`
	Kind    string    `json:"kind"` // "node" or "device"
	Expires time.Time `json:"expires"`
}

// CreateToken records a token.
func (j *Journal) CreateToken(ctx context.Context, t Token) error {
	return j.put(ctx, keyToken+t.ID, encode(t))
}

// Token returns a token that is neither used nor expired.
func (j *Journal) Token(ctx context.Context, id string) (Token, error) {
	var t Token
	if err := j.record(ctx, keyToken+id, &t); err != nil {
		return t, err
	}
	if subtle.ConstantTimeCompare([]byte(t.ID), []byte(id)) != 1 || time.Now().After(t.Expires) {
		return t, fmt.Errorf("token %q has expired: %w", id, cluster.ErrDenied)
	}
	return t, nil
}

// UseToken removes the token; only one caller succeeds.
func (j *Journal) UseToken(ctx context.Context, id string) error {
	r, err := j.kv.Delete(ctx, keyToken+id)
	if err != nil {
		return unavailable(err)
	}
	if r.Deleted == 0 {
		return fmt.Errorf("token %q: %w", id, cluster.ErrNotFound)
	}
	return nil
}

// grantPrefix separates subject and pattern by a character neither can hold.
func grantPrefix(subject string) string {
	return keyGrant + base64.RawURLEncoding.EncodeToString([]byte(subject)) + "/"
}

func (j *Journal) record(ctx context.Context, key string, into any) error {
	r, err := j.get(ctx, key)
	if err != nil {
		return err
	}
	if len(r.Kvs) == 0 {
		return fmt.Errorf("%s: %w", strings.TrimPrefix(key, "/gc/"), cluster.ErrNotFound)
	}
	return json.Unmarshal(r.Kvs[0].Value, into)
}
