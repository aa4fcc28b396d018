package gitcmd

import (
	"strconv"

	"gitcluster/internal/cluster"
)

// The commands in this file look at a repository for somebody who may know
// nothing about it. Their revisions are whole object ids; paths are literal, and
// come after "--".

// browsing keeps what a repository contains from being more than contents.
var browsing = []Setting{
	{"core.quotePath", "false"},
	{"core.attributesFile", "/dev/null"},
	// Larger files are streamed where they can be, and are binary to diff and
	// blame, which would otherwise hold them in memory.
	{"core.bigFileThreshold", "16m"},
	{"grep.threads", "2"},
}

// browseMemory is what one question may take. The C library makes gigabytes of
// automaton out of twenty characters such as "((x{1,255}){1,255}){1,255}", and nothing but the
// kernel keeps count.
const browseMemory = 1 << 30

// browse makes a command whose paths are names, not patterns: a file may be
// called ":(top)*".
func browse(dir string, args ...string) Command {
	c := command(dir, browsing, args...)
	c.Memory = browseMemory
	c.Env = append(c.Env, "GIT_LITERAL_PATHSPECS=1")
	return c
}

// ReadObjects reads "info OID", "contents OID" and "flush" on standard input and answers at a
// flush: "OID type size" or "OID missing", and for contents the object and a line feed.
func ReadObjects(dir string) Command {
	return browse(dir, "cat-file", "--batch-command", "--buffer")
}

// Blob prints the contents of a blob.
func Blob(dir string, oid cluster.OID) Command {
	return browse(dir, "cat-file", "blob", string(oid))
}

// ShowRef prints "OID ref", or exits with a status other than 0 if there is no ref of exactly
// that name.
func ShowRef(dir string, name cluster.RefName) Command {
	return browse(dir, "show-ref", "--verify", "--", string(name))
}

// Abbreviated prints the ids of all objects whose ids start with the digits, of which there must be
// at least 4.
func Abbreviated(dir, digits string) Command {
	return browse(dir, "rev-parse", "--disambiguate="+digits)
}

// RefList says which refs [BrowseRefs] prints.
type RefList struct {
	Format   string   // as for-each-ref(1) has it
	Patterns []string // full names and folders of refs, without wildcards
	Contains cluster.OID
	PointsAt cluster.OID
	ByDate   bool
}

// BrowseRefs prints a line for each ref.
func BrowseRefs(dir string, l RefList) Command {
	args := []string{"for-each-ref", "--format=" + l.Format}
	if l.ByDate {
		// The last key counts most.
		args = append(args, "--sort=refname", "--sort=-creatordate")
	}
	if l.Contains != "" {
		args = append(args, "--contains="+string(l.Contains))
	}
	if l.PointsAt != "" {
		args = append(args, "--points-at="+string(l.PointsAt))
	}
	return browse(dir, append(append(args, "--"), l.Patterns...)...)
}

// commitFormat is ten fields of a commit; with -z each ends with a NUL byte. The log has them in
// UTF-8.
const commitFormat = "--format=%H%x00%T%x00%P%x00%an%x00%ae%x00%ad%x00%cn%x00%ce%x00%cd%x00%B"

// CommitFields is how many NUL-terminated fields [Log] prints of each commit: id, tree, parents,
// the author's name, address and date, the committer's, and the message. A date is
// "SECONDS ZONE".
const CommitFields = 10

func log(dir string, args ...string) Command {
	return browse(dir, append([]string{"log", "-z", commitFormat, "--date=raw", "--encoding=UTF-8",
		"--no-color", "--no-mailmap", "--no-show-signature", "--no-ext-diff", "--no-textconv"}, args...)...)
}

// Commits reads object ids on standard input and prints the fields of each
// commit, in that order.
func Commits(dir string) Command {
	return log(dir, "--no-walk=unsorted", "--stdin")
}

// LogQuery says which commits [Log] prints.
type LogQuery struct {
	From, Not    []cluster.OID
	Paths        []string
	Follow       bool
	FirstParent  bool
	NoMerges     bool
	Author, Grep string // parts of the texts, upper and lower case alike
	Since, Until int64  // seconds since 1970; 0 for none
	Skip, Count  int
}

// Log prints the fields of commits, newest first.
func Log(dir string, q LogQuery) Command {
	var args []string
	for _, o := range []struct {
		set  bool
		args []string
	}{
		{q.Follow, []string{"--follow"}},
		{q.FirstParent, []string{"--first-parent"}},
		{q.NoMerges, []string{"--no-merges"}},
		{q.Author != "" || q.Grep != "", []string{"--fixed-strings", "--regexp-ignore-case"}},
		{q.Author != "", []string{"--author=" + q.Author}},
		{q.Grep != "", []string{"--grep=" + q.Grep}},
		{q.Since != 0, []string{"--max-age=" + strconv.FormatInt(q.Since, 10)}},
		{q.Until != 0, []string{"--min-age=" + strconv.FormatInt(q.Until, 10)}},
		{q.Skip > 0, []string{"--skip=" + strconv.Itoa(q.Skip)}},
		{q.Count > 0, []string{"--max-count=" + strconv.Itoa(q.Count)}},
	} {
		if o.set {
			args = append(args, o.args...)
		}
	}
	args = append(args, "--end-of-options")
	for _, oid := range q.From {
		args = append(args, string(oid))
	}
	for _, oid := range q.Not {
		args = append(args, "^"+string(oid))
	}
	return log(dir, append(append(args, "--"), q.Paths...)...)
}

// Changes prints the fields of the commits that lead to a commit and change one of the paths (none
// means any), each followed by its raw difference; that of a merge has what no parent has so.
func Changes(dir string, commit cluster.OID, paths []string) Command {
	args := []string{"--raw", "-c", "--no-abbrev", "--no-renames", "--end-of-options", string(commit), "--"}
	return log(dir, append(args, paths...)...)
}

// ListFiles prints the paths of all files of a tree, each ended by a NUL byte.
func ListFiles(dir string, tree cluster.OID) Command {
	return browse(dir, "ls-tree", "-r", "-z", "--name-only", "--full-tree", string(tree))
}

// DiffQuery says what [Diff] compares.
type DiffQuery struct {
	Old, New    cluster.OID // commits or trees
	Paths       []string
	Context     int
	IgnoreSpace bool
	Raw         bool // print the raw format and the numbers of lines, for programs
	Patch       bool
}

// Diff prints the difference between two trees.
func Diff(dir string, q DiffQuery) Command {
	args := []string{"diff-tree", "-r", "--find-renames", "-l500", "--full-index", "--no-ext-diff", "--no-textconv", "--no-color",
		"--src-prefix=a/", "--dst-prefix=b/", "--submodule=short", "--ignore-submodules=none"}
	if q.Raw {
		args = append(args, "-z", "--raw", "--numstat")
	}
	if q.Patch {
		args = append(args, "--patch", "--unified="+strconv.Itoa(q.Context))
	}
	if q.IgnoreSpace {
		args = append(args, "--ignore-all-space")
	}
	args = append(args, "--end-of-options", string(q.Old), string(q.New), "--")
	return browse(dir, append(args, q.Paths...)...)
}

// Blame says which commits wrote the lines from … to of a file, as it finds out.
func Blame(dir string, commit cluster.OID, path string, from, to int) Command {
	return browse(dir, "blame", "--incremental", "--no-textconv", "-L"+strconv.Itoa(from)+","+strconv.Itoa(to), string(commit), "--", path)
}

// GrepQuery says what [Grep] looks for.
type GrepQuery struct {
	Root       cluster.OID // a commit or tree
	Pattern    string
	Regexp     bool
	IgnoreCase bool
	Paths      []string
}

// Grep prints "ROOT:path NUL line NUL text" for each line that matches.
func Grep(dir string, q GrepQuery) Command {
	args := []string{"grep", "-z", "-n", "-I", "--no-color", "--full-name", "--no-recurse-submodules", "--no-textconv"}
	if q.Regexp {
		args = append(args, "--extended-regexp")
	} else {
		args = append(args, "--fixed-strings")
	}
	if q.IgnoreCase {
		args = append(args, "--ignore-case")
	}
	args = append(args, "-e", q.Pattern, string(q.Root), "--")
	return browse(dir, append(args, q.Paths...)...)
}

// MergeBase prints the best common ancestor of two commits; it exits 1 if there is none.
func MergeBase(dir string, a, b cluster.OID) Command {
	return browse(dir, "merge-base", string(a), string(b))
}

// Between prints "<OID" for each commit that only left leads to and ">OID" for right's.
func Between(dir string, left, right cluster.OID) Command {
	return browse(dir, "rev-list", "--left-right", "--end-of-options", string(left)+"..."+string(right), "--")
}

// Ancestor prints the id of the commit n steps back along first parents.
func Ancestor(dir string, commit cluster.OID, n int) Command {
	return browse(dir, "rev-parse", "--verify", "--quiet", "--end-of-options", string(commit)+"~"+strconv.Itoa(n))
}
