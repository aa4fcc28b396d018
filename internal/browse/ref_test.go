package browse

import (
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/cluster"
)

// tagged is a repository with refs of every kind.
func tagged(t *testing.T, w *world) (first, second cluster.OID) {
	t.Helper()
	first = w.commit("refs/heads/main", "first\n\nbody", nil, file("a", "1"))
	second = w.commit("refs/heads/main", "second", nil, file("a", "2"))
	w.git("", "branch", "feature/x", string(first))
	w.git("", "branch", "v1", string(first))
	w.git("", "tag", "light", string(first))
	w.git("", "-c", "user.name=T Agger", "tag", "-a", "-m", "a tag\n\nits text", "v1", string(second))
	w.git("", "tag", "-a", "-m", "nested", "nested", "v1")
	w.git("", "tag", "-a", "-m", "of a tree", "tree", string(second)+"^{tree}")
	w.git("", "update-ref", "refs/tags/blob", string(w.rev("main:a")))
	w.git("", "update-ref", "refs/notes/x", string(first))
	w.git("", "update-ref", "refs/strays/x", string(first))
	return first, second
}

func names(refs []Ref) (names []string) {
	for _, r := range refs {
		names = append(names, string(r.Name))
	}
	return names
}

func TestRefs(t *testing.T) {
	formats(t, func(t *testing.T, w *world) {
		if refs, more, err := w.Refs(t.Context(), RefQuery{}); len(refs) != 0 || more || err != nil {
			t.Errorf("an empty repository: %v, %v, %v", refs, more, err)
		}
		first, second := tagged(t, w)
		all := []string{"refs/heads/feature/x", "refs/heads/main", "refs/heads/v1", "refs/tags/blob", "refs/tags/light", "refs/tags/nested", "refs/tags/tree", "refs/tags/v1"}
		none := cluster.OID(strings.Repeat("1", w.digits()))
		for _, c := range []struct {
			q    RefQuery
			want []string
			more bool
		}{
			{RefQuery{}, all, false},
			{RefQuery{Limit: 3}, all[:3], true},
			{RefQuery{Limit: 3, Offset: 3}, all[3:6], true},
			{RefQuery{Limit: 3, Offset: 5}, all[5:], false},
			{RefQuery{Offset: 8}, nil, false},
			{RefQuery{Prefixes: []string{"refs/heads/"}}, all[:3], false},
			{RefQuery{Prefixes: []string{"refs/heads/feature"}}, all[:1], false},
			{RefQuery{Prefixes: []string{"refs/tags/v1", "refs/heads/main", "refs/heads/mai"}}, []string{all[1], all[7]}, false},
			{RefQuery{Prefixes: []string{"refs/"}}, append([]string{}, append(slices.Clone(all[:3]), append([]string{"refs/notes/x"}, all[3:]...)...)...), false},
			{RefQuery{Prefixes: []string{"refs/strays/", "refs/heads/*", "refs/heads/mai?", "refs/heads/[m]ain", `refs/heads/mai\n`, "heads/main", "main", "refs", "", "--help", "refs/heads/../heads/"}}, nil, false},
			{RefQuery{Prefixes: []string{"refs/heads/"}, Contains: second}, all[1:2], false},
			{RefQuery{Contains: first}, []string{all[0], all[1], all[2], all[4], all[5], all[7]}, false},
			{RefQuery{PointsAt: second}, []string{all[1], all[7]}, false},
			{RefQuery{PointsAt: none}, nil, false},
		} {
			refs, more, err := w.Refs(t.Context(), c.q)
			if err != nil || more != c.more || !slices.Equal(names(refs), c.want) {
				t.Errorf("%+v: %q, more = %v, %v; want %q", c.q, names(refs), more, err, c.want)
			}
		}
		refs, _, err := w.Refs(t.Context(), RefQuery{Messages: true})
		if err != nil || len(refs) != len(all) {
			t.Fatalf("%d refs, %v", len(refs), err)
		}
		if r := refs[1]; r.OID != second || r.Type != TypeCommit || r.Commit != second || r.Subject != "second" || r.Author.Name != "A U Thor" || r.When.Unix() != 1_500_007_200 {
			t.Errorf("a branch: %+v", r)
		}
		if r := refs[7]; r.OID != w.rev("v1^{tag}") || r.Type != TypeTag || r.Commit != second || r.Subject != "a tag" || r.Message != "a tag\n\nits text\n" || r.Tagger.Email != "a@example.com" || r.When != r.Tagger.When || r.When.IsZero() {
			t.Errorf("a tag: %+v", r)
		}
		if r := refs[5]; r.Type != TypeTag || r.Commit != second {
			t.Errorf("a tag of a tag: %+v", r)
		}
		if r := refs[6]; r.Type != TypeTag || r.Commit != "" || r.Subject != "of a tree" {
			t.Errorf("a tag of a tree: %+v", r)
		}
		if r := refs[3]; r.Type != TypeBlob || r.Commit != "" || !r.When.IsZero() || r.Subject != "" {
			t.Errorf("a tag that is a blob: %+v", r)
		}
		byDate, _, err := w.Refs(t.Context(), RefQuery{Prefixes: []string{"refs/heads/"}, ByDate: true})
		if want := []string{"refs/heads/main", "refs/heads/feature/x", "refs/heads/v1"}; err != nil || !slices.Equal(names(byDate), want) {
			t.Errorf("by date: %q, %v", names(byDate), err)
		}
		for _, q := range []RefQuery{{Offset: -1}, {Limit: -1}, {Offset: maxOffset + 1}, {Prefixes: slices.Repeat([]string{"refs/heads/"}, 101)}, {Contains: "--help"}} {
			if _, _, err := w.Refs(t.Context(), q); !errors.Is(err, ErrBadQuery) {
				t.Errorf("%+v: %v", q, err)
			}
		}
	})
}

func TestHead(t *testing.T) {
	formats(t, func(t *testing.T, w *world) {
		if name, oid, err := w.Head(t.Context()); name != "refs/heads/main" || oid != "" || err != nil {
			t.Errorf("an empty repository: %q, %q, %v", name, oid, err)
		}
		if o, err := w.Resolve(t.Context(), ""); !errors.Is(err, cluster.ErrNotFound) || cluster.Hint(err) == "" {
			t.Errorf("an empty repository: %+v, %v", o, err)
		}
		tip := w.commit("refs/heads/other", "x", nil, file("a", "1"))
		w.git("", "symbolic-ref", "HEAD", "refs/heads/other")
		if name, oid, err := w.Head(t.Context()); name != "refs/heads/other" || oid != tip || err != nil {
			t.Errorf("%q, %q, %v", name, oid, err)
		}
	})
}

func TestResolve(t *testing.T) {
	formats(t, func(t *testing.T, w *world) {
		first, second := tagged(t, w)
		w.git("", "branch", "deep/er/name", string(first))
		w.git("", "branch", "abcd", string(first)) // reads like an object id
		w.git("", "branch", "x-1-g"+string(second[:8]), string(first))
		tag, blob, tree := w.rev("v1^{tag}"), w.rev("main:a"), w.rev("main^{tree}")
		for rev, want := range map[string]Object{
			"":                               {second, TypeCommit, "refs/heads/main", second},
			"HEAD":                           {second, TypeCommit, "refs/heads/main", second},
			"main":                           {second, TypeCommit, "refs/heads/main", second},
			"heads/main":                     {second, TypeCommit, "refs/heads/main", second},
			"refs/heads/main":                {second, TypeCommit, "refs/heads/main", second},
			"feature/x":                      {first, TypeCommit, "refs/heads/feature/x", first},
			"v1":                             {tag, TypeTag, "refs/tags/v1", second},
			"heads/v1":                       {first, TypeCommit, "refs/heads/v1", first},
			"tags/v1":                        {tag, TypeTag, "refs/tags/v1", second},
			"nested":                         {w.rev("nested^{tag}"), TypeTag, "refs/tags/nested", second},
			"tree":                           {w.rev("refs/tags/tree"), TypeTag, "refs/tags/tree", ""},
			"blob":                           {blob, TypeBlob, "refs/tags/blob", ""},
			"notes/x":                        {first, TypeCommit, "refs/notes/x", first},
			"abcd":                           {first, TypeCommit, "refs/heads/abcd", first},
			"x-1-g" + string(second[:8]):     {first, TypeCommit, "refs/heads/x-1-g" + cluster.RefName(second[:8]), first},
			string(first):                    {first, TypeCommit, "", first},
			strings.ToUpper(string(first)):   {first, TypeCommit, "", first},
			string(blob):                     {blob, TypeBlob, "", ""},
			string(tree):                     {tree, TypeTree, "", ""},
			string(tag):                      {tag, TypeTag, "", second},
			string(first[:w.digits()-1]):     {first, TypeCommit, "", first},
			strings.ToUpper(string(tag[:9])): {tag, TypeTag, "", second},
			"main^":                          {first, TypeCommit, "", first},
			"v1~1":                           {first, TypeCommit, "", first},
			"HEAD~":                          {first, TypeCommit, "", first},
			"main~0":                         {second, TypeCommit, "", second},
		} {
			if got, err := w.Resolve(t.Context(), rev); err != nil || got != want {
				t.Errorf("%q: %+v, %v; want %+v", rev, got, err, want)
			}
		}
		none := strings.Repeat("1", w.digits())
		for _, rev := range []string{"nothing", "strays/x", "refs/strays/x", "heads", "refs", "refs/heads", "feature", "main~2", "main^^^", "blob^", "tree~1", none, none[:10], "123", "zzzz",
			"main@{0}", ":/first", "main:a", "main^{tree}", "main..v1", "^main", "--help", "-h", "main ", " main", "main\n", "a\x00b", "\xff", "@{-1}", "main~x", strings.Repeat("x", 2000),
			"x-1-g" + string(second[:9]), "y-1-g" + string(second), "*", "mai?", "refs/heads/*", "HEAD^{}", string(first) + "0", "../heads/main"} {
			if got, err := w.Resolve(t.Context(), rev); !errors.Is(err, cluster.ErrNotFound) {
				t.Errorf("%q: %+v, %v", rev, got, err)
			}
		}
		if _, err := w.Resolve(t.Context(), "main~1001"); !errors.Is(err, ErrBadQuery) {
			t.Errorf("a long way back: %v", err)
		}
		for in, want := range map[string]struct {
			rev, path string
			oid       cluster.OID
		}{
			"main":                      {"main", "", second},
			"main/":                     {"main", "", second},
			"/main/a/b":                 {"main", "a/b", second},
			"feature/x/a":               {"feature/x", "a", first},
			"deep/er/name/a/b/c":        {"deep/er/name", "a/b/c", first},
			"refs/heads/main/a":         {"refs/heads/main", "a", second},
			"HEAD/main":                 {"HEAD", "main", second},
			"main~1/a":                  {"main~1", "a", first},
			string(first) + "/-x/--y":   {string(first), "-x/--y", first},
			"main/\xff/a\nb":            {"main", "\xff/a\nb", second},
			"main/" + longPath("d", 40): {"main", longPath("d", 40), second},
			"":                          {"", "", second},
		} {
			o, rev, path, err := w.ResolvePath(t.Context(), in)
			if err != nil || o.OID != want.oid || rev != want.rev || path != want.path {
				t.Errorf("%q: %s, %q, %q, %v; want %+v", in, o.OID, rev, path, err, want)
			}
		}
		for _, in := range []string{"nothing/a", "feature/y/a", "strays/x/a", "deep/er"} {
			if o, _, _, err := w.ResolvePath(t.Context(), in); !errors.Is(err, cluster.ErrNotFound) {
				t.Errorf("%q: %+v, %v", in, o, err)
			}
		}
	})
}

func longPath(part string, n int) string { return strings.TrimSuffix(strings.Repeat(part+"/", n), "/") }

// A ref that Git's own rules would take for another one is not taken for it.
func TestNoRefStandsInForAnother(t *testing.T) {
	w := newWorld(t, cluster.SHA1)
	first := w.commit("refs/heads/main", "first", nil, file("a", "1"))
	second := w.commit("refs/heads/main", "second", nil, file("a", "2"))
	w.git("", "update-ref", "refs/heads/victim/x", string(first))
	for _, ref := range []string{"refs/refs/heads/victim/x", "refs/heads/refs/tags/victim/x", "refs/tags/refs/tags/victim/x", "refs/tags/refs/victim/x"} {
		w.git("", "update-ref", ref, string(second))
	}
	for _, rev := range []string{"victim/x", "heads/victim/x", "refs/heads/victim/x"} {
		if o, err := w.Resolve(t.Context(), rev); err != nil || o.Ref != "refs/heads/victim/x" || o.OID != first {
			t.Errorf("%s: %+v, %v", rev, o, err)
		}
	}
	if o, rev, path, err := w.ResolvePath(t.Context(), "victim/x/a"); err != nil || o.OID != first || rev != "victim/x" || path != "a" {
		t.Errorf("%+v, %q, %q, %v", o, rev, path, err)
	}
}

// Where the same digits start several objects, a commit is meant if it is the only
// one.
func TestAmbiguousDigits(t *testing.T) {
	w := newWorld(t, cluster.SHA1)
	tip := w.commit("refs/heads/main", "x", nil, file("a", "1"))
	for i, blobs := 0, 0; blobs < 2; i++ {
		blob := fmt.Sprint(i)
		if sum := sha1.Sum(fmt.Appendf(nil, "blob %d\x00%s", len(blob), blob)); hex.EncodeToString(sum[:2]) == string(tip[:4]) {
			w.git(blob, "hash-object", "-w", "--stdin")
			blobs++
		}
	}
	if o, err := w.Resolve(t.Context(), string(tip[:4])); err != nil || o.OID != tip {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestDates(t *testing.T) {
	for raw, want := range map[string]string{
		"1500000000 +0200": "2017-07-14T04:40:00+02:00", "1500000000 -0330": "2017-07-13T23:10:00-03:30", "0 +0000": "1970-01-01T00:00:00Z",
		"1500000000 +9999": "2017-07-14T02:40:00Z", "1500000000": "2017-07-14T02:40:00Z", "-1 +0000": "1969-12-31T23:59:59Z",
	} {
		if got := date(raw).Format(time.RFC3339); got != want {
			t.Errorf("%q is %s, want %s", raw, got, want)
		}
	}
	for _, raw := range []string{"", "x", "99999999999999999999 +0000", "9223372036854775807 +0000"} {
		if got := date(raw); !got.IsZero() {
			t.Errorf("%q is %s", raw, got)
		}
	}
}
