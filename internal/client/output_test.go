package client

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
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
	if got := out.String(); got != "# A\n\r# A 3 s\r# A 3 s\r       \r# B\nserver\n" {
		t.Errorf("%q", got)
	}
}

func TestHolder(t *testing.T) {
	for _, c := range []struct {
		node bool
		want string
	}{{true, "fatal: x\nrest"}, {false, "# a\nfatal: x\nrest"}} {
		var out bytes.Buffer
		h := &holder{w: &out}
		h.Write([]byte("# a\nfatal: "))
		h.Write([]byte("x\n"))
		if out.Len() > 0 {
			t.Errorf("not held: %q", out.String())
		}
		h.release(c.node)
		h.Write([]byte("rest"))
		if out.String() != c.want {
			t.Errorf("%q, want %q", out.String(), c.want)
		}
	}
}
