package web

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"gitcluster/internal/login"
)

// hostileNames are names of files that would do something if one of them were taken for
// markup, an option, a pattern, an address or a format.
var hostileNames = []string{
	`<script>alert(1)</script>`, `"onmouseover=alert(1) x="`, `' onfocus='alert(1)' autofocus='`, `javascript:alert(1)`, `--option`, `-rf`,
	`a b#c?d%41&e;f+g=h`, "ctl\x01\x1b[31mred", "\xff\xfe latin", "gpj.\u202eexe", "line\nfeed", `{{.}}`, `</title><svg onload=alert(1)>`, `%2e%2e`, `%00`, `...`,
	`main...main`, `CON`, ` lead`, `trail `, `*`, `[a]`, `:(top)x`, `back\slash`, "\u200bzero", `~`, `-`, strings.Repeat("long", 60),
}

const hostileReadme = `# main

<script>alert(1)</script> <img src=x onerror=alert(1)> <b onclick="alert(1)">bold</b>

[script](javascript:alert(1)) [Script](JaVaScRiPt:alert(1)) [tab](java	script:alert(1)) [vb](vbscript:x) [data](data:text/html,<script>alert(1)</script>)
[entity](&#106;avascript:alert(1)) ![data](data:image/svg+xml,<svg/onload=alert(1)>) ![remote](https://evil.example/track.png "t")
[other](//evil.example/) [up](../../../../../../etc/passwd) [file](file:///etc/passwd) [good](https://example.com/) [here](sub/page.md#part) <https://auto.example/> <javascript:alert(1)>

![local](img.png) ![linked](img.png)](javascript:alert(1))

| a | b |
|:-:|---|
| <script>alert(1)</script> | ` + "`<b>`" + ` |

- [x] done
- [ ] not done

## board

## board

` + "```html\n<script>alert(1)</script>\n```\n\n```\" onload=alert(1)\nx\n```\n" + `
[ref]: javascript:alert(1) "x\" onmouseover=alert(1)"
[ref] text[^1]

[^1]: <script>alert(1)</script>
`

const png = "\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"

func hostile(w *world) *made {
	m := w.add("demo/hostile", false, "alice")
	changes := []change{
		{"README.md", "", hostileReadme}, {"sub/page.md", "", "# part\n[up](../README.md)"}, {"img.png", "", png},
		{"x.svg", "", `<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><script>alert(1)</script></svg>`},
		{"x.html", "", `<html><script>alert(1)</script></html>`}, {"x.xml", "", `<?xml version="1.0"?><x:script xmlns:x="http://www.w3.org/1999/xhtml">alert(1)</x:script>`},
		{"poly.html", "", "<html>\x00<script>alert(1)</script>"}, {"poly.gif", "", "GIF89a<script>alert(1)</script>"}, {"poly.svg", "", "<svg onload='alert(1)'>\x00"},
		{"link", "120000", `"><script>alert(1)</script>`}, {"bin", "", "MZ\x00\x01"}, {"empty", "", ""}, {"crlf.txt", "", "a\r\nb\r\n"},
		{"module", "160000", strings.Repeat("d", 40)},
		{"code.go", "", "package x // \u202e</span><script>alert(1)</script>\n\nvar s = \"<img src=x onerror=alert(1)>\" //\x00"},
		{"code.js", "", "</pre><script>alert(1)</script>\n`<b>`\n"},
	}
	for _, name := range hostileNames {
		changes = append(changes, change{name, "", "one\n<script>alert(1)</script>\n"}, change{"dir " + name + "/" + name, "", "text"})
	}
	w.commit(m, "refs/heads/main", `"onload=alert(1) 'x`, "<script>alert(1)</script>\n\n</pre><img src=x onerror=alert(1)>\n\x1b[31m\u202e", changes...)
	for _, c := range changes[16:23] {
		w.commit(m, "refs/heads/main", "Eve", "change "+c.path, change{c.path, "", "one\ntwo <b onclick=alert(1)>\n"})
	}
	for _, ref := range []string{"heads/<b>bold</b>", `heads/"><script>alert(1)</script>`, "heads/feature/x#y&z", "heads/v1", "tags/v1", `tags/'onload=alert(1)`, "tags/refs/heads/main",
		"heads/" + strings.Repeat("a", 40), "heads/HEAD", "heads/-x", "heads/%2e%2e"} {
		w.git(m, "", "update-ref", "refs/"+ref, "refs/heads/main")
	}
	w.git(m, "<script>alert(1)</script>\n\n\"x", "-c", "user.name=Eve &lt;", "-c", "user.email=e@example.com", "tag", "-F", "-", "annotated", "refs/heads/main")
	return m
}

// TestHostileRepository follows every link from the pages of a hostile repository. Each must
// lead somewhere, and nothing on the way may be more than text.
func TestHostileRepository(t *testing.T) {
	w := newWorld(t)
	hostile(w)
	seen := map[string]bool{}
	kinds := map[string]int{}
	queue := []string{"/", "/demo/hostile", "/-/cluster", "/demo/hostile/-/compare/main...v1", "/demo/hostile/-/search?q=%3Cscript%3E", "/demo/hostile/-/search?q=%28&regexp=1",
		"/demo/hostile/-/search?q=%22onload", "/?q=%22%3E%3Cscript%3E", "/demo/hostile/-/history/main?q=%3Cscript%3E&author=%22%3E", "/demo/hostile/-/compare?old=%22%3E&new=%3Cb%3E",
		"/demo/hostile/-/blame/main/code.go", "/-/signin?to=%22%3E%3Cscript%3E"}
	for i := 0; i < len(queue); i++ {
		at := queue[i]
		a := w.get(at, "gcu-alice")
		if a.status != http.StatusOK && a.status != http.StatusFound && !strings.Contains(at, "old=") {
			t.Errorf("%s: status %d", at, a.status)
			continue
		}
		checkHeaders(t, a)
		if !strings.HasPrefix(a.header.Get("Content-Type"), "text/html") {
			continue
		}
		n := a.tree(t)
		checkHarmless(t, at, n)
		for _, link := range elements(n, "a") {
			to, _, _ := strings.Cut(attr(link, "href"), "#")
			_, page, _ := strings.Cut(to, "/-/")
			kind, _, _ := strings.Cut(strings.SplitN(page, "?", 2)[0], "/")
			most := 20
			if kind == "tree" || kind == "file" {
				most = 70 // so that each name has its turn
			}
			// Links of a stranger's document may lead nowhere.
			if strings.HasPrefix(to, "/") && !seen[to] && kinds[kind] < most && !within(link, "prose") {
				seen[to] = true
				kinds[kind]++
				queue = append(queue, to)
			}
		}
	}
	for _, kind := range []string{"tree", "file", "raw", "blame", "history", "commit", "branches", "tags", "search", "log", "compare", "cluster"} {
		if kinds[kind] == 0 {
			t.Errorf("no link led to a page of %q; those seen: %v", kind, kinds)
		}
	}
	if len(queue) < 150 {
		t.Errorf("only %d pages were found", len(queue))
	}
}

// TestRawIsNoPage asks for files as they are that a browser would run, were they sent as
// what they look like.
func TestRawIsNoPage(t *testing.T) {
	w := newWorld(t)
	hostile(w)
	for name, want := range map[string]string{
		"x.svg": "text/plain; charset=utf-8", "x.html": "text/plain; charset=utf-8", "x.xml": "text/plain; charset=utf-8", "code.js": "text/plain; charset=utf-8", "empty": "text/plain; charset=utf-8",
		"poly.html": "application/octet-stream", "poly.svg": "application/octet-stream", "bin": "application/octet-stream", "poly.gif": "image/gif", "img.png": "image/png",
		"%3Cscript%3Ealert(1)%3C/script%3E": "text/plain; charset=utf-8",
	} {
		a := w.get("/demo/hostile/-/raw/main/"+name, "gcu-alice")
		disposition, policy := a.header.Get("Content-Disposition"), a.header.Get("Content-Security-Policy")
		if a.status != http.StatusOK || a.header.Get("Content-Type") != want || a.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: status %d, %q", name, a.status, a.header.Get("Content-Type"))
		}
		if want == "application/octet-stream" && !strings.HasPrefix(disposition, "attachment") {
			t.Errorf("%s is shown and not saved: %q", name, disposition)
		}
		if !strings.Contains(policy, "sandbox") || strings.Contains(policy, "allow") || !strings.Contains(policy, "default-src 'none'") {
			t.Errorf("%s has the policy %q", name, policy)
		}
	}
	a := w.get("/demo/hostile/-/raw/main/bin", "gcu-alice")
	r := httptest.NewRequest(http.MethodGet, "https://node1.example.com/demo/hostile/-/raw/main/bin", nil)
	r.Header.Set("If-None-Match", a.header.Get("ETag"))
	r.Header.Set("Cookie", login.CookieName+"=gcu-alice")
	if again := w.do(r); again.status != http.StatusNotModified || again.body != "" {
		t.Errorf("asked again: status %d", again.status)
	}
}

func within(n *html.Node, class string) bool {
	for p := n.Parent; p != nil; p = p.Parent {
		if slices.Contains(strings.Fields(attr(p, "class")), class) {
			return true
		}
	}
	return false
}

func checkHeaders(t *testing.T, a answer) {
	t.Helper()
	policy := a.header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "frame-ancestors 'none'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("%s: the policy %q lacks %q", a.url, policy, want)
		}
	}
	if strings.Contains(policy, "unsafe") || strings.Contains(policy, "*") || strings.Contains(policy, "http") {
		t.Errorf("%s: the policy is %q", a.url, policy)
	}
	if got := a.header.Get("X-Content-Type-Options"); got != "nosniff" {
		t.Errorf("%s: X-Content-Type-Options is %q", a.url, got)
	}
	kind := a.header.Get("Content-Type")
	if strings.Contains(a.url, "/-/raw/") && strings.HasPrefix(kind, "text/html") {
		t.Errorf("%s is sent as %q", a.url, kind)
	}
}

var eventAttribute = regexp.MustCompile(`^on`)

// checkHarmless looks for whatever could act, or reach another host, and for what a page
// needs so that everybody can use it.
func checkHarmless(t *testing.T, at string, n *html.Node) {
	t.Helper()
	ids, labelled := map[string]int{}, map[string]bool{}
	for _, l := range elements(n, "label") {
		labelled[attr(l, "for")] = true
	}
	for e := range n.Descendants() {
		if e.Type != html.ElementNode {
			continue
		}
		for _, a := range e.Attr {
			switch {
			case eventAttribute.MatchString(a.Key), a.Key == "style", a.Key == "srcdoc", a.Key == "formaction", a.Key == "srcset":
				t.Errorf("%s: <%s %s=%q>", at, e.Data, a.Key, a.Val)
			case a.Key == "id":
				if ids[a.Val]++; ids[a.Val] == 2 {
					t.Errorf("%s: two elements have the id %q", at, a.Val)
				}
			case a.Key == "href", a.Key == "src", a.Key == "action":
				if !allowedAddress(e, a.Val) {
					t.Errorf("%s: <%s %s=%q>", at, e.Data, a.Key, a.Val)
				}
			}
		}
		switch e.Data {
		case "script":
			if e.FirstChild != nil || !strings.HasPrefix(attr(e, "src"), staticPrefix) {
				t.Errorf("%s: a script that is not ours: %v", at, e.Attr)
			}
		case "style", "iframe", "object", "embed", "base", "applet", "frame", "math", "template":
			t.Errorf("%s: <%s>", at, e.Data)
		case "svg":
			if !strings.HasPrefix(attr(e, "class"), "icon") {
				t.Errorf("%s: an svg that is not ours: %v", at, e.Attr)
			}
		case "input", "select", "textarea":
			kind := attr(e, "type")
			if kind != "hidden" && !labelled[attr(e, "id")] && !hasAncestor(e, "label") && !within(e, "prose") {
				t.Errorf("%s: an input without a label: %v", at, e.Attr)
			}
		case "img":
			if !slices.ContainsFunc(e.Attr, func(a html.Attribute) bool { return a.Key == "alt" }) {
				t.Errorf("%s: an image without a text: %v", at, e.Attr)
			}
		case "th":
			if attr(e, "scope") == "" && !within(e, "prose") {
				t.Errorf("%s: a table header without a scope", at)
			}
		}
	}
	if h := elements(n, "h1"); len(h) == 0 || !within(h[0], "prose") && textOf(h[0]) == "" {
		t.Errorf("%s has no heading", at)
	}
	if len(elements(n, "main")) != 1 || len(elements(n, "title")) != 1 || attr(elements(n, "html")[0], "lang") == "" {
		t.Errorf("%s lacks a landmark, a title or a language", at)
	}
}

func hasAncestor(n *html.Node, name string) bool {
	for p := n.Parent; p != nil; p = p.Parent {
		if p.Data == name {
			return true
		}
	}
	return false
}

func allowedAddress(e *html.Node, address string) bool {
	if strings.HasPrefix(address, "#") || strings.HasPrefix(address, "/") && !strings.HasPrefix(address, "//") && !strings.Contains(address, `\`) {
		return true
	}
	u, err := url.Parse(address)
	return e.Data == "a" && within(e, "prose") && err == nil && slices.Contains([]string{"http", "https", "mailto"}, u.Scheme) && strings.Contains(attr(e, "rel"), "nofollow")
}

func TestNamesAreVisible(t *testing.T) {
	for text, want := range map[string]string{
		"a<b>&\"'":      "a&lt;b&gt;&amp;&#34;&#39;",
		"a\u202eb":      `a<span class="mark">U+202E</span>b`,
		"a\x1bb":        `a<span class="mark">U+001B</span>b`,
		"a\xffb":        `a<span class="mark">FF</span>b`,
		"\x01\xff<\x02": `<span class="mark">U+0001 FF</span>&lt;<span class="mark">U+0002</span>`,
		"a\uFFFDb":      "a\uFFFDb",
		"a\tb é 👩‍👩‍👧":  "a\tb é 👩‍👩‍👧",
	} {
		if got := string(plainHTML(text)); got != want {
			t.Errorf("%q is shown as %q, want %q", text, got, want)
		}
	}
}
