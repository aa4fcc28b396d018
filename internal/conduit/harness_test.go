package conduit

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	"testing"
	"time"

	"gitcluster/internal/access"
	"gitcluster/internal/browse"
	"gitcluster/internal/cluster"
	"gitcluster/internal/engine"
	"gitcluster/internal/gitexec"
	"gitcluster/internal/journal"
	"gitcluster/internal/service"
	"gitcluster/internal/session"
)

var (
	alice  = cluster.Identity{User: "alice"}
	robot  = cluster.Identity{Device: "robot"}
	nobody = cluster.Identity{}
)

// A host is repositories on disk under simple rules: the public ones are
// everybody's, the others alice's. It is the service of these tests.
type host struct {
	t     *testing.T
	repos []journal.RepoHead
	dirs  map[cluster.RepoID]string
	cut   bool             // the journal does not answer
	moved cluster.RepoName // what NameOf says of every repository, if it is set
	reads int
}

func (h *host) add(name cluster.RepoName, public bool, dir string) cluster.Repo {
	repo := cluster.Repo{ID: cluster.RepoID(fmt.Sprintf("%016x", 0xabcdef0000000000+uint64(len(h.repos))<<12)), Name: name, Format: cluster.SHA1, Public: public,
		Created: time.Unix(1_700_000_000, 0)}
	h.repos = append(h.repos, journal.RepoHead{Repo: repo})
	slices.SortFunc(h.repos, func(a, b journal.RepoHead) int { return cmp.Compare(a.Name, b.Name) })
	h.dirs[repo.ID] = dir
	return repo
}

func (h *host) find(id cluster.Identity, name cluster.RepoName) (cluster.Repo, error) {
	for _, r := range h.repos {
		if r.Name == name && (r.Public || id == alice) {
			return r.Repo, nil
		}
	}
	return cluster.Repo{}, fmt.Errorf("repository %q: %w", name, cluster.ErrNotFound)
}

var errCut = fmt.Errorf("the journal did not confirm in time: %w", cluster.ErrUnavailable)

func (h *host) Read(ctx context.Context, q *service.Request, what string, do func(context.Context, engine.View) error) error {
	h.reads++
	if h.cut && q.Freshness == cluster.Current {
		return errCut
	}
	repo, err := h.find(q.Identity, q.Repo)
	if err != nil {
		return err
	}
	return do(ctx, engine.View{Repo: repo, Dir: h.dirs[repo.ID], Applied: cluster.Position{Epoch: 1, Version: 7}, Stale: q.Freshness == cluster.StaleOK})
}

func (h *host) Resolve(_ context.Context, id cluster.Identity, name cluster.RepoName, _ cluster.Role) (engine.Resolved, error) {
	if h.cut {
		return engine.Resolved{}, errCut
	}
	repo, err := h.find(id, name)
	return engine.Resolved{Repo: repo}, err
}

func (h *host) Repos(_ context.Context, id cluster.Identity, after cluster.RepoName, limit int) (repos []journal.RepoHead, next cluster.RepoName, err error) {
	if h.cut {
		return nil, "", errCut
	}
	for _, repo := range h.Remembered(id, after) {
		if len(repos) == limit {
			return repos, repos[limit-1].Name, nil
		}
		repos = append(repos, journal.RepoHead{Repo: repo})
	}
	return repos, "", nil
}

func (h *host) Remembered(id cluster.Identity, after cluster.RepoName) (repos []cluster.Repo) {
	for _, r := range h.repos {
		if _, err := h.find(id, r.Name); err == nil && r.Name > after {
			repos = append(repos, r.Repo)
		}
	}
	return repos
}

func (h *host) NameOf(_ context.Context, id cluster.RepoID, f cluster.Freshness) (cluster.RepoName, error) {
	if h.cut && f == cluster.Current {
		return "", errCut
	}
	for _, r := range h.repos {
		if r.ID == id {
			return cmp.Or(h.moved, r.Name), nil
		}
	}
	return "", cluster.ErrNotFound
}

// logins knows two tokens.
type logins struct{}

func (l logins) Request(r *http.Request) (cluster.Identity, error) {
	if r.Header.Get("Authorization") == "" {
		return nobody, nil
	}
	return l.Token(r.Context(), netip.Addr{}, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
}

func (logins) Token(_ context.Context, _ netip.Addr, token string) (cluster.Identity, error) {
	switch token {
	case "alice-token":
		return alice, nil
	case "robot-token":
		return robot, nil
	case "journal-needed":
		return nobody, errCut
	}
	return nobody, errors.New("the credentials are not valid")
}

// A world is a Conduit over repositories.
type world struct {
	*Conduit
	t    *testing.T
	host *host
	log  *bytes.Buffer
	home string
	now  int64             // the clock of git
	ids  map[string]string // names for object ids and times in what tests expect
	// clock is when the commits were made.
	clock map[string]int64
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, host: &host{t: t, dirs: map[cluster.RepoID]string{}}, log: &bytes.Buffer{},
		home: t.TempDir(), now: 1_700_000_000, ids: map[string]string{}, clock: map[string]int64{}}
	rules := access.NewDirectory([]cluster.Device{
		{Name: "node1", Node: true, Enabled: true, Writable: true, SSH: "one.example:2222", HTTP: "one.example:8443"},
		{Name: "node2", Node: true, SSH: "two.example:2222"},
	}, []cluster.User{{Name: "alice", Admin: true}}, nil, nil)
	w.Conduit = New(Options{Repositories: w.host, Browser: browse.New(&gitexec.Runner{}), Login: logins{}, Device: "node1",
		Rules: func() *access.Directory { return rules }, Log: slog.New(slog.NewTextHandler(w.log, nil))})
	return w
}

// git runs git with names and a clock of its own; each command is a minute later.
func (w *world) git(dir string, args ...string) string {
	w.t.Helper()
	w.now += 60
	date := fmt.Sprintf("%d +0100", w.now)
	cmd := exec.CommandContext(w.t.Context(), "git", args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.home, "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_DATE=" + date, "GIT_COMMITTER_DATE=" + date,
		"GIT_AUTHOR_NAME=Ann Author", "GIT_AUTHOR_EMAIL=ann@example.org", "GIT_COMMITTER_NAME=Carl", "GIT_COMMITTER_EMAIL=carl@example.org"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// dirOf is where a bare repository of that name may be made.
func (w *world) dirOf(name string) string { return filepath.Join(w.home, name+".git") }

// withHistory gives the world the repository "demo/hello": a merge, a rename, a
// deletion, tags, and names and bytes that are not nice. The commits' ids are in
// w.ids, their times in w.clock.
func (w *world) withHistory() *world {
	work := filepath.Join(w.home, "work")
	write := func(name, text string) {
		w.t.Helper()
		file := filepath.Join(work, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			w.t.Fatal(err)
		}
		w.git(work, "add", "--", name)
	}
	note := func(id, rev string) {
		w.clock[id] = w.now
		w.ids[id], w.ids[id+".time"] = w.git(work, "rev-parse", rev), fmt.Sprint(w.clock[id])
	}
	commit := func(id, message string) {
		w.git(work, "commit", "-q", "-m", message)
		note(id, "HEAD")
	}
	w.git("", "init", "-q", "-b", "main", work)
	write("README", "hello\nworld\n")
	write("src/main.c", "int main(void)\n{\n\treturn 0;\n}\n")
	write("gone", "soon\n")
	commit("A", "first\n\nwith a body")
	w.git(work, "rm", "-q", "gone")
	write("raw", "\xff\xfe\x00")
	commit("B", "second")
	w.git(work, "checkout", "-q", "-b", "topic", w.ids["A"])
	write("src/<b>&\n.c", "int x;\n")
	commit("C", "topic")
	w.git(work, "checkout", "-q", "main")
	w.git(work, "merge", "-q", "--no-ff", "-m", "merge topic", "topic")
	note("D", "HEAD")
	w.git(work, "mv", "src/main.c", "src/start.c")
	write("README", "hello\nworld!")
	if err := os.Symlink("README", filepath.Join(work, "link")); err != nil {
		w.t.Fatal(err)
	}
	w.git(work, "add", "link")
	commit("E", "rename")
	w.git(work, "tag", "-a", "-m", "release one\n\nnotes", "v1", w.ids["D"])
	note("T", "v1")
	w.git(work, "tag", "light", w.ids["A"])
	w.git(work, "tag", "rel/1", w.ids["A"])
	for name, rev := range map[string]string{"README": "HEAD:README", "README.old": "HEAD^:README", "src": "HEAD:src", "link": "HEAD:link", "raw": "HEAD:raw", "start": "HEAD:src/start.c", "evil": "HEAD:src/<b>&\n.c"} {
		w.ids[name] = w.git(work, "rev-parse", rev)
	}
	w.git("", "clone", "-q", "--bare", work, w.dirOf("hello"))
	w.host.add("demo/hello", true, w.dirOf("hello"))
	return w
}

// expand puts object ids in place of "{A}".
func (w *world) expand(text string) string {
	for name, id := range w.ids {
		text = strings.ReplaceAll(text, "{"+name+"}", id)
	}
	return text
}

// post calls over HTTP with a body of some type.
func (w *world) post(method, contentType, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(w.t.Context(), http.MethodPost, Prefix+method, strings.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, r)
	return rec
}

// call runs a method and leaves the answer as it is.
func (w *world) call(id cluster.Identity, method string, params Params) Result {
	q := &call{Conduit: w.Conduit, method: method, id: id, arguments: arguments{values: params}}
	return q.run(w.t.Context())
}

// ssh calls over SSH.
func (w *world) ssh(id cluster.Identity, method, stdin string) (stdout string, status int) {
	var out bytes.Buffer
	status = w.ServeCommand(w.t.Context(), id, &session.Session{Identity: id, Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: io.Discard}, method)
	return out.String(), status
}

const (
	asForm = "application/x-www-form-urlencoded"
	asJSON = "application/json"
)

// everyWay calls with the same parameters in every way there is, as an anonymous
// caller, and returns the one answer that all must give.
func (w *world) everyWay(method, params string) string {
	w.t.Helper()
	want, status := w.ssh(nobody, method, params)
	inner, _ := json.Marshal(params)
	sshInner, _ := w.ssh(nobody, method, `{"params":`+string(inner)+`}`)
	form := url.Values{"params": {params}, "output": {"json"}, "__conduit__": {"1"}}.Encode()
	get := httptest.NewRecorder()
	w.ServeHTTP(get, httptest.NewRequestWithContext(w.t.Context(), http.MethodGet, Prefix+method+"?"+form, nil))
	for how, got := range map[string]string{
		"params over ssh":         sshInner,
		"JSON over HTTP":          w.post(method, asJSON, params).Body.String(),
		"Phabricator's form":      w.post(method, asForm, form).Body.String(),
		"Phabricator's form, GET": get.Body.String(),
	} {
		if got != want {
			w.t.Errorf("%s %s: the answer by %s differs from that over ssh\n%s%s", method, params, how, got, want)
		}
	}
	if failed := strings.Contains(want, `"error_code":"`); (status != 0) != failed {
		w.t.Errorf("%s %s: exit status %d with %s", method, params, status, want)
	}
	return want
}

// result is the value in an answer that must be no error.
func result[T any](t *testing.T, answer string) (value T) {
	t.Helper()
	r := struct {
		Result *T      `json:"result"`
		Code   *string `json:"error_code"`
		Info   *string `json:"error_info"`
	}{Result: &value}
	if err := json.Unmarshal([]byte(answer), &r); err != nil {
		t.Fatalf("%v in %s", err, answer)
	}
	if r.Code != nil {
		t.Fatalf("error %s: %s", *r.Code, *r.Info)
	}
	return value
}

// code is the error code of an answer.
func code(t *testing.T, answer string) string {
	t.Helper()
	var r Result
	if err := json.NewDecoder(strings.NewReader(answer)).Decode(&r); err != nil && !errors.Is(err, io.EOF) {
		t.Fatalf("%v in %s", err, answer)
	}
	if r.Code == nil {
		return ""
	}
	if r.Value != nil || r.Info == nil {
		t.Errorf("an error with a result or without a text: %s", answer)
	}
	return *r.Code
}

func decode(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
}
