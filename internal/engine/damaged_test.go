package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
)

// A replica of which a part is missing comes back by itself, with its node.
func TestDamagedReplica(t *testing.T) {
	for _, gone := range []string{"HEAD", "objects/pack", "objects", "refs", "config", "packed-refs", "cluster-applied", ""} {
		t.Run("without "+gone, func(t *testing.T) {
			w := newWorld(t, "a", "b")
			a, b := w.nodes["a"], w.nodes["b"]
			tips := a.history(3)
			v, _ := b.sync()
			if gone == "packed-refs" {
				w.git(v.Dir, "pack-refs", "--all")
			}
			b.Close(t.Context())
			if err := os.RemoveAll(filepath.Join(v.Dir, gone)); err != nil {
				t.Fatal(err)
			}
			b = w.restarted("b")
			if gone == "packed-refs" { // that is an edit like another
				if _, err := b.Repair(t.Context(), w.repo.ID); err != nil {
					t.Fatal(err)
				}
			}
			next := w.commit(tips[2])
			b.accept(set("refs/heads/main", tips[2], next))
			w.same(map[string]string{"refs/heads/main": string(next)})
		})
	}
}

// A folder that goes, or loses what Git wants there, while its node runs is made anew
// for whoever comes next: a reader, a push to it, or one that wants a copy there.
func TestDamagedWhileRunning(t *testing.T) {
	for _, gone := range []string{"", "HEAD", "objects", "refs", "config"} {
		ways := []string{"read"}
		if gone == "" || gone == "objects" {
			ways = []string{"read", "push", "copy", "verify"}
		}
		for _, first := range ways {
			t.Run(first+" without "+gone, func(t *testing.T) {
				w := newWorld(t, "a", "b")
				a, b := w.nodes["a"], w.nodes["b"]
				tips := a.history(2)
				v, _ := b.sync()
				if err := os.RemoveAll(filepath.Join(v.Dir, gone)); err != nil {
					t.Fatal(err)
				}
				main := tips[1]
				switch first {
				case "push":
					main = w.commit(main)
					b.accept(set("refs/heads/main", tips[1], main))
				case "copy":
					main = w.commit(main)
					if results := a.push(Push{Copies: 2, Updates: []cluster.RefUpdate{set("refs/heads/main", tips[1], main)}}); results[0].Refused != "" {
						t.Error(results[0].Refused)
					}
				case "verify":
					if verdict := b.Verify(t.Context(), w.repo.ID, true); !verdict.OK() {
						t.Errorf("%+v", verdict)
					}
				}
				w.same(map[string]string{"refs/heads/main": string(main)})
				w.git(v.Dir, "fsck", "--connectivity-only")
			})
		}
	}
}

// What the journal says was deleted is set aside, and taken from there if the
// journal has it again: it may have been put back to an earlier state by mistake.
func TestDeletedByMistake(t *testing.T) {
	w := newWorld(t, "a")
	a := w.nodes["a"]
	base := w.commit()
	a.accept(set("refs/heads/main", "", base))
	dir := a.Store.Path(w.repo.ID)
	a.forget(w.repo.ID) // as when the list of all heads lacks it
	await(t, func() bool { _, err := os.Stat(dir); return err != nil })
	await(t, func() bool {
		a.Engine.mu.Lock()
		defer a.Engine.mu.Unlock()
		return a.replicas[w.repo.ID] == nil
	})
	w.same(map[string]string{"refs/heads/main": string(base)})
}

// A repository that was deleted while a node was away leaves its disk, too.
func TestDeletedWhileAway(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.nodes["a"], w.nodes["b"]
	a.accept(set("refs/heads/main", "", w.commit()))
	v, _ := b.sync()
	b.Close(t.Context())
	if err := a.Journal.DeleteRepo(t.Context(), w.repo); err != nil {
		t.Fatal(err)
	}
	b = w.another("b", Options{VerifyPause: time.Millisecond, VerifyRound: time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- b.Run(ctx) }()
	await(t, func() bool { _, err := os.Stat(v.Dir); return err != nil })
	cancel()
	<-ended
}

// What a node that died over a restore has left is removed, and what one is at work on is
// not.
func TestUnrestored(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.nodes["a"], w.nodes["b"]
	repo := cluster.Repo{ID: cluster.RepoID(journal.NewID()), Format: cluster.SHA1, InitialHead: "refs/heads/main"}
	repo.Name = cluster.RestoringName(repo.ID)
	claim, _, err := a.Journal.ClaimUpkeep(t.Context(), repo.ID, "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Create(t.Context(), repo); err != nil {
		t.Fatal(err)
	}
	there := func() bool {
		_, _, err := a.Journal.LookupID(t.Context(), repo.ID)
		return !errors.Is(err, cluster.ErrNotFound)
	}
	if b.verifyOne(t.Context(), repo.ID); !there() {
		t.Error("it was removed while it was being restored")
	}
	claim.Release()
	if b.verifyOne(t.Context(), repo.ID); there() {
		t.Error("it is left")
	}
	w.nodes["a"].sync()
	for _, n := range []*node{a, b} {
		n.verifyOne(t.Context(), w.repo.ID)
	}
	if _, _, err := a.Journal.LookupID(t.Context(), w.repo.ID); err != nil {
		t.Errorf("another: %v", err)
	}
}

// What an operator did to a replica while the hold on it was ended elsewhere is not
// the journal's, and nobody has to repair it.
func TestHoldEndedElsewhere(t *testing.T) {
	for name, restart := range map[string]bool{"while it runs": false, "while it is down": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "a", "b")
			a, b := w.nodes["a"], w.nodes["b"]
			tips := a.history(2)
			b.sync()
			if err := a.Lock(t.Context(), w.repo.ID, "boss"); err != nil {
				t.Fatal(err)
			}
			w.git(a.Store.Path(w.repo.ID), "update-ref", "refs/heads/main", string(tips[0]))
			if restart {
				a.Close(t.Context())
			}
			if _, err := b.Release(t.Context(), w.repo.ID, cluster.Identity{User: "boss"}, true); err != nil {
				t.Fatal(err)
			}
			if restart {
				a = w.restarted("a")
			}
			if _, refs := a.sync(); refs["refs/heads/main"] != string(tips[1]) {
				t.Errorf("a shows %v", refs)
			}
			next := w.commit(tips[1])
			a.accept(set("refs/heads/main", tips[1], next))
			if _, refs := b.sync(); refs["refs/heads/main"] != string(next) {
				t.Errorf("b shows %v", refs)
			}
		})
	}
}

// What a node has taken a copy of, it does not look at again when the journal names it.
// If somebody has removed it meanwhile, it is fetched after all.
func TestTakenCopyIsGone(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.nodes["a"], w.nodes["b"]
	base := w.commit()
	a.accept(set("refs/heads/main", "", base))
	v, _ := b.sync()
	next := w.commit(base)
	a.push(Push{Copies: 2, Updates: []cluster.RefUpdate{set("refs/heads/main", base, next)}})
	r := b.replica(w.repo.ID)
	if !r.hasFound([]cluster.OID{next}) || r.hasFound([]cluster.OID{next, base[1:] + "0"}) {
		t.Error("what was found complete is not what was taken")
	}
	newest := ""
	var at time.Time
	packs, err := filepath.Glob(filepath.Join(v.Dir, "objects/pack/*.pack"))
	if err != nil {
		t.Fatal(err)
	}
	for _, pack := range packs {
		if info, err := os.Stat(pack); err == nil && info.ModTime().After(at) {
			newest, at = pack, info.ModTime()
		}
	}
	for _, ext := range []string{".pack", ".idx", ".rev"} {
		os.Remove(newest[:len(newest)-len(".pack")] + ext)
	}
	w.same(map[string]string{"refs/heads/main": string(next)})
	if r.hasFound([]cluster.OID{next}) {
		t.Error("it is still taken for granted")
	}
}
