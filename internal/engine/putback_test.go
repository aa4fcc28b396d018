package engine

import (
	"encoding/json"
	"fmt"
	"testing"

	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
)

// putBack makes the journal what it was at version v, as a restored etcd would be.
func (w *world) putBack(v cluster.Version) {
	w.t.Helper()
	j := journal.New(testClient)
	_, head, err := j.LookupID(w.t.Context(), w.repo.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	entries, err := j.Newest(w.t.Context(), w.repo.ID, v+1, 1)
	if err != nil || len(entries) != 1 {
		w.t.Fatal(entries, err)
	}
	newest := head.Version
	head.Position = entries[0].Position()
	text, err := json.Marshal(head)
	if err == nil {
		_, err = testClient.Put(w.t.Context(), "/gc/head/"+string(w.repo.ID), string(text))
	}
	for gone := v + 1; gone <= newest && err == nil; gone++ {
		_, err = testClient.Delete(w.t.Context(), fmt.Sprintf("/gc/journal/%s/%016x", w.repo.ID, uint64(gone)))
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// restarted closes a node and starts it again on its disk.
func (w *world) restarted(name cluster.DeviceName) *node {
	w.t.Helper()
	old := w.nodes[name]
	old.Close(w.t.Context())
	w.nodes[name] = w.start(name, old.dir, Options{})
	return w.nodes[name]
}

// The journal is put back while a node runs, and another pushes other things up to the
// version that the first still shows: it must not take these for what it has.
func TestJournalPutBackWhileRunning(t *testing.T) {
	for name, pushes := range map[string]int{"not yet as far": 1, "as far": 2, "farther": 3} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "a", "b")
			a := w.nodes["a"]
			tips := a.history(4)
			w.nodes["b"].sync()
			w.nodes["b"].Close(t.Context())
			w.putBack(2)
			b := w.restarted("b")
			b.sync()
			tip := tips[1]
			for range pushes {
				next := w.commit(tip)
				b.accept(set("refs/heads/main", tip, next))
				tip = next
			}
			if _, refs := a.sync(); refs["refs/heads/main"] != string(tip) {
				t.Errorf("a shows %s, acknowledged was %s", refs["refs/heads/main"], tip)
			}
			next := w.commit(tip)
			a.accept(set("refs/heads/main", tip, next))
			if _, refs := b.sync(); refs["refs/heads/main"] != string(next) {
				t.Errorf("b shows %s, acknowledged was %s", refs["refs/heads/main"], next)
			}
		})
	}
}

// The same with a push as the first that hears of it, which tries a minute otherwise.
func TestPushAfterTheJournalWasPutBack(t *testing.T) {
	w := newWorld(t, "a", "b")
	a := w.nodes["a"]
	base := w.commit()
	a.accept(set("refs/heads/main", "", base))
	a.accept(set("refs/heads/gone", "", w.commit(base)))
	w.putBack(1)
	next := w.commit(base)
	results, err := a.Commit(t.Context(), w.repo.ID, Push{ID: journal.NewID(), Copies: 1, Updates: []cluster.RefUpdate{set("refs/heads/x", "", base)}})
	if err != nil || results[0].Refused != "" {
		t.Fatal(results, err)
	}
	w.nodes["b"].accept(set("refs/heads/main", base, next))
	for _, name := range w.names {
		_, refs := w.nodes[name].sync()
		if refs["refs/heads/gone"] != "" || refs["refs/heads/main"] != string(next) || refs["refs/heads/x"] != string(base) {
			t.Errorf("%s shows %v", name, refs)
		}
	}
}

// The journal is put back while a node is away, and has outgrown what that shows when
// it returns.
func TestJournalPutBackWhileAway(t *testing.T) {
	for name, pushes := range map[string]int{"not as far": 1, "as far": 2, "farther": 5} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "a", "b")
			a := w.nodes["a"]
			tips := a.history(4)
			w.nodes["b"].sync()
			a.Close(t.Context())
			w.nodes["b"].Close(t.Context())
			w.putBack(2)
			b := w.restarted("b")
			b.sync()
			old, tip := cluster.OID(""), tips[1]
			for range pushes {
				next := w.commit(tip)
				b.accept(set("refs/heads/other", old, next))
				old, tip = next, next
			}
			a = w.restarted("a")
			_, refs := a.sync()
			if refs["refs/heads/other"] != string(tip) || refs["refs/heads/main"] != string(tips[1]) {
				t.Errorf("a shows %v", refs)
			}
			kept := ""
			for ref, value := range refs {
				if value == string(tips[3]) {
					kept = ref
				}
			}
			if kept == "" {
				t.Errorf("what the journal has lost is not kept: %v", refs)
			}
		})
	}
}
