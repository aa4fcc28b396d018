package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
	"gitcluster/internal/peer"
)

// newest returns the newest entry of the world's repository.
func (w *world) newest() journal.Entry {
	w.t.Helper()
	entries, err := w.nodes[w.names[0]].Journal.Newest(w.t.Context(), w.repo.ID, 0, 1)
	if err != nil || len(entries) != 1 {
		w.t.Fatalf("the newest entry: %v, %v", entries, err)
	}
	return entries[0]
}

func (n *node) setSlow(slow chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.slow = slow
}

// holds reports whether the node's replica holds the value with its history,
// whatever its refs show.
func (n *node) holds(oid cluster.OID) bool {
	n.w.t.Helper()
	repo, err := n.Store.Open(n.w.repo.ID)
	if errors.Is(err, cluster.ErrNotFound) {
		return false
	}
	if err != nil {
		n.w.t.Fatal(err)
	}
	ok, err := repo.Closed(n.w.t.Context(), []cluster.OID{oid}, nil)
	if err != nil {
		n.w.t.Fatal(err)
	}
	return ok
}

// Before the journal hears of a push, a majority holds its objects, and the entry
// names them.
func TestCopiesComeFirst(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	a := w.nodes["a"]
	one := w.commit()
	two := w.commit(one)
	var held []string
	a.At = func(s Step) {
		if s == StepPrepared {
			held = nil
			for _, name := range w.names {
				if w.nodes[name].holds(two) {
					held = append(held, string(name))
				}
			}
		}
	}
	for _, c := range []struct{ copies, atLeast int }{{0, 2}, {2, 2}, {3, 3}} {
		old, branch := cluster.OID(""), "refs/heads/"+strings.Repeat("x", c.copies+1)
		got := refused(a.push(Push{Copies: max(c.copies, c.atLeast), Updates: []cluster.RefUpdate{set(branch, old, two)}}))
		if got[branch] != "" {
			t.Fatalf("copies=%d: %v", c.copies, got)
		}
		e := w.newest()
		if len(e.Copies) < c.atLeast || len(held) < c.atLeast {
			t.Errorf("copies=%d: the entry names %v, and %v hold the objects", c.copies, e.Copies, held)
		}
		for _, name := range e.Copies {
			if !slices.Contains(held, string(name)) {
				t.Errorf("copies=%d: the entry names %q, which does not hold the objects", c.copies, name)
			}
		}
	}
}

// An acknowledged push outlives the node that took it.
func TestPushOutlivesItsNode(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	a := w.nodes["a"]
	one := w.commit()
	two := w.commit(one)
	a.push(Push{Copies: 2, Updates: []cluster.RefUpdate{set("refs/heads/main", "", one)}})
	a.push(Push{Copies: 2, Updates: []cluster.RefUpdate{set("refs/heads/main", one, two)}})
	a.setDown(true)
	if err := os.RemoveAll(a.dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []cluster.DeviceName{"b", "c"} {
		if _, refs := w.nodes[name].sync(); refs["refs/heads/main"] != string(two) {
			t.Errorf("%s shows %v", name, refs)
		}
	}
}

// A copy is asked of a replica that is not there yet, or that lags by versions
// whose objects it lacks.
func TestCopyOnReplicasThatLag(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.nodes["a"], w.nodes["b"]
	tip := w.commit()
	a.push(Push{Copies: 2, Updates: []cluster.RefUpdate{set("refs/heads/main", "", tip)}})
	b.setDown(true)
	for range 3 { // b neither gets copies nor catches up
		next := w.commit(tip)
		a.accept(set("refs/heads/main", tip, next))
		tip = next
	}
	b.setDown(false)
	next := w.commit(tip)
	if got := refused(a.push(Push{Copies: 2, Updates: []cluster.RefUpdate{set("refs/heads/main", tip, next)}})); got["refs/heads/main"] != "" {
		t.Fatal(got)
	}
	if !b.holds(next) {
		t.Error("b does not hold the push that it is counted for")
	}
	w.same(map[string]string{"refs/heads/main": string(next)})
}

func TestTooFewCopies(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	a := w.start("a2", t.TempDir(), Options{CopyBound: 3 * time.Second})
	w.nodes["a2"] = a
	one := w.commit()
	w.nodes["b"].setDown(true)
	w.nodes["c"].setDown(true)
	w.nodes["a"].setDown(true)
	var told []string
	push := Push{Copies: 2, Updates: []cluster.RefUpdate{set("refs/heads/main", "", one)}, Tell: func(line string) { told = append(told, line) }}
	got := refused(a.push(push))
	if !strings.Contains(got["refs/heads/main"], "not enough replicas") || len(told) != 1 || !strings.Contains(told[0], "connection refused") {
		t.Errorf("refused with %v, told %q", got, told)
	}
	if _, refs := a.sync(); refs["refs/heads/main"] != "" {
		t.Errorf("the refused push is there: %v", refs)
	}
	push.Copies = 9
	if got := refused(a.push(push)); got["refs/heads/main"] == "" {
		t.Error("nine copies on four nodes")
	}

	// One that may do with fewer does not wait for long, and says so.
	told = nil
	push.Copies, push.Degraded = 2, true
	start := time.Now()
	if got := refused(a.push(push)); got["refs/heads/main"] != "" {
		t.Errorf("degraded: refused: %v", got)
	}
	if len(told) != 1 || !strings.HasPrefix(told[0], "Warning: ") {
		t.Errorf("degraded: told %q", told)
	}
	if e := w.newest(); !slices.Equal(e.Copies, []cluster.DeviceName{"a2"}) {
		t.Errorf("degraded: the entry names %v", e.Copies)
	}
	t.Logf("degraded after %v", time.Since(start))
}

// Deletions have no objects, and wait for nobody.
func TestDeletionNeedsNoCopy(t *testing.T) {
	w := newWorld(t, "a", "b")
	a := w.nodes["a"]
	one := w.commit()
	a.accept(set("refs/heads/main", "", one), set("refs/heads/x", "", one))
	w.nodes["b"].setDown(true)
	if got := refused(a.push(Push{Copies: 2, Updates: []cluster.RefUpdate{set("refs/heads/x", one, "")}})); got["refs/heads/x"] != "" {
		t.Error(got)
	}
}

// The slowest are not waited for; what they were sent they keep.
func TestSlowPeer(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	slow := make(chan struct{})
	w.nodes["b"].setSlow(slow)
	one := w.commit()
	if got := refused(w.nodes["a"].push(Push{Copies: 2, Updates: []cluster.RefUpdate{set("refs/heads/main", "", one)}})); got["refs/heads/main"] != "" {
		t.Fatal(got)
	}
	if e := w.newest(); !slices.Equal(e.Copies, []cluster.DeviceName{"a", "c"}) {
		t.Errorf("the entry names %v", e.Copies)
	}
	close(slow)
	w.await("b to have its copy after all", func() bool { return w.nodes["b"].holds(one) })
}

// A node whose copy has almost come when it hears of the push does not fetch it once more.
func TestCatchUpAwaitsItsCopy(t *testing.T) {
	w := newWorld(t, "a", "b")
	a := w.nodes["a"]
	b := w.another("b", Options{Silence: time.Minute, HedgeAfter: time.Minute}) // on a slow machine the copy takes long
	one := w.commit()
	two := w.commit(one)
	a.push(Push{Copies: 2, Updates: []cluster.RefUpdate{set("refs/heads/main", "", one)}})
	b.sync()
	a.upload(two)
	var pack bytes.Buffer
	if err := a.WritePack(t.Context(), w.repo.ID, []cluster.OID{two}, []cluster.OID{one}, &pack); err != nil {
		t.Fatal(err)
	}
	begins, goes := make(chan struct{}), make(chan struct{})
	taken := make(chan error, 1)
	go func() {
		offer := peer.Offer{Repo: w.repo.ID, Wants: []cluster.OID{two}, Refs: []cluster.RefName{"refs/heads/main"}}
		_, err := b.Engine.Take(t.Context(), offer, []cluster.OID{one}, readerFunc(func(p []byte) (int, error) {
			select {
			case <-begins:
			default:
				close(begins)
			}
			<-goes
			return pack.Read(p)
		}))
		taken <- err
	}()
	<-begins
	a.push(Push{Copies: 1, Updates: []cluster.RefUpdate{set("refs/heads/main", one, two)}})
	served := a.served()
	var told []string
	proceed := sync.OnceFunc(func() { close(goes) })
	at, err := b.Resolve(t.Context(), w.repo.Name, cluster.Current)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Sync(t.Context(), at, func(line string) {
		told = append(told, line)
		proceed()
	}); err != nil {
		t.Fatal(err)
	}
	if len(told) != 1 || !strings.Contains(told[0], "a copy that is on its way (version 1 → 2)") {
		t.Errorf("who waits is told %q", told)
	}
	if _, refs := b.sync(); refs["refs/heads/main"] != string(two) {
		t.Errorf("b shows %v", refs)
	}
	if err := <-taken; err != nil {
		t.Errorf("take the copy: %v", err)
	}
	if a.served() != served {
		t.Error("b fetched what it was just being given")
	}
}

// One that comes no further keeps nobody from it.
func TestCatchUpLeavesACopyThatDoesNotCome(t *testing.T) {
	w := newWorld(t, "a", "b")
	a := w.nodes["a"]
	b := w.start("b2", t.TempDir(), Options{HedgeAfter: 300 * time.Millisecond})
	w.nodes["b2"] = b
	one := w.commit()
	a.push(Push{Copies: 1, Updates: []cluster.RefUpdate{set("refs/heads/main", "", one)}})
	over := b.replica(w.repo.ID).comes([]cluster.OID{one})
	defer over()
	if _, refs := b.sync(); refs["refs/heads/main"] != string(one) {
		t.Errorf("b shows %v", refs)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// A large push is not refused for being large: what it waits for its copies grows
// with the time its pack takes to make, and with its size.
func TestLargePush(t *testing.T) {
	w := newWorld(t, "a", "b")
	a := w.start("a2", t.TempDir(), Options{CopyBound: 3 * time.Second, CopyPace: 128 << 10})
	w.nodes["a2"] = a
	w.names = []cluster.DeviceName{"a2", "b"}
	w.nodes["b"].sync()
	slow := make(chan struct{})
	w.nodes["b"].setSlow(slow)
	noise := make([]byte, 4<<20) // it may take half a minute
	rand.NewChaCha8([32]byte{}).Read(noise)
	if err := os.WriteFile(filepath.Join(w.work, "noise"), noise, 0o600); err != nil {
		t.Fatal(err)
	}
	w.git(w.work, "add", "noise")
	one := w.commit()
	a.upload(one)
	time.AfterFunc(5*time.Second, func() { close(slow) })
	got, err := a.Commit(t.Context(), w.repo.ID, Push{ID: journal.NewID(), Copies: 2, Updates: []cluster.RefUpdate{set("refs/heads/main", "", one)}})
	if err != nil || got[0].Refused != "" {
		t.Fatal(got, err)
	}
	// A peer that takes a small one so slowly is given up.
	w.nodes["b"].setSlow(make(chan struct{}))
	two := w.commit(one)
	a.upload(two)
	start := time.Now()
	got, err = a.Commit(t.Context(), w.repo.ID, Push{ID: journal.NewID(), Copies: 2, Updates: []cluster.RefUpdate{set("refs/heads/main", one, two)}})
	if err != nil || got[0].Refused == "" {
		t.Error("accepted without a copy", err)
	}
	if took := time.Since(start); took > copyLinger {
		t.Errorf("given up after %v", took)
	}
}

// A node that stops does not wait for copies.
func TestStopsWhileItWaitsForCopies(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.nodes["a"], w.nodes["b"]
	b.setSlow(make(chan struct{}))
	one := w.commit()
	a.upload(one)
	ended := make(chan error, 1)
	go func() {
		_, err := a.Commit(t.Context(), w.repo.ID, Push{ID: journal.NewID(), Copies: 2, Updates: []cluster.RefUpdate{set("refs/heads/main", "", one)}})
		ended <- err
	}()
	w.await("the copy to be asked for", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return b.copies > 0 })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	start := time.Now()
	a.Close(ctx)
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("stopped after %v", took)
	}
	if err := <-ended; !errors.Is(err, cluster.ErrStopping) || errors.Is(err, ErrUnclear) {
		t.Errorf("the push ends with %v", err)
	}
}

// A peer that was wiped, or only started again, between its copy and the
// transaction counts when it has the objects again.
func TestCountedPeerIsReplaced(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.nodes["a"], w.nodes["b"]
	base := w.commit()
	a.push(Push{Copies: 2, Updates: []cluster.RefUpdate{set("refs/heads/main", "", base)}})
	one := w.commit(base)
	times := 0
	a.At = func(s Step) {
		if times++; s != StepPrepared || times > 1 {
			return
		}
		if b.holds(one); !b.holds(one) {
			t.Error("prepared without a copy")
		}
		// Another disk in its place.
		b.Close(t.Context())
		if err := os.RemoveAll(b.dir); err != nil {
			t.Error(err)
		}
		fresh := w.start("b", b.dir, Options{})
		fresh.Incarnation = "b-2"
		w.nodes["b"] = fresh
		if err := a.Journal.ChangeIncarnation(t.Context(), "b", "b-1", "b-2"); err != nil {
			t.Error(err)
		}
	}
	if got := refused(a.push(Push{Copies: 2, Updates: []cluster.RefUpdate{set("refs/heads/main", base, one)}})); got["refs/heads/main"] != "" {
		t.Fatal(got)
	}
	if !w.nodes["b"].holds(one) {
		t.Error("counted, and the new disk does not hold it")
	}
	w.same(map[string]string{"refs/heads/main": string(one)})
}

// One whose incarnation is not what it says counts for nothing.
func TestCountedPeerIsWiped(t *testing.T) {
	w := newWorld(t, "a", "b")
	a := w.nodes["a"]
	one := w.commit()
	a.At = func(s Step) {
		if s == StepPrepared {
			if err := a.Journal.AddDevice(t.Context(), cluster.Device{Name: "b", PublicKey: "ssh-ed25519 b", Node: true}, "b-2"); err != nil {
				t.Error(err)
			}
		}
	}
	got := refused(a.push(Push{Copies: 2, Updates: []cluster.RefUpdate{set("refs/heads/main", "", one)}}))
	if !strings.Contains(got["refs/heads/main"], "has been replaced") {
		t.Errorf("accepted with a copy on a disk that is gone: %v", got)
	}
	if _, refs := a.sync(); refs["refs/heads/main"] != "" {
		t.Errorf("the refused push is there: %v", refs)
	}
}

// One that was removed counts for nothing either: another must hold the push, or there
// are too few.
func TestCountedPeerIsRemoved(t *testing.T) {
	for _, names := range [][]cluster.DeviceName{{"a", "b"}, {"a", "b", "c"}} {
		t.Run(fmt.Sprint(len(names), " nodes"), func(t *testing.T) {
			w := newWorld(t, names...)
			a, b := w.nodes["a"], w.nodes["b"]
			base := w.commit()
			a.accept(set("refs/heads/main", "", base))
			b.sync()
			for _, name := range names[2:] {
				w.nodes[name].setDown(true) // so that b is the one that is counted
			}
			one := w.commit(base)
			if len(names) == 2 {
				a.CopyBound = 10 * time.Second // after which it is refused
			}
			times := 0
			a.At = func(s Step) {
				if times++; s != StepPrepared || times > 1 {
					return
				}
				if !b.holds(one) {
					t.Error("prepared without a copy")
				}
				if err := a.Journal.RemoveDevice(t.Context(), "b"); err != nil {
					t.Error(err)
				}
				b.setDown(true)
				for _, name := range names[2:] {
					w.nodes[name].setDown(false)
				}
			}
			got := refused(a.push(Push{Copies: 2, Updates: []cluster.RefUpdate{set("refs/heads/main", base, one)}}))
			entries, err := a.Journal.Newest(t.Context(), w.repo.ID, 0, 1)
			if err != nil {
				t.Fatal(err)
			}
			if slices.Contains(entries[0].Copies, "b") {
				t.Errorf("the entry counts a node that was removed: %+v", entries[0])
			}
			if len(names) == 2 {
				if _, refs := a.sync(); got["refs/heads/main"] == "" || refs["refs/heads/main"] != string(base) {
					t.Errorf("with one copy of two: %v, %v", got, refs)
				}
				return
			}
			if got["refs/heads/main"] != "" && !strings.Contains(got["refs/heads/main"], "has been replaced") {
				t.Errorf("%v", got)
			}
			if got["refs/heads/main"] == "" && !w.nodes["c"].holds(one) {
				t.Error("accepted with one copy")
			}
		})
	}
}

// Two nodes that push to each other at once do not wait for each other for ever.
func TestNodesThatCopyToEachOther(t *testing.T) {
	w := newWorld(t, "a", "b")
	base := w.commit()
	w.nodes["a"].accept(set("refs/heads/main", "", base))
	const each = 6
	var tips [2][each]cluster.OID
	for i := range tips {
		for j := range tips[i] {
			tips[i][j] = w.commit(base)
		}
	}
	for i, name := range w.names {
		w.nodes[name].upload(tips[i][:]...)
	}
	var wait sync.WaitGroup
	for i, name := range w.names {
		for j, tip := range tips[i] {
			wait.Go(func() {
				ref := "refs/heads/" + string(name) + strings.Repeat("x", j)
				got, err := w.nodes[name].Commit(t.Context(), w.repo.ID, Push{ID: journal.NewID(), Copies: 2, Updates: []cluster.RefUpdate{set(ref, "", tip)}})
				if err != nil || got[0].Refused != "" {
					t.Errorf("%s: %v, %v", ref, got, err)
				}
			})
		}
	}
	wait.Wait()
	for _, name := range w.names {
		if _, refs := w.nodes[name].sync(); len(refs) != 2+2*each {
			t.Errorf("%s shows %d refs", name, len(refs))
		}
	}
}

// await waits for a state that another goroutine brings about.
func (w *world) await(what string, there func() bool) {
	w.t.Helper()
	for end := time.Now().Add(time.Minute); !there(); {
		if time.Now().After(end) {
			w.t.Fatalf("waited a minute for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// A node that has nothing yet gets the history once, and not with each push that wants
// a copy there meanwhile.
func TestCopyBeforeTheFirstSync(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.nodes["a"], w.nodes["b"]
	tips := a.history(3)
	next := w.commit(tips[2])
	w.await("the history at the first offer", func() bool { // a journal that is slow to tell of it is not waited for
		haves, err := b.Known(t.Context(), peer.Offer{Repo: w.repo.ID, Wants: []cluster.OID{next}, Refs: []cluster.RefName{"refs/heads/main"}})
		return err == nil && slices.Equal(haves, tips[2:])
	})
	a.setDown(true)
	empty := w.another("b", Options{})
	if err := empty.Store.Retire(w.repo.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := empty.Store.Expire(-time.Second); err != nil {
		t.Fatal(err)
	}
	if _, err := empty.Known(t.Context(), peer.Offer{Repo: w.repo.ID, Wants: []cluster.OID{next}, Refs: []cluster.RefName{"refs/heads/main"}}); !errors.Is(err, cluster.ErrNoReplica) {
		t.Errorf("a node that cannot get the history: %v", err)
	}
}

// Everything that the journal has is brought to a node before it counts.
func TestCatchUpAll(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.nodes["a"], w.nodes["b"]
	tips := a.history(2)
	failed, err := b.CatchUpAll(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = failed // other tests' repositories may be in the journal, which no node here has
	if at, err := b.Shows(w.repo.ID); err != nil || at.Version != 2 {
		t.Errorf("it shows %v, %v; want version 2, %s", at, err, tips[1])
	}
}
