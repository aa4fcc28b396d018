package web

import (
	"context"
	"html/template"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/chroma/v2/lexers"

	"gitcluster/internal/queue"
)

// TestBurdens has files that anybody may push, of which a careless page would be
// hundreds of megabytes or take minutes.
func TestBurdens(t *testing.T) {
	w := newWorld(t)
	m := w.add("big", true)
	commit := w.commit(m, "refs/heads/main", "alice", "burdens",
		change{"wide.txt", "", strings.Repeat(strings.Repeat("\x01", 4000)+"\n", 2000)},
		change{"lines.c", "", strings.Repeat("\n", mostLines+1)},
		change{"README.md", "", strings.Repeat("**x**\n\n", mostMarkdown/7+1)})
	for _, path := range []string{"/big/-/commit/" + commit, "/big/-/commit/" + commit + "?file=wide.txt"} {
		if a := w.get(path, ""); a.status != http.StatusOK || len(a.body) > mostPage || !strings.Contains(a.body, "U+0001 U+0001") {
			t.Errorf("%s: status %d, %d bytes", path, a.status, len(a.body))
		}
	}
	for _, path := range []string{"/big/-/file/main/lines.c", "/big/-/blame/main/lines.c"} {
		if a := w.get(path, ""); !strings.Contains(a.body, "too many lines") {
			t.Errorf("%s: status %d, %d bytes", path, a.status, len(a.body))
		}
	}
	for _, path := range []string{"/big", "/big/-/file/main/README.md"} {
		if a := w.get(path, ""); a.status != http.StatusOK || !strings.Contains(a.body, "**x**") || strings.Contains(a.body, "<strong>x") {
			t.Errorf("%s: status %d, rendered although it is too large for that", path, a.status)
		}
	}
}

func TestPageHasABound(t *testing.T) {
	w := newWorld(t)
	s := w.site.(*site)
	huge := template.Must(template.New("page").Funcs(template.FuncMap{"fill": func() string { return strings.Repeat("x", mostPage+1) }}).Parse(`{{fill}}`))
	a := &asked{site: s, r: httptest.NewRequest(http.MethodGet, "/", nil)}
	s.templates["huge"] = huge
	if body, err := a.render(&page{template: "huge"}); err != errTooLarge || len(body) > mostPage {
		t.Errorf("%d bytes, %v", len(body), err)
	}
}

// TestSlowVisitors: what a visitor has not taken yet is in memory, and is bounded.
func TestSlowVisitors(t *testing.T) {
	w := newWorld(t)
	w.commit(w.add("r", true), "refs/heads/main", "alice", "x", change{"large.txt", "", strings.Repeat("a line of text\n", 5000)})
	answers := queue.NewBudget(4<<20, 1<<20)
	w.site.(*site).answers = answers
	for _, path := range []string{"/r/-/raw/main/large.txt", "/r/-/file/main/large.txt"} {
		taken := httptest.NewRecorder()
		w.site.ServeHTTP(unhurried{taken, func() {
			if w.reading.Load() > 0 {
				t.Errorf("%s: the replica is kept busy while the visitor reads", path)
			}
		}}, httptest.NewRequest(http.MethodGet, path, nil))
		if taken.Code != http.StatusOK || taken.Body.Len() < 75_000 {
			t.Errorf("%s: status %d, %d bytes", path, taken.Code, taken.Body.Len())
		}
		give, _ := answers.Take("somebody", 4<<20-10_000)
		if a := w.get(path, ""); a.status != http.StatusServiceUnavailable || len(a.body) > smallAnswer || a.header.Get("Retry-After") == "" {
			t.Errorf("%s: without room: status %d, %d bytes", path, a.status, len(a.body))
		}
		give()
		if a := w.get(path, ""); a.status != http.StatusOK {
			t.Errorf("%s: with room again: status %d", path, a.status)
		}
	}
}

// unhurried is a visitor who does something before taking anything.
type unhurried struct {
	http.ResponseWriter
	first func()
}

func (u unhurried) Write(p []byte) (int, error) {
	u.first()
	return u.ResponseWriter.Write(p)
}

// TestHopelessColours is a text on which a rule of its language fails at every place, each
// time after a look at all the rest.
func TestHopelessColours(t *testing.T) {
	s := make(slots, 1)
	lexer := lexers.Get("json")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, ok := bounded(ctx, s, time.Second, func(stop <-chan struct{}) []template.HTML { return colour(lexer, strings.Repeat("/", 1<<20), stop) }); ok {
		t.Skip("the lexer is not hopeless any more")
	}
	select {
	case s <- struct{}{}:
	case <-time.After(20 * time.Second):
		t.Error("after 20 s it still goes on")
	}
}
