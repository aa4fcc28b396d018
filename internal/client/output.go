package client

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// A lineWriter shares standard error between our lines and the server's, so
// that neither breaks into the middle of the other.
type lineWriter struct {
	mu    sync.Mutex
	w     io.Writer
	meter int // columns of a line that stands unfinished on the terminal
}

// say prints one line under the program's name.
func (l *lineWriter) say(format string, a ...any) {
	l.line(Program + ": " + fmt.Sprintf(format, a...))
}

func (l *lineWriter) line(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wipe()
	io.WriteString(l.w, text+"\n")
}

// show writes a line in place of the one shown before, as Git's own meters do. It
// is for a terminal.
func (l *lineWriter) show(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	width := utf8.RuneCountInString(text)
	io.WriteString(l.w, "\r"+text+strings.Repeat(" ", max(0, l.meter-width)))
	l.meter = width
}

// wipe clears what show has left. The caller holds mu.
func (l *lineWriter) wipe() {
	if l.meter > 0 {
		io.WriteString(l.w, "\r"+strings.Repeat(" ", l.meter)+"\r")
		l.meter = 0
	}
}

// raw is for what a service says, which is passed on as it is: Git's own
// transport over SSH does the same, and progress needs its carriage returns.
func (l *lineWriter) raw() io.Writer { return rawWriter{l} }

type rawWriter struct{ l *lineWriter }

func (r rawWriter) Write(p []byte) (int, error) {
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	r.l.wipe()
	return r.l.w.Write(p)
}

// A holder looks at what a service says on standard error until it answers. While
// the replica synchronizes, it keeps it back.
type holder struct {
	w     io.Writer
	quiet bool // a node's lines for people matter only if nothing comes of it

	mu    sync.Mutex
	phase phase
	kept  head   // what came while held; after it, with quiet, a node's lines
	told  string // a node's last line
	line  []byte // the start of a line that may be a node's; while listening
	inner bool   // what comes next is not the start of a line
}

type phase int

const (
	held      phase = iota
	listening       // line by line
	open            // all passes as it is
)

// maxHeld is far above what a service says before its turn has come.
const maxHeld = 16 << 10

func (h *holder) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch h.phase {
	case held:
		h.kept.limit = maxHeld
		return h.kept.Write(p)
	case open:
		return h.w.Write(p)
	}
	h.listen(p, false)
	return len(p), nil
}

// listen passes on what is no line of a node's, and those as they are wanted. A line
// that comes again is told once. The caller holds mu.
func (h *holder) listen(p []byte, told bool) {
	for line := range bytes.Lines(p) {
		h.line = append(h.line, line...)
		whole := line[len(line)-1] == '\n'
		if !h.inner && len(h.line) < len(mark) && !whole && bytes.HasPrefix([]byte(mark), h.line) {
			continue // it may yet become one
		}
		ours := !h.inner && bytes.HasPrefix(h.line, []byte(mark))
		if ours && !whole && len(h.line) < maxComment {
			continue
		}
		switch {
		case !ours:
			h.w.Write(h.line)
		case told || string(h.line) == h.told:
		case h.quiet:
			h.kept.Write(h.line)
		default:
			h.w.Write(h.line)
		}
		if ours {
			h.told = string(h.line)
		}
		h.line, h.inner = h.line[:0], !whole
	}
}

// mark begins a line that a node says to people.
const mark = "# "

// release passes on what was kept and what comes. Of a node's, the lines about the
// synchronization are dropped: that has told them itself.
func (h *holder) release(node bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	kept := h.kept.kept
	h.phase, h.kept = listening, head{limit: maxHeld}
	h.listen(kept, node)
}

// answered says that the service has begun to answer: what it says from now on is
// passed on as it is.
func (h *holder) answered() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.w.Write(h.line)
	h.phase, h.line = open, nil
}

// failed says that the service will not answer, and reports whether a node has told
// why.
func (h *holder) failed() (node bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.inner && len(h.kept.kept) > 0 {
		h.w.Write([]byte("\n"))
	}
	h.w.Write(h.kept.kept)
	h.w.Write(h.line)
	h.phase, h.line, h.kept.kept = open, nil, nil
	return h.told != ""
}

// comments passes on the lines that begin with mark, by which a node tells what
// it does. What another kind of server says about a command it does not know is
// of no use to anybody. A line that comes again is a sign of life and told once;
// on a terminal the time goes on behind it.
type comments struct {
	log   *lineWriter
	show  bool
	meter bool // it is a terminal
	start time.Time
	last  string
	seen  bool // a node's line has come
	part  []byte
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
		if bytes.HasPrefix(c.part, []byte(mark)) {
			c.seen = true
			if c.show {
				c.tell(printable(string(c.part)))
			}
		}
		c.part = c.part[:0]
	}
	return n, nil
}

func (c *comments) tell(line string) {
	waited := time.Since(c.start)
	switch {
	case line == c.last && c.meter:
		const room = 70 // a line that wraps cannot be replaced
		if r := []rune(line); len(r) > room {
			line = string(r[:room]) + "…"
		}
		c.log.show(fmt.Sprintf("%s %d s", line, int(waited.Seconds())))
	case line != c.last:
		c.log.line(line)
		c.last = line
	}
}

// end clears the meter.
func (c *comments) end() {
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	c.log.wipe()
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
