package admin

import (
	"slices"
	"strings"
	"testing"

	"gitcluster/internal/cluster"
)

func TestRepositories(t *testing.T) {
	w := newWorld(t)
	w.must(root, "grant", GrantChange{"alice", "admin", "team/*"}, nil)
	w.must(root, "grant", GrantChange{"bob", "read", "team/one"}, nil)
	var made RepoView
	w.must(alice, "repo.create", RepoCreate{Name: "/team/one.git", Format: "sha256", Branch: "trunk"}, &made)
	if made.Name != "team/one" || made.Format != cluster.SHA256 || made.InitialHead != "refs/heads/trunk" || made.CreatedBy != "alice" {
		t.Errorf("made %+v", made)
	}
	w.must(operator, "repo.create", RepoCreate{Name: "secret/plans"}, nil)
	for _, c := range []struct {
		id   cluster.Identity
		p    RepoCreate
		want string
	}{
		{alice, RepoCreate{Name: "team/one"}, "already exists"},
		{alice, RepoCreate{Name: "team/one/sub"}, "already exists"},
		{alice, RepoCreate{Name: "other"}, "permission denied"},
		{bob, RepoCreate{Name: "team/two"}, "permission denied"},
		{nobody, RepoCreate{Name: "x"}, "permission denied"},
		{alice, RepoCreate{Name: "team/../x"}, "bad repository name"},
		{alice, RepoCreate{Name: "team/x", Format: "md5"}, "unknown object format"},
		{alice, RepoCreate{Name: "team/x", Branch: "..x"}, "bad ref name"},
		{alice, RepoCreate{Name: "team/x", Branch: "x\ny"}, "bad ref name"},
	} {
		w.refused(c.id, "repo.create", c.p, c.want)
	}
	show := func(id cluster.Identity, name string) RepoView {
		t.Helper()
		var v RepoView
		w.must(id, "repo.show", RepoName{name}, &v)
		return v
	}
	if v := show(bob, "team/one"); v.ID != made.ID || v.Version != 0 {
		t.Errorf("bob sees %+v", v)
	}
	// One that may not be known of and one that is not there are told apart by nothing.
	for _, method := range []string{"repo.show", "repo.delete"} {
		hidden, none := w.ask(alice, method, RepoName{"secret/plans"}, nil), w.ask(alice, method, RepoName{"secret/plane"}, nil)
		if hidden == nil || none == nil || strings.ReplaceAll(hidden.Error(), "plans", "plane") != none.Error() || cluster.Hint(hidden) != cluster.Hint(none) {
			t.Errorf("%s: %v and %v", method, hidden, none)
		}
	}
	w.refused(bob, "repo.rename", RepoRename{"team/one", "team/two"}, "permission denied")
	w.refused(bob, "repo.delete", RepoName{"team/one"}, "permission denied")
	w.refused(bob, "repo.set", RepoSet{Name: "team/one", Branch: "x"}, "permission denied")
	w.refused(alice, "repo.rename", RepoRename{"team/one", "other"}, "permission denied")
	w.refused(alice, "repo.rename", RepoRename{"team/one", "team/.."}, "bad repository name")
	if v := show(bob, "team/one"); v.Name != "team/one" {
		t.Errorf("it is now %+v", v)
	}
	w.must(operator, "repo.rename", RepoRename{"team/one", "team/two"}, nil)
	w.refused(bob, "repo.show", RepoName{"team/one"}, "not found")
	w.must(operator, "repo.delete", RepoName{"team/two"}, nil)
	w.refused(operator, "repo.show", RepoName{"team/two"}, "not found")
}

// The list shows what may be read, page by page, and not even a name of the rest.
func TestRepoListShowsNoHiddenName(t *testing.T) {
	w := newWorld(t)
	var all []string
	for _, name := range []string{"a/open", "b/secret", "c/open", "d/secret", "e/secret"} {
		w.must(operator, "repo.create", RepoCreate{Name: name, Public: strings.HasSuffix(name, "open")}, nil)
		all = append(all, name)
	}
	for _, c := range []struct {
		id   cluster.Identity
		want []string
	}{{operator, all}, {alice, []string{"a/open", "c/open"}}, {nobody, []string{"a/open", "c/open"}}} {
		for _, limit := range []int{0, -1, 1, 2, 5, 1 << 30} {
			var got []string
			p := RepoList{Limit: limit}
			for range 10 {
				var page RepoPage
				w.must(c.id, "repo.list", p, &page)
				for _, r := range page.Repos {
					got = append(got, string(r.Name))
				}
				if page.Next == "" {
					break
				}
				if strings.Contains(page.Next, "secret") && c.id != operator {
					t.Errorf("in pages of %d %s is told of %q", limit, c.id, page.Next)
				}
				p.After = page.Next
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("in pages of %d %s is shown %q, want %q", limit, c.id, got, c.want)
			}
		}
	}
	for _, after := range []string{"\xff", "../", "\x00", strings.Repeat("z", 5000)} {
		var page RepoPage
		if err := w.ask(alice, "repo.list", RepoList{After: after}, &page); err == nil && len(page.Repos) > 2 {
			t.Errorf("after %.20q: %v", after, page)
		}
	}
}

func TestRepoSet(t *testing.T) {
	w := newWorld(t)
	w.must(operator, "repo.create", RepoCreate{Name: "a"}, nil)
	yes, no := true, false
	show := func() RepoView {
		t.Helper()
		var v RepoView
		w.must(operator, "repo.show", RepoName{"a"}, &v)
		return v
	}
	w.must(operator, "repo.set", RepoSet{Name: "a", Public: &yes, DenyDeletes: &yes}, nil)
	if v := show(); !v.Public || !v.DenyDeletes || v.DenyNonFF {
		t.Errorf("it is %+v", v)
	}
	w.must(operator, "repo.set", RepoSet{Name: "a", Public: &no}, nil)
	if v := show(); v.Public || !v.DenyDeletes {
		t.Errorf("it is %+v", v)
	}
	w.must(operator, "repo.set", RepoSet{Name: "a", Branch: "trunk"}, nil)
	if v := show(); v.Version != 1 {
		t.Errorf("it is %+v", v)
	}
	// All or nothing.
	w.refused(operator, "repo.set", RepoSet{Name: "a", Public: &yes, Branch: "bad..name"}, "bad ref name")
	if v := show(); v.Public || v.Version != 1 {
		t.Errorf("a refused change made it %+v", v)
	}
}
