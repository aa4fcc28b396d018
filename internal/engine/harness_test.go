package engine

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"gitcluster/internal/cluster"
	"gitcluster/internal/freeport"
	"gitcluster/internal/gitexec"
	"gitcluster/internal/journal"
	"gitcluster/internal/peer"
	"gitcluster/internal/repository"
)

var (
	testClient *clientv3.Client // of one embedded journal that all tests share
	testTLS    string
)

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "engine-test-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		authority, err := journal.NewAuthority("test")
		if err != nil {
			panic(err)
		}
		request, key, err := journal.NewRequest("test")
		if err != nil {
			panic(err)
		}
		ca, cert, err := authority.Issue(request)
		if err != nil {
			panic(err)
		}
		testTLS = filepath.Join(dir, "tls")
		if err := (journal.Certificates{CA: ca, Cert: cert, Key: key}).Save(testTLS); err != nil {
			panic(err)
		}
		client := freeAddr()
		member, err := journal.StartMember(context.Background(), journal.MemberConfig{
			Name: "test", Dir: filepath.Join(dir, "etcd"), TLS: testTLS, Peer: freeAddr(), Client: client, Cluster: "test",
			Log: filepath.Join(dir, "etcd.log")})
		if err != nil {
			panic(err)
		}
		defer member.Close()
		testClient, err = journal.Dial([]string{client}, testTLS)
		if err != nil {
			panic(err)
		}
		defer testClient.Close()
		return m.Run()
	}())
}

func freeAddr() string {
	addrs, err := freeport.Addrs(1)
	if err != nil {
		panic(err)
	}
	return addrs[0]
}

// A world is several engines over one journal, each with its own disk.
type world struct {
	t     *testing.T
	names []cluster.DeviceName
	nodes map[cluster.DeviceName]*node
	work  string // a scratch repository where commits are made
	repo  cluster.Repo
}

type node struct {
	*Engine
	w     *world
	dir   string
	opts  Options
	mu    sync.Mutex
	down  bool // answers no peer
	lags  bool // sends packs without the history of what is asked for
	packs int  // how many packs it served

	copies int           // how many copies it was given
	given  int           // how many pushes were handed to it
	slow   chan struct{} // if set, it takes no copy until this is closed
}

func newWorld(t *testing.T, names ...cluster.DeviceName) *world {
	t.Helper()
	w := &world{t: t, names: names, nodes: map[cluster.DeviceName]*node{}, work: filepath.Join(t.TempDir(), "work")}
	w.git("", "init", "-q", w.work)
	for _, name := range names {
		w.nodes[name] = w.start(name, filepath.Join(t.TempDir(), string(name)), Options{})
	}
	w.repo = cluster.Repo{ID: cluster.RepoID(journal.NewID()), Name: cluster.RepoName("test/" + journal.NewID()), Format: cluster.SHA1, InitialHead: "refs/heads/main"}
	if _, err := w.nodes[names[0]].Create(t.Context(), w.repo); err != nil {
		t.Fatal(err)
	}
	return w
}

// start starts an engine on a data directory, which may be one of a former life.
func (w *world) start(name cluster.DeviceName, dir string, o Options) *node {
	w.t.Helper()
	store, err := repository.NewStore(filepath.Join(dir, "repositories"), &gitexec.Runner{})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := store.CleanUp(); err != nil {
		w.t.Fatal(err)
	}
	n := &node{w: w, dir: dir}
	// A machine that is slow for seconds is to fail nothing.
	o.Bound, o.CopyBound = cmp.Or(o.Bound, time.Minute), cmp.Or(o.CopyBound, time.Minute)
	o.Device, o.Store, o.Peers = name, store, peersOf{n}
	o.Log = slog.New(slog.NewTextHandler(w.t.Output(), nil)).With("node", name)
	if o.Journal == nil {
		o.Journal = journal.New(testClient)
	}
	o.Incarnation = string(name) + "-1"
	err = o.Journal.AddDevice(w.t.Context(), cluster.Device{Name: name, PublicKey: "ssh-ed25519 " + string(name), Node: true}, o.Incarnation)
	if err != nil {
		w.t.Fatal(err)
	}
	n.opts = o
	n.Engine = New(o)
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		n.Engine.Close(ctx)
	})
	return n
}

// peersOf is the other nodes as an engine sees them.
type peersOf struct{ *node }

func (p peersOf) Commit(ctx context.Context, on cluster.DeviceName, c peer.Commit) ([]cluster.RefResult, error) {
	return p.forwardTo(ctx, on, c)
}

// Pack serves the engine's peers in the same process.
func (n *node) Pack(ctx context.Context, from cluster.DeviceName, id cluster.RepoID, wants, haves []cluster.OID) (io.ReadCloser, error) {
	peer := n.w.nodes[from]
	peer.mu.Lock()
	down, lags := peer.down, peer.lags
	peer.packs++
	peer.mu.Unlock()
	if down {
		return nil, errors.New("connection refused")
	}
	if lags {
		for _, want := range wants {
			haves = append(haves, cluster.OID(n.w.git(peer.Store.Path(id), "rev-parse", string(want)+"^")))
		}
	}
	r, pw := io.Pipe()
	go func() { pw.CloseWithError(peer.WritePack(ctx, id, wants, haves, pw)) }()
	return r, nil
}

func (n *node) forwardTo(ctx context.Context, on cluster.DeviceName, c peer.Commit) ([]cluster.RefResult, error) {
	to := n.w.nodes[on]
	to.mu.Lock()
	to.given++
	down := to.down
	to.mu.Unlock()
	if down {
		return nil, peer.ErrNotTried
	}
	return to.CommitFor(ctx, c)
}

func (n *node) Refs(ctx context.Context, from cluster.DeviceName, id cluster.RepoID) (at cluster.Position, table *repository.RefTable, err error) {
	peer := n.w.nodes[from]
	peer.mu.Lock()
	down := peer.down
	peer.mu.Unlock()
	if down {
		return at, nil, errors.New("connection refused")
	}
	table = repository.NewRefTable()
	err = peer.WriteRefs(ctx, id, func(p cluster.Position, head cluster.RefName, refs []cluster.RefUpdate) error {
		at = p
		table.SetHead(head)
		for _, u := range refs {
			table.Set(u.Ref, u.New)
		}
		return nil
	})
	return at, table, err
}

// Taker has a peer of the same process take a copy.
func (n *node) Taker(_ context.Context, on cluster.DeviceName) (peer.TakerCloser, error) {
	peer := n.w.nodes[on]
	peer.mu.Lock()
	defer peer.mu.Unlock()
	if peer.down {
		return nil, errors.New("connection refused")
	}
	return &taker{peer}, nil
}

type taker struct{ *node }

func (t *taker) Close() error { return nil }

func (t *taker) Take(ctx context.Context, o peer.Offer, haves []cluster.OID, pack io.Reader) (string, error) {
	t.mu.Lock()
	t.copies++
	slow := t.slow
	t.mu.Unlock()
	if slow != nil {
		select {
		case <-slow:
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
	return t.Engine.Take(ctx, o, haves, pack)
}

func (n *node) Nearest() []cluster.DeviceName {
	var others []cluster.DeviceName
	for _, name := range n.w.names {
		if name != n.Device {
			others = append(others, name)
		}
	}
	return others
}

func (n *node) setDown(down bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down = down
}

// git runs git in dir and returns its trimmed output.
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

var commits int

// commit makes a commit on top of parents in the scratch repository.
func (w *world) commit(parents ...cluster.OID) cluster.OID {
	w.t.Helper()
	commits++
	file := filepath.Join(w.work, "file")
	if err := os.WriteFile(file, fmt.Appendf(nil, "contents %d\n", commits), 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.git(w.work, "add", "file")
	args := []string{"commit-tree", "-m", fmt.Sprint("commit ", commits), w.git(w.work, "write-tree")}
	for _, p := range parents {
		args = append(args, "-p", string(p))
	}
	return cluster.OID(w.git(w.work, args...))
}

// upload stores objects on a node as receive-pack would, without any ref.
func (n *node) upload(oids ...cluster.OID) {
	t := n.w.t
	t.Helper()
	n.sync()
	repo, err := n.Store.Open(n.w.repo.ID)
	if err != nil {
		t.Fatal(err)
	}
	var wants strings.Builder
	for _, oid := range oids {
		wants.WriteString(string(oid) + "\n")
	}
	cmd := exec.Command("git", "pack-objects", "--revs", "--stdout", "-q")
	cmd.Dir, cmd.Stdin = n.w.work, strings.NewReader(wants.String())
	pack, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := repo.ReadPack(t.Context(), bytes.NewReader(pack), oids, nil); err != nil {
		t.Fatal(err)
	}
}

// push uploads the new values and commits the updates.
func (n *node) push(p Push) []cluster.RefResult {
	n.w.t.Helper()
	results, err := n.tryPush(p)
	if err != nil {
		n.w.t.Fatal(err)
	}
	return results
}

func (n *node) tryPush(p Push) ([]cluster.RefResult, error) {
	n.w.t.Helper()
	var oids []cluster.OID
	for _, u := range p.Updates {
		if !u.New.IsZero() {
			oids = append(oids, u.New)
		}
	}
	if len(oids) > 0 {
		n.upload(oids...)
	}
	if p.ID == "" {
		p.ID = journal.NewID()
	}
	p.Actor = cluster.Identity{User: "tester"}
	if p.Copies == 0 {
		p.Copies = 1 // those that copies are no matter of
	}
	return n.Commit(n.w.t.Context(), n.w.repo.ID, p)
}

// accept is push that must be accepted whole.
func (n *node) accept(updates ...cluster.RefUpdate) {
	n.w.t.Helper()
	for _, r := range n.push(Push{Updates: updates}) {
		if r.Refused != "" {
			n.w.t.Fatalf("%s: refused: %s", r.Ref, r.Refused)
		}
	}
}

// sync is a read: it returns the view and all refs with their values.
func (n *node) sync() (View, map[string]string) {
	n.w.t.Helper()
	v, err := n.read(n.w.t.Context())
	if err != nil {
		n.w.t.Fatalf("read on %s: %v", n.Device, err)
	}
	return v, n.refs(v.Dir)
}

func (n *node) read(ctx context.Context) (View, error) {
	at, err := n.Resolve(ctx, n.w.repo.Name, cluster.Current)
	if err != nil {
		return View{}, err
	}
	return n.Sync(ctx, at, nil)
}

func (n *node) refs(dir string) map[string]string {
	n.w.t.Helper()
	refs := map[string]string{"HEAD": n.w.git(dir, "symbolic-ref", "HEAD")}
	for line := range strings.Lines(n.w.git(dir, "for-each-ref", "--format=%(refname) %(objectname)")) {
		ref, oid, _ := strings.Cut(strings.TrimSpace(line), " ")
		refs[ref] = oid
	}
	return refs
}

// same fails unless a read on every node shows exactly these refs ("ref=oid").
func (w *world) same(want map[string]string) {
	w.t.Helper()
	for _, name := range w.names {
		v, got := w.nodes[name].sync()
		if _, ok := want["HEAD"]; !ok {
			delete(got, "HEAD")
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			w.t.Errorf("%s at %v shows\n%v, want\n%v", name, v.Applied, got, want)
		}
		w.git(v.Dir, "fsck", "--connectivity-only", "--no-dangling")
	}
}

func set(ref string, old, new cluster.OID) cluster.RefUpdate {
	return cluster.RefUpdate{Ref: cluster.RefName(ref), Old: old, New: new}
}

func refused(results []cluster.RefResult) map[string]string {
	m := map[string]string{}
	for _, r := range results {
		m[string(r.Ref)] = r.Refused
	}
	return m
}
