package main

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
)

// A history is a made-up project as it grows: source files in deep folders that
// are changed a few lines at a time. The same seed and shape always give the same
// commits.
type history struct {
	rnd     *rand.Rand
	words   []string
	zipf    *rand.Zipf
	files   []*file
	folders []string
	commits int
	shape   shape
}

// A shape is how large a project is.
type shape struct {
	Files   int // at the first commit
	Lines   int // of a file, on average
	Commits int
	Touched int // files that a commit changes, at most
	Hunk    int // lines that a change rewrites, at most
	NewFile int // every so many commits add a file; 0 for none
}

type file struct {
	path  string
	lines []string
}

const seed = 20_240_229

// newHistory returns a project before its first commit.
func newHistory(s shape) *history {
	h := &history{rnd: rand.New(rand.NewPCG(seed, 1)), shape: s}
	syllables := strings.Fields("ba co de fi ge hu in jo ka le mo nu op pa qui re so ta un vi wa xe yo zu ar en ist or per sub trans con")
	for range 4000 {
		var b strings.Builder
		for range 1 + h.rnd.IntN(4) {
			b.WriteString(syllables[h.rnd.IntN(len(syllables))])
		}
		h.words = append(h.words, b.String())
	}
	h.zipf = rand.NewZipf(h.rnd, 1.1, 4, uint64(len(h.words)-1))
	for range max(2, s.Files/8) {
		folder := h.word()
		if n := len(h.folders); n > 0 && h.rnd.IntN(5) > 0 {
			if parent := h.folders[h.rnd.IntN(n)]; strings.Count(parent, "/") < 8 {
				folder = parent + "/" + folder
			}
		}
		h.folders = append(h.folders, folder)
	}
	for range s.Files {
		h.addFile()
	}
	return h
}

// fork returns a project that goes on from here in a way of its own.
func (h *history) fork(way uint64) *history {
	f := *h
	f.rnd = rand.New(rand.NewPCG(seed, 2+way))
	f.zipf = rand.NewZipf(f.rnd, 1.1, 4, uint64(len(h.words)-1))
	f.files = nil
	for _, old := range h.files {
		f.files = append(f.files, &file{old.path, slices.Clone(old.lines)})
	}
	return &f
}

// write writes n commits on ref for git fast-import(1), the first of them after the
// commit from, if that is not "".
func (h *history) write(w io.Writer, ref, from string, n int) error {
	out := bufio.NewWriterSize(w, 1<<20)
	for i := range n {
		changed := h.change()
		h.commits++
		message := fmt.Sprintf("%s the %s\n\n%s\n", h.word(), h.word(), h.line())
		fmt.Fprintf(out, "commit %s\ncommitter Ann Author <ann@example.org> %d +0000\ndata %d\n%s\n",
			ref, 1_700_000_000+600*h.commits, len(message), message)
		if i == 0 && from != "" {
			fmt.Fprintf(out, "from %s\n", from)
		}
		for _, f := range changed {
			size := len(f.lines)
			for _, l := range f.lines {
				size += len(l)
			}
			fmt.Fprintf(out, "M 100644 inline %s\ndata %d\n", f.path, size)
			for _, l := range f.lines {
				out.WriteString(l)
				out.WriteByte('\n')
			}
			out.WriteByte('\n')
		}
	}
	return out.Flush()
}

// change returns the files of the next commit: all of them, or a few that it edits.
func (h *history) change() []*file {
	if h.commits == 0 {
		return h.files
	}
	var changed []*file
	for range 1 + h.rnd.IntN(h.shape.Touched) {
		f := h.files[h.rnd.IntN(len(h.files))]
		for range 1 + h.rnd.IntN(3) {
			h.edit(f)
		}
		if !slices.Contains(changed, f) {
			changed = append(changed, f)
		}
	}
	if h.shape.NewFile > 0 && h.commits%h.shape.NewFile == 0 {
		changed = append(changed, h.addFile())
	}
	return changed
}

// edit replaces some lines by about as many others.
func (h *history) edit(f *file) {
	at := h.rnd.IntN(len(f.lines))
	end := min(len(f.lines), at+h.rnd.IntN(h.shape.Hunk))
	f.lines = slices.Replace(f.lines, at, end, h.text(1+h.rnd.IntN(h.shape.Hunk))...)
}

func (h *history) addFile() *file {
	folder := h.folders[h.rnd.IntN(len(h.folders))]
	f := &file{fmt.Sprintf("%s/%s_%d.go", folder, h.word(), len(h.files)), h.text(1 + h.shape.Lines/2 + h.rnd.IntN(h.shape.Lines))}
	h.files = append(h.files, f)
	return f
}

func (h *history) text(lines int) []string {
	all := make([]string, lines)
	for i := range all {
		all[i] = h.line()
	}
	return all
}

// line is like a line of a program: often short, with few words that are common
// and many that are not, and now and then a number nobody can foresee.
func (h *history) line() string {
	indent := strings.Repeat("\t", 1+h.rnd.IntN(3))
	switch n := h.rnd.IntN(20); {
	case n < 2:
		return ""
	case n < 4:
		return indent + "}"
	case n < 7:
		return fmt.Sprintf("%s// %s %s %s the %s of %s %s.", indent, h.word(), h.word(), h.word(), h.word(), h.word(), h.word())
	case n < 10:
		return fmt.Sprintf("%sif %s.%s != nil && %s(%d) {", indent, h.word(), h.word(), h.word(), h.rnd.IntN(10_000))
	case n < 12:
		return fmt.Sprintf("%sreturn fmt.Errorf(%q, %s)", indent, h.word()+" "+h.word()+": %w", h.word())
	}
	return fmt.Sprintf("%s%s := %s.%s(%s, %s[%d])", indent, h.word(), h.word(), h.word(), h.word(), h.word(), h.rnd.IntN(1000))
}

func (h *history) word() string { return h.words[h.zipf.Uint64()] }
