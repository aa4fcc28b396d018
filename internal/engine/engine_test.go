package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
)

func TestPushIsReadOnEveryNode(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	one := w.commit()
	w.nodes["a"].accept(set("refs/heads/main", "", one))
	w.same(map[string]string{"HEAD": "refs/heads/main", "refs/heads/main": string(one)})
	two := w.commit(one)
	w.nodes["b"].accept(set("refs/heads/main", one, two), set("refs/tags/v1", "", one))
	w.same(map[string]string{"HEAD": "refs/heads/main", "refs/heads/main": string(two), "refs/tags/v1": string(one)})
	w.nodes["c"].accept(set("refs/tags/v1", one, ""))
	w.same(map[string]string{"HEAD": "refs/heads/main", "refs/heads/main": string(two)})
}

// A push that renames "a" to "a/b", and back, is one entry; a replica that was
// away replays two such entries at once.
func TestRenameIntoItsOwnFolder(t *testing.T) {
	w := newWorld(t, "a", "b")
	one := w.commit()
	a := w.nodes["a"]
	a.accept(set("refs/heads/x", "", one))
	w.same(map[string]string{"refs/heads/x": string(one)})
	a.accept(set("refs/heads/keep", "", one))
	a.accept(set("refs/heads/y", "", one))
	for _, atomic := range []bool{false, true} {
		got := a.push(Push{Atomic: atomic, Updates: []cluster.RefUpdate{set("refs/heads/y/b", "", one), set("refs/heads/y", one, "")}})
		if r := refused(got); r["refs/heads/y"] != "" || r["refs/heads/y/b"] != "" {
			t.Fatalf("y → y/b refused: %v", r)
		}
		got = a.push(Push{Atomic: atomic, Updates: []cluster.RefUpdate{set("refs/heads/y", "", one), set("refs/heads/y/b", one, "")}})
		if r := refused(got); r["refs/heads/y"] != "" || r["refs/heads/y/b"] != "" {
			t.Fatalf("y/b → y refused: %v", r)
		}
	}
	a.accept(set("refs/heads/y", one, ""), set("refs/heads/y/z/deep", "", one))
	w.same(map[string]string{"refs/heads/keep": string(one), "refs/heads/x": string(one), "refs/heads/y/z/deep": string(one)})
}

func TestOneBadRefAmongTen(t *testing.T) {
	w := newWorld(t, "a", "b")
	one := w.commit()
	blob := cluster.OID(w.git(w.work, "hash-object", "-w", "file"))
	a := w.nodes["a"]
	a.accept(set("refs/heads/main", "", one), set("refs/heads/dir/x", "", one), set("refs/heads/old", "", one))
	missing := cluster.OID(strings.Repeat("1", 40))
	bad := map[string]struct {
		update cluster.RefUpdate
		want   string
	}{
		"stale value":    {set("refs/heads/main", missing, one), ""}, // it has the new value already
		"other value":    {set("refs/heads/old", missing, w.commit(one)), "fetch first"},
		"stale delete":   {set("refs/heads/old", missing, ""), "stale info"},
		"vanished":       {set("refs/heads/none", one, w.commit(one)), "stale info"},
		"there already":  {set("refs/heads/old", "", w.commit(one)), "reference already exists"},
		"folder":         {set("refs/heads/dir", "", one), "there are refs below 'refs/heads/dir'; cannot create 'refs/heads/dir'"},
		"below a ref":    {set("refs/heads/old/x", "", one), "'refs/heads/old' exists; cannot create 'refs/heads/old/x'"},
		"two parts":      {set("refs/foo", "", one), "funny refname"},
		"hidden":         {set("refs/strays/x", "", one), "deny updating a hidden ref"},
		"case":           {set("refs/heads/OLD", "", one), "differs only in case from 'refs/heads/old'; cannot create 'refs/heads/OLD'"},
		"default branch": {set("refs/heads/main", one, ""), "deletion of the current branch prohibited"},
		"a blob":         {set("refs/heads/blob", "", blob), "failed to update ref: trying to write non-commit object"},
	}
	for name, c := range bad {
		for _, atomic := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s atomic=%v", name, atomic), func(t *testing.T) {
				var updates []cluster.RefUpdate
				for i := range 9 {
					updates = append(updates, set(fmt.Sprintf("refs/tags/%s-%v-%d", strings.ReplaceAll(name, " ", "-"), atomic, i), "", one))
				}
				updates = slices.Insert(updates, 4, c.update)
				before, _ := a.sync()
				got := refused(a.push(Push{Atomic: atomic, Updates: updates}))
				if r := got[string(c.update.Ref)]; !strings.HasPrefix(r, c.want) || (r == "") != (c.want == "") {
					t.Errorf("the bad ref: %q, want %q", r, c.want)
				}
				after, refs := a.sync()
				for _, u := range updates {
					if u.Ref == c.update.Ref {
						continue
					}
					wantRefused := atomic && c.want != ""
					if (got[string(u.Ref)] != "") != wantRefused || (refs[string(u.Ref)] == "") != wantRefused {
						t.Errorf("%s: refused %q, on disk %q", u.Ref, got[string(u.Ref)], refs[string(u.Ref)])
					}
				}
				if atomic && c.want != "" && after.Applied != before.Applied {
					t.Error("a refused atomic push made an entry")
				}
			})
		}
	}
	_, refs := a.sync()
	w.same(refs)
}

// faultyKV loses the answers of transactions, or the transactions.
type faultyKV struct {
	clientv3.KV
	mu   sync.Mutex
	lose func(landed bool) bool // asked before and after each write
}

func (f *faultyKV) Txn(ctx context.Context) clientv3.Txn { return &faultyTxn{Txn: f.KV.Txn(ctx), f: f} }

type faultyTxn struct {
	clientv3.Txn
	f     *faultyKV
	write bool
}

func (t *faultyTxn) If(c ...clientv3.Cmp) clientv3.Txn {
	t.Txn, t.write = t.Txn.If(c...), true
	return t
}
func (t *faultyTxn) Then(o ...clientv3.Op) clientv3.Txn { t.Txn = t.Txn.Then(o...); return t }
func (t *faultyTxn) Else(o ...clientv3.Op) clientv3.Txn { t.Txn = t.Txn.Else(o...); return t }
func (t *faultyTxn) Commit() (*clientv3.TxnResponse, error) {
	lost := errors.New("connection lost")
	t.f.mu.Lock()
	lose := t.f.lose
	t.f.mu.Unlock()
	if t.write && lose != nil && lose(false) {
		return nil, lost
	}
	r, err := t.Txn.Commit()
	if t.write && lose != nil && lose(true) {
		return nil, lost
	}
	return r, err
}

func TestLostAnswers(t *testing.T) {
	for _, landed := range []bool{false, true} {
		t.Run(fmt.Sprintf("landed=%v", landed), func(t *testing.T) {
			w := newWorld(t, "a", "b")
			kv := &faultyKV{KV: testClient}
			w.nodes["a"] = w.start("a", w.nodes["a"].dir, Options{Journal: journal.NewOver(testClient, kv)})
			one := w.commit()
			w.nodes["a"].accept(set("refs/heads/main", "", one), set("refs/tags/gone", "", one))
			losses := 3
			kv.mu.Lock()
			kv.lose = func(after bool) bool {
				if after == landed && losses > 0 {
					losses--
					return true
				}
				return false
			}
			kv.mu.Unlock()
			two := w.commit(one)
			// The deletion tells a push that landed from one that did not: judged
			// again after it landed, it would be refused.
			w.nodes["a"].accept(set("refs/heads/main", one, two), set("refs/tags/gone", one, ""))
			if losses > 0 {
				t.Fatal("no answer was lost")
			}
			kv.mu.Lock()
			kv.lose = nil
			kv.mu.Unlock()
			w.same(map[string]string{"refs/heads/main": string(two)})
			v, _ := w.nodes["b"].sync()
			if v.Applied.Version != 2 {
				t.Errorf("the push is in the journal %d times", v.Applied.Version-1)
			}
		})
	}
}

// A node whose journal stays silent tells its client neither ok nor ng, and what
// it had appended is found by its next life.
func TestUnclearOutcome(t *testing.T) {
	w := newWorld(t, "a", "b")
	kv := &faultyKV{KV: testClient}
	a := w.start("a", w.nodes["a"].dir, Options{Journal: journal.NewOver(testClient, kv)})
	w.nodes["a"] = a
	one := w.commit()
	a.accept(set("refs/heads/main", "", one))
	lost := make(chan bool, 1)
	kv.mu.Lock()
	kv.lose = func(after bool) bool {
		if after {
			select {
			case lost <- true:
			default:
			}
		}
		return after
	}
	kv.mu.Unlock()
	two := w.commit(one)
	outcome := make(chan error, 1)
	a.upload(two)
	go func() {
		_, err := a.Commit(t.Context(), w.repo.ID, Push{ID: journal.NewID(), Updates: []cluster.RefUpdate{set("refs/heads/main", one, two)}})
		outcome <- err
	}()
	<-lost
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	a.Close(ended)
	if err := <-outcome; !errors.Is(err, ErrUnclear) {
		t.Fatalf("the push ended with %v, want %v", err, ErrUnclear)
	}
	w.nodes["a"] = w.start("a", a.dir, Options{})
	w.same(map[string]string{"refs/heads/main": string(two)})
}

// The node stands still between the transaction and its own commit: readers on
// it wait, readers elsewhere get the objects from it, and nobody sees the old value.
func TestPausedBetweenTransactionAndCommit(t *testing.T) {
	w := newWorld(t, "a", "b")
	reached, resume := make(chan bool), make(chan bool)
	var stop sync.Once
	at := func(s Step) {
		if s == StepAppended {
			stop.Do(func() { reached <- true; <-resume })
		}
	}
	one := w.commit()
	w.nodes["b"].accept(set("refs/heads/main", "", one))
	a := w.start("a", w.nodes["a"].dir, Options{At: at})
	w.nodes["a"] = a
	two := w.commit(one)
	a.upload(two)
	pushed := make(chan error, 1)
	go func() {
		_, err := a.Commit(t.Context(), w.repo.ID, Push{ID: journal.NewID(), Updates: []cluster.RefUpdate{set("refs/heads/main", one, two)}})
		pushed <- err
	}()
	<-reached
	if _, refs := w.nodes["b"].sync(); refs["refs/heads/main"] != string(two) {
		t.Errorf("another node shows %s, want the push", refs["refs/heads/main"])
	}
	read := make(chan string, 1)
	waiting := make(chan bool)
	go func() {
		ctx := t.Context()
		at, err := a.Resolve(ctx, w.repo.Name, cluster.Current)
		if err != nil {
			read <- err.Error()
			return
		}
		close(waiting)
		v, err := a.Sync(ctx, at, nil)
		if err != nil {
			read <- err.Error()
			return
		}
		read <- a.refs(v.Dir)["refs/heads/main"]
	}()
	<-waiting
	select {
	case got := <-read:
		t.Errorf("a reader on the paused node was served %q", got)
	case <-time.After(200 * time.Millisecond): // it must still be waiting
	}
	close(resume)
	if err := <-pushed; err != nil {
		t.Error(err)
	}
	if got := <-read; got != string(two) {
		t.Errorf("the reader got %q, want %s", got, two)
	}
}

// The node dies at each step of a commit. Its next life replays, whatever locks
// the dead one left.
func TestKilledAtEveryStep(t *testing.T) {
	for _, step := range []Step{StepPrepared, StepAppended, StepWritten, StepApplied} {
		t.Run(string(step), func(t *testing.T) {
			w := newWorld(t, "a", "b")
			one := w.commit()
			w.nodes["a"].accept(set("refs/heads/main", "", one), set("refs/heads/gone", "", one))
			w.nodes["b"].sync()
			before := filepath.Join(t.TempDir(), "copy")
			dead := w.nodes["a"]
			var life *node
			snapshot := func(s Step) {
				if s == step {
					// What is on disk at this moment is what the next life finds.
					if err := os.CopyFS(before, os.DirFS(life.dir)); err != nil {
						t.Error(err)
					}
				}
			}
			life = w.start("a", dead.dir, Options{At: snapshot})
			two := w.commit(one)
			life.accept(set("refs/heads/main", one, two), set("refs/heads/gone", one, ""), set("refs/heads/gone/deeper", "", one))
			locks, _ := filepath.Glob(filepath.Join(before, "repositories/*/*/refs/heads/*.lock"))
			if step == StepPrepared || step == StepAppended {
				if len(locks) == 0 {
					t.Fatal("the dead node left no lock: the test proves nothing")
				}
			}
			life.setDown(true)
			w.nodes["a"] = w.start("a", before, Options{})
			w.same(map[string]string{"refs/heads/main": string(two), "refs/heads/gone/deeper": string(one)})
		})
	}
}

// A tip that is there without its history is not held.
func TestTipWithoutHistory(t *testing.T) {
	w := newWorld(t, "a", "b")
	one := w.commit()
	two := w.commit(one)
	three := w.commit(two)
	a, b := w.nodes["a"], w.nodes["b"]
	a.accept(set("refs/heads/main", "", one))
	v, _ := b.sync()
	object := w.git(w.work, "cat-file", "commit", string(three))
	path := filepath.Join(t.TempDir(), "commit")
	if err := os.WriteFile(path, []byte(object+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := w.git(v.Dir, "hash-object", "-t", "commit", "-w", path); got != string(three) {
		t.Fatalf("planted %s, want %s", got, three)
	}
	a.accept(set("refs/heads/main", one, three))
	w.same(map[string]string{"refs/heads/main": string(three)})
}

// A pack that lacks history is not taken, wherever it comes from; the next
// replica is asked.
func TestPackWithoutHistory(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	one := w.commit()
	w.nodes["a"].accept(set("refs/heads/main", "", one))
	w.nodes["b"].sync()
	w.nodes["c"].sync()
	three := w.commit(w.commit(one))
	w.nodes["a"].accept(set("refs/heads/main", one, three))
	w.nodes["b"].sync()
	w.nodes["a"].lags = true
	w.same(map[string]string{"refs/heads/main": string(three)})
	if w.nodes["b"].packs == 0 {
		t.Error("the other replica was not asked: the test proves nothing")
	}
}

// A value that existed only between two versions, and is nowhere any more, is
// not needed.
func TestValueBetweenVersions(t *testing.T) {
	w := newWorld(t, "a", "b")
	one := w.commit()
	a := w.nodes["a"]
	a.accept(set("refs/heads/main", "", one))
	w.nodes["b"].sync()
	lost := w.commit(one)
	a.accept(set("refs/heads/tmp", "", lost))
	a.accept(set("refs/heads/tmp", lost, ""))
	v, _ := a.sync()
	w.git(v.Dir, "repack", "-adq")
	w.git(v.Dir, "prune", "--expire=now")
	two := w.commit(one)
	a.accept(set("refs/heads/main", one, two))
	w.same(map[string]string{"refs/heads/main": string(two)})
	if dir := w.nodes["b"].Store.Path(w.repo.ID); gitHas(w, dir, lost) {
		t.Error("the lost value is on b: the test proves nothing")
	}
}

func gitHas(w *world, dir string, oid cluster.OID) bool {
	out := w.git(dir, "cat-file", "--batch-all-objects", "--batch-check=%(objectname)")
	return strings.Contains(out, string(oid))
}

// Two nodes push at once; each entry is judged against what came before it.
func TestHeadMovesBetweenCatchUpAndPrepare(t *testing.T) {
	w := newWorld(t, "a", "b")
	one := w.commit()
	w.nodes["a"].accept(set("refs/heads/main", "", one))
	w.nodes["b"].sync()
	var once sync.Once
	two, rival := w.commit(one), w.commit(one)
	a := w.start("a", w.nodes["a"].dir, Options{At: func(s Step) {
		if s == StepPrepared {
			once.Do(func() {
				w.nodes["b"].accept(set("refs/heads/main", one, rival), set("refs/heads/theirs", "", rival))
			})
		}
	}})
	w.nodes["a"] = a
	got := refused(a.push(Push{Updates: []cluster.RefUpdate{set("refs/heads/main", one, two), set("refs/heads/ours", "", two)}}))
	if got["refs/heads/main"] != "fetch first" || got["refs/heads/ours"] != "" {
		t.Errorf("got %v, want main refused with %q and ours accepted", got, "fetch first")
	}
	w.same(map[string]string{"refs/heads/main": string(rival), "refs/heads/theirs": string(rival), "refs/heads/ours": string(two)})
}

// Another node's push moves the head while ours holds its refs locked. A reader
// who must see the other push waits for our locks to go and is then served.
func TestReaderCatchesUpAgainstOurOwnLocks(t *testing.T) {
	w := newWorld(t, "a", "b")
	one := w.commit()
	w.nodes["a"].accept(set("refs/heads/main", "", one))
	w.nodes["b"].sync()
	rival, two := w.commit(one), w.commit(one)
	prepared, resume := make(chan bool), make(chan bool)
	var once sync.Once
	a := w.start("a", w.nodes["a"].dir, Options{At: func(s Step) {
		if s == StepPrepared {
			once.Do(func() { prepared <- true; <-resume })
		}
	}})
	w.nodes["a"] = a
	a.upload(two)
	pushed := make(chan []cluster.RefResult, 1)
	go func() {
		got, err := a.Commit(t.Context(), w.repo.ID, Push{ID: journal.NewID(), Updates: []cluster.RefUpdate{set("refs/heads/main", one, two)}})
		if err != nil {
			t.Error(err)
		}
		pushed <- got
	}()
	<-prepared
	w.nodes["b"].accept(set("refs/heads/main", one, rival))
	at, err := a.Resolve(t.Context(), w.repo.Name, cluster.Current)
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan string, 1)
	go func() {
		v, err := a.Sync(t.Context(), at, nil)
		if err != nil {
			read <- err.Error()
			return
		}
		read <- a.refs(v.Dir)["refs/heads/main"]
	}()
	waitFor(t, func() string {
		r := a.replica(w.repo.ID)
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.flight == nil {
			return "the reader has not started a catch-up"
		}
		return ""
	})
	close(resume)
	if got := <-read; got != string(rival) {
		t.Errorf("the reader got %q, want the other node's push %s", got, rival)
	}
	if got := refused(<-pushed); got["refs/heads/main"] != "fetch first" {
		t.Errorf("our push: %v, want it refused with %q", got, "fetch first")
	}
}

func TestHeadChangesOnOneNodeAndIsReadOnAnother(t *testing.T) {
	w := newWorld(t, "a", "b")
	one := w.commit()
	w.nodes["a"].accept(set("refs/heads/trunk", "", one))
	want := map[string]string{"HEAD": "refs/heads/trunk", "refs/heads/trunk": string(one)}
	w.same(want)
	w.nodes["b"].accept(set("refs/heads/next", "", one))
	w.nodes["b"].push(Push{Head: "refs/heads/next"})
	w.same(map[string]string{"HEAD": "refs/heads/next", "refs/heads/trunk": string(one), "refs/heads/next": string(one)})
}

// Ten thousand refs do not fit into one etcd request.
func TestTenThousandRefs(t *testing.T) {
	w := newWorld(t, "a", "b")
	one := w.commit()
	var updates []cluster.RefUpdate
	want := map[string]string{}
	for i := range 10_000 {
		u := set(fmt.Sprintf("refs/heads/topic/%02d/%05d", i%100, i), "", one)
		updates = append(updates, u)
		want[string(u.Ref)] = string(one)
	}
	start := time.Now()
	w.nodes["a"].accept(updates...)
	t.Logf("push took %v", time.Since(start))
	w.same(want)
	t.Logf("with catch-up %v", time.Since(start))
}

// Pushes that wait together share an entry, unless their refs meet.
func TestGroupCommit(t *testing.T) {
	w := newWorld(t, "a", "b")
	one := w.commit()
	a := w.nodes["a"]
	a.accept(set("refs/heads/main", "", one))
	r := a.replica(w.repo.ID)
	if err := r.lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	two, three := w.commit(one), w.commit(one)
	repo, err := a.Store.Open(w.repo.ID)
	if err != nil {
		t.Fatal(err)
	}
	w.git(w.work, "push", "-q", "--no-verify", repo.Dir, string(two)+":refs/strays/2", string(three)+":refs/strays/3")
	pushes := [][]cluster.RefUpdate{
		{set("refs/heads/p1", "", two)},
		{set("refs/heads/p2", "", three)},
		{set("refs/heads/main", one, two)},
		{set("refs/heads/main", one, three)}, // loses against the one before
		{set("refs/heads/p1/x", "", two)},    // clashes with the first
	}
	type outcome struct {
		n   int
		got []cluster.RefResult
	}
	results := make(chan outcome, len(pushes))
	for n, updates := range pushes {
		go func() {
			got, err := a.Commit(t.Context(), w.repo.ID, Push{ID: journal.NewID(), Updates: updates})
			if err != nil {
				t.Error(err)
			}
			results <- outcome{n, got}
		}()
		waitFor(t, func() string {
			r.mu.Lock()
			defer r.mu.Unlock()
			if len(r.queue) != n+1 {
				return fmt.Sprintf("%d pushes are queued", len(r.queue))
			}
			return ""
		})
	}
	r.unlock()
	got := map[int]string{}
	for range pushes {
		o := <-results
		got[o.n] = o.got[0].Refused
	}
	want := map[int]string{0: "", 1: "", 2: "", 3: "fetch first", 4: "'refs/heads/p1' exists; cannot create 'refs/heads/p1/x'"}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	_, head, err := a.Journal.LookupID(t.Context(), w.repo.ID)
	if err != nil {
		t.Fatal(err)
	}
	if head.Version != 2 {
		t.Errorf("three pushes made %d entries, want 1", head.Version-1)
	}
	w.git(repo.Dir, "update-ref", "-d", "refs/strays/2")
	w.git(repo.Dir, "update-ref", "-d", "refs/strays/3")
	w.same(map[string]string{"refs/heads/main": string(two), "refs/heads/p1": string(two), "refs/heads/p2": string(three)})
}

// The only replica that has a version is down: readers elsewhere get an error
// that names it, and are served as soon as it is back.
func TestOnlyReplicaIsDown(t *testing.T) {
	w := newWorld(t, "a", "b")
	one := w.commit()
	w.nodes["a"].accept(set("refs/heads/main", "", one))
	w.nodes["a"].setDown(true)
	_, err := w.nodes["b"].read(t.Context())
	if !errors.Is(err, cluster.ErrNoReplica) || !strings.Contains(err.Error(), `"a"`) {
		t.Errorf("got %v, want an error that names the node", err)
	}
	w.nodes["a"].setDown(false)
	w.same(map[string]string{"refs/heads/main": string(one)})
}

// A peer that is no longer known says nothing about the repository: the replica
// goes on to try.
func TestRemovedPeerIsNoAnswer(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.nodes["a"].accept(set("refs/heads/main", "", w.commit()))
	b := w.nodes["b"]
	b.Peers = removed{peersOf{b}}
	_, err := b.read(t.Context())
	if !errors.Is(err, cluster.ErrNoReplica) || errors.Is(err, cluster.ErrNotFound) {
		t.Error(err)
	}
	if b.replica(w.repo.ID).followed(err) {
		t.Error("nobody tries again")
	}
}

type removed struct{ peersOf }

func (removed) Pack(context.Context, cluster.DeviceName, cluster.RepoID, []cluster.OID, []cluster.OID) (io.ReadCloser, error) {
	return nil, fmt.Errorf("node: %w", cluster.ErrNotFound)
}

// A disk that was edited behind the engine's back is served to nobody.
func TestEditedDiskIsFenced(t *testing.T) {
	w := newWorld(t, "a", "b")
	one := w.commit()
	two := w.commit(one)
	w.nodes["a"].accept(set("refs/heads/main", "", one), set("refs/heads/other", "", two))
	v, _ := w.nodes["b"].sync()
	w.git(v.Dir, "update-ref", "refs/heads/main", string(two))
	// Found by the next push that touches the ref …
	got := refused(w.nodes["b"].push(Push{Updates: []cluster.RefUpdate{set("refs/heads/main", one, two)}}))
	if got["refs/heads/main"] == "" {
		t.Error("a push onto an edited ref was accepted")
	}
	if _, err := w.nodes["b"].read(t.Context()); !errors.Is(err, cluster.ErrFenced) {
		t.Errorf("read: %v, want %v", err, cluster.ErrFenced)
	}
	// … and by the next life, before it serves.
	w.nodes["b"] = w.start("b", w.nodes["b"].dir, Options{})
	if _, err := w.nodes["b"].read(t.Context()); !errors.Is(err, cluster.ErrFenced) {
		t.Errorf("read after restart: %v, want %v", err, cluster.ErrFenced)
	}
}

func TestReplacedIncarnationCountsForNothing(t *testing.T) {
	w := newWorld(t, "a", "b")
	one := w.commit()
	a := w.nodes["a"]
	a.upload(one)
	if err := a.Journal.AddDevice(t.Context(), cluster.Device{Name: "a", PublicKey: "ssh-ed25519 a", Node: true}, "another"); err != nil {
		t.Fatal(err)
	}
	got := refused(a.push(Push{Updates: []cluster.RefUpdate{set("refs/heads/main", "", one)}}))
	if !strings.Contains(got["refs/heads/main"], "has been replaced") {
		t.Errorf("got %v", got)
	}
}

// A client that takes nothing of what it is told holds up nobody else.
func TestReaderThatDoesNotListen(t *testing.T) {
	w := newWorld(t, "a", "b")
	one := w.commit()
	w.nodes["a"].accept(set("refs/heads/main", "", one))
	b := w.nodes["b"]
	at, err := b.Resolve(t.Context(), w.repo.Name, cluster.Current)
	if err != nil {
		t.Fatal(err)
	}
	told, forever := make(chan bool), make(chan bool)
	defer close(forever)
	var once sync.Once
	go b.Sync(t.Context(), at, func(string) { once.Do(func() { close(told) }); <-forever })
	<-told
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := b.read(ctx); err != nil {
		t.Errorf("another reader: %v", err)
	}
	two := w.commit(one)
	b.accept(set("refs/heads/main", one, two))
}

// One failed catch-up answers everybody who waits for it, not one after the other.
func TestReadersShareAFailure(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.nodes["a"].accept(set("refs/heads/main", "", w.commit()))
	w.nodes["a"].setDown(true)
	before := w.nodes["a"].packs
	const readers = 20
	failed := make(chan error, readers)
	for range readers {
		go func() {
			_, err := w.nodes["b"].read(t.Context())
			failed <- err
		}()
	}
	for range readers {
		if err := <-failed; !errors.Is(err, cluster.ErrNoReplica) {
			t.Errorf("got %v, want %v", err, cluster.ErrNoReplica)
		}
	}
	if asked := w.nodes["a"].packs - before; asked >= readers {
		t.Errorf("%d readers made %d attempts", readers, asked)
	}
}

// A Git that was killed while it changed HEAD leaves a lock; that stops nobody.
func TestStaleHeadLock(t *testing.T) {
	w := newWorld(t, "a", "b")
	one := w.commit()
	w.nodes["a"].accept(set("refs/heads/main", "", one), set("refs/heads/next", "", one))
	v, _ := w.nodes["b"].sync()
	if err := os.WriteFile(filepath.Join(v.Dir, "HEAD.lock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.nodes["a"].push(Push{Head: "refs/heads/next"})
	w.same(map[string]string{"HEAD": "refs/heads/next", "refs/heads/main": string(one), "refs/heads/next": string(one)})
}

// Of a ref that a push names twice nothing is accepted: Git tells the client the
// outcome by name.
func TestRefNamedTwice(t *testing.T) {
	w := newWorld(t, "a")
	one, two := w.commit(), w.commit()
	got := w.nodes["a"].push(Push{Updates: []cluster.RefUpdate{set("refs/heads/x", "", one), set("refs/heads/y", "", one), set("refs/heads/x", "", two)}})
	for _, r := range got {
		if want := r.Ref == "refs/heads/x"; (r.Refused != "") != want {
			t.Errorf("%s: refused %q", r.Ref, r.Refused)
		}
	}
	_, refs := w.nodes["a"].sync()
	if refs["refs/heads/x"] != "" {
		t.Error("one of the two was accepted")
	}
}

// Many bad refs cost one question to Git, not one each.
func TestManyBadRefs(t *testing.T) {
	w := newWorld(t, "a")
	one := w.commit()
	blob := cluster.OID(w.git(w.work, "hash-object", "-w", "file"))
	updates := []cluster.RefUpdate{set("refs/heads/good", "", one)}
	for i := range 2000 {
		updates = append(updates, set(fmt.Sprintf("refs/heads/bad/%d", i), "", blob))
	}
	w.nodes["a"].upload(one, blob)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	got, err := w.nodes["a"].Commit(ctx, w.repo.ID, Push{ID: journal.NewID(), Updates: updates})
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range got {
		if (r.Refused == "") != (i == 0) {
			t.Fatalf("%s: refused %q", r.Ref, r.Refused)
		}
	}
}

func TestStaleRead(t *testing.T) {
	w := newWorld(t, "a", "b")
	one := w.commit()
	w.nodes["a"].accept(set("refs/heads/main", "", one))
	b := w.nodes["b"]
	at := Resolved{Repo: w.repo, Stale: true}
	if _, err := b.Sync(t.Context(), at, nil); err == nil {
		t.Error("a replica that never synchronized served a stale read")
	}
	b.sync()
	w.nodes["a"].accept(set("refs/heads/main", one, w.commit(one)))
	v, err := b.Sync(t.Context(), at, nil)
	if err != nil || !v.Stale || v.Applied.Version != 1 {
		t.Errorf("got %+v, %v; want version 1 marked stale", v, err)
	}
}

// A renamed repository is not to be read under the rights of its old name, and
// a deleted one not at all, by somebody who does without the journal's answer.
func TestStaleReadsFollowNames(t *testing.T) {
	w := newWorld(t, "a")
	a := w.nodes["a"]
	a.accept(set("refs/heads/main", "", w.commit()))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go a.Run(ctx)
	stale := func(name cluster.RepoName, want bool) {
		t.Helper()
		waitFor(t, func() string {
			at, err := a.Resolve(t.Context(), name, cluster.StaleOK)
			if err == nil && !at.Stale {
				return "the journal was asked"
			}
			if got := err == nil; got != want {
				return fmt.Sprintf("%s: found %v, want %v (%v)", name, got, want, err)
			}
			return ""
		})
	}
	stale(w.repo.Name, true)
	to := w.repo.Name + "-renamed"
	if err := a.Journal.RenameRepo(t.Context(), w.repo, to); err != nil {
		t.Fatal(err)
	}
	stale(to, true)
	stale(w.repo.Name, false)
	repo := w.repo
	repo.Name = to
	if err := a.Journal.DeleteRepo(t.Context(), repo); err != nil {
		t.Fatal(err)
	}
	stale(to, false)
	waitFor(t, func() string {
		if _, err := os.Stat(a.Store.Path(repo.ID)); err == nil {
			return "the deleted replica is still on disk"
		}
		return ""
	})
}

// waitFor waits until state returns "", and fails with what it last said.
func waitFor(t *testing.T, state func() string) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		last := state()
		if last == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("timed out: ", last)
		}
		time.Sleep(time.Millisecond)
	}
}
