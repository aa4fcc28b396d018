package journal

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"gitcluster/internal/cluster"
)

func device(name cluster.DeviceName) cluster.Device {
	return cluster.Device{Name: name, PublicKey: "ssh-ed25519 " + string(name), Node: true, Enabled: true, SSH: string(name) + ":2222", Joined: time.Now().UTC().Round(0)}
}

// A cluster is founded once, whoever tries at the same time, and whole.
func TestFound(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		if _, err := w.Cluster(ctx); !errors.Is(err, cluster.ErrNotFound) {
			t.Errorf("before: %v", err)
		}
		if _, err := w.AuthorityKey(ctx); !errors.Is(err, cluster.ErrNotFound) {
			t.Errorf("authority before: %v", err)
		}
		errs := make([]error, 5)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() {
				name := cluster.DeviceName(fmt.Sprint("n", i))
				errs[i] = New(w.client).Found(ctx, ClusterRecord{ID: string(name), Name: "test", Trusted: []string{"10.0.0.0/8"}}, []byte("key of "+name), device(name), string(name)+"-1",
					&cluster.User{Name: cluster.UserName(name), Admin: true})
			})
		}
		wg.Wait()
		winner := slices.Index(errs, nil)
		for i, err := range errs {
			if i != winner && !errors.Is(err, cluster.ErrExists) {
				t.Errorf("founder %d: %v", i, err)
			}
		}
		if winner < 0 {
			t.Fatal("nobody founded it")
		}
		name := fmt.Sprint("n", winner)
		record, err := w.Cluster(ctx)
		if err != nil || record.ID != name || record.Name != "test" || len(record.Trusted) != 1 {
			t.Errorf("%+v, %v", record, err)
		}
		if key, err := w.AuthorityKey(ctx); err != nil || string(key) != "key of "+name {
			t.Errorf("%q, %v", key, err)
		}
		d, err := w.Directory(ctx)
		if err != nil || len(d.Devices) != 1 || string(d.Devices[0].Name) != name || len(d.Users) != 1 || !d.Users[0].Admin {
			t.Errorf("%+v, %v", d, err)
		}
		if i, err := w.Incarnation(ctx, cluster.DeviceName(name)); err != nil || i != name+"-1" {
			t.Errorf("%q, %v", i, err)
		}
		if err := w.Found(ctx, ClusterRecord{ID: "again"}, nil, device("again"), "", nil); !errors.Is(err, cluster.ErrExists) {
			t.Errorf("again: %v", err)
		}
	})
}

func TestDevices(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		if err := w.ChangeDevice(ctx, "a", func(*cluster.Device) error { return nil }); !errors.Is(err, cluster.ErrNotFound) {
			t.Errorf("update of none: %v", err)
		}
		if _, err := w.Incarnation(ctx, "a"); !errors.Is(err, cluster.ErrNotFound) {
			t.Errorf("incarnation of none: %v", err)
		}
		if err := w.AddDevice(ctx, device("a"), "1"); err != nil {
			t.Fatal(err)
		}
		// Its own key again: it comes back with another disk.
		if err := w.AddDevice(ctx, device("a"), "2"); err != nil {
			t.Error(err)
		}
		if i, err := w.Incarnation(ctx, "a"); err != nil || i != "2" {
			t.Errorf("incarnation %q, %v", i, err)
		}
		// Another key under its name: somebody else.
		thief := device("a")
		thief.PublicKey = "ssh-ed25519 thief"
		if err := w.AddDevice(ctx, thief, "3"); !errors.Is(err, cluster.ErrExists) {
			t.Errorf("another key: %v", err)
		}
		if i, err := w.Incarnation(ctx, "a"); err != nil || i != "2" {
			t.Errorf("incarnation %q, %v", i, err)
		}
		changed := device("a")
		changed.Enabled, changed.Region = false, "west"
		if err := w.ChangeDevice(ctx, changed.Name, func(d *cluster.Device) error { *d = changed; return nil }); err != nil {
			t.Fatal(err)
		}
		d, err := w.Directory(ctx)
		if err != nil || !reflect.DeepEqual(d.Devices, []cluster.Device{changed}) {
			t.Errorf("%+v, %v", d, err)
		}
	})
}

func TestUsers(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		alice := cluster.User{Name: "alice", Keys: []string{"ssh-ed25519 A"}, Admin: true}
		if err := w.AddUser(ctx, alice); err != nil {
			t.Fatal(err)
		}
		if err := w.AddUser(ctx, cluster.User{Name: "alice"}); !errors.Is(err, cluster.ErrExists) {
			t.Errorf("again: %v", err)
		}
		if err := w.AddUser(ctx, cluster.User{Name: "al", Keys: []string{}}); err != nil {
			t.Fatal(err)
		}
		// Many change one user at the same time; nothing is lost.
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				if err := w.ChangeUser(ctx, "alice", func(u *cluster.User) error { u.Keys = append(u.Keys, fmt.Sprint("key ", i)); return nil }); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		refusal := errors.New("no")
		if err := w.ChangeUser(ctx, "alice", func(u *cluster.User) error { u.Keys = nil; return refusal }); !errors.Is(err, refusal) {
			t.Errorf("a refused change: %v", err)
		}
		if err := w.ChangeUser(ctx, "bob", func(*cluster.User) error { return nil }); !errors.Is(err, cluster.ErrNotFound) {
			t.Errorf("a change of nobody: %v", err)
		}
		d, err := w.Directory(ctx)
		if err != nil || len(d.Users) != 2 || len(d.Users[1].Keys) != 9 {
			t.Errorf("%+v, %v", d, err)
		}
		for _, g := range []cluster.Grant{{Subject: "alice", Pattern: "a/*", Role: cluster.RoleRead}, {Subject: "alice", Pattern: "*", Role: cluster.RoleRead}, {Subject: "al", Pattern: "*", Role: cluster.RoleWrite}, {Subject: "alicea", Pattern: "*", Role: cluster.RoleWrite}} {
			if err := w.SetGrant(ctx, g); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.RemoveUser(ctx, "alice"); err != nil {
			t.Fatal(err)
		}
		if err := w.RemoveUser(ctx, "alice"); !errors.Is(err, cluster.ErrNotFound) {
			t.Errorf("removed again: %v", err)
		}
		d, err = w.Directory(ctx)
		if err != nil || len(d.Users) != 1 || len(d.Grants) != 2 {
			t.Errorf("after alice went with her grants: %+v, %v", d, err)
		}
	})
}

func TestGrants(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		want := map[string]cluster.Grant{}
		for _, subject := range []string{"alice", "al", "device/al", "device/x", cluster.EveryUser} {
			for _, pattern := range []cluster.RepoPattern{"*", "a", "a/*", "a/b"} {
				for _, role := range []cluster.Role{cluster.RoleAdmin, cluster.RoleRead} { // the last one holds
					g := cluster.Grant{Subject: subject, Pattern: pattern, Role: role}
					if err := w.SetGrant(ctx, g); err != nil {
						t.Fatal(err)
					}
					want[subject+" "+string(pattern)] = g
				}
			}
		}
		remove := func(subject string, pattern cluster.RepoPattern) {
			t.Helper()
			if err := w.RemoveGrant(ctx, subject, pattern); err != nil {
				t.Error(err)
			}
			delete(want, subject+" "+string(pattern))
			if err := w.RemoveGrant(ctx, subject, pattern); !errors.Is(err, cluster.ErrNotFound) {
				t.Errorf("taken back again: %v", err)
			}
		}
		remove("al", "a")
		remove("device/al", "a/*")
		remove(cluster.EveryUser, "*")
		d, err := w.Directory(ctx)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]cluster.Grant{}
		for _, g := range d.Grants {
			got[g.Subject+" "+string(g.Pattern)] = g
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

func TestTokens(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		good := Token{ID: NewID(), Secret: []byte{0, 1, 0xff}, Kind: "node", Expires: time.Now().Add(time.Hour).UTC().Round(0)}
		old := Token{ID: NewID(), Secret: []byte{2}, Kind: "node", Expires: time.Now().Add(-time.Second)}
		for _, token := range []Token{good, old} {
			if err := w.CreateToken(ctx, token); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := w.Token(ctx, good.ID); err != nil || !reflect.DeepEqual(got, good) {
			t.Errorf("%+v, %v", got, err)
		}
		if _, err := w.Token(ctx, old.ID); !errors.Is(err, cluster.ErrDenied) {
			t.Errorf("an expired one: %v", err)
		}
		for _, id := range []string{"", "x", good.ID[:15], good.ID + "0"} {
			if _, err := w.Token(ctx, id); !errors.Is(err, cluster.ErrNotFound) && !errors.Is(err, cluster.ErrDenied) {
				t.Errorf("%q: %v", id, err)
			}
		}
		// Used by many at once: one wins.
		errs := make([]error, 6)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { errs[i] = New(w.client).UseToken(ctx, good.ID) })
		}
		wg.Wait()
		won := 0
		for _, err := range errs {
			switch {
			case err == nil:
				won++
			case !errors.Is(err, cluster.ErrNotFound):
				t.Error(err)
			}
		}
		if won != 1 {
			t.Errorf("%d used the token", won)
		}
		if _, err := w.Token(ctx, good.ID); !errors.Is(err, cluster.ErrNotFound) {
			t.Errorf("a used one: %v", err)
		}
	})
}

// A record that cannot be read is an error: to leave out a grant or a disabled
// device would be to decide without it.
func TestGarbledDirectory(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		for _, key := range []string{keyDevice + "x", keyUser + "x", keyGrant + "eA/x"} {
			if _, err := w.client.Put(t.Context(), key, `{"role":"owner","name":7}`); err != nil {
				t.Fatal(err)
			}
			if d, err := w.Directory(t.Context()); err == nil {
				t.Errorf("%s: %+v", key, d)
			}
			if _, err := w.client.Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
	})
}
