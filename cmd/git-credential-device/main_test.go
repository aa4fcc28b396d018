package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/credential"
)

// The test binary is the program when Git, or a test, starts it under the
// program's name.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == program {
		main()
	}
	os.Exit(m.Run())
}

const clusterID = "c1a2b3"

// A machine has Git, the program, an account, and maybe an identity.
type machine struct {
	t      *testing.T
	home   string
	device string // the device directory
	env    []string
}

func newMachine(t *testing.T, env ...string) *machine {
	t.Helper()
	dir := t.TempDir()
	m := &machine{t: t, home: filepath.Join(dir, "home"), device: filepath.Join(dir, "device")}
	bin := filepath.Join(dir, "bin")
	self, err := os.Executable()
	if err := errors.Join(err, os.Mkdir(m.home, 0o700), os.Mkdir(bin, 0o700), os.Symlink(self, filepath.Join(bin, program))); err != nil {
		t.Fatal(err)
	}
	m.env = append([]string{
		"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + m.home, "LC_ALL=C", "GORACE=atexit_sleep_ms=0",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0", "GIT_CLUSTER_CONFIG=" + filepath.Join(m.home, "client.toml"),
		credential.EnvDir + "=" + m.device,
	}, env...)
	return m
}

// enroll makes it a device.
func (m *machine) enroll(hosts ...string) *credential.Identity {
	m.t.Helper()
	id, err := credential.Prepare(m.device, "repo001")
	if err != nil {
		m.t.Fatal(err)
	}
	id.ClusterID, id.Cluster, id.Hosts = clusterID, "demo", hosts
	if err := id.Save(m.device); err != nil {
		m.t.Fatal(err)
	}
	return id
}

type ran struct {
	out, err string
	status   int
}

func (m *machine) run(stdin, name string, args ...string) ran {
	m.t.Helper()
	return m.runFrom(strings.NewReader(stdin), name, args...)
}

func (m *machine) runFrom(stdin io.Reader, name string, args ...string) ran {
	m.t.Helper()
	if name == program {
		name = filepath.Join(filepath.Dir(m.home), "bin", program)
	}
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env, cmd.Dir, cmd.Stdin = m.env, m.home, stdin
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		m.t.Fatalf("%s %q: %v; it printed %q and %q", name, args, err, out.String(), stderr.String())
	}
	return ran{out.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

const asDevice = credential.EnvAsDevice + "=1"

// attributes reads an answer.
func attributes(t *testing.T, out string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for line := range strings.Lines(out) {
		key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if !ok || !strings.HasSuffix(line, "\n") {
			t.Errorf("the line %q in %q is no attribute", line, out)
		}
		all[key] = value
	}
	return all
}

func checkToken(t *testing.T, id *credential.Identity, token, host string) {
	t.Helper()
	_, err := credential.Verify(token, host, clusterID, time.Now(), func(name cluster.DeviceName) (string, bool) {
		return id.AuthorizedKey(), name == id.Name
	})
	if err != nil {
		t.Errorf("the token %q: %v", token, err)
	}
}

func TestGitAsksForTheDevice(t *testing.T) {
	m := newMachine(t, asDevice)
	id := m.enroll("git.example.com:2222", "other.example.com:2222")
	if r := m.run("", program, "configure", "https://git.example.com:8443"); r != (ran{}) {
		t.Fatalf("configure: %+v", r)
	}
	r := m.run("protocol=https\nhost=git.example.com:8443\n\n", "git", "credential", "fill")
	a := attributes(t, r.out)
	if r.status != 0 || r.err != "" || a["username"] != "device/repo001" {
		t.Fatalf("git credential fill: %+v", r)
	}
	checkToken(t, id, a["password"], "git.example.com")
	for _, action := range []string{"approve", "reject"} {
		if r := m.run(r.out+"\n", "git", "credential", action); r != (ran{}) {
			t.Errorf("git credential %s: %+v", action, r)
		}
	}
	// The configuration is for that port alone, and Git may not prompt here.
	r = m.run("protocol=https\nhost=git.example.com\n\n", "git", "credential", "fill")
	if r.status == 0 || r.out != "" {
		t.Errorf("another port: %+v", r)
	}
	if r := m.run("", program, "unconfigure", "https://git.example.com:8443"); r != (ran{}) {
		t.Errorf("unconfigure: %+v", r)
	}
	r = m.run("protocol=https\nhost=git.example.com:8443\n\n", "git", "credential", "fill")
	if r.status == 0 || r.out != "" {
		t.Errorf("after unconfigure: %+v", r)
	}
}

func TestGitIsStoppedRatherThanGivenAnother(t *testing.T) {
	const ask = "protocol=https\nhost=git.example.com\n\n"
	later := func(m *machine) { // another helper, whose answer must not be used
		if r := m.run("", "git", "config", "--global", "credential.helper", "!echo username=alice; echo password=secret; true"); r.status != 0 {
			m.t.Fatalf("git config: %+v", r)
		}
	}
	for name, c := range map[string]struct {
		env    []string
		enroll bool
		why    []string
	}{
		"no device":  {nil, false, []string{"this machine is no device", "git cluster device enroll SEED --token T --name N"}},
		"a conflict": {[]string{credential.EnvCredential + "=alice"}, true, []string{credential.EnvAsDevice, credential.EnvCredential}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, append(c.env, asDevice)...)
			if c.enroll {
				m.enroll("git.example.com:2222")
			}
			m.run("", program, "configure", "https://git.example.com")
			later(m)
			r := m.run(ask, "git", "credential", "fill")
			if r.status == 0 || strings.Contains(r.out, "secret") || !strings.Contains(r.err, "told us to quit") {
				t.Errorf("git credential fill: %+v", r)
			}
			r = m.run(ask, program, "get")
			if r.status != 1 || r.out != "quit=1\n" || strings.Count(r.err, "\n") != 1 || !strings.HasPrefix(r.err, program+": ") {
				t.Errorf("get: %+v", r)
			}
			for _, want := range c.why {
				if !strings.Contains(r.err, want) {
					t.Errorf("the line %q does not say %q", r.err, want)
				}
			}
		})
	}

	t.Run("without the flag", func(t *testing.T) {
		m := newMachine(t, credential.EnvAsDevice+"=0")
		m.enroll("git.example.com:2222")
		m.run("", program, "configure", "https://git.example.com")
		later(m)
		if r := m.run(ask, "git", "credential", "fill"); r.status != 0 || !strings.Contains(r.out, "username=alice\n") {
			t.Errorf("git credential fill: %+v", r)
		}
	})
}

func TestActions(t *testing.T) {
	m := newMachine(t, asDevice)
	id := m.enroll("git.example.com:2222")
	const ask = "protocol=https\nhost=git.example.com\n"
	if r := m.run(ask+"capability[]=authtype\n\n", program, "get"); r.status == 0 {
		a := attributes(t, r.out)
		if a["authtype"] != "ClusterDevice" || a["ephemeral"] != "1" || !strings.HasPrefix(r.out, "capability[]=authtype\n") || a["username"] != "" {
			t.Errorf("get: %+v", r)
		}
		checkToken(t, id, a["credential"], "git.example.com")
	} else {
		t.Errorf("get: %+v", r)
	}
	r := m.run("protocol=ssh\nhost=git.example.com\n\n", program, "get")
	want := "username=git\nidentityfile=" + filepath.Join(m.device, "id_ed25519") + "\nfingerprint=" + id.Fingerprint() + "\n"
	if r.status != 0 || r.out != want {
		t.Errorf("get for ssh: %+v", r)
	}
	for _, c := range []struct {
		stdin string
		args  []string
		out   string
	}{
		{ask, []string{"store"}, ""},
		{ask, []string{"erase"}, ""},
		{"", []string{"store"}, ""},
		{ask, []string{"list-everything"}, ""},
		{"", []string{"capability"}, "version 0\ncapability authtype\n"},
		{"protocol=https\nhost=github.com\n", []string{"get"}, ""},
	} {
		if r := m.run(c.stdin, program, c.args...); r != (ran{out: c.out}) {
			t.Errorf("%q: %+v", c.args, r)
		}
	}
	if r := m.run("", program, "--version"); r.status != 0 || !strings.HasPrefix(r.out, program+" ") {
		t.Errorf("--version: %+v", r)
	}
	if r := m.run("", program, "-h"); r.status != 0 || r.out != usage {
		t.Errorf("-h: %+v", r)
	}
	for _, args := range [][]string{nil, {"configure"}, {"unconfigure"}, {"configure", "a", "b"}, {"--what"}} {
		if r := m.run("", program, args...); r.status != 2 || r.out != "" || r.err != usage {
			t.Errorf("%q: %+v", args, r)
		}
	}
	if r := m.run("x\n", program, "get"); r.status != 1 || r.out != "quit=1\n" || strings.Count(r.err, "\n") != 1 {
		t.Errorf("a bad request: %+v", r)
	}
}

// What configure writes is all it touches.
func TestConfigureTouchesNothingElse(t *testing.T) {
	m := newMachine(t)
	file := filepath.Join(m.home, ".gitconfig")
	const before = "# mine\n[user]\n\tname = A\n[credential \"https://git.example.com\"]\n\thelper = store\n\thelper = device --other\n"
	if err := os.WriteFile(file, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	read := func() string {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	const url = "https://Git.Example.com/"
	if r := m.run("", program, "unconfigure", url); r != (ran{}) || read() != before {
		t.Errorf("unconfigure before anything: %+v\n%s", r, read())
	}
	for range 2 {
		if r := m.run("", program, "configure", url); r != (ran{}) || read() != before+"\thelper = device\n" {
			t.Errorf("configure: %+v\n%s", r, read())
		}
	}
	if r := m.run("", program, "configure", "https://git.example.com:8443/a"); r != (ran{}) {
		t.Errorf("configure another: %+v", r)
	}
	for range 2 {
		if r := m.run("", program, "unconfigure", url); r != (ran{}) || !strings.HasPrefix(read(), before) || strings.Count(read(), "helper = device\n") != 1 {
			t.Errorf("unconfigure: %+v\n%s", r, read())
		}
	}
	if r := m.run("", program, "unconfigure", "https://git.example.com:8443/a"); r != (ran{}) || read() != before {
		t.Errorf("unconfigure another: %+v\n%s", r, read())
	}
	r := m.run("", program, "configure", "http://git.example.com")
	if r.status != 1 || !strings.Contains(r.err, "bad URL") || strings.Count(r.err, "\n") != 1 || read() != before {
		t.Errorf("configure a bad URL: %+v", r)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if r := m.run("", program, "unconfigure", url); r != (ran{}) {
		t.Errorf("unconfigure without a file: %+v", r)
	}
	m.env = slices.DeleteFunc(m.env, func(v string) bool { return strings.HasPrefix(v, "HOME=") })
	if r := m.run("", program, "configure", url); r.status != 1 || strings.Count(r.err, "\n") != 1 {
		t.Errorf("configure without a home: %+v", r)
	}
}

// The host of a load balancer is known by being configured.
func TestConfiguredHostIsKnown(t *testing.T) {
	m := newMachine(t, asDevice)
	id := m.enroll("node1:2222")
	const ask = "protocol=https\nhost=git.example.com\n\n"
	if r := m.run(ask, program, "get"); r != (ran{}) {
		t.Errorf("before: %+v", r)
	}
	m.run("", program, "configure", "https://git.example.com/repos")
	r := m.run(ask, program, "get")
	checkToken(t, id, attributes(t, r.out)["password"], "git.example.com")
}

func TestSilentAskerIsNotWaitedForLong(t *testing.T) {
	m := newMachine(t, asDevice)
	m.enroll("node1:2222")
	stdin, asker, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	defer asker.Close()
	io.WriteString(asker, "protocol=https\nhost=node1\n") // no blank line, no end
	r := m.runFrom(stdin, program, "get")
	if r.status != 1 || r.out != "quit=1\n" || !strings.Contains(r.err, "no answer within") {
		t.Errorf("get: %+v", r)
	}
}
