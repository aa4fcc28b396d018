package observe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"gitcluster/internal/cluster"
	"gitcluster/internal/engine"
	"gitcluster/internal/freeport"
	"gitcluster/internal/gitexec"
	"gitcluster/internal/journal"
	"gitcluster/internal/peer"
	"gitcluster/internal/repository"
)

var testClient *clientv3.Client // of one embedded journal that all tests share

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "observe-test-")
		must(err)
		defer os.RemoveAll(dir)
		authority, err := journal.NewAuthority("test")
		must(err)
		request, key, err := journal.NewRequest("test")
		must(err)
		ca, cert, err := authority.Issue(request)
		must(err)
		tls := filepath.Join(dir, "tls")
		must(journal.Certificates{CA: ca, Cert: cert, Key: key}.Save(tls))
		addrs, err := freeport.Addrs(2)
		must(err)
		member, err := journal.StartMember(context.Background(), journal.MemberConfig{Name: "test", Dir: filepath.Join(dir, "etcd"), TLS: tls,
			Peer: addrs[0], Client: addrs[1], Cluster: "test", Log: filepath.Join(dir, "etcd.log")})
		must(err)
		defer member.Close()
		testClient, err = journal.Dial([]string{addrs[1]}, tls)
		must(err)
		defer testClient.Close()
		return m.Run()
	}())
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// alone is a node that knows no other.
type alone struct{ engine.Peers }

var errAlone = errors.New("there is no other node")

func (alone) Pack(context.Context, cluster.DeviceName, cluster.RepoID, []cluster.OID, []cluster.OID) (io.ReadCloser, error) {
	return nil, errAlone
}
func (alone) Nearest() []cluster.DeviceName { return nil }
func (alone) Taker(context.Context, cluster.DeviceName) (peer.TakerCloser, error) {
	return nil, errAlone
}

const secret = "hunter2-correct-horse"

// A world is one node, and a host with one repository to mirror.
type world struct {
	t       *testing.T
	node    *Observer
	log     *lockedBuffer
	work    string // working tree of the remote repository
	host    *httptest.Server
	asked   atomic.Int32 // listings the host gave
	deny    atomic.Bool  // the host refuses everybody, and repeats what they showed
	hold    chan struct{}
	repo    cluster.Repo
	journal *journal.Journal
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if _, err := testClient.Delete(t.Context(), "/gc/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, log: &lockedBuffer{}, work: filepath.Join(t.TempDir(), "work"), journal: journal.New(testClient)}
	w.git("", "init", "-q", "-b", "main", w.work)
	w.host = httptest.NewServer(http.HandlerFunc(w.serve))
	t.Cleanup(w.host.Close)
	w.node = w.start("node1", filepath.Join(t.TempDir(), "node1"))
	return w
}

func (w *world) start(name cluster.DeviceName, dir string) *Observer {
	w.t.Helper()
	run := &gitexec.Runner{}
	store, err := repository.NewStore(filepath.Join(dir, "repositories"), run)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.journal.AddDevice(w.t.Context(), cluster.Device{Name: name, PublicKey: "ssh-ed25519 " + string(name), Node: true}, "1"); err != nil {
		w.t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(io.MultiWriter(w.log, w.t.Output()), &slog.HandlerOptions{Level: slog.LevelDebug}))
	e := engine.New(engine.Options{Device: name, Incarnation: "1", Journal: w.journal, Store: store, Peers: alone{}, Log: log})
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		e.Close(ctx)
	})
	o, err := New(Options{Device: name, Journal: w.journal, Engine: e, Git: run, Dir: filepath.Join(dir, "observing"), Log: log})
	if err != nil {
		w.t.Fatal(err)
	}
	return o
}

// serve is git http-backend behind a password.
func (w *world) serve(out http.ResponseWriter, r *http.Request) {
	user, password, _ := r.BasicAuth()
	if w.deny.Load() || user != "bob" || password != secret {
		out.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		out.Header().Set("Content-Type", "text/plain")
		out.WriteHeader(http.StatusUnauthorized)
		fmt.Fprintf(out, "\x1b[31mno, %s, not with %q or %s", user, password, r.Header.Get("Authorization"))
		return
	}
	if strings.HasSuffix(r.URL.Path, "/info/refs") {
		w.asked.Add(1)
	}
	if w.hold != nil {
		select {
		case <-w.hold:
		case <-r.Context().Done():
		}
	}
	handler := &cgi.Handler{
		Path: "/usr/lib/git-core/git-http-backend", Root: "/", Stderr: io.Discard,
		Env:        []string{"GIT_PROJECT_ROOT=" + filepath.Dir(w.work), "GIT_HTTP_EXPORT_ALL=1", "HOME=/dev/null", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"},
		InheritEnv: []string{"PATH"},
	}
	handler.ServeHTTP(out, r)
}

func (w *world) uri() string { return w.host.URL + "/work/.git" }

func (w *world) git(dir string, args ...string) string {
	w.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+w.t.TempDir(), "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com",
		"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		w.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// commit makes a commit on the remote's current branch.
func (w *world) commit(text string) {
	w.t.Helper()
	w.git(w.work, "commit", "-q", "--allow-empty", "-m", text)
}

// mirror makes the mirror, with the host's password unless another is given.
func (w *world) mirror(change func(*cluster.Observation, *journal.Secrets)) {
	w.t.Helper()
	w.repo = cluster.Repo{ID: cluster.RepoID(journal.NewID()), Name: "mirror", Format: cluster.SHA1, InitialHead: "refs/heads/main"}
	if _, err := w.node.Engine.Create(w.t.Context(), w.repo); err != nil {
		w.t.Fatal(err)
	}
	w.observe(change)
}

func (w *world) observe(change func(*cluster.Observation, *journal.Secrets)) {
	w.t.Helper()
	remote, credential, err := NewRemote(w.uri(), "username=bob\npassword="+secret+"\n", false)
	if err != nil {
		w.t.Fatal(err)
	}
	o := &cluster.Observation{Remotes: []cluster.Remote{remote}, Refs: []cluster.RefPattern{"refs/heads/*", "refs/tags/*"}, Every: time.Hour}
	s := &journal.Secrets{Credentials: []journal.Credential{credential}}
	if change != nil {
		change(o, s)
	}
	err = w.journal.SetObservation(w.t.Context(), w.repo.ID, func(*cluster.Observation, journal.Secrets) (*cluster.Observation, journal.Secrets, error) {
		return o, *s, nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// pull pulls and returns what was told.
func (w *world) pull() (Result, string, error) {
	w.t.Helper()
	var said lockedBuffer
	note := func(line string) { fmt.Fprintln(&said, line) }
	r, err := w.node.Pull(w.t.Context(), w.repo.ID, Progress{Tell: note, Debug: note})
	if text := said.String(); strings.Contains(text, secret) || err != nil && strings.Contains(err.Error(), secret) {
		w.t.Errorf("the secret is told: %v\n%s", err, text)
	}
	left, readErr := os.ReadDir(w.node.Dir)
	if readErr != nil || len(left) > 0 {
		w.t.Errorf("the pull left %v, %v", left, readErr)
	}
	return r, said.String(), err
}

func (w *world) mustPull() Result {
	w.t.Helper()
	r, said, err := w.pull()
	if err != nil {
		w.t.Fatalf("%v\n%s", err, said)
	}
	return r
}

func (w *world) state() journal.Observed {
	w.t.Helper()
	all, err := w.journal.Observed(w.t.Context(), w.repo.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	return all[w.repo.ID]
}

// shows is the refs of a repository and its HEAD.
func (w *world) shows(dir string) string {
	w.t.Helper()
	return w.git(dir, "for-each-ref", "--format=%(refname) %(objectname)") + "\nHEAD " + w.git(dir, "symbolic-ref", "HEAD")
}

// same fails unless the mirror shows what the remote does, with all its objects.
func (w *world) same() {
	w.t.Helper()
	dir := w.node.Engine.Store.Path(w.repo.ID)
	if got, want := w.shows(dir), w.shows(w.work); got != want {
		w.t.Errorf("the mirror shows\n%s\nthe remote\n%s", got, want)
	}
	w.git(dir, "fsck", "--connectivity-only", "--no-dangling")
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// await waits until state returns "", and fails with what it said last.
func await(t *testing.T, state func() string) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		last := state()
		if last == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("timed out: ", last)
		}
		<-time.After(10 * time.Millisecond)
	}
}
