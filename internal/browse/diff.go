package browse

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitcmd"
)

// A DiffQuery asks for the difference between two commits or trees.
type DiffQuery struct {
	Old         cluster.OID // "" for the first parent of the commit New, or nothing if it has none
	New         cluster.OID
	Paths       []string // only these files or folders
	Context     int      // lines around a change: 0 means 3, below 0 none, at most 100
	IgnoreSpace bool     // all of it, as `git diff -w`
	// MaxFiles bounds Files (at most 5,000; 0 means 1,000), MaxLines the lines of a
	// file (0 means 2,000), MaxTotal those of all files (at most 50,000; 0 means 20,000). Their
	// text is at most 4 MiB.
	MaxFiles, MaxLines, MaxTotal int
}

// A Diff is what changed. Renames are detected where few enough files changed.
type Diff struct {
	Old, New  cluster.OID // as compared; Old is the empty tree for a first commit
	Files     []FileDiff
	Added     int // lines in all Files
	Removed   int
	Truncated bool // more files changed than Files holds
}

// The statuses of a FileDiff.
const (
	StatusAdded    = 'A'
	StatusDeleted  = 'D'
	StatusModified = 'M' // contents, mode, or both
	StatusRenamed  = 'R'
	StatusCopied   = 'C'
	StatusType     = 'T' // a file became a symlink, say
)

// A FileDiff is the change of one file, symlink or submodule.
type FileDiff struct {
	Status           byte
	OldPath, NewPath string      // the same unless renamed; both set for added and deleted files too
	OldMode, NewMode Mode        // 0 where there is no file
	OldOID, NewOID   cluster.OID // all zeros where there is no file
	Similarity       int         // percent, of a rename
	Binary           bool
	Added, Removed   int    // lines; of the whole file, even where Hunks are cut
	Hunks            []Hunk // none from Stat, nor for binary files
	Truncated        bool   // Hunks lack lines because of a limit
}

// A Hunk is a run of lines that belong together.
type Hunk struct {
	OldStart, OldCount int // lines, from 1
	NewStart, NewCount int
	Section            string // what Git takes for the function around it
	Lines              []Line
}

// A Line is one line of a hunk.
type Line struct {
	Kind     byte   // ' ', '+' or '-'
	Old, New int    // its number on either side; 0 where it is not
	Text     string // bytes as they are in the file, without the line feed; cut after 4 KiB
	NoEOL    bool   // the file ends with it and without a line feed
	Cut      bool   // Text lacks its end
}

// Diff compares.
func (r *Repo) Diff(ctx context.Context, q DiffQuery) (Diff, error) {
	return r.diff(ctx, q, true)
}

// Stat is Diff without hunks.
func (r *Repo) Stat(ctx context.Context, q DiffQuery) (Diff, error) {
	return r.diff(ctx, q, false)
}

func (r *Repo) diff(ctx context.Context, q DiffQuery, hunks bool) (Diff, error) {
	ctx, done := r.bound(ctx)
	defer done()
	c, err := r.diffCommand(ctx, &q)
	if err != nil {
		return Diff{}, err
	}
	c.Raw, c.Patch = true, hunks
	p := parser{
		diff:     Diff{Old: q.Old, New: q.New},
		hunks:    hunks,
		maxFiles: atMost(q.MaxFiles, 1000, 5000),
		maxLines: atMost(q.MaxLines, 2000, 50_000),
		room:     atMost(q.MaxTotal, 20_000, 50_000),
		bytes:    maxPatch,
	}
	if err := r.stream(ctx, gitcmd.Diff(r.dir, c), nil, p.read); err != nil {
		return Diff{}, r.explain(ctx, err, TypeTree, q.Old, q.New)
	}
	return p.diff, nil
}

func atMost(asked, usual, most int) int {
	if asked <= 0 {
		return usual
	}
	return min(asked, most)
}

// RawDiff returns the difference in Git's own format, at most limit bytes (at most 32 MiB);
// the query's limits play no part. It can be applied with `git apply`, binary files apart, unless
// truncated.
func (r *Repo) RawDiff(ctx context.Context, q DiffQuery, limit int64) (text []byte, truncated bool, err error) {
	ctx, done := r.bound(ctx)
	defer done()
	if limit < 0 {
		return nil, false, fmt.Errorf("%w: a negative limit", ErrBadQuery)
	}
	c, err := r.diffCommand(ctx, &q)
	if err != nil {
		return nil, false, err
	}
	c.Patch = true
	limit = min(limit, maxFile)
	err = r.stream(ctx, gitcmd.Diff(r.dir, c), nil, func(rd *bufio.Reader) error {
		var err error
		if text, err = io.ReadAll(io.LimitReader(rd, limit+1)); err == nil && int64(len(text)) > limit {
			text, truncated = text[:limit], true
			return errEnough
		}
		return err
	})
	return text, truncated, r.explain(ctx, err, TypeTree, q.Old, q.New)
}

// diffCommand checks a query, and fills in what is compared if that was left out.
func (r *Repo) diffCommand(ctx context.Context, q *DiffQuery) (gitcmd.DiffQuery, error) {
	paths, err := cleanPaths(q.Paths)
	if err := cmp.Or(err, r.checkOIDs(q.New)); err != nil {
		return gitcmd.DiffQuery{}, err
	}
	if q.Old == "" {
		if q.Old, err = r.parent(ctx, q.New); err != nil {
			return gitcmd.DiffQuery{}, err
		}
	}
	around := min(q.Context, 100)
	switch {
	case around == 0:
		around = 3
	case around < 0:
		around = 0
	}
	return gitcmd.DiffQuery{Old: q.Old, New: q.New, Paths: paths, Context: around, IgnoreSpace: q.IgnoreSpace}, r.checkOIDs(q.Old)
}

// parent returns a commit's first parent, or the empty tree.
func (r *Repo) parent(ctx context.Context, oid cluster.OID) (cluster.OID, error) {
	objects := r.objects(ctx)
	defer objects.close()
	got, err := objects.read(oid, 1024)
	if err != nil {
		return "", err
	}
	if got.kind == TypeCommit {
		if parent := field(string(got.data), "parent"); parent != "" {
			return cluster.OID(parent), nil
		}
	}
	if r.format == cluster.SHA256 {
		return "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321", nil
	}
	return "4b825dc642cb6eb9a060e54bf8d69288fbee4904", nil
}
