package admin

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/crypto/ssh"

	"gitcluster/internal/access"
	"gitcluster/internal/cluster"
	"gitcluster/internal/engine"
	"gitcluster/internal/gitexec"
	"gitcluster/internal/journal"
	"gitcluster/internal/repository"
	"gitcluster/internal/service"
)

var testClient *clientv3.Client // of one journal that all tests share

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "admin-test-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		tls := filepath.Join(dir, "tls")
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
		if err := (journal.Certificates{CA: ca, Cert: cert, Key: key}).Save(tls); err != nil {
			panic(err)
		}
		client := freeAddr()
		member, err := journal.StartMember(context.Background(), journal.MemberConfig{Name: "test", Dir: filepath.Join(dir, "etcd"), TLS: tls,
			Peer: freeAddr(), Client: client, Cluster: "test", Log: filepath.Join(dir, "etcd.log")})
		if err != nil {
			panic(err)
		}
		defer member.Close()
		if testClient, err = journal.Dial([]string{client}, tls); err != nil {
			panic(err)
		}
		defer testClient.Close()
		return m.Run()
	}())
}

func freeAddr() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// alone is a node that knows no other.
type alone struct{ engine.Peers }

func (alone) Pack(context.Context, cluster.DeviceName, cluster.RepoID, []cluster.OID, []cluster.OID) (io.ReadCloser, error) {
	return nil, errors.New("there is no other node")
}
func (alone) Nearest() []cluster.DeviceName { return nil }

// rules reads the journal each time, or shows the rules as they once were.
type rules struct {
	j   *journal.Journal
	old *access.Directory
}

func (r *rules) Snapshot() *access.Directory { return r.old }
func (r *rules) Refresh(ctx context.Context) (*access.Directory, error) {
	d, err := r.j.Directory(ctx)
	if err != nil {
		return nil, err
	}
	return access.NewDirectory(d.Devices, d.Users, d.Grants, nil), nil
}

// A world is one node with an empty journal, which alice, bob, and root (an
// administrator) use.
type world struct {
	*Server
	t *testing.T
}

var (
	operator = cluster.Identity{Operator: true}
	root     = cluster.Identity{User: "root"}
	alice    = cluster.Identity{User: "alice"}
	bob      = cluster.Identity{User: "bob"}
	nobody   = cluster.Identity{}
)

func newWorld(t *testing.T) *world {
	t.Helper()
	ctx := t.Context()
	if _, err := testClient.Delete(ctx, "/gc/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	j := journal.New(testClient)
	run := &gitexec.Runner{}
	store, err := repository.NewStore(filepath.Join(t.TempDir(), "repositories"), run)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	node := cluster.Device{Name: "node1", PublicKey: newKey(t), Node: true, Enabled: true, Trusted: true, Writable: true}
	if err := j.AddDevice(ctx, node, "1"); err != nil {
		t.Fatal(err)
	}
	for _, u := range []cluster.User{{Name: "alice"}, {Name: "bob"}, {Name: "root", Admin: true}} {
		if err := j.AddUser(ctx, u); err != nil {
			t.Fatal(err)
		}
	}
	e := engine.New(engine.Options{Device: "node1", Incarnation: "1", Journal: j, Store: store, Peers: alone{}, Log: log})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		e.Close(ctx)
	})
	r := &rules{j: j, old: access.NewDirectory(nil, nil, nil, nil)}
	s := service.New(service.Options{Device: "node1", Engine: e, Journal: j, Directory: r, Run: run, Log: log})
	return &world{t: t, Server: &Server{Cluster: journal.ClusterRecord{ID: "c1", Name: "test"}, Device: "node1", Version: "v0", Journal: j, Engine: e, Service: s, Rules: r, Log: log}}
}

// ask makes one request as a client does, and returns its error.
func (w *world) ask(id cluster.Identity, method string, params, result any) error {
	w.t.Helper()
	raw, err := json.Marshal(params)
	if err != nil {
		w.t.Fatal(err)
	}
	q, err := json.Marshal(request{Method: method, Params: raw})
	if err != nil {
		w.t.Fatal(err)
	}
	var out bytes.Buffer
	status := w.Serve(w.t.Context(), id, bytes.NewReader(q), &out, io.Discard)
	var a response
	if err := json.Unmarshal(out.Bytes(), &a); err != nil {
		w.t.Fatalf("%s: the answer is %q", method, &out)
	}
	if (status == 0) != (a.Error == "") {
		w.t.Errorf("%s: status %d with the answer %q", method, status, &out)
	}
	if a.Error != "" {
		if strings.Contains(a.Error, "\n") {
			w.t.Errorf("%s: the error has several lines: %q", method, a.Error)
		}
		return cluster.WithHint(errors.New(a.Error), a.Hint)
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(a.Result, result)
}

func (w *world) must(id cluster.Identity, method string, params, result any) {
	w.t.Helper()
	if err := w.ask(id, method, params, result); err != nil {
		w.t.Fatalf("%s as %s: %v", method, id, err)
	}
}

func (w *world) refused(id cluster.Identity, method string, params any, want string) {
	w.t.Helper()
	if err := w.ask(id, method, params, nil); err == nil || !strings.Contains(err.Error(), want) {
		w.t.Errorf("%s %+v as %s: %v, want an error with %q", method, params, id, err, want)
	}
}

func newKey(t *testing.T) string {
	t.Helper()
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	k, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k)))
}

func fingerprint(t *testing.T, line string) string {
	t.Helper()
	k, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	return ssh.FingerprintSHA256(k)
}

// state is everything the journal holds, to see that nothing has changed.
func (w *world) state() string {
	w.t.Helper()
	r, err := testClient.Get(w.t.Context(), "/gc/", clientv3.WithPrefix())
	if err != nil {
		w.t.Fatal(err)
	}
	var b strings.Builder
	for _, kv := range r.Kvs {
		if !strings.HasPrefix(string(kv.Key), "/gc/replica/") { // reports come when they come
			fmt.Fprintf(&b, "%s=%s\n", kv.Key, kv.Value)
		}
	}
	return b.String()
}
