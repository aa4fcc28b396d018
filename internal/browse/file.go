package browse

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

// A File is a file's, or symlink's, contents.
type File struct {
	OID       cluster.OID
	Mode      Mode
	Size      int64  // of the whole file
	Data      []byte // its beginning; whole unless Truncated
	Truncated bool
	Binary    bool // there is a NUL byte in the first 8000, as Git tells
}

// File returns the first limit bytes (at most 32 MiB) of the file at path in a
// commit or tree. A directory or submodule there is [cluster.ErrNotFound].
func (r *Repo) File(ctx context.Context, root cluster.OID, path string, limit int64) (File, error) {
	ctx, done := r.bound(ctx)
	defer done()
	objects := r.objects(ctx)
	defer objects.close()
	e, err := r.lookup(objects, root, path)
	if err != nil {
		return File{}, err
	}
	if e.Type != TypeBlob {
		return File{}, noPath(path)
	}
	f, err := objects.file(e.OID, limit)
	f.Mode = e.Mode
	return f, err
}

// Blob is File for a blob whose id is known; Mode is 0.
func (r *Repo) Blob(ctx context.Context, oid cluster.OID, limit int64) (File, error) {
	ctx, done := r.bound(ctx)
	defer done()
	if err := r.checkOIDs(oid); err != nil {
		return File{}, err
	}
	objects := r.objects(ctx)
	defer objects.close()
	return objects.file(oid, limit)
}

func (o *objects) file(oid cluster.OID, limit int64) (File, error) {
	if limit < 0 {
		return File{}, fmt.Errorf("%w: a negative limit", ErrBadQuery)
	}
	// What tells binary files is read in any case.
	const told = 8000
	limit = min(limit, maxFile)
	got, err := o.read(oid, max(limit, told))
	if err != nil {
		return File{}, err
	}
	if got.kind != TypeBlob {
		return File{}, noObject(oid, TypeBlob)
	}
	f := File{OID: oid, Size: got.size, Data: got.data}
	f.Binary = bytes.IndexByte(f.Data[:min(len(f.Data), told)], 0) >= 0
	if f.Size > limit {
		f.Data, f.Truncated = f.Data[:limit], true
	}
	return f, nil
}

// Raw writes a whole blob to w as it is read. Its time is bounded by ctx alone, for a
// slow reader is no slow question.
func (r *Repo) Raw(ctx context.Context, oid cluster.OID, w io.Writer) error {
	if err := r.checkOIDs(oid); err != nil {
		return err
	}
	err := r.browser.run.Run(ctx, gitcmd.Blob(r.dir, oid), gitexec.IO{Stdout: w})
	return r.explain(ctx, err, TypeBlob, oid)
}

// A BlameHunk is a run of lines that one commit wrote.
type BlameHunk struct {
	Commit   Commit
	Path     string // of the file in that commit
	Line     int    // first line in the file asked for, from 1
	Original int    // first line in that commit's file, from 1
	Count    int    // lines
}

// Blame says which commit wrote the lines from … to (from 1, inclusive; 0 means first and
// last; at most 10,000 lines) of a file; past the end there are none. The hunks are in the file's order. With
// [ErrTooLong] come those found until then, and some lines are in none.
func (r *Repo) Blame(ctx context.Context, commit cluster.OID, path string, from, to int) ([]BlameHunk, error) {
	const most = 10_000
	from = max(from, 1)
	if to <= 0 {
		to = from + most - 1
	}
	if to < from || to-from >= most {
		return nil, fmt.Errorf("%w: lines %d to %d", ErrBadQuery, from, to)
	}
	path, err := cleanPath(path)
	if err != nil {
		return nil, err
	}
	e, err := r.Lookup(ctx, commit, path)
	if err != nil {
		return nil, err
	}
	if e.Type != TypeBlob {
		return nil, noPath(path)
	}
	asking, done := r.bound(ctx)
	defer done()
	var hunks []BlameHunk
	late := r.stream(asking, gitcmd.Blame(r.dir, commit, path, from, to), nil, func(rd *bufio.Reader) error {
		for {
			h, err := readBlame(rd)
			if err != nil {
				return ended(err)
			}
			hunks = append(hunks, h)
		}
	})
	if late != nil && context.Cause(asking) == nil {
		if strings.Contains(late.Error(), " has only ") {
			return nil, nil // lines behind the last
		}
		return nil, r.explain(ctx, late, TypeCommit, commit)
	}
	slices.SortFunc(hunks, func(a, b BlameHunk) int { return a.Line - b.Line })
	if err := r.credit(ctx, hunks); err != nil {
		return nil, err
	}
	return hunks, late
}

// readBlame reads one hunk: "OID original line count", then lines of which the
// last is "filename PATH".
func readBlame(rd *bufio.Reader) (BlameHunk, error) {
	line, _, err := text(rd, '\n', 1024)
	if err != nil {
		return BlameHunk{}, err
	}
	f := strings.Fields(line)
	if len(f) != 4 {
		return BlameHunk{}, fmt.Errorf("unexpected line %.200q from git blame", line)
	}
	h := BlameHunk{Commit: Commit{OID: cluster.OID(f[0])}}
	for i, n := range []*int{&h.Original, &h.Line, &h.Count} {
		if *n, err = strconv.Atoi(f[i+1]); err != nil {
			return BlameHunk{}, fmt.Errorf("unexpected line %.200q from git blame", line)
		}
	}
	for {
		line, _, err := text(rd, '\n', 4*maxPath)
		if err != nil {
			return BlameHunk{}, err
		}
		if name, ok := strings.CutPrefix(line, "filename "); ok {
			h.Path = unquote(name)
			return h, nil
		}
	}
}

// credit fills in the commits of hunks, which have their ids only.
func (r *Repo) credit(ctx context.Context, hunks []BlameHunk) error {
	ctx, done := r.bound(ctx)
	defer done()
	var oids []cluster.OID
	for _, h := range hunks {
		oids = append(oids, h.Commit.OID)
	}
	slices.Sort(oids)
	oids = slices.Compact(oids)
	commits, err := r.commits(ctx, oids)
	if err != nil {
		return err
	}
	for i := range hunks {
		n, _ := slices.BinarySearch(oids, hunks[i].Commit.OID)
		hunks[i].Commit = commits[n]
	}
	return nil
}

// unquote reads a path as Git writes it in a line: as it is, or by C's rules between quotes if it
// has a control character, a quote or a backslash.
func unquote(s string) string {
	inner, ok := strings.CutPrefix(s, `"`)
	if !ok || !strings.HasSuffix(inner, `"`) {
		return s
	}
	inner = inner[:len(inner)-1]
	var b strings.Builder
	for i := 0; i < len(inner); i++ {
		if inner[i] != '\\' || i+1 == len(inner) {
			b.WriteByte(inner[i])
			continue
		}
		i++
		if i+2 < len(inner) && inner[i] >= '0' && inner[i] <= '3' {
			if n, err := strconv.ParseUint(inner[i:i+3], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 2
				continue
			}
		}
		if n := strings.IndexByte(`abtnvfr`, inner[i]); n >= 0 {
			b.WriteByte("\a\b\t\n\v\f\r"[n])
		} else {
			b.WriteByte(inner[i])
		}
	}
	return b.String()
}
