package web

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/html"

	"gitcluster/internal/admin"
	"gitcluster/internal/browse"
	"gitcluster/internal/cluster"
	"gitcluster/internal/engine"
	"gitcluster/internal/gitexec"
	"gitcluster/internal/journal"
	"gitcluster/internal/login"
	"gitcluster/internal/service"
)

// A world is the pages over some repositories and a cluster that a test makes up.
type world struct {
	t       testing.TB
	site    http.Handler
	server  *httptest.Server
	home    string
	mu      sync.Mutex
	repos   map[cluster.RepoName]*made
	tokens  map[string]cluster.Identity
	silent  bool // the journal does not answer
	nodes   []admin.NodeStatus
	surveys int
	reading atomic.Int32 // reads in progress
}

// made is a repository and who may read it.
type made struct {
	cluster.Repo
	dir     string
	readers []cluster.UserName
	version cluster.Version
	behind  map[cluster.DeviceName]cluster.Version
}

var alice = cluster.Identity{User: "alice"}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, home: t.TempDir(), repos: map[cluster.RepoName]*made{}, tokens: map[string]cluster.Identity{
		"gcu-alice": alice, "gcu-bob": {User: "bob"}, "gcd-node1": {Device: "node1"}}}
	for _, name := range []cluster.DeviceName{"node1", "node2", "node3"} {
		w.nodes = append(w.nodes, admin.NodeStatus{Name: name, SSH: "10.0.0.1:2222", Region: "here", Enabled: true, Up: true, Journal: "voter"})
	}
	pages := New(Options{Cluster: "test", Device: "node1", SSH: "node1.example.com:2222", HTTP: "node1.example.com:8443", Repositories: w,
		Browser: browse.New(&gitexec.Runner{}), Login: w, Status: w, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	s := pages.(*site)
	s.markdownTime, s.colourTime = time.Minute, time.Minute // a slow machine shows the same pages
	w.site = pages
	w.server = httptest.NewTLSServer(w.site)
	t.Cleanup(w.server.Close)
	return w
}

// add makes an empty repository.
func (w *world) add(name cluster.RepoName, public bool, readers ...cluster.UserName) *made {
	w.t.Helper()
	m := &made{Repo: cluster.Repo{ID: cluster.RepoID(fmt.Sprintf("%016d", len(w.repos))), Name: name, Format: cluster.SHA1, Public: public},
		dir: filepath.Join(w.t.TempDir(), "r.git"), readers: readers}
	w.git(m, "", "init", "-q", "--bare", "--initial-branch=main", m.dir)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.repos[name] = m
	return m
}

func (w *world) git(m *made, stdin string, args ...string) string {
	w.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.home, "GIT_CONFIG_NOSYSTEM=1", "LC_ALL=C", "GIT_DIR=" + m.dir}
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("git %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// A change gives a path contents.
type change struct{ path, mode, data string }

// commit adds a commit to a branch, with exactly the bytes given.
func (w *world) commit(m *made, ref, author, message string, changes ...change) string {
	w.t.Helper()
	var s strings.Builder
	m.version++
	when := time.Now().Add(time.Duration(m.version-100) * time.Hour).Unix()
	fmt.Fprintf(&s, "commit %s\ncommitter %s <%s@example.com> %d +0200\ndata %d\n%s\n", ref, author, "who", when, len(message), message)
	if old, err := exec.Command("git", "--git-dir="+m.dir, "rev-parse", "-q", "--verify", ref).Output(); err == nil {
		fmt.Fprintf(&s, "from %s\n", strings.TrimSpace(string(old)))
	}
	for _, c := range changes {
		mode := c.mode
		if mode == "" {
			mode = "100644"
		}
		if mode == "160000" {
			fmt.Fprintf(&s, "M 160000 %s %s\n", c.data, quoted(c.path))
			continue
		}
		fmt.Fprintf(&s, "M %s inline %s\ndata %d\n%s\n", mode, quoted(c.path), len(c.data), c.data)
	}
	w.git(m, s.String(), "fast-import", "--quiet", "--date-format=raw")
	return w.git(m, "", "rev-parse", ref)
}

func quoted(path string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range []byte(path) {
		if c < ' ' || c == '"' || c == '\\' || c >= 0x7f {
			fmt.Fprintf(&b, "\\%03o", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String() + `"`
}

// The world as Repositories.

func (w *world) find(id cluster.Identity, name cluster.RepoName) (*made, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.repos[name]
	if m == nil || !m.mayRead(id) {
		return nil, fmt.Errorf("repository %q: %w", name, cluster.ErrNotFound)
	}
	return m, nil
}

func (m *made) mayRead(id cluster.Identity) bool {
	return m.Public || slices.Contains(m.readers, id.User)
}

func (w *world) cutOff(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.silent = cut
}

func (w *world) journal() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.silent {
		return fmt.Errorf("no answer in time: %w", cluster.ErrUnavailable)
	}
	return nil
}

func (w *world) Read(ctx context.Context, q *service.Request, _ string, do func(context.Context, engine.View) error) error {
	stale := q.Freshness == cluster.StaleOK
	if err := w.journal(); err != nil && !stale {
		return err
	}
	m, err := w.find(q.Identity, q.Repo)
	if err != nil {
		return err
	}
	w.reading.Add(1)
	defer w.reading.Add(-1)
	return do(ctx, engine.View{Repo: m.Repo, Dir: m.dir, Applied: cluster.Position{Epoch: 1, Version: m.version}, Stale: stale})
}

func (w *world) Repos(_ context.Context, id cluster.Identity, after cluster.RepoName, limit int) (all []journal.RepoHead, next cluster.RepoName, err error) {
	if err := w.journal(); err != nil {
		return nil, "", err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.repos {
		if m.Name > after && m.mayRead(id) {
			all = append(all, m.head())
		}
	}
	slices.SortFunc(all, func(a, b journal.RepoHead) int { return strings.Compare(string(a.Name), string(b.Name)) })
	if len(all) > limit {
		all = all[:limit]
		next = all[limit-1].Name
	}
	return all, next, nil
}

func (m *made) head() journal.RepoHead {
	return journal.RepoHead{Repo: m.Repo, Head: journal.Head{Position: cluster.Position{Epoch: 1, Version: m.version}}}
}

func (w *world) PushLog(_ context.Context, id cluster.Identity, name cluster.RepoName, before cluster.Version, limit int) (log []service.PushRecord, next cluster.Version, err error) {
	m, err := w.find(id, name)
	if err != nil {
		return nil, 0, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	out, _ := exec.Command("git", "--git-dir="+m.dir, "rev-parse", "main", "main~1").Output()
	a, b, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	v := m.version
	if before > 0 {
		v = min(v, before-1)
	}
	for ; v > 0 && len(log) < limit; v-- {
		log = append(log, service.PushRecord{Version: v, Time: time.Now().Add(-time.Duration(m.version-v+1) * 7 * time.Hour), Actor: "alice", Node: "node2",
			Copies: []cluster.DeviceName{"node1", "node2"}, Refs: 1, Waited: 12, Updates: []cluster.RefUpdate{{Ref: "refs/heads/main", Old: cluster.OID(b), New: cluster.OID(a)}}})
	}
	if v > 0 {
		next = v + 1
	}
	return log, next, nil
}

// The world as Login.

func (w *world) Cookie(r *http.Request) (cluster.Identity, error) {
	c, err := r.Cookie(login.CookieName)
	if err != nil {
		return cluster.Identity{}, nil
	}
	return w.Token(r.Context(), netip.Addr{}, c.Value)
}

func (w *world) Token(_ context.Context, _ netip.Addr, token string) (cluster.Identity, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if id, ok := w.tokens[token]; ok {
		return id, nil
	}
	return cluster.Identity{}, login.ErrBad
}

func (w *world) revoke(token string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.tokens, token)
}

// The world as Status.

func (w *world) Overview(_ context.Context, id cluster.Identity, after cluster.RepoName, limit int) (admin.Overview, error) {
	if id == (cluster.Identity{}) {
		return admin.Overview{}, cluster.ErrDenied
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.surveys++
	o := admin.Overview{Cluster: "test", Node: "node1", Nodes: slices.Clone(w.nodes), Working: map[cluster.RepoName]engine.Activity{}}
	if w.silent {
		o.Problem = "no answer in time"
		return o, nil
	}
	for _, m := range w.repos {
		if !m.mayRead(id) {
			continue
		}
		r := admin.RepoOverview{RepoHead: m.head()}
		for _, n := range w.nodes {
			r.Replicas = append(r.Replicas, admin.ReplicaView{Device: n.Name, Version: m.version - m.behind[n.Name], Behind: m.behind[n.Name]})
		}
		if len(m.behind) > 0 {
			o.Lagging++
			o.Attention = append(o.Attention, r)
			o.Working[m.Name] = engine.Activity{From: m.version - 1, To: m.version, Since: time.Now()}
		}
		o.Readable++
		o.Repos = append(o.Repos, r)
	}
	slices.SortFunc(o.Repos, func(a, b admin.RepoOverview) int { return strings.Compare(string(a.Name), string(b.Name)) })
	return o, nil
}

// An answer is a page as it came.
type answer struct {
	status int
	header http.Header
	body   string
	url    string
}

// get asks for a page, as the holder of a token or as a stranger.
func (w *world) get(path, token string) answer {
	w.t.Helper()
	r := httptest.NewRequest(http.MethodGet, "https://node1.example.com/", nil)
	raw, query, _ := strings.Cut(path, "?")
	r.URL.RawQuery = query
	r.RequestURI = path
	if err := setPath(r, raw); err != nil {
		w.t.Fatalf("%s: %v", path, err)
	}
	if token != "" {
		r.AddCookie(&http.Cookie{Name: login.CookieName, Value: token})
	}
	return w.do(r)
}

func (w *world) do(r *http.Request) answer {
	rec := httptest.NewRecorder()
	w.site.ServeHTTP(rec, r)
	return answer{rec.Code, rec.Header(), rec.Body.String(), r.RequestURI}
}

// setPath gives a request the path that net/http would make of an address.
func setPath(r *http.Request, raw string) error {
	u, err := url.ParseRequestURI(raw)
	if err != nil {
		return err
	}
	r.URL.Path, r.URL.RawPath = u.Path, u.RawPath
	return nil
}

// page asks for a page that has to be there.
func (w *world) page(path, token string) *html.Node {
	w.t.Helper()
	a := w.get(path, token)
	if a.status != http.StatusOK {
		w.t.Fatalf("%s: status %d: %s", path, a.status, a.text())
	}
	return a.tree(w.t)
}

func (a answer) tree(t testing.TB) *html.Node {
	t.Helper()
	n, err := html.Parse(strings.NewReader(a.body))
	if err != nil {
		t.Fatalf("%s: %v", a.url, err)
	}
	return n
}

func (a answer) text() string {
	n, err := html.Parse(strings.NewReader(a.body))
	if err != nil {
		return a.body
	}
	return textOf(n)
}

// textOf is what a person reads, with white space as it would be shown.
func textOf(n *html.Node) string {
	var b strings.Builder
	for n := range n.Descendants() {
		if n.Type == html.TextNode && n.Parent.Data != "script" && n.Parent.Data != "title" {
			b.WriteString(n.Data)
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

func attr(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

// elements are those of a name, in order.
func elements(n *html.Node, name string) (all []*html.Node) {
	for e := range n.Descendants() {
		if e.Type == html.ElementNode && e.Data == name {
			all = append(all, e)
		}
	}
	return all
}

func has(t testing.TB, n *html.Node, texts ...string) {
	t.Helper()
	shown := textOf(n)
	for _, text := range texts {
		if !strings.Contains(shown, text) {
			t.Errorf("the page lacks %q: %s", text, clipText(shown))
		}
	}
}

func clipText(s string) string { return s[:min(len(s), 3000)] }

func byID(n *html.Node, id string) *html.Node {
	for e := range n.Descendants() {
		if attr(e, "id") == id {
			return e
		}
	}
	return nil
}
