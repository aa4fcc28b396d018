package repository

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/cluster"
)

func (w *world) packs() (all []Pack, reached string) {
	w.t.Helper()
	all, reached, err := w.Packs()
	if err != nil {
		w.t.Fatal(err)
	}
	return all, reached
}

// whole fails unless every object is there and its history too.
func (w *world) whole(oids ...cluster.OID) {
	w.t.Helper()
	for _, oid := range oids {
		if ok, err := w.Closed(w.t.Context(), []cluster.OID{oid}, nil); err != nil || !ok {
			w.t.Errorf("%s: closed %v, %v", oid, ok, err)
		}
	}
}

func TestPacksBecomeOne(t *testing.T) {
	for _, format := range []cluster.ObjectFormat{cluster.SHA1, cluster.SHA256} {
		t.Run(string(format), func(t *testing.T) {
			w := newWorldOf(t, format)
			one := w.commit()
			two := w.commit(one)
			lost := w.commit(one)
			for _, oid := range []cluster.OID{one, two, lost} {
				w.receive(oid)
			}
			w.change(set("refs/heads/main", "", two))
			// A loose object, and one that is in a pack, too.
			blob := cluster.OID(w.gitIn(w.Dir, "loose", "hash-object", "-w", "--stdin"))
			w.gitIn(w.Dir, "loose2", "hash-object", "-w", "--stdin")
			if n, err := w.LooseObjects(10); err != nil || n != 2 {
				t.Fatalf("%d loose objects, %v", n, err)
			}
			all, _ := w.packs()
			if len(all) != 3 {
				t.Fatalf("%d packs", len(all))
			}
			keep := filepath.Join(w.packDir(), all[0].Name+".keep")
			if err := os.WriteFile(keep, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if all, _ = w.packs(); !all[0].Keep || all[1].Keep {
				t.Errorf("kept: %+v", all)
			}
			if err := w.RollUp(t.Context(), all); err != nil {
				t.Fatal(err)
			}
			os.Remove(keep)
			all, _ = w.packs()
			if n, _ := w.LooseObjects(10); len(all) != 1 || n != 0 || all[0].Objects != 3*3+2 {
				t.Fatalf("after the roll-up %+v and %d loose objects", all, n)
			}
			w.whole(one, two, lost, blob)

			if err := w.PackReached(t.Context(), all); err != nil {
				t.Fatal(err)
			}
			all, reached := w.packs()
			if len(all) != 2 || reached == "" {
				t.Fatalf("%+v, and reached is %q", all, reached)
			}
			var aside []string
			for _, p := range all {
				switch {
				case p.Name == reached && p.Objects == 6 && p.Aside.IsZero():
				case p.Name != reached && p.Objects == 5 && !p.Aside.IsZero():
					aside = append(aside, p.Name)
				default:
					t.Errorf("%+v", p)
				}
			}
			w.whole(one, two, lost, blob)
			if _, err := os.Stat(filepath.Join(w.packDir(), reached+".bitmap")); err != nil {
				t.Error(err)
			}
			if in, err := w.In(reached, oids(one, lost, two)); err != nil || !in[one] || !in[two] || in[lost] {
				t.Errorf("reached has %v, %v", in, err)
			}
			for _, c := range []struct {
				wants cluster.OID
				need  bool
			}{{lost, true}, {two, false}, {blob, true}} {
				got, err := w.Needed(t.Context(), oids(c.wants), nil, reached, aside)
				if err != nil || got[aside[0]] != c.need {
					t.Errorf("needed for %s: %v, %v", c.wants, got, err)
				}
			}
			if _, err := w.Needed(t.Context(), oids(cluster.OID(strings.Repeat("1", len(one)))), nil, reached, aside); err == nil {
				t.Error("what is not there is said to need nothing")
			}

			// Again, nothing having changed, it comes to the same.
			if err := w.PackReached(t.Context(), all[:0]); err != nil {
				t.Fatal(err)
			}
			if again, name := w.packs(); len(again) != 2 || name != reached {
				t.Errorf("again: %+v, %q", again, name)
			}
			if err := w.WriteCommitGraph(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := w.Discard(aside); err != nil {
				t.Fatal(err)
			}
			if ok, _ := w.Closed(t.Context(), oids(lost), nil); ok {
				t.Error("what was discarded is there")
			}
			w.whole(two)
			w.git(w.Dir, "fsck", "--full", "--strict")
		})
	}
}

// A large pack and a small one are compared in two ways.
func TestRestOfPacksOfAllSizes(t *testing.T) {
	w := newWorld(t)
	tip := w.commit()
	for range 30 {
		tip = w.commit(tip)
	}
	w.receive(tip)
	w.change(set("refs/heads/main", "", tip))
	lost := w.commit(tip)
	tree := cluster.OID(w.git(w.work, "rev-parse", string(lost)+"^{tree}"))
	if err := w.ReadPack(t.Context(), strings.NewReader(string(w.bare(lost, tree, tip, cluster.OID(w.git(w.work, "rev-parse", string(lost)+":file"))))), nil, nil); err != nil {
		t.Fatal(err)
	}
	all, _ := w.packs()
	if len(all) != 2 {
		t.Fatal(all)
	}
	if err := w.PackReached(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	all, reached := w.packs()
	for _, p := range all {
		if want := map[bool]int{true: 31 * 3, false: 3}[p.Name == reached]; p.Objects != want {
			t.Errorf("%+v, want %d objects", p, want)
		}
	}
	w.whole(lost)
}

func TestPackRefs(t *testing.T) {
	w := newWorld(t)
	one := w.commit()
	w.receive(one)
	want := map[string]string{}
	for i := range 20 {
		ref := fmt.Sprintf("refs/heads/f%d/b", i)
		w.change(set(ref, "", one))
		want[ref] = string(one)
	}
	if n, err := w.LooseRefs(7); err != nil || n != 7 {
		t.Errorf("%d, %v", n, err)
	}
	p, err := w.PackRefs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if left, err := p.Drop(5); err != nil || left != 15 {
		t.Errorf("%d left, %v", left, err)
	}
	// One changes before its file is dropped.
	two := w.commit(one)
	w.receive(two)
	w.change(set("refs/heads/f9/b", one, two)) // the last in the order of names
	want["refs/heads/f9/b"] = string(two)
	if left, err := p.Drop(100); err != nil || left != 0 {
		t.Errorf("%d left, %v", left, err)
	}
	if n, err := w.LooseRefs(100); err != nil || n != 1 {
		t.Errorf("%d loose refs are left, %v", n, err)
	}
	w.show(want)
	if left := w.files("refs/heads"); len(left) > 3 {
		t.Errorf("folders are left: %v", left)
	}

	// One is deleted, which writes the packed file anew, and comes back.
	w.change(set("refs/heads/f3/b", one, two))
	if p, err = w.PackRefs(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.change(set("refs/heads/f3/b", two, ""))
	w.change(set("refs/heads/f3/b", "", two))
	want["refs/heads/f3/b"] = string(two)
	if left, err := p.Drop(100); err != nil || left != 0 {
		t.Errorf("%d left, %v", left, err)
	}
	w.show(want)
}

func TestOrphans(t *testing.T) {
	w := newWorld(t)
	objects := filepath.Join(w.Dir, "objects")
	old := time.Now().Add(-2 * time.Hour)
	for _, f := range []string{"incoming-1/pack/tmp_pack_a", "tmp_objdir-incoming-2/pack/x", "pack/tmp_pack_b", "pack/pack-1.pack", "incoming-live/pack/tmp_pack_c"} {
		path := filepath.Join(objects, f)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		for p := path; p != objects; p = filepath.Dir(p) {
			if err := os.Chtimes(p, old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, text := range map[string]string{"pack-1.keep": "receive-pack 77 on host\n", "pack-2.keep": "an operator's\n"} {
		path := filepath.Join(objects, "pack", name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	// Somebody still writes to this one.
	now := time.Now()
	if err := os.Chtimes(filepath.Join(objects, "incoming-live/pack/tmp_pack_c"), now, now); err != nil {
		t.Fatal(err)
	}
	if n, err := w.RemoveOrphans(t.Context(), 3*time.Hour); err != nil || n != 0 {
		t.Errorf("%d of no age were removed, %v", n, err)
	}
	// The clock says that they are old enough; but they were not there an hour ago.
	if n, err := w.RemoveOrphans(t.Context(), time.Hour); err != nil || n != 0 {
		t.Errorf("%d were removed by the clock alone, %v", n, err)
	}
	w.store.seen.Range(func(path, first any) bool {
		w.store.seen.Store(path, first.(time.Time).Add(-time.Hour))
		return true
	})
	if n, err := w.RemoveOrphans(t.Context(), time.Hour); err != nil || n != 4 { // with pack-1, which is none
		t.Errorf("%d were removed, %v", n, err)
	}
	left := slices.DeleteFunc(w.files("objects"), func(f string) bool { return strings.HasPrefix(f, "info") })
	if fmt.Sprint(left) != "[. incoming-live incoming-live/pack incoming-live/pack/tmp_pack_c pack pack/pack-2.keep]" {
		t.Errorf("left: %v", left)
	}
}

// A process that is killed while it moves packs in or takes them away leaves some without
// an index. What is in them is found again, and what is not whole is removed.
func TestPacksWithoutIndex(t *testing.T) {
	w := newWorld(t)
	one := w.commit()
	w.receive(one)
	packs, err := filepath.Glob(filepath.Join(w.packDir(), "*.idx"))
	if err != nil || len(packs) != 1 {
		t.Fatal(packs, err)
	}
	name := strings.TrimSuffix(packs[0], ".idx")
	torn := filepath.Join(w.packDir(), "pack-"+strings.Repeat("1", 40))
	data, err := os.ReadFile(name + ".pack")
	if err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string][]byte{torn + ".pack": data[:len(data)-3], torn + ".rev": nil, torn + ".bitmap": nil} {
		if err := os.WriteFile(path, text, 0o400); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(packs[0]); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-2 * time.Hour)
	files, err := filepath.Glob(filepath.Join(w.packDir(), "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := os.Chtimes(f, old, old); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := w.RemoveOrphans(t.Context(), time.Hour); err != nil || n != 0 || len(w.files("objects/pack")) != 1+len(files) {
		t.Errorf("at first: %d, %v", n, err)
	}
	w.store.seen.Range(func(path, first any) bool {
		w.store.seen.Store(path, first.(time.Time).Add(-time.Hour))
		return true
	})
	if n, err := w.RemoveOrphans(t.Context(), time.Hour); err != nil || n != 1 {
		t.Errorf("%d were removed, %v", n, err)
	}
	left, err := filepath.Glob(torn + "*")
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if ok, err := w.Closed(t.Context(), []cluster.OID{one}, nil); !ok || err != nil {
		t.Errorf("what was in a pack that had no index is not found: %v", err)
	}
}

// gitIn is git with text on standard input.
func (w *world) gitIn(dir, stdin string, args ...string) string {
	w.t.Helper()
	out, err := w.tryGit(dir, stdin, args...)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func TestUnbalanced(t *testing.T) {
	for _, c := range []struct {
		sizes []int
		n     int // packs that become one
	}{
		{nil, 0}, {[]int{5}, 0}, {[]int{1, 2}, 0}, {[]int{1, 1}, 2}, {[]int{3, 1, 1}, 3}, {[]int{1000, 1, 1, 1}, 3},
		{[]int{100, 30, 10, 2}, 0}, {[]int{1, 2, 6, 17}, 4},
	} {
		var packs []Pack
		for i, n := range c.sizes {
			packs = append(packs, Pack{Name: fmt.Sprint("pack-", i), Objects: n})
		}
		if got := Unbalanced(packs); len(got) != c.n {
			t.Errorf("%v: %d become one, want %d", c.sizes, len(got), c.n)
		}
	}
}
