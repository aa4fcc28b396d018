package client

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// EnvTrace is the environment variable that asks for a trace, with the values
// that Git's own GIT_TRACE takes: 1, 2 or true for standard error, a file
// descriptor from 3 to 9, or the absolute path of a file to append to.
const EnvTrace = "GIT_TRACE_CLUSTER"

// A tracer writes down what the helper chooses and how long that takes. It is
// given no key, no passphrase and nothing of what Git transfers. The nil tracer
// writes nothing.
type tracer struct {
	mu    sync.Mutex
	w     io.Writer
	start time.Time
}

// newTracer returns a tracer if the variable asks for one. A file that cannot be
// opened is complained of as Git does, and standard error taken.
func newTracer(value string, stderr io.Writer) *tracer {
	t := &tracer{w: stderr, start: time.Now()}
	switch strings.ToLower(value) {
	case "", "0", "false":
		return nil
	case "1", "2", "true":
		return t
	}
	if fd, err := strconv.Atoi(value); err == nil && fd >= 3 && fd <= 9 {
		t.w = os.NewFile(uintptr(fd), value)
		return t
	}
	if !filepath.IsAbs(value) {
		fmt.Fprintf(stderr, "warning: $%s is %q: use 1, a file descriptor from 3 to 9, or an absolute path\n", EnvTrace, printable(value))
		return nil
	}
	f, err := os.OpenFile(value, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
	if err != nil {
		fmt.Fprintf(stderr, "warning: $%s: %v; tracing to standard error\n", EnvTrace, err)
		return t
	}
	t.w = f
	return t
}

// say writes one line: the time of day, the time since the start, the fact.
func (t *tracer) say(format string, a ...any) {
	if t == nil {
		return
	}
	line := fmt.Sprintf("%s %s: +%s %s\n", time.Now().Format("15:04:05.000000"), Program, since(t.start), printable(fmt.Sprintf(format, a...)))
	t.mu.Lock()
	defer t.mu.Unlock()
	io.WriteString(t.w, line) // in one write, so that several processes can share a file
}

func since(t time.Time) string { return milliseconds(time.Since(t)) }

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}
