package gitcmd

import (
	"slices"
	"strings"
	"testing"

	"gitcluster/internal/cluster"
)

// Every word that a stranger can choose is one that would do harm in another
// place: an option, or a revision.
const evil = "--output=/tmp/x"

func everyBrowse() map[string]Command {
	oid, other := cluster.OID(strings.Repeat("1", 40)), cluster.OID(strings.Repeat("2", 40))
	paths := []string{evil, "-p", ":(top)"}
	return map[string]Command{
		"ReadObjects": ReadObjects(dir),
		"Blob":        Blob(dir, oid),
		"ShowRef":     ShowRef(dir, "refs/heads/--x"),
		"Abbreviated": Abbreviated(dir, "12ab"),
		"BrowseRefs":  BrowseRefs(dir, RefList{Format: "%(refname)", Patterns: []string{"refs/heads/", "refs/tags/--x"}, Contains: oid, PointsAt: other, ByDate: true}),
		"Commits":     Commits(dir),
		"Log": Log(dir, LogQuery{From: []cluster.OID{oid}, Not: []cluster.OID{other}, Paths: paths, Follow: true, FirstParent: true, NoMerges: true,
			Author: evil, Grep: "-x", Since: 5, Until: 6, Skip: 7, Count: 8}),
		"Changes":   Changes(dir, oid, paths),
		"ListFiles": ListFiles(dir, oid),
		"Diff":      Diff(dir, DiffQuery{Old: oid, New: other, Paths: paths, Context: 3, IgnoreSpace: true, Raw: true, Patch: true}),
		"Blame":     Blame(dir, oid, evil, 3, 9),
		"Grep":      Grep(dir, GrepQuery{Root: oid, Pattern: evil, Regexp: true, IgnoreCase: true, Paths: paths}),
		"MergeBase": MergeBase(dir, oid, other),
		"Between":   Between(dir, oid, other),
		"Ancestor":  Ancestor(dir, oid, 4),
	}
}

func TestBrowseArguments(t *testing.T) {
	const (
		one, two = "1111111111111111111111111111111111111111", "2222222222222222222222222222222222222222"
		log      = "git log -z " + commitFormat + " --date=raw --encoding=UTF-8 --no-color --no-mailmap --no-show-signature --no-ext-diff --no-textconv "
		paths    = " -- --output=/tmp/x -p :(top)"
	)
	want := map[string]string{
		"ReadObjects": "git cat-file --batch-command --buffer",
		"Blob":        "git cat-file blob " + one,
		"ShowRef":     "git show-ref --verify -- refs/heads/--x",
		"Abbreviated": "git rev-parse --disambiguate=12ab",
		"BrowseRefs":  "git for-each-ref --format=%(refname) --sort=refname --sort=-creatordate --contains=" + one + " --points-at=" + two + " -- refs/heads/ refs/tags/--x",
		"Commits":     log + "--no-walk=unsorted --stdin",
		"Log": log + "--follow --first-parent --no-merges --fixed-strings --regexp-ignore-case --author=--output=/tmp/x --grep=-x --max-age=5 --min-age=6 --skip=7 --max-count=8 --end-of-options " +
			one + " ^" + two + paths,
		"Changes":   log + "--raw -c --no-abbrev --no-renames --end-of-options " + one + paths,
		"ListFiles": "git ls-tree -r -z --name-only --full-tree " + one,
		"Diff": "git diff-tree -r --find-renames -l500 --full-index --no-ext-diff --no-textconv --no-color --src-prefix=a/ --dst-prefix=b/ --submodule=short --ignore-submodules=none" +
			" -z --raw --numstat --patch --unified=3 --ignore-all-space --end-of-options " + one + " " + two + paths,
		"Blame":     "git blame --incremental --no-textconv -L3,9 " + one + " -- --output=/tmp/x",
		"Grep":      "git grep -z -n -I --no-color --full-name --no-recurse-submodules --no-textconv --extended-regexp --ignore-case -e --output=/tmp/x " + one + paths,
		"MergeBase": "git merge-base " + one + " " + two,
		"Between":   "git rev-list --left-right --end-of-options " + one + "..." + two + " --",
		"Ancestor":  "git rev-parse --verify --quiet --end-of-options " + one + "~4",
	}
	all := everyBrowse()
	for name, c := range all {
		if got := strings.Join(c.Args, " "); got != want[name] {
			t.Errorf("%s is\n%s, want\n%s", name, got, want[name])
		}
		if c.Writes {
			t.Errorf("%s: is marked as writing", name)
		}
		if c.Memory == 0 {
			t.Errorf("%s: its memory has no bound", name)
		}
		vars, config := environment(t, c)
		if vars["GIT_LITERAL_PATHSPECS"] != "1" || vars["GIT_DIR"] != dir || vars["GIT_NO_REPLACE_OBJECTS"] != "1" {
			t.Errorf("%s: the environment is %v", name, vars)
		}
		if config["core.quotepath"] != "false" || config["core.attributesfile"] != "/dev/null" || config["protocol.allow"] != "never" {
			t.Errorf("%s: the configuration is %v", name, config)
		}
	}
	if len(want) != len(all) {
		t.Error("a command is in one list only")
	}
	if c := Diff(dir, DiffQuery{Old: one, New: two, Patch: true}); slices.Contains(c.Args, "-z") || slices.Contains(c.Args, "--raw") {
		t.Errorf("a patch for people: %q", c.Args)
	}
	if c := Grep(dir, GrepQuery{Root: one, Pattern: "x"}); !slices.Contains(c.Args, "--fixed-strings") {
		t.Errorf("a search for text: %q", c.Args)
	}
}
