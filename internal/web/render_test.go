package web

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"gitcluster/internal/browse"
)

func TestDocumentLinks(t *testing.T) {
	w := newWorld(t)
	m := w.add("demo/hello", true)
	w.commit(m, "refs/heads/main", "Ada", "One", change{"docs/guide.md", "", `
[code](../src/a%20b.go#L3) [top](/README.md) [here](#a-b) [out](https://example.com/x) [dir](img) [q](x%23y.md?a=b) [mail](mailto:a@example.com) [js](javascript:alert(1))

![in](img/p.png) ![out](http://evil.example/p.png) ![](http://evil.example/q.png)

# A B

# A B
`})
	n := w.page("/demo/hello/-/file/main/docs/guide.md", "")
	links := map[string]string{}
	for _, a := range elements(n, "a") {
		if within(a, "prose") {
			links[textOf(a)] = attr(a, "href")
		}
	}
	for text, want := range map[string]string{
		"code": "/demo/hello/-/file/main/src/a%20b.go#L3", "top": "/demo/hello/-/file/main/README.md", "here": "#doc-a-b", "out": "http://evil.example/p.png",
		"image": "http://evil.example/q.png", "dir": "/demo/hello/-/file/main/docs/img", "q": "/demo/hello/-/file/main/docs/x%23y.md", "mail": "mailto:a@example.com", "js": "",
	} {
		if links[text] != want {
			t.Errorf("%q leads to %q, want %q", text, links[text], want)
		}
	}
	images := elements(n, "img")
	if len(images) != 1 || attr(images[0], "src") != "/demo/hello/-/raw/main/docs/img/p.png" {
		t.Errorf("images: %d", len(images))
	}
	if byID(n, "doc-a-b") == nil || byID(n, "doc-a-b-1") == nil {
		t.Error("the headings cannot be linked to")
	}
}

func TestLimits(t *testing.T) {
	w := newWorld(t)
	m := w.add("demo/big", true)
	changes := []change{{"large.txt", "", strings.Repeat("line of text\n", 100_000)}, {"README.md", "", strings.Repeat("# heading\n\n", 60_000)}, {"bin", "", "\x00\x01"},
		{"wide.json", "", `{"a": "` + strings.Repeat("x", 900_000) + `"}`}}
	for i := range mostEntries + 5 {
		changes = append(changes, change{fmt.Sprintf("many/%05d", i), "", "x"})
	}
	w.commit(m, "refs/heads/main", "Ada", "Much", changes...)
	w.commit(m, "refs/heads/main", "Ada", "More", change{"large.txt", "", strings.Repeat("other text\n", 100_000)}, change{"wide.json", "", "{}"})
	for i := range historyRows + 5 {
		w.commit(m, "refs/heads/main", "Ada", fmt.Sprintf("Commit %d.", i), change{"count", "", fmt.Sprint(i)})
	}
	has(t, w.page("/demo/big/-/file/main/large.txt", ""), "too large to be shown here", "Download it", "1.1 MB")
	has(t, w.page("/demo/big/-/blame/main/large.txt", ""), "too large to be shown here")
	has(t, w.page("/demo/big/-/file/main/bin", ""), "binary")
	has(t, w.page("/demo/big", ""), "Only its beginning is shown.")
	has(t, w.page("/demo/big/-/tree/main/many", ""), fmt.Sprintf("Only the first %d entries are shown.", mostEntries))
	if a := w.get("/demo/big/-/raw/main/large.txt", ""); a.status != http.StatusOK || len(a.body) != 1_100_000 || a.header.Get("Content-Length") != "1100000" {
		t.Errorf("raw: status %d, %d bytes", a.status, len(a.body))
	}
	commit := w.get("/demo/big/-/commit/main~55", "")
	if !strings.Contains(commit.text(), "Not all of this change is shown.") || len(commit.body) > 2<<20 {
		t.Errorf("a large commit: status %d, %d bytes", commit.status, len(commit.body))
	}
	first := w.page("/demo/big/-/history/main", "")
	has(t, first, "Commit 54.", "Commit 5.")
	older := attr(find(first, "a", "Older →"), "href")
	second := w.page(older, "")
	has(t, second, "Commit 4.", "Much")
	if strings.Contains(textOf(second), "Commit 5.") {
		t.Error("the second page of the history repeats the first")
	}
	if find(second, "a", "Older →") != nil || attr(find(second, "a", "← Newer"), "href") != "/demo/big/-/history/main" {
		t.Error("the second page's links are wrong")
	}
}

func find(n *html.Node, name, text string) *html.Node {
	for _, e := range elements(n, name) {
		if textOf(e) == text {
			return e
		}
	}
	return nil
}

// TestBoundedWork has work that does not end, and work that panics.
func TestBoundedWork(t *testing.T) {
	s := make(slots, 1)
	release := make(chan struct{})
	start := time.Now()
	if _, ok := bounded(t.Context(), s, 20*time.Millisecond, func(<-chan struct{}) int { <-release; return 1 }); ok {
		t.Error("work that did not end succeeded")
	}
	if _, ok := bounded(t.Context(), s, 20*time.Millisecond, func(<-chan struct{}) int { return 2 }); ok {
		t.Error("the place of work that goes on was given away")
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
	close(release)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if n, ok := bounded(ctx, s, time.Minute, func(<-chan struct{}) int { return 3 }); !ok || n != 3 {
		t.Errorf("afterwards: %d, %v", n, ok)
	}
	if _, ok := bounded(ctx, s, time.Minute, func(<-chan struct{}) int { panic("a stranger's text") }); ok {
		t.Error("work that panicked succeeded")
	}
	if _, ok := bounded(ctx, s, time.Minute, func(<-chan struct{}) int { return 4 }); !ok {
		t.Error("a panic keeps its place")
	}
}

func TestColours(t *testing.T) {
	lexer := lexerFor("x.go", "")
	if lexer == nil {
		t.Fatal("Go is not known")
	}
	got := colour(lexer, "// <b>\nvar s = `a\nb`\n", nil)
	want := []string{`<span class="hc">// &lt;b&gt;</span>`, `<span class="hk">var</span> s = <span class="hs">` + "`a</span>", `<span class="hs">b` + "`</span>"}
	if len(got) != len(want) {
		t.Fatalf("%d lines: %q", len(got), got)
	}
	for i := range want {
		if string(got[i]) != want[i] {
			t.Errorf("line %d is %s, want %s", i+1, got[i], want[i])
		}
	}
	stopped := make(chan struct{})
	close(stopped)
	if colour(lexer, "var x = 1\n", stopped) != nil {
		t.Error("a stop is not heard")
	}
	for script, want := range map[string]string{"#!/bin/sh\n": "Bash", "#!/usr/bin/env python3\n": "Python", "text\n": "", "#!\n": ""} {
		name := ""
		if l := lexerFor("tool", script); l != nil {
			name = l.Config().Name
		}
		if name != want {
			t.Errorf("%q is %q, want %q", script, name, want)
		}
	}
}

func TestChangesWithinALine(t *testing.T) {
	for _, c := range []struct{ old, new, markedOld, markedNew string }{
		{"a := one + 2", "a := three + 2", "a := <b>one</b> + 2", "a := <b>three</b> + 2"},
		{"call(a)", "call(a, b)", "call(a)", "call(a<b>, b</b>)"},
		{"größe = 1", "gräße = 1", "<b>größe</b> = 1", "<b>gräße</b> = 1"},
		{"<i>x</i>=1", "<i>y</i>=1", "&lt;i&gt;<b>x</b>&lt;/i&gt;=1", "&lt;i&gt;<b>y</b>&lt;/i&gt;=1"},
		{"nothing alike", "wholly different!", "nothing alike", "wholly different!"},
		{"same", "same", "same", "same"},
	} {
		lines := hunkLines([]browse.Line{{Kind: ' ', Text: "x"}, {Kind: '-', Text: c.old}, {Kind: '+', Text: c.new}})
		if string(lines[1].HTML) != c.markedOld || string(lines[2].HTML) != c.markedNew {
			t.Errorf("%q → %q: %s → %s", c.old, c.new, lines[1].HTML, lines[2].HTML)
		}
	}
}

// TestContrast computes what WCAG 2.2 asks of texts (1.4.3, level AA) for every pair of
// colours that meet, light and dark.
func TestContrast(t *testing.T) {
	sheet, err := staticFiles.ReadFile("static/style.css")
	if err != nil {
		t.Fatal(err)
	}
	light, rest, _ := strings.Cut(string(sheet), "@media (prefers-color-scheme: dark)")
	dark, _, _ := strings.Cut(rest, "/* Ground */")
	for scheme, text := range map[string]string{"light": light, "dark": dark} {
		colours := map[string]string{}
		for _, m := range regexp.MustCompile(`--([a-z-]+): (#[0-9a-f]{6});`).FindAllStringSubmatch(text, -1) {
			colours[m[1]] = m[2]
		}
		check := func(front string, grounds ...string) {
			for _, ground := range grounds {
				if colours[front] == "" || colours[ground] == "" {
					t.Fatalf("%s: no colour %s or %s", scheme, front, ground)
				}
				if c := contrast(t, colours[front], colours[ground]); c < 4.5 {
					t.Errorf("%s: %s on %s has the contrast %.2f", scheme, front, ground, c)
				}
			}
		}
		check("text", "ground", "paper", "sunk", "add", "del", "add-strong", "del-strong", "mark", "good-ground", "busy-ground", "bad-ground")
		check("soft", "ground", "paper", "sunk", "add", "del", "good-ground", "busy-ground", "bad-ground")
		check("link", "ground", "paper", "sunk", "busy-ground")
		check("on-accent", "accent")
		check("good", "paper", "sunk", "add")
		check("bad", "paper", "sunk", "del", "bad-ground")
		check("busy", "paper")
		for name := range colours {
			if strings.HasPrefix(name, "h-") {
				check(name, "paper", "sunk")
			}
		}
	}
}

func contrast(t *testing.T, a, b string) float64 {
	la, lb := luminance(t, a), luminance(t, b)
	return (max(la, lb) + 0.05) / (min(la, lb) + 0.05)
}

func luminance(t *testing.T, colour string) float64 {
	n, err := strconv.ParseUint(colour[1:], 16, 32)
	if err != nil {
		t.Fatal(err)
	}
	part := func(v uint64) float64 {
		c := float64(v&0xff) / 255
		if c <= 0.04045 {
			return c / 12.92
		}
		return math.Pow((c+0.055)/1.055, 2.4)
	}
	return 0.2126*part(n>>16) + 0.7152*part(n>>8) + 0.0722*part(n)
}
