package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"gitcluster/internal/cluster"
)

// many is a list of n updates with long names.
func many(n int) []cluster.RefUpdate {
	updates := make([]cluster.RefUpdate, n)
	for i := range updates {
		updates[i] = cluster.RefUpdate{Ref: cluster.RefName(fmt.Sprintf("refs/heads/topic/%02d/<ü>&/%05d", i%100, i)), New: cluster.OID(fmt.Sprintf("%040x", i+1))}
	}
	return updates
}

func TestAppendComparesAndSwaps(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		repo, zero := w.create("a")
		first := entry(zero, 1)
		one := w.append(repo.ID, zero, first)
		if _, err := w.Append(ctx, repo.ID, zero, entry(zero, 2), nil); !errors.Is(err, ErrHeadMoved) {
			t.Errorf("onto an old head: %v", err)
		}
		_, now, err := w.LookupID(ctx, repo.ID)
		if err != nil || !same(now, one) || now.Version != 1 || now.Digest != first.Digest || now.Oldest != 1 || now.Device != "a" {
			t.Errorf("the head is %+v, %v; want %+v", now, err, one)
		}
		// What Append returned is as good as what Lookup returns.
		second := entry(one, 2)
		second.Head = "refs/heads/2"
		two := w.append(repo.ID, one, second)
		if two.Oldest != 1 {
			t.Errorf("the oldest entry is %d", two.Oldest)
		}
		got, err := w.Entries(ctx, repo.ID, 0, 2)
		if err != nil || !reflect.DeepEqual(got, []Entry{first, second}) {
			t.Errorf("entries %+v, %v; want %+v", got, err, []Entry{first, second})
		}
		if _, err := w.Append(ctx, "ffffffffffffffff", zero, entry(zero, 1), nil); !errors.Is(err, cluster.ErrNotFound) {
			t.Errorf("to a repository that is not there: %v", err)
		}
	})
}

// Every entry of many writers is there once, and versions have no gap.
func TestAppendAtTheSameTime(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		repo, _ := w.create("a")
		const writers, each = 6, 8
		var wg sync.WaitGroup
		for n := range writers {
			wg.Go(func() {
				j := New(w.client)
				for i := range each {
					for {
						_, head, err := j.LookupID(ctx, repo.ID)
						if err != nil {
							t.Error(err)
							return
						}
						_, err = j.Append(ctx, repo.ID, head, entry(head, 1000*n+i), nil)
						if err == nil {
							break
						}
						if !errors.Is(err, ErrHeadMoved) {
							t.Error(err)
							return
						}
					}
				}
			})
		}
		wg.Wait()
		_, head, err := w.LookupID(ctx, repo.ID)
		if err != nil || head.Version != writers*each {
			t.Fatalf("head %v, %v", head, err)
		}
		entries, err := w.Entries(ctx, repo.ID, 0, head.Version)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		var digest cluster.Digest
		digest.MoveHead("", "refs/heads/main")
		for i, e := range entries {
			digest.Apply(e.Updates)
			if seen[e.Pushes[0].ID] || e.Version != cluster.Version(i+1) || e.Digest != digest {
				t.Errorf("entry %d: %+v", i, e)
			}
			seen[e.Pushes[0].ID] = true
		}
	})
}

func TestAppendWhenAnswersAreLost(t *testing.T) {
	for _, landed := range []bool{false, true} {
		t.Run(fmt.Sprintf("landed=%v", landed), func(t *testing.T) {
			everywhere(t, func(t *testing.T, w *world) {
				repo, head := w.create("a")
				kv := &faultyKV{KV: w.client}
				losses := 3
				kv.set(func(after bool) bool {
					if after != landed || losses == 0 {
						return false
					}
					losses--
					return true
				})
				j := NewOver(w.client, kv)
				next, err := j.Append(t.Context(), repo.ID, head, entry(head, 1), nil)
				if err != nil || losses != 0 {
					t.Fatalf("%v, %d answers still to lose", err, losses)
				}
				_, now, err := w.LookupID(t.Context(), repo.ID)
				if err != nil || !same(now, next) || now.Version != 1 {
					t.Errorf("the head is %+v, %v; Append said %+v", now, err, next)
				}
				// Its answer can be appended to.
				w.append(repo.ID, next, entry(next, 2))
			})
		})
	}
}

// The answer is lost, and before it is asked again others come.
func TestAppendFindsItsEntryBelowOthers(t *testing.T) {
	for _, landed := range []bool{false, true} {
		t.Run(fmt.Sprintf("landed=%v", landed), func(t *testing.T) {
			everywhere(t, func(t *testing.T, w *world) {
				repo, head := w.create("a")
				kv := &faultyKV{KV: w.client}
				once := true
				kv.set(func(after bool) bool {
					if after != landed || !once {
						return false
					}
					once = false
					for range 2 {
						_, now, err := w.LookupID(t.Context(), repo.ID)
						if err != nil {
							t.Error(err)
							return true
						}
						if _, err := w.Append(t.Context(), repo.ID, now, entry(now, 7), nil); err != nil {
							t.Error(err)
						}
					}
					return true
				})
				next, err := NewOver(w.client, kv).Append(t.Context(), repo.ID, head, entry(head, 1), nil)
				if landed && (err != nil || next.Version != 1) {
					t.Errorf("got %v, %v; want version 1", next, err)
				}
				if !landed && !errors.Is(err, ErrHeadMoved) {
					t.Errorf("got %v, want %v", err, ErrHeadMoved)
				}
				_, now, err := w.LookupID(t.Context(), repo.ID)
				if want := cluster.Version(2); err != nil || now.Version != want && !landed || now.Version != want+1 && landed {
					t.Errorf("the head is %v, %v", now, err)
				}
				if landed {
					// The head it returned is one that has moved since.
					if _, err := w.Append(t.Context(), repo.ID, next, entry(next, 9), nil); !errors.Is(err, ErrHeadMoved) {
						t.Errorf("onto the head it returned: %v", err)
					}
				}
			})
		})
	}
}

func TestAppendIsUnclearWhenTheContextEnds(t *testing.T) {
	for _, landed := range []bool{false, true} {
		t.Run(fmt.Sprintf("landed=%v", landed), func(t *testing.T) {
			everywhere(t, func(t *testing.T, w *world) {
				repo, head := w.create("a")
				kv := &faultyKV{KV: w.client}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				asked := 0
				kv.set(func(after bool) bool {
					if after == landed {
						if asked++; asked == 2 {
							cancel()
						}
					}
					return after == landed
				})
				if _, err := NewOver(w.client, kv).Append(ctx, repo.ID, head, entry(head, 1), nil); !errors.Is(err, ErrUnclear) {
					t.Errorf("got %v, want %v", err, ErrUnclear)
				}
				_, now, err := w.LookupID(t.Context(), repo.ID)
				if err != nil || (now.Version == 1) != landed {
					t.Errorf("the head is %v, %v", now, err)
				}
			})
		})
	}
}

func TestAppendNeedsTheCountedIncarnations(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		for _, d := range []cluster.DeviceName{"a", "b"} {
			if err := w.AddDevice(ctx, cluster.Device{Name: d, PublicKey: "ssh-ed25519 " + string(d)}, string(d)+"-1"); err != nil {
				t.Fatal(err)
			}
		}
		repo, head := w.create("a")
		good := []Counted{{"a", "a-1"}, {"b", "b-1"}}
		head, err := w.Append(ctx, repo.ID, head, entry(head, 1), good)
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range [][]Counted{{{"a", "a-1"}, {"b", "b-2"}}, {{"c", "c-1"}}, {{"a", ""}}} {
			if _, err := w.Append(ctx, repo.ID, head, entry(head, 2), bad); !errors.Is(err, ErrIncarnation) {
				t.Errorf("%v: %v", bad, err)
			}
		}
		if _, now, err := w.LookupID(ctx, repo.ID); err != nil || !same(now, head) || w.count(keyJournal+string(repo.ID)) != 1 {
			t.Errorf("after refusals the head is %v, %v", now, err)
		}
		w.append(repo.ID, head, entry(head, 3))
		// Moved and replaced at once: moving is what can be cured by trying again.
		if _, err := w.Append(ctx, repo.ID, head, entry(head, 4), []Counted{{"b", "b-2"}}); !errors.Is(err, ErrHeadMoved) {
			t.Errorf("both: %v", err)
		}
	})
}

// A group of pushes is one entry; each keeps its name and its share.
func TestGroupEntry(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		repo, head := w.create("a")
		e := entry(head, 1)
		e.Updates = many(6)
		e.Pushes = []Push{{ID: NewID(), Actor: "alice", Refs: 1}, {ID: NewID(), Actor: "bob (device/x)", Refs: 5}}
		w.append(repo.ID, head, e)
		got, err := w.Entries(t.Context(), repo.ID, 0, 1)
		if err != nil || !reflect.DeepEqual(got, []Entry{e}) {
			t.Errorf("got %+v, %v; want %+v", got, err, e)
		}
		if got[0].Position() != e.Position() {
			t.Error("its position is another")
		}
	})
}

func TestLargeEntry(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		repo, head := w.create("a")
		e := entry(head, 1)
		e.Updates = many(10_000)
		head = w.append(repo.ID, head, e)
		small := entry(head, 2)
		w.append(repo.ID, head, small)
		want := []Entry{e, small}
		got, err := w.Entries(ctx, repo.ID, 0, 2)
		if err != nil || len(got) != 2 || !slices.Equal(got[0].Updates, e.Updates) || !reflect.DeepEqual(got[1], small) {
			t.Fatalf("%d entries, %v; want %d", len(got), err, len(want))
		}
		r, err := w.client.Get(ctx, keyChunk+string(repo.ID)+"/", clientv3.WithPrefix())
		if err != nil || len(r.Kvs) < 2 {
			t.Fatalf("%d chunks, %v", len(r.Kvs), err)
		}
		// Not one of its pieces may be another, or be missing.
		last := r.Kvs[len(r.Kvs)-1]
		for what, change := range map[string]func() error{
			"a missing chunk": func() error { _, err := w.client.Delete(ctx, string(last.Key)); return err },
			"a changed chunk": func() error {
				_, err := w.client.Put(ctx, string(last.Key), strings.Replace(string(last.Value), "refs/heads/topic", "refs/heads/tropic", 1))
				return err
			},
			"a chunk cut short": func() error {
				_, err := w.client.Put(ctx, string(last.Key), string(last.Value[:len(last.Value)-1]))
				return err
			},
			"an empty chunk": func() error { _, err := w.client.Put(ctx, string(last.Key), ""); return err },
		} {
			if err := change(); err != nil {
				t.Fatal(err)
			}
			if got, err := w.Entries(ctx, repo.ID, 0, 2); err == nil {
				t.Errorf("%s: %d entries and no error", what, len(got))
			}
			if _, err := w.Entries(ctx, repo.ID, 1, 2); err != nil {
				t.Errorf("%s: the next entry: %v", what, err)
			}
		}
		if _, err := w.client.Put(ctx, string(last.Key), string(last.Value)); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Entries(ctx, repo.ID, 0, 2); err != nil {
			t.Error(err)
		}
	})
}

// lateKV loses the answers of deletions, which etcd carries out when they are let
// go.
type lateKV struct {
	clientv3.KV
	late []func()
}

func (l *lateKV) Delete(_ context.Context, key string, opts ...clientv3.OpOption) (*clientv3.DeleteResponse, error) {
	l.late = append(l.late, func() { l.KV.Delete(context.Background(), key, opts...) })
	return nil, context.DeadlineExceeded
}

// A large push that lost and is tried again keeps its chunks, however late the
// first attempt's are removed.
func TestLargeEntryIsTriedAgain(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		repo, old := w.create("a")
		late := &lateKV{KV: w.client}
		j := NewOver(w.client, late)
		e := entry(old, 1)
		e.Updates = many(10_000)
		head := w.append(repo.ID, old, entry(old, 2))
		if _, err := j.Append(t.Context(), repo.ID, old, e, nil); !errors.Is(err, ErrHeadMoved) {
			t.Fatal(err)
		}
		e.Version = 2
		if _, err := j.Append(t.Context(), repo.ID, head, e, nil); err != nil {
			t.Fatal(err)
		}
		for _, land := range late.late {
			land()
		}
		if got, err := w.Entries(t.Context(), repo.ID, 0, 2); err != nil || len(got) != 2 || !slices.Equal(got[1].Updates, e.Updates) {
			t.Errorf("%d entries, %v", len(got), err)
		}
		if n := w.count(keyChunk + string(repo.ID) + "/"); n == 0 {
			t.Error("no chunks are left")
		}
	})
}

func TestLargeEntryNeedsAPush(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		repo, head := w.create("a")
		e := entry(head, 1)
		e.Updates, e.Pushes = many(10_000), nil
		if _, err := w.Append(t.Context(), repo.ID, head, e, nil); err == nil {
			t.Error("its chunks have no name of their own, and it was appended")
		}
	})
}

func TestEntriesInPages(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		repo, head := w.create("a")
		// Made by hand in bulk: 1,100 appends would take long.
		const n = 1100
		for v := 0; v < n; {
			var ops []clientv3.Op
			for ; v < n && len(ops) < 100; v++ {
				e := entry(Head{Position: cluster.Position{Epoch: 1, Version: cluster.Version(v)}}, v)
				data, err := json.Marshal(e)
				if err != nil {
					t.Fatal(err)
				}
				ops = append(ops, clientv3.OpPut(entryKey(repo.ID, e.Version), string(data)))
			}
			if _, err := w.client.Txn(ctx).Then(ops...).Commit(); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range []struct{ after, upTo cluster.Version }{{0, n}, {0, 1}, {0, 500}, {0, 501}, {499, 1000}, {n - 1, n}, {7, 7}, {9, 7}} {
			got, err := w.Entries(ctx, repo.ID, c.after, c.upTo)
			want := 0
			if c.upTo > c.after {
				want = int(c.upTo - c.after)
			}
			if err != nil || len(got) != want {
				t.Errorf("(%d, %d]: %d entries, %v", c.after, c.upTo, len(got), err)
				continue
			}
			for i, e := range got {
				if e.Version != c.after+cluster.Version(i)+1 {
					t.Fatalf("(%d, %d]: entry %d is version %d", c.after, c.upTo, i, e.Version)
				}
			}
		}
		for _, c := range []struct {
			before cluster.Version
			limit  int
			want   []cluster.Version // the first and the last
		}{{0, 3, []cluster.Version{n, n - 2}}, {4, 10, []cluster.Version{3, 1}}, {1, 10, nil}, {0, 40, []cluster.Version{n, n - 39}}, {n, 1, []cluster.Version{n - 1, n - 1}}} {
			got, err := w.Newest(ctx, repo.ID, c.before, c.limit)
			if err != nil || (len(got) == 0) != (c.want == nil) {
				t.Errorf("the newest %d before %d: %d entries, %v", c.limit, c.before, len(got), err)
				continue
			}
			for i, e := range got {
				if e.Version != c.want[0]-cluster.Version(i) {
					t.Errorf("the newest %d before %d: entry %d is version %d", c.limit, c.before, i, e.Version)
				}
			}
			if len(got) > 0 && got[len(got)-1].Version != c.want[1] {
				t.Errorf("the newest %d before %d end with %d", c.limit, c.before, got[len(got)-1].Version)
			}
		}
		if got, err := w.Entries(ctx, repo.ID, n-1, n+1); err == nil {
			t.Errorf("beyond the end: %d entries and no error", len(got))
		}
		if _, err := w.client.Delete(ctx, entryKey(repo.ID, 600)); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct{ after, upTo cluster.Version }{{0, n}, {599, 600}, {598, 601}, {0, 600}} {
			if got, err := w.Entries(ctx, repo.ID, c.after, c.upTo); err == nil {
				t.Errorf("(%d, %d] over a hole: %d entries and no error", c.after, c.upTo, len(got))
			}
		}
		if _, err := w.client.Put(ctx, entryKey(repo.ID, 600), "{"); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Entries(ctx, repo.ID, 599, 600); err == nil {
			t.Error("a garbled entry was read")
		}
		_ = head
	})
}
