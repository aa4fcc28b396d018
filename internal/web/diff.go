package web

import (
	"context"
	"errors"
	"html/template"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"gitcluster/internal/browse"
	"gitcluster/internal/cluster"
)

// A diffView is a difference as a page shows it.
type diffView struct {
	browse.Diff
	Files []fileView
}

type fileView struct {
	browse.FileDiff
	ID      string // of the element on the page
	Whole   string // address that shows more of a file that was cut
	At      string // address of the file after the change, or before it
	Folded  bool   // many lines: shown when asked for
	Renamed bool
	Modes   bool // the mode changed
	Hunks   []hunkView
}

type hunkView struct {
	browse.Hunk
	Lines []lineView
}

type lineView struct {
	browse.Line
	HTML template.HTML
}

// unfolded is how many changed lines of a file are shown without being asked for.
const unfolded = 400

// diff compares; only, if not empty, is the one file that is wanted whole.
func (v *visit) diff(ctx context.Context, q browse.DiffQuery, only string, whole func(path string) string) (diffView, error) {
	q.MaxFiles, q.MaxLines, q.MaxTotal = 300, 1000, 8000
	if only != "" {
		q.Paths, q.MaxLines, q.MaxTotal = []string{only}, 20_000, 20_000
	}
	d, err := v.git.Diff(ctx, q)
	if err != nil {
		return diffView{}, err
	}
	view := diffView{Diff: d}
	for i, f := range d.Files {
		fv := fileView{FileDiff: f, ID: "f" + strconv.Itoa(i+1), Renamed: f.OldPath != f.NewPath,
			Modes: f.OldMode != f.NewMode && f.OldMode != 0 && f.NewMode != 0, Folded: only == "" && f.Added+f.Removed > unfolded}
		if f.Truncated && only == "" {
			fv.Whole = whole(f.NewPath)
		}
		switch {
		case f.NewMode == browse.ModeSubmodule || f.OldMode == browse.ModeSubmodule:
		case f.Status == browse.StatusDeleted:
			if d.Old != "" {
				fv.At = v.link.File(string(d.Old), f.OldPath)
			}
		default:
			fv.At = v.link.File(string(q.New), f.NewPath)
		}
		for _, h := range f.Hunks {
			fv.Hunks = append(fv.Hunks, hunkView{h, hunkLines(h.Lines)})
		}
		view.Files = append(view.Files, fv)
	}
	return view, nil
}

// hunkLines renders lines. In a run of removed lines that as many added ones follow,
// what differs within each pair is marked.
func hunkLines(lines []browse.Line) []lineView {
	views := make([]lineView, len(lines))
	for i, l := range lines {
		views[i] = lineView{Line: l, HTML: plainHTML(l.Text)}
	}
	for i := 0; i < len(lines); {
		removed := run(lines[i:], '-')
		added := run(lines[i+removed:], '+')
		if removed > 0 && removed == added {
			for j := i; j < i+removed; j++ {
				views[j].HTML, views[j+removed].HTML = markPair(lines[j].Text, lines[j+removed].Text)
			}
		}
		i += max(1, removed+added)
	}
	return views
}

func run(lines []browse.Line, kind byte) (n int) {
	for n < len(lines) && lines[n].Kind == kind {
		n++
	}
	return n
}

// markPair marks what differs between two lines, unless that is most of them.
func markPair(old, new string) (template.HTML, template.HTML) {
	start := 0
	for start < len(old) && start < len(new) && old[start] == new[start] {
		start++
	}
	for start > 0 && !(boundary(old, start) && boundary(new, start)) {
		start--
	}
	end := 0
	for end < len(old)-start && end < len(new)-start && old[len(old)-1-end] == new[len(new)-1-end] {
		end++
	}
	for end > 0 && !(boundary(old, len(old)-end) && boundary(new, len(new)-end)) {
		end--
	}
	if same := len(strings.TrimSpace(old[:start])) + len(strings.TrimSpace(old[len(old)-end:])); 4*same < max(len(old), len(new)) {
		return plainHTML(old), plainHTML(new)
	}
	return marked(old, start, end), marked(new, start, end)
}

// boundary reports whether a mark may start or end before byte i: not within a word.
func boundary(s string, i int) bool {
	before, _ := utf8.DecodeLastRuneInString(s[:i])
	after, _ := utf8.DecodeRuneInString(s[i:])
	return (i == len(s) || utf8.RuneStart(s[i])) && !(inWord(before) && inWord(after))
}

func inWord(r rune) bool { return r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r) }

func marked(s string, start, end int) template.HTML {
	middle := s[start : len(s)-end]
	if middle == "" {
		return plainHTML(s)
	}
	return plainHTML(s[:start]) + "<b>" + plainHTML(middle) + "</b>" + plainHTML(s[len(s)-end:])
}

// bothEnds resolves "OLD...NEW"; no ref's name has two dots in a row.
func (v *visit) bothEnds(ctx context.Context, spec string, old, new *browse.Object) (oldRev, newRev string, err error) {
	oldRev, newRev, ok := strings.Cut(spec, "...")
	if !ok || oldRev == "" || newRev == "" {
		return oldRev, newRev, cluster.ErrNotFound
	}
	if *old, err = v.git.Resolve(ctx, oldRev); err == nil {
		*new, err = v.git.Resolve(ctx, newRev)
	}
	if errors.Is(err, browse.ErrBadQuery) || err == nil && (old.Commit == "" || new.Commit == "") {
		err = cluster.ErrNotFound
	}
	return oldRev, newRev, err
}

// messageBody is a commit's message without its subject.
func messageBody(c browse.Commit) string {
	_, body, _ := strings.Cut(strings.TrimLeft(c.Message, "\n"), "\n\n")
	return strings.TrimRight(body, "\n ")
}

// cutShort turns the end of a question's time into a remark on the page.
func cutShort(err error) (bool, error) {
	if errors.Is(err, browse.ErrTooLong) {
		return true, nil
	}
	return false, err
}

// clip bounds what a form may ask for.
func clip(s string) string {
	const most = 200
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "")
	}
	return strings.TrimSpace(s)
}
