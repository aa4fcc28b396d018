package journal

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"gitcluster/internal/cluster"
	"gitcluster/internal/durable"
)

// A guarded is a server whose certificates can be revoked.
type guarded struct {
	*Journal
	t         *testing.T
	authority *Authority
	dir       string
	addr      string
	peer      string
}

func newGuarded(t *testing.T) *guarded {
	t.Helper()
	g := &guarded{t: t, authority: newAuthority(t), dir: t.TempDir(), addr: freeAddr(), peer: freeAddr()}
	tls := g.issue("server")
	member, err := StartMember(t.Context(), MemberConfig{Name: "server", Dir: filepath.Join(g.dir, "data"), TLS: tls,
		Peer: g.peer, Client: g.addr, Cluster: "test", Log: filepath.Join(g.dir, "log")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(member.Close)
	g.Journal = New(g.dial("server"))
	marshalled, err := g.authority.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() string {
		err := g.Found(t.Context(), ClusterRecord{ID: "test"}, marshalled, cluster.Device{Name: "server", PublicKey: "ssh-ed25519 server"}, "1", nil)
		if err != nil && !errors.Is(err, cluster.ErrExists) {
			return err.Error()
		}
		return ""
	})
	return g
}

// issue makes the credentials of a node, and returns their folder.
func (g *guarded) issue(name string) string {
	g.t.Helper()
	dir, err := credentials(filepath.Join(g.dir, "tls-"+name), g.authority)
	if err != nil {
		g.t.Fatal(err)
	}
	return dir
}

// joined is a node with credentials that the journal knows of.
func (g *guarded) joined(name string) string {
	g.t.Helper()
	dir := g.issue(name)
	device := cluster.DeviceName(name)
	err := errors.Join(g.NoteOwnCertificate(g.t.Context(), device, dir),
		g.AddDevice(g.t.Context(), cluster.Device{Name: device, PublicKey: "ssh-ed25519 " + name, Node: true}, "1"))
	if err != nil {
		g.t.Fatal(err)
	}
	return dir
}

func (g *guarded) dial(name string) *clientv3.Client {
	g.t.Helper()
	client, err := Dial([]string{g.addr}, filepath.Join(g.dir, "tls-"+name))
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { client.Close() })
	return client
}

// reads reports whether a new connection with a node's credentials can read the
// journal in some time.
func (g *guarded) reads(name string, within time.Duration) bool {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), within)
	defer cancel()
	_, err := g.dial(name).Get(ctx, keyAuthority)
	return err == nil
}

// refuses reports whether a listener ends a connection with a node's credentials. That
// it is slow to answer is no refusal.
func (g *guarded) refuses(listener, name string) bool {
	g.t.Helper()
	config, err := clientTLS(filepath.Join(g.dir, "tls-"+name))
	if err != nil {
		g.t.Fatal(err)
	}
	took, known := knock(g.t.Context(), listener, config)
	return known && !took
}

// letIn waits until both listeners take a node's credentials.
func (g *guarded) letIn(name string) {
	g.t.Helper()
	waitFor(g.t, func() string {
		if !g.reads(name, 20*time.Second) {
			return name + " is not let in"
		}
		return ""
	})
	if g.refuses(g.peer, name) {
		g.t.Errorf("the other servers do not let %s in", name)
	}
}

// shutOut waits until both listeners refuse a node's credentials.
func (g *guarded) shutOut(name string) {
	g.t.Helper()
	waitFor(g.t, func() string {
		for _, listener := range []string{g.addr, g.peer} {
			if !g.refuses(listener, name) {
				return "a removed node is let in at " + listener
			}
		}
		return ""
	})
	if g.reads(name, 3*time.Second) {
		g.t.Error("a removed node reads the journal")
	}
}

func (g *guarded) follow(name string) {
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() { g.KeepRevoked(ctx, filepath.Join(g.dir, "tls-"+name), slog.New(slog.DiscardHandler)) })
	g.t.Cleanup(func() { cancel(); work.Wait() })
}

// The credentials of a node that was removed are refused, by both listeners;
// another's are not.
func TestRemovedNodeIsShutOut(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	g.joined("gone")
	g.joined("stays")
	g.follow("server")
	for _, name := range []string{"gone", "stays"} {
		g.letIn(name)
	}
	closed := func(name string) bool {
		var door Door
		for range 4 {
			if door.last = (time.Time{}); door.Closed(t.Context(), []string{"127.0.0.1:1", g.addr}, filepath.Join(g.dir, "tls-"+name)) {
				return true
			}
		}
		return false
	}
	if closed("gone") {
		t.Error("one that is let in is told otherwise")
	}
	if err := g.RemoveDevice(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	g.shutOut("gone")
	g.letIn("stays")
	waitFor(t, func() string {
		if !closed("gone") {
			return "the removed node does not find out"
		}
		return ""
	})
	if closed("stays") {
		t.Error("the other is let in and told otherwise")
	}
	// It stays so when the server's folder is lost, but for its credentials, and for
	// nodes that join later.
	path := filesIn(filepath.Join(g.dir, "tls-server")).revoked
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := ensureRevoked(path); err != nil {
		t.Fatal(err)
	}
	if _, err := g.writeRevoked(t.Context(), path); err != nil || g.reads("gone", 3*time.Second) {
		t.Errorf("with a new list: %v", err)
	}
	g.shutOut("gone")
	// Nor is it taken for a server by those who have the list.
	g.follow("stays")
	stays := filesIn(filepath.Join(g.dir, "tls-stays")).revoked
	gone, err := tls.LoadX509KeyPair(filesIn(filepath.Join(g.dir, "tls-gone")).cert, filesIn(filepath.Join(g.dir, "tls-gone")).key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(gone.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() string {
		if checkRevoked(stays, []*x509.Certificate{cert}) == nil {
			return "a node has no list with the certificate"
		}
		return ""
	})
}

// What a removed node has open is of no use to it either.
func TestRemovedNodeWithOpenConnections(t *testing.T) {
	g := newGuarded(t)
	g.joined("gone")
	g.joined("stays")
	g.follow("server")
	clients := map[string]*clientv3.Client{"gone": g.dial("gone"), "stays": g.dial("stays")}
	events := map[string]clientv3.WatchChan{}
	for name, client := range clients {
		events[name] = client.Watch(t.Context(), "/gc/test/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
		if r := <-events[name]; !r.Created {
			t.Fatalf("%s: %+v", name, r)
		}
	}
	if err := g.RemoveDevice(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	get := func(name string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := clients[name].Get(ctx, keyAuthority)
		return err
	}
	waitFor(t, func() string {
		// That it gets no answer in time is no refusal.
		if err := get("gone"); status.Code(err) != codes.PermissionDenied && (err == nil || !g.refuses(g.addr, "gone")) {
			return fmt.Sprintf("a removed node reads on: %v", err)
		}
		return ""
	})
	if err := get("stays"); err != nil {
		t.Error(err)
	}
	if err := g.put(t.Context(), "/gc/test/x", "1"); err != nil {
		t.Fatal(err)
	}
	if r := <-events["stays"]; len(r.Events) != 1 {
		t.Errorf("another node saw %+v", r)
	}
	if r, ok := <-events["gone"]; ok && r.Err() == nil {
		t.Errorf("a removed node saw %+v", r)
	}
}

// A certificate that is noted while its node is being removed is revoked as well.
func TestRemoveRevokesWhatIsNotedMeanwhile(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		authority := newAuthority(t)
		if err := w.AddDevice(ctx, cluster.Device{Name: "a", PublicKey: "ssh-ed25519 a"}, "1"); err != nil {
			t.Fatal(err)
		}
		note := func() {
			request, _, err := NewRequest("a")
			if err != nil {
				t.Fatal(err)
			}
			_, cert, err := authority.Issue(request)
			if err == nil {
				err = w.NoteCertificate(ctx, "a", cert)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		note()
		kv := &readKV{KV: w.client, prefix: keyCertificate, read: func() {
			if w.count(keyCertificate) < 2 {
				note()
			}
		}}
		if err := NewOver(w.client, kv).RemoveDevice(ctx, "a"); err != nil {
			t.Fatal(err)
		}
		if w.count(keyRevoked) != 2 || w.count(keyCertificate) != 0 {
			t.Errorf("%d certificates are revoked and %d noted", w.count(keyRevoked), w.count(keyCertificate))
		}
		if err := w.RemoveDevice(ctx, "a"); !errors.Is(err, cluster.ErrNotFound) {
			t.Errorf("removed twice: %v", err)
		}
	})
}

// The list is signed anew before it is too old, and whenever the file is not what the
// journal has.
func TestRevocationListIsRenewed(t *testing.T) {
	g := newGuarded(t)
	g.joined("gone")
	if err := g.RemoveDevice(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "revoked.crl")
	write := func() []byte {
		t.Helper()
		if _, err := g.writeRevoked(t.Context(), path); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		list, err := x509.ParseRevocationList(data)
		if err != nil || len(list.RevokedCertificateEntries) != 1 || list.NextUpdate.Before(time.Now().Add(revocationLife-time.Hour)) {
			t.Fatalf("the list is %+v, %v", list, err)
		}
		return data
	}
	first := write()
	if string(write()) != string(first) {
		t.Error("a good list is written again")
	}
	parsed, err := x509.ParseRevocationList(first)
	if err != nil {
		t.Fatal(err)
	}
	of := func(a *Authority, entries []x509.RevocationListEntry, at time.Time) []byte {
		t.Helper()
		data, err := a.RevocationList(entries, at)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	entries := parsed.RevokedCertificateEntries
	for what, bad := range map[string][]byte{
		"an old one":            of(g.authority, entries, time.Now().Add(-revocationFresh-time.Minute)),
		"one from the future":   of(g.authority, entries, time.Now().Add(2*time.Hour)),
		"one of another":        of(newAuthority(t), entries, time.Now()),
		"one that lacks some":   of(g.authority, nil, time.Now()),
		"one that has too many": of(g.authority, append(entries, x509.RevocationListEntry{SerialNumber: big.NewInt(1), RevocationTime: time.Now()}), time.Now()),
		"something else":        []byte("x"),
	} {
		if err := durable.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if string(write()) == string(bad) {
			t.Errorf("%s stays", what)
		}
	}
	// One that is fresh enough is left alone.
	aging := of(g.authority, entries, time.Now().Add(-revocationFresh+time.Hour))
	if err := durable.WriteFile(path, aging, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := g.writeRevoked(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	if now, err := os.ReadFile(path); err != nil || string(now) != string(aging) {
		t.Errorf("a list of some days is written again, %v", err)
	}
}

// An authority from before there were lists signs them, too.
func TestRevocationListOfAnOldAuthority(t *testing.T) {
	a := newAuthority(t)
	template := certificate("old", x509.KeyUsageCertSign)
	template.IsCA, template.BasicConstraintsValid = true, true
	der, err := x509.CreateCertificate(nil, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	data, err := a.RevocationList(nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "revoked.crl")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if !a.isCurrent(path, nil, time.Now()) {
		t.Error("its own list is not good")
	}
}
