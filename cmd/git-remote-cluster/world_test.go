//go:build unix

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"gitcluster/internal/config"
	"gitcluster/internal/sshclient/sshtest"
)

// The test binary is the helper when Git starts it under the helper's name.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "git-remote-cluster" {
		useTestDNS()
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A world is a user's machine, with Git and the helper, and the servers it uses.
type world struct {
	t    *testing.T
	dir  string
	env  []string
	key  string // identity file
	conf config.Client
	opts sshtest.Options
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	bin := filepath.Join(w.dir, "bin")
	home := filepath.Join(w.dir, "home")
	for _, d := range []string{bin, home} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(bin, "git-remote-cluster")); err != nil {
		t.Fatal(err)
	}
	w.key, w.opts.Accept = sshtest.NewKeyFile(t, w.dir, "key", "")
	w.conf.Clusters = map[string]*config.Cluster{"demo": {Identity: w.key}}
	w.env = []string{
		"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + home, "LC_ALL=C",
		"GORACE=atexit_sleep_ms=0", // the helper under the race detector would pause before it ends
		"GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0", config.EnvClient + "=" + w.configPath(),
		"GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@example.org", "GIT_COMMITTER_NAME=C", "GIT_COMMITTER_EMAIL=c@example.org",
	}
	return w
}

func (w *world) configPath() string { return filepath.Join(w.dir, "client.toml") }

// plain makes a server that does not know cluster-sync.
func plain(h *host) { h.sync = nil }

// syncing and wrapping set how a server does what it does.
func syncing(f sshtest.Handler) func(*host) { return func(h *host) { h.sync = f } }

func wrapping(f func(s *sshtest.Session, run func() int) int) func(*host) {
	return func(h *host) { h.wrap = f }
}

// A host is a server's directory of repositories and its manners.
type host struct {
	*sshtest.Server
	root string
	env  []string
	// sync answers cluster-sync; nil for a server that does not know it.
	sync sshtest.Handler
	// wrap runs around every service; nil to just run it.
	wrap func(s *sshtest.Session, run func() int) int
	envs chan map[string]string // of the services that were run
}

// addNode starts a server, after the edits, and adds it to the configured
// cluster.
func (w *world) addNode(name string, edits ...func(*host)) *host {
	h := w.addHost(name, edits...)
	w.configure(name, h.Addr, h.HostKey())
	return h
}

func (w *world) addHost(name string, edits ...func(*host)) *host {
	h := &host{env: slices.Clone(w.env), root: filepath.Join(w.dir, "root"), envs: make(chan map[string]string, 100)}
	h.sync = func(_ context.Context, s *sshtest.Session) int {
		fmt.Fprintf(s.Stdout, `{"cluster":"c1","node":%q,"epoch":1,"version":43,"waited_ms":12}`+"\n", name)
		return 0
	}
	for _, edit := range edits {
		edit(h)
	}
	opts := w.opts
	opts.Handler = h.handle
	h.Server = sshtest.Start(w.t, opts)
	return h
}

func (w *world) configure(name, addr, key string) {
	w.t.Helper()
	k := w.conf.Clusters["demo"]
	k.Nodes = append(k.Nodes, config.Node{Name: name, SSH: addr, HostKey: key})
	if err := w.conf.Write(w.configPath()); err != nil {
		w.t.Fatal(err)
	}
}

func (h *host) handle(ctx context.Context, s *sshtest.Session) int {
	if strings.HasPrefix(s.Command, "cluster-sync ") && h.sync != nil {
		return h.sync(ctx, s)
	}
	if !strings.HasPrefix(s.Command, "cluster-sync ") {
		h.envs <- s.Env
	}
	run := func() int { return h.exec(ctx, s) }
	if h.wrap != nil {
		return h.wrap(s, run)
	}
	return run()
}

// exec runs a command as sshd would: by a shell.
func (h *host) exec(ctx context.Context, s *sshtest.Session) int {
	cmd := exec.CommandContext(ctx, "sh", "-c", s.Command)
	cmd.Dir = h.root
	cmd.Env = slices.Clone(h.env)
	if v := s.Env["GIT_PROTOCOL"]; v != "" {
		cmd.Env = append(cmd.Env, "GIT_PROTOCOL="+v)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Stdout, cmd.Stderr = s.Stdout, s.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return 255
	}
	if err := cmd.Start(); err != nil {
		return 255
	}
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := s.Stdin.Read(buf)
			if _, werr := stdin.Write(buf[:n]); err != nil || werr != nil {
				stdin.Close()
				return
			}
		}
	}()
	cmd.Wait()
	return max(cmd.ProcessState.ExitCode(), 0)
}

// repo makes a bare repository with one commit that all hosts share.
func (w *world) repo(name string) (path string) {
	w.t.Helper()
	path = filepath.Join(w.dir, "root", name)
	w.git("", "init", "-q", "--bare", "-b", "main", path)
	w.git("", "-C", path, "config", "uploadpack.allowFilter", "true")
	w.git("", "-C", path, "config", "uploadpack.allowAnySHA1InWant", "true")
	work := filepath.Join(w.dir, "seed")
	w.git("", "init", "-q", "-b", "main", work)
	w.commit(work, "one")
	w.commit(work, "two")
	w.git(work, "push", "-q", path, "main")
	return path
}

func (w *world) commit(work, text string) {
	w.t.Helper()
	if !filepath.IsAbs(work) {
		work = filepath.Join(w.dir, work)
	}
	if err := os.WriteFile(filepath.Join(work, "file"), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.git(work, "add", "file")
	w.git(work, "commit", "-q", "-m", text)
}

// A result is how a git command ended.
type result struct {
	stdout, stderr string
	status         int
}

// git runs Git and fails the test if that fails. dir is relative to the world.
func (w *world) git(dir string, args ...string) string {
	w.t.Helper()
	r := w.tryGit(dir, args...)
	if r.status != 0 {
		w.t.Fatalf("git %q: status %d\n%s%s", args, r.status, r.stdout, r.stderr)
	}
	return strings.TrimSpace(r.stdout)
}

func (w *world) tryGit(dir string, args ...string) result {
	w.t.Helper()
	cmd, stderr := w.command(dir, "git", args...)
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	err := cmd.Run()
	if cmd.ProcessState == nil {
		w.t.Fatal(err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// command prepares a command in its own process group, which is killed when it
// takes too long or the test ends.
func (w *world) command(dir, program string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(w.dir, dir)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	w.t.Cleanup(cancel)
	for _, v := range w.env {
		if name, ok := strings.CutPrefix(v, "PATH="); ok && program != "git" {
			program = filepath.Join(strings.Split(name, ":")[0], program)
		}
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Env = dir, w.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	stderr := new(bytes.Buffer)
	cmd.Stderr = stderr
	return cmd, stderr
}

// setenv changes the environment of what is run from now on.
func (w *world) setenv(name, value string) { w.env = append(w.env, name+"="+value) }
