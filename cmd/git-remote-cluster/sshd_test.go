//go:build unix

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// An sshd is OpenSSH's server on a free port, for the account that runs the
// tests. It offers Git's services on a directory of its own, as on a machine of its
// own, and nothing else.
type sshd struct {
	w          *world
	dir, addr  string
	port       int
	log        string // commands, one a line
	cancel     context.CancelFunc
	done       chan struct{}
	authorized string
}

func (w *world) sshd(name string) *sshd {
	w.t.Helper()
	program, err := exec.LookPath("sshd")
	if err != nil {
		if program = "/usr/sbin/sshd"; os.Geteuid() == 0 {
			if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // where it separates its privileges
				w.t.Skipf("sshd cannot run here: %v", err)
			}
		}
		if _, err := os.Stat(program); err != nil {
			w.t.Skip("there is no sshd on this machine")
		}
	}
	s := &sshd{w: w, dir: filepath.Join(w.dir, name), done: make(chan struct{})}
	s.log, s.authorized = filepath.Join(s.dir, "commands"), filepath.Join(s.dir, "authorized")
	if err := os.MkdirAll(filepath.Join(s.dir, "srv"), 0o755); err != nil {
		w.t.Fatal(err)
	}
	w.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(s.dir, "host"))
	// Commands come as they were sent; their paths are taken to this directory.
	shell := w.script(filepath.Join(s.dir, "shell"), fmt.Sprintf(`printf '%%s\n' "$SSH_ORIGINAL_COMMAND" >>%[1]s
exec git shell -c "$(printf '%%s' "$SSH_ORIGINAL_COMMAND" | sed -e "s,'/srv/,'%[2]s/srv/," -e "s,'~me/,'%[2]s/srv/home/,")"
`, s.log, s.dir))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	s.addr, s.port = l.Addr().String(), l.Addr().(*net.TCPAddr).Port
	config := filepath.Join(s.dir, "config")
	text := fmt.Sprintf("Port %d\nListenAddress 127.0.0.1\nHostKey %s/host\nPidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin yes\n"+
		"PasswordAuthentication no\nKbdInteractiveAuthentication no\nAuthorizedKeysFile %s\nTrustedUserCAKeys %s/ca.pub\nAcceptEnv GIT_PROTOCOL\nForceCommand %s\n",
		s.port, s.dir, s.authorized, s.dir, shell)
	for path, content := range map[string]string{config: text, s.authorized: "", filepath.Join(s.dir, "ca.pub"): ""} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	l.Close()
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	var said strings.Builder
	server := exec.CommandContext(ctx, program, "-D", "-e", "-f", config)
	server.Stderr = &said
	if err := server.Start(); err != nil {
		cancel()
		w.t.Skip(err)
	}
	go func() {
		server.Wait() // killed: its error says so
		close(s.done)
	}()
	w.t.Cleanup(func() {
		s.stop()
		if w.t.Failed() {
			w.t.Logf("%s:\n%s", name, said.String())
		}
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", s.addr)
		if err == nil {
			conn.Close()
			return s
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s does not answer: %v", name, err)
		}
	}
}

func (s *sshd) stop() {
	s.cancel()
	<-s.done
}

// commands are those that were asked for since it was last called.
func (s *sshd) commands() string {
	text, _ := os.ReadFile(s.log)
	os.Remove(s.log)
	return strings.ReplaceAll(strings.TrimSpace(string(text)), "\n", "; ")
}

// authorize lets the key of a file in.
func (s *sshd) authorize(public string) {
	s.w.t.Helper()
	text, err := os.ReadFile(public)
	if err == nil {
		err = os.WriteFile(s.authorized, text, 0o600)
	}
	if err != nil {
		s.w.t.Fatal(err)
	}
}

// hostKeys writes a file of known hosts.
func (w *world) hostKeys(servers ...*sshd) (path string) {
	w.t.Helper()
	var all strings.Builder
	for _, s := range servers {
		key, err := os.ReadFile(filepath.Join(s.dir, "host.pub"))
		if err != nil {
			w.t.Fatal(err)
		}
		fmt.Fprintf(&all, "[127.0.0.1]:%d %s", s.port, key)
	}
	path = filepath.Join(w.dir, "known")
	if err := os.WriteFile(path, []byte(all.String()), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

func (w *world) run(program string, args ...string) string {
	w.t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env, cmd.Dir = w.env, w.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("%s %q: %v\n%s", program, args, err, out)
	}
	return string(out)
}

func me(t *testing.T) string {
	t.Helper()
	u, err := user.Current()
	if err != nil {
		t.Skip(err)
	}
	return u.Username
}

// Two ordinary servers with copies of a repository: the helper chooses and moves
// on as ever, and does without synchronization.
func TestOrdinaryServers(t *testing.T) {
	w := newWorld(t)
	source := w.repo("source")
	one, two := w.sshd("one"), w.sshd("two")
	key := filepath.Join(w.dir, "mine")
	w.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
	for _, s := range []*sshd{one, two} {
		s.authorize(key + ".pub")
		w.git("", "clone", "-q", "--mirror", source, filepath.Join(s.dir, "srv", "git", "x.git"))
		w.git("", "clone", "-q", "--mirror", source, filepath.Join(s.dir, "srv", "home", "x"))
	}
	w.sshConfig(fmt.Sprintf("Host 127.0.0.1\n  User %s\n  IdentityFile %s\n  IdentitiesOnly yes\n  UserKnownHostsFile %s\n", me(t), key, w.hostKeys(one, two)))
	both := "cluster://" + one.addr + "," + two.addr
	foreign := ": no node of a cluster, so it was not synchronized first\n"

	r := w.tryGit("", "clone", "-v", both+"/srv/git/x.git", "work")
	if r.status != 0 || strings.Count(r.stderr, foreign) != 1 {
		t.Fatalf("status %d, stderr %q", r.status, r.stderr)
	}
	// On a busy machine either may be the faster one.
	commands := func() string { return one.commands() + "; " + two.commands() }
	if got := commands(); !strings.Contains(got, "git-upload-pack '/srv/git/x.git'") {
		t.Errorf("commands %q", got)
	}
	if r := w.tryGit("work", "fetch", "-q"); r.status != 0 || r.stderr != "" {
		t.Errorf("quiet: status %d, stderr %q", r.status, r.stderr)
	}
	commands()
	if r := w.tryGit("", "ls-remote", both+"/~me/x", "main"); r.status != 0 {
		t.Errorf("status %d, stderr %q", r.status, r.stderr)
	}
	if got := commands(); !strings.Contains(got, "git-upload-pack '~me/x'") {
		t.Errorf("commands %q", got)
	}
	w.commit("work", "three")
	w.git("work", "push", "-q")
	if got := commands(); !strings.Contains(got, "git-receive-pack '/srv/git/x.git'") {
		t.Errorf("commands %q", got)
	}

	one.stop()
	if err := os.RemoveAll(filepath.Join(w.dir, "home", ".cache")); err != nil { // what was learned of their speed
		t.Fatal(err)
	}
	r = w.tryGit("", "ls-remote", both+"/srv/git/x.git", "main")
	if r.status != 0 || !strings.Contains(r.stderr, one.addr+": connection refused") {
		t.Errorf("status %d, stderr %q", r.status, r.stderr)
	}
}

// TestRealSSH is about what only OpenSSH's own programs can judge.
func TestRealSSH(t *testing.T) {
	w := newWorld(t)
	source := w.repo("source")
	s, jump := w.sshd("one"), w.sshd("jump")
	w.git("", "clone", "-q", "--mirror", source, filepath.Join(s.dir, "srv", "x"))
	address := "cluster://" + s.addr + "/srv/x"
	locked := filepath.Join(w.dir, "locked")
	w.run("ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "secret", "-f", locked)
	s.authorize(locked + ".pub")
	jump.authorize(locked + ".pub")
	known := w.hostKeys(s, jump)
	common := fmt.Sprintf("User %s\nUserKnownHostsFile %s\nIdentityFile %s\n", me(t), known, locked)
	ls := func(config string) result {
		t.Helper()
		w.sshConfig(config + common)
		return w.tryGit("", "ls-remote", address, "main")
	}
	if r := ls(""); r.status == 0 || !strings.Contains(r.stderr, "nobody can be asked") {
		t.Fatalf("status %d, stderr %q", r.status, r.stderr)
	}
	w.setenv("SSH_ASKPASS", w.script("ask", "echo secret\n"))
	if r := ls(""); r.status != 0 {
		t.Errorf("askpass: status %d, stderr %q", r.status, r.stderr)
	}

	// An agent, which the first command gives its key.
	socket := filepath.Join(w.dir, "agent")
	agentCtx, stop := context.WithCancel(context.Background())
	agent := exec.CommandContext(agentCtx, "ssh-agent", "-D", "-a", socket)
	if err := agent.Start(); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { stop(); agent.Wait() })
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the agent does not answer: %v", err)
		}
	}
	w.setenv("SSH_AUTH_SOCK", "/nonexistent")
	// On a busy machine the agent may be too slow to be given the key, or to be asked.
	holds := func() bool {
		list := exec.Command("ssh-add", "-l")
		list.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
		return list.Run() == nil // 1: it has none
	}
	for try := 1; try <= 5 && !holds(); try++ {
		if r := ls("IdentityAgent " + socket + "\nAddKeysToAgent yes\n"); r.status != 0 {
			t.Errorf("into the agent: status %d, stderr %q", r.status, r.stderr)
		}
	}
	if !holds() {
		t.Error("the agent was not given the key")
	}
	w.setenv("SSH_ASKPASS", "")
	for try := 1; ; try++ {
		r := ls("IdentityAgent " + socket + "\nIdentitiesOnly yes\n")
		if r.status == 0 {
			break
		}
		if try == 3 {
			t.Errorf("from the agent: status %d, stderr %q", r.status, r.stderr)
			break
		}
	}
	w.setenv("SSH_AUTH_SOCK", socket)

	// Through another server.
	hop := fmt.Sprintf("ProxyJump %s@127.0.0.1:%d\n", me(t), jump.port)
	if r := ls(fmt.Sprintf("Match host 127.0.0.1 originalhost *\n  Port %d\nHost 127.0.0.1\n", s.port) + common); r.status != 0 {
		t.Errorf("Match: status %d, stderr %q", r.status, r.stderr)
	}
	address = "cluster://target/srv/x"
	target := fmt.Sprintf("Host target\n  HostName 127.0.0.1\n  Port %d\n  ", s.port)
	if r := ls(target + hop + "Host *\n"); r.status != 0 {
		t.Errorf("ProxyJump: status %d, stderr %q", r.status, r.stderr)
	}
	// ssh itself, which looks for its file where the account's home really is.
	real, err := exec.LookPath("ssh")
	if err != nil {
		t.Skip(err)
	}
	w.script("bin/ssh", "exec "+real+" -F \"$HOME/.ssh/config\" \"$@\"\n")
	r := ls(target + fmt.Sprintf("ProxyCommand %s -F %s/home/.ssh/config -p %d -W %%h:%%p 127.0.0.1\nHost *\n", real, w.dir, jump.port))
	if r.status != 0 || r.stderr != "" {
		t.Errorf("ProxyCommand: status %d, stderr %q", r.status, r.stderr)
	}
	// The key that client.toml demands is demanded of ssh, too.
	w.configure("unused", "unused.example", "")
	w.conf.Clusters["demo"].User, w.conf.Clusters["demo"].Identity = me(t), ""
	wrong, err := os.ReadFile(filepath.Join(jump.dir, "host.pub"))
	if err != nil {
		t.Fatal(err)
	}
	w.configure("target", "target", strings.TrimSpace(string(wrong)))
	if r := w.tryGit("", "ls-remote", address, "main"); r.status == 0 || !strings.Contains(r.stderr, "REMOTE HOST IDENTIFICATION HAS CHANGED") && !strings.Contains(r.stderr, "Host key verification failed") {
		t.Errorf("another host key than the configured: status %d, stderr %q", r.status, r.stderr)
	}
	right, err := os.ReadFile(filepath.Join(s.dir, "host.pub"))
	if err != nil {
		t.Fatal(err)
	}
	w.conf.Clusters["demo"].Nodes = w.conf.Clusters["demo"].Nodes[:1]
	w.configure("target", "target", strings.TrimSpace(string(right)))
	if r := w.tryGit("", "ls-remote", address, "main"); r.status != 0 {
		t.Errorf("the configured host key: status %d, stderr %q", r.status, r.stderr)
	}

	// A certificate beside a key that the server does not know.
	authority, certified := filepath.Join(w.dir, "ca"), filepath.Join(w.dir, "certified")
	for _, path := range []string{authority, certified} {
		w.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path)
	}
	public, err := os.ReadFile(authority + ".pub")
	if err == nil {
		err = os.WriteFile(filepath.Join(s.dir, "ca.pub"), public, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(w.configPath())
	w.setenv("SSH_AUTH_SOCK", "")
	common = fmt.Sprintf("User %s\nUserKnownHostsFile %s\nIdentityFile %s\n", me(t), known, certified)
	if r := ls(target + "\nHost *\n"); r.status == 0 {
		t.Errorf("without its certificate: status %d, stderr %q", r.status, r.stderr)
	}
	w.run("ssh-keygen", "-q", "-s", authority, "-I", "me", "-n", me(t), certified+".pub")
	if r := ls(target + "\nHost *\n"); r.status != 0 {
		t.Errorf("certificate: status %d, stderr %q", r.status, r.stderr)
	}
}
