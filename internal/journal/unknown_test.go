package journal

import (
	"strings"
	"testing"

	"gitcluster/internal/cluster"
)

// What a newer node has written survives the changes of an older one.
func TestUnknownFieldsStay(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		repo, _ := w.create("a/b")
		if err := w.AddUser(ctx, cluster.User{Name: "alice", Admin: true}); err != nil {
			t.Fatal(err)
		}
		keys := []string{keyUser + "alice", keyRepo + string(repo.ID), keyHead + string(repo.ID)}
		raw := func(key string) string {
			r, err := w.client.Get(ctx, key)
			if err != nil || len(r.Kvs) != 1 {
				t.Fatal(r, err)
			}
			return string(r.Kvs[0].Value)
		}
		const more = `{"from_the_future":{"a":[1,2]},`
		for _, key := range keys {
			if _, err := w.client.Put(ctx, key, more+strings.TrimPrefix(raw(key), "{")); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.ChangeUser(ctx, "alice", func(u *cluster.User) error { u.Admin = false; return nil }); err != nil {
			t.Fatal(err)
		}
		if err := w.ChangeRepo(ctx, repo.ID, func(r *cluster.Repo) { r.Public = true }); err != nil {
			t.Fatal(err)
		}
		if err := w.RenameRepo(ctx, repo, "c"); err != nil {
			t.Fatal(err)
		}
		if err := w.Trim(ctx, repo.ID, 0); err != nil {
			t.Fatal(err)
		}
		_, head, err := w.LookupID(ctx, repo.ID)
		if err != nil {
			t.Fatal(err)
		}
		head = w.append(repo.ID, head, entry(head, 1))
		head = w.append(repo.ID, head, entry(head, 2)) // by what the first one returned
		if _, now, err := w.LookupID(ctx, repo.ID); err != nil || !same(now, head) {
			t.Errorf("the head is %+v, %v; Append said %+v", now, err, head)
		}
		for _, key := range keys {
			if got := raw(key); !strings.Contains(got, `"from_the_future":{"a":[1,2]}`) {
				t.Errorf("%s: %s", key, got)
			}
		}
		if got := raw(keys[0]); strings.Contains(got, `"admin"`) {
			t.Errorf("what was removed is there: %s", got)
		}
		if got := raw(keys[1]); !strings.Contains(got, `"public":true`) || !strings.Contains(got, `"name":"c"`) {
			t.Errorf("the changes are not there: %s", got)
		}
	})
}

// A lock of a newer node can be ended by an older one.
func TestUnknownFieldsOfALock(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		repo, head := w.create("a")
		for _, end := range []func(Lock) error{
			func(held Lock) error { return w.Unlock(ctx, repo.ID, held) },
			func(held Lock) error {
				_, err := w.AppendUnlocking(ctx, repo.ID, head, entry(head, 1), nil, held)
				return err
			},
		} {
			if _, err := w.client.Put(ctx, keyLock+string(repo.ID), `{"device":"b","by":"tester","why":"a repair"}`); err != nil {
				t.Fatal(err)
			}
			held, err := w.LockOf(ctx, repo.ID)
			if err != nil || held.By != "tester" {
				t.Fatal(held, err)
			}
			if err := end(held); err != nil {
				t.Error(err)
			}
		}
	})
}

// What a newer node keeps beside a mirror's credentials stays when an older one
// learns a host key.
func TestUnknownFieldsOfSecrets(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		repo, _ := w.create("a")
		key := keyCredential + string(repo.ID)
		if _, err := w.client.Put(ctx, key, `{"credentials":[{"key":"k"}],"from_the_future":1}`); err != nil {
			t.Fatal(err)
		}
		claim, _, err := w.Claim(ctx, repo.ID, "a")
		if err != nil {
			t.Fatal(err)
		}
		defer claim.Release()
		_, _, secrets, err := claim.Lookup(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := claim.RememberHosts(ctx, secrets, "a host"); err != nil {
			t.Fatal(err)
		}
		r, err := w.client.Get(ctx, key)
		if err != nil || len(r.Kvs) != 1 || !strings.Contains(string(r.Kvs[0].Value), `"from_the_future":1`) || !strings.Contains(string(r.Kvs[0].Value), "a host") {
			t.Errorf("%v, %v", r.Kvs, err)
		}
	})
}
