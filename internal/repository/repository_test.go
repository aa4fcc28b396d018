package repository

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitexec"
)

func TestCreate(t *testing.T) {
	for _, format := range []cluster.ObjectFormat{cluster.SHA1, cluster.SHA256} {
		w := newWorldOf(t, format)
		if w.Dir != w.store.Path(testID) || w.ID != testID {
			t.Errorf("made %s at %s", w.ID, w.Dir)
		}
		if got := w.git(w.Dir, "rev-parse", "--show-object-format", "--is-bare-repository"); got != string(format)+"\ntrue" {
			t.Errorf("made %q, want a bare repository of %s", got, format)
		}
		if got := w.git(w.Dir, "symbolic-ref", "HEAD"); got != "refs/heads/main" {
			t.Errorf("HEAD is %q", got)
		}
		if hooks := w.files("hooks"); len(hooks) > 1 {
			t.Errorf("it has hooks: %v", hooks)
		}
		again, err := w.store.Create(t.Context(), w.record)
		if err != nil || again.Dir != w.Dir {
			t.Errorf("creating it again: %v", err)
		}
		table, err := again.LoadRefs(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var want cluster.Digest
		want.MoveHead("", "refs/heads/main")
		if table.Len() != 0 || table.Head() != "refs/heads/main" || table.Digest() != want {
			t.Errorf("an empty repository has %d refs and HEAD %q", table.Len(), table.Head())
		}
		if p, err := again.Applied(); err != nil || p != (cluster.Position{}) {
			t.Errorf("an empty repository shows %v, %v", p, err)
		}
	}
}

func TestCreateLeavesAllOrNothing(t *testing.T) {
	w := newWorld(t)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	id := cluster.RepoID("ffffffffffffffff")
	for name, c := range map[string]struct {
		ctx    context.Context
		record cluster.Repo
	}{
		"git fails":          {t.Context(), cluster.Repo{ID: id, Format: "md5", InitialHead: "refs/heads/main"}},
		"bad head":           {t.Context(), cluster.Repo{ID: id, Format: cluster.SHA1, InitialHead: "refs/heads/..bad"}},
		"the context's end":  {ended, cluster.Repo{ID: id, Format: cluster.SHA1, InitialHead: "refs/heads/main"}},
		"looks like options": {t.Context(), cluster.Repo{ID: id, Format: "sha1 --shared", InitialHead: "refs/heads/main"}},
	} {
		if _, err := w.store.Create(c.ctx, c.record); err == nil {
			t.Errorf("%s: created", name)
		}
		if _, err := w.store.Open(id); !errors.Is(err, cluster.ErrNotFound) {
			t.Errorf("%s: afterwards: %v, want not found", name, err)
		}
		if left := w.temporary(); len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}
	if _, err := w.store.Create(t.Context(), cluster.Repo{ID: id, Format: cluster.SHA1, InitialHead: "refs/heads/main"}); err != nil {
		t.Errorf("after failures: %v", err)
	}
}

func TestCreateAtTheSameTime(t *testing.T) {
	w := newWorld(t)
	record := cluster.Repo{ID: "ffffffffffffffff", Format: cluster.SHA1, InitialHead: "refs/heads/main"}
	errs := make([]error, 4)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { _, errs[i] = w.store.Create(t.Context(), record) })
	}
	wg.Wait()
	if !slices.Contains(errs, nil) {
		t.Errorf("nobody created it: %v", errs)
	}
	r, err := w.store.Open(record.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.LoadRefs(t.Context()); err != nil {
		t.Error(err)
	}
	w.git(r.Dir, "fsck")
	if left := w.temporary(); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

func (w *world) temporary() []string {
	w.t.Helper()
	entries, err := os.ReadDir(filepath.Join(w.store.root, "tmp"))
	if err != nil {
		w.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestOpenAndRetire(t *testing.T) {
	w := newWorld(t)
	if _, err := w.store.Open("ffffffffffffffff"); !errors.Is(err, cluster.ErrNotFound) {
		t.Errorf("open of what is not there: %v", err)
	}
	if _, err := w.store.Open(testID); err != nil {
		t.Error(err)
	}
	one := w.commit()
	w.receive(one)
	w.change(set("refs/heads/main", "", one))
	retire := func() {
		t.Helper()
		for range 2 {
			if err := w.store.Retire(testID); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := os.Stat(w.Dir); !os.IsNotExist(err) {
			t.Errorf("after Retire: %v", err)
		}
		if ids, err := w.store.List(); len(ids) > 0 || err != nil {
			t.Errorf("listed: %v, %v", ids, err)
		}
	}
	retire()
	if n, err := w.store.Expire(time.Hour); n != 0 || err != nil {
		t.Errorf("%d are gone too soon, %v", n, err)
	}
	if again, err := w.store.Reclaim(testID); !again || err != nil {
		t.Fatalf("it cannot be had back: %v, %v", again, err)
	}
	if refs, err := w.LoadRefs(t.Context()); err != nil || refs.Get("refs/heads/main") != one {
		t.Errorf("%v, %v", refs, err)
	}
	if again, err := w.store.Reclaim("ffffffffffffffff"); again || err != nil {
		t.Errorf("one that never was: %v, %v", again, err)
	}
	retire()
	if n, err := w.store.Expire(-time.Second); n != 1 || err != nil {
		t.Errorf("%d have expired, %v", n, err)
	}
	if again, err := w.store.Reclaim(testID); again || err != nil {
		t.Errorf("one that has expired: %v, %v", again, err)
	}
	if left := w.temporary(); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	if _, err := w.store.Create(t.Context(), w.record); err != nil {
		t.Errorf("making it again: %v", err)
	}
}

// A folder of which parts are gone is a repository again, and known to be doubtful.
func TestMend(t *testing.T) {
	for gone, want := range map[string]struct{ mended, there bool }{
		"": {false, true}, "HEAD": {true, true}, "objects": {true, true}, "objects/pack": {true, true}, "refs": {true, true},
		"refs/tags": {false, true}, "objects/info": {false, true}, "config": {true, false},
	} {
		w := newWorld(t)
		if gone != "" {
			if err := os.RemoveAll(filepath.Join(w.Dir, gone)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.store.CleanUp(); err != nil {
			t.Errorf("without %q a node does not start: %v", gone, err)
		}
		mended, err := w.store.Mend(w.record)
		if err != nil || mended != want.mended {
			t.Errorf("without %q: %v, %v; want %v", gone, mended, err, want.mended)
		}
		repo, err := w.store.Open(testID)
		if (err == nil) != want.there {
			t.Errorf("without %q: %v", gone, err)
			continue
		}
		if err == nil {
			if _, err := repo.LoadRefs(t.Context()); err != nil {
				t.Errorf("without %q: %v", gone, err)
			}
		}
	}
	w := newWorld(t)
	if mended, err := w.store.Mend(cluster.Repo{ID: "ffffffffffffffff"}); mended || err != nil {
		t.Errorf("one that is not there: %v, %v", mended, err)
	}
}

// CleanUp takes away what a killed node leaves and nothing else, whatever the
// data directory is called.
func TestCleanUp(t *testing.T) {
	for _, name := range []string{"plain", "with space", "a[1]b", "star*", `back\slash`, "übung"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			root := filepath.Join(t.TempDir(), name, "repositories")
			store, err := NewStore(root, &gitexec.Runner{})
			if err != nil {
				t.Fatal(err)
			}
			w.store = store
			if w.Repository, err = store.Create(t.Context(), w.record); err != nil {
				t.Fatal(err)
			}
			one := w.commit()
			w.receive(one)
			w.change(set("refs/heads/main", "", one))
			if err := w.SetApplied(cluster.Position{Epoch: 1, Version: 1}); err != nil {
				t.Fatal(err)
			}
			for _, f := range []string{
				"HEAD.lock", "config.lock", "packed-refs.lock", "refs/heads/main.lock", "refs/heads/a/b.lock",
				"objects/incoming-123/pack/pack-1.pack", "objects/tmp_objdir-incoming-xyz/pack/tmp_pack_1", "objects/pack/tmp_pack_2", "objects/pack/tmp_idx_3",
				"objects/info/commit-graphs/commit-graph-chain.lock", "objects/info/commit-graphs/tmp_graph_x", "objects/info/commit-graph.lock",
				"../../tmp/0123-1/repo.git/HEAD",
			} {
				path := filepath.Join(w.Dir, f)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := store.CleanUp(); err != nil {
				t.Fatal(err)
			}
			for _, f := range w.files(".") {
				if strings.HasSuffix(f, ".lock") || strings.Contains(f, "incoming-") || strings.Contains(f, "tmp_") {
					t.Errorf("left %s", f)
				}
			}
			if left := w.temporary(); len(left) > 0 {
				t.Errorf("left %v", left)
			}
			w.show(map[string]string{"refs/heads/main": string(one)})
			if p, err := w.Applied(); err != nil || p.Version != 1 {
				t.Errorf("applied is %v, %v", p, err)
			}
			w.git(w.Dir, "fsck", "--strict")
		})
	}
}

func TestApplied(t *testing.T) {
	w := newWorld(t)
	want := cluster.Position{Epoch: 2, Version: 1 << 40}
	want.Digest.Add("refs/heads/main", strings.Repeat("1", 40))
	for _, p := range []cluster.Position{{Epoch: 1}, want, want} {
		if err := w.SetApplied(p); err != nil {
			t.Fatal(err)
		}
		if got, err := w.Applied(); err != nil || got != p {
			t.Errorf("got %v, %v; want %v", got, err, p)
		}
	}
	entries, err := os.ReadDir(w.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			t.Errorf("left %s", e.Name())
		}
	}
	for _, bad := range []string{"", "{", `{"epoch":-1}`, `{"digest":"x"}`} {
		if err := os.WriteFile(filepath.Join(w.Dir, appliedFile), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if p, err := w.Applied(); err == nil {
			t.Errorf("%q is taken for the position %v", bad, p)
		}
	}
}

func TestSetHead(t *testing.T) {
	w := newWorld(t)
	if err := w.Repository.SetHead(t.Context(), "refs/heads/-trunk"); err != nil {
		t.Fatal(err)
	}
	if got := w.git(w.Dir, "symbolic-ref", "HEAD"); got != "refs/heads/-trunk" {
		t.Errorf("HEAD is %q", got)
	}
	if err := w.Repository.SetHead(t.Context(), "--delete"); err == nil {
		t.Error("an option was taken for a branch")
	}
	if got := w.git(w.Dir, "symbolic-ref", "HEAD"); got != "refs/heads/-trunk" {
		t.Errorf("HEAD is %q", got)
	}
}

// Whatever a list of updates did to the folders of refs, syncing them is no
// failure: a folder may be gone, or a ref may be where it was.
func TestSyncRefs(t *testing.T) {
	w := newWorld(t)
	one := w.commit()
	w.receive(one)
	for _, step := range [][]cluster.RefUpdate{
		{set("refs/heads/a", "", one), set("refs/heads/x/y/z", "", one), set("refs/notes/n", "", one)},
		{set("refs/heads/a", one, ""), set("refs/notes/n", one, "")},
		{set("refs/heads/a/b/c", "", one)},
		{set("refs/heads/a/b/c", one, ""), set("refs/heads/a", "", one)},
		{set("refs/heads/x/y/z", one, ""), set("refs/heads/x", "", one)},
		{set("refs/heads/x", one, ""), set("refs/heads/x/y/z/deep", "", one)},
	} {
		for _, u := range step { // one by one: Git refuses "a" and "a/b" in one transaction
			w.change(u)
		}
		var refs []cluster.RefName
		for _, u := range step {
			refs = append(refs, u.Ref)
		}
		if err := w.SyncRefs(refs); err != nil {
			t.Errorf("after %v: %v", step, err)
		}
	}
}
