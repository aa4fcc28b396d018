package repository

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gitcluster/internal/cluster"
)

// After any history a table is the same as a fresh one with the same refs.
func TestRefTableAfterRandomChanges(t *testing.T) {
	for _, cases := range []struct {
		what  string
		parts []string
	}{
		{"lower case", []string{"a", "b", "c", "dd"}},
		{"both cases", []string{"a", "A", "b", "B"}},
	} {
		t.Run(cases.what, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(5, 6))
			name := func() cluster.RefName {
				ref := "refs/heads"
				for range 1 + rng.IntN(3) {
					ref += "/" + cases.parts[rng.IntN(len(cases.parts))]
				}
				return cluster.RefName(ref)
			}
			table := NewRefTable()
			for step := range 3000 {
				ref := name()
				switch rng.IntN(5) {
				case 0, 1:
					table.Set(ref, "")
				case 2:
					table.Set(ref, cluster.SHA1.Zero())
				default:
					if _, why := table.Clash(ref); why == "" {
						table.Set(ref, cluster.OID(fmt.Sprintf("%040x", 1+rng.IntN(4))))
					}
				}
				if rng.IntN(20) == 0 {
					table.SetHead(name())
				}
				fresh := NewRefTable()
				table.Values(func(ref cluster.RefName, value cluster.OID) bool { fresh.Set(ref, value); return true })
				fresh.SetHead(table.Head())
				if !maps.Equal(table.refs, fresh.refs) || !maps.Equal(table.folders, fresh.folders) || !maps.EqualFunc(table.folded, fresh.folded, slices.Equal) {
					t.Fatalf("step %d: %s: the tables differ:\n%v\n%v", step, ref, table, fresh)
				}
				if table.Digest() != fresh.Digest() {
					t.Fatalf("step %d: %s: the digests differ", step, ref)
				}
			}
		})
	}
}

// Undoing changes in reverse order brings everything back, the digest too.
func TestRefTableUndo(t *testing.T) {
	table := NewRefTable()
	oid := func(n int) cluster.OID { return cluster.OID(fmt.Sprintf("%040x", n)) }
	table.SetHead("refs/heads/main")
	table.Set("refs/heads/main", oid(1))
	table.Set("refs/heads/dir/x", oid(2))
	before, refs, folders, folded := table.Digest(), maps.Clone(table.refs), maps.Clone(table.folders), maps.Clone(table.folded)
	var undo []cluster.RefUpdate
	for _, u := range []cluster.RefUpdate{set("refs/heads/main", "", oid(3)), set("refs/heads/dir/x", "", ""), set("refs/heads/dir", "", oid(4)), set("refs/heads/dir", "", ""), set("refs/tags/new", "", oid(5))} {
		undo = append(undo, cluster.RefUpdate{Ref: u.Ref, New: table.Get(u.Ref)})
		table.Set(u.Ref, u.New)
	}
	table.SetHead("refs/heads/dir")
	table.SetHead("refs/heads/main")
	for i := len(undo) - 1; i >= 0; i-- {
		table.Set(undo[i].Ref, undo[i].New)
	}
	if table.Digest() != before || !maps.Equal(table.refs, refs) || !maps.Equal(table.folders, folders) || !maps.EqualFunc(table.folded, folded, slices.Equal) {
		t.Errorf("undone: %v", table)
	}
}

func TestRefTableClash(t *testing.T) {
	table := NewRefTable()
	for _, ref := range []cluster.RefName{"refs/heads/main", "refs/heads/dir/x", "refs/heads/dir/deep/y", "refs/tags/V1"} {
		table.Set(ref, cluster.OID(strings.Repeat("1", 40)))
	}
	for ref, want := range map[cluster.RefName]string{
		"refs/heads/main":         "", // it exists: no new name
		"refs/heads/mainx":        "",
		"refs/heads/mai":          "",
		"refs/heads/dir/z":        "",
		"refs/tags/main":          "",
		"refs/heads/main/x":       "refs/heads/main",
		"refs/heads/main/x/y/z":   "refs/heads/main",
		"refs/heads/dir":          "refs/heads/dir",
		"refs/heads/dir/deep":     "refs/heads/dir/deep",
		"refs/heads/dir/x/y":      "refs/heads/dir/x",
		"refs/heads/MAIN":         "refs/heads/main",
		"refs/tags/v1":            "refs/tags/V1",
		"refs/heads/dir/Deep/Y":   "refs/heads/dir/deep/y",
		"refs/heads/dir/deep/y/z": "refs/heads/dir/deep/y",
	} {
		other, why := table.Clash(ref)
		if string(other) != want || (why == "") != (want == "") {
			t.Errorf("%s clashes with %q (%s), want %q", ref, other, why, want)
		}
	}
	table.Set("refs/heads/dir/x", "")
	table.Set("refs/heads/dir/deep/y", "")
	if other, why := table.Clash("refs/heads/dir"); why != "" {
		t.Errorf("an emptied folder still clashes with %q: %s", other, why)
	}
	if n := table.CountBelow("refs/heads"); n != 1 {
		t.Errorf("%d branches, want 1", n)
	}
}

// Two names that differ only in case may both be there already; taking one away
// does not make the other forgotten.
func TestRefTableClashAfterOneOfTwoCasesWent(t *testing.T) {
	for _, gone := range []cluster.RefName{"refs/heads/x", "refs/heads/X"} {
		table := NewRefTable()
		table.Set("refs/heads/x", cluster.OID(strings.Repeat("1", 40)))
		table.Set("refs/heads/X", cluster.OID(strings.Repeat("1", 40)))
		table.Set(gone, "")
		if _, why := table.Clash(gone); why == "" {
			t.Errorf("after %s went, its name is free although it differs only in case from another", gone)
		}
	}
}

func TestLoadRefs(t *testing.T) {
	w := newWorld(t)
	one := w.commit()
	two := w.commit(one)
	w.receive(two)
	w.change(set("refs/heads/main", "", one), set("refs/heads/packed", "", two), set("refs/tags/ü", "", two), set("refs/heads/straysx", "", one))
	w.git(w.Dir, "update-ref", "refs/strays/1/main", string(two))
	w.git(w.Dir, "pack-refs", "--all")
	w.git(w.Dir, "update-ref", "refs/strays/2", string(two))
	w.change(set("refs/heads/main", one, two)) // newer than what is packed
	table, err := w.LoadRefs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := NewRefTable()
	want.SetHead("refs/heads/main")
	for ref, value := range map[cluster.RefName]cluster.OID{"refs/heads/main": two, "refs/heads/packed": two, "refs/tags/ü": two, "refs/heads/straysx": one} {
		want.Set(ref, value)
	}
	if !maps.Equal(table.refs, want.refs) || table.Digest() != want.Digest() || table.Head() != want.Head() {
		t.Errorf("loaded %v, want %v", table, want)
	}
}

// What Git would not count as a ref must never look like the state that was
// asked for: either the load fails or the digest says that something is wrong.
func TestLoadRefsOfAnEditedDisk(t *testing.T) {
	missing := strings.Repeat("1", 40)
	for name, edit := range map[string]func(w *world, one cluster.OID) error{
		"another value": func(w *world, _ cluster.OID) error { return w.write("refs/heads/main", missing+"\n") },
		"emptied":       func(w *world, _ cluster.OID) error { return w.write("refs/heads/main", "") },
		"garbage":       func(w *world, _ cluster.OID) error { return w.write("refs/heads/main", "hello\n") },
		"dangling symbolic ref": func(w *world, _ cluster.OID) error {
			return w.write("refs/heads/main", "ref: refs/heads/none\n")
		},
		"removed":       func(w *world, _ cluster.OID) error { return os.Remove(filepath.Join(w.Dir, "refs/heads/main")) },
		"another ref":   func(w *world, one cluster.OID) error { return w.write("refs/heads/new", string(one)+"\n") },
		"another HEAD":  func(w *world, _ cluster.OID) error { return w.write("HEAD", "ref: refs/heads/other\n") },
		"detached HEAD": func(w *world, one cluster.OID) error { return w.write("HEAD", string(one)+"\n") },
		"garbage HEAD":  func(w *world, _ cluster.OID) error { return w.write("HEAD", "\x00\x01") },
		"dangling link": func(w *world, _ cluster.OID) error {
			path := filepath.Join(w.Dir, "refs/heads/main")
			if err := os.Remove(path); err != nil {
				return err
			}
			return os.Symlink("nowhere/at/all", path)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			one := w.commit()
			w.receive(one)
			w.change(set("refs/heads/main", "", one))
			before, err := w.LoadRefs(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := edit(w, one); err != nil {
				t.Fatal(err)
			}
			after, err := w.LoadRefs(t.Context())
			if err == nil && after.Digest() == before.Digest() {
				t.Error("it has the digest it had before")
			}
		})
	}
}

func (w *world) write(name, text string) error {
	return os.WriteFile(filepath.Join(w.Dir, name), []byte(text), 0o600)
}

// TestDecided compares the list of decided refs with a table that is told of them only once
// they are.
func TestDecided(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 8))
	table, facts := NewRefTable(), map[cluster.RefName]cluster.OID{}
	trying := false
	for step := range 4000 {
		switch rng.IntN(6) {
		case 0:
			table.Try()
			trying = true
		case 1:
			table.Decide()
			trying = false
		default:
			ref, value := cluster.RefName(fmt.Sprintf("refs/heads/%d", rng.IntN(9))), cluster.OID("")
			if rng.IntN(3) > 0 {
				value = cluster.OID(fmt.Sprintf("%040x", 1+rng.IntN(4)))
			}
			table.Set(ref, value)
		}
		if !trying {
			facts = maps.Collect(table.Values)
		}
		got, last := map[cluster.RefName]cluster.OID{}, cluster.RefName("")
		for ref, value := range table.Decided() {
			if ref <= last {
				t.Fatalf("step %d: %s comes after %s", step, ref, last)
			}
			got[ref], last = value, ref
		}
		if !maps.Equal(got, facts) {
			t.Fatalf("step %d: %v, want %v", step, got, facts)
		}
	}
}
