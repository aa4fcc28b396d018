package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"gitcluster/internal/cluster"
	"gitcluster/internal/freeport"
)

// The tests of the key space run over two servers: the embedded one and, where
// it is installed, the distribution's etcd, which is an older release.
var (
	embedded    *server
	distributed = sync.OnceValues(startDistributed)
	running     *server // the distribution's, if a test has started it
	scratch     string  // a folder for all servers
)

// A server is an etcd that tests share.
type server struct {
	name   string
	client *clientv3.Client
	addr   string
	tls    string
	stop   func()
}

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if scratch, err = os.MkdirTemp("", "journal-test-"); err != nil {
			panic(err)
		}
		defer os.RemoveAll(scratch)
		if embedded, err = startEmbedded(); err != nil {
			panic(err)
		}
		defer embedded.stop()
		code := m.Run()
		if running != nil {
			running.stop()
		}
		return code
	}())
}

// freeAddr is an address nobody listens on at the moment.
func freeAddr() string {
	addrs, err := freeport.Addrs(1)
	if err != nil {
		panic(err)
	}
	return addrs[0]
}

// credentials makes a node's files for an authority, and returns their folder.
func credentials(dir string, authority *Authority) (string, error) {
	request, key, err := NewRequest("test")
	if err != nil {
		return "", err
	}
	ca, cert, err := authority.Issue(request)
	if err != nil {
		return "", err
	}
	return dir, Certificates{CA: ca, Cert: cert, Key: key}.Save(dir)
}

func startEmbedded() (*server, error) {
	authority, err := NewAuthority("test")
	if err != nil {
		return nil, err
	}
	tls, err := credentials(filepath.Join(scratch, "tls"), authority)
	if err != nil {
		return nil, err
	}
	s := &server{name: "embedded", addr: freeAddr(), tls: tls}
	member, err := StartMember(context.Background(), MemberConfig{Name: "test", Dir: filepath.Join(scratch, "embedded"), TLS: tls,
		Peer: freeAddr(), Client: s.addr, Cluster: "test", Log: filepath.Join(scratch, "embedded.log")})
	if err != nil {
		return nil, err
	}
	if s.client, err = Dial([]string{s.addr}, tls); err != nil {
		return nil, err
	}
	s.stop = func() { s.client.Close(); member.Close() }
	return s, nil
}

func startDistributed() (*server, error) {
	if testing.Short() {
		return nil, errors.New("it takes a second")
	}
	path, err := exec.LookPath("etcd")
	if err != nil {
		return nil, err
	}
	peer := freeAddr()
	s := &server{name: "external", addr: freeAddr()}
	var log bytes.Buffer
	cmd := exec.Command(path, "--name=test", "--data-dir="+filepath.Join(scratch, "distributed"),
		"--listen-client-urls=http://"+s.addr, "--advertise-client-urls=http://"+s.addr,
		"--listen-peer-urls=http://"+peer, "--initial-advertise-peer-urls=http://"+peer, "--initial-cluster=test=http://"+peer)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + scratch}
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	end := func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	if s.client, err = Dial([]string{s.addr}, ""); err != nil {
		end()
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if _, err := New(s.client).Directory(ctx); err != nil {
		s.client.Close()
		end()
		return nil, fmt.Errorf("etcd did not start: %w\n%s", err, log.Bytes())
	}
	s.stop = func() { s.client.Close(); end() }
	running = s
	return s, nil
}

// A world is an empty key space on one server.
type world struct {
	*Journal
	*server
	t *testing.T
}

// everywhere runs a test on an empty key space of each server.
func everywhere(t *testing.T, test func(t *testing.T, w *world)) {
	t.Run(embedded.name, func(t *testing.T) { test(t, newWorld(t, embedded)) })
	t.Run("external", func(t *testing.T) {
		s, err := distributed()
		if err != nil {
			t.Skipf("no other etcd server (Debian's etcd-server has one): %v", err)
		}
		test(t, newWorld(t, s))
	})
}

func newWorld(t *testing.T, s *server) *world {
	t.Helper()
	if _, err := s.client.Delete(t.Context(), "/gc/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	return &world{Journal: New(s.client), server: s, t: t}
}

func (w *world) create(name cluster.RepoName) (cluster.Repo, Head) {
	w.t.Helper()
	repo := record(name)
	head, err := w.CreateRepo(w.t.Context(), repo)
	if err != nil {
		w.t.Fatal(err)
	}
	return repo, head
}

func record(name cluster.RepoName) cluster.Repo {
	return cluster.Repo{ID: cluster.RepoID(NewID()), Name: name, Format: cluster.SHA1, InitialHead: "refs/heads/main", Created: time.Now().UTC().Round(0)}
}

// entry is the one after head that sets refs/heads/N to a value.
func entry(head Head, n int) Entry {
	u := cluster.RefUpdate{Ref: cluster.RefName(fmt.Sprintf("refs/heads/%d", n)), New: cluster.OID(fmt.Sprintf("%040x", n+1))}
	e := Entry{Epoch: head.Epoch, Version: head.Version + 1, Updates: []cluster.RefUpdate{u}, Digest: head.Digest, Device: "a",
		Time: time.Now().UTC().Round(0), Pushes: []Push{{ID: NewID(), Actor: "tester", Refs: 1}}, Copies: []cluster.DeviceName{"a"}}
	e.Digest.Apply(e.Updates)
	return e
}

func (w *world) append(id cluster.RepoID, head Head, e Entry) Head {
	w.t.Helper()
	next, err := w.Append(w.t.Context(), id, head, e, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return next
}

// count is the number of keys below a prefix.
func (w *world) count(prefix string) int64 {
	w.t.Helper()
	r, err := w.client.Get(w.t.Context(), prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		w.t.Fatal(err)
	}
	return r.Count
}

// waitFor waits until state returns "", and fails with what it last said.
func waitFor(t *testing.T, state func() string) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute) // other tests have servers, too
	for {
		last := state()
		if last == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("timed out: ", last)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// faultyKV loses transactions that change something, or their answers.
type faultyKV struct {
	clientv3.KV
	mu   sync.Mutex
	lose func(landed bool) bool // asked before and after each of them
}

func (f *faultyKV) set(lose func(landed bool) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lose = lose
}

func (f *faultyKV) lost(landed bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lose != nil && f.lose(landed)
}

func (f *faultyKV) Txn(ctx context.Context) clientv3.Txn { return &faultyTxn{Txn: f.KV.Txn(ctx), f: f} }

type faultyTxn struct {
	clientv3.Txn
	f     *faultyKV
	write bool
}

func (t *faultyTxn) If(c ...clientv3.Cmp) clientv3.Txn {
	t.Txn, t.write = t.Txn.If(c...), true
	return t
}
func (t *faultyTxn) Then(o ...clientv3.Op) clientv3.Txn { t.Txn = t.Txn.Then(o...); return t }
func (t *faultyTxn) Else(o ...clientv3.Op) clientv3.Txn { t.Txn = t.Txn.Else(o...); return t }
func (t *faultyTxn) Commit() (*clientv3.TxnResponse, error) {
	if t.write && t.f.lost(false) {
		return nil, errors.New("connection lost before")
	}
	r, err := t.Txn.Commit()
	if t.write && t.f.lost(true) {
		return nil, errors.New("connection lost after")
	}
	return r, err
}

// Entries collects what [Journal.Entries] gives.
func (w *world) Entries(ctx context.Context, id cluster.RepoID, after, upTo cluster.Version) ([]Entry, error) {
	var all []Entry
	for e, err := range w.Journal.Entries(ctx, id, after, upTo) {
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, nil
}

// same compares what two heads say, whenever they were asked for.
func same(a, b Head) bool {
	a.Asked, b.Asked = time.Time{}, time.Time{}
	return a == b
}
