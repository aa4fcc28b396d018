package client

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestTrace(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "trace")
	for value, want := range map[string]struct{ stderr, file string }{
		"": {}, "0": {}, "false": {},
		"1": {"x\n", ""}, "2": {"x\n", ""}, "TRUE": {"x\n", ""},
		file:              {"", "x\n"},
		dir:               {"warning: $GIT_TRACE_CLUSTER: open", ""},
		"some/relative\n": {"warning: $GIT_TRACE_CLUSTER is \"some/relative\"", ""},
	} {
		os.Remove(file)
		var stderr bytes.Buffer
		tr := newTracer(value, &stderr)
		tr.say("%s", "\x1bx")
		text, _ := os.ReadFile(file)
		if !strings.Contains(stderr.String(), strings.TrimSuffix(want.stderr, "\n")) || want.stderr == "" && stderr.Len() > 0 ||
			!strings.HasSuffix(string(text), want.file) || want.file == "" && len(text) > 0 || strings.Contains(stderr.String()+string(text), "\x1b") {
			t.Errorf("%q: stderr %q, file %q", value, stderr.String(), text)
		}
	}
}

func TestMeter(t *testing.T) {
	var out bytes.Buffer
	log := &lineWriter{w: &out}
	c := &comments{log: log, show: true, meter: true, start: time.Now().Add(-3500 * time.Millisecond)}
	fmt.Fprint(c, "# A\n# A\n# A\n# B\n")
	log.raw().Write([]byte("server\n"))
	c.end()
	got := regexp.MustCompile("[3-9] s").ReplaceAllString(out.String(), "3 s") // it may take a moment
	if got != "# A\n\r# A 3 s\r# A 3 s\r       \r# B\nserver\n" {
		t.Errorf("%q", got)
	}
}

func TestHolder(t *testing.T) {
	for name, c := range map[string]struct {
		quiet, node, fails bool
		want               string
	}{
		"a node":             {node: true, want: "fatal: x\nrest\n# b\n# cc\nX# raw\n"},
		"another":            {want: "# a\nfatal: x\nrest\n# b\n# cc\nX# raw\n"},
		"quiet":              {quiet: true, want: "fatal: x\nrest\nX# raw\n"},
		"quiet, but to fail": {quiet: true, fails: true, want: "fatal: x\nrest\nX\n# a\n# b\n# cc\n# raw\n"},
	} {
		var out bytes.Buffer
		h := &holder{w: &out, quiet: c.quiet}
		h.Write([]byte("# a\nfatal: "))
		h.Write([]byte("x\n"))
		if out.Len() > 0 {
			t.Errorf("%s: not held: %q", name, out.String())
		}
		h.release(c.node)
		for _, piece := range []string{"rest", "\n", "# b\n", "#", " b\n", "# c", "c\nX"} {
			h.Write([]byte(piece))
		}
		if c.fails {
			if !h.failed() {
				t.Errorf("%s: no line of a node's was seen", name)
			}
		} else {
			h.answered()
		}
		h.Write([]byte("# raw\n"))
		if out.String() != c.want {
			t.Errorf("%s: %q, want %q", name, out.String(), c.want)
		}
	}
}
