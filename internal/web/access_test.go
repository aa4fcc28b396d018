package web

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/admin"
	"gitcluster/internal/cluster"
	"gitcluster/internal/login"
)

// TestPrivateLooksMissing compares, byte by byte, the answers to somebody who may not
// read a repository with those for one that does not exist.
func TestPrivateLooksMissing(t *testing.T) {
	w := newWorld(t)
	m := w.add("team/secret", false, "alice")
	head := w.commit(m, "refs/heads/main", "Ada", "Secret", change{"README.md", "", "secret\n"})
	for _, page := range []string{"", "/", ".git", "/-/tree/main", "/-/file/main/README.md", "/-/raw/main/README.md", "/-/blame/main/README.md", "/-/history/main",
		"/-/commit/" + head, "/-/compare/main...main", "/-/compare", "/-/branches", "/-/tags", "/-/search?q=secret", "/-/log", "/-/tree/main?stale=1", "/-/nothing"} {
		if a := w.get("/team/secret"+page, "gcu-alice"); a.status >= 400 && page != "/-/nothing" {
			t.Errorf("%s: alice gets status %d", page, a.status)
		}
		for who, token := range map[string]string{"a stranger": "", "bob": "gcu-bob"} {
			private, missing := w.get("/team/secret"+page, token), w.get("/team/absent"+page, token)
			body := strings.ReplaceAll(missing.body, "absent", "secret")
			location := strings.ReplaceAll(missing.header.Get("Location"), "absent", "secret")
			if private.status != missing.status || private.body != body || private.header.Get("Location") != location || len(private.header) != len(missing.header) {
				t.Errorf("%s: %s can tell a private repository (status %d, %v) from a missing one (status %d, %v)", page, who,
					private.status, private.header, missing.status, missing.header)
			}
			if private.status == http.StatusOK || strings.Contains(private.body, "Secret") {
				t.Errorf("%s: %s gets status %d: %s", page, who, private.status, private.text())
			}
		}
	}
	if list := w.get("/", "gcu-bob"); strings.Contains(list.body, "secret") {
		t.Error("bob's list names the repository")
	}
	if board := w.get("/-/cluster", "gcu-bob"); board.status != http.StatusOK || strings.Contains(board.body, "secret") {
		t.Errorf("bob's cluster page (status %d) names the repository", board.status)
	}
}

func TestCluster(t *testing.T) {
	w := newWorld(t)
	if a := w.get("/-/cluster", ""); a.status != http.StatusSeeOther || a.header.Get("Location") != "/-/signin?to=%2F-%2Fcluster" {
		t.Errorf("a stranger is answered %d, %q", a.status, a.header.Get("Location"))
	}
	if a := w.get("/-/cluster/events", ""); a.status != http.StatusForbidden {
		t.Errorf("a stranger's events: status %d", a.status)
	}
}

// TestPathsThatClimb asks for what lies outside of a repository, in all the ways an
// address can say it.
func TestPathsThatClimb(t *testing.T) {
	w := newWorld(t)
	m := w.add("demo/hello", true)
	w.commit(m, "refs/heads/main", "Ada", "One", change{"a/b.txt", "", "text\n"}, change{"up", "120000", "/etc/passwd"}, change{"dir", "120000", "../../.."})
	for _, path := range []string{
		"/demo/hello/-/file/main/../../../../etc/passwd", "/demo/hello/-/raw/main/%2e%2e/%2e%2e/etc/passwd", "/demo/hello/-/raw/main/..%2f..%2fetc%2fpasswd", "/demo/hello/-/raw/main/a%2fb.txt/..",
		"/demo/hello/-/file/main/%00", "/demo/hello/-/tree/main%00", "/demo%00/hello", "/..%2f..%2fetc/passwd", "/demo/hello/../hello", "/./demo/hello", "//demo/hello", "/demo//hello",
		"/demo/hello/-", "/demo/hello/-/", "/demo/hello/-/unknown/x", "/-/unknown", "/-/", "/demo/-/hello", "/demo/hello/-/raw/main", "/demo/hello/-/raw/main/a", "/demo/hello/-/raw/main/up", "/demo/hello/-/raw/main/dir/etc/passwd",
		"/demo/hello/-/raw/--output=x/a", "/demo/hello/-/tree/main@{1}", "/demo/hello/-/tree/:a", "/demo/hello/-/commit/main:a/b.txt", "/demo/hello/-/file/refs/strays/x/a", "/demo/hello/-/commit/" + strings.Repeat("0", 40),
		"/demo/hello/-/compare/main..main", "/demo/hello/-/compare/...", "/-/static/../web.go", "/-/static/x/../../web.go", "/demo/hello?after=x/-/../", "/?after=../x", "/demo/hello/-/branches/x", "/.git/config", "/demo/hello.git/config",
	} {
		if a := w.get(path, "gcu-alice"); a.status != http.StatusNotFound && !(strings.Contains(path, "?after=x") && a.status == http.StatusOK) {
			t.Errorf("%s: status %d: %s", path, a.status, clipText(a.text()))
		}
	}
	for path, to := range map[string]string{"/demo/hello/": "/demo/hello", "/demo/hello.git": "/demo/hello", "/demo/hello.git/": "/demo/hello"} {
		if a := w.get(path, ""); a.status != http.StatusMovedPermanently || a.header.Get("Location") != to {
			t.Errorf("%s: status %d to %q", path, a.status, a.header.Get("Location"))
		}
	}
	for _, path := range []string{"//evil.example/", "//evil.example.git", "///evil.example/", `/\evil.example/`, "/%2f%2fevil.example/", "/%5cevil.example/", "/https://evil.example/"} {
		if a := w.get(path, ""); a.header.Get("Location") != "" {
			t.Errorf("%s leads to %q", path, a.header.Get("Location"))
		}
	}
}

func (w *world) post(path string, form url.Values, header ...string) answer {
	r := httptest.NewRequest(http.MethodPost, "https://node1.example.com"+path, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return w.do(r)
}

func TestSignIn(t *testing.T) {
	w := newWorld(t)
	w.add("team/secret", false, "alice")
	a := w.post("/-/signin", url.Values{"token": {" gcu-alice\n"}, "to": {"/team/secret"}}, "Sec-Fetch-Site", "same-origin")
	if a.status != http.StatusSeeOther || a.header.Get("Location") != "/team/secret" {
		t.Fatalf("status %d to %q: %s", a.status, a.header.Get("Location"), a.text())
	}
	cookie := a.header.Get("Set-Cookie")
	for _, want := range []string{login.CookieName + "=gcu-alice", "Path=/", "HttpOnly", "Secure", "SameSite=Lax"} {
		if !strings.Contains(cookie, want) {
			t.Errorf("the cookie %q lacks %q", cookie, want)
		}
	}
	if strings.Contains(cookie, "Domain") {
		t.Errorf("the cookie %q is for other hosts, too", cookie)
	}
	if a := w.get("/team/secret", "gcu-alice"); a.status != http.StatusOK || !strings.Contains(a.text(), "alice") {
		t.Errorf("signed in: status %d: %s", a.status, a.text())
	}
	out := w.post("/-/signout", nil, "Origin", "https://node1.example.com")
	if out.status != http.StatusSeeOther || !strings.Contains(out.header.Get("Set-Cookie"), "Max-Age=0") {
		t.Errorf("signing out: status %d, %q", out.status, out.header.Get("Set-Cookie"))
	}
	for _, token := range []string{"", "nonsense", "gcd-node1", strings.Repeat("x", 7000)} {
		a := w.post("/-/signin", url.Values{"token": {token}, "to": {"/"}})
		if a.status != http.StatusForbidden || a.header.Get("Set-Cookie") != "" {
			t.Errorf("token %.10q: status %d, %q", token, a.status, a.header.Get("Set-Cookie"))
		}
		if token != "" && strings.Contains(a.body, token) {
			t.Errorf("the page repeats the token %.10q", token)
		}
	}
	if a := w.post("/-/signin", url.Values{"token": {strings.Repeat("x", 20_000)}}); a.status != http.StatusBadRequest {
		t.Errorf("a huge form: status %d", a.status)
	}
	// The cookie of a token that was revoked makes a stranger, and is taken back.
	gone := w.get("/team/secret", "gcu-revoked")
	if gone.status != http.StatusNotFound || !strings.Contains(gone.header.Get("Set-Cookie"), "Max-Age=0") {
		t.Errorf("a revoked cookie: status %d, %q", gone.status, gone.header.Get("Set-Cookie"))
	}
}

func TestFormsOfOtherSites(t *testing.T) {
	w := newWorld(t)
	for _, path := range []string{"/-/signin", "/-/signout"} {
		for _, header := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example"}, {"Origin", "null"}, {"Origin", "https://node1.example.com:444"}} {
			if a := w.post(path, url.Values{"token": {"gcu-alice"}}, header...); a.status != http.StatusForbidden || a.header.Get("Set-Cookie") != "" {
				t.Errorf("%s with %q: status %d, %q", path, header, a.status, a.header.Get("Set-Cookie"))
			}
		}
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions, "TRACE"} {
		if a := w.do(httptest.NewRequest(method, "https://node1.example.com/", nil)); a.status != http.StatusMethodNotAllowed {
			t.Errorf("%s /: status %d", method, a.status)
		}
	}
	if a := w.get("/-/signout", "gcu-alice"); a.header.Get("Set-Cookie") != "" {
		t.Error("a link signs out")
	}
}

func TestSignInLeadsNowhereElse(t *testing.T) {
	w := newWorld(t)
	for to, want := range map[string]string{
		"/demo/hello?x=1#L3": "/demo/hello?x=1#L3", "/-/cluster": "/-/cluster", "": "/",
		"//evil.example": "/", "https://evil.example": "/", "/\\evil.example": "/", "\\\\evil.example": "/", "/\t/evil.example": "/", "/\n/evil.example": "/", "javascript:alert(1)": "/",
		"https:evil.example": "/", "evil.example": "/", "/%0d%0aSet-Cookie:x": "/%0d%0aSet-Cookie:x", "///evil.example": "/", "/é": "/", " //evil.example": "/", "http:///evil.example": "/",
	} {
		a := w.post("/-/signin", url.Values{"token": {"gcu-alice"}, "to": {to}})
		if got := a.header.Get("Location"); got != want {
			t.Errorf("%q leads to %q, want %q", to, got, want)
		}
	}
}

// TestSilentJournal looks at pages while the journal does not answer.
func TestSilentJournal(t *testing.T) {
	w := newWorld(t)
	m := w.add("demo/hello", true)
	w.commit(m, "refs/heads/main", "Ada", "One", change{"a b/c.txt", "", "text\n"})
	w.cutOff(true)
	a := w.get("/demo/hello/-/tree/main/a%20b?x=1", "")
	if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
		t.Fatalf("status %d: %s", a.status, a.text())
	}
	const stale = "/demo/hello/-/tree/main/a%20b?stale=1&x=1"
	if !strings.Contains(a.body, `href="/demo/hello/-/tree/main/a%20b?stale=1&amp;x=1"`) {
		t.Fatalf("the page does not offer what the node has: %s", a.body)
	}
	n := w.page(stale, "")
	has(t, n, "This may be stale: version 1 as node1 has it", "c.txt")
	if strings.Contains(textOf(n), "current when this page was made") {
		t.Error("a stale page says that it is current")
	}
	for _, link := range elements(n, "a") {
		if to := attr(link, "href"); strings.HasPrefix(to, "/demo/hello") && !strings.Contains(to, "stale=1") && textOf(link) != "Show it current" {
			t.Errorf("the link %q of a stale page leads to one that is not", to)
		}
	}
	if a := w.get("/", ""); a.status != http.StatusServiceUnavailable || strings.Contains(a.body, "stale=1") {
		t.Errorf("the list: status %d: %s", a.status, a.text())
	}
	if a := w.get("/demo/absent?stale=1", ""); a.status != http.StatusNotFound {
		t.Errorf("a missing repository: status %d", a.status)
	}
	has(t, w.page("/-/cluster", "gcu-alice"), "The journal does not answer.")
}

// TestLivePage watches the cluster page until the token behind it is revoked.
func TestLivePage(t *testing.T) {
	w := newWorld(t)
	m := w.add("demo/hello", true)
	m.version = 3
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, w.server.URL+"/-/cluster/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.AddCookie(&http.Cookie{Name: login.CookieName, Value: "gcu-alice"})
	answer, err := w.server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if kind := answer.Header.Get("Content-Type"); kind != "text/event-stream" {
		t.Fatalf("status %d, %q", answer.StatusCode, kind)
	}
	lines := bufio.NewScanner(answer.Body)
	next := func() string {
		var event strings.Builder
		for lines.Scan() && lines.Text() != "" {
			event.WriteString(lines.Text() + "\n")
		}
		return event.String()
	}
	if first := next(); !strings.Contains(first, "All 3 nodes are up, and all replicas are current.") || !strings.Contains(first, "demo/hello") {
		t.Fatalf("the first event is %q", first)
	}
	w.mu.Lock()
	m.version = 5
	m.behind = map[cluster.DeviceName]cluster.Version{"node3": 2}
	w.mu.Unlock()
	if second := next(); !strings.Contains(second, "2 behind") || !strings.Contains(second, "1 repository has a replica that is catching up.") {
		t.Fatalf("the second event is %q", second)
	}
	w.mu.Lock()
	w.nodes[1].Up = false
	w.mu.Unlock()
	if third := next(); !strings.Contains(third, "node2 is down; reads and writes go on.") {
		t.Fatalf("the third event is %q", third)
	}
	w.revoke("gcu-alice")
	if last := next(); last != "event: end\ndata:\n" {
		t.Fatalf("after the token was revoked the event is %q", last)
	}
	if lines.Scan() {
		t.Errorf("the stream goes on with %q", lines.Text())
	}
}

func TestHealthInASentence(t *testing.T) {
	nodes := func(up ...bool) (all []admin.NodeStatus) {
		for i, u := range up {
			all = append(all, admin.NodeStatus{Name: cluster.DeviceName(fmt.Sprintf("n%d", i+1)), Enabled: true, Up: u})
		}
		return all
	}
	for want, o := range map[string]admin.Overview{
		"good: All 3 nodes are up, and all replicas are current.":              {Nodes: nodes(true, true, true)},
		"good: The only node is up.":                                           {Nodes: append(nodes(true), admin.NodeStatus{Name: "old"})},
		"busy: 2 repositories have a replica that is catching up.":             {Nodes: nodes(true, true), Lagging: 2},
		"bad: n1 is down; reads and writes go on.":                             {Nodes: nodes(false, true, true), Lagging: 2},
		"bad: n2 is down; reads go on, and pushes may be refused.":             {Nodes: nodes(true, false)},
		"bad: n1, n2 and n3 are down; reads go on, and pushes may be refused.": {Nodes: nodes(false, false, false, true)},
		"bad: 1 repository has a replica that is set aside.":                   {Nodes: nodes(false, true, true), Fenced: 1},
		"bad: The journal does not answer.":                                    {Nodes: nodes(true), Problem: "x", Fenced: 1},
	} {
		if h := judge(o); h.Level+": "+h.Says != want {
			t.Errorf("%q, want %q", h.Level+": "+h.Says, want)
		}
	}
}

func TestAudienceIsBounded(t *testing.T) {
	var u audience
	var leave []func()
	for range mostViewersOne {
		l, ok := u.enter("alice")
		if !ok {
			t.Fatal("refused too early")
		}
		leave = append(leave, l)
	}
	if _, ok := u.enter("alice"); ok {
		t.Error("one person has all places")
	}
	if _, ok := u.enter("bob"); !ok {
		t.Error("bob is refused for alice's sake")
	}
	leave[0]()
	if _, ok := u.enter("alice"); !ok {
		t.Error("a place that was left is lost")
	}
}

func TestStaticFiles(t *testing.T) {
	w := newWorld(t)
	n := w.page("/", "")
	var sheet string
	for _, l := range elements(n, "link") {
		if attr(l, "rel") == "stylesheet" {
			sheet = attr(l, "href")
		}
	}
	a := w.get(sheet, "")
	if a.status != http.StatusOK || !strings.HasPrefix(a.header.Get("Content-Type"), "text/css") || !strings.Contains(a.header.Get("Cache-Control"), "immutable") {
		t.Errorf("%s: status %d, %v", sheet, a.status, a.header)
	}
	if strings.Contains(a.body, "url(") || strings.Contains(a.body, "@import") {
		t.Error("the style sheet asks for something else")
	}
	if a := w.get("/-/static/0000/style.css", ""); a.status != http.StatusOK || strings.Contains(a.header.Get("Cache-Control"), "immutable") {
		t.Errorf("an old address: status %d, %q", a.status, a.header.Get("Cache-Control"))
	}
	if a := w.get("/-/static/"+strings.Split(sheet, "/")[3]+"/none", ""); a.status != http.StatusNotFound {
		t.Errorf("a file that is not there: status %d", a.status)
	}
}
