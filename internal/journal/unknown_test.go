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
