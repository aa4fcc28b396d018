package conduit

import (
	"context"
	"encoding/base64"
	"errors"
	"path"
	"strconv"
	"unicode/utf8"

	"gitcluster/internal/browse"
	"gitcluster/internal/cluster"
)

var fileMethods = map[string]method{
	"diffusion.browsequery": {
		about: "Lists a directory.",
		gives: "dict",
		params: reading(map[string]string{
			"path":             "optional string",
			"commit":           "optional string",
			"needValidityOnly": "optional bool",
			"limit":            "optional int",
			"offset":           "optional int",
		}),
		run: browseQuery,
	},
	"diffusion.filecontentquery": {
		about: "Gives a file's contents.",
		gives: "dict",
		params: reading(map[string]string{
			"path":      "required string",
			"commit":    "optional string",
			"timeout":   "optional int",
			"byteLimit": "optional int",
		}),
		run: fileContentQuery,
	},
	"diffusion.querypaths": {
		about: "Lists the paths of all files below a directory.",
		gives: "list<string>",
		params: reading(map[string]string{
			"path":    "optional string",
			"commit":  "optional string",
			"pattern": "optional string",
			"limit":   "optional int",
			"offset":  "optional int",
		}),
		run: queryPaths,
	},
	"diffusion.searchquery": {
		about: "Searches the lines of all text files below a directory for an extended regular expression.",
		gives: "list<list<string>>",
		params: reading(map[string]string{
			"path":   "optional string",
			"commit": "optional string",
			"grep":   "required string",
			"limit":  "optional int (default = 100)",
			"offset": "optional int",
		}),
		run: searchQuery,
	},
}

// Kinds of files, with Phabricator's numbers.
const (
	fileText      = 1
	fileBinary    = 3
	fileDirectory = 4
	fileSymlink   = 5
	fileNormal    = 7
	fileSubmodule = 8
)

// A listing answers browsequery.
type listing struct {
	Paths   []listed     `json:"paths"`
	Valid   bool         `json:"isValidResults"`
	Reason  *string      `json:"reasonForEmptyResultSet"`
	Existed *cluster.OID `json:"existedAtCommit"`
	Deleted *cluster.OID `json:"deletedAtCommit"`
}

// A listed is an entry of a directory.
type listed struct {
	FullPath string      `json:"fullPath"`
	Path     string      `json:"path"`
	Hash     cluster.OID `json:"hash"`
	FileType int         `json:"fileType"`
	FileSize *int64      `json:"fileSize"`
	// For compatibility; always null.
	ExternalURI        *string `json:"externalURI"`
	LastModifiedCommit *string `json:"lastModifiedCommit"`
	LastCommitData     *string `json:"lastCommitData"`
}

func (l listing) because(reason string) listing {
	l.Reason = &reason
	return l
}

func browseQuery(ctx context.Context, q *call) (any, error) {
	dir, validityOnly := q.path("path"), q.truth("needValidityOnly")
	limit, offset, rev := q.limit(maxLimit), q.offset(), q.text("commit")
	return q.open(ctx, func(ctx context.Context, r *browse.Repo) (_ any, err error) {
		empty := listing{Paths: []listed{}}
		commit, err := q.commit(ctx, r)
		if f := (*fault)(nil); errors.As(err, &f) {
			if rev == "" && q.text("branch") == "" {
				return empty.because("empty"), nil // there is no default branch yet
			}
			return empty.because("bad-commit"), nil
		}
		if err != nil {
			return nil, err
		}
		entry, err := r.Lookup(ctx, commit, dir)
		switch {
		case errors.Is(err, cluster.ErrNotFound):
			return q.missing(ctx, r, commit, dir)
		case err != nil:
			return nil, err
		case entry.Type == browse.TypeBlob:
			return empty.because("is-file"), nil
		case entry.Type == browse.TypeCommit:
			return empty.because("is-submodule"), nil
		}
		empty.Valid = true
		if validityOnly {
			return empty, nil
		}
		tree, err := r.Tree(ctx, commit, dir)
		if err != nil {
			return nil, err
		}
		some := tree.Entries[min(offset, len(tree.Entries)):]
		q.read.More = tree.Truncated || len(some) > limit
		for _, e := range some[:min(limit, len(some))] {
			empty.Paths = append(empty.Paths, list(dir, e))
		}
		return empty, nil
	})
}

func list(dir string, e browse.Entry) listed {
	l := listed{FullPath: path.Join(dir, e.Name), Path: e.Name, Hash: e.OID, FileType: fileNormal}
	switch {
	case e.Type == browse.TypeTree:
		l.FileType = fileDirectory
	case e.Type == browse.TypeCommit:
		l.FileType = fileSubmodule
	default:
		l.FileSize = &e.Size
		if e.Mode == browse.ModeSymlink {
			l.FileType = fileSymlink
		}
	}
	return l
}

// missing says whether a path that is not there once was.
func (q *call) missing(ctx context.Context, r *browse.Repo, commit cluster.OID, dir string) (any, error) {
	l := listing{Paths: []listed{}}
	last, _, err := r.History(ctx, browse.HistoryQuery{From: []cluster.OID{commit}, Paths: []string{dir}, Limit: 2})
	if err != nil && !errors.Is(err, browse.ErrTooLong) && !errors.Is(err, cluster.ErrNotFound) {
		return nil, err
	}
	if len(last) == 0 { // or the path is none that could ever be there
		return l.because("nonexistent"), nil
	}
	l.Deleted = &last[0].OID
	if len(last) > 1 {
		l.Existed = &last[1].OID
	}
	return l.because("is-deleted"), nil
}

// maxContent bounds a file's contents or a difference in an answer, in bytes.
const maxContent = 8 << 20

// A content answers filecontentquery and rawdiffquery. Phabricator keeps the
// text as a file and gives its PHID; here it is in the answer.
type content struct {
	TooSlow  bool         `json:"tooSlow"`
	TooHuge  bool         `json:"tooHuge"`
	FilePHID *string      `json:"filePHID"` // always null
	Content  *string      `json:"content"`  // null if it is too huge or too slow
	Encoding *string      `json:"encoding"` // of content: "utf-8" or "base64"
	Size     *int64       `json:"size,omitempty"`
	Hash     *cluster.OID `json:"hash,omitempty"`
}

// fill puts in bytes as text if they are that.
func (c *content) fill(data []byte) {
	encoding, text := "utf-8", string(data)
	if !utf8.Valid(data) {
		encoding, text = "base64", base64.StdEncoding.EncodeToString(data)
	}
	c.Encoding, c.Content = &encoding, &text
}

// byteLimit and timeout are parameters of both; a timeout here is always the node's own.
func (q *call) byteLimit() int64 {
	q.number("timeout", 0, 1<<31-1)
	if n := q.number("byteLimit", maxContent, 1<<31-1); 0 < n && n < maxContent {
		return int64(n)
	}
	return maxContent
}

func fileContentQuery(ctx context.Context, q *call) (any, error) {
	name, limit := q.path("path"), q.byteLimit()
	q.required("path")
	q.text("commit")
	return q.open(ctx, func(ctx context.Context, r *browse.Repo) (_ any, err error) {
		commit, err := q.commit(ctx, r)
		if err != nil {
			return nil, err
		}
		f, err := r.File(ctx, commit, name, limit)
		switch {
		case errors.Is(err, browse.ErrTooLong):
			return content{TooSlow: true}, nil
		case errors.Is(err, cluster.ErrNotFound):
			return nil, faultf(codePath, "file %q in %s: %w", clip(name), commit, err)
		case err != nil:
			return nil, err
		}
		c := content{TooHuge: f.Truncated, Size: &f.Size, Hash: &f.OID}
		if !f.Truncated {
			c.fill(f.Data)
		}
		return c, nil
	})
}

func queryPaths(ctx context.Context, q *call) (any, error) {
	query := browse.PathQuery{Dir: q.path("path"), Match: q.text("pattern"), Limit: q.limit(maxLimit), Offset: q.offset()}
	q.text("commit")
	return q.open(ctx, func(ctx context.Context, r *browse.Repo) (_ any, err error) {
		if query.Root, err = q.commit(ctx, r); err != nil {
			return nil, err
		}
		paths, more, err := r.Paths(ctx, query)
		if errors.Is(err, cluster.ErrNotFound) {
			return []string{}, nil
		}
		if err != nil {
			return nil, err
		}
		q.read.More = more
		if paths == nil {
			paths = []string{}
		}
		return paths, nil
	})
}

// searchQuery gives [path, line, text] for each line that matches. The line's
// number is text, as in Phabricator.
func searchQuery(ctx context.Context, q *call) (any, error) {
	query := browse.GrepQuery{Pattern: q.required("grep"), Regexp: true, Limit: q.limit(100), Offset: q.offset()}
	if dir := q.path("path"); dir != "" {
		query.Paths = []string{dir}
	}
	q.text("commit")
	return q.open(ctx, func(ctx context.Context, r *browse.Repo) (_ any, err error) {
		if query.Root, err = q.commit(ctx, r); err != nil {
			return nil, err
		}
		matches, more, err := r.Grep(ctx, query)
		if err != nil && !(errors.Is(err, browse.ErrTooLong) && len(matches) > 0) {
			return nil, err
		}
		q.read.More = more || err != nil
		found := [][]string{}
		for _, m := range matches {
			found = append(found, []string{m.Path, strconv.Itoa(m.Line), m.Text})
		}
		return found, nil
	})
}
