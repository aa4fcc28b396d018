package client

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"gitcluster/internal/nodecache"
	"gitcluster/internal/remotehelper"
	"gitcluster/internal/sshclient/sshtest"
)

// late puts a server behind an address whose connections reach it only when open is
// closed.
func late(t *testing.T, target string, open <-chan struct{}) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				select {
				case <-open:
				case <-t.Context().Done():
					c.Close()
					return
				}
				s, err := net.Dial("tcp", target)
				if err != nil {
					c.Close()
					return
				}
				go func() { s.(*net.TCPConn).ReadFrom(c); s.Close() }()
				c.(*net.TCPConn).ReadFrom(s)
				c.Close()
			}()
		}
	}()
	return l.Addr().String()
}

// While the first replica is slow, the second is asked; one of them is logged in
// to, whichever that is.
func TestRace(t *testing.T) {
	for name, c := range map[string]struct {
		late    bool // the first answers only if the second refuses the key, and then
		accepts bool // the second takes the key
		first   int  // connections that were logged in
		second  int
		says    string
	}{
		"in time":                 {false, true, 1, 0, `^$`},
		"too late":                {true, true, 0, 1, `^git-remote-cluster: n1 .* no answer for [\d.]+m?s; using n2\n$`},
		"late, but the other one": {true, false, 1, 0, `^git-remote-cluster: n2 .*permission denied.*; using n1\n$`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := remembering(t)
			o := g.opts
			o.Handler = good
			first := sshtest.Start(t, o)
			open := make(chan struct{})
			g.at("n1", late(t, first.Addr, open), first.HostKey())
			if c.late {
				g.limits.Alone = 0 // as outside of tests
			} else {
				close(open)
			}
			if !c.accepts {
				proceed := sync.OnceFunc(func() { close(open) })
				o.Authorize = func(string, ssh.PublicKey) bool { proceed(); return false }
			}
			second := sshtest.Start(t, o)
			g.at("n2", second.Addr, second.HostKey())
			out, stderr, err := g.connect(remotehelper.UploadPack)
			if out != "\nhello0000" || err != nil || !regexp.MustCompile(c.says).MatchString(stderr) {
				t.Errorf("stdout %q, stderr %q, %v; want %s", out, stderr, err, c.says)
			}
			if first.Connections() != c.first || second.Connections() != c.second {
				t.Errorf("logged in %d times to the first and %d times to the second, want %d and %d", first.Connections(), second.Connections(), c.first, c.second)
			}
			first.WaitRunning(t, "")
			second.WaitRunning(t, "")
		})
	}
}

// A slowAgent is a key that has to be touched.
type slowAgent struct {
	agent.Agent
	asked  atomic.Int32
	asking func() // called once it is asked
}

func (a *slowAgent) Sign(key ssh.PublicKey, data []byte) (*ssh.Signature, error) {
	a.asked.Add(1)
	a.asking()
	time.Sleep(2 * time.Second) // a person
	return a.Agent.Sign(key, data)
}

// A person is asked once, even if a second replica shows up meanwhile.
func TestOneLoginAtATime(t *testing.T) {
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	open := make(chan struct{})
	keys := &slowAgent{Agent: agent.NewKeyring(), asking: sync.OnceFunc(func() { close(open) })}
	if err := keys.Add(agent.AddedKey{PrivateKey: private}); err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "agent")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { agent.ServeAgent(keys, c); c.Close() }()
		}
	}()
	t.Setenv("SSH_AUTH_SOCK", socket)
	t.Setenv("HOME", t.TempDir())

	g := remembering(t)
	g.limits.Alone = 0 // as outside of tests
	g.env = map[string]string{"SSH_AUTH_SOCK": socket, "HOME": os.Getenv("HOME")}
	g.conf.Clusters["demo"].Identity = ""
	g.opts.Accept = signer
	o := g.opts
	o.Handler = good
	first := sshtest.Start(t, o)
	g.at("n1", late(t, first.Addr, open), first.HostKey())
	second := g.node("n2", good)
	out, stderr, err := g.connect(remotehelper.UploadPack)
	if out != "\nhello0000" || stderr != "" || err != nil || keys.asked.Load() != 1 || first.Connections() != 0 || second.Connections() != 1 {
		t.Errorf("stdout %q, stderr %q, %v; %d signatures, %d and %d logins", out, stderr, err, keys.asked.Load(), first.Connections(), second.Connections())
	}
}

// remembering is newGit with a cache.
func remembering(t *testing.T) *git {
	g := newGit(t)
	g.cache = nodecache.In(filepath.Join(filepath.Dir(g.file), "cache"))
	return g
}

// A replica whose update takes long goes on, while the others are asked whether
// they need one.
func TestLongUpdate(t *testing.T) {
	behind := `{"cluster":"c","node":"n","error":"replica is behind","retry":true}`
	for name, c := range map[string]struct {
		near   func(ctx context.Context, s *sshtest.Session, asked chan string) int // cluster-sync on the first
		second string                                                               // its answer to "are you current?"
		says   string
		served int // which of them
	}{
		"the other is current": {func(ctx context.Context, s *sshtest.Session, said chan string) int {
			tick := time.NewTicker(100 * time.Millisecond)
			defer tick.Stop()
			for i := 0; ; i++ {
				fmt.Fprintln(s.Stderr, "# Synchronizing…") // again and again, as a node does
				if i == 3 {
					said <- ""
				}
				select {
				case <-tick.C:
				case <-ctx.Done():
					return sshtest.NoStatus
				}
			}
		}, `{"cluster":"c","node":"n","version":7}`, "# Synchronizing…\ngit-remote-cluster: n1 (ADDR): not up to date within 100ms; using n2\n", 2},
		"the other is behind, too": {func(ctx context.Context, s *sshtest.Session, asked chan string) int {
			<-asked
			return synced(s)
		}, behind, "", 1},
		"the other does not know": {func(ctx context.Context, s *sshtest.Session, asked chan string) int {
			<-asked
			return synced(s)
		}, `{"cluster":"c","node":"n","error":"usage: cluster-sync","retry":false}`, "", 1},
		"the near one fails, the other is current": {func(ctx context.Context, s *sshtest.Session, asked chan string) int {
			<-asked
			fmt.Fprintln(s.Stdout, `{"cluster":"c","node":"n","error":"no replica has it","retry":true}`)
			return 1
		}, `{"cluster":"c","node":"n","version":7}`, "", 2},
		"the near one fails, the other is behind": {func(ctx context.Context, s *sshtest.Session, asked chan string) int {
			<-asked
			fmt.Fprintln(s.Stdout, `{"cluster":"c","node":"n","error":"no replica has it","retry":true}`)
			return 1
		}, behind, "git-remote-cluster: n1 (ADDR): no replica has it; trying n2\n", 2},
	} {
		for _, service := range []remotehelper.Service{remotehelper.UploadPack, remotehelper.ReceivePack} {
			t.Run(name+" "+string(service), func(t *testing.T) {
				t.Parallel()
				g := remembering(t)
				g.limits.SyncWait = 100 * time.Millisecond
				asked := make(chan string, 10)
				serves := func(who string) sshtest.Handler {
					return func(ctx context.Context, s *sshtest.Session) int {
						if service == remotehelper.UploadPack {
							// A fetch is started together with the synchronization.
							if who == "n1" && c.served == 2 {
								<-ctx.Done()
								return sshtest.NoStatus
							}
						}
						fmt.Fprint(s.Stdout, who+"0000")
						return 0
					}
				}
				first := g.node("n1", func(ctx context.Context, s *sshtest.Session) int {
					if isSync(s) {
						return c.near(ctx, s, asked)
					}
					if service == remotehelper.UploadPack && c.served == 1 {
						fmt.Fprint(s.Stdout, "n10000")
						return 0
					}
					return serves("n1")(ctx, s)
				})
				second := g.node("n2", func(ctx context.Context, s *sshtest.Session) int {
					switch {
					case strings.Contains(s.Command, " --current "):
						if strings.HasPrefix(c.says, "# ") {
							<-asked // the first has said what it does
						}
						fmt.Fprintln(s.Stdout, c.second)
						asked <- s.Command
						return 0
					case isSync(s):
						return synced(s)
					}
					return serves("n2")(ctx, s)
				})
				out, stderr, err := g.connect(service)
				says := strings.ReplaceAll(c.says, "ADDR", first.Addr)
				if out != fmt.Sprintf("\nn%d0000", c.served) || err != nil || says != "" && stderr != says {
					t.Errorf("stdout %q, stderr %q, %v; want n%d and %q", out, stderr, err, c.served, says)
				}
				first.WaitRunning(t, "")
				second.WaitRunning(t, "")
			})
		}
	}
}

// What just failed is asked last next time.
func TestFailureIsRemembered(t *testing.T) {
	g := remembering(t)
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.at("n1", dead.Addr().String(), "")
	dead.Close()
	g.node("n2", good)
	for i, says := range []string{"connection refused; trying n2", ""} {
		g.cache = again(g.cache)
		out, stderr, err := g.connect(remotehelper.UploadPack)
		if out != "\nhello0000" || err != nil || !strings.Contains(stderr, says) || says == "" && stderr != "" {
			t.Errorf("run %d: stdout %q, stderr %q, %v", i, out, stderr, err)
		}
	}
}

func TestQuietFailover(t *testing.T) {
	g := remembering(t)
	g.quiet = true
	g.limits.Alone = 0 // as outside of tests
	g.at("n1", late(t, "127.0.0.1:1", nil), "")
	g.node("n2", good)
	if out, stderr, err := g.connect(remotehelper.UploadPack); out != "\nhello0000" || err != nil || stderr != "" {
		t.Errorf("stdout %q, stderr %q, %v", out, stderr, err)
	}
}

// When all replicas are too busy to answer in the little time each has while others
// are left, those that were reached have another turn; one that cannot be reached has
// not.
func TestAllAreBusy(t *testing.T) {
	t.Parallel()
	g := remembering(t)
	g.limits.Sync = 2 * time.Second // in which it has to answer when it is not busy
	var asked atomic.Int32
	busy := func(ctx context.Context, s *sshtest.Session) int {
		if isSync(s) && asked.Add(1) <= 2 || !isSync(s) && asked.Load() <= 2 {
			<-ctx.Done()
			return sshtest.NoStatus
		}
		return good(ctx, s)
	}
	g.node("n1", busy)
	g.node("n2", busy)
	at := make(chan struct{})
	close(at)
	g.at("n3", late(t, "127.0.0.1:1", at), "") // ends every connection
	out, stderr, err := g.connect(remotehelper.ReceivePack)
	if out != "\nhello0000" || err != nil || strings.Count(stderr, "no replica has answered in time; waiting longer\n") != 1 || strings.Count(stderr, "n3 (") != 1 {
		t.Errorf("stdout %q, stderr %q, %v", out, stderr, err)
	}
}
