package browse

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"gitcluster/internal/cluster"
)

// show writes a difference down in few words.
func show(d Diff) string {
	var s strings.Builder
	for _, f := range d.Files {
		fmt.Fprintf(&s, "%c %s", f.Status, f.OldPath)
		if f.NewPath != f.OldPath {
			fmt.Fprintf(&s, " → %s %d%%", f.NewPath, f.Similarity)
		}
		if f.OldMode != f.NewMode {
			fmt.Fprintf(&s, " %o→%o", f.OldMode, f.NewMode)
		}
		fmt.Fprintf(&s, " +%d -%d", f.Added, f.Removed)
		if f.Binary {
			s.WriteString(" binary")
		}
		if f.Truncated {
			s.WriteString(" truncated")
		}
		s.WriteString("\n")
		for _, h := range f.Hunks {
			fmt.Fprintf(&s, "@@ %d,%d %d,%d %s\n", h.OldStart, h.OldCount, h.NewStart, h.NewCount, h.Section)
			for _, l := range h.Lines {
				fmt.Fprintf(&s, "%d:%d %c%s", l.Old, l.New, l.Kind, l.Text)
				if l.NoEOL {
					s.WriteString("⊘")
				}
				s.WriteString("\n")
			}
		}
	}
	if d.Truncated {
		s.WriteString("truncated\n")
	}
	return s.String()
}

func TestDiff(t *testing.T) {
	formats(t, func(t *testing.T, w *world) {
		long := strings.Repeat("a line that stays\n", 30)
		sub := strings.Repeat("1", w.digits())
		first := w.commit("refs/heads/main", "first", nil, file("changed", "1\n2\n3\n4\n5\n6\n7\n8\n9\nfunc f() {\n11\n12\n13\n14\n15\n"),
			file("deleted", "gone\n"), file("old name", long), file("no end", "x"), file("crlf", "a\r\nb\r\n"), file("space", "a b\n"),
			file("binary", "a\x00b"), file("run", "x\n"), file("to link", "text\n"), change{"sub", "160000", sub}, file("fake", "x\n"), file("both", "x"))
		second := w.commit("refs/heads/main", "second", nil, file("changed", "1\n2\n3\n4\nFIVE\n6\n7\n8\n9\nfunc f() {\n11\n12\n13\n14\nfifteen\n"),
			gone("deleted"), gone("old name"), file("new name", long+"more\n"), file("no end", "x\n"), file("crlf", "a\r\nB\r\n"), file("space", "a  b\n"),
			file("binary", "a\x00c"), change{"run", "100755", "x\n"}, change{"to link", "120000", "target"}, change{"sub", "160000", strings.Repeat("2", w.digits())},
			file("fake", "--- a/x\n+++ b/x\n@@ -1 +1 @@\ndiff --git a/both b/both\n\\ No newline at end of file\n"), file("both", "y"), file("empty", ""), file("tab\there", "new"))
		d := must(w.Diff(t.Context(), DiffQuery{New: second, Context: 1}))(t)
		want := `M binary +0 -0 binary
M both +1 -1
@@ 1,1 1,1 
1:0 -x⊘
0:1 +y⊘
M changed +2 -2
@@ 4,3 4,3 
4:4  4
5:0 -5
0:5 +FIVE
6:6  6
@@ 14,2 14,2 func f() {
14:14  14
15:0 -15
0:15 +fifteen
M crlf +1 -1
@@ 1,2 1,2 
1:1  a` + "\r" + `
2:0 -b` + "\r" + `
0:2 +B` + "\r" + `
D deleted 100644→0 +0 -1
@@ 1,1 0,0 
1:0 -gone
A empty 0→100644 +0 -0
M fake +5 -1
@@ 1,1 1,5 
1:0 -x
0:1 +--- a/x
0:2 ++++ b/x
0:3 +@@ -1 +1 @@
0:4 +diff --git a/both b/both
0:5 +\ No newline at end of file
R old name → new name 99% +1 -0
@@ 30,1 30,2 a line that stays
30:30  a line that stays
0:31 +more
M no end +1 -1
@@ 1,1 1,1 
1:0 -x⊘
0:1 +x
M run 100644→100755 +0 -0
M space +1 -1
@@ 1,1 1,1 
1:0 -a b
0:1 +a  b
M sub +1 -1
@@ 1,1 1,1 
1:0 -Subproject commit ` + sub + `
0:1 +Subproject commit ` + strings.ReplaceAll(sub, "1", "2") + `
A tab	here 0→100644 +1 -0
@@ 0,0 1,1 
0:1 +new⊘
T to link 100644→120000 +1 -1
@@ 1,1 0,0 
1:0 -text
@@ 0,0 1,1 
0:1 +target⊘
`
		if got := show(d); got != want {
			t.Errorf("the difference is\n%s\nwant\n%s", got, want)
		}
		if d.Old != first || d.New != second || d.Added != 15 || d.Removed != 10 {
			t.Errorf("%s..%s +%d -%d", d.Old, d.New, d.Added, d.Removed)
		}
		if f := d.Files[4]; f.OldOID != w.rev(string(first)+":deleted") || !f.NewOID.IsZero() {
			t.Errorf("%+v", f)
		}
		// The numbers are the same without hunks.
		s := must(w.Stat(t.Context(), DiffQuery{New: second}))(t)
		for i := range d.Files {
			d.Files[i].Hunks = nil
		}
		if show(s) != show(d) || s.Added != d.Added || s.Removed != d.Removed {
			t.Errorf("the statistics are\n%s", show(s))
		}
		// What is ignored has no hunks, and hides nobody else's.
		d = must(w.Diff(t.Context(), DiffQuery{Old: first, New: second, IgnoreSpace: true, Context: -1, Paths: []string{"space", "run", "sub", "both"}}))(t)
		want = "M both +1 -1\n@@ 1,1 1,1 \n1:0 -x⊘\n0:1 +y⊘\nM run 100644→100755 +0 -0\nM space +0 -0\nM sub +1 -1\n@@ 1,1 1,1 \n1:0 -Subproject commit " + sub + "\n0:1 +Subproject commit " + strings.ReplaceAll(sub, "1", "2") + "\n"
		if got := show(d); got != want {
			t.Errorf("without space:\n%s, want\n%s", got, want)
		}
		// A first commit is compared with nothing, a tree with a tree.
		d = must(w.Diff(t.Context(), DiffQuery{New: first, Paths: []string{"deleted"}}))(t)
		if got := show(d); got != "A deleted 0→100644 +1 -0\n@@ 0,0 1,1 \n0:1 +gone\n" {
			t.Errorf("the first commit:\n%s", got)
		}
		d = must(w.Diff(t.Context(), DiffQuery{Old: w.rev(string(second) + "^{tree}"), New: w.rev(string(first) + "^{tree}"), Paths: []string{"deleted"}}))(t)
		if got := show(d); got != "A deleted 0→100644 +1 -0\n@@ 0,0 1,1 \n0:1 +gone\n" {
			t.Errorf("trees:\n%s", got)
		}
		if d := must(w.Diff(t.Context(), DiffQuery{Old: first, New: first}))(t); len(d.Files) != 0 || d.Truncated {
			t.Errorf("with itself: %+v", d)
		}
		if d := must(w.Diff(t.Context(), DiffQuery{Old: first, New: second, Paths: []string{"*"}}))(t); len(d.Files) != 0 {
			t.Errorf("a pattern is a name: %+v", d)
		}
	})
}

// What a limit cuts is said, and what is not cut is whole.
func TestDiffLimits(t *testing.T) {
	w := newWorld(t, cluster.SHA1)
	var changes []change
	for i := range 8 {
		changes = append(changes, file(fmt.Sprint("f", i), strings.Repeat("x\n", 10)))
	}
	changes = append(changes, file("long", strings.Repeat("y", 100_000)+"\nz"))
	tip := w.commit("refs/heads/main", "x", nil, changes...)
	d := must(w.Diff(t.Context(), DiffQuery{New: tip, MaxFiles: 3}))(t)
	if len(d.Files) != 3 || !d.Truncated || d.Added != 30 || d.Files[2].Truncated || len(d.Files[2].Hunks[0].Lines) != 10 {
		t.Errorf("three files: %s", show(d))
	}
	d = must(w.Diff(t.Context(), DiffQuery{New: tip, MaxLines: 4}))(t)
	for _, f := range d.Files[:8] {
		if !f.Truncated || f.Added != 10 || len(f.Hunks) != 1 || len(f.Hunks[0].Lines) != 4 || f.Hunks[0].NewCount != 10 {
			t.Errorf("four lines of a file: %+v", f)
		}
	}
	if f := d.Files[8]; f.Truncated || len(f.Hunks[0].Lines) != 2 || len(f.Hunks[0].Lines[0].Text) != maxText || !f.Hunks[0].Lines[0].Cut || f.Hunks[0].Lines[0].NoEOL || f.Hunks[0].Lines[1].Cut || !f.Hunks[0].Lines[1].NoEOL {
		t.Errorf("a long line: %d lines, truncated = %v", len(f.Hunks[0].Lines), f.Truncated)
	}
	d = must(w.Diff(t.Context(), DiffQuery{New: tip, MaxTotal: 25}))(t)
	for i, f := range d.Files {
		lines := 0
		for _, h := range f.Hunks {
			lines += len(h.Lines)
		}
		want := []int{10, 10, 5, 0, 0, 0, 0, 0, 0}[i]
		if lines != want || f.Truncated != (i >= 2) {
			t.Errorf("file %d: %d lines, truncated = %v", i, lines, f.Truncated)
		}
	}
	whole := w.git("", "diff-tree", "-p", "--root", "--no-commit-id", "--full-index", string(tip)) + "\n"
	text, cut, err := w.RawDiff(t.Context(), DiffQuery{New: tip}, 1<<20)
	if err != nil || cut || string(text) != whole {
		t.Errorf("raw: %d of %d bytes, %v, %v", len(text), len(whole), cut, err)
	}
	if text, cut, err := w.RawDiff(t.Context(), DiffQuery{New: tip}, 100); err != nil || !cut || string(text) != whole[:100] {
		t.Errorf("raw: %q, %v, %v", text, cut, err)
	}
}

// A raw difference is one that Git applies, whatever the names.
func TestRawDiffApplies(t *testing.T) {
	w := newWorld(t, cluster.SHA1)
	var before, after []change
	for _, name := range hostile {
		before = append(before, file("d/"+name, "1\n2\n3\n"))
		after = append(after, file("d/"+name, "1\ntwo\n3\n"))
	}
	one := w.commit("refs/heads/main", "x", nil, before...)
	two := w.commit("refs/heads/main", "y", nil, after...)
	text, _, err := w.RawDiff(t.Context(), DiffQuery{Old: one, New: two}, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	w.git("", "read-tree", string(one))
	w.git(string(text), "apply", "--cached")
	if got := w.git("", "write-tree"); got != string(w.rev(string(two)+"^{tree}")) {
		t.Error("the difference does not lead to the second commit")
	}
}

// What a pusher can put into a repository runs nothing and hides nothing.
func TestAttributesRunNothing(t *testing.T) {
	w := newWorld(t, cluster.SHA1)
	mark := t.TempDir() + "/ran"
	one := w.commit("refs/heads/main", "x", nil, file(".gitattributes", "* diff=evil filter=evil -text working-tree-encoding=UTF-16\nbinary binary\n"), file("a", "1\n"), file("binary", "1\n"),
		file(".gitconfig", "[diff \"evil\"]\n\tcommand = touch "+mark+"\n"), file(".gitmodules", "[submodule \"x\"]\n\tpath = x\n\tupdate = !touch "+mark+"\n\turl = ext::touch "+mark+"\n"))
	two := w.commit("refs/heads/main", "y", nil, file("a", "2\n"), file("binary", "2\n"))
	// Even if the repository's own configuration had fallen to somebody.
	for _, setting := range []string{"diff.external", "diff.evil.command", "diff.evil.textconv", "filter.evil.smudge", "filter.evil.clean", "core.pager", "core.fsmonitor"} {
		w.git("", "config", setting, "touch "+mark+" #")
	}
	program := w.home + "/gpg"
	if err := os.WriteFile(program, []byte("#!/bin/sh\ntouch "+mark+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.git("", "config", "gpg.program", program)
	w.git("", "config", "log.showSignature", "true")
	w.git("", "config", "diff.evil.cachetextconv", "true")
	if err := os.WriteFile(filepath.Join(w.dir, "info", "attributes"), []byte("* diff=evil filter=evil\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	signed := cluster.OID(w.git("tree "+string(w.rev("main^{tree}"))+"\nparent "+string(two)+"\nauthor a <a> 1 +0000\ncommitter a <a> 1 +0000\n"+
		"gpgsig -----BEGIN PGP SIGNATURE-----\n x\n -----END PGP SIGNATURE-----\n\nsigned\n", "hash-object", "-t", "commit", "-w", "--stdin"))
	if c := must(w.Commit(t.Context(), signed))(t); c.Message != "signed\n" {
		t.Errorf("%+v", c)
	}
	d := must(w.Diff(t.Context(), DiffQuery{Old: one, New: two}))(t)
	if len(d.Files) != 2 || d.Added != 2 {
		t.Errorf("%s", show(d))
	}
	must(w.Blame(t.Context(), two, "a", 0, 0))(t)
	must(w.File(t.Context(), two, "a", 10))(t)
	must(w.Commits(t.Context(), []cluster.OID{one, two}))(t)
	if m, _, err := w.Grep(t.Context(), GrepQuery{Root: two, Pattern: "2", Paths: []string{"a", "binary"}}); err != nil || len(m) != 2 {
		t.Errorf("%+v, %v", m, err)
	}
	if _, _, err := w.RawDiff(t.Context(), DiffQuery{New: two}, 1000); err != nil {
		t.Error(err)
	}
	if _, _, err := w.LastModified(t.Context(), two, "", nil); err != nil {
		t.Error(err)
	}
	if err := w.Raw(t.Context(), w.rev("main:a"), &bytes.Buffer{}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("a program named in the repository was run")
	}
}

// A history that was replaced or grafted on this disk is shown as it was pushed.
func TestNoOtherHistory(t *testing.T) {
	w := newWorld(t, cluster.SHA1)
	one := w.commit("refs/heads/main", "one", nil, file("a", "1\n"))
	two := w.commit("refs/heads/main", "two", nil, file("a", "2\n"))
	other := w.commit("refs/heads/other", "other", nil, file("b", "2\n"))
	w.git("", "replace", string(two), string(other))
	if c, _, err := w.History(t.Context(), HistoryQuery{From: []cluster.OID{two}}); err != nil || !slices.Equal(oids(c), []cluster.OID{two, one}) {
		t.Errorf("%v, %v", oids(c), err)
	}
	if f, err := w.File(t.Context(), two, "a", 10); err != nil || string(f.Data) != "2\n" {
		t.Errorf("%q, %v", f.Data, err)
	}
}

func TestGrep(t *testing.T) {
	formats(t, func(t *testing.T, w *world) {
		tip := w.commit("refs/heads/main", "x", nil, file("a", "one\nTwo\nthree two\n"), file("d/b", "a.c\nabc\n-e x\n\xff two\n"), file("binary", "two\x00"),
			file("long", strings.Repeat("x", 5000)+"two"), change{"link", "120000", "two"})
		for name, c := range map[string]struct {
			q    GrepQuery
			want []string
			more bool
		}{
			"text":        {GrepQuery{Pattern: "a.c"}, []string{"d/b:1:a.c"}, false},
			"regexp":      {GrepQuery{Pattern: "^a.c$", Regexp: true}, []string{"d/b:1:a.c", "d/b:2:abc"}, false},
			"any case":    {GrepQuery{Pattern: "TWO", IgnoreCase: true, Paths: []string{"a"}}, []string{"a:2:Two", "a:3:three two"}, false},
			"an option":   {GrepQuery{Pattern: "-e x"}, []string{"d/b:3:-e x"}, false},
			"--help":      {GrepQuery{Pattern: "--help"}, nil, false},
			"a folder":    {GrepQuery{Pattern: "two", Paths: []string{"d"}}, []string{"d/b:4:\xff two"}, false},
			"first":       {GrepQuery{Pattern: "o", Limit: 1}, []string{"a:1:one"}, true},
			"second":      {GrepQuery{Pattern: "o", Limit: 1, Offset: 1}, []string{"a:2:Two"}, true},
			"behind":      {GrepQuery{Pattern: "one", Offset: 1}, nil, false},
			"nothing":     {GrepQuery{Pattern: "nowhere"}, nil, false},
			"long line":   {GrepQuery{Pattern: "two", Paths: []string{"long"}}, []string{"long:1:" + strings.Repeat("x", 1024)}, false},
			"alternation": {GrepQuery{Pattern: "(one|abc)", Regexp: true}, []string{"a:1:one", "d/b:2:abc"}, false},
			"no magic":    {GrepQuery{Pattern: "two", Paths: []string{":(glob)**"}}, nil, false},
		} {
			c.q.Root = tip
			matches, more, err := w.Grep(t.Context(), c.q)
			var got []string
			for _, m := range matches {
				got = append(got, fmt.Sprintf("%s:%d:%s", m.Path, m.Line, m.Text))
			}
			if err != nil || more != c.more || !slices.Equal(got, c.want) {
				t.Errorf("%s: %q, more = %v, %v", name, got, more, err)
			}
		}
		for _, q := range []GrepQuery{{Pattern: ""}, {Pattern: "["}, {Pattern: "(", Regexp: true}, {Pattern: "a\x00b"}, {Pattern: strings.Repeat("x", 5000)}, {Pattern: "x", Offset: -1}} {
			q.Root = tip
			q.Regexp = q.Regexp || q.Pattern == "["
			if _, _, err := w.Grep(t.Context(), q); !errors.Is(err, ErrBadQuery) {
				t.Errorf("%q: %v", q.Pattern, err)
			}
		}
	})
}

func TestQuote(t *testing.T) {
	for path, want := range map[string]string{"a b": "a b", "ü\xff": "ü\xff", "a\nb": `"a\nb"`, `q"`: `"q\""`, `b\`: `"b\\"`, "\x01\x1b\x7f": `"\001\033\177"`, "'": "'"} {
		if got := quote(path); got != want {
			t.Errorf("%q is quoted %s, want %s", path, got, want)
		}
		if got := unquote(want); got != path {
			t.Errorf("%s is unquoted %q, want %q", want, got, path)
		}
	}
	for _, s := range []string{`"`, `"\`, `"\"`, `"\4"`, `"\777"`, `"x`, `\n`, ``} {
		unquote(s)
	}
}

// A difference that ends too early, or is none, is an error and not a shorter one.
func TestMalformedPatch(t *testing.T) {
	const head = ":100644 100644 1 2 M\x00f\x001\t1\tf\x00\x00"
	good := head + "diff --git a/f b/f\nindex 1..2 100644\n--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+b\n"
	read := func(s string) (Diff, error) {
		p := parser{hunks: true, maxFiles: 10, maxLines: 10, room: 10, bytes: 1000}
		err := p.read(newReader(s))
		return p.diff, err
	}
	if d, err := read(good); err != nil || len(d.Files) != 1 || len(d.Files[0].Hunks) != 1 {
		t.Errorf("%+v, %v", d, err)
	}
	for _, bad := range []string{
		good[:len(good)-1], good[:len(good)-3], good[:len(good)-5], ":100644\x00", ":1 2 3 4 M\x00f", head[:len(head)-4],
		head + "diff --git a/f b/f\n@@ -x +1 @@\n", head + "diff --git a/f b/f\n@@ -1 +1\n", head + "diff --git a/f b/f\n@@ -1,-5 +1 @@\n", head + "diff --git a/f b/f\n@@ -1 +1 @@\n?a\n",
	} {
		if d, err := read(bad); err == nil {
			t.Errorf("%q: %s", bad, show(d))
		}
	}
}

func FuzzParser(f *testing.F) {
	f.Add(":100644 100644 1 2 M\x00f\x001\t1\tf\x00\x00diff --git a/f b/f\n@@ -1 +1 @@\n-a\n+b\n\\ No newline\n")
	f.Add(":100644 100644 1 2 R90\x00f\x00g\x00-\t-\t\x00f\x00g\x00\x00")
	f.Fuzz(func(t *testing.T, s string) {
		p := parser{hunks: true, maxFiles: 10, maxLines: 10, room: 20, bytes: 1000}
		p.read(newReader(s))
		lines := 0
		for _, file := range p.diff.Files {
			for _, h := range file.Hunks {
				lines += len(h.Lines)
			}
		}
		if len(p.diff.Files) > 10 || lines > 20 {
			t.Errorf("%d files with %d lines", len(p.diff.Files), lines)
		}
		unquote(s)
		parseTree([]byte(s), 20)
		readBlame(newReader(s))
		readMatch(newReader(s), 3)
		readCommit(newReader(s), 100)
		(&walk{wanted: map[string]Entry{"a": {}}, last: map[string]Commit{}}).read(newReader(s))
		date(s)
	})
}

// TestWideLines has few lines, and each is so long that all of them would fill a node's memory.
func TestWideLines(t *testing.T) {
	w := newWorld(t, cluster.SHA1)
	wide := strings.Repeat(strings.Repeat("\x01", maxText-1)+"\n", 1500)
	commit := w.commit("refs/heads/main", "wide", nil, file("a", wide), file("b", "b\n"))
	d := must(w.Diff(t.Context(), DiffQuery{New: commit}))(t)
	bytes := 0
	for _, f := range d.Files {
		if !f.Truncated || f.Added == 0 {
			t.Errorf("%s: truncated = %v, %d lines added", f.NewPath, f.Truncated, f.Added)
		}
		for _, h := range f.Hunks {
			for _, l := range h.Lines {
				bytes += len(l.Text)
			}
		}
	}
	if bytes == 0 || bytes > maxPatch+maxText {
		t.Errorf("%d bytes of lines", bytes)
	}
}

// TestGreedyPattern is a pattern of which the C library would make an automaton of many
// gigabytes.
func TestGreedyPattern(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("nothing bounds the memory of a process here")
	}
	w := newWorld(t, cluster.SHA1)
	commit := w.commit("refs/heads/main", "x", nil, file("a", "x\n"))
	_, _, err := w.Grep(t.Context(), GrepQuery{Root: commit, Pattern: "((x{1,255}){1,255}){1,255}", Regexp: true})
	if !errors.Is(err, ErrBadQuery) {
		t.Errorf("error %v", err)
	}
}
