package sshconfig

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"gitcluster/internal/cluster"
)

// Bounds on what is read. A file may include others without end, and ssh has
// no bound but its depth.
const (
	maxDepth = 16
	maxFiles = 500
	maxBytes = 4 << 20
)

// A file is a file of the configuration, taken apart into lines.
type file struct {
	path  string
	lines []line
}

// A line is one setting. What cannot be understood is kept as it is: only where
// it counts for a host does it matter.
type line struct {
	file     string // as messages show it
	number   int
	own      bool   // it is the user's, not the system's
	key      string // in lower case
	name     string // the key as it is written
	args     []string
	bad      bool    // the arguments end within quotes
	included []*file // of "include"
	opaque   bool    // an include that names files by the host or by another account
}

func (l *line) place() string { return fmt.Sprintf("%s line %d", l.file, l.number) }

type reader struct {
	config *Config
	files  int
	bytes  int
}

func (c *Config) read() {
	r := &reader{config: c}
	if c.Home != "" {
		c.err = r.top(filepath.Join(c.Home, ".ssh", "config"), true)
	}
	if c.err == nil && c.System != "" {
		c.err = r.top(c.System, false)
	}
	if c.err != nil {
		c.err = cluster.WithHint(fmt.Errorf("SSH configuration: %w", c.err), "correct it, or let ssh read it: GIT_SSH_COMMAND=ssh")
	}
}

// top reads one of the two files that need not exist. One that may not be read
// is as good as missing, as it is to ssh.
func (r *reader) top(path string, own bool) error {
	f, err := r.file(path, own, own, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err == nil {
		r.config.tree = append(r.config.tree, f)
	}
	return err
}

// file reads a file and those it includes. With private, it is noted if others are
// able to write it: they could send the user's connections through a server of theirs.
func (r *reader) file(path string, own, private bool, depth int) (*file, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("%s: files include each other more than %d deep", r.shown(path), maxDepth)
	}
	if r.files++; r.files > maxFiles {
		return nil, fmt.Errorf("%s: there are more than %d files", r.shown(path), maxFiles)
	}
	text, err := r.text(path, private)
	if err != nil {
		return nil, err
	}
	f := &file{path: path}
	number := 0
	for raw := range bytes.SplitSeq(text, []byte("\n")) {
		number++
		l, ok := parseLine(string(raw))
		if !ok {
			continue
		}
		l.file, l.number, l.own = r.shown(path), number, own
		if l.key == "include" {
			if err := r.include(&l, own, depth); err != nil {
				return nil, fmt.Errorf("%s: %w", l.place(), err)
			}
		}
		f.lines = append(f.lines, l)
	}
	return f, nil
}

func (r *reader) text(path string, private bool) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		if info.Mode()&fs.ModeCharDevice != 0 && path == os.DevNull {
			return nil, nil
		}
		return nil, fmt.Errorf("%s is not a file", r.shown(path)) // a pipe would make us wait for ever
	}
	if private && !ownedSafely(info) {
		// Some builds of ssh take a file that a group of one member may write, so it is
		// for ssh to judge.
		r.config.doubted = append(r.config.doubted, r.shown(path)+", which belongs to somebody else or others may write")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, int64(maxBytes-r.bytes)+1))
	if err != nil {
		return nil, err
	}
	if r.bytes += len(text); r.bytes > maxBytes {
		return nil, fmt.Errorf("%s: it is larger than %d bytes together with the files it includes", r.shown(path), maxBytes)
	}
	return text, nil
}

// include reads what a line includes. A relative name is one in the directory of
// the main file.
func (r *reader) include(l *line, own bool, depth int) error {
	dir := filepath.Dir(r.config.System)
	if own {
		dir = filepath.Join(r.config.Home, ".ssh")
	}
	for _, pattern := range l.args {
		rest, inHome := strings.CutPrefix(pattern, "~/")
		switch {
		case inHome:
			pattern = filepath.Join(r.config.Home, rest)
		case strings.HasPrefix(pattern, "~"), strings.Contains(pattern, "${"), strings.Contains(pattern, "%"):
			l.opaque = true
			continue
		case !filepath.IsAbs(pattern):
			pattern = filepath.Join(dir, pattern)
		}
		paths, err := filepath.Glob(pattern)
		if err != nil {
			return fmt.Errorf("the files of Include %q: %w", pattern, err)
		}
		for _, path := range paths {
			f, err := r.file(path, own, true, depth+1)
			if errors.Is(err, fs.ErrNotExist) {
				continue // it went away meanwhile
			}
			if err != nil {
				return err
			}
			l.included = append(l.included, f)
		}
	}
	return nil
}

// shown is a path as people write it.
func (r *reader) shown(path string) string {
	if rest, ok := strings.CutPrefix(path, r.config.Home+string(filepath.Separator)); ok && r.config.Home != "" {
		return "~/" + filepath.ToSlash(rest)
	}
	return path
}

// parseLine takes a line apart. ok is false for an empty line or a comment.
func parseLine(raw string) (l line, ok bool) {
	raw = strings.Trim(raw, " \t\r\f")
	if raw == "" || raw[0] == '#' {
		return l, false
	}
	end := strings.IndexAny(raw, " \t=")
	if end < 0 {
		end = len(raw)
	}
	l.name = strings.Trim(raw[:end], `"`)
	l.key = strings.ToLower(l.name)
	rest := strings.TrimLeft(raw[end:], " \t")
	rest = strings.TrimLeft(strings.TrimPrefix(rest, "="), " \t")
	l.args, l.bad = splitWords(rest)
	return l, true
}

// splitWords splits at blanks that are not within quotes. A backslash takes the
// meaning from a quote, a backslash, and outside of quotes from a blank; a word
// that begins with "#" ends the line.
func splitWords(s string) (words []string, bad bool) {
	for i := 0; i < len(s); {
		if s[i] == ' ' || s[i] == '\t' {
			i++
			continue
		}
		if s[i] == '#' {
			break
		}
		var word strings.Builder
		quote := byte(0)
	scan:
		for ; i < len(s); i++ {
			switch c := s[i]; {
			case c == '\\' && i+1 < len(s) && (strings.IndexByte(`'"\`, s[i+1]) >= 0 || quote == 0 && s[i+1] == ' '):
				i++
				word.WriteByte(s[i])
			case quote != 0 && c == quote:
				quote = 0
			case quote == 0 && (c == '"' || c == '\''):
				quote = c
			case quote == 0 && (c == ' ' || c == '\t'):
				break scan
			default:
				word.WriteByte(c)
			}
		}
		words = append(words, word.String())
		bad = bad || quote != 0
	}
	return words, bad
}
