package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
	"gitcluster/internal/peer"
	"gitcluster/internal/repository"
)

// maintain looks after a node's replica, which must succeed.
func (n *node) maintain(full bool) Upkeep {
	n.w.t.Helper()
	u := n.Maintain(n.w.t.Context(), n.w.repo.ID, full)
	if u.Error != "" {
		n.w.t.Fatalf("%s: %s", n.Device, u.Error)
	}
	return u
}

func (n *node) packsHere() []repository.Pack {
	n.w.t.Helper()
	repo, err := n.Store.Open(n.w.repo.ID)
	if err != nil {
		n.w.t.Fatal(err)
	}
	packs, _, err := repo.Packs()
	if err != nil {
		n.w.t.Fatal(err)
	}
	return packs
}

func (n *node) has(oid cluster.OID) bool {
	n.w.t.Helper()
	repo, err := n.Store.Open(n.w.repo.ID)
	if err != nil {
		n.w.t.Fatal(err)
	}
	ok, err := repo.Closed(n.w.t.Context(), []cluster.OID{oid}, nil)
	if err != nil {
		n.w.t.Fatal(err)
	}
	return ok
}

// another starts a node with an engine of other options in place of one.
func (w *world) another(name cluster.DeviceName, o Options) *node {
	old := w.nodes[name]
	old.Close(w.t.Context())
	w.nodes[name] = w.start(name, old.dir, o)
	return w.nodes[name]
}

// abandoned returns a commit that a replica has and nothing reaches, in a pack
// that was set aside a moment ago.
func (n *node) abandoned(base cluster.OID) cluster.OID {
	n.w.t.Helper()
	lost := n.w.commit(base)
	n.upload(lost)
	keep := n.Unreached
	n.Unreached = time.Hour
	n.maintain(true)
	n.Unreached = keep
	aside := 0
	for _, p := range n.packsHere() {
		if !p.Aside.IsZero() {
			aside++
		}
	}
	if aside != 1 || !n.has(lost) {
		n.w.t.Fatalf("%d packs are set aside, and the commit is there: %v", aside, n.has(lost))
	}
	return lost
}

func TestHousekeeping(t *testing.T) {
	w := newWorld(t, "a")
	a := w.nodes["a"]
	tip := w.commit()
	a.accept(set("refs/heads/main", "", tip))
	for i := range manyPacks {
		next := w.commit(tip)
		a.accept(set("refs/heads/main", tip, next), set(fmt.Sprintf("refs/heads/b%d", i), "", tip))
		tip = next
	}
	lost := w.commit(tip) // of a push that came to nothing
	a.upload(lost)
	_, before := a.sync()
	repo, err := a.Store.Open(w.repo.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.maintainDue(); err != nil {
		t.Fatal(err)
	}
	if got := len(a.packsHere()); got >= manyPacks/2 {
		t.Errorf("%d packs are left", got)
	}
	if !a.has(lost) {
		t.Error("a roll-up removed what no ref reaches")
	}
	u := a.maintain(true)
	if n, err := repo.LooseRefs(10); err != nil || n > 0 || !u.Refs || !u.Full || u.Left != 2 {
		t.Errorf("%+v, and %d loose refs, %v", u, n, err)
	}
	if !a.has(lost) {
		t.Error("what no ref reaches is gone before its time")
	}
	w.same(before)
	for _, name := range []string{"objects/info/commit-graphs/commit-graph-chain", "packed-refs"} {
		if _, err := os.Stat(filepath.Join(repo.Dir, name)); err != nil {
			t.Error(err)
		}
	}
	// Pushes go on: also deletions of refs that are now in one file, and folders in
	// their place.
	next := w.commit(tip)
	a.accept(set("refs/heads/main", tip, next), set("refs/heads/b0", cluster.OID(before["refs/heads/b0"]), ""))
	a.accept(set("refs/heads/b0/x", "", next))
	delete(before, "refs/heads/b0")
	before["refs/heads/main"], before["refs/heads/b0/x"] = string(next), string(next)
	w.same(before)
}

// maintainDue does what is due, as the background does.
func (n *node) maintainDue() error {
	return n.Engine.maintain(n.w.t.Context(), n.replica(n.w.repo.ID), false, false, &Upkeep{})
}

func TestWhatNothingReachesGoesLater(t *testing.T) {
	w := newWorld(t, "a")
	a := w.another("a", Options{Unreached: time.Hour})
	base := w.commit()
	a.accept(set("refs/heads/main", "", base))
	lost := a.abandoned(base)
	if u := a.maintain(true); u.Discarded != 0 || !a.has(lost) {
		t.Errorf("%+v: it went before its time", u)
	}
	a = w.another("a", Options{Unreached: time.Nanosecond})
	if u := a.maintain(true); u.Discarded != 1 || a.has(lost) {
		t.Errorf("%+v: it is still there", u)
	}
	w.same(map[string]string{"refs/heads/main": string(base)})
}

func TestWhatIsNeededAgainStays(t *testing.T) {
	w := newWorld(t, "a")
	a := w.another("a", Options{Unreached: time.Nanosecond})
	base := w.commit()
	a.accept(set("refs/heads/main", "", base))
	lost := a.abandoned(base)
	// A push names it again, while housekeeping looks what is needed.
	child := w.commit(lost)
	a.At = func(s Step) {
		if s != StepDiscarding {
			return
		}
		a.At = func(Step) {}
		results, err := a.Commit(t.Context(), w.repo.ID, Push{ID: journal.NewID(), Copies: 1, Updates: []cluster.RefUpdate{set("refs/heads/again", "", lost)}})
		if err != nil || results[0].Refused != "" {
			t.Errorf("%v, %v", results, err)
		}
	}
	if u := a.maintain(true); u.Discarded != 0 {
		t.Errorf("%+v", u)
	}
	a.accept(set("refs/heads/child", "", child))
	a.maintain(true)
	w.same(map[string]string{"refs/heads/main": string(base), "refs/heads/again": string(lost), "refs/heads/child": string(child)})
}

// Git finds the objects of a push complete; then housekeeping removes some; then
// the push is to be committed.
func TestDiscardedBetweenCheckAndCommit(t *testing.T) {
	w := newWorld(t, "a")
	a := w.another("a", Options{Unreached: time.Nanosecond})
	base := w.commit()
	a.accept(set("refs/heads/main", "", base))
	lost := a.abandoned(base)
	view, _ := a.sync()
	if !a.has(lost) {
		t.Fatal("the check finds nothing")
	}
	if u := a.maintain(true); u.Discarded != 1 {
		t.Fatalf("%+v", u)
	}
	push := Push{ID: journal.NewID(), Copies: 1, Generation: view.Generation, Updates: []cluster.RefUpdate{set("refs/heads/x", "", lost)}}
	got, err := a.Commit(t.Context(), w.repo.ID, push)
	if err != nil || got[0].Refused != "missing necessary objects" {
		t.Errorf("%v, %v", got, err)
	}
	// Sent again, with its objects, it is accepted.
	if got := a.push(Push{Generation: view.Generation, Updates: push.Updates}); got[0].Refused != "" {
		t.Error(got)
	}
	w.same(map[string]string{"refs/heads/main": string(base), "refs/heads/x": string(lost)})
}

// The same while the push is under way, on the node that received it.
func TestDiscardDuringAPush(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.another("a", Options{Unreached: time.Nanosecond}), w.nodes["b"]
	base := w.commit()
	a.accept(set("refs/heads/main", "", base))
	b.sync()
	lost := a.abandoned(base)
	view, _ := a.sync()
	b.slow = make(chan struct{})
	done := make(chan []cluster.RefResult, 1)
	go func() {
		got, err := a.Commit(context.Background(), w.repo.ID, Push{ID: journal.NewID(), Copies: 2, Generation: view.Generation, Updates: []cluster.RefUpdate{set("refs/heads/x", "", lost)}})
		if err != nil {
			t.Error(err)
		}
		done <- got
	}()
	await(t, func() bool { b.mu.Lock(); defer b.mu.Unlock(); return b.copies > 0 })
	if u := a.maintain(true); u.Discarded != 0 || !a.has(lost) {
		t.Errorf("%+v: what a push needs went", u)
	}
	close(b.slow)
	if got := <-done; len(got) != 1 || got[0].Refused != "" {
		t.Error(got)
	}
	w.same(map[string]string{"refs/heads/main": string(base), "refs/heads/x": string(lost)})
}

// And on a node that holds a copy for a push that is not yet in the journal: its
// pack may have the name of one that was set aside long ago.
func TestDiscardOnAPeerThatHoldsACopy(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.nodes["a"], w.another("b", Options{Unreached: time.Nanosecond})
	base := w.commit()
	a.accept(set("refs/heads/main", "", base))
	b.sync()
	b.maintain(true)
	known := len(b.packsHere())
	tip := w.commit(base)
	a.At = func(s Step) {
		if s != StepPrepared {
			return
		}
		aside := map[string]time.Time{}
		for _, p := range b.packsHere() {
			aside[p.Name] = time.Now().Add(-time.Hour)
		}
		if len(aside) != known+1 {
			t.Errorf("the peer has %d packs, %d before", len(aside), known)
		}
		b.setAside(aside)
		if u := b.maintain(true); u.Discarded != 0 || !b.has(tip) {
			t.Errorf("%+v: a copy that counts went", u)
		}
	}
	if got := a.push(Push{Copies: 2, Updates: []cluster.RefUpdate{set("refs/heads/main", base, tip)}}); got[0].Refused != "" {
		t.Fatal(got)
	}
	a.setDown(true)
	if _, refs := b.sync(); refs["refs/heads/main"] != string(tip) {
		t.Errorf("the copy shows %v", refs)
	}
}

// setAside writes what housekeeping remembers: that all packs but the one of what
// refs reach were set aside.
func (n *node) setAside(packs map[string]time.Time) {
	n.w.t.Helper()
	repo, err := n.Store.Open(n.w.repo.ID)
	if err != nil {
		n.w.t.Fatal(err)
	}
	_, reached, err := repo.Packs()
	if err != nil {
		n.w.t.Fatal(err)
	}
	delete(packs, reached)
	data, err := json.Marshal(map[string]any{"reached": reached, "aside": packs})
	if err == nil {
		err = os.WriteFile(filepath.Join(repo.Dir, "cluster-housekeeping"), data, 0o600)
	}
	if err != nil {
		n.w.t.Fatal(err)
	}
}

func await(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not come to be")
		}
	}
}

func TestHousekeepingLeavesAFencedReplica(t *testing.T) {
	w := newWorld(t, "a")
	a := w.nodes["a"]
	base := w.commit()
	a.accept(set("refs/heads/main", "", base))
	if err := a.Lock(t.Context(), w.repo.ID, "tester"); err != nil {
		t.Fatal(err)
	}
	if u := a.Maintain(t.Context(), w.repo.ID, true); !strings.Contains(u.Error, "holds the repository") {
		t.Errorf("%+v", u)
	}
}

func TestOnlyOneNodesTurn(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	now := time.Unix(1_700_000_000, 0)
	turns := map[cluster.DeviceName]int{}
	for range 30 {
		n := 0
		for _, name := range w.names {
			if w.nodes[name].turn(w.repo.ID, now) {
				turns[name]++
				n++
			}
		}
		if n != 1 {
			t.Errorf("%d nodes at once", n)
		}
		now = now.Add(upkeepSlot)
	}
	if turns["a"] != 10 || turns["b"] != 10 || turns["c"] != 10 {
		t.Errorf("turns: %v", turns)
	}
}

// Two pushes name the same value: that the first has been decided, and what it made
// was deleted again, does not end what the second relies on.
func TestTwoPushesOfOneValue(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.nodes["a"], w.another("b", Options{Unreached: time.Nanosecond})
	base := w.commit()
	a.accept(set("refs/heads/main", "", base))
	b.sync()
	child := w.commit(b.abandoned(base))
	a.upload(child)
	a.At = func(s Step) {
		if s != StepPrepared {
			return
		}
		a.At = func(Step) {}
		// b has taken its copy. Meanwhile the value is pushed there to another ref, which is
		// deleted again, and all that no ref reaches goes.
		for _, u := range []cluster.RefUpdate{set("refs/heads/y", "", child), set("refs/heads/y", child, "")} {
			results, err := b.Commit(t.Context(), w.repo.ID, Push{ID: journal.NewID(), Copies: 1, Updates: []cluster.RefUpdate{u}})
			if err != nil || results[0].Refused != "" {
				t.Error(results, err)
			}
		}
		b.maintain(true)
		if !b.has(child) {
			t.Error("b is counted, and no longer holds the push")
		}
	}
	if results := a.push(Push{Copies: 2, Updates: []cluster.RefUpdate{set("refs/heads/x", "", child)}}); results[0].Refused != "" {
		t.Error(results)
	}
}

// A copy that broke off keeps nothing, and does not have everything packed again and
// again.
func TestBrokenCopyAndHousekeeping(t *testing.T) {
	w := newWorld(t, "a")
	a := w.another("a", Options{Unreached: time.Nanosecond})
	base := w.commit()
	a.accept(set("refs/heads/main", "", base))
	lost := a.abandoned(base)
	never := peer.Offer{Repo: w.repo.ID, Wants: []cluster.OID{"1111111111111111111111111111111111111111"}, Refs: []cluster.RefName{"refs/heads/q"}}
	if _, err := a.Take(t.Context(), never, nil, strings.NewReader("PACK")); err == nil {
		t.Fatal("it took half a pack")
	}
	var u Upkeep
	if err := a.Engine.maintain(t.Context(), a.replica(w.repo.ID), false, false, &u); err != nil || u.Discarded == 0 || a.has(lost) {
		t.Errorf("%+v, %v; what nothing reaches is there: %v", u, err, a.has(lost))
	}

	// While something is on its way that cannot be judged, the replica is left alone.
	a.abandoned(base)
	if _, err := a.Known(t.Context(), never); err != nil {
		t.Fatal(err)
	}
	if err := a.Engine.maintain(t.Context(), a.replica(w.repo.ID), false, false, &u); err != nil {
		t.Fatal(err)
	}
	if !time.Now().Before(a.replica(w.repo.ID).rested()) {
		t.Error("everything would be packed again at the next turn")
	}
}

// While one node looks after its replica, that of another serves and is left alone.
func TestOneReplicaAtATime(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.nodes["a"], w.nodes["b"]
	tips := a.history(3)
	b.sync()
	claim, _, err := a.Journal.ClaimUpkeep(t.Context(), w.repo.ID, "a")
	if err != nil {
		t.Fatal(err)
	}
	err = b.Engine.maintain(t.Context(), b.replica(w.repo.ID), true, false, &Upkeep{})
	if !errors.Is(err, errNotNow) {
		t.Errorf("b looks after its replica beside a: %v", err)
	}
	done := make(chan Upkeep)
	go func() { done <- b.Maintain(t.Context(), w.repo.ID, true) }() // whom an operator asked waits
	claim.Release()
	if u := <-done; u.Error != "" || !u.Full {
		t.Errorf("%+v", u)
	}
	w.same(map[string]string{"refs/heads/main": string(tips[2])})
}
