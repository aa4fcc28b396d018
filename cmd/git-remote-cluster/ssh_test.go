//go:build unix

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/config"
	"gitcluster/internal/sshclient/sshtest"
)

// script writes an executable of the world.
func (w *world) script(path, text string) string {
	w.t.Helper()
	if !filepath.IsAbs(path) {
		path = filepath.Join(w.dir, path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// sshConfig writes the user's ~/.ssh/config.
func (w *world) sshConfig(text string) {
	w.t.Helper()
	dir := filepath.Join(w.dir, "home", ".ssh")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// recording is a program that notes its arguments and runs the last one here, as
// an ssh to this machine would.
const recording = `
case " $* " in *" -G "*) printf '%s\n' "$0" "$@" "end of probe" >>"$RECORD"; exit ${PROBE:-1};; esac
printf '%s\n' "$0" "$@" "protocol=$GIT_PROTOCOL dir=${GIT_DIR-none}" >>"$RECORD"
for last; do :; done
cd "$ROOT" && exec sh -c "$last"
`

// The program that is run, and what it is given, are those of Git.
func TestProgramsAsGitRunsThem(t *testing.T) {
	for name, c := range map[string]struct {
		env    []string
		config []string
		args   []string
		url    string // without its scheme
	}{
		"GIT_SSH_COMMAND":          {env: []string{"GIT_SSH_COMMAND=$DIR/ssh -x 'a b'", "GIT_SSH=$DIR/other"}, config: []string{"core.sshCommand=$DIR/third"}},
		"core.sshCommand":          {env: []string{"GIT_SSH=$DIR/other"}, config: []string{"core.sshCommand=$DIR/ssh"}},
		"GIT_SSH":                  {env: []string{"GIT_SSH=$DIR/with space/ssh"}},
		"quoted":                   {env: []string{"GIT_SSH_COMMAND='$DIR/with space/ssh' -v"}},
		"a piece of shell":         {env: []string{"GIT_SSH_COMMAND=X=1; $DIR/ssh -o Y=$X"}},
		"plink":                    {env: []string{"GIT_SSH=$DIR/plink"}},
		"TortoisePlink.exe":        {env: []string{"GIT_SSH_COMMAND=$DIR/TortoisePlink.exe"}},
		"putty by its variant":     {env: []string{"GIT_SSH=$DIR/odd", "GIT_SSH_VARIANT=putty"}, config: []string{"ssh.variant=simple"}},
		"plink by ssh.variant":     {env: []string{"GIT_SSH=$DIR/odd"}, config: []string{"ssh.variant=plink"}},
		"simple":                   {env: []string{"GIT_SSH=$DIR/ssh", "GIT_SSH_VARIANT=simple"}, url: "u@host.example/demo/hello"},
		"a variant nobody knows":   {env: []string{"GIT_SSH=$DIR/odd", "GIT_SSH_VARIANT=new"}},
		"probed, like ssh":         {env: []string{"GIT_SSH_COMMAND=$DIR/odd -a", "PROBE=0"}},
		"probed, not like ssh":     {env: []string{"GIT_SSH=$DIR/odd"}, url: "u@host.example/demo/hello"},
		"auto overrides":           {env: []string{"GIT_SSH=$DIR/plink", "GIT_SSH_VARIANT=auto"}, config: []string{"ssh.variant=ssh"}},
		"IPv6 address":             {env: []string{"GIT_SSH=$DIR/ssh"}, url: "u@[::1]:22/demo/hello"},
		"IPv4 only":                {env: []string{"GIT_SSH=$DIR/ssh"}, args: []string{"-4"}},
		"IPv6 only":                {env: []string{"GIT_SSH=$DIR/plink"}, args: []string{"-6"}},
		"protocol 0":               {env: []string{"GIT_SSH=$DIR/ssh"}, config: []string{"protocol.version=0"}},
		"protocol 1":               {env: []string{"GIT_SSH=$DIR/ssh"}, config: []string{"protocol.version=1"}},
		"port with simple":         {env: []string{"GIT_SSH=$DIR/ssh", "GIT_SSH_VARIANT=simple"}},
		"family with simple":       {env: []string{"GIT_SSH=$DIR/ssh", "GIT_SSH_VARIANT=simple"}, args: []string{"-6"}, url: "u@h/demo/hello"},
		"a program that is gone":   {env: []string{"GIT_SSH=$DIR/missing", "GIT_SSH_VARIANT=ssh"}},
		"a program that says 1":    {env: []string{"GIT_SSH_COMMAND=false", "GIT_SSH_VARIANT=ssh"}},
		"a repository beside home": {env: []string{"GIT_SSH=$DIR/ssh"}, url: "u@h/~/x"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.repo("demo/hello")
			dir := filepath.Join(w.dir, "programs")
			for _, name := range []string{"ssh", "other", "third", "odd", "plink", "TortoisePlink.exe", "with space/ssh"} {
				w.script(filepath.Join(dir, name), recording)
			}
			url := c.url
			if url == "" {
				url = "u@host.example:2201/demo/hello"
			}
			// The root of the world is that of the paths' file system.
			w.setenv("ROOT", filepath.Join(w.dir, "root"))
			for _, v := range c.env {
				name, value, _ := strings.Cut(strings.ReplaceAll(v, "$DIR", dir), "=")
				w.setenv(name, value)
			}
			run := func(scheme string) (record string, r result) {
				record = filepath.Join(w.dir, scheme)
				w.setenv("RECORD", record)
				work := filepath.Join(w.dir, "work-"+scheme)
				w.git("", "init", "-q", work)
				var args []string
				for _, v := range c.config {
					args = append(args, "-c", strings.ReplaceAll(v, "$DIR", dir))
				}
				args = append(append(args, "fetch", "-q"), c.args...)
				r = w.tryGit(work, append(args, scheme+"://"+url, "main")...)
				text, _ := os.ReadFile(record)
				return string(text), r
			}
			theirs, their := run("ssh")
			ours, our := run("cluster")
			if !strings.Contains(theirs, "end of probe") {
				// What Git knows to be OpenSSH, the helper asks how it finds a server that
				// has vanished.
				if _, rest, ok := strings.Cut(ours, "end of probe\n"); ok {
					ours = rest
				}
			}
			if ours != theirs {
				t.Errorf("Git ran\n%s\nand the helper\n%s", theirs, ours)
			}
			if (our.status == 0) != (their.status == 0) || our.status == 0 && our.stderr != their.stderr {
				t.Errorf("Git: status %d, %q\nhelper: status %d, %q", their.status, their.stderr, our.status, our.stderr)
			}
		})
	}
}

// A program of the user's does everything that the built-in client does.
func TestEverythingThroughAProgram(t *testing.T) {
	w := newWorld(t)
	bare := w.repo("demo/hello")
	w.setenv("ROOT", filepath.Join(w.dir, "root"))
	w.setenv("RECORD", filepath.Join(w.dir, "record"))
	w.setenv("GIT_SSH_COMMAND", w.script("ssh", strings.Replace(recording, `sh -c "$last"`, `sh -c "$(echo "$last" | sed "s, '/, ',")"`, 1)))
	r := w.tryGit("", "clone", "-v", "cluster://one.example/demo/hello", "work")
	want := "git-remote-cluster: one.example: running the program of GIT_SSH_COMMAND, without cluster-sync, which would be a second connection\n"
	if r.status != 0 || strings.Count(r.stderr, want) != 1 {
		t.Fatalf("status %d, stderr %q", r.status, r.stderr)
	}
	w.commit("work", "three")
	if r := w.tryGit("work", "push", "-q", "origin", "main"); r.status != 0 || r.stderr != "" {
		t.Errorf("status %d, stderr %q", r.status, r.stderr)
	}
	if w.git("work", "rev-parse", "HEAD") != w.git(bare, "rev-parse", "main") {
		t.Error("the push did not land")
	}
	if out := w.git("", "archive", "--remote=cluster://one.example/demo/hello", "main"); !strings.Contains(out, "three") {
		t.Error("the archive lacks the file")
	}
	// The next replica gets its turn. It does once the first has been seen to fail, and also
	// when that takes long; so that it is always the former, the second begins when nothing
	// is left of the first.
	first, order := filepath.Join(w.dir, "first"), filepath.Join(w.dir, "order")
	w.setenv("FIRST", first)
	w.setenv("ORDER", order)
	w.setenv("GIT_SSH_COMMAND", w.script("ssh", `case "$*" in *one.example*) echo one.example;; *) echo two.example;; esac >>"$ORDER"
case "$*" in
*one.example*) echo $$ >"$FIRST.new"; mv "$FIRST.new" "$FIRST"; echo "no route" >&2; exit 255;;
esac
tries=200
until [ -s "$FIRST" ] || [ $((tries -= 1)) = 0 ]; do sleep 0.05; done
while kill -0 "$(cat "$FIRST")" 2>/dev/null && [ $((tries -= 1)) -gt 0 ]; do sleep 0.05; done
`+strings.Replace(recording, `sh -c "$last"`, `sh -c "$(echo "$last" | sed "s, '/, ',")"`, 1)))
	for range 10 {
		for _, left := range []string{first, order, filepath.Join(w.dir, "home", ".cache")} {
			if err := os.RemoveAll(left); err != nil {
				t.Fatal(err)
			}
		}
		r = w.tryGit("", "ls-remote", "cluster://one.example,two.example/demo/hello")
		if text, _ := os.ReadFile(order); !strings.HasPrefix(string(text), "two.example\n") {
			break // else the machine is so busy that the second got its turn first
		}
	}
	if r.status != 0 || !strings.Contains(r.stderr, "the program of GIT_SSH_COMMAND did not connect, or lost the connection (exit status 255)") {
		t.Errorf("status %d, stderr %q", r.status, r.stderr)
	}
	// A secret on its command line is not repeated.
	w.setenv("GIT_SSH_COMMAND", "/nonexistent/ssh --password=hunter2")
	r = w.tryGit("", "ls-remote", "cluster://one.example/demo/hello")
	if r.status == 0 || strings.Contains(strings.ReplaceAll(r.stderr, "/nonexistent/ssh --password=hunter2: 1:", ""), "hunter2") {
		t.Errorf("status %d, stderr %q", r.status, r.stderr)
	}
}

// A program that says nothing does not keep Git from the next replica, and no second one
// asks a person anything while the first may.
func TestSilentProgram(t *testing.T) {
	for name, c := range map[string]struct {
		program string
		env     []string
		batch   string // what keeps the second from asking; "": nothing
		served  bool   // by the second, while the first is silent
	}{
		"ssh":                      {"ssh", nil, "-o\nBatchMode=yes\n", true},
		"ssh, and a person":        {"ssh", []string{"SSH_ASKPASS=/bin/false", "SSH_ASKPASS_REQUIRE=force"}, "-o\nBatchMode=yes\n", true},
		"plink":                    {"plink", nil, "-batch\n", true},
		"another":                  {"odd", []string{"GIT_SSH_VARIANT=simple"}, "", true},
		"another, and a person":    {"odd", []string{"GIT_SSH_VARIANT=simple", "SSH_ASKPASS=/bin/false", "SSH_ASKPASS_REQUIRE=force"}, "", false},
		"one that passes for ssh":  {"odd", []string{"PROBE=0"}, "", true},
		"the second says no first": {"ssh", []string{"REFUSE=BatchMode"}, "-o\nBatchMode=yes\n", false},
	} {
		for _, service := range []string{"git-upload-pack", "git-receive-pack"} {
			t.Run(name+" "+service, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				bare := w.repo("demo/hello")
				record := filepath.Join(w.dir, "record")
				w.setenv("RECORD", record)
				w.setenv("ROOT", w.dir)
				w.setenv("GIT_SSH", w.script("programs/"+c.program, `
case " $* " in
*" -G "*) exit ${PROBE:-1};;
*one.example*)
	: >"$RECORD.one"
	test "$PROMPT" || exec sleep 1000
	sleep 7;; # and then the answer comes
*"${REFUSE:-nothing}"*) echo "permission denied" >&2; exit 255;;
esac
`+recording))
				for _, v := range c.env {
					name, value, _ := strings.Cut(v, "=")
					w.setenv(name, value)
				}
				if !c.served {
					w.setenv("PROMPT", "1")
				}
				args := []string{"ls-remote", "cluster://one.example,two.example" + bare, "main"}
				if service == "git-receive-pack" {
					args = []string{"-C", "seed", "push", "cluster://one.example,two.example" + bare, "HEAD:refs/heads/topic"}
				}
				var r result
				var took time.Duration
				for range 10 {
					os.Remove(record)
					start := time.Now()
					r = w.tryGit("", args...)
					took = time.Since(start)
					if _, err := os.Stat(record + ".one"); err == nil {
						break // else the machine is so busy that the second got its turn first
					}
				}
				text, _ := os.ReadFile(record)
				says := regexp.MustCompile(`^git-remote-cluster: one.example .*: no answer for (?:[3-9]|1\d)[.\d]*s; using two.example\n`)
				if r.status != 0 || says.MatchString(r.stderr) != c.served || c.served && took > 15*time.Second || strings.Contains(r.stderr, "permission denied") ||
					strings.Contains(string(text), "two.example\n") != c.served || c.served && !strings.Contains(string(text), c.batch) ||
					c.batch == "" && strings.Contains(string(text), "BatchMode") {
					t.Errorf("after %v: status %d, stderr %q; the programs were run with %q", took, r.status, r.stderr, text)
				}
			})
		}
	}
}

// The device's identity and a program with the user's own exclude each other.
func TestProgramOrDevice(t *testing.T) {
	w := newWorld(t)
	w.setenv("PHABRICATOR_AS_DEVICE", "1")
	for _, c := range []struct{ name, value, config string }{
		{"GIT_SSH_COMMAND", "ssh", ""}, {"GIT_SSH", "ssh", ""}, {"core.sshCommand", "ssh", "core.sshCommand=ssh"},
	} {
		w := *w
		args := []string{"ls-remote", "cluster://127.0.0.1:1/x"}
		if c.config != "" {
			args = append([]string{"-c", c.config}, args...)
		} else {
			w.env = append(slices.Clone(w.env), c.name+"="+c.value)
		}
		r := w.tryGit("", args...)
		if r.status == 0 || !strings.Contains(r.stderr, "PHABRICATOR_AS_DEVICE asks for the device's identity, and "+c.name+" for a user's\nhint: use one of them") {
			t.Errorf("%s: status %d, stderr %q", c.name, r.status, r.stderr)
		}
	}
}

// A plainHost is a server that only the user's own SSH configuration knows.
func (w *world) plainHost(o sshtest.Options) *host {
	h := &host{env: slices.Clone(w.env), root: filepath.Join(w.dir, "root"), envs: make(chan map[string]string, 100)}
	o.Handler = h.handle
	h.Server = sshtest.Start(w.t, o)
	return h
}

func (w *world) known(hosts ...*host) (path string) {
	w.t.Helper()
	path = filepath.Join(w.dir, "known")
	var text strings.Builder
	for _, h := range hosts {
		host, port, _ := net.SplitHostPort(h.Addr)
		fmt.Fprintf(&text, "[%s]:%s %s\n", host, port, h.HostKey())
	}
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

func block(name string, h *host, more ...string) string {
	host, port, _ := net.SplitHostPort(h.Addr)
	return fmt.Sprintf("Host %s\n  HostName %s\n  Port %s\n  %s\n", name, host, port, strings.Join(more, "\n  "))
}

func TestSSHConfig(t *testing.T) {
	w := newWorld(t)
	w.repo("demo/hello")
	var mu sync.Mutex
	var users []string
	open := sshtest.Options{Forward: true, Authorize: func(user string, key ssh.PublicKey) bool {
		mu.Lock()
		defer mu.Unlock()
		users = append(users, user)
		return ssh.FingerprintSHA256(key) == ssh.FingerprintSHA256(w.opts.Accept.PublicKey())
	}}
	target, inner, outer := w.plainHost(open), w.plainHost(open), w.plainHost(open)
	path := filepath.Join(w.dir, "root", "demo", "hello")
	common := "Host *\n  IdentityFile " + w.key + "\n  UserKnownHostsFile " + w.known(target, inner, outer) + "\n"
	ls := func(address string) (result, string) {
		t.Helper()
		r := w.tryGit("", "ls-remote", address+path, "main")
		mu.Lock()
		defer mu.Unlock()
		in := strings.Join(slices.Compact(users), " ")
		users = nil
		return r, in
	}

	for name, c := range map[string]struct{ address, config, users string }{
		"nobody named":        {"cluster://work", block("work", target), "git"},
		"its user":            {"cluster://work", block("work", target, "User bob"), "bob"},
		"the address's":       {"cluster://alice@work", block("work", target, "User bob"), "alice"},
		"through two others":  {"cluster://work", block("work", target, "User bob", "ProxyJump inner") + block("inner", inner, "User ian", "ProxyJump olga@outer") + block("outer", outer), "olga ian bob"},
		"two in one line":     {"cluster://alice@work", block("work", target, "ProxyJump olga@outer,inner") + block("inner", inner, "User ian", "ProxyJump nowhere") + block("outer", outer), "olga ian alice"},
		"a key of one's file": {"cluster://work", block("work", target, "IdentitiesOnly yes", "HostKeyAlgorithms ssh-ed25519"), "git"},
	} {
		w.sshConfig(c.config + common)
		if r, in := ls(c.address); r.status != 0 || in != c.users {
			t.Errorf("%s: status %d, stderr %q, logged in as %q", name, r.status, r.stderr, in)
		}
	}
	w.sshConfig(block("work", target, "ProxyJump inner") + block("inner", inner, "ProxyJump work") + common)
	if r, _ := ls("cluster://work"); r.status == 0 || !strings.Contains(r.stderr, "in a circle") {
		t.Errorf("status %d, stderr %q", r.status, r.stderr)
	}
	// client.toml goes before ssh_config, and the address before both.
	w.sshConfig("Host 127.0.0.1\n  Port 1\n  User eve\n  IdentityFile none\n  UserKnownHostsFile none\n")
	w.conf.Clusters["demo"].User = "carol"
	w.configure("node1", target.Addr, target.HostKey())
	if r, in := ls("cluster://" + target.Addr); r.status != 0 || in != "carol" {
		t.Errorf("status %d, stderr %q, logged in as %q", r.status, r.stderr, in)
	}
	// What cannot be read is said.
	w.sshConfig("Include config\n")
	if r, _ := ls("cluster://work"); r.status == 0 || !strings.Contains(r.stderr, "SSH configuration: ~/.ssh/config line 1: ") || !strings.Contains(r.stderr, "\nhint: correct it, or let ssh read it: GIT_SSH_COMMAND=ssh\n") {
		t.Errorf("status %d, stderr %q", r.status, r.stderr)
	}
}

// What the built-in client cannot do, ssh does, with what client.toml demands.
func TestFallbackToSSH(t *testing.T) {
	w := newWorld(t)
	bare := w.repo("demo/hello")
	record := filepath.Join(w.dir, "record")
	w.setenv("RECORD", record)
	w.setenv("ROOT", w.dir)
	w.script("bin/ssh", recording)
	w.conf.Clusters["other"] = &config.Cluster{User: "carol", Identity: w.key, Nodes: []config.Node{{Name: "node1", SSH: "behind.example", HostKey: (&sshtest.Server{Host: w.opts.Accept}).HostKey()}}}
	w.configure("unused", "unused.example", "")
	w.sshConfig("Host behind.example\n  ProxyCommand nc %h %p\nHost keyed.example\n  PKCS11Provider /lib/x.so\n  User paul\n  Port 7\n")
	args := func() string {
		text, err := os.ReadFile(record)
		if err != nil {
			t.Fatal(err)
		}
		os.Remove(record)
		return strings.ReplaceAll(strings.TrimSpace(string(text)), "\n", " ")
	}

	r := w.tryGit("", "ls-remote", "cluster://behind.example"+bare, "main")
	if r.status != 0 || r.stderr != "" {
		t.Errorf("status %d, stderr %q", r.status, r.stderr)
	}
	got := args()
	says := "git-remote-cluster: behind.example: running ssh because of ProxyCommand (~/.ssh/config line 2), without cluster-sync, which would be a second connection\n"
	if r := w.tryGit("", "clone", "-v", "--bare", "cluster://behind.example"+bare, "verbose"); r.status != 0 || !strings.Contains(r.stderr, says) {
		t.Errorf("status %d, stderr %q, want %q", r.status, r.stderr, says)
	}
	args()
	pinned := "pinned-"
	for _, part := range []string{"-o SendEnv=GIT_PROTOCOL", "-o ConnectTimeout=5", "-o IdentityFile=\"" + w.key + "\"", "-o IdentitiesOnly=yes",
		"/git-cluster/known_hosts/" + pinned, "-o GlobalKnownHostsFile=\"/dev/null\"", "-o HostKeyAlias=" + pinned, "-o StrictHostKeyChecking=yes", " carol@behind.example git-upload-pack '" + bare + "'"} {
		if !strings.Contains(got, part) {
			t.Errorf("ssh was run with %q, without %q", got, part)
		}
	}
	files, _ := filepath.Glob(filepath.Join(w.dir, "home", ".cache", "git-cluster", "known_hosts", pinned+"*"))
	if len(files) != 1 {
		t.Fatalf("files of pinned keys: %q", files)
	}
	if text, err := os.ReadFile(files[0]); err != nil || string(text) != filepath.Base(files[0])+" "+(&sshtest.Server{Host: w.opts.Accept}).HostKey()+"\n" {
		t.Errorf("%q, %v", text, err)
	}

	// Nobody has named a user or a port: ssh has its own.
	w.git("", "init", "-q", "work")
	r = w.tryGit("work", "fetch", "-q", "cluster://keyed.example"+bare)
	if got := args(); !strings.HasSuffix(got, " keyed.example git-upload-pack '"+bare+"' protocol=version=2 dir=none") || strings.Contains(got, "-p ") {
		t.Errorf("status %d, stderr %q, ssh was run with %q", r.status, r.stderr, got)
	}
	if r.status != 0 || r.stderr != "" {
		t.Errorf("with -q: status %d, %q", r.status, r.stderr)
	}
	// An address has the last word, and the repository's configuration is not ssh's.
	w.git("", "-c", "cluster.staleOk=true", "ls-remote", "cluster://dave@keyed.example:9"+bare)
	if got := args(); !strings.Contains(got, "-p 9 dave@keyed.example ") || !strings.Contains(got, "-o SendEnv=GIT_CLUSTER_STALE_OK") {
		t.Errorf("ssh was run with %q", got)
	}
}

// ssh is told to find a server that has vanished, as the built-in client does, unless
// the user has told it how.
func TestProgramsFindDeadServers(t *testing.T) {
	real, err := exec.LookPath("ssh")
	if err != nil {
		t.Skip(err)
	}
	w := newWorld(t)
	bare := w.repo("demo/hello")
	record := filepath.Join(w.dir, "record")
	w.setenv("RECORD", record)
	w.setenv("ROOT", w.dir)
	// It has its settings from the file, and runs the command here.
	w.script("bin/ssh", `case "$1" in -G) exec `+real+` -F "$HOME/.ssh/config" "$@";; esac`+"\n"+recording)
	w.script("bin/wrapped", `exec ssh "$@"`+"\n")
	for _, c := range []struct {
		command, config string
		asked           bool
	}{
		{"", "ProxyCommand nc %h %p", true},
		{"ssh", "", true},
		{"wrapped", "", true},
		{"ssh", "ServerAliveInterval 60", false},
		{"wrapped", "ServerAliveInterval 60", false},
		{"ssh -o ServerAliveInterval=60", "", false},
		{"", "ProxyCommand nc %h %p\nServerAliveInterval 60", false},
	} {
		os.Remove(record)
		w := *w
		w.sshConfig("Host *\n" + c.config + "\n")
		if c.command != "" {
			w.setenv("GIT_SSH_COMMAND", c.command)
		}
		r := w.tryGit("", "ls-remote", "cluster://host.example"+bare, "main")
		text, _ := os.ReadFile(record)
		if r.status != 0 || strings.Contains(string(text), "\n-o\nServerAliveInterval=5\n") != c.asked {
			t.Errorf("%q with %q: status %d, stderr %q, ssh was run with %q", c.command, c.config, r.status, r.stderr, text)
		}
	}
}

// A program that turns out to be OpenSSH gets all that one gets which is known to be.
func TestWrappedOpenSSH(t *testing.T) {
	real, err := exec.LookPath("ssh")
	if err != nil {
		t.Skip(err)
	}
	w := newWorld(t)
	bare := w.repo("demo/hello")
	record := filepath.Join(w.dir, "record")
	w.setenv("RECORD", record)
	w.setenv("ROOT", w.dir)
	w.configure("node1", "host.example", (&sshtest.Server{Host: w.opts.Accept}).HostKey())
	w.setenv("GIT_SSH_COMMAND", w.script("wrapped", `case "$1" in -G) exec `+real+` -F none "$@";; esac`+"\n"+
		`printf '%s\n' "stale=$GIT_CLUSTER_STALE_OK format=$GIT_CLUSTER_OBJECT_FORMAT" >>"$RECORD"`+recording))
	for what, c := range map[string]struct {
		args []string
		says []string
	}{
		"a stale read": {[]string{"-c", "cluster.staleOk=true", "ls-remote", "cluster://host.example" + bare}, []string{"stale=1 ", "\nSendEnv=GIT_CLUSTER_STALE_OK\n", "\nHostKeyAlias=pinned-", "\nStrictHostKeyChecking=yes\n"}},
		"a new format": {[]string{"-C", "new", "push", "-q", "cluster://host.example" + bare, "main"}, []string{"format=sha256", "\nSendEnv=GIT_CLUSTER_OBJECT_FORMAT\n"}},
	} {
		w.git("", "init", "-q", "--object-format=sha256", "-b", "main", "new")
		w.commit("new", what)
		os.Remove(record)
		r := w.tryGit("", c.args...)
		text, _ := os.ReadFile(record)
		for _, part := range c.says {
			if !strings.Contains(string(text), part) {
				t.Errorf("%s: status %d, stderr %q, ssh was run with %q, without %q", what, r.status, r.stderr, text, part)
			}
		}
	}
}

// A server that takes no key of ours and would ask for a password is left to ssh,
// which asks, unless there is nobody to answer.
func TestPasswordServer(t *testing.T) {
	ssh, err := exec.LookPath("ssh")
	if err != nil {
		t.Skip(err)
	}
	w := newWorld(t)
	w.repo("demo/hello")
	w.opts.Accept, w.opts.Password = sshtest.NewKey(t), "open sesame"
	h := w.addNode("old", plain)
	runs := filepath.Join(w.dir, "runs")
	w.script("bin/ssh", fmt.Sprintf("echo run >>%s\nexec %s -F none \"$@\"\n", runs, ssh))
	ask := w.script("ask", "echo 'open sesame'\n")
	wrong := w.script("wrong", "echo 'open barley'\n")
	for _, c := range []struct {
		what, config string
		env          []string
		runs         bool
		says         string // "" where it succeeds
	}{
		{"the right password", "", []string{"SSH_ASKPASS=" + ask, "SSH_ASKPASS_REQUIRE=force"}, true, ""},
		{"a wrong one", "", []string{"SSH_ASKPASS=" + wrong, "SSH_ASKPASS_REQUIRE=force"}, true, "did not connect, or lost the connection (exit status 255)\nhint: it has said why\n"},
		{"nobody", "", nil, false, `permission denied for user "git" with the one SSH key there is; the server would ask for a password or the like`},
		{"BatchMode", "BatchMode yes\n", []string{"SSH_ASKPASS=" + ask, "SSH_ASKPASS_REQUIRE=force"}, false, "the server would ask for a password"},
	} {
		t.Run(c.what, func(t *testing.T) {
			os.Remove(runs)
			w := *w
			w.t, w.env = t, append(slices.Clone(w.env), c.env...)
			w.sshConfig(c.config)
			r := w.tryGit("", "ls-remote", "cluster::demo/hello", "main")
			if (r.status == 0) != (c.says == "") || !strings.Contains(r.stderr, c.says) || c.says == "" && r.stderr != "" {
				t.Errorf("status %d, stderr %q; want %q", r.status, r.stderr, c.says)
			}
			text, _ := os.ReadFile(runs)
			if (len(text) > 0) != c.runs {
				t.Errorf("ssh was run: %q, want %v", text, c.runs)
			}
		})
	}
	if got := h.Commands(); len(got) != 1 || !strings.HasPrefix(got[0], "git-upload-pack ") {
		t.Errorf("the server ran %q", got)
	}
}

// An encrypted key is unlocked once, whoever of several replicas wants it.
func TestAskpass(t *testing.T) {
	w := newWorld(t)
	path := w.repo("demo/hello")
	locked, key := sshtest.NewKeyFile(t, w.dir, "locked", "secret words")
	refusing := func(_ context.Context, s *sshtest.Session) int {
		io.WriteString(s.Stderr, "fatal: not today\n")
		return 1
	}
	o := sshtest.Options{Accept: key}
	second := w.plainHost(o)
	first := sshtest.Start(t, sshtest.Options{Accept: key, Handler: refusing})
	known := w.known(second, &host{Server: first})
	w.sshConfig("IdentityFile " + locked + "\nUserKnownHostsFile " + known + "\n")
	asked := filepath.Join(w.dir, "asked")
	ask := func(answer string) string {
		return w.script("ask-"+answer, fmt.Sprintf("echo \"$1\" >>%s\necho '%s words'\n", asked, answer))
	}
	address := "cluster://" + first.Addr + "," + second.Addr + path
	for _, c := range []struct {
		what, status string
		env          []string
		config       string
	}{
		{"SSH_ASKPASS", "", []string{"SSH_ASKPASS=" + ask("secret")}, ""},
		{"GIT_ASKPASS", "", []string{"GIT_ASKPASS=" + ask("secret"), "SSH_ASKPASS=" + ask("wrong")}, ""},
		{"core.askPass", "", []string{"SSH_ASKPASS=" + ask("wrong")}, "core.askPass=" + ask("secret")},
		{"forced", "", []string{"GIT_ASKPASS=" + ask("wrong"), "SSH_ASKPASS=" + ask("secret"), "SSH_ASKPASS_REQUIRE=force"}, ""},
		{"wrong", "that was not its passphrase", []string{"SSH_ASKPASS=" + ask("wrong")}, ""},
		{"never", "nobody can be asked", []string{"SSH_ASKPASS=" + ask("secret"), "SSH_ASKPASS_REQUIRE=never"}, ""},
		{"nobody", "nobody can be asked", nil, ""},
	} {
		os.Remove(asked)
		w := *w
		w.env = append(slices.Clone(w.env), c.env...)
		args := []string{"ls-remote", address, "main"}
		if c.config != "" {
			args = append([]string{"-c", c.config}, args...)
		}
		r := w.tryGit("", args...)
		if (r.status == 0) != (c.status == "") || !strings.Contains(r.stderr, c.status) || strings.Contains(r.stderr, "words") {
			t.Errorf("%s: status %d, stderr %q", c.what, r.status, r.stderr)
		}
		text, _ := os.ReadFile(asked)
		if n := strings.Count(string(text), "\n"); n != map[bool]int{true: 0, false: 1}[c.status == "nobody can be asked"] {
			t.Errorf("%s: asked %q", c.what, text)
		}
	}
}
