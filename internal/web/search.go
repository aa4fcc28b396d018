package web

import (
	"context"
	"errors"
	"regexp"
	"strconv"

	"gitcluster/internal/browse"
	"gitcluster/internal/cluster"
)

// searchPage shows where a text is.
type searchPage struct {
	Spot    spot
	Query   string
	Regexp  bool
	Exact   bool // upper and lower case differ
	Files   []searchFile
	Paths   []foundPath
	Matches int
	Cut     bool // given up before its end
	Wrong   string
	Form    string
	Next    string
}

type foundPath struct{ Path, Address string }

type searchFile struct {
	Path    string
	Address string
	Lines   []searchLine
}

type searchLine struct {
	Number int
	Parts  []matchPart
}

// A matchPart is a piece of a line; Hit marks what was looked for.
type matchPart struct {
	Text string
	Hit  bool
}

const (
	searchRows = 200
	pathRows   = 20
)

func (v *visit) search(ctx context.Context, rest string) (*page, error) {
	if rest != "" {
		return nil, cluster.ErrNotFound
	}
	rev := v.r.FormValue("rev")
	if rev == "" {
		if err := v.locateHead(ctx); err != nil {
			return nil, err
		}
		if v.at.Commit == "" {
			return nil, cluster.ErrNotFound
		}
	} else {
		at, err := v.git.Resolve(ctx, rev)
		if err != nil {
			return nil, err
		}
		v.at, v.rev = at, rev
	}
	b := searchPage{Query: clip(v.r.FormValue("q")), Regexp: v.r.FormValue("regexp") == "1", Exact: v.r.FormValue("case") == "1", Form: v.link.Page("search")}
	var err error
	if b.Spot, err = v.spot(ctx, func(rev, _ string) string { return v.link.page("search", "", "rev", rev, "q", b.Query) }); err != nil {
		return nil, err
	}
	if b.Query != "" {
		if err := v.find(ctx, &b); err != nil {
			return nil, err
		}
	}
	return &page{template: "search", Title: "Search", Body: b}, nil
}

// find looks for the query in the names of files, and in the files.
func (v *visit) find(ctx context.Context, b *searchPage) (err error) {
	skip, _ := strconv.Atoi(v.r.FormValue("skip"))
	skip = max(0, skip)
	if skip == 0 && !b.Regexp {
		paths, _, err := v.git.Paths(ctx, browse.PathQuery{Root: v.root(), Match: b.Query, Fold: !b.Exact, Limit: pathRows})
		if err != nil && !errors.Is(err, browse.ErrTooLong) {
			return err
		}
		for _, p := range paths {
			b.Paths = append(b.Paths, foundPath{p, v.link.File(v.rev, p)})
		}
	}
	matches, more, err := v.git.Grep(ctx, browse.GrepQuery{Root: v.root(), Pattern: b.Query, Regexp: b.Regexp, IgnoreCase: !b.Exact, Offset: skip, Limit: searchRows})
	if errors.Is(err, browse.ErrBadQuery) {
		b.Wrong = "This is no regular expression that Git understands."
		return nil
	}
	if b.Cut, err = cutShort(err); err != nil {
		return err
	}
	hits := hitPattern(b)
	for _, m := range matches {
		if n := len(b.Files); n == 0 || b.Files[n-1].Path != m.Path {
			b.Files = append(b.Files, searchFile{Path: m.Path, Address: v.link.File(v.rev, m.Path)})
		}
		f := &b.Files[len(b.Files)-1]
		f.Lines = append(f.Lines, searchLine{m.Line, parts(m.Text, hits)})
	}
	b.Matches = len(matches)
	if more {
		on := func(yes bool) string {
			if yes {
				return "1"
			}
			return ""
		}
		b.Next = v.link.page("search", "", "rev", v.r.FormValue("rev"), "q", b.Query, "regexp", on(b.Regexp), "case", on(b.Exact), "skip", strconv.Itoa(skip+searchRows))
	}
	return nil
}

// hitPattern finds the query again in the lines that Git has found, to mark it; nil if that
// cannot be said.
func hitPattern(b *searchPage) *regexp.Regexp {
	pattern := b.Query
	if !b.Regexp {
		pattern = regexp.QuoteMeta(pattern)
	}
	if !b.Exact {
		pattern = "(?i)" + pattern
	}
	hits, err := regexp.Compile(pattern) // linear in time, whatever the pattern
	if err != nil {
		return nil
	}
	return hits
}

func parts(text string, hits *regexp.Regexp) (all []matchPart) {
	end := 0
	if hits != nil {
		for _, at := range hits.FindAllStringIndex(text, 50) {
			if at[0] == at[1] {
				continue
			}
			all = append(all, matchPart{text[end:at[0]], false}, matchPart{text[at[0]:at[1]], true})
			end = at[1]
		}
	}
	return append(all, matchPart{text[end:], false})
}
