package login

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gitcluster/internal/access"
	"gitcluster/internal/cluster"
	"gitcluster/internal/credential"
)

const clusterID = "c1a2b3"

// A world is a node named git.example.com and 192.0.2.10 with some who know it.
type world struct {
	*Login
	t   *testing.T
	now time.Time
	log bytes.Buffer

	mu    sync.Mutex
	heard *access.Directory // what the node has heard of
	truth *access.Directory // what the journal says
	down  bool
	reads int

	ci, other        *credential.Identity
	alice, old, late string // tokens
}

func (w *world) Snapshot() *access.Directory { return w.heard }

func (w *world) Refresh(context.Context) (*access.Directory, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reads++
	if w.down {
		return nil, cluster.ErrUnavailable
	}
	return w.truth, nil
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, now: time.Now()}
	device := func(name cluster.DeviceName) *credential.Identity {
		id, err := credential.Prepare(filepath.Join(t.TempDir(), string(name)), name)
		if err != nil {
			t.Fatal(err)
		}
		id.ClusterID, id.Cluster = clusterID, "test"
		return id
	}
	w.ci, w.other = device("ci7"), device("other")
	record := func(id *credential.Identity) cluster.Device {
		return cluster.Device{Name: id.Name, PublicKey: id.AuthorizedKey(), Enabled: true, Trusted: true}
	}
	token := func(valid time.Duration) (string, cluster.UserToken) {
		text, kept := access.NewUserToken()
		kept.Expires = w.now.Add(valid)
		return text, kept
	}
	var a, o, l cluster.UserToken
	w.alice, a = token(time.Hour)
	w.old, o = token(-time.Second)
	w.late, l = token(time.Hour)
	off := record(w.other)
	off.Enabled = false
	w.heard = access.NewDirectory([]cluster.Device{record(w.ci), off}, []cluster.User{{Name: "alice", Tokens: []cluster.UserToken{a, o}}}, nil, nil)
	w.truth = access.NewDirectory([]cluster.Device{record(w.ci), off}, []cluster.User{{Name: "alice", Tokens: []cluster.UserToken{a, o}}, {Name: "bob", Tokens: []cluster.UserToken{l}}}, nil, nil)
	w.Login = New(Options{Cluster: clusterID, Names: func() []string { return []string{"git.example.com", "192.0.2.10"} },
		Rules: w, Now: func() time.Time { return w.now }, Log: slog.New(slog.NewTextHandler(&w.log, nil))})
	return w
}

func (w *world) signed(id *credential.Identity, audience string) string {
	w.t.Helper()
	token, _, err := credential.Issue(w.t.Context(), id, audience, w.now)
	if err != nil {
		w.t.Fatal(err)
	}
	return token
}

func request(remote, authorization string) *http.Request {
	r := httptest.NewRequest("GET", "https://evil.example.net/x", nil)
	r.RemoteAddr = remote
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	return r
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func TestWhoIsLetIn(t *testing.T) {
	w := newWorld(t)
	alice, bob, ci := cluster.Identity{User: "alice"}, cluster.Identity{User: "bob"}, cluster.Identity{Device: "ci7"}
	here, there := w.signed(w.ci, "git.example.com:8443"), w.signed(w.ci, "192.0.2.10")
	for _, tt := range []struct {
		name, header string
		want         cluster.Identity
	}{
		{"nobody", "", cluster.Identity{}},
		{"token as a password", basic("alice", w.alice), alice},
		{"with any user name", basic("git", w.alice), alice},
		{"token as the user", basic(w.alice, ""), alice},
		{"token as the user, as on other hosts", basic(w.alice, "x-oauth-basic"), alice},
		{"scheme in lower case", "basic" + basic("", w.alice)[5:], alice},
		{"bearer", "Bearer " + w.alice, alice},
		{"a token made a moment ago", "Bearer " + w.late, bob},
		{"device", "ClusterDevice " + here, ci},
		{"device, by the other name", "ClusterDevice " + there, ci},
		{"device as a bearer", "Bearer " + here, ci},
		{"device with a password", basic("device/ci7", here), ci},
	} {
		if id, err := w.Request(request("10.1.2.3:5", tt.header)); err != nil || id != tt.want {
			t.Errorf("%s: %v, %v", tt.name, id, err)
		}
	}
	for range mostFailures + 2 { // while the node hears no news
		if id, err := w.Request(request("10.1.2.3:5", "Bearer "+w.late)); err != nil || id != bob {
			t.Fatalf("a new token again: %v, %v", id, err)
		}
	}
	if id, err := w.Token(t.Context(), netip.MustParseAddr("10.1.2.3"), here); err != nil || id != ci {
		t.Errorf("a device's token on its own: %v, %v", id, err)
	}
	r := request("10.1.2.3:5", "")
	if id, err := w.Cookie(r); err != nil || id != (cluster.Identity{}) {
		t.Errorf("without a cookie: %v, %v", id, err)
	}
	r.AddCookie(&http.Cookie{Name: CookieName, Value: w.alice})
	if id, err := w.Cookie(r); err != nil || id != alice {
		t.Errorf("with a cookie: %v, %v", id, err)
	}
	if id, err := w.Request(r); err != nil || id != (cluster.Identity{}) {
		t.Errorf("a cookie counts for Git: %v, %v", id, err)
	}
}

func TestWhoIsRefused(t *testing.T) {
	w := newWorld(t)
	good := w.signed(w.ci, "git.example.com")
	foreign := *w.ci
	foreign.ClusterID = "ffff"
	forged := strings.SplitN(w.signed(w.other, "git.example.com"), ".", 2)[1]
	for _, tt := range []struct{ name, remote, header, reason string }{
		{"expired token", "10.1.2.3:5", basic("alice", w.old), "expired"},
		{"password", "10.1.2.3:5", basic("alice", "hunter2"), "no access token"},
		{"nothing", "10.1.2.3:5", basic("", ""), "no access token"},
		{"no Basic credentials", "10.1.2.3:5", "Basic !", "malformed"},
		{"no colon", "10.1.2.3:5", "Basic YQ==", "malformed"},
		{"unknown scheme", "10.1.2.3:5", "Negotiate abc", "not known"},
		{"user's token as a device's", "10.1.2.3:5", basic("device/ci7", w.alice), "shown as a device's"},
		{"user's token in the devices' scheme", "10.1.2.3:5", "ClusterDevice " + w.alice, "shown as a device's"},
		{"device's token as a user's", "10.1.2.3:5", basic("alice", good), "no access token"},
		{"device's token of another's name", "10.1.2.3:5", basic("device/node1", good), `shown as that of \"node1\"`},
		{"bad device name", "10.1.2.3:5", basic("device/../x", good), "bad device name"},
		// The request says Host: evil.example.net.
		{"token for another host", "10.1.2.3:5", "ClusterDevice " + w.signed(w.ci, "evil.example.net"), "is for the host"},
		{"token for another cluster", "10.1.2.3:5", "ClusterDevice " + w.signed(&foreign, "git.example.com"), "is for the cluster"},
		{"disabled device", "10.1.2.3:5", "ClusterDevice " + w.signed(w.other, "git.example.com"), "no such device"},
		{"forged", "10.1.2.3:5", "ClusterDevice " + strings.SplitN(good, ".", 2)[0] + "." + forged, "signed by another key"},
		{"from outside", "203.0.113.9:5", "ClusterDevice " + good, "no trusted network"},
		{"from nowhere", "pipe", "ClusterDevice " + good, "no trusted network"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w.failures = failures{}
			w.log.Reset()
			id, err := w.Request(request(tt.remote, tt.header))
			if !errors.Is(err, ErrBad) || id != (cluster.Identity{}) {
				t.Fatalf("%v, %v", id, err)
			}
			if err.Error() != ErrBad.Error() {
				t.Errorf("the client is told %q", err)
			}
			line := w.log.String()
			if !strings.Contains(line, tt.reason) {
				t.Errorf("the log says %q, want %q", line, tt.reason)
			}
			if _, secret, _ := strings.Cut(tt.header, " "); len(secret) > 20 && strings.Contains(line, secret[:20]) {
				t.Errorf("the log shows the credentials: %s", line)
			}
		})
	}
	r := request("10.1.2.3:5", basic("alice", w.alice))
	r.Header.Add("Authorization", "ClusterDevice "+good)
	if id, err := w.Request(r); !errors.Is(err, ErrBad) {
		t.Errorf("two headers: %v, %v", id, err)
	}
	// Whoever comes by a proxy may be anywhere.
	r = request("127.0.0.1:5", "ClusterDevice "+good)
	r.Header.Set("X-Forwarded-For", "10.1.2.3")
	if id, err := w.Request(r); !errors.Is(err, ErrBad) {
		t.Errorf("a device by way of a proxy: %v, %v", id, err)
	}
	w.now = w.now.Add(credential.Lifetime)
	if id, err := w.Request(request("10.1.2.3:5", "ClusterDevice "+good)); !errors.Is(err, ErrBad) {
		t.Errorf("an old device token: %v, %v", id, err)
	}
}

// Ten thousand wrong tokens cost a handful of reads and lines, and do not keep a
// right one from the same address out.
func TestManyFailures(t *testing.T) {
	w := newWorld(t)
	counts := map[error]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for range 1000 {
				wrong, _ := access.NewUserToken()
				_, err := w.Request(request("10.1.2.3:5", basic("alice", wrong)))
				mu.Lock()
				counts[err]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if counts[ErrBad] != mostFailures || counts[ErrTooMany] != 10_000-mostFailures {
		t.Errorf("%d bad and %d too many, want %d looked up", counts[ErrBad], counts[ErrTooMany], mostFailures)
	}
	if w.reads > mostFailures {
		t.Errorf("%d reads of the journal", w.reads)
	}
	if lines := strings.Count(w.log.String(), "\n"); lines > mostLines {
		t.Errorf("%d lines in the log", lines)
	}
	if id, err := w.Request(request("10.1.2.3:5", basic("alice", w.alice))); err != nil || id.User != "alice" {
		t.Errorf("a right token from there: %v, %v", id, err)
	}
	if id, err := w.Request(request("10.1.2.4:5", basic("bob", w.late))); err != nil || id.User != "bob" {
		t.Errorf("a new token from elsewhere: %v, %v", id, err)
	}
	w.now = w.now.Add(failureWindow)
	if _, err := w.Request(request("10.1.2.3:5", basic("alice", w.old))); !errors.Is(err, ErrBad) {
		t.Errorf("a minute later: %v", err)
	}
	if !strings.Contains(w.log.String(), "not_shown=9980") {
		t.Errorf("the log does not count the rest: %s", w.log.String())
	}
}

func TestFailuresOfManySources(t *testing.T) {
	var f failures
	now := time.Now()
	for i := range 3 * mostSources {
		f.count(netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.%d/32", i>>16, i>>8&255, i&255)), now)
	}
	if n := len(f.from); n > mostSources+1 {
		t.Errorf("%d sources are remembered", n)
	}
	if f.count(netip.MustParsePrefix("192.0.2.1/32"), now) {
		t.Error("a flood of sources makes room for more tries")
	}
	later := now.Add(failureWindow)
	for range mostFailures {
		if !f.count(netip.MustParsePrefix("192.0.2.1/32"), later) {
			t.Error("the flood is remembered for ever")
		}
	}
	if n := len(f.from); n > 2 {
		t.Errorf("%d sources are remembered after a minute", n)
	}
}

// A node that cannot ask says so: a client would forget a token that is called bad.
func TestUnknownWithoutJournal(t *testing.T) {
	w := newWorld(t)
	w.down = true
	for range 3 * mostFailures {
		if id, err := w.Request(request("10.1.2.3:5", basic("bob", w.late))); !errors.Is(err, cluster.ErrUnavailable) || errors.Is(err, ErrBad) {
			t.Fatalf("%v, %v", id, err)
		}
	}
	if w.reads != 1 {
		t.Errorf("%d reads of a journal that does not answer", w.reads)
	}
	if id, err := w.Request(request("10.1.2.3:5", basic("alice", w.alice))); err != nil || id.User != "alice" {
		t.Errorf("a token that is known: %v, %v", id, err)
	}
}
