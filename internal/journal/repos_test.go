package journal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"gitcluster/internal/cluster"
)

func TestCreateAndLookup(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		want, made := w.create("demo/hello")
		for _, j := range []*Journal{w.Journal, New(w.client), w.Journal} { // without and with a guess of the id
			repo, head, err := j.Lookup(ctx, "demo/hello")
			if err != nil || repo != want || !same(head, made) {
				t.Errorf("got %+v %+v %v, want %+v %+v", repo, head, err, want, made)
			}
		}
		repo, head, err := w.LookupID(ctx, want.ID)
		if err != nil || repo != want || !same(head, made) {
			t.Errorf("by id: %+v %+v %v", repo, head, err)
		}
		var digest cluster.Digest
		digest.MoveHead("", "refs/heads/main")
		if made.Position != (cluster.Position{Epoch: 1, Digest: digest}) {
			t.Errorf("a new repository is at %v", made.Position)
		}
		for _, name := range []cluster.RepoName{"demo", "demo/hell", "demo/hello2", "demo/hello/x", "Demo/hello"} {
			if _, _, err := w.Lookup(ctx, name); !errors.Is(err, cluster.ErrNotFound) {
				t.Errorf("%q: %v", name, err)
			}
		}
		if _, _, err := w.LookupID(ctx, "ffffffffffffffff"); !errors.Is(err, cluster.ErrNotFound) {
			t.Errorf("an unknown id: %v", err)
		}
	})
}

func TestNamesThatAreFoldersOfOthers(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		w.create("a/b")
		w.create("x")
		w.create("a/bb") // beside, not below
		w.create("a/b-c")
		for _, name := range []cluster.RepoName{"a/b", "a", "a/b/c", "a/b/c/d", "x/y"} {
			if _, err := w.CreateRepo(t.Context(), record(name)); !errors.Is(err, cluster.ErrExists) {
				t.Errorf("creating %q: %v", name, err)
			}
		}
		repo, _, err := w.Lookup(t.Context(), "x")
		if err != nil {
			t.Fatal(err)
		}
		for _, to := range []cluster.RepoName{"a/b", "a", "a/b/c", "x"} {
			if err := w.RenameRepo(t.Context(), repo, to); !errors.Is(err, cluster.ErrExists) {
				t.Errorf("renaming x to %q: %v", to, err)
			}
		}
		if n := w.count(keyRepo); n != 4 {
			t.Errorf("there are %d repositories, want 4", n)
		}
	})
}

func TestRename(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		repo, head := w.create("a")
		head = w.append(repo.ID, head, entry(head, 1))
		other := New(w.client) // another node, that remembers the old names
		for _, to := range []cluster.RepoName{"a/b", "a/b/c", "a", "z/y/x", "a"} {
			from := repo.Name
			if _, _, err := other.Lookup(ctx, from); err != nil {
				t.Fatal(err)
			}
			if err := w.RenameRepo(ctx, repo, to); err != nil {
				t.Fatalf("%q to %q: %v", from, to, err)
			}
			repo.Name = to
			got, at, err := other.Lookup(ctx, to)
			if err != nil || got != repo || !same(at, head) {
				t.Errorf("%q to %q: got %+v %+v %v", from, to, got, at, err)
			}
			if _, _, err := other.Lookup(ctx, from); !errors.Is(err, cluster.ErrNotFound) {
				t.Errorf("%q after its rename to %q: %v", from, to, err)
			}
		}
		// The name is free for another, and a guess of the old id does not matter.
		if err := w.RenameRepo(ctx, repo, "b"); err != nil {
			t.Fatal(err)
		}
		second, _ := w.create("a")
		if got, _, err := other.Lookup(ctx, "a"); err != nil || got.ID != second.ID {
			t.Errorf("a is %s, %v; want %s", got.ID, err, second.ID)
		}
		// "a/b" to "a" while "a" is a folder of others too.
		one, _ := w.create("f/one")
		w.create("f/two")
		if err := w.RenameRepo(ctx, one, "f"); !errors.Is(err, cluster.ErrExists) {
			t.Errorf("f/one to f beside f/two: %v", err)
		}
	})
}

// A caller whose copy is out of date changes nothing, and is told why.
func TestRenameOfWhatIsGone(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		repo, _ := w.create("a")
		if err := w.RenameRepo(ctx, repo, "b"); err != nil {
			t.Fatal(err)
		}
		if err := w.RenameRepo(ctx, repo, "c"); !errors.Is(err, cluster.ErrNotFound) {
			t.Errorf("renaming a name that is gone: %v", err)
		}
		if err := w.ChangeRepo(ctx, "0000000000000000", func(r *cluster.Repo) { r.Public = true }); !errors.Is(err, cluster.ErrNotFound) {
			t.Errorf("changing what is not there: %v", err)
		}
		if err := w.DeleteRepo(ctx, repo); !errors.Is(err, cluster.ErrNotFound) {
			t.Errorf("deleting a name that is gone: %v", err)
		}
		another, _ := w.create("a")
		if err := w.DeleteRepo(ctx, repo); !errors.Is(err, cluster.ErrNotFound) {
			t.Errorf("deleting a name that is another's now: %v", err)
		}
		if got, _, err := w.Lookup(ctx, "a"); err != nil || got.ID != another.ID {
			t.Errorf("a is %s, %v", got.ID, err)
		}
		if _, _, err := w.Lookup(ctx, "b"); err != nil {
			t.Error(err)
		}
	})
}

// A change of settings is not undone by a rename that began before it.
func TestRenameKeepsSettings(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		repo, _ := w.create("a")
		if err := w.ChangeRepo(t.Context(), repo.ID, func(r *cluster.Repo) { r.DenyDeletes = true }); err != nil {
			t.Fatal(err)
		}
		if err := w.RenameRepo(t.Context(), repo, "b"); err != nil {
			return // refusing it is as good
		}
		if got, _, err := w.Lookup(t.Context(), "b"); err != nil || !got.DenyDeletes {
			t.Errorf("after the rename deletes are denied: %v, %v", got.DenyDeletes, err)
		}
	})
}

func TestDelete(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		repo, head := w.create("a")
		neighbour, other := w.create("b")
		w.append(neighbour.ID, other, entry(other, 1))
		e := entry(head, 1)
		e.Updates = many(5000)
		head = w.append(repo.ID, head, e)
		if w.count(keyChunk+string(repo.ID)) == 0 {
			t.Error("a large entry has no chunks")
		}
		if err := w.ReportReplica(ctx, Replica{Repo: repo.ID, Device: "n", Position: head.Position}); err != nil {
			t.Fatal(err)
		}
		if err := w.DeleteRepo(ctx, repo); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{keyRepo, keyHead, keyJournal, keyChunk, keyReplica} {
			if n := w.count(key + string(repo.ID)); n != 0 {
				t.Errorf("%d keys are left below %s", n, key)
			}
		}
		if _, err := w.Append(ctx, repo.ID, head, entry(head, 2), nil); !errors.Is(err, cluster.ErrNotFound) {
			t.Errorf("an append to a repository that is gone: %v", err)
		}
		if n := w.count(keyJournal + string(repo.ID)); n != 0 {
			t.Error("it left an entry")
		}
		if _, _, err := w.Lookup(ctx, "b"); err != nil || w.count(keyJournal+string(neighbour.ID)) != 1 {
			t.Errorf("the neighbour: %v", err)
		}
	})
}

func TestDeleteIfEmpty(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		empty, head := w.create("empty")
		if ok, err := w.DeleteIfEmpty(ctx, empty, head); !ok || err != nil {
			t.Errorf("an empty one: %v, %v", ok, err)
		}
		if ok, err := w.DeleteIfEmpty(ctx, empty, head); ok || err != nil {
			t.Errorf("one that is gone: %v, %v", ok, err)
		}
		used, head := w.create("used")
		w.append(used.ID, head, entry(head, 1))
		if ok, err := w.DeleteIfEmpty(ctx, used, head); ok || err != nil {
			t.Errorf("one with an entry: %v, %v", ok, err)
		}
		if _, _, err := w.Lookup(ctx, "used"); err != nil {
			t.Error(err)
		}
		if n := w.count("/gc/"); n != 4 { // name, settings, head and entry of one
			t.Errorf("%d keys are left", n)
		}
	})
}

// Of many who create the same name, or a folder of it, one wins.
func TestCreateAtTheSameTime(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		names := []cluster.RepoName{"a", "a/b", "a", "a/b/c", "a/b", "a"}
		errs := make([]error, len(names))
		var wg sync.WaitGroup
		for i, name := range names {
			wg.Go(func() { _, errs[i] = New(w.client).CreateRepo(t.Context(), record(name)) })
		}
		wg.Wait()
		won := 0
		for i, err := range errs {
			switch {
			case err == nil:
				won++
			case !errors.Is(err, cluster.ErrExists):
				t.Errorf("%s: %v", names[i], err)
			}
		}
		if won != 1 || w.count(keyName) != 1 || w.count(keyRepo) != 1 || w.count(keyHead) != 1 {
			t.Errorf("%d won: %v", won, errs)
		}
	})
}

func TestRepos(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		var want []string
		for i := range 130 { // more than one transaction takes
			repo, head := w.create(cluster.RepoName(fmt.Sprintf("team%d/r%d", i%7, i)))
			want = append(want, string(repo.Name))
			if i == 5 {
				w.append(repo.ID, head, entry(head, 1))
			}
		}
		slices.Sort(want)
		for _, page := range []int{1, 49, 50, 51, 65, 130, 1000} {
			var got []string
			for r, err := range w.reposIn(t.Context(), "", page) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, string(r.Name))
				if wantVersion := strings.HasSuffix(string(r.Name), "/r5"); (r.Head.Version == 1) != wantVersion {
					t.Errorf("%s is at version %d", r.Name, r.Head.Version)
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("in pages of %d: %d repositories, want %d", page, len(got), len(want))
			}
		}
		for r, err := range w.Repos(t.Context(), cluster.RepoName(want[99])) {
			if err != nil || string(r.Name) != want[100] {
				t.Errorf("after the hundredth: %q, %v", r.Name, err)
			}
			break
		}
		for r, err := range w.Repos(t.Context(), "zzz") {
			t.Errorf("after the last: %v, %v", r, err)
		}
	})
}

// readKV calls back when something below a prefix has been read.
type readKV struct {
	clientv3.KV
	prefix string
	read   func()
}

func (n *readKV) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	r, err := n.KV.Get(ctx, key, opts...)
	if strings.HasPrefix(key, n.prefix) {
		n.read()
	}
	return r, err
}

// Whoever goes through all repositories meets each that was there at the start,
// once, whatever is deleted and renamed meanwhile.
func TestReposWhileTheyChange(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		var all []cluster.Repo
		for i := range 12 {
			repo, _ := w.create(cluster.RepoName(fmt.Sprintf("r%02d", i)))
			all = append(all, repo)
		}
		changes := []func() error{
			func() error { return w.DeleteRepo(ctx, all[1]) },       // of a page whose names have been read
			func() error { return w.RenameRepo(ctx, all[5], "z") },  // the last of a page, to the end
			func() error { return w.RenameRepo(ctx, all[10], "a") }, // from the end to the start
			func() error { _, err := w.CreateRepo(ctx, record("zz")); return err },
		}
		kv := &readKV{KV: w.client, prefix: keyName, read: func() {
			if len(changes) > 0 {
				if err := changes[0](); err != nil {
					t.Error(err)
				}
				changes = changes[1:]
			}
		}}
		var got []cluster.RepoID
		for r, err := range NewOver(w.client, kv).reposIn(ctx, "", 3) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, r.ID)
		}
		for _, repo := range all {
			if n := len(got) - len(slices.DeleteFunc(slices.Clone(got), func(id cluster.RepoID) bool { return id == repo.ID })); n != 1 {
				t.Errorf("%s was met %d times", repo.Name, n)
			}
		}
		if len(got) != len(all) || len(changes) > 0 {
			t.Errorf("%d were met, of %d; %d changes were not made", len(got), len(all), len(changes))
		}
	})
}

// When etcd no longer has what was, the rest is as it is.
func TestReposAfterACompaction(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		for i := range 6 {
			w.create(cluster.RepoName(fmt.Sprintf("r%d", i)))
		}
		var got []cluster.RepoName
		for r, err := range w.reposIn(ctx, "", 2) {
			if err != nil {
				t.Fatal(err)
			}
			if got = append(got, r.Name); len(got) == 1 {
				put, err := w.client.Put(ctx, "/gc/test", "x")
				if err != nil {
					t.Fatal(err)
				}
				if _, err := w.client.Compact(ctx, put.Header.Revision); err != nil {
					t.Fatal(err)
				}
			}
		}
		if len(got) != 6 || !slices.IsSorted(got) {
			t.Errorf("got %v", got)
		}
	})
}

func TestReplicas(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		one, head := w.create("one")
		two, _ := w.create("two")
		want := Replica{Repo: one.ID, Device: "a", Position: head.Position, Fenced: "edited"}
		for _, r := range []Replica{{Repo: one.ID, Device: "a"}, want, {Repo: one.ID, Device: "b"}, {Repo: two.ID, Device: "a"}} {
			if err := w.ReportReplica(ctx, r); err != nil {
				t.Fatal(err)
			}
		}
		of, err := w.Replicas(ctx, one.ID)
		if err != nil || len(of) != 2 || of[0] != want || of[1].Device != "b" {
			t.Errorf("of one: %+v, %v", of, err)
		}
		if all, err := w.Replicas(ctx, ""); err != nil || len(all) != 3 {
			t.Errorf("of all: %+v, %v", all, err)
		}
	})
}

// What cannot be asked is unavailable, never not found, and is said in time.
func TestUnreachable(t *testing.T) {
	client, err := Dial([]string{freeAddr()}, "")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	j := New(client)
	cause := errors.New("the reader left")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, cause)
	defer cancel()
	for what, call := range map[string]func() error{
		"Lookup":     func() error { _, _, err := j.Lookup(ctx, "a"); return err },
		"LookupID":   func() error { _, _, err := j.LookupID(ctx, "0123456789abcdef"); return err },
		"CreateRepo": func() error { _, err := j.CreateRepo(ctx, record("a")); return err },
		"RenameRepo": func() error { return j.RenameRepo(ctx, record("a"), "b") },
		"DeleteRepo": func() error { return j.DeleteRepo(ctx, record("a")) },
		"Repos": func() error {
			for _, err := range j.Repos(ctx, "") {
				return err
			}
			return nil
		},
		"Directory": func() error { _, err := j.Directory(ctx); return err },
		"Token":     func() error { _, err := j.Token(ctx, "x"); return err },
		"UseToken":  func() error { return j.UseToken(ctx, "x") },
		"Entries": func() error {
			for _, err := range j.Entries(ctx, "x", 0, 1) {
				return err
			}
			return nil
		},
	} {
		if err := call(); !errors.Is(err, cluster.ErrUnavailable) || errors.Is(err, cluster.ErrNotFound) {
			t.Errorf("%s: %v, want unavailable", what, err)
		}
	}
}

func TestForgetReports(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		id := cluster.RepoID(NewID())
		for _, device := range []cluster.DeviceName{"a", "b"} {
			for i := range 120 {
				r := Replica{Repo: cluster.RepoID(fmt.Sprintf("%016x", i)), Device: device}
				if i == 0 {
					r.Repo = id
				}
				if err := w.ReportReplica(t.Context(), r); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := w.ForgetReports(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		left, err := w.Replicas(t.Context(), "")
		if err != nil || len(left) != 120 || left[0].Device != "b" || left[119].Device != "b" {
			t.Errorf("%d left, %v", len(left), err)
		}
	})
}
