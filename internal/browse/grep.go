package browse

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

// A GrepQuery asks for lines of text files.
type GrepQuery struct {
	Root       cluster.OID // a commit or tree
	Pattern    string      // text, or a POSIX extended regular expression
	Regexp     bool
	IgnoreCase bool
	Paths      []string // only these files or folders
	Offset     int
	Limit      int // at most 1000; 0 means 100
}

// A Match is a line that matches.
type Match struct {
	Path string
	Line int    // from 1
	Text string // bytes as they are, without the line feed; cut after 1 KiB
}

// Grep searches; more says that there are others behind the last. Binary files are passed over. With
// [ErrTooLong] come the matches found until then.
func (r *Repo) Grep(ctx context.Context, q GrepQuery) (matches []Match, more bool, err error) {
	ctx, done := r.bound(ctx)
	defer done()
	offset, limit, err := window(q.Offset, q.Limit)
	paths, bad := cleanPaths(q.Paths)
	if err := cmp.Or(err, bad, r.checkOIDs(q.Root), checkText("pattern", q.Pattern)); err != nil {
		return nil, false, err
	}
	if q.Pattern == "" {
		return nil, false, fmt.Errorf("%w: an empty pattern", ErrBadQuery)
	}
	c := gitcmd.Grep(r.dir, gitcmd.GrepQuery{Root: q.Root, Pattern: q.Pattern, Regexp: q.Regexp, IgnoreCase: q.IgnoreCase, Paths: paths})
	err = r.stream(ctx, c, nil, func(rd *bufio.Reader) error {
		for {
			m, err := readMatch(rd, len(q.Root)+1)
			switch {
			case err != nil:
				return ended(err)
			case offset > 0:
				offset--
			case len(matches) == limit:
				more = true
				return errEnough
			default:
				matches = append(matches, m)
			}
		}
	})
	switch {
	case gitexec.Status(err) == 1:
		return nil, false, nil // no line matches
	case err != nil && q.Regexp && strings.Contains(err.Error(), "fatal: -e option, "):
		return nil, false, fmt.Errorf("%w: the regular expression %q is malformed, or too large", ErrBadQuery, q.Pattern)
	}
	return matches, more, r.explain(ctx, err, TypeTree, q.Root)
}

// readMatch reads "ROOT:path NUL line NUL text".
func readMatch(rd *bufio.Reader, prefix int) (Match, error) {
	path, _, err := text(rd, 0, 2*maxPath)
	if err != nil {
		return Match{}, err
	}
	line, _, err := text(rd, 0, 32)
	if err != nil {
		return Match{}, err
	}
	n, err := strconv.Atoi(line)
	if err != nil || len(path) < prefix {
		return Match{}, fmt.Errorf("unexpected line %.200q from git grep", line)
	}
	match, _, err := text(rd, '\n', 1024)
	return Match{Path: path[prefix:], Line: n, Text: match}, err
}
