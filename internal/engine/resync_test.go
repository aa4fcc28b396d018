package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

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

// Two nodes that are older than the journal do not wait for each other's refs.
func TestTwoOlderThanTheJournal(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	for _, name := range w.names {
		w.another(name, Options{RefsPatience: time.Minute}) // who waits for the other does so long
	}
	c := w.nodes["c"]
	tips := c.history(6)
	if err := c.Journal.Trim(t.Context(), w.repo.ID, 5); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	w.same(map[string]string{"refs/heads/main": string(tips[5])})
	if took := time.Since(start); took > c.RefsPatience/2 {
		t.Errorf("that took %v", took)
	}
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

// strays returns what is kept aside in a replica, as "value ref" lines.
func (n *node) strays() []string {
	n.w.t.Helper()
	out := n.w.git(n.Store.Path(n.w.repo.ID), "for-each-ref", "--format=%(objectname) %(refname)", "refs/strays")
	return slices.Collect(strings.Lines(out))
}

func doubt(t *testing.T, dir string) {
	t.Helper()
	if err := (&repository.Repository{Dir: dir}).SetDoubt("a test says so"); err != nil {
		t.Fatal(err)
	}
}

// removePackOf removes the pack that holds an object.
func (w *world) removePackOf(dir string, oid cluster.OID) {
	w.t.Helper()
	packs, err := filepath.Glob(filepath.Join(dir, "objects/pack/*.idx"))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, idx := range packs {
		if strings.Contains(w.git(dir, "verify-pack", "-v", idx), string(oid)+" commit") {
			for _, end := range []string{".idx", ".pack", ".rev"} {
				os.Remove(strings.TrimSuffix(idx, ".idx") + end)
			}
			return
		}
	}
	w.t.Fatalf("no pack has %s", oid)
}

// A resynchronization that fails and is tried again keeps the strays once.
func TestStraysAreKeptOnce(t *testing.T) {
	w := newWorld(t, "a", "b")
	a := w.nodes["a"]
	tips := a.history(2)
	w.nodes["b"].sync()
	stray := w.commit(tips[0])
	w.nodes["b"].upload(stray)
	a.accept(set("refs/heads/main", tips[1], w.commit(tips[1]))) // b lacks it
	a.setDown(true)
	b := w.restart("b", func(dir string) {
		w.git(dir, "update-ref", "refs/heads/other", string(stray))
		doubt(t, dir)
	})
	for range 3 {
		if _, err := b.read(t.Context()); !errors.Is(err, cluster.ErrNoReplica) {
			t.Fatal(err)
		}
	}
	a.setDown(false)
	b.sync()
	if kept := b.strays(); len(kept) != 2 { // main at its version, too: the disk is not what was recorded
		t.Errorf("kept %q", kept)
	}
}

// A disk whose refs name what is not there, or not whole, follows the journal
// all the same; of such a value nothing can be kept, and nothing may rest on it.
func TestStraysWithoutObjects(t *testing.T) {
	w := newWorld(t, "a", "b")
	a := w.nodes["a"]
	tips := a.history(2)
	w.nodes["b"].sync()
	b := w.nodes["b"]
	dir := b.Store.Path(w.repo.ID)
	gone, root := w.commit(tips[1]), w.commit()
	headless := w.commit(root) // its parent is not there
	commit := w.git(w.work, "cat-file", "commit", string(headless)) + "\n"
	cmd := exec.Command("git", "hash-object", "-t", "commit", "-w", "--stdin", "--literally")
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(commit)
	if out, err := cmd.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != string(headless) {
		t.Fatalf("%s, %v", out, err)
	}
	for ref, value := range map[string]cluster.OID{"gone": gone, "headless": headless} {
		if err := os.WriteFile(filepath.Join(dir, "refs/heads", ref), []byte(string(value)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := b.Repair(t.Context(), w.repo.ID)
	if err != nil || len(kept) != 2 || kept[0].Kept != "" || kept[1].Kept != "" {
		t.Errorf("kept %v, %v", kept, err)
	}
	w.same(map[string]string{"refs/heads/main": string(tips[1])})
	if v := b.Verify(t.Context(), w.repo.ID, true); !v.OK() {
		t.Errorf("after the repair: %+v", v)
	}
}

// A ref file that is no ref, as a disk that rots may leave it, is repaired, too.
func TestBrokenRefIsRepaired(t *testing.T) {
	for _, contents := range []string{"", "no ref\n"} {
		w := newWorld(t, "a", "b")
		tips := w.nodes["a"].history(2)
		v, _ := w.nodes["b"].sync()
		b := w.restart("b", func(string) {
			for _, ref := range []string{"refs/heads/main", "refs/heads/alien"} {
				if err := os.WriteFile(filepath.Join(v.Dir, ref), []byte(contents), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		})
		if _, err := b.read(t.Context()); !errors.Is(err, cluster.ErrFenced) {
			t.Fatal(err)
		}
		if _, err := b.Repair(t.Context(), w.repo.ID); err != nil {
			t.Fatal(err)
		}
		w.same(map[string]string{"refs/heads/main": string(tips[1])})
	}
}

// A doubted replica whose refs, with the entries since, lead to the head's digest
// needs no peer to tell it its refs: a node that is alone could never be right again.
func TestDoubtedAndAlone(t *testing.T) {
	w := newWorld(t, "a")
	a := w.nodes["a"]
	tips := a.history(6)
	if err := a.Journal.Trim(t.Context(), w.repo.ID, 5); err != nil {
		t.Fatal(err)
	}
	a = w.restart("a", func(dir string) { doubt(t, dir) })
	w.same(map[string]string{"refs/heads/main": string(tips[5])})
	// Nor does one that was edited while its node ran.
	w.git(a.Store.Path(w.repo.ID), "update-ref", "refs/heads/main", string(tips[0]))
	if _, err := a.Repair(t.Context(), w.repo.ID); err != nil {
		t.Fatal(err)
	}
	a.dropStrays()
	w.same(map[string]string{"refs/heads/main": string(tips[5])})
}

func (n *node) dropStrays() {
	n.w.t.Helper()
	for _, s := range n.strays() {
		_, ref, _ := strings.Cut(strings.TrimSpace(s), " ")
		n.w.git(n.Store.Path(n.w.repo.ID), "update-ref", "-d", ref)
	}
}

// A replica that shows less than it has reported was restored from a backup,
// even one of this life of the node, and so made while it was being written.
func TestOlderThanItReported(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.nodes["a"], w.nodes["b"]
	tips := a.history(1)
	b.sync()
	tips = append(tips, a.historyFrom(tips[0], 1)...)
	v, _ := b.sync()
	backup := filepath.Join(t.TempDir(), "backup")
	if err := os.CopyFS(backup, os.DirFS(v.Dir)); err != nil {
		t.Fatal(err)
	}
	tips = append(tips, a.historyFrom(tips[1], 2)...)
	b.sync()
	if err := b.report(t.Context(), w.repo.ID); err != nil {
		t.Fatal(err)
	}
	b = w.restart("b", func(dir string) {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(dir, os.DirFS(backup)); err != nil {
			t.Fatal(err)
		}
		w.removePackOf(dir, tips[0])
	})
	one := w.commit(tips[3])
	if got := refused(a.push(Push{Copies: 2, Updates: []cluster.RefUpdate{set("refs/heads/main", tips[3], one)}})); got["refs/heads/main"] != "" {
		t.Fatal(got)
	}
	if !b.holds(one) {
		t.Error("b is counted, and does not hold the push")
	}
	w.same(map[string]string{"refs/heads/main": string(one)})
}

// A doubted replica counts for nothing before it was resynchronized, whatever
// somebody has looked at meanwhile.
func TestDoubtedReplicaTakesNoCopy(t *testing.T) {
	w := newWorld(t, "a", "b")
	a := w.nodes["a"]
	tips := a.history(1)
	w.nodes["b"].sync()
	tips = append(tips, a.historyFrom(tips[0], 1)...)
	w.nodes["b"].sync()
	b := w.restart("b", func(dir string) {
		w.removePackOf(dir, tips[0])
		doubt(t, dir)
	})
	a.setDown(true)
	if loss, err := b.Loss(t.Context(), w.repo.ID); err != nil || loss.Survives != 0 {
		t.Errorf("of a replica without its history %d versions survive, %v", loss.Survives, err)
	}
	a.setDown(false)
	one := w.commit(tips[1])
	if got := refused(a.push(Push{Copies: 2, Updates: []cluster.RefUpdate{set("refs/heads/main", tips[1], one)}})); got["refs/heads/main"] != "" {
		t.Fatal(got)
	}
	if !b.holds(one) {
		t.Error("b is counted, and does not hold the push")
	}
}

// Refs that are not the journal's are nothing to rest a copy on.
func TestEditedReplicaTakesNoCopy(t *testing.T) {
	w := newWorld(t, "a", "b")
	a := w.nodes["a"]
	tips := a.history(1)
	w.nodes["b"].sync()
	two := w.commit(tips[0])
	w.restart("b", func(dir string) {
		commit := w.git(w.work, "cat-file", "commit", string(two)) + "\n"
		cmd := exec.Command("git", "hash-object", "-t", "commit", "-w", "--stdin", "--literally")
		cmd.Dir, cmd.Stdin = dir, strings.NewReader(commit)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s, %v", out, err)
		}
		w.git(dir, "update-ref", "refs/heads/main", string(two)) // without its tree
	})
	a.CopyBound = time.Second
	a.push(Push{Copies: 2, Updates: []cluster.RefUpdate{set("refs/heads/main", tips[0], two)}})
	if e := w.newest(); slices.Contains(e.Copies, "b") && !w.nodes["b"].holds(two) {
		t.Errorf("the entry counts b, which does not hold the push: %+v", e)
	}
}

// A replica that comes back with what was given up keeps it, also when the entry
// that gave it up was trimmed meanwhile.
func TestGivenUpAndTrimmed(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	a, b := w.nodes["a"], w.nodes["b"]
	tips := a.history(1)
	b.sync()
	w.nodes["c"].sync()
	lost := w.commit(tips[0])
	a.accept(set("refs/heads/main", tips[0], lost))
	a.setDown(true)
	loss, err := b.Loss(t.Context(), w.repo.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.AcceptLoss(t.Context(), w.repo.ID, loss, "tester", t.TempDir()); err != nil {
		t.Fatal(err)
	}
	tips = append(tips, b.historyFrom(tips[0], 4)...)
	if err := b.Journal.Trim(t.Context(), w.repo.ID, 6); err != nil {
		t.Fatal(err)
	}
	a.setDown(false)
	a = w.restart("a", func(string) {})
	if _, refs := a.sync(); refs["refs/heads/main"] != string(tips[4]) {
		t.Errorf("a shows %v", refs)
	}
	if kept := a.strays(); len(kept) != 1 || !strings.HasPrefix(kept[0], string(lost)) {
		t.Errorf("kept %q, want %s", kept, lost)
	}
}
