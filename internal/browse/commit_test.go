package browse

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitexec"
)

func oids(commits []Commit) (oids []cluster.OID) {
	for _, c := range commits {
		oids = append(oids, c.OID)
	}
	return oids
}

func TestCommit(t *testing.T) {
	formats(t, func(t *testing.T, w *world) {
		plain := w.commit("refs/heads/main", "\n\nA subject\nin two lines\n\nThe text.\n", nil, file("a", "1"))
		c := must(w.Commit(t.Context(), plain))(t)
		if c.OID != plain || c.Tree != w.rev("main^{tree}") || len(c.Parents) != 0 || c.Subject != "A subject in two lines" || !strings.Contains(c.Message, "The text.") || c.Truncated {
			t.Errorf("%+v", c)
		}
		if c.Author.Name != "A U Thor" || c.Author.Email != "author@example.com" || c.Committer.Name != "C O Mitter" || c.Author.When.Format(time.RFC3339) != "2017-07-14T05:40:00+02:00" {
			t.Errorf("%+v by %+v", c.Author, c.Committer)
		}
		// A mailmap is contents like any other.
		other := w.commit("refs/heads/main", "x", nil, file(".mailmap", "Somebody Else <else@example.com> <author@example.com>\n"))
		if c := must(w.Commit(t.Context(), other))(t); c.Author.Name != "A U Thor" || !slices.Equal(c.Parents, []cluster.OID{plain}) {
			t.Errorf("%+v", c)
		}

		raw := func(header, message string) cluster.OID {
			return cluster.OID(w.git("tree "+string(c.Tree)+"\n"+header+"\n"+message, "hash-object", "-t", "commit", "--literally", "-w", "--stdin"))
		}
		by := func(author string) string { return "author " + author + "\ncommitter " + author + "\n" }
		const who = "J\xfcrgen <j@example.com> 1500000000 +0100"
		latin := must(w.Commit(t.Context(), raw(by(who)+"encoding ISO-8859-1\n", "Stra\xdfe\n\n\xe9t\xe9\n")))(t)
		if latin.Author.Name != "Jürgen" || latin.Subject != "Straße" || latin.Message != "Straße\n\nété\n" {
			t.Errorf("latin1: %+v", latin)
		}
		for name, oid := range map[string]cluster.OID{
			"latin1 unannounced": raw(by(who), "Stra\xdfe\n"),
			"unknown encoding":   raw(by(who)+"encoding x-nobody-knows\n", "Stra\xdfe\n"),
		} {
			if c := must(w.Commit(t.Context(), oid))(t); !utf8.ValidString(c.Message+c.Subject+c.Author.Name) || c.Subject != "Stra\ufffde" || c.Author.Name != "J\ufffdrgen" {
				t.Errorf("%s: %+v", name, c)
			}
		}
		for name, author := range map[string]string{"no name": " <> 0 +0000", "no date": "x <y>", "a wild date": "x <y> 99999999999999999999 +0000", "a wild zone": "x <y> 1500000000 +9999"} {
			c, err := w.Commit(t.Context(), raw(by(author), "s\n"))
			if err != nil || c.Subject != "s" || name == "no name" && (c.Author.Name != "" || c.Author.Email != "") {
				t.Errorf("%s: %+v, %v", name, c, err)
			}
		}
		if c := must(w.Commit(t.Context(), raw(by("x <y> 1 +0000"), "")))(t); c.Subject != "" || c.Message != "" {
			t.Errorf("no message: %+v", c)
		}
		if c := must(w.Commit(t.Context(), raw(by("x <y> 1 +0000"), "subject\r\n\r\ntext\r\n")))(t); strings.ContainsAny(c.Subject, "\r\n") {
			t.Errorf("line ends of another system: %q", c.Subject)
		}
		long := must(w.Commit(t.Context(), raw(by(strings.Repeat("n", 5000)+" <y> 1 +0000"), strings.Repeat("ü", maxMessage))))(t)
		if !long.Truncated || len(long.Message) > maxMessage+3 || len(long.Subject) > 1030 || !utf8.ValidString(long.Subject) || len(long.Author.Name) > 1024 {
			t.Errorf("a long message: %d bytes, subject of %d, name of %d", len(long.Message), len(long.Subject), len(long.Author.Name))
		}
		// Asked for together and twice, in the order asked for.
		order := []cluster.OID{other, plain, other, long.OID}
		if all, err := w.Commits(t.Context(), order); err != nil || !slices.Equal(oids(all), order) {
			t.Errorf("%v, %v", oids(all), err)
		}
		w.git("", "tag", "-a", "-m", "x", "t", "main")
		for _, bad := range []cluster.OID{w.rev("t^{tag}"), c.Tree, cluster.OID(strings.Repeat("1", w.digits()))} {
			if all, err := w.Commits(t.Context(), []cluster.OID{plain, bad}); !errors.Is(err, cluster.ErrNotFound) {
				t.Errorf("%s: %v, %v", bad, all, err)
			}
		}
		if all, err := w.Commits(t.Context(), nil); len(all) != 0 || err != nil {
			t.Errorf("%v, %v", all, err)
		}
	})
}

// merged is main with a branch merged into it:
//
//	base ─ ours ─ merge ─ tip
//	    └ theirs1 ─ theirs2 ┘
func merged(w *world) (base, ours, theirs1, theirs2, merge, tip cluster.OID) {
	base = w.commit("refs/heads/main", "base", nil, file("d/a", "1\n"), file("d/b", "1\n"), file("d/c", "1\n"), file("top", "1\n"))
	theirs1 = w.commit("refs/heads/side", "theirs one", []cluster.OID{base}, file("d/a", "2\n"))
	ours = w.commit("refs/heads/main", "Ours", nil, file("d/b", "2\n"), file("d/c", "ours\n"))
	theirs2 = w.commit("refs/heads/side", "theirs two", nil, file("d/c", "theirs\n"))
	merge = w.commit("refs/heads/main", "merge", []cluster.OID{ours, theirs2}, file("d/a", "2\n"), file("d/c", "ours\n"), file("d/evil", "made by the merge\n"))
	tip = w.commit("refs/heads/main", "tip", nil, file("top", "2\n"))
	return
}

func TestHistory(t *testing.T) {
	formats(t, func(t *testing.T, w *world) {
		base, ours, theirs1, theirs2, merge, tip := merged(w)
		all := []cluster.OID{tip, merge, theirs2, ours, theirs1, base}
		from := []cluster.OID{tip}
		for name, c := range map[string]struct {
			q    HistoryQuery
			want []cluster.OID
			more bool
		}{
			"all":          {HistoryQuery{From: from}, all, false},
			"first page":   {HistoryQuery{From: from, Limit: 2}, all[:2], true},
			"second page":  {HistoryQuery{From: from, Limit: 2, Offset: 2}, all[2:4], true},
			"last page":    {HistoryQuery{From: from, Limit: 2, Offset: 4}, all[4:], false},
			"behind":       {HistoryQuery{From: from, Offset: 6}, nil, false},
			"first parent": {HistoryQuery{From: from, FirstParent: true}, []cluster.OID{tip, merge, ours, base}, false},
			"no merges":    {HistoryQuery{From: from, NoMerges: true}, []cluster.OID{tip, theirs2, ours, theirs1, base}, false},
			"without":      {HistoryQuery{From: from, Not: []cluster.OID{theirs2}}, []cluster.OID{tip, merge, ours}, false},
			"two tips":     {HistoryQuery{From: []cluster.OID{ours, theirs1}}, []cluster.OID{ours, theirs1, base}, false},
			"a file":       {HistoryQuery{From: from, Paths: []string{"d/a"}}, []cluster.OID{theirs1, base}, false},
			"a folder":     {HistoryQuery{From: from, Paths: []string{"d/"}}, all[1:], false},
			"the top":      {HistoryQuery{From: from, Paths: []string{"top", ""}}, all, false},
			"two files":    {HistoryQuery{From: from, Paths: []string{"d/a", "top"}}, []cluster.OID{tip, theirs1, base}, false},
			"no such file": {HistoryQuery{From: from, Paths: []string{"nothing"}}, nil, false},
			"a pattern":    {HistoryQuery{From: from, Paths: []string{"d/*"}}, nil, false},
			"magic":        {HistoryQuery{From: from, Paths: []string{":(glob)**"}}, nil, false},
			"message":      {HistoryQuery{From: from, Grep: "THEIRS"}, []cluster.OID{theirs2, theirs1}, false},
			"no regexp":    {HistoryQuery{From: from, Grep: "t.*s"}, nil, false},
			"author":       {HistoryQuery{From: from, Author: "a u thor <AUTHOR@"}, all, false},
			"nobody":       {HistoryQuery{From: from, Author: "--all"}, nil, false},
			"both":         {HistoryQuery{From: from, Author: "thor", Grep: "tip"}, all[:1], false},
			"since":        {HistoryQuery{From: from, Since: time.Unix(1_500_000_000+3600*5, 0)}, all[:2], false},
			"until":        {HistoryQuery{From: from, Until: time.Unix(1_500_000_000+3600*2, 0)}, all[4:], false},
		} {
			got, more, err := w.History(t.Context(), c.q)
			if err != nil || more != c.more || !slices.Equal(oids(got), c.want) {
				var subjects []string
				for _, g := range got {
					subjects = append(subjects, g.Subject)
				}
				t.Errorf("%s: %q, more = %v, %v", name, subjects, more, err)
			}
		}
		for _, path := range []string{"..", "d/../top", "./top", "d//a", "a\x00b", strings.Repeat("x/", 3000) + "x"} {
			if _, _, err := w.History(t.Context(), HistoryQuery{From: from, Paths: []string{path}}); !errors.Is(err, cluster.ErrNotFound) {
				t.Errorf("%.20q: %v", path, err)
			}
		}
		if got, more, err := w.MergedCommits(t.Context(), merge, 0); err != nil || more || !slices.Equal(oids(got), []cluster.OID{theirs2, theirs1}) {
			t.Errorf("merged: %v, %v, %v", oids(got), more, err)
		}
		if got, more, err := w.MergedCommits(t.Context(), merge, 1); err != nil || !more || len(got) != 1 {
			t.Errorf("merged: %v, %v, %v", oids(got), more, err)
		}
		if got, _, err := w.MergedCommits(t.Context(), tip, 0); err != nil || len(got) != 0 {
			t.Errorf("merged by no merge: %v, %v", oids(got), err)
		}
		if got, err := w.MergeBase(t.Context(), ours, theirs2); err != nil || got != base {
			t.Errorf("merge base %s, %v", got, err)
		}
		lonely := w.commit("refs/heads/lonely", "x", nil, file("x", "y"))
		if got, err := w.MergeBase(t.Context(), tip, lonely); !errors.Is(err, cluster.ErrNotFound) {
			t.Errorf("merge base of nothing: %s, %v", got, err)
		}
		for _, c := range []struct {
			old, new cluster.OID
			want     bool
		}{{base, tip, true}, {tip, base, false}, {tip, tip, true}, {lonely, tip, false}, {theirs1, tip, true}} {
			if got, err := w.IsAncestor(t.Context(), c.old, c.new); err != nil || got != c.want {
				t.Errorf("%s is an ancestor of %s: %v, %v", c.old, c.new, got, err)
			}
		}
		if n, m, err := w.Count(t.Context(), ours, theirs2); n != 1 || m != 2 || err != nil {
			t.Errorf("counted %d, %d, %v", n, m, err)
		}
		none := strings.Repeat("1", w.digits())
		kinds, err := w.Exists(t.Context(), []string{string(tip), none, "main", "", "x\ny", string(w.rev("main:top")), string(tip) + "\ncontents " + string(tip)})
		if err != nil || len(kinds) != 2 || kinds[tip] != TypeCommit || kinds[w.rev("main:top")] != TypeBlob {
			t.Errorf("there are %v, %v", kinds, err)
		}
		for name, q := range map[string]HistoryQuery{
			"from nowhere": {}, "negative": {From: from, Offset: -1}, "far": {From: from, Offset: maxOffset + 1}, "follow all": {From: from, Follow: true},
			"follow two": {From: from, Follow: true, Paths: []string{"a", "b"}}, "NUL": {From: from, Grep: "a\x00b"}, "long": {From: from, Author: strings.Repeat("x", 5000)},
			"many paths": {From: from, Paths: slices.Repeat([]string{"x"}, 101)}, "many tips": {From: slices.Repeat(from, 101)},
		} {
			if _, _, err := w.History(t.Context(), q); !errors.Is(err, ErrBadQuery) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestFollow(t *testing.T) {
	w := newWorld(t, cluster.SHA1)
	text := strings.Repeat("some lines\nof text\n", 20)
	first := w.commit("refs/heads/main", "first", nil, file("old name", text))
	second := w.commit("refs/heads/main", "renamed", nil, gone("old name"), file("new\nname", text))
	third := w.commit("refs/heads/main", "third", nil, file("new\nname", text+"more\n"), file("x", "y"))
	q := HistoryQuery{From: []cluster.OID{third}, Paths: []string{"new\nname"}, Follow: true}
	if got, more, err := w.History(t.Context(), q); err != nil || more || !slices.Equal(oids(got), []cluster.OID{third, second, first}) {
		t.Errorf("%v, %v, %v", oids(got), more, err)
	}
	q.Follow = false
	if got, _, err := w.History(t.Context(), q); err != nil || !slices.Equal(oids(got), []cluster.OID{third, second}) {
		t.Errorf("%v, %v", oids(got), err)
	}
}

// The last commit of an entry is the one whose contents are there now, whatever
// other branches and merges did.
func TestLastModified(t *testing.T) {
	formats(t, func(t *testing.T, w *world) {
		base, ours, theirs1, theirs2, merge, tip := merged(w)
		_ = base
		for _, c := range []struct {
			dir   string
			names []string
			want  map[string]cluster.OID
		}{
			// theirs2 changed d/c later than ours, but the merge threw that away.
			{"d", nil, map[string]cluster.OID{"a": theirs1, "b": ours, "c": ours, "evil": merge}},
			{"/d/", []string{"b"}, map[string]cluster.OID{"b": ours}},
			{"", []string{"top"}, map[string]cluster.OID{"top": tip}},
			{"", nil, map[string]cluster.OID{"top": tip, "d": merge}},
		} {
			got, complete, err := w.LastModified(t.Context(), tip, c.dir, c.names)
			if err != nil || !complete || len(got) != len(c.want) {
				t.Errorf("%q: %d of %d, complete = %v, %v", c.dir, len(got), len(c.want), complete, err)
			}
			for name, commit := range got {
				if commit.OID != c.want[name] {
					t.Errorf("%s in %q was last modified by %q", name, c.dir, commit.Subject)
				}
			}
		}
		for _, c := range []struct{ dir, name string }{{"nothing", ""}, {"top", ""}, {"d", "nothing"}, {"d", "../top"}, {"d", "a/"}} {
			var names []string
			if c.name != "" {
				names = append(names, c.name)
			}
			if got, _, err := w.LastModified(t.Context(), tip, c.dir, names); !errors.Is(err, cluster.ErrNotFound) {
				t.Errorf("%q in %q: %v, %v", c.name, c.dir, got, err)
			}
		}
		// A walk that is cut short says so, also when it is remembered.
		w.browser.maxWalk = time.Nanosecond
		for range 2 {
			if got, complete, err := w.LastModified(t.Context(), theirs2, "d", nil); err != nil || complete || len(got) != 0 {
				t.Errorf("cut short: %v, %v, %v", got, complete, err)
			}
		}
		w.browser.maxWalk = time.Minute
		if _, complete, err := w.LastModified(t.Context(), tip, "d", nil); err != nil || !complete {
			t.Errorf("remembered: %v, %v", complete, err)
		}
		w.browser.walks.known[1].until = time.Now()
		if got, complete, err := w.LastModified(t.Context(), theirs2, "d", nil); err != nil || !complete || got["c"].OID != theirs2 {
			t.Errorf("asked again: %v, %v, %v", got, complete, err)
		}
	})
}

func TestBlame(t *testing.T) {
	formats(t, func(t *testing.T, w *world) {
		first := w.commit("refs/heads/main", "first", nil, file("old", "1\n2\n3\n4\n5\n6\n7\n8\n"))
		second := w.commit("refs/heads/main", "second", nil, gone("old"), file("new", "0\n1\n2\n3\nfour\n5\n6\n7\n8"))
		w.commit("refs/heads/main", "third", nil, file("empty", ""), change{"link", "120000", "x"})
		tip := w.rev("main")
		type hunk struct {
			commit                cluster.OID
			path                  string
			line, original, count int
		}
		ask := func(from, to int) (got []hunk) {
			t.Helper()
			for _, h := range must(w.Blame(t.Context(), tip, "new", from, to))(t) {
				if h.Commit.Author.Name != "A U Thor" || h.Commit.Subject == "" {
					t.Errorf("the commit is not filled in: %+v", h)
				}
				got = append(got, hunk{h.Commit.OID, h.Path, h.Line, h.Original, h.Count})
			}
			return got
		}
		want := []hunk{{second, "new", 1, 1, 1}, {first, "old", 2, 1, 3}, {second, "new", 5, 5, 1}, {first, "old", 6, 5, 3}, {second, "new", 9, 9, 1}}
		if got := ask(0, 0); !slices.Equal(got, want) {
			t.Errorf("%+v, want %+v", got, want)
		}
		if got := ask(3, 5); !slices.Equal(got, []hunk{{first, "old", 3, 2, 2}, {second, "new", 5, 5, 1}}) {
			t.Errorf("lines 3 to 5: %+v", got)
		}
		if got := ask(9, 5000); !slices.Equal(got, want[4:]) {
			t.Errorf("lines from 9: %+v", got)
		}
		if got := ask(10, 20); got != nil {
			t.Errorf("behind the end: %+v", got)
		}
		if got, err := w.Blame(t.Context(), tip, "empty", 0, 0); err != nil || len(got) != 0 {
			t.Errorf("an empty file: %+v, %v", got, err)
		}
		for _, path := range []string{"nothing", "", "..", "new/x"} {
			if got, err := w.Blame(t.Context(), tip, path, 0, 0); !errors.Is(err, cluster.ErrNotFound) {
				t.Errorf("%q: %+v, %v", path, got, err)
			}
		}
		for _, r := range [][2]int{{5, 4}, {1, 10_001}} {
			if _, err := w.Blame(t.Context(), tip, "new", r[0], r[1]); !errors.Is(err, ErrBadQuery) {
				t.Errorf("lines %v: %v", r, err)
			}
		}
	})
}

// linear is a history of n commits, made at once.
func linear(w *world, n, files int) {
	var s strings.Builder
	for i := range n {
		message := fmt.Sprintf("commit %d", i)
		fmt.Fprintf(&s, "commit refs/heads/main\nmark :%d\nauthor a <a@example.com> %d +0000\ncommitter a <a@example.com> %d +0000\ndata %d\n%s\n",
			i+1, 1_500_000_000+i, 1_500_000_000+i, len(message), message)
		if i > 0 {
			fmt.Fprintf(&s, "from :%d\n", i)
		}
		for k := range files {
			if i == 0 || (i*7919+k)%files == 0 {
				data := fmt.Sprintf("version %d of %d\n", i, k) + strings.Repeat(fmt.Sprintf("a line of file %d\n", k), 40)
				fmt.Fprintf(&s, "M 100644 inline dir%02d/file%04d\ndata %d\n%s\n", k%50, k, len(data), data)
			}
		}
	}
	w.git(s.String(), "fast-import", "--quiet")
}

// Pages of a long history fit together, and none reads more of it than it must.
func TestLongHistory(t *testing.T) {
	w := newWorld(t, cluster.SHA1)
	const n = 3000
	linear(w, n, 60)
	tip := w.rev("main")
	var all []Commit
	for {
		page, more, err := w.History(t.Context(), HistoryQuery{From: []cluster.OID{tip}, Offset: len(all), Limit: 700})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page...)
		if !more {
			break
		}
		if len(page) != 700 {
			t.Fatalf("a page of %d", len(page))
		}
	}
	if len(all) != n {
		t.Fatalf("%d commits, want %d", len(all), n)
	}
	for i, c := range all {
		if want := fmt.Sprintf("commit %d", n-1-i); c.Subject != want {
			t.Fatalf("commit %d is %q, want %q", i, c.Subject, want)
		}
	}
	if page, more, err := w.History(t.Context(), HistoryQuery{From: []cluster.OID{tip}, Limit: 5000}); err != nil || len(page) != maxLimit || !more {
		t.Errorf("%d commits at once, %v, %v", len(page), more, err)
	}
	if n, m, err := w.Count(t.Context(), tip, all[n-1].OID); n != 2999 || m != 0 || err != nil {
		t.Errorf("counted %d, %d, %v", n, m, err)
	}
}

// Time that is over ends a question, and the process with it.
func TestTimeIsBounded(t *testing.T) {
	w := newWorld(t, cluster.SHA1)
	linear(w, 300, 60)
	tip := w.rev("main")
	b := New(&gitexec.Runner{})
	b.maxTime = time.Nanosecond
	r := b.Open(w.dir, w.format)
	_, _, err1 := r.History(t.Context(), HistoryQuery{From: []cluster.OID{tip}})
	_, err2 := r.Tree(t.Context(), tip, "")
	_, err3 := r.Diff(t.Context(), DiffQuery{New: tip})
	_, _, err4 := r.Refs(t.Context(), RefQuery{})
	_, err5 := r.Resolve(t.Context(), "main")
	_, err6 := r.File(t.Context(), tip, "dir00/file0000", 10)
	_, _, err7 := r.Grep(t.Context(), GrepQuery{Root: tip, Pattern: "x"})
	_, err8 := r.Blame(t.Context(), tip, "dir00/file0000", 0, 0)
	_, _, err9 := r.LastModified(t.Context(), tip, "", nil)
	for i, err := range []error{err1, err2, err3, err4, err5, err6, err7, err8, err9} {
		if !errors.Is(err, ErrTooLong) || errors.Is(err, cluster.ErrNotFound) {
			t.Errorf("question %d: %v", i+1, err)
		}
	}
	// Who gives up himself gets his own reason.
	ctx, stop := context.WithCancelCause(t.Context())
	stop(cluster.ErrStopping)
	if _, _, err := w.History(ctx, HistoryQuery{From: []cluster.OID{tip}}); !errors.Is(err, cluster.ErrStopping) {
		t.Errorf("%v", err)
	}
}
