package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"gitcluster/internal/cluster"
)

func mirror(uris ...string) *cluster.Observation {
	o := &cluster.Observation{Refs: []cluster.RefPattern{"refs/heads/*"}, Every: time.Minute}
	for _, uri := range uris {
		o.Remotes = append(o.Remotes, cluster.Remote{URI: uri, Credential: cluster.CredentialPassword})
	}
	return o
}

func (w *world) observe(id cluster.RepoID, o *cluster.Observation, s Secrets) {
	w.t.Helper()
	err := w.SetObservation(w.t.Context(), id, func(*cluster.Observation, Secrets) (*cluster.Observation, Secrets, error) { return o, s, nil })
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) claim(id cluster.RepoID, device cluster.DeviceName) *Claim {
	w.t.Helper()
	c, _, err := w.Claim(w.t.Context(), id, device)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(c.Release)
	return c
}

func TestObservation(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		repo, _ := w.create("mirror")
		secret := Secrets{Credentials: []Credential{{Username: "bob", Password: "hunter2"}}}
		w.observe(repo.ID, mirror("https://h/x"), secret)
		now, _, err := w.LookupID(ctx, repo.ID)
		if err != nil || now.Observe == nil || now.Observe.Remotes[0].URI != "https://h/x" || now.Observe.Every != time.Minute {
			t.Fatalf("%+v, %v", now.Observe, err)
		}
		// The secret is in its own key and in no other.
		all, err := w.client.Get(ctx, "/gc/", clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range all.Kvs {
			if has := strings.Contains(string(kv.Value), "hunter2"); has != (string(kv.Key) == keyCredential+string(repo.ID)) {
				t.Errorf("%s holds the secret: %v", kv.Key, has)
			}
		}
		c := w.claim(repo.ID, "a")
		if _, _, s, err := c.Lookup(ctx); err != nil || len(s.Credentials) != 1 || s.Credentials[0] != secret.Credentials[0] {
			t.Errorf("a claim reads %d credentials, %v", len(s.Credentials), err)
		} else if err := c.RememberHosts(ctx, s, "h ssh-ed25519 AAAA"); err != nil {
			t.Error(err)
		} else if err := c.RememberHosts(ctx, s, "evil"); err == nil {
			t.Error("secrets that have changed since were written")
		}
		if s, err := w.Secrets(ctx, repo.ID); err != nil || s.KnownHosts != "h ssh-ed25519 AAAA" || s.Credentials[0].Password != "hunter2" {
			t.Errorf("known hosts are %q, %v", s.KnownHosts, err)
		}
		if err := c.Report(ctx, Observed{Device: "a", Failures: 3, Error: "no route"}); err != nil {
			t.Fatal(err)
		}
		// A change that fails changes nothing; one that comes between is not lost.
		bad := errors.New("no")
		if err := w.SetObservation(ctx, repo.ID, func(*cluster.Observation, Secrets) (*cluster.Observation, Secrets, error) { return nil, Secrets{}, bad }); !errors.Is(err, bad) {
			t.Errorf("a refused change: %v", err)
		}
		calls := 0
		err = w.SetObservation(ctx, repo.ID, func(o *cluster.Observation, s Secrets) (*cluster.Observation, Secrets, error) {
			if calls++; calls == 1 {
				w.observe(repo.ID, mirror("https://h/y"), Secrets{})
			}
			return mirror(o.Remotes[0].URI, "https://h/z"), s, nil
		})
		if now, _, lookErr := w.LookupID(ctx, repo.ID); err != nil || lookErr != nil || calls != 2 || now.Observe.Remotes[0].URI != "https://h/y" || len(now.Observe.Remotes) != 2 {
			t.Errorf("after %d calls %+v, %v %v", calls, now.Observe, err, lookErr)
		}
		// What belonged to the settings before is gone, and can not come back.
		if o, err := w.Observed(ctx, repo.ID); len(o) != 0 || err != nil {
			t.Errorf("%+v, %v", o, err)
		}
		if err := c.Report(ctx, Observed{Device: "a"}); !errors.Is(err, ErrClaimLost) {
			t.Errorf("a report on settings that were replaced: %v", err)
		}
		if n := w.count(keyCredential); n != 0 {
			t.Errorf("%d secrets are left", n)
		}
		w.observe(repo.ID, nil, secret)
		if now, _, err := w.LookupID(ctx, repo.ID); now.Observe != nil || err != nil || w.count(keyCredential) != 0 {
			t.Errorf("it still follows %+v, %v, %d secrets", now.Observe, err, w.count(keyCredential))
		}
		if err := w.SetObservation(ctx, "ffffffffffffffff", nil); !errors.Is(err, cluster.ErrNotFound) {
			t.Errorf("a repository that is not there: %v", err)
		}
	})
}

func TestDeletedMirrorLeavesNothing(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		for _, remove := range map[string]func(cluster.Repo, Head) error{
			"whole": func(r cluster.Repo, _ Head) error { return w.DeleteRepo(t.Context(), r) },
			"empty": func(r cluster.Repo, h Head) error { _, err := w.DeleteIfEmpty(t.Context(), r, h); return err },
		} {
			repo, head := w.create("mirror")
			w.observe(repo.ID, mirror("https://h/x"), Secrets{KnownHosts: "x"})
			c := w.claim(repo.ID, "a")
			if _, _, _, err := c.Lookup(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := c.Report(t.Context(), Observed{Device: "a"}); err != nil {
				t.Fatal(err)
			}
			if err := remove(repo, head); err != nil {
				t.Fatal(err)
			}
			if err := c.Report(t.Context(), Observed{Device: "a"}); !errors.Is(err, ErrClaimLost) {
				t.Errorf("a report on a deleted repository: %v", err)
			}
			c.Release()
			if n := w.count("/gc/"); n != 0 {
				t.Errorf("%d keys are left", n)
			}
		}
	})
}

func TestClaim(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		repo, _ := w.create("mirror")
		a := w.claim(repo.ID, "a")
		if _, holder, err := w.Claim(ctx, repo.ID, "b"); !errors.Is(err, ErrClaimed) || holder != "a" {
			t.Errorf("a second claim: held by %q, %v", holder, err)
		}
		if _, holder, err := w.Claim(ctx, repo.ID, "a"); !errors.Is(err, ErrClaimed) || holder != "a" {
			t.Errorf("a second claim of the same node: %q, %v", holder, err)
		}
		other, _ := w.create("other")
		w.claim(other.ID, "b").Release()
		waited := make(chan error, 1)
		go func() { waited <- w.AwaitClaim(ctx, repo.ID) }()
		select {
		case err := <-waited:
			t.Fatalf("the wait ended while the claim held: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
		a.Release()
		if err := <-waited; err != nil {
			t.Error(err)
		}
		b := w.claim(repo.ID, "b")
		if _, _, _, err := a.Lookup(ctx); err != nil {
			t.Fatal(err)
		}
		if err := a.Report(ctx, Observed{}); !errors.Is(err, ErrClaimLost) {
			t.Errorf("a report without the claim: %v", err)
		}
		stop, cancel := context.WithCancel(ctx)
		cancel()
		if err := w.AwaitClaim(stop, repo.ID); err == nil {
			t.Error("the wait did not end with its context")
		}
		b.Release()
		if n := w.count(keyObserving); n != 0 {
			t.Errorf("%d claims are left", n)
		}
	})
}

// Of many that claim at once one succeeds.
func TestClaimIsExclusive(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		repo, _ := w.create("mirror")
		results := make(chan error, 8)
		for i := range cap(results) {
			go func() {
				c, _, err := New(w.client).Claim(context.Background(), repo.ID, cluster.DeviceName(fmt.Sprint(i)))
				if err == nil {
					t.Cleanup(c.Release)
				}
				results <- err
			}()
		}
		won := 0
		for range cap(results) {
			switch err := <-results; {
			case err == nil:
				won++
			case !errors.Is(err, ErrClaimed):
				t.Error(err)
			}
		}
		if won != 1 {
			t.Errorf("%d claims succeeded", won)
		}
	})
}

// The claim of a node that dies goes with its session, and who works under a
// claim hears of its end.
func TestClaimVanishesWithItsSession(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		repo, _ := w.create("mirror")
		a := w.claim(repo.ID, "a")
		// What a dead node's lease comes to, without its 15 seconds.
		if _, err := w.client.Revoke(t.Context(), a.lease); err != nil {
			t.Fatal(err)
		}
		w.claim(repo.ID, "b")
		select {
		case <-a.Context().Done():
			if !errors.Is(context.Cause(a.Context()), ErrClaimLost) {
				t.Errorf("the cause is %v", context.Cause(a.Context()))
			}
		case <-time.After(30 * time.Second):
			t.Error("the holder does not know that it has lost the claim")
		}
		lease, err := w.client.TimeToLive(t.Context(), w.claim(w.createOther(), "c").lease)
		if err != nil || lease.GrantedTTL != claimTTL {
			t.Errorf("a claim outlives its node by %d s, %v", lease.GrantedTTL, err)
		}
	})
}

func (w *world) createOther() cluster.RepoID {
	repo, _ := w.create("other")
	return repo.ID
}

func TestWatchObserved(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		repo, _ := w.create("mirror")
		w.observe(repo.ID, mirror("https://h/x"), Secrets{})
		seen := make(chan string, 100)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			w.WatchObserved(ctx, func(o Observed) { seen <- fmt.Sprintf("%s failed %d", o.Repo, o.Failures) }, func(id cluster.RepoID) { seen <- string(id) + " gone" })
		}()
		t.Cleanup(func() { cancel(); <-ended })
		wait := func(want string) {
			t.Helper()
			last := "nothing"
			waitFor(t, func() string {
				select {
				case last = <-seen:
				default:
				}
				if last == want {
					return ""
				}
				return fmt.Sprintf("it shows %q, want %q", last, want)
			})
		}
		c := w.claim(repo.ID, "a")
		if _, _, _, err := c.Lookup(t.Context()); err != nil {
			t.Fatal(err)
		}
		for n := range 2 {
			if err := c.Report(t.Context(), Observed{Failures: n + 1}); err != nil {
				t.Fatal(err)
			}
		}
		wait(string(repo.ID) + " failed 2")
		w.observe(repo.ID, nil, Secrets{})
		wait(string(repo.ID) + " gone")
	})
}

func TestCredentialPrintsNothing(t *testing.T) {
	c := Credential{Key: "hunter2", Username: "hunter2", Password: "hunter2"}
	var b strings.Builder
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "credential", c)
	slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "credential", c)
	fmt.Fprintf(&b, "%v %+v %#v %s %q", c, c, c, c, []Credential{c})
	fmt.Fprintf(&b, "%+v %#v", Secrets{Credentials: []Credential{c}}, &Secrets{Credentials: []Credential{c}})
	if strings.Contains(b.String(), "hunter2") {
		t.Errorf("it prints %s", b.String())
	}
}
