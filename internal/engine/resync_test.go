package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
	"gitcluster/internal/repository"
)

// restart ends a node's engine and starts another on the same directory.
func (w *world) restart(name cluster.DeviceName, meanwhile func(dir string)) *node {
	w.t.Helper()
	old := w.nodes[name]
	old.Close(w.t.Context())
	meanwhile(old.Store.Path(w.repo.ID))
	n := w.start(name, old.dir, Options{})
	w.nodes[name] = n
	return n
}

// history pushes n commits on main through the node and returns their tips.
func (n *node) history(count int) []cluster.OID {
	n.w.t.Helper()
	tips := []cluster.OID{""}
	for range count {
		next := n.w.commit(parents(tips[len(tips)-1])...)
		n.accept(set("refs/heads/main", tips[len(tips)-1], next))
		tips = append(tips, next)
	}
	return tips[1:]
}

func parents(oid cluster.OID) []cluster.OID {
	if oid == "" {
		return nil
	}
	return []cluster.OID{oid}
}

// A replica whose folder is gone is filled again.
func TestWipedReplicaRefillsItself(t *testing.T) {
	w := newWorld(t, "a", "b")
	tips := w.nodes["a"].history(3)
	w.nodes["b"].sync()
	w.restart("b", func(dir string) {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	})
	w.same(map[string]string{"refs/heads/main": string(tips[2])})
}

// A disk that is not the one the node ran on last is compared and completed
// before it serves: also where its refs are right and the objects behind them gone.
func TestDoubtedDisk(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	a := w.nodes["a"]
	tips := a.history(3)
	for _, name := range w.names {
		w.nodes[name].sync()
	}
	doubt := func(dir string) {
		if err := (&repository.Repository{Dir: dir}).SetDoubt("a test says so"); err != nil {
			t.Fatal(err)
		}
	}
	stray := w.commit(tips[0])
	w.nodes["b"].upload(stray)
	b := w.restart("b", func(dir string) {
		w.git(dir, "update-ref", "refs/heads/main", string(stray))
		w.git(dir, "update-ref", "refs/heads/other", string(stray))
		doubt(dir)
	})
	w.restart("c", func(dir string) {
		packs, err := filepath.Glob(filepath.Join(dir, "objects/pack/*"))
		if err != nil || len(packs) == 0 {
			t.Fatal("no packs", err)
		}
		for _, p := range packs {
			if err := os.Remove(p); err != nil {
				t.Fatal(err)
			}
		}
		doubt(dir)
	})
	if _, err := b.Sync(t.Context(), Resolved{Repo: w.repo, Stale: true}, nil); err == nil {
		t.Error("a doubted replica was read, stale")
	}
	b.sync()
	for _, ref := range strings.Fields(w.git(b.Store.Path(w.repo.ID), "for-each-ref", "--format=%(refname)", "refs/strays")) {
		w.git(b.Store.Path(w.repo.ID), "update-ref", "-d", ref)
	}
	w.same(map[string]string{"refs/heads/main": string(tips[2])})
}

// What a doubted disk has and the journal never had is kept aside.
func TestStraysAreKept(t *testing.T) {
	w := newWorld(t, "a", "b")
	tips := w.nodes["a"].history(2)
	w.nodes["b"].sync()
	stray := w.commit(tips[0])
	w.nodes["b"].upload(stray)
	b := w.nodes["b"]
	dir := b.Store.Path(w.repo.ID)
	w.git(dir, "update-ref", "refs/heads/main", string(stray))
	w.git(dir, "update-ref", "refs/heads/other", string(stray))
	kept, err := b.Repair(t.Context(), w.repo.ID)
	if err != nil || len(kept) != 2 || kept[0].Ref != "refs/heads/main" || kept[0].Value != stray || kept[1].Ref != "refs/heads/other" {
		t.Fatalf("kept %v, %v", kept, err)
	}
	for _, s := range kept {
		if got := w.git(dir, "rev-parse", string(s.Kept)); got != string(stray) {
			t.Errorf("%s is %s", s.Kept, got)
		}
		w.git(dir, "update-ref", "-d", string(s.Kept)) // so that the comparison below sees none
	}
	w.same(map[string]string{"refs/heads/main": string(tips[1])})
	// And a push goes on from there.
	next := w.commit(tips[1])
	b.accept(set("refs/heads/main", tips[1], next))
	w.same(map[string]string{"refs/heads/main": string(next)})
}

// A fenced replica serves again after a repair.
func TestRepairOfAFencedReplica(t *testing.T) {
	w := newWorld(t, "a", "b")
	tips := w.nodes["a"].history(2)
	v, _ := w.nodes["b"].sync()
	b := w.restart("b", func(string) { w.git(v.Dir, "update-ref", "refs/heads/main", string(tips[0])) })
	if _, err := b.read(t.Context()); !errors.Is(err, cluster.ErrFenced) {
		t.Fatalf("read of an edited disk: %v", err)
	}
	if _, err := b.Repair(t.Context(), w.repo.ID); err != nil {
		t.Fatal(err)
	}
	for _, ref := range strings.Fields(w.git(v.Dir, "for-each-ref", "--format=%(refname)", "refs/strays")) {
		w.git(v.Dir, "update-ref", "-d", ref)
	}
	w.same(map[string]string{"refs/heads/main": string(tips[1])})
}

// A replica that is ahead of the journal, or of an older epoch, follows it: the
// journal was restored.
func TestJournalWasRestored(t *testing.T) {
	for _, epoch := range []cluster.Epoch{1, 2} {
		t.Run(fmt.Sprint("epoch ", epoch), func(t *testing.T) {
			w := newWorld(t, "a", "b")
			a := w.nodes["a"]
			tips := a.history(4)
			w.nodes["b"].sync()
			old := a.newestHead()
			entries, err := a.Journal.Newest(t.Context(), w.repo.ID, 3, 1)
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range w.names {
				w.nodes[name].Close(t.Context())
			}
			// By hand, as a restored etcd would have it.
			old.Position = entries[0].Position()
			old.Epoch = epoch
			data, err := json.Marshal(old)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := testClient.Put(t.Context(), "/gc/head/"+string(w.repo.ID), string(data)); err != nil {
				t.Fatal(err)
			}
			for _, name := range w.names {
				w.nodes[name] = w.start(name, w.nodes[name].dir, Options{})
			}
			for _, name := range w.names {
				if _, refs := w.nodes[name].sync(); refs["refs/heads/main"] != string(tips[1]) {
					t.Errorf("%s shows %v, the journal %s", name, refs, tips[1])
				}
			}
		})
	}
}

// A replica older than the oldest entry takes the refs of a peer, if their digest
// is the journal's, and the push of a trimmed journal goes on.
func TestTrimmedJournal(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	a := w.nodes["a"]
	tips := a.history(2)
	w.nodes["b"].sync() // c has never been there
	tips = append(tips, a.historyFrom(tips[1], 6)...)
	if err := a.Journal.Trim(t.Context(), w.repo.ID, 6); err != nil {
		t.Fatal(err)
	}
	if entries, err := a.Journal.Newest(t.Context(), w.repo.ID, 0, 100); err != nil || len(entries) != 3 {
		t.Fatalf("%d entries are left, %v", len(entries), err)
	}
	next := w.commit(tips[7])
	a.accept(set("refs/heads/main", tips[7], next))
	w.same(map[string]string{"refs/heads/main": string(next)})

	// With no peer that shows the refs there is an error, not a guess.
	c := w.restart("c", func(dir string) {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	})
	w.nodes["a"].setDown(true)
	w.nodes["b"].setDown(true)
	if _, err := c.read(t.Context()); !errors.Is(err, cluster.ErrNoReplica) {
		t.Errorf("a replica without refs and peers: %v", err)
	}
	w.nodes["b"].setDown(false)
	w.same(map[string]string{"refs/heads/main": string(next)})
}

// Old entries go by themselves.
func TestEngineTrims(t *testing.T) {
	w := newWorld(t, "a", "b")
	a := w.start("a2", t.TempDir(), Options{Keep: 8})
	w.nodes["a2"] = a
	w.names = append(w.names, "a2")
	tips := a.history(12)
	w.await("entries to be trimmed", func() bool {
		entries, err := a.Journal.Newest(t.Context(), w.repo.ID, 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		return len(entries) <= 10
	})
	next := w.commit(tips[11])
	a.accept(set("refs/heads/main", tips[11], next))
	w.same(map[string]string{"refs/heads/main": string(next)})
}

func (n *node) historyFrom(tip cluster.OID, count int) (tips []cluster.OID) {
	n.w.t.Helper()
	for range count {
		next := n.w.commit(tip)
		n.accept(set("refs/heads/main", tip, next))
		tip = next
		tips = append(tips, tip)
	}
	return tips
}

func (n *node) newestHead() journal.Head {
	n.w.t.Helper()
	_, head, err := n.Journal.LookupID(n.w.t.Context(), n.w.repo.ID)
	if err != nil {
		n.w.t.Fatal(err)
	}
	return head
}
