package e2e

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gitcluster/internal/admin"
	"gitcluster/internal/clustertest"
)

const hostPassword = "hunter2-correct-horse"

// A gitHost is a host outside of the cluster: git http-backend with TLS and a
// password, and git daemon, both over one folder.
type gitHost struct {
	dir    string
	https  *httptest.Server
	ca     string // PEM file
	daemon string // host:port
	deny   atomic.Bool
	mu     sync.Mutex
	hold   chan struct{} // requests wait until it is closed
}

func startGitHost(t *testing.T) *gitHost {
	t.Helper()
	h := &gitHost{dir: t.TempDir()}
	h.https = httptest.NewTLSServer(http.HandlerFunc(h.serve))
	t.Cleanup(h.https.Close)
	h.ca = filepath.Join(h.dir, "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.https.Certificate().Raw})
	if err := os.WriteFile(h.ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.daemon = l.Addr().String()
	_, port, _ := net.SplitHostPort(h.daemon)
	l.Close()
	daemon := exec.Command("git", "daemon", "--listen=127.0.0.1", "--port="+port, "--reuseaddr", "--export-all", "--base-path="+h.dir)
	daemon.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + h.dir, "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"}
	daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Kill(-daemon.Process.Pid, syscall.SIGKILL)
		daemon.Wait() // killed: its error says so
	})
	clustertest.Await(t, time.Minute, func() string {
		conn, err := net.Dial("tcp", h.daemon)
		if err != nil {
			return err.Error()
		}
		conn.Close()
		return ""
	})
	return h
}

func (h *gitHost) serve(w http.ResponseWriter, r *http.Request) {
	user, password, _ := r.BasicAuth()
	if user != "bob" || password != hostPassword || h.deny.Load() {
		w.Header().Set("WWW-Authenticate", `Basic realm="host"`)
		http.Error(w, "not with "+password, http.StatusUnauthorized)
		return
	}
	h.mu.Lock()
	hold := h.hold
	h.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-r.Context().Done():
		}
	}
	(&cgi.Handler{Path: "/usr/lib/git-core/git-http-backend", Root: "/", Stderr: io.Discard, InheritEnv: []string{"PATH"},
		Env: []string{"GIT_PROJECT_ROOT=" + h.dir, "GIT_HTTP_EXPORT_ALL=1", "HOME=" + h.dir, "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"},
	}).ServeHTTP(w, r)
}

func (h *gitHost) setHold(hold chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hold = hold
}

// repository makes one on the host, with a working tree to push to it from.
func (h *gitHost) repository(t *testing.T, u *clustertest.User, name string) (work string) {
	t.Helper()
	work = filepath.Join(h.dir, name+"-work")
	u.Git(t, "", "init", "-q", "--bare", filepath.Join(h.dir, name+".git"))
	u.Git(t, "", "init", "-q", work)
	u.Git(t, work, "remote", "add", "origin", filepath.Join(h.dir, name+".git"))
	return work
}

// awaitRef waits until every running node shows the ref with the value, or not
// at all for "".
func awaitRef(t *testing.T, c *clustertest.Cluster, limit time.Duration, repo, ref, want string) {
	t.Helper()
	clustertest.Await(t, limit, func() string {
		for _, n := range c.Nodes {
			if !n.Running() {
				continue
			}
			r := c.Admin.Run("", "git", "ls-remote", "ssh://"+n.Name+"/"+repo, ref)
			if got, _, _ := strings.Cut(r.Stdout, "\t"); r.Status != 0 || got != want {
				return fmt.Sprintf("%s shows %s of %s as %q, want %q; %s", n.Name, ref, repo, got, want, r.Stderr)
			}
		}
		return ""
	})
}

// TestMirrors follows remotes over three protocols, through failures and the
// death of the node that pulls.
func TestMirrors(t *testing.T) {
	t.Parallel()
	h := startGitHost(t)
	c := clustertest.Start(t, 3, clustertest.NodeEnv("GIT_SSL_CAINFO="+h.ca))
	u := c.Admin
	url := h.https.URL

	t.Run("git", func(t *testing.T) {
		work := h.repository(t, u, "open")
		first := u.Commit(t, work, "f", "one")
		u.Git(t, work, "push", "-q", "origin", "main", "main:topic")
		uri := "git://" + h.daemon + "/open.git"
		if got := u.Must(t, "", "git-cluster", "repo", "observe", "mirror/open", uri, "--every", "1s"); !strings.Contains(got, "follows "+uri+". 2 refs changed, version 0 → ") {
			// On a busy machine the timer of one of the nodes goes off before the command's own pull.
			if refs := lsRemote(t, u, "node1", "mirror/open"); !strings.HasSuffix(got, "Already up to date.") || refs["refs/heads/main"] != first || refs["refs/heads/topic"] != first {
				t.Errorf("it says %q, and there are %v", got, refs)
			}
		}
		awaitRef(t, c, time.Minute, "mirror/open", "refs/heads/main", first)
		second := u.Commit(t, work, "f", "two")
		u.Git(t, work, "push", "-q", "origin", "main", ":topic")
		awaitRef(t, c, time.Minute, "mirror/open", "refs/heads/main", second)
		awaitRef(t, c, time.Minute, "mirror/open", "refs/heads/topic", "")

		// Nobody pushes to a mirror.
		clone := filepath.Join(t.TempDir(), "clone")
		u.Git(t, "", "clone", "-q", "cluster::mirror/open", clone)
		u.Commit(t, clone, "g", "mine")
		web := strings.Replace(c.Nodes[1].URL("mirror/open"), "://", "://"+u.Name+":"+u.Token(t)+"@", 1)
		for _, to := range []string{"cluster::mirror/open", "ssh://node2/mirror/open", web} {
			said := u.Run(clone, "git", "push", to, "main").Refused(t)
			if !strings.Contains(said, "follows "+uri) || !strings.Contains(said, "push there") {
				t.Errorf("a push to %s: %q", to, said)
			}
		}
		if got := u.Must(t, "", "git-cluster", "repo", "show", "mirror/open"); !strings.Contains(got, "follows   "+uri) || !strings.Contains(got, "every 1s") {
			t.Errorf("it shows\n%s", got)
		}
		// Other addresses, and what else is wrong, are refused before anything is done.
		for want, args := range map[string][]string{
			"names a program":       {"mirror/bad", "ext::sh -c id"},
			"own disk":              {"mirror/bad", "file:///etc"},
			"begins with":           {"mirror/bad", "--", "-oProxyCommand=id"},
			"holds a password":      {"mirror/bad", "https://bob:pw@h/x"},
			"cluster addresses":     {"mirror/bad", uri, "--device"},
			"not every 1ms":         {"mirror/bad", uri, "--every", "1ms"},
			"bad pattern":           {"mirror/bad", uri, "--refs", "heads/*"},
			"no URI":                {"mirror/bad"},
			"not found":             {"mirror/bad", uri, "--also"},
			"none of the others":    {"mirror/open", "--stop", "--also"},
			"of the repository alo": {"mirror/open", uri, "--stop"},
		} {
			if said := u.Run("", append([]string{"git-cluster", "repo", "observe"}, args...)...).Refused(t); !strings.Contains(said, want) {
				t.Errorf("%q: %q, want %q", args, said, want)
			}
		}
		u.Run("", "git-cluster", "repo", "show", "mirror/bad").Refused(t)

		alice := c.AddUser(t, "alice")
		u.Must(t, "", "git-cluster", "grant", "alice", "admin", "mirror/*")
		if said := alice.Run("", "git-cluster", "repo", "observe", "mirror/alice", uri).Refused(t); !strings.Contains(said, "no administrator") {
			t.Errorf("alice: %q", said)
		}
		alice.Must(t, "", "git-cluster", "pull", "mirror/open")

		u.Must(t, "", "git-cluster", "repo", "observe", "mirror/open", "--stop")
		u.Git(t, clone, "push", "-q", "cluster::mirror/open", "main")
		if said := u.Run("", "git-cluster", "repo", "observe", "mirror/open", uri).Refused(t); !strings.Contains(said, "not empty") {
			t.Errorf("over somebody's push: %q", said)
		}
		u.Must(t, "", "git-cluster", "repo", "observe", "mirror/open", uri, "--force")
		awaitRef(t, c, time.Minute, "mirror/open", "refs/heads/main", second)
	})

	t.Run("https", func(t *testing.T) {
		work := h.repository(t, u, "closed")
		head := u.Commit(t, work, "f", "one")
		u.Git(t, work, "push", "-q", "origin", "main")
		uri := url + "/closed.git"
		observe := func(password string) clustertest.Result {
			return u.Feed("", "username=bob\npassword="+password+"\n", "git-cluster", "repo", "observe", "mirror/closed", uri, "--credential", "-", "--every", "1s")
		}
		if said := observe("wrong").Refused(t); !strings.Contains(said, "Authentication failed") || !strings.Contains(said, "hint: ") {
			t.Errorf("a wrong password: %q", said)
		}
		clustertest.Await(t, time.Minute, func() string {
			st, err := c.Nodes[2].Status()
			if err != nil {
				return err.Error()
			}
			for _, r := range st.Failing {
				o := r.Observed
				if r.Name == "mirror/closed" && o.Failures >= 2 && strings.Contains(o.Error, "Authentication failed") && o.Next.Sub(o.Tried) > 3*time.Second {
					return ""
				}
			}
			return fmt.Sprintf("failing are %+v", st.Failing)
		})
		if got := u.Must(t, "", "git-cluster", "status"); !strings.Contains(got, "mirrors, 1 failing") || !strings.Contains(got, "mirror/closed") {
			t.Errorf("status shows\n%s", got)
		}
		if err := observe(hostPassword).Err(); err != nil {
			t.Fatal(err)
		}
		awaitRef(t, c, time.Minute, "mirror/closed", "refs/heads/main", head)
		debug := u.Run("", "git-cluster", "pull", "mirror/closed", "--debug")
		if err := debug.Err(); err != nil || !strings.Contains(debug.Stdout, "up to date") || !strings.Contains(debug.Stderr, "$ git ls-remote") {
			t.Errorf("--debug: %v\n%s%s", err, debug.Stdout, debug.Stderr)
		}
		// A further address helps when the first fails.
		h.deny.Store(true)
		u.Run("", "git-cluster", "pull", "mirror/closed").Refused(t)
		u.Must(t, "", "git-cluster", "repo", "observe", "mirror/closed", "git://"+h.daemon+"/closed.git", "--also")
		h.deny.Store(false)
	})

	t.Run("ssh", func(t *testing.T) {
		// The cluster's own front is an SSH server like any other.
		proxy := newTCPProxy(t, c.Nodes[0].SSH)
		work := newWork(t, u)
		head := u.Commit(t, work, "f", "one")
		u.Git(t, work, "push", "-q", "cluster::source/a", "main")
		uri := "ssh://git@" + proxy.addr + "/source/a"
		key := strings.TrimSuffix(u.PublicKey(), ".pub")
		u.Must(t, "", "git-cluster", "repo", "observe", "mirror/ssh", uri, "--credential", key, "--every", "1s")
		awaitRef(t, c, time.Minute, "mirror/ssh", "refs/heads/main", head)
		head = u.Commit(t, work, "f", "two")
		u.Git(t, work, "push", "-q", "cluster::source/a", "main")
		awaitRef(t, c, time.Minute, "mirror/ssh", "refs/heads/main", head)
		// Every node knows the host's key from the first contact of one of them.
		proxy.set(c.Nodes[1].SSH)
		for _, n := range c.Nodes {
			said := u.Run("", "git-cluster", "pull", "mirror/ssh", "--data", n.Data).Refused(t)
			if !strings.Contains(said, "is not the one it had at first contact") {
				t.Errorf("on %s: %q", n.Name, said)
			}
		}
		u.Must(t, "", "git-cluster", "repo", "observe", "mirror/ssh", uri, "--credential", key)
	})

	t.Run("takeover", func(t *testing.T) {
		work := h.repository(t, u, "long")
		u.Commit(t, work, "f", "one")
		u.Git(t, work, "push", "-q", "origin", "main")
		if err := u.Feed("", "https://bob:"+hostPassword+"@"+strings.TrimPrefix(url, "https://")+"\n", "git-cluster", "repo", "observe", "mirror/long", url+"/long.git", "--credential", "-", "--every", "1s").Err(); err != nil {
			t.Fatal(err)
		}
		head := u.Commit(t, work, "f", "two")
		u.Git(t, work, "push", "-q", "origin", "main")
		hold := make(chan struct{})
		h.setHold(hold)
		defer h.setHold(nil)
		view := c.Show(t, "mirror/long")
		var puller *clustertest.Node
		var scratch []string
		clustertest.Await(t, time.Minute, func() string {
			for _, n := range c.Nodes {
				if scratch, _ = filepath.Glob(filepath.Join(n.Data, "observing", string(view.ID)+"-*", "credential")); len(scratch) > 0 {
					puller = n
					return ""
				}
			}
			return "nobody pulls"
		})
		noSecretInProcesses(t, url+"/long.git")
		puller.Kill()
		close(hold)
		awaitRef(t, c, 60*time.Second, "mirror/long", "refs/heads/main", head)
		clustertest.Await(t, 20*time.Second, func() string {
			if by := c.Show(t, "mirror/long").Observed; by == nil || string(by.Device) == puller.Name {
				return fmt.Sprintf("pulled by %+v", by)
			}
			return ""
		})
		if err := puller.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(scratch[0]); !os.IsNotExist(err) {
			t.Errorf("the credential of the pull that was killed is still in %s: %v", scratch[0], err)
		}
		awaitRef(t, c, 20*time.Second, "mirror/long", "refs/heads/main", head)
	})

	// The secret went over the wire and into the journal, and nowhere else.
	var shown []string
	for _, n := range c.Nodes {
		shown = append(shown, n.Log())
	}
	for _, args := range [][]string{{"repo", "show", "mirror/closed", "--json"}, {"repo", "show", "mirror/long"}, {"repo", "list", "--json"}, {"status", "--json"}, {"status"}} {
		shown = append(shown, u.Must(t, "", append([]string{"git-cluster"}, args...)...))
	}
	for _, text := range shown {
		if strings.Contains(text, hostPassword) || strings.Contains(text, "PRIVATE KEY") {
			t.Errorf("the secret is in\n%s", text)
		}
	}
	var view admin.RepoView
	if err := json.Unmarshal([]byte(u.Must(t, "", "git-cluster", "repo", "show", "mirror/closed", "--json")), &view); err != nil || view.Observe.Remotes[0].Credential != "password" || len(view.Observe.Remotes) != 2 {
		t.Errorf("it shows %+v, %v", view.Observe, err)
	}
	if got := u.Must(t, "", "git-cluster", "pull", "source/a"); got != "Already up to date." {
		t.Errorf("a pull of an ordinary repository: %q", got)
	}
}

// noSecretInProcesses looks at the arguments and the environment of every
// process of this account, while something is pulled from an address.
func noSecretInProcesses(t *testing.T, from string) {
	t.Helper()
	if len(must(filepath.Glob("/proc/[0-9]*/cmdline"))) == 0 {
		return // this is no Linux
	}
	clustertest.Await(t, time.Minute, func() string {
		pulls := 0
		for _, file := range []string{"cmdline", "environ"} {
			all, err := filepath.Glob("/proc/[0-9]*/" + file)
			if err != nil {
				t.Fatal(err)
			}
			for _, path := range all {
				text, err := os.ReadFile(path)
				if err != nil {
					continue // it has ended, or is another's
				}
				if strings.Contains(string(text), hostPassword) {
					t.Errorf("the secret is in %s: %q", path, text)
				}
				if words := string(text); strings.Contains(words, "ls-remote") && strings.Contains(words, from) {
					pulls++ // and not another test's
				}
			}
		}
		if pulls == 0 {
			return "no pull is under way: the search proves nothing"
		}
		return ""
	})
}

func must(found []string, _ error) []string { return found }

// A tcpProxy passes connections on to a server that can be exchanged.
type tcpProxy struct {
	addr string
	to   atomic.Pointer[string]
}

func newTCPProxy(t *testing.T, to string) *tcpProxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tcpProxy{addr: l.Addr().String()}
	p.set(to)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer in.Close()
				out, err := net.Dial("tcp", *p.to.Load())
				if err != nil {
					return
				}
				defer out.Close()
				defer context.AfterFunc(ctx, func() { in.Close(); out.Close() })()
				wg.Go(func() { io.Copy(out, in); out.Close() })
				io.Copy(in, out)
			})
		}
	})
	t.Cleanup(func() { cancel(); l.Close(); wg.Wait() })
	return p
}

func (p *tcpProxy) set(to string) { p.to.Store(&to) }

// TestDeviceFromAnUntrustedNetwork: a device's key counts for nothing from
// elsewhere, and the device is not told which of the reasons it was.
func TestDeviceFromAnUntrustedNetwork(t *testing.T) {
	c := clustertest.Start(t, 1, clustertest.InitFlags("--trusted-network", "192.0.2.0/24"))
	u := c.Admin
	work := newWork(t, u)
	u.Commit(t, work, "f", "one")
	u.Git(t, work, "push", "-q", "cluster::device/a", "main")
	dir := filepath.Join(t.TempDir(), "device")
	device := c.NewUser(t, "machine").With("GIT_CLUSTER_DEVICE_DIR="+dir, "SSH_AUTH_SOCK=", "GIT_SSH_COMMAND=", "PHABRICATOR_AS_DEVICE=1")
	token := u.Must(t, "", "git-cluster", "token", "create", "--device")
	r := device.Feed("", token+"\n", "git-cluster", "device", "enroll", c.Nodes[0].SSH, "--token", "-", "--name", "ci7")
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(r.Stderr, "does not let this device in yet") {
		t.Errorf("enrolling says %q", r.Stderr)
	}
	served := u.Run("", "git", "ls-remote", "cluster::device/a")
	if err := served.Err(); err != nil {
		t.Fatal(err)
	}
	refused := func(what string) (said string) {
		t.Helper()
		attempt(t, func() string {
			r := device.Run("", "git", "ls-remote", "cluster::device/a")
			if said = r.Refused(t); r.Took > within(time.Second, served.Took) {
				return fmt.Sprintf("%s: it took %v to be refused", what, r.Took)
			}
			return ""
		})
		return said
	}
	said := refused("from an untrusted network")
	for reason, change := range map[string][2]string{"is disabled": {"disable", "enable"}, "is not trusted": {"untrust", "trust"}} {
		u.Must(t, "", "git-cluster", "device", change[0], "ci7")
		clustertest.Await(t, 10*time.Second, func() string {
			if got := refused(reason); got != said {
				t.Fatalf("it is told apart: %q and %q", got, said)
			}
			if !strings.Contains(c.Nodes[0].Log(), reason) {
				return "the log does not say that it " + reason
			}
			return ""
		})
		u.Must(t, "", "git-cluster", "device", change[1], "ci7")
	}
	if log := c.Nodes[0].Log(); !strings.Contains(log, "in no trusted network") {
		t.Error("the log does not name the network")
	}
	for _, word := range []string{"trusted", "disabled", "network", "127."} {
		if strings.Contains(strings.ReplaceAll(said, c.Nodes[0].SSH, "ADDR"), word) {
			t.Errorf("the wire tells %q: %q", word, said)
		}
	}
}
