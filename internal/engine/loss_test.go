package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gitcluster/internal/cluster"
)

// A node that alone had the newest versions is gone for good: the others go back
// to what they can show, after saying exactly what that costs, and when it comes
// back after all its pushes are kept aside.
func TestAcceptLoss(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	a, b := w.nodes["a"], w.nodes["b"]
	one := w.commit()
	a.accept(set("refs/heads/main", "", one), set("refs/heads/gone", "", one))
	w.nodes["b"].sync()
	w.nodes["c"].sync()
	other := w.commit(one)
	a.push(Push{Copies: 3, Updates: []cluster.RefUpdate{set("refs/heads/held", "", other)}})
	two := w.commit(one)
	a.accept(set("refs/heads/main", one, two))
	a.accept(set("refs/heads/gone", one, ""), set("refs/heads/new", "", two))
	a.setDown(true)
	loss, err := b.Loss(t.Context(), w.repo.ID)
	if err != nil {
		t.Fatal(err)
	}
	if loss.Head != 4 || loss.Survives != 2 || len(loss.Entries) != 2 || loss.Entries[0].Pushes[0].Actor != "tester" || len(loss.Refs) != 3 {
		t.Errorf("would lose %+v", loss)
	}
	if _, err := b.read(t.Context()); !errors.Is(err, cluster.ErrNoReplica) {
		t.Errorf("looking at a loss changed something: %v", err)
	}
	wrong := loss
	wrong.Survives = 1
	if _, err := b.AcceptLoss(t.Context(), w.repo.ID, wrong, "tester", t.TempDir()); err == nil {
		t.Error("accepted another loss than was told")
	}
	folder := t.TempDir()
	bundle, err := b.AcceptLoss(t.Context(), w.repo.ID, loss, "tester", folder)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(bundle); err != nil || info.Size() == 0 || filepath.Dir(bundle) != folder {
		t.Errorf("the bundle %q: %v", bundle, err)
	}
	if heads := w.git(w.work, "bundle", "list-heads", bundle); !strings.Contains(heads, string(other)+" refs/heads/held") {
		t.Errorf("the bundle lacks what b held and did not show yet: %q", heads)
	}
	want := map[string]string{"HEAD": "refs/heads/main", "refs/heads/main": string(one), "refs/heads/gone": string(one), "refs/heads/held": string(other)}
	for _, name := range []cluster.DeviceName{"b", "c"} {
		if v, refs := w.nodes[name].sync(); len(refs) != len(want) || refs["refs/heads/main"] != string(one) || refs["refs/heads/gone"] != string(one) || v.Applied.Version != 5 {
			t.Errorf("%s shows %v at %v", name, refs, v.Applied)
		}
	}
	three := w.commit(one)
	b.accept(set("refs/heads/main", one, three))
	// a comes back.
	a.setDown(false)
	a = w.restart("a", func(string) {})
	v, refs := a.sync()
	if refs["refs/heads/main"] != string(three) || refs["refs/heads/gone"] != string(one) || refs["refs/heads/new"] != "" {
		t.Errorf("a shows %v", refs)
	}
	kept := w.git(v.Dir, "for-each-ref", "--format=%(objectname) %(refname)", "refs/strays")
	if !strings.Contains(kept, string(two)+" refs/strays/") || !strings.Contains(kept, "/heads/new") || !strings.Contains(kept, "/heads/main") {
		t.Errorf("what a came back with is not kept: %q", kept)
	}
}

// The only node that had anything is gone: nothing survives, also by the word of one
// that has never shown anything.
func TestAcceptLossOfEverything(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.nodes["a"], w.nodes["b"]
	one := w.commit()
	a.push(Push{Copies: 1, Updates: []cluster.RefUpdate{set("refs/heads/main", "", one)}})
	a.setDown(true)
	loss, err := b.Loss(t.Context(), w.repo.ID)
	if err != nil {
		t.Fatal(err)
	}
	if loss.Head != 1 || loss.Survives != 0 || len(loss.Entries) != 1 {
		t.Errorf("would lose %+v", loss)
	}
	if _, err := b.AcceptLoss(t.Context(), w.repo.ID, loss, "tester", t.TempDir()); err != nil {
		t.Fatal(err)
	}
	if v, refs := b.sync(); refs["refs/heads/main"] != "" || v.Applied.Version != 2 {
		t.Errorf("b shows %v at %v", refs, v.Applied)
	}
}

// The survivor is older than the journal's oldest entry: nobody knows any more what
// led from it to what is lost.
func TestAcceptLossOfTrimmedVersions(t *testing.T) {
	for name, crash := range map[string]bool{"": false, "killed before it has noted it": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "a", "b", "c")
			a, b := w.nodes["a"], w.nodes["b"]
			tips := a.history(2)
			b.sync()
			w.nodes["c"].sync()
			a.historyFrom(tips[1], 6)
			if err := a.Journal.Trim(t.Context(), w.repo.ID, 6); err != nil {
				t.Fatal(err)
			}
			a.setDown(true)
			loss, err := b.Loss(t.Context(), w.repo.ID)
			if err != nil || loss.Survives != 2 || loss.Head != 8 || loss.Untold != 5 || len(loss.Entries) != 3 {
				t.Fatalf("%+v, %v", loss, err)
			}
			if _, err := b.AcceptLoss(t.Context(), w.repo.ID, loss, "tester", t.TempDir()); err != nil {
				t.Fatal(err)
			}
			if crash {
				local, err := b.Store.Open(w.repo.ID)
				if err == nil {
					err = local.SetApplied(cluster.Position{Epoch: loss.Entries[0].Epoch, Version: 2, Digest: b.replica(w.repo.ID).position().Digest})
				}
				if err != nil {
					t.Fatal(err)
				}
				w.nodes["c"].setDown(true)
				b = w.restarted("b")
				b.sync()
				w.nodes["c"].setDown(false)
			}
			next := w.commit(tips[1])
			b.accept(set("refs/heads/main", tips[1], next))
			a.setDown(false)
			w.restarted("a")
			for _, name := range w.names {
				v, refs := w.nodes[name].sync()
				if refs["refs/heads/main"] != string(next) {
					t.Errorf("%s at %v shows %v", name, v.Applied, refs)
				}
			}
		})
	}
}

// watched is the other nodes, with something that happens when a pack is asked
// for.
type watched struct {
	peersOf
	pack func()
}

func (p watched) Pack(ctx context.Context, from cluster.DeviceName, id cluster.RepoID, wants, haves []cluster.OID) (io.ReadCloser, error) {
	p.pack()
	return p.peersOf.Pack(ctx, from, id, wants, haves)
}

// A push that comes while a loss is being accepted, on a node that only this one
// cannot reach, is not run over: the entry that leads back counts from the version
// that was looked at.
func TestPushWhileALossIsAccepted(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.nodes["a"], w.nodes["b"]
	one := w.commit()
	a.accept(set("refs/heads/main", "", one))
	b.sync()
	two := w.commit(one)
	a.accept(set("refs/heads/main", one, two))
	a.setDown(true)
	loss, err := b.Loss(t.Context(), w.repo.ID)
	if err != nil {
		t.Fatal(err)
	}
	asked := false
	b.Peers = watched{peersOf{b}, func() {
		if !asked {
			asked = true
			a.accept(set("refs/heads/other", "", two))
		}
	}}
	if _, err := b.AcceptLoss(t.Context(), w.repo.ID, loss, "tester", t.TempDir()); err == nil {
		t.Error("accepted a loss that a push came before")
	}
	a.setDown(false)
	w.same(map[string]string{"refs/heads/main": string(two), "refs/heads/other": string(two)})
}

// While one node that can be reached has everything, nothing is lost.
func TestNothingIsLost(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.nodes["a"].history(2)
	for _, name := range w.names {
		if _, err := w.nodes[name].Loss(t.Context(), w.repo.ID); !errors.Is(err, ErrNothingLost) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVerify(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.nodes["a"], w.nodes["b"]
	tips := a.history(3)
	v, _ := b.sync()
	if got := b.Verify(t.Context(), w.repo.ID, true); !got.OK() || got.Refs != 1 || got.Position.Version != 3 {
		t.Errorf("a sound replica: %+v", got)
	}
	w.git(v.Dir, "update-ref", "refs/heads/main", string(tips[0]))
	got := b.Verify(t.Context(), w.repo.ID, false)
	if got.OK() || got.WrongRefs != 1 || got.Wrong[0] != (WrongRef{Ref: "refs/heads/main", Disk: tips[0], Journal: tips[2]}) {
		t.Errorf("an edited replica: %+v", got)
	}
	if _, err := b.read(t.Context()); !errors.Is(err, cluster.ErrFenced) {
		t.Errorf("it serves: %v", err)
	}
	if _, err := b.Repair(t.Context(), w.repo.ID); err != nil {
		t.Fatal(err)
	}
	if got := b.Verify(t.Context(), w.repo.ID, true); !got.OK() {
		t.Errorf("after the repair: %+v", got)
	}
	// An object that is gone is found by the deep look alone, and mended.
	packs, err := filepath.Glob(filepath.Join(v.Dir, "objects/pack/*"))
	if err != nil || len(packs) == 0 {
		t.Fatal("no packs", err)
	}
	for _, p := range packs {
		if err := os.Remove(p); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.Verify(t.Context(), w.repo.ID, false); !got.OK() {
		t.Errorf("refs alone: %+v", got)
	}
	if got := b.Verify(t.Context(), w.repo.ID, true); !got.OK() || got.Mended == "" {
		t.Errorf("objects are gone: %+v", got)
	}
}

// slowFsck has every `git fsck` wait until it is let go. It returns
// what tells that one waits, and what lets it go.
func slowFsck(t *testing.T) (waits func() bool, release func()) {
	t.Helper()
	git, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\nif [ \"$1\" = fsck ]; then : >%[1]s/waits; while [ ! -e %[1]s/go ]; do sleep 0.01; done; fi\nexec %[2]s \"$@\"\n", dir, git)
	if err := os.WriteFile(filepath.Join(dir, "git"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	release = sync.OnceFunc(func() { os.WriteFile(filepath.Join(dir, "go"), nil, 0o600) })
	t.Cleanup(release)
	return func() bool { _, err := os.Stat(filepath.Join(dir, "waits")); return err == nil }, release
}

// A replica whose objects are found to be missing is fenced between two pushes,
// never in the middle of one.
func TestFencedBetweenPushes(t *testing.T) {
	w := newWorld(t, "a")
	a := w.nodes["a"]
	tips := a.history(1)
	other := w.commit()
	a.accept(set("refs/heads/other", "", other)) // nothing that the push below needs
	v, _ := a.sync()
	loosen(t, w, v.Dir)
	if err := os.Remove(filepath.Join(v.Dir, "objects", string(other[:2]), string(other[2:]))); err != nil {
		t.Fatal(err)
	}
	waits, release := slowFsck(t)
	verdict := make(chan Verdict, 1)
	go func() { verdict <- a.Verify(t.Context(), w.repo.ID, true) }()
	w.await("the deep look", waits)
	a.At = func(s Step) {
		if s != StepPrepared {
			return
		}
		release()
		select { // it must not come to a verdict while this push goes on
		case v := <-verdict:
			t.Errorf("fenced in the middle of a push: %+v", v)
			verdict <- v
		case <-time.After(300 * time.Millisecond):
		}
	}
	a.accept(set("refs/heads/main", tips[0], w.commit(tips[0])))
	if v := <-verdict; v.OK() {
		t.Error("without an object it is a sound replica")
	}
	if _, err := a.read(t.Context()); !errors.Is(err, cluster.ErrFenced) {
		t.Errorf("it serves: %v", err)
	}
}

// To be verified is not to be used: what nobody uses does not stay in memory.
func TestVerifyForgets(t *testing.T) {
	w := newWorld(t, "a", "b")
	tips := w.nodes["a"].history(2)
	w.nodes["b"].sync()
	b := w.restart("b", func(string) {})
	for range 2 {
		if v := b.Verify(t.Context(), w.repo.ID, false); !v.OK() || v.Refs != 1 {
			t.Errorf("%+v", v)
		}
		if r := b.replica(w.repo.ID); r.table != nil || r.known.Load() != nil {
			t.Error("the refs are still in memory")
		}
	}
	next := w.commit(tips[1])
	b.accept(set("refs/heads/main", tips[1], next))
	if b.Verify(t.Context(), w.repo.ID, false); b.replica(w.repo.ID).table == nil {
		t.Error("the refs of a replica in use have gone")
	}
	w.same(map[string]string{"refs/heads/main": string(next)})
}
