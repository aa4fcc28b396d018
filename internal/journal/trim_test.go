package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"gitcluster/internal/cluster"
)

// entries gives a repository entries up to a version, of 4 KiB each, until the journal
// refuses them.
func (n *ringNode) entries(t *testing.T, id cluster.RepoID, upTo cluster.Version) error {
	t.Helper()
	_, head, err := New(n.client).LookupID(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	head.Oldest = max(head.Oldest, 1)
	for head.Version < upTo {
		// Many at once, as an append for each would take its time.
		var ops []clientv3.Op
		for range min(100, upTo-head.Version) {
			e := entry(head, int(head.Version))
			e.Pushes[0].Actor = strings.Repeat("x", 4<<10)
			head.Position = e.Position()
			ops = append(ops, clientv3.OpPut(entryKey(id, e.Version), encode(e)))
		}
		if _, err := n.client.Txn(t.Context()).Then(append(ops, clientv3.OpPut(keyHead+string(id), encode(head)))...).Commit(); err != nil {
			return err
		}
	}
	return nil
}

// whole fails unless the entries of a repository are there from the one on that its
// head names, and returns how many.
func (n *ringNode) whole(t *testing.T, id cluster.RepoID) cluster.Version {
	t.Helper()
	w := &world{Journal: New(n.client), server: &server{client: n.client}, t: t}
	_, head, err := w.LookupID(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	all, err := w.Entries(t.Context(), id, max(head.Oldest, 1)-1, head.Version)
	if err != nil || cluster.Version(len(all)) != head.entries() {
		t.Errorf("of %+v there are %d entries, %v", head, len(all), err)
	}
	if there := w.count(keyJournal + string(id) + "/"); cluster.Version(there) != head.entries() {
		t.Errorf("of %+v %d entries are there", head, there)
	}
	return head.entries()
}

// A journal that fills with entries of many repositories loses the oldest of those
// that have most, before it is full and when it is.
func TestJournalFillsWithEntries(t *testing.T) {
	t.Parallel()
	r := newRing(t)
	r.quota = 64 << 20
	one := r.start("one", freeAddr(), "")
	r.works(one)
	j := New(one.client)
	ids := map[string]cluster.RepoID{}
	for _, name := range []string{"most", "many", "few"} {
		repo := record(cluster.RepoName(name))
		if _, err := j.CreateRepo(t.Context(), repo); err != nil {
			t.Fatal(err)
		}
		ids[name] = repo.ID
	}
	for name, upTo := range map[string]cluster.Version{"most": 6500, "many": 1600, "few": 20} {
		if err := one.entries(t, ids[name], upTo); err != nil {
			t.Fatal(err)
		}
	}
	once := func() {
		t.Helper()
		if err := one.upkeep().once(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	// Not full yet.
	waitFor(t, func() string {
		if d := one.file(t, "one"); d.used <= d.quota/100*trimAbove {
			return fmt.Sprintf("%d of %d bytes are used", d.used, d.quota)
		}
		return ""
	})
	once()
	if n := one.whole(t, ids["most"]); n >= 6500 || n < 3000 {
		t.Errorf("%d of 6500 entries are left", n)
	}
	if many, few := one.whole(t, ids["many"]), one.whole(t, ids["few"]); many != 1600 || few != 20 {
		t.Errorf("%d of 1600 and %d of 20 entries are left", many, few)
	}
	r.works(one)

	// Full, because nobody looked after it.
	if err := one.entries(t, ids["many"], 100_000); !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Fatalf("the journal is not full: %v", err)
	}
	once()
	r.works(one)
	for name, id := range ids {
		if n := one.whole(t, id); name != "few" && n < trimFloor || name == "few" && n != 20 {
			t.Errorf("%d entries of %q are left", n, name)
		}
	}
	if err := one.entries(t, ids["few"], 30); err != nil {
		t.Error(err)
	}
}

// What was removed when nothing could be written is told later, whoever does that.
func TestTrimmedWithoutAWord(t *testing.T) {
	r := newRing(t)
	one := r.start("one", freeAddr(), "")
	r.works(one)
	j := New(one.client)
	repo := record("a")
	if _, err := j.CreateRepo(t.Context(), repo); err != nil {
		t.Fatal(err)
	}
	if err := one.entries(t, repo.ID, 5); err != nil {
		t.Fatal(err)
	}
	if err := j.removeBefore(t.Context(), repo.ID, 4); err != nil {
		t.Fatal(err)
	}
	if err := one.upkeep().once(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, head, err := j.LookupID(t.Context(), repo.ID)
	if err != nil || head.Oldest != 4 {
		text, _ := json.Marshal(head)
		t.Errorf("the head says %s, %v", text, err)
	}
	one.whole(t, repo.ID)
}

func TestLevel(t *testing.T) {
	at := func(version, oldest cluster.Version) Head {
		return Head{Position: cluster.Position{Version: version}, Oldest: oldest}
	}
	heads := map[cluster.RepoID]Head{"a": at(1000, 1), "b": at(5000, 4901), "c": at(10, 0), "d": at(0, 0)}
	for budget, want := range map[float64]cluster.Version{5000: 1000, 1110: 1000, 610: 500, 200: 95, 10: trimFloor} {
		if got := level(heads, budget); got != want {
			t.Errorf("of %v entries each keeps %d, want %d", budget, got, want)
		}
	}
}
