package clustertest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/config"
	"gitcluster/internal/durable"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
	"gitcluster/internal/replica"
)

// A User is somebody with a key, a home, and the files to use the cluster: an
// environment in which `git clone cluster::repo` works, and so does
// `git clone ssh://node2/repo` with OpenSSH.
type User struct {
	Name string

	cluster *Cluster
	dir     string
	via     string
	env     []string
}

// AddUser makes a user with a key of its own and the given flags of "user add".
func (c *Cluster) AddUser(t testing.TB, name string, flags ...string) *User {
	t.Helper()
	u, err := c.Enroll(name, flags...)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// Enroll is AddUser where no test is at hand.
func (c *Cluster) Enroll(name string, flags ...string) (*User, error) {
	u, err := c.newUser(name)
	if err != nil {
		return nil, err
	}
	if err := c.writeFiles(); err != nil {
		return nil, err
	}
	return u, c.Admin.Run("", append([]string{"git-cluster", "user", "add", name, "--key", u.path("id.pub")}, flags...)...).Err()
}

// NewUser makes somebody with a key that the cluster does not know.
func (c *Cluster) NewUser(t testing.TB, name string) *User {
	t.Helper()
	u, err := c.newUser(name)
	if err == nil {
		err = c.writeFiles()
	}
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func (c *Cluster) newUser(name string) (*User, error) {
	u := &User{Name: name, cluster: c, dir: filepath.Join(c.dir, "users", name)}
	if err := os.MkdirAll(u.path("home"), 0o700); err != nil {
		return nil, err
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, name)
	if err != nil {
		return nil, err
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(u.path("id"), pem.EncodeToMemory(block), 0o600); err != nil {
		return nil, err
	}
	c.users = append(c.users, u)
	return u, os.WriteFile(u.path("id.pub"), ssh.MarshalAuthorizedKey(key), 0o644)
}

func (u *User) path(name string) string { return filepath.Join(u.dir, name) }

// PublicKey is the file with the user's public key.
func (u *User) PublicKey() string { return u.path("id.pub") }

// SSHConfig is a file for `ssh -F` in which every node is a host of its name.
func (u *User) SSHConfig() string { return u.path("ssh_config") }

// writeFiles writes all users' configuration anew. Commands of other tests read it
// meanwhile, and never see half a file.
func (c *Cluster) writeFiles() error {
	var hosts, known, trusted bytes.Buffer
	var nodes []config.Node
	for _, n := range c.Nodes {
		public, err := os.ReadFile(filepath.Join(n.Data, "device", "id_ed25519.pub"))
		if err != nil {
			return err
		}
		certificate, err := os.ReadFile(n.Certificate())
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		trusted.Write(certificate)
		key := strings.Join(strings.Fields(string(public))[:2], " ")
		nodes = append(nodes, config.Node{Name: n.Name, SSH: n.SSH, HostKey: key})
		host, port, err := net.SplitHostPort(n.SSH)
		if err != nil {
			return err
		}
		fmt.Fprintf(&known, "%s %s\n", n.Name, key)
		fmt.Fprintf(&hosts, "Host %s\n  HostName %s\n  Port %s\n  HostKeyAlias %s\n\n", n.Name, host, port, n.Name)
	}
	for _, f := range c.fronts {
		key, err := f.HostKey()
		if err != nil {
			return err
		}
		text, err := f.host()
		if err != nil {
			return err
		}
		fmt.Fprintf(&known, "%s %s\n", f.Name, key)
		hosts.WriteString(text)
	}
	if err := durable.WriteFile(c.Certificates(), trusted.Bytes(), 0o644); err != nil {
		return err
	}
	for _, u := range c.users {
		text := fmt.Sprintf("%sHost *\n  User git\n  IdentityFile %q\n  IdentitiesOnly yes\n  IdentityAgent none\n  BatchMode yes\n  UserKnownHostsFile %q\n  GlobalKnownHostsFile /dev/null\n  ConnectTimeout 10\n",
			hosts.String(), u.path("id"), u.path("known_hosts"))
		file := &config.Client{Default: "test", Clusters: map[string]*config.Cluster{"test": {User: "git", Identity: u.path("id"), Nodes: nodes}}}
		err := errors.Join(
			durable.WriteFile(u.path("ssh_config"), []byte(text), 0o600),
			durable.WriteFile(u.path("known_hosts"), known.Bytes(), 0o600),
			file.Write(u.path("client.toml")))
		if err != nil {
			return err
		}
	}
	return nil
}

// Certificates is a file with the certificates of all nodes.
func (c *Cluster) Certificates() string { return filepath.Join(c.dir, "certificates.pem") }

// HTTPClient trusts the nodes. It speaks HTTP/2 where it can, and its requests end
// within a minute.
func (c *Cluster) HTTPClient(t testing.TB) *http.Client {
	t.Helper()
	client, err := c.Browser()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdleConnections)
	return client
}

// Browser is HTTPClient where no test is at hand.
func (c *Cluster) Browser() (*http.Client, error) {
	pem, err := os.ReadFile(c.Certificates())
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}, Timeout: time.Minute}, nil
}

// Token makes an access token of the user.
func (u *User) Token(t testing.TB, flags ...string) string {
	t.Helper()
	return u.Must(t, "", append([]string{"git-cluster", "user", "token", "create", u.Name}, flags...)...)
}

// Via returns the user with the helper pinned to a node.
func (u *User) Via(node string) *User {
	v := *u
	v.via = node
	return &v
}

// With returns the user with more variables in the environment.
func (u *User) With(env ...string) *User {
	v := *u
	v.env = append(slices.Clone(u.env), env...)
	return &v
}

// bare is the environment of a process that shall know nothing of the person
// who runs the test.
func bare(c *Cluster) []string {
	env := []string{"PATH=" + c.Bin + string(os.PathListSeparator) + os.Getenv("PATH"), "HOME=" + c.dir, "LC_ALL=C"}
	if dir := os.Getenv("TMPDIR"); dir != "" {
		env = append(env, "TMPDIR="+dir) // a node's socket may be below it
	}
	return env
}

// Environment is everything the user's commands see.
func (u *User) Environment() []string {
	env := append(bare(u.cluster),
		"HOME="+u.path("home"),
		config.EnvClient+"="+u.path("client.toml"),
		"SSH_CONFIG="+u.path("ssh_config"), // for the ssh beside the programs
		"GIT_SSL_CAINFO="+u.cluster.Certificates(),
		"GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME="+u.Name, "GIT_AUTHOR_EMAIL="+u.Name+"@example.org",
		"GIT_COMMITTER_NAME="+u.Name, "GIT_COMMITTER_EMAIL="+u.Name+"@example.org",
		"GIT_CONFIG_COUNT=3", "GIT_CONFIG_KEY_0=init.defaultBranch", "GIT_CONFIG_VALUE_0=main",
		"GIT_CONFIG_KEY_1=advice.detachedHead", "GIT_CONFIG_VALUE_1=false",
		"GIT_CONFIG_KEY_2=core.fsync", "GIT_CONFIG_VALUE_2=none") // what the user has may be lost
	if u.via != "" {
		env = append(env, replica.EnvReplica+"="+u.via)
	}
	return append(env, u.env...)
}

// A Result is how a command ended.
type Result struct {
	Args           []string
	Stdout, Stderr string
	Status         int // -1 when a signal ended it
	Took           time.Duration
	err            error
}

// Err is nil if the status was 0; else it shows everything.
func (r Result) Err() error {
	if r.err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w\n%s%s", strings.Join(r.Args, " "), r.err, r.Stdout, r.Stderr)
}

// Refused gives what the command wrote to stderr, and fails the test if it
// succeeded.
func (r Result) Refused(t testing.TB) string {
	t.Helper()
	if r.Status <= 0 {
		t.Fatalf("%s: status %d, want a refusal\n%s%s", strings.Join(r.Args, " "), r.Status, r.Stdout, r.Stderr)
	}
	return r.Stderr
}

// commandLimit is far more than any command of a test takes.
const commandLimit = 2 * time.Minute

// Run runs a command in dir ("" for the user's home).
func (u *User) Run(dir string, args ...string) Result {
	ctx, cancel := context.WithTimeoutCause(context.Background(), commandLimit, fmt.Errorf("it did not end within %v", commandLimit))
	defer cancel()
	return u.RunContext(ctx, dir, "", args...)
}

// Feed is Run with text on standard input.
func (u *User) Feed(dir, stdin string, args ...string) Result {
	ctx, cancel := context.WithTimeoutCause(context.Background(), commandLimit, fmt.Errorf("it did not end within %v", commandLimit))
	defer cancel()
	return u.RunContext(ctx, dir, stdin, args...)
}

// RunContext is Feed, ended with its process group when the context ends.
func (u *User) RunContext(ctx context.Context, dir, stdin string, args ...string) Result {
	return u.Follow(ctx, dir, stdin, nil, args...)
}

// Follow is RunContext that also shows each line of stderr to see, as soon as it has
// come; one for which see returns false is left out of the result.
func (u *User) Follow(ctx context.Context, dir, stdin string, see func(line string) bool, args ...string) Result {
	if dir == "" {
		dir = u.path("home")
	}
	r := Result{Args: args}
	words := slices.Clone(args)
	// A program of ours is found where it was built, not in the tester's PATH.
	if own := filepath.Join(u.cluster.Bin, words[0]); strings.HasPrefix(words[0], "git-") {
		words[0] = own
	}
	var stdout bytes.Buffer
	stderr := lines{see: see}
	start := time.Now()
	r.err = new(gitexec.Runner).Run(ctx, gitcmd.Command{Args: words, Env: u.Environment(), Dir: dir},
		gitexec.IO{Stdin: strings.NewReader(stdin), Stdout: &stdout, Stderr: &stderr})
	r.Took = time.Since(start)
	r.Stdout, r.Stderr = stdout.String(), stderr.kept.String()+string(stderr.rest)
	var exit *gitexec.ExitError
	switch {
	case errors.As(r.err, &exit):
		r.Status = exit.Status
	case r.err != nil:
		r.Status = -1
	}
	return r
}

// lines shows what is written to it line by line, and keeps what is wanted.
type lines struct {
	see  func(line string) bool // nil: keep everything
	kept bytes.Buffer
	rest []byte // of a line that has not ended
}

func (l *lines) Write(p []byte) (int, error) {
	if l.see == nil {
		return l.kept.Write(p)
	}
	l.rest = append(l.rest, p...)
	for {
		i := bytes.IndexByte(l.rest, '\n')
		if i < 0 {
			return len(p), nil
		}
		if line := l.rest[:i+1]; l.see(string(line)) {
			l.kept.Write(line)
		}
		l.rest = l.rest[i+1:]
	}
}

// Must runs a command that must succeed and returns what it printed, trimmed. One that
// the journal did not confirm in time is repeated some times, as its hint says: the
// journal may have lost its leader just before.
func (u *User) Must(t testing.TB, dir string, args ...string) string {
	t.Helper()
	r := u.Run(dir, args...)
	for try := 1; try <= 5 && r.Status > 0 && strings.Contains(r.Stderr, "did not confirm within"); try++ {
		t.Logf("once more: %v", r.Err())
		r = u.Run(dir, args...)
	}
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(r.Stdout)
}

// Git is Must for git.
func (u *User) Git(t testing.TB, dir string, args ...string) string {
	t.Helper()
	return u.Must(t, dir, append([]string{"git"}, args...)...)
}

// Commit writes a file in the working tree at dir, commits it, and returns the
// commit.
func (u *User) Commit(t testing.TB, dir, file, text string) string {
	t.Helper()
	path := filepath.Join(dir, file)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	u.Git(t, dir, "add", file)
	u.Git(t, dir, "commit", "-q", "-m", "change "+file)
	return u.Git(t, dir, "rev-parse", "HEAD")
}
