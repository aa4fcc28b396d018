package browse

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"gitcluster/internal/cluster"
)

// A parser reads what gitcmd.Diff prints with Raw: a record of every file, then the
// numbers of lines in the same order, a NUL byte, and the patches in the same order. A
// file has neither numbers nor a patch if only space changed that is ignored, and two patches if its
// type changed.
type parser struct {
	diff     Diff
	hunks    bool
	maxFiles int
	maxLines int // of a file
	room     int // lines that there is room for in all
	bytes    int // of their text

	at    int // the file that the patch being read belongs to
	lines int // of that file
}

const (
	maxText    = 4 << 10 // bytes of a line
	maxPatch   = 4 << 20 // bytes of all lines: 20,000 of the longest would be 80 MB
	maxSection = 256
)

func (p *parser) read(rd *bufio.Reader) error {
	if err := p.records(rd); err != nil {
		return ended(err)
	}
	if err := p.counts(rd); err != nil {
		return ended(err)
	}
	if !p.hunks {
		return nil
	}
	return p.patches(rd)
}

// records reads ":MODE MODE OID OID STATUS", NUL, the path, NUL and for renames the new path, NUL.
func (p *parser) records(rd *bufio.Reader) error {
	for {
		next, err := rd.Peek(1)
		if err != nil {
			return err
		}
		if next[0] != ':' {
			return nil
		}
		line, _, err := text(rd, 0, 512)
		if err != nil {
			return err
		}
		f := strings.Fields(line[1:])
		if len(f) != 5 {
			return fmt.Errorf("unexpected record %.200q from git diff-tree", line)
		}
		file := FileDiff{Status: f[4][0], OldOID: cluster.OID(f[2]), NewOID: cluster.OID(f[3]), OldMode: mode(f[0]), NewMode: mode(f[1])}
		file.Similarity, _ = strconv.Atoi(f[4][1:])
		if file.OldPath, _, err = text(rd, 0, maxMessage); err != nil {
			return err
		}
		file.NewPath = file.OldPath
		if file.Status == StatusRenamed || file.Status == StatusCopied {
			if file.NewPath, _, err = text(rd, 0, maxMessage); err != nil {
				return err
			}
		} else {
			file.Similarity = 0
		}
		if len(p.diff.Files) < p.maxFiles {
			p.diff.Files = append(p.diff.Files, file)
		} else {
			p.diff.Truncated = true
		}
	}
}

func mode(octal string) Mode {
	n, err := strconv.ParseUint(octal, 8, 32)
	if err != nil {
		return 0
	}
	return Mode(n)
}

// counts reads "ADDED tab REMOVED tab PATH" of the files; binary files have "-", renames
// have an empty path there and both paths behind it.
func (p *parser) counts(rd *bufio.Reader) error {
	for n := 0; ; {
		next, err := rd.Peek(1)
		if err != nil {
			return err
		}
		if next[0] == 0 {
			return nil
		}
		line, _, err := text(rd, 0, maxMessage)
		if err != nil {
			return err
		}
		f := strings.SplitN(line, "\t", 3)
		if len(f) != 3 {
			return fmt.Errorf("unexpected numbers %.200q from git diff-tree", line)
		}
		path := f[2]
		for range 2 {
			if f[2] == "" { // a rename; the second path is the new one
				if path, _, err = text(rd, 0, maxMessage); err != nil {
					return err
				}
			}
		}
		i := slices.IndexFunc(p.diff.Files[n:], func(f FileDiff) bool { return f.NewPath == path })
		if i < 0 {
			continue // one of those there was no room for
		}
		file := &p.diff.Files[n+i]
		n += i + 1
		if f[0] == "-" {
			file.Binary = true
			continue
		}
		file.Added, _ = strconv.Atoi(f[0])
		file.Removed, _ = strconv.Atoi(f[1])
		p.diff.Added += file.Added
		p.diff.Removed += file.Removed
	}
}

func (p *parser) patches(rd *bufio.Reader) error {
	p.at = -1
	for {
		line, _, err := text(rd, '\n', 4*maxMessage)
		if err != nil {
			return ended(err)
		}
		switch line = strings.TrimPrefix(line, "\x00"); {
		case strings.HasPrefix(line, "diff --git "):
			if !p.find(line) {
				return p.finish()
			}
		case strings.HasPrefix(line, "@@ ") && p.at >= 0:
			if err := p.hunk(rd, line); err != nil {
				return err
			}
			if p.room <= 0 {
				return p.finish()
			}
		}
	}
}

// find goes on to the file that a patch belongs to. It is recognized by its first line, which holds
// both names: a header can be nothing else, for within a hunk lines are counted.
func (p *parser) find(header string) bool {
	for n := max(p.at, 0); n < len(p.diff.Files); n++ {
		f := &p.diff.Files[n]
		if header == "diff --git "+quote("a/"+f.OldPath)+" "+quote("b/"+f.NewPath) {
			if n != p.at {
				p.at, p.lines = n, 0
			}
			return true
		}
	}
	return false // it is one of those there was no room for
}

// finish ends the reading, and says which files lack their lines for it.
func (p *parser) finish() error {
	for n := range p.diff.Files {
		f := &p.diff.Files[n]
		shown := 0
		for _, h := range f.Hunks {
			for _, l := range h.Lines {
				if l.Kind != ' ' {
					shown++
				}
			}
		}
		f.Truncated = f.Truncated || shown < f.Added+f.Removed
	}
	return errEnough
}

// hunk reads the lines that "@@ -START,COUNT +START,COUNT @@ SECTION" announces.
func (p *parser) hunk(rd *bufio.Reader, header string) error {
	h, ok := parseHunk(header)
	if !ok {
		return fmt.Errorf("unexpected line %.200q in a patch", header)
	}
	file := &p.diff.Files[p.at]
	old, new := h.OldStart, h.NewStart
	oldEnd, newEnd := old+h.OldCount, new+h.NewCount
	dropped := false // the newest line
	for old < oldEnd || new < newEnd {
		kind, err := rd.ReadByte()
		if err != nil {
			return truncatedPatch(err)
		}
		s, cut, err := text(rd, '\n', maxText)
		if err != nil {
			return truncatedPatch(err)
		}
		line := Line{Kind: kind, Text: s, Cut: cut}
		switch kind {
		case ' ':
			line.Old, line.New = old, new
			old, new = old+1, new+1
		case '-':
			line.Old = old
			old++
		case '+':
			line.New = new
			new++
		case '\\':
			h.endWithout(dropped)
			continue
		default:
			return fmt.Errorf("unexpected %q at the start of a line in a patch", kind)
		}
		if p.lines >= p.maxLines || p.room <= 0 {
			file.Truncated, dropped = true, true
			continue
		}
		p.lines++
		p.room--
		if p.bytes -= len(s); p.bytes <= 0 {
			p.room = 0
		}
		h.Lines = append(h.Lines, line)
	}
	// The mark of a last line without line feed comes behind the count.
	if next, err := rd.Peek(1); err == nil && next[0] == '\\' {
		if _, _, err := text(rd, '\n', 0); err != nil {
			return truncatedPatch(err)
		}
		h.endWithout(dropped)
	}
	if len(h.Lines) > 0 {
		file.Hunks = append(file.Hunks, h)
	}
	return nil
}

// endWithout marks the hunk's newest line as one without line feed, unless there was no room for it.
func (h *Hunk) endWithout(dropped bool) {
	if n := len(h.Lines); n > 0 && !dropped {
		h.Lines[n-1].NoEOL = true
	}
}

// truncatedPatch makes sure that a stream that ends within a hunk is an error.
func truncatedPatch(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func parseHunk(header string) (h Hunk, ok bool) {
	f := strings.SplitN(header, " ", 5) // @@ -1,2 +3,4 @@ section
	if len(f) < 4 || f[3] != "@@" {
		return h, false
	}
	var okOld, okNew bool
	h.OldStart, h.OldCount, okOld = parseRange(f[1], "-")
	h.NewStart, h.NewCount, okNew = parseRange(f[2], "+")
	if len(f) == 5 {
		h.Section = f[4][:min(len(f[4]), maxSection)]
	}
	return h, okOld && okNew
}

func parseRange(s, sign string) (start, count int, ok bool) {
	s, ok = strings.CutPrefix(s, sign)
	first, second, two := strings.Cut(s, ",")
	start, err := strconv.Atoi(first)
	if count = 1; err == nil && two {
		count, err = strconv.Atoi(second)
	}
	return start, count, ok && err == nil && start >= 0 && count >= 0
}

// quote writes a path as Git does in a patch: as it is, or by C's rules between quotes if it
// has a control character, a quote or a backslash.
func quote(path string) string {
	var b strings.Builder
	plain := true
	for _, c := range []byte(path) {
		n := strings.IndexByte("\a\b\t\n\v\f\r\"\\", c)
		switch {
		case n >= 0:
			b.WriteByte('\\')
			b.WriteByte(`abtnvfr"\`[n])
		case c < ' ' || c == 0x7f:
			fmt.Fprintf(&b, "\\%03o", c)
		default:
			b.WriteByte(c)
			continue
		}
		plain = false
	}
	if plain {
		return path
	}
	return `"` + b.String() + `"`
}
