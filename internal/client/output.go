package client

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"unicode"
)

// A lineWriter shares standard error between our lines and the server's, so
// that neither breaks into the middle of the other.
type lineWriter struct {
	mu sync.Mutex
	w  io.Writer
}

// say prints one line under the program's name.
func (l *lineWriter) say(format string, a ...any) {
	l.line(Program + ": " + fmt.Sprintf(format, a...))
}

func (l *lineWriter) line(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	io.WriteString(l.w, text+"\n")
}

// raw is for what a service says, which is passed on as it is: Git's own
// transport over SSH does the same, and progress needs its carriage returns.
func (l *lineWriter) raw() io.Writer { return rawWriter{l} }

type rawWriter struct{ l *lineWriter }

func (r rawWriter) Write(p []byte) (int, error) {
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	return r.l.w.Write(p)
}

// comments passes on the lines that begin with "# ", by which a node tells what
// it does. What another kind of server says about a command it does not know is
// of no use to anybody.
type comments struct {
	log  *lineWriter
	show bool
	part []byte
}

const maxComment = 1 << 10

func (c *comments) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		line, rest, whole := bytes.Cut(p, []byte("\n"))
		if room := maxComment - len(c.part); len(line) > room {
			line = line[:room]
		}
		c.part = append(c.part, line...)
		p = rest
		if !whole {
			break
		}
		if c.show && bytes.HasPrefix(c.part, []byte("# ")) {
			c.log.line(printable(string(c.part)))
		}
		c.part = c.part[:0]
	}
	return n, nil
}

// head keeps the start of what is written to it.
type head struct {
	limit int
	kept  []byte
}

func (h *head) Write(p []byte) (int, error) {
	if room := h.limit - len(h.kept); room > 0 {
		h.kept = append(h.kept, p[:min(room, len(p))]...)
	}
	return len(p), nil
}

// sign reports that something was written: a sign of life.
type sign struct {
	w io.Writer

	mu      sync.Mutex
	onWrite func()
}

func (s *sign) Write(p []byte) (int, error) {
	s.mu.Lock()
	if s.onWrite != nil {
		s.onWrite()
	}
	s.mu.Unlock()
	return s.w.Write(p)
}

func (s *sign) setOnWrite(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onWrite = f
}

// printable makes one line of a server's text that does nothing to a terminal.
func printable(s string) string {
	const limit = 1000
	if len(s) > limit {
		s = s[:limit] + "…"
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.TrimSpace(s))
}
