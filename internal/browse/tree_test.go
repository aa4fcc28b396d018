package browse

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"gitcluster/internal/cluster"
)

// Every name that Git can store is listed, found, read, blamed and compared
// under exactly its bytes, in the top and in a directory of that name.
func TestHostileNames(t *testing.T) {
	formats(t, func(t *testing.T, w *world) {
		var changes []change
		for _, name := range hostile {
			changes = append(changes, file(name, "contents of "+name+"\n"), file("dir/"+name+"/"+name, name+"\n"))
		}
		first := w.commit("refs/heads/main", "first", nil, changes...)
		for i := range changes {
			changes[i].data += "more\n"
		}
		second := w.commit("refs/heads/main", "second", nil, changes...)
		// A clean one, so that the second is not what everything was changed in.
		tip := w.commit("refs/heads/main", "third", nil, file("plain", "x"))

		var want []string
		for _, c := range changes {
			want = append(want, c.path)
		}
		slices.Sort(want)

		tree := must(w.Tree(t.Context(), tip, ""))(t)
		var got []string
		for _, e := range tree.Entries {
			if e.Type == TypeBlob && e.Name != "plain" {
				got = append(got, e.Name)
			}
		}
		wantTop := slices.Clone(hostile)
		slices.Sort(wantTop)
		if !slices.Equal(got, wantTop) {
			t.Errorf("the top has\n%q, want\n%q", got, wantTop)
		}
		if tree.Entries[0].Name != "dir" {
			t.Errorf("the first entry is %q, want the directory", tree.Entries[0].Name)
		}

		paths, more, err := w.Paths(t.Context(), PathQuery{Root: tip, Limit: 1000})
		paths = slices.DeleteFunc(paths, func(p string) bool { return p == "plain" })
		slices.Sort(paths)
		if err != nil || more || !slices.Equal(paths, want) {
			t.Errorf("paths, more = %v, %v:\n%q", more, err, paths)
		}

		last, complete, err := w.LastModified(t.Context(), tip, "", nil)
		if err != nil || !complete || len(last) != len(hostile)+2 {
			t.Errorf("last modified: %d of %d, complete = %v, %v", len(last), len(hostile)+2, complete, err)
		}
		for name, c := range last {
			want := second
			if name == "plain" {
				want = tip
			}
			if c.OID != want {
				t.Errorf("%q was last modified by %q, want %s", name, c.Subject, want)
			}
		}

		d := must(w.Diff(t.Context(), DiffQuery{Old: first, New: second}))(t)
		if len(d.Files) != len(changes) || d.Added != len(changes) || d.Removed != 0 {
			t.Errorf("the difference has %d files, +%d −%d", len(d.Files), d.Added, d.Removed)
		}
		for _, f := range d.Files {
			if f.OldPath != f.NewPath || !slices.Contains(want, f.NewPath) || f.Status != StatusModified || len(f.Hunks) != 1 ||
				len(f.Hunks[0].Lines) != 2+strings.Count(f.NewPath[strings.LastIndex(f.NewPath, "/")+1:], "\n") {
				t.Errorf("unexpected difference %+v", f)
			}
		}
		for _, c := range changes {
			f, err := w.File(t.Context(), tip, c.path, 1<<20)
			if err != nil || string(f.Data) != c.data || f.Size != int64(len(c.data)) || f.Truncated || f.Binary {
				t.Errorf("%q: %+v, %v", c.path, f, err)
			}
		}
		// Each of these is a process; some names are enough.
		for _, name := range hostile {
			if w.format == cluster.SHA256 && !strings.ContainsAny(name, "-:\n") && !strings.Contains(name, "\xff") {
				continue
			}
			path := "dir/" + name + "/" + name
			if h, err := w.Blame(t.Context(), tip, path, 0, 0); err != nil || len(h) != 2 || h[0].Path != path || h[0].Commit.OID != first || h[1].Commit.OID != second {
				t.Errorf("%q: blame %+v, %v", path, h, err)
			}
			if c, _, err := w.History(t.Context(), HistoryQuery{From: []cluster.OID{tip}, Paths: []string{path}}); err != nil || len(c) != 2 || c[0].OID != second || c[1].OID != first {
				t.Errorf("%q: history %v, %v", path, c, err)
			}
			if d, err := w.Diff(t.Context(), DiffQuery{Old: first, New: tip, Paths: []string{path}}); err != nil || len(d.Files) != 1 || d.Files[0].NewPath != path {
				t.Errorf("%q: difference %+v, %v", path, d, err)
			}
			if m, _, err := w.Grep(t.Context(), GrepQuery{Root: tip, Pattern: "more", Paths: []string{path}}); err != nil || len(m) != 1 || m[0].Path != path || m[0].Text != "more" {
				t.Errorf("%q: matches %+v, %v", path, m, err)
			}
			if l, complete, err := w.LastModified(t.Context(), tip, "dir/"+name, nil); err != nil || !complete || l[name].OID != second {
				t.Errorf("%q: last modified %v, %v, %v", path, l, complete, err)
			}
			if p, _, err := w.Paths(t.Context(), PathQuery{Root: tip, Dir: "dir/" + name}); err != nil || !slices.Equal(p, []string{path}) {
				t.Errorf("%q: paths %q, %v", path, p, err)
			}
		}
	})
}

func TestKindsOfEntries(t *testing.T) {
	formats(t, func(t *testing.T, w *world) {
		sub := strings.Repeat("1", w.digits())
		long := strings.Repeat("x", 10_000)
		tip := w.commit("refs/heads/main", "x", nil, file("file", "f"), file("empty", ""), change{"run", "100755", "#!/bin/sh\n"},
			change{"link", "120000", "../a target"}, change{"longlink", "120000", long}, change{"sub", "160000", sub}, file("dir/x", "y"), file("dir.x", ""), file("binary", "a\x00b"))
		tree := must(w.Tree(t.Context(), tip, "/"))(t)
		want := []Entry{
			{Name: "dir", Mode: ModeDir, Type: TypeTree},
			{Name: "binary", Mode: ModeFile, Type: TypeBlob, Size: 3},
			{Name: "dir.x", Mode: ModeFile, Type: TypeBlob},
			{Name: "empty", Mode: ModeFile, Type: TypeBlob},
			{Name: "file", Mode: ModeFile, Type: TypeBlob, Size: 1},
			{Name: "link", Mode: ModeSymlink, Type: TypeBlob, Size: 11, Target: "../a target"},
			{Name: "longlink", Mode: ModeSymlink, Type: TypeBlob, Size: 10_000, Target: long[:4096]},
			{Name: "run", Mode: ModeExecutable, Type: TypeBlob, Size: 10},
			{Name: "sub", Mode: ModeSubmodule, Type: TypeCommit},
		}
		for i, e := range tree.Entries {
			if i >= len(want) {
				break
			}
			if oid := w.git("", "rev-parse", string(tip)+":"+e.Name); string(e.OID) != oid {
				t.Errorf("%s is %s, want %s", e.Name, e.OID, oid)
			}
			e.OID = ""
			if e != want[i] {
				t.Errorf("entry %d is %+v, want %+v", i, e, want[i])
			}
		}
		if len(tree.Entries) != len(want) || tree.Truncated || tree.OID != w.rev("main^{tree}") {
			t.Errorf("%d entries of %s", len(tree.Entries), tree.OID)
		}
		for path, want := range map[string]Entry{
			"":      {Mode: ModeDir, Type: TypeTree, OID: tree.OID},
			"dir/x": {Name: "x", Mode: ModeFile, Type: TypeBlob, Size: 1, OID: w.rev("main:dir/x")},
			"/dir/": {Name: "dir", Mode: ModeDir, Type: TypeTree, OID: w.rev("main:dir")},
			"sub":   {Name: "sub", Mode: ModeSubmodule, Type: TypeCommit, OID: cluster.OID(sub)},
		} {
			if e, err := w.Lookup(t.Context(), tip, path); err != nil || e != want {
				t.Errorf("%q: %+v, %v", path, e, err)
			}
		}
		if f, err := w.File(t.Context(), tip, "binary", 2); err != nil || !f.Binary || !f.Truncated || string(f.Data) != "a\x00" || f.Size != 3 {
			t.Errorf("binary: %+v, %v", f, err)
		}
		if f, err := w.File(t.Context(), tip, "empty", 100); err != nil || f.Binary || f.Truncated || len(f.Data) != 0 {
			t.Errorf("empty: %+v, %v", f, err)
		}
		for _, path := range []string{"dir", "sub", "", "nothing", "file/x", "dir/../file", "..", "dir//x", "./file", "a\x00b", strings.Repeat("x/", 3000), "sub/x"} {
			if f, err := w.File(t.Context(), tip, path, 100); !errors.Is(err, cluster.ErrNotFound) {
				t.Errorf("file %q: %+v, %v", path, f, err)
			}
		}
		for _, path := range []string{"file", "sub", "link", "nothing", ".."} {
			if f, err := w.Tree(t.Context(), tip, path); !errors.Is(err, cluster.ErrNotFound) {
				t.Errorf("tree %q: %+v, %v", path, f, err)
			}
		}
	})
}

// A root may be a commit, a tree, or tags of tags of one; never a blob or
// something that is not here.
func TestRoots(t *testing.T) {
	formats(t, func(t *testing.T, w *world) {
		tip := w.commit("refs/heads/main", "x", nil, file("a", "b"))
		w.git("", "tag", "-a", "-m", "t1", "t1", "main")
		w.git("", "tag", "-a", "-m", "t2", "t2", "t1")
		w.git("", "tag", "-a", "-m", "t3", "t3", "main^{tree}")
		for _, rev := range []string{"main", "main^{tree}", "t1", "t2", "t3"} {
			root := w.rev(rev)
			if f, err := w.File(t.Context(), root, "a", 10); err != nil || string(f.Data) != "b" {
				t.Errorf("%s: %+v, %v", rev, f, err)
			}
		}
		blob, none := w.rev("main:a"), cluster.OID(strings.Repeat("1", w.digits()))
		other := cluster.OID(strings.Repeat("1", 104-w.digits()))
		for _, root := range []cluster.OID{blob, none, other} {
			_, err1 := w.Tree(t.Context(), root, "")
			_, err2 := w.Stat(t.Context(), DiffQuery{New: root})
			_, _, err3 := w.Grep(t.Context(), GrepQuery{Root: root, Pattern: "x"})
			_, _, err4 := w.LastModified(t.Context(), root, "", nil)
			_, _, err5 := w.History(t.Context(), HistoryQuery{From: []cluster.OID{root}})
			_, err6 := w.Commit(t.Context(), root)
			_, err7 := w.MergeBase(t.Context(), root, tip)
			_, err8 := w.Blame(t.Context(), root, "a", 0, 0)
			_, _, err9 := w.Paths(t.Context(), PathQuery{Root: root})
			_, _, err10 := w.Refs(t.Context(), RefQuery{Contains: root})
			_, _, err11 := w.Count(t.Context(), tip, root)
			_, err12 := w.IsAncestor(t.Context(), tip, root)
			for i, err := range []error{err1, err2, err3, err4, err5, err6, err7, err8, err9, err10, err11, err12} {
				if !errors.Is(err, cluster.ErrNotFound) && !(root == blob && i == 2) {
					t.Errorf("%s, question %d: %v", root, i+1, err)
				}
			}
		}
		for _, bad := range []cluster.OID{"", "main", "HEAD", "--help", "-", cluster.OID(strings.Repeat("A", w.digits())), tip + "\n", tip + "^"} {
			_, err1 := w.Tree(t.Context(), bad, "")
			_, err2 := w.Diff(t.Context(), DiffQuery{Old: tip, New: bad})
			_, _, err3 := w.Grep(t.Context(), GrepQuery{Root: bad, Pattern: "x"})
			_, _, err4 := w.History(t.Context(), HistoryQuery{From: []cluster.OID{tip}, Not: []cluster.OID{bad}})
			_, err5 := w.Commits(t.Context(), []cluster.OID{bad})
			err6 := w.Raw(t.Context(), bad, &bytes.Buffer{})
			_, err7 := w.Blob(t.Context(), bad, 1)
			_, err8 := w.IsAncestor(t.Context(), bad, tip)
			for i, err := range []error{err1, err2, err3, err4, err5, err6, err7, err8} {
				if !errors.Is(err, ErrBadQuery) {
					t.Errorf("object id %q, question %d: %v", bad, i+1, err)
				}
			}
		}
	})
}

func TestLargeDirectory(t *testing.T) {
	w := newWorld(t, cluster.SHA1)
	var changes []change
	for i := range maxEntries + 5 {
		changes = append(changes, file(fmt.Sprintf("f%05d", i), "x"))
	}
	tip := w.commit("refs/heads/main", "many", nil, changes...)
	tree := must(w.Tree(t.Context(), tip, ""))(t)
	if len(tree.Entries) != maxEntries || !tree.Truncated || tree.Entries[maxEntries-1].Size != 1 {
		t.Errorf("%d entries, truncated = %v", len(tree.Entries), tree.Truncated)
	}
	var all []string
	for {
		paths, more, err := w.Paths(t.Context(), PathQuery{Root: tip, Match: "7", Offset: len(all), Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, paths...)
		if !more {
			break
		}
	}
	want := slices.DeleteFunc(slices.Clone(changes), func(c change) bool { return !strings.Contains(c.path, "7") })
	if len(all) != len(want) || all[len(all)-1] != want[len(want)-1].path {
		t.Errorf("%d paths, want %d", len(all), len(want))
	}
	if paths, more, err := w.Paths(t.Context(), PathQuery{Root: tip, Match: "F00", Limit: 2}); len(paths) != 0 || more || err != nil {
		t.Errorf("%q, %v, %v", paths, more, err)
	}
	if paths, more, err := w.Paths(t.Context(), PathQuery{Root: tip, Match: "F00", Fold: true, Limit: 2}); len(paths) != 2 || !more || err != nil {
		t.Errorf("%q, %v, %v", paths, more, err)
	}
}

func TestParseTree(t *testing.T) {
	hash := strings.Repeat("\xab", 20)
	good := "100644 a\x00" + hash + "40000 d\x00" + hash + "100664 old\x00" + hash + "100755 x\x00" + hash
	entries, ok := parseTree([]byte(good), 20)
	if !ok || len(entries) != 4 || entries[2].Mode != ModeFile || entries[3].Mode != ModeExecutable || entries[1].Mode != ModeDir || entries[0].OID != cluster.OID(strings.Repeat("ab", 20)) {
		t.Errorf("%+v, %v", entries, ok)
	}
	whole := 0
	for n := range len(good) {
		if _, ok := parseTree([]byte(good[:n]), 20); ok {
			whole++
		}
	}
	if whole != 4 {
		t.Errorf("%d beginnings of a tree of four entries were accepted, want those of 0, 1, 2 and 3 entries", whole)
	}
	for _, bad := range []string{"100648 a\x00" + hash, "x a\x00" + hash, "1006440000 a\x00" + hash, " a\x00" + hash, "100644 a", "100644"} {
		if e, ok := parseTree([]byte(bad), 20); ok {
			t.Errorf("%q was accepted as %+v", bad, e)
		}
	}
}
