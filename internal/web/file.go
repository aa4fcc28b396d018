package web

import (
	"bytes"
	"context"
	"errors"
	"html/template"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"time"
	"unicode/utf8"

	"gitcluster/internal/browse"
	"gitcluster/internal/cluster"
)

// filePage shows a file.
type filePage struct {
	Spot     spot
	Name     string
	Size     int64
	Mode     string // "executable", "symlink"
	Last     browse.Commit
	Lines    []template.HTML
	Document *document // rendered, unless the source was asked for
	Rendered bool      // there is a document
	Source   string    // address of the source of a document
	Image    string    // address of a picture that may be shown
	Target   string    // of a symlink
	Why      string    // why nothing of it is shown
}

func (v *visit) file(ctx context.Context, rest string) (*page, error) {
	if err := v.locate(ctx, rest); err != nil {
		return nil, err
	}
	entry, err := v.git.Lookup(ctx, v.root(), v.path)
	if err != nil {
		return nil, err
	}
	if entry.Type == browse.TypeTree { // a document may link to a directory as to a file
		v.redirect(http.StatusFound, v.link.Tree(v.rev, v.path))
		return nil, nil
	}
	file, err := v.git.File(ctx, v.root(), v.path, mostHighlighted)
	if err != nil {
		return nil, err
	}
	b := filePage{Name: path.Base(v.path), Size: file.Size}
	if b.Spot, err = v.spot(ctx, v.link.File); err != nil {
		return nil, err
	}
	if b.Last, err = v.lastChange(ctx); err != nil {
		return nil, err
	}
	switch {
	case file.Mode == browse.ModeSymlink:
		b.Mode, b.Target = "symlink", string(file.Data)
	case file.Mode == browse.ModeExecutable:
		b.Mode = "executable"
	}
	plain := v.r.FormValue("source") == "1"
	switch {
	case b.Target != "":
	case pictureType(file.Data) != "":
		b.Image = v.link.Raw(v.rev, v.path)
	case file.Binary:
		b.Why = "This file is binary."
	case file.Truncated:
		b.Why = "This file is too large to be shown here."
	case file.Size == 0:
		b.Why = "This file is empty."
	case bytes.Count(file.Data, []byte("\n")) > mostLines:
		b.Why = "This file has too many lines to be shown here."
	default:
		if isMarkdown(v.path) && file.Size <= mostMarkdown {
			b.Rendered, b.Source = true, v.link.page("file", below(v.rev, v.path), "source", "1")
			if !plain {
				b.Document = v.document(ctx, v.path, file)
			}
		}
		if b.Document == nil {
			b.Lines = v.lines(ctx, v.path, string(file.Data))
		}
	}
	return &page{template: "file", Title: v.title(), Body: b}, nil
}

// lastChange is the newest commit that changed what is shown.
func (v *visit) lastChange(ctx context.Context) (browse.Commit, error) {
	if v.at.Commit == "" {
		return browse.Commit{}, nil
	}
	dir := path.Dir(v.path)
	if dir == "." {
		dir = ""
	}
	name := path.Base(v.path)
	last, _, err := v.git.LastModified(ctx, v.at.Commit, dir, []string{name})
	return last[name], err
}

// rawTime bounds a download; a visitor that takes nothing is dropped long before.
const rawTime = time.Hour

// raw answers with a file as it is.
//
// No file may act as a page of this site, whatever it is and however a browser guesses:
// text is plain text, pictures that cannot hold a script are pictures, all else is a
// download. The policy would put even a mistake of that into a box without scripts.
func (a *asked) raw(name cluster.RepoName, rest string) error {
	ctx, cancel := context.WithTimeoutCause(a.whole, rawTime, browse.ErrTooLong)
	defer cancel()
	var held *visit
	var file browse.File
	err := a.visit(ctx, name, "raw", func(ctx context.Context, v *visit) (err error) {
		if err = v.locate(ctx, rest); err != nil {
			return err
		}
		if file, err = v.git.File(ctx, v.root(), v.path, mostHeld); err != nil {
			return err
		}
		if file.Mode == browse.ModeSymlink {
			return cluster.ErrNotFound // where it points to is not the repository's to say
		}
		if !file.Truncated {
			held = v
			return nil
		}
		return v.stream(ctx, file)
	})
	if err != nil || held == nil {
		return err
	}
	// As with a page: a visitor may be slow. A large file takes its turn as a clone does.
	give, ok := a.hold(len(file.Data))
	if !ok {
		return cluster.ErrBusy
	}
	defer give()
	if held.announce(file) {
		a.w.Write(file.Data)
	}
	return nil
}

const (
	sniffed  = 8000    // bytes of a file that tell what it is
	mostHeld = 1 << 20 // of a file that is sent from memory
)

// announce sends the head of a file, and reports whether its contents are to follow.
func (v *visit) announce(file browse.File) bool {
	h := v.w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; sandbox; frame-ancestors 'none'")
	kind := pictureType(file.Data)
	if kind == "" && !file.Binary && mostlyUTF8(file.Data[:min(len(file.Data), sniffed)]) {
		kind = "text/plain; charset=utf-8"
	}
	if kind == "" {
		kind = "application/octet-stream"
		h.Set("Content-Disposition", "attachment; filename*=UTF-8''"+url.PathEscape(path.Base(v.path)))
	}
	h.Set("Content-Type", kind)
	etag := `"` + string(file.OID) + `"`
	h.Set("ETag", etag)
	if v.r.Header.Get("If-None-Match") == etag {
		v.w.WriteHeader(http.StatusNotModified)
		return false
	}
	h.Set("Content-Length", strconv.FormatInt(file.Size, 10))
	return v.r.Method != http.MethodHead
}

// stream sends a file as Git reads it.
func (v *visit) stream(ctx context.Context, file browse.File) error {
	if !v.announce(file) {
		return nil
	}
	if err := v.git.Raw(ctx, file.OID, v.w); err != nil {
		// What was announced cannot come: the connection has to end, or half a file
		// would look like a whole one.
		v.Log.Info("a download ended early", "path", v.r.URL.Path, "error", err)
		panic(http.ErrAbortHandler)
	}
	return nil
}

// pictureType is the media type of a picture that every browser shows and that
// can hold no script, told from its first bytes; "" for all else, SVG included.
func pictureType(data []byte) string {
	switch kind := http.DetectContentType(data); kind {
	case "image/png", "image/jpeg", "image/gif", "image/webp":
		return kind
	}
	return ""
}

// mostlyUTF8 is for the beginning of a file, which may end within a character.
func mostlyUTF8(data []byte) bool {
	for cut := range min(utf8.UTFMax, len(data)+1) {
		if utf8.Valid(data[:len(data)-cut]) {
			return true
		}
	}
	return false
}

// blamePage shows who wrote each line of a file.
type blamePage struct {
	Spot  spot
	Hunks []blameHunk
	First int // line
	Last  int
	Prev  string // address of the lines before
	Next  string
	Why   string
}

type blameHunk struct {
	Commit browse.Commit
	Older  string // address of the file before that commit
	Shade  int    // how recent, 0 … 4
	Lines  []blameLine
}

type blameLine struct {
	Number int
	HTML   template.HTML
}

// blamed is how many lines a page of blame has.
const blamed = 2000

func (v *visit) blame(ctx context.Context, rest string) (*page, error) {
	if err := v.locate(ctx, rest); err != nil {
		return nil, err
	}
	file, err := v.git.File(ctx, v.root(), v.path, mostHighlighted)
	if err != nil {
		return nil, err
	}
	b := blamePage{}
	if b.Spot, err = v.spot(ctx, v.link.Blame); err != nil {
		return nil, err
	}
	switch {
	case v.at.Commit == "":
		return nil, cluster.ErrNotFound
	case file.Binary:
		b.Why = "This file is binary."
	case file.Truncated:
		b.Why = "This file is too large to be shown here."
	case file.Size == 0:
		b.Why = "This file is empty."
	case bytes.Count(file.Data, []byte("\n")) > mostLines:
		b.Why = "This file has too many lines to be shown here."
	}
	if b.Why == "" {
		err = v.blameLines(ctx, &b, v.lines(ctx, v.path, string(file.Data)))
	}
	return &page{template: "blame", Title: "Blame " + v.title(), Body: b}, err
}

func (v *visit) blameLines(ctx context.Context, b *blamePage, lines []template.HTML) error {
	from, _ := strconv.Atoi(v.r.FormValue("from"))
	if from < 1 || from > len(lines) {
		from = 1
	}
	to := min(from+blamed-1, len(lines))
	hunks, err := v.git.Blame(ctx, v.at.Commit, v.path, from, to)
	if err != nil && !(errors.Is(err, browse.ErrTooLong) && len(hunks) > 0) {
		return err
	}
	b.First, b.Last = from, to
	here := below(v.rev, v.path)
	if from > 1 {
		b.Prev = v.link.page("blame", here, "from", strconv.Itoa(max(1, from-blamed)))
	}
	if to < len(lines) {
		b.Next = v.link.page("blame", here, "from", strconv.Itoa(to+1))
	}
	oldest, newest := time.Now(), time.Time{}
	for _, h := range hunks {
		if when := h.Commit.Author.When; when.Before(oldest) {
			oldest = when
		}
		if when := h.Commit.Author.When; when.After(newest) {
			newest = when
		}
	}
	for _, h := range hunks {
		out := blameHunk{Commit: h.Commit}
		if span := newest.Sub(oldest); span > 0 {
			out.Shade = int(4 * h.Commit.Author.When.Sub(oldest) / span)
		}
		if len(h.Commit.Parents) > 0 {
			out.Older = v.link.Blame(string(h.Commit.Parents[0]), h.Path)
		}
		for i := h.Line; i < h.Line+h.Count && i <= len(lines); i++ {
			out.Lines = append(out.Lines, blameLine{i, lines[i-1]})
		}
		b.Hunks = append(b.Hunks, out)
	}
	return nil
}
