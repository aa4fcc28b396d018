package browse

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

// A Signature says who and when, as a commit or tag claims. All parts may be empty.
type Signature struct {
	Name  string
	Email string
	When  time.Time // with the writer's own offset from UTC
}

// A Commit is one commit. Its texts are converted to UTF-8 from the encoding
// that it names, and what is not valid is replaced.
type Commit struct {
	OID       cluster.OID
	Tree      cluster.OID
	Parents   []cluster.OID
	Author    Signature
	Committer Signature
	Subject   string // the first paragraph as one line, at most 1 KiB
	Message   string // whole, with the subject; at most 64 KiB, and 16 MiB together where many come
	Truncated bool   // Message is cut
}

// Commit returns one commit.
func (r *Repo) Commit(ctx context.Context, oid cluster.OID) (Commit, error) {
	all, err := r.Commits(ctx, []cluster.OID{oid})
	if err != nil {
		return Commit{}, err
	}
	return all[0], nil
}

// Commits returns the commits in the order asked for, at most 1000; one that is
// not there or no commit is an error.
func (r *Repo) Commits(ctx context.Context, oids []cluster.OID) ([]Commit, error) {
	ctx, done := r.bound(ctx)
	defer done()
	if len(oids) > maxLimit {
		return nil, fmt.Errorf("%w: more than %d commits", ErrBadQuery, maxLimit)
	}
	if err := r.checkOIDs(oids...); err != nil {
		return nil, err
	}
	return r.commits(ctx, oids)
}

// commits is Commits for ids that Git itself gave.
func (r *Repo) commits(ctx context.Context, oids []cluster.OID) ([]Commit, error) {
	if len(oids) == 0 {
		return nil, nil
	}
	// Git prints a commit that is asked for twice once.
	known := make(map[cluster.OID]Commit, len(oids))
	var questions strings.Builder
	for _, oid := range oids {
		questions.WriteString(string(oid) + "\n")
	}
	limit := messageLimit(len(oids))
	err := r.stream(ctx, gitcmd.Commits(r.dir), strings.NewReader(questions.String()), func(rd *bufio.Reader) error {
		for {
			c, err := readCommit(rd, limit)
			if err != nil {
				return ended(err)
			}
			known[c.OID] = c
		}
	})
	if err != nil {
		return nil, r.explain(ctx, err, TypeCommit, oids...)
	}
	all := make([]Commit, len(oids))
	for i, oid := range oids {
		c, ok := known[oid]
		if !ok {
			return nil, noObject(oid, TypeCommit) // a tag, which Git has followed, or a tree
		}
		all[i] = c
	}
	return all, nil
}

// A HistoryQuery asks for commits, newest first.
type HistoryQuery struct {
	From        []cluster.OID // commits to start from; at least one, at most 100
	Not         []cluster.OID // commits left out with all they lead to; at most 100
	Paths       []string      // only commits that change one of these files or folders; at most 100
	Follow      bool          // go on behind renames of the one file in Paths; slow
	FirstParent bool          // only what merges merged into
	NoMerges    bool
	Author      string // part of "name <email>", upper and lower case alike
	Grep        string // part of a line of the message, likewise
	Since       time.Time
	Until       time.Time
	Offset      int // at most 100,000
	Limit       int // at most 1000; 0 means 100
}

// History lists commits; more says that there are others behind the last. With [ErrTooLong]
// come the commits found until then.
func (r *Repo) History(ctx context.Context, q HistoryQuery) (commits []Commit, more bool, err error) {
	ctx, done := r.bound(ctx)
	defer done()
	offset, limit, err := window(q.Offset, q.Limit)
	if err != nil {
		return nil, false, err
	}
	if len(q.From) == 0 || len(q.From) > 100 || len(q.Not) > 100 {
		return nil, false, fmt.Errorf("%w: history of %d commits without that of %d", ErrBadQuery, len(q.From), len(q.Not))
	}
	oids := append(append([]cluster.OID{}, q.From...), q.Not...)
	paths, err := cleanPaths(q.Paths)
	if err := cmp.Or(err, r.checkOIDs(oids...), checkText("author", q.Author), checkText("text to look for", q.Grep)); err != nil {
		return nil, false, err
	}
	if q.Follow && len(paths) != 1 {
		return nil, false, fmt.Errorf("%w: one path can be followed, not %d", ErrBadQuery, len(paths))
	}
	c := gitcmd.Log(r.dir, gitcmd.LogQuery{From: q.From, Not: q.Not, Paths: paths, Follow: q.Follow, FirstParent: q.FirstParent,
		NoMerges: q.NoMerges, Author: q.Author, Grep: q.Grep, Since: unix(q.Since), Until: unix(q.Until), Skip: offset, Count: limit + 1})
	err = r.stream(ctx, c, nil, func(rd *bufio.Reader) error {
		for {
			c, err := readCommit(rd, messageLimit(limit))
			if err != nil {
				return ended(err)
			}
			if len(commits) == limit {
				more = true
				return errEnough
			}
			commits = append(commits, c)
		}
	})
	if err == nil && len(commits) == 0 && offset == 0 {
		err = r.mustLeadToCommits(ctx, q.From) // Git has nothing to say about the history of a file
	}
	return commits, more, r.explain(ctx, err, TypeCommit, oids...)
}

func (r *Repo) mustLeadToCommits(ctx context.Context, oids []cluster.OID) error {
	objects := r.objects(ctx)
	defer objects.close()
	found, err := objects.stat(oids)
	for i, o := range found {
		if commit, err := objects.peel(oids[i], o.kind); err != nil || commit == "" {
			return cmp.Or(err, noObject(oids[i], TypeCommit))
		}
	}
	return err
}

func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// MergedCommits lists the commits that a merge brought into its first parent's
// history, newest first, without the merge itself; none for a commit that is no merge.
func (r *Repo) MergedCommits(ctx context.Context, merge cluster.OID, limit int) (commits []Commit, more bool, err error) {
	c, err := r.Commit(ctx, merge)
	if err != nil || len(c.Parents) < 2 {
		return nil, false, err
	}
	others := c.Parents[1:]
	return r.History(ctx, HistoryQuery{From: others[:min(len(others), 100)], Not: c.Parents[:1], Limit: limit})
}

// MergeBase returns the best common ancestor of two commits; [cluster.ErrNotFound] if they
// have none.
func (r *Repo) MergeBase(ctx context.Context, a, b cluster.OID) (cluster.OID, error) {
	ctx, done := r.bound(ctx)
	defer done()
	if err := r.checkOIDs(a, b); err != nil {
		return "", err
	}
	out, err := r.browser.run.Output(ctx, gitcmd.MergeBase(r.dir, a, b), nil)
	if gitexec.Status(err) == 1 {
		return "", fmt.Errorf("a common ancestor of %s and %s: %w", a, b, cluster.ErrNotFound)
	}
	if err != nil {
		return "", r.explain(ctx, err, TypeCommit, a, b)
	}
	return cluster.OID(strings.TrimSpace(string(out))), nil
}

// IsAncestor reports whether old is new or in its history.
func (r *Repo) IsAncestor(ctx context.Context, old, new cluster.OID) (bool, error) {
	ctx, done := r.bound(ctx)
	defer done()
	if err := r.checkOIDs(old, new); err != nil {
		return false, err
	}
	err := r.browser.run.Run(ctx, gitcmd.IsAncestor(r.dir, "", old, new), gitexec.IO{})
	if gitexec.Status(err) == 1 {
		return false, nil
	}
	return err == nil, r.explain(ctx, err, TypeCommit, old, new)
}

// Count says how many commits ahead leads to that behind does not, and the reverse; no more than
// 10,000 of either are counted.
func (r *Repo) Count(ctx context.Context, ahead, behind cluster.OID) (n, m int, err error) {
	const most = 10_000
	ctx, done := r.bound(ctx)
	defer done()
	if err := r.checkOIDs(ahead, behind); err != nil {
		return 0, 0, err
	}
	err = r.stream(ctx, gitcmd.Between(r.dir, ahead, behind), nil, func(rd *bufio.Reader) error {
		for {
			line, _, err := text(rd, '\n', 100)
			if err != nil {
				return ended(err)
			}
			if strings.HasPrefix(line, "<") {
				n = min(n+1, most)
			} else {
				m = min(m+1, most)
			}
			if n == most && m == most {
				return errEnough
			}
		}
	})
	return n, m, r.explain(ctx, err, TypeCommit, ahead, behind)
}

// Exists returns the type of each whole object id that is here, at most 1000
// ids; others, and texts that are no object id, are not in the map.
func (r *Repo) Exists(ctx context.Context, ids []string) (map[cluster.OID]string, error) {
	ctx, done := r.bound(ctx)
	defer done()
	if len(ids) > maxLimit {
		return nil, fmt.Errorf("%w: more than %d object ids", ErrBadQuery, maxLimit)
	}
	var oids []cluster.OID
	for _, id := range ids {
		if r.checkOIDs(cluster.OID(id)) == nil {
			oids = append(oids, cluster.OID(id))
		}
	}
	objects := r.objects(ctx)
	defer objects.close()
	found, err := objects.stat(oids)
	if err != nil {
		return nil, err
	}
	kinds := make(map[cluster.OID]string, len(oids))
	for i, o := range found {
		if o.kind != "" {
			kinds[oids[i]] = o.kind
		}
	}
	return kinds, nil
}

// messageLimit is how long each of n messages may be.
func messageLimit(n int) int { return min(maxMessage, 16<<20/n) }

// readCommit reads the fields that gitcmd's log prints of a commit.
func readCommit(rd *bufio.Reader, messageLimit int) (Commit, error) {
	var f [gitcmd.CommitFields]string
	var cut bool
	for i := range f {
		limit := 1024
		switch i {
		case 2: // each parent has its id; a merge of hundreds is one commit still
			limit = maxMessage
		case len(f) - 1:
			limit = messageLimit
		}
		var err error
		f[i], cut, err = text(rd, 0, limit)
		switch {
		case err == io.EOF && i > 0:
			return Commit{}, io.ErrUnexpectedEOF
		case err != nil:
			return Commit{}, err
		}
	}
	return newCommit(f, cut), nil
}

func newCommit(f [gitcmd.CommitFields]string, cut bool) Commit {
	c := Commit{
		OID: cluster.OID(f[0]), Tree: cluster.OID(f[1]),
		Author:    Signature{Name: valid(f[3]), Email: valid(f[4]), When: date(f[5])},
		Committer: Signature{Name: valid(f[6]), Email: valid(f[7]), When: date(f[8])},
		Message:   valid(f[9]), Truncated: cut,
	}
	for _, p := range strings.Fields(f[2]) {
		if _, err := cluster.ParseOID(p); err == nil {
			c.Parents = append(c.Parents, cluster.OID(p))
		}
	}
	c.Subject = subject(c.Message)
	return c
}

// valid replaces what is not UTF-8; a character that was cut in two at a
// limit goes.
func valid(s string) string {
	return strings.ToValidUTF8(s, string(utf8.RuneError))
}

// subject is the first paragraph of a message as one line.
func subject(message string) string {
	const most = 1024
	message = strings.TrimLeft(message, "\n")
	if i := strings.Index(message, "\n\n"); i >= 0 {
		message = message[:i]
	}
	line := strings.Join(strings.FieldsFunc(message, func(c rune) bool { return c == '\n' || c == '\r' }), " ")
	if len(line) > most {
		line = strings.ToValidUTF8(line[:most], "") + "…"
	}
	return line
}

// date reads "SECONDS ZONE"; the zero time if there is nothing that makes sense.
func date(raw string) time.Time {
	seconds, zone, _ := strings.Cut(raw, " ")
	n, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil || n < -1<<40 || n > 1<<40 {
		return time.Time{}
	}
	hhmm, err := strconv.Atoi(zone)
	if err != nil || hhmm <= -2400 || hhmm >= 2400 {
		hhmm = 0
	}
	offset := hhmm/100*3600 + hhmm%100*60
	if offset == 0 {
		return time.Unix(n, 0).UTC()
	}
	return time.Unix(n, 0).In(time.FixedZone("", offset))
}
