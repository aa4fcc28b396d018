package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"gitcluster/internal/admin"
	"gitcluster/internal/client"
	"gitcluster/internal/cluster"
	"gitcluster/internal/config"
	"gitcluster/internal/credential"
	"gitcluster/internal/journal"
	"gitcluster/internal/replica"
	"gitcluster/internal/sshclient/sshtest"
)

// A world is servers that say what a test wants of them, and who looks at them.
type world struct {
	t    *testing.T
	all  []replica.Candidate
	user ssh.Signer
	key  string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	t.Setenv("HOME", t.TempDir())
	t.Setenv("GIT_CLUSTER_CONFIG", filepath.Join(t.TempDir(), "none.toml"))
	w := &world{t: t}
	w.key, w.user = sshtest.NewKeyFile(t, t.TempDir(), "id", "")
	return w
}

// node starts a server that answers cluster-nodes with what change leaves.
func (w *world) node(name string, change func(*client.Nodes)) {
	w.t.Helper()
	s := sshtest.Start(w.t, sshtest.Options{Accept: w.user, Handler: func(_ context.Context, s *sshtest.Session) int {
		if strings.HasPrefix(s.Command, "cluster-sync") {
			fmt.Fprintf(s.Stdout, `{"cluster":"c1","node":%q,"version":4,"error":"%v: it shows version 3 of 4","retry":true}`+"\n", name, cluster.ErrBehind)
			return 1
		}
		n := client.Nodes{NodeList: cluster.NodeList{Cluster: "c1"}, Name: "main", Node: cluster.DeviceName(name), Version: "1", Time: time.Now()}
		for _, c := range w.all {
			n.Nodes = append(n.Nodes, cluster.NodeAddress{Name: cluster.DeviceName(c.Name), SSH: c.Addr})
		}
		if change != nil {
			change(&n)
		}
		json.NewEncoder(s.Stdout).Encode(n)
		return 0
	}})
	w.all = append(w.all, replica.Candidate{Name: name, Addr: s.Addr, User: "git", Identity: w.key, HostKey: string(ssh.MarshalAuthorizedKey(s.Host.PublicKey()))})
}

// ordinary is a server that is no node.
func ordinary(n *client.Nodes) { n.Cluster = "" }

// device makes a device of the machine, which the servers let in.
func (w *world) device() {
	w.t.Helper()
	dir := filepath.Join(w.t.TempDir(), "device")
	id, err := credential.Prepare(dir, "ci7")
	if err == nil {
		id.ClusterID, id.Cluster, id.Hosts = "c1", "main", []string{"127.0.0.1:2222"}
		err = id.Save(dir)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Setenv(credential.EnvAsDevice, "1")
	w.t.Setenv(credential.EnvDir, dir)
	w.user = id.Signer()
}

// examine returns the findings as lines, and whether nothing failed.
func (w *world) examine(d *Doctor) (string, bool) {
	d.Getenv, d.Environ, d.Version = os.Getenv, os.Environ(), "1"
	d.Clusters = []string{"main"}
	d.Client = os.ErrNotExist
	d.Candidates = func(context.Context, string) ([]replica.Candidate, error) { return w.all, nil }
	var b strings.Builder
	failed := false
	d.report = func(f Finding) {
		failed = failed || f.Level == Fail
		fmt.Fprintf(&b, "%s %s: %s → %s\n", f.Level, f.Check, f.Found, f.Do)
		if (f.Level == OK) != (f.Do == "") {
			w.t.Errorf("a finding that says what to do must need it: %+v", f)
		}
	}
	d.cluster(w.t.Context(), "main")
	if failed != d.failed {
		w.t.Errorf("failed is %v, and the findings are\n%s", d.failed, b.String())
	}
	return b.String(), !failed
}

// A person who is told what is wrong is asked nothing, by whatever program they have
// for that.
func TestNobodyIsAsked(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the programs are shell scripts")
	}
	w := newWorld(t)
	w.key, w.user = sshtest.NewKeyFile(t, t.TempDir(), "locked", "secret")
	w.node("n1", nil)
	dir := t.TempDir()
	record := filepath.Join(dir, "record")
	for name, text := range map[string]string{"askpass": "echo \"$0 $*\" >>" + record + "\necho secret\n", "ssh": "echo \"$0 $*\" >>" + record + "\nexit 255\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	askpass := filepath.Join(dir, "askpass")
	t.Setenv("GIT_CONFIG_GLOBAL", filepath.Join(dir, "gitconfig"))
	if err := os.WriteFile(filepath.Join(dir, "gitconfig"), []byte("[core]\n\taskPass = "+askpass+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GIT_ASKPASS", askpass)
	t.Setenv("SSH_ASKPASS", askpass)
	t.Setenv("SSH_ASKPASS_REQUIRE", "force")
	for _, unset := range []string{"", "SSH_ASKPASS", "GIT_ASKPASS"} {
		if unset != "" {
			t.Setenv(unset, "")
		}
		if got, well := w.examine(&Doctor{}); well || !strings.Contains(got, "its passphrase was not given: nobody is to be asked now") {
			t.Error(got)
		}
	}
	if text, err := os.ReadFile(record); err == nil {
		t.Errorf("a person was asked: %s", text)
	}
	// Nor does ssh ask, where that is run.
	t.Setenv("GIT_SSH_COMMAND", filepath.Join(dir, "ssh"))
	if _, well := w.examine(&Doctor{}); well {
		t.Error("that ssh does nothing is well")
	}
	if text, _ := os.ReadFile(record); !strings.Contains(string(text), " -o BatchMode=yes ") {
		t.Errorf("ssh was run with %q", text)
	}
}

func TestNodes(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*client.Nodes) // of the second node's answer
		device bool
		repo   string
		well   bool
		want   string // a regular expression: what the answer took is left out of a clock's difference
		first  func(*client.Nodes)
	}{
		"all is well":           {nil, false, "", true, "ok node n2", nil},
		"a device's clock":      {func(n *client.Nodes) { n.Time = n.Time.Add(-5 * time.Minute) }, true, "", false, "fail node n2: its clock is (5m0s|4m5[0-9]s) behind this machine's; a device's tokens are refused → set the clocks", nil},
		"a bit of it":           {func(n *client.Nodes) { n.Time = n.Time.Add(3 * time.Minute) }, true, "", true, "warn node n2: its clock is (3m0s|2m5[0-9]s) ahead of", nil},
		"ordinary servers":      {ordinary, false, "", true, "ok node n2: ", ordinary},
		"a clock that is ahead": {func(n *client.Nodes) { n.Time = n.Time.Add(time.Hour) }, false, "", true, "warn node n2: its clock is (1h0m0s|59m5[0-9]s) ahead of", nil},
		"a clock a bit behind":  {func(n *client.Nodes) { n.Time = n.Time.Add(-10 * time.Second) }, false, "", true, "ok node n2", nil},
		"another version":       {func(n *client.Nodes) { n.Version = "2" }, false, "", true, "warn node n2: answers in", nil},
		"another cluster":       {func(n *client.Nodes) { n.Cluster = "c2" }, false, "", false, "fail cluster main: node n2 is of the cluster c2, and n1 of c1", nil},
		"text for a terminal":   {func(n *client.Nodes) { n.Version = "\x1b[2J" }, false, "", true, `it is version  \[2J`, nil},
		"no node":               {func(n *client.Nodes) { n.Cluster = "" }, false, "", false, "fail node n2: not a node of a cluster", nil},
		"behind":                {nil, false, "team/x", true, "warn node n2: team/x: replica is behind", nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if c.device {
				w.device()
			}
			w.node("n1", c.first)
			w.node("n2", c.change)
			got, well := w.examine(&Doctor{Repository: c.repo})
			if c.repo != "" {
				c.want = strings.Replace(c.want, "replica is behind", cluster.ErrBehind.Error(), 1)
			}
			if well != c.well || !regexp.MustCompile(c.want).MatchString(got) || strings.Contains(got, "\x1b") {
				t.Errorf("well %v, want %v, and %q in\n%s", well, c.well, c.want, got)
			}
		})
	}
}

func TestNodesThatAreGone(t *testing.T) {
	w := newWorld(t)
	w.node("n1", func(n *client.Nodes) { n.Nodes = n.Nodes[:1] }) // it knows itself alone
	w.all = append(w.all, replica.Candidate{Name: "n2", Addr: "127.0.0.1:1", User: "git", Identity: w.key, HostKey: w.all[0].HostKey})
	got, well := w.examine(&Doctor{})
	for _, want := range []string{"fail node n2: ", "connection refused", "warn cluster main: n2 is none of its enabled nodes"} {
		if well || !strings.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
}

func TestNode(t *testing.T) {
	data := t.TempDir()
	if err := os.MkdirAll(filepath.Join(data, "device"), 0o700); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(data, "device", "id_ed25519")
	if err := os.WriteFile(key, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	good := admin.Status{Node: "n1", Version: "1", Trusted: []string{"127.0.0.0/8"}, Nodes: []admin.NodeStatus{{Name: "n1", SSH: "127.0.0.1:2222", Enabled: true, Up: true}}}
	for name, c := range map[string]struct {
		prepare func(*admin.Status)
		mode    os.FileMode // of the data directory
		key     os.FileMode
		err     error
		well    bool
		want    string
	}{
		"all is well":      {nil, 0o700, 0o600, nil, true, "ok this node: n1 runs"},
		"it does not run":  {nil, 0o700, 0o600, errors.New("no node runs"), false, "fail this node: no node runs → start it"},
		"open directory":   {nil, 0o777, 0o600, nil, false, "fail data directory: "},
		"open key":         {nil, 0o700, 0o644, nil, false, "chmod 600 " + key},
		"no journal":       {func(st *admin.Status) { st.Problem = "no majority" }, 0o700, 0o600, nil, false, "fail journal: no majority"},
		"a node is down":   {func(st *admin.Status) { st.Nodes[0].Up = false }, 0o700, 0o600, nil, true, "warn journal: not up: n1"},
		"a full journal":   {func(st *admin.Status) { st.Journal = []journal.MemberState{{Name: "n1", Voter: true, Full: true}} }, 0o700, 0o600, nil, false, "fail journal: it takes no writes: it is full on n1"},
		"a strange place":  {func(st *admin.Status) { st.Nodes[0].SSH = "192.0.2.1:22" }, 0o700, 0o600, nil, true, "warn trusted networks: node n1 is at 192.0.2.1"},
		"an older program": {func(st *admin.Status) { st.Version = "0" }, 0o700, 0o600, nil, true, "warn this node: it runs version 0"},
		"a fenced replica": {func(st *admin.Status) {
			st.Behind = []admin.RepoView{{Repo: cluster.Repo{Name: "x"}, Replicas: []admin.ReplicaView{{Device: "n1", Fenced: "other refs"}}}}
		}, 0o700, 0o600, nil, false, "fail replica: x on n1 is fenced: other refs"},
	} {
		t.Run(name, func(t *testing.T) {
			st := good
			st.Nodes = append([]admin.NodeStatus{}, good.Nodes...)
			if c.prepare != nil {
				c.prepare(&st)
			}
			if err := errors.Join(os.Chmod(data, c.mode), os.Chmod(key, c.key)); err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			d := &Doctor{Version: "1", Data: data, Status: func(context.Context) (admin.Status, error) { return st, c.err }}
			d.report = func(f Finding) { fmt.Fprintf(&b, "%s %s: %s → %s\n", f.Level, f.Check, f.Found, f.Do) }
			d.node(t.Context())
			if d.failed == c.well || !strings.Contains(b.String(), c.want) {
				t.Errorf("failed %v, and %q should be in\n%s", d.failed, c.want, b.String())
			}
		})
	}
}

func TestAtLeast(t *testing.T) {
	for version, want := range map[string]bool{"2.36.0": true, "2.35.9": false, "3.0": true, "1.99": false, "2.39.5 (Apple Git-154)": true, "2.40.0.windows.1": true, "next": true} {
		if got := atLeast(version, 2, 36); got != want {
			t.Errorf("%q: %v", version, got)
		}
	}
}

// The keys that are looked for are those that would be used.
func TestKeys(t *testing.T) {
	newWorld(t)
	home := os.Getenv("HOME")
	t.Setenv("SSH_AUTH_SOCK", "")
	key, _ := sshtest.NewKeyFile(t, home, "mine", "")
	conf := &config.Client{Clusters: map[string]*config.Cluster{"main": {Nodes: []config.Node{{Name: "n1", SSH: "n1.example:2222"}}}}}
	if err := conf.Write(config.ClientPath()); err != nil {
		t.Fatal(err)
	}
	public := filepath.Join(home, "held.pub")
	if err := os.WriteFile(public, []byte("ssh-ed25519 AAAA"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ ssh, want string }{
		"an agent's, named": {"IdentityFile ~/held.pub", "ok ssh key: " + public + ", whose private key an agent has to hold"},
		"none":              {"", "warn ssh keys: there is neither an agent's key nor one in " + filepath.Join(home, ".ssh")},
		"named":             {"Host n1*\n  IdentityFile ~/mine", "ok ssh key: " + key},
		"named, not there":  {"IdentityFile ~/other", "neither an agent's key nor one in " + filepath.Join(home, ".ssh") + ", " + filepath.Join(home, "other")},
		"another host's":    {"Host n2*\n  IdentityFile ~/mine", "warn ssh keys: "},
		"an agent's":        {"IdentityAgent ~/nothing", "warn ssh agent: "},
		"ssh's":             {"ProxyCommand x", ""},
	} {
		if err := os.MkdirAll(filepath.Join(home, ".ssh"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(home, ".ssh", "config"), []byte(c.ssh), 0o600); err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		d := &Doctor{Getenv: os.Getenv, Clusters: []string{"main"}, report: func(f Finding) { fmt.Fprintf(&b, "%s %s: %s\n", f.Level, f.Check, f.Found) }}
		d.keys(t.Context())
		if got := b.String(); !strings.Contains(got, c.want) || (got == "") != (c.want == "") {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// Who has a program of their own for SSH is not told to make a key.
func TestKeysOfAProgram(t *testing.T) {
	newWorld(t)
	t.Setenv("SSH_AUTH_SOCK", "")
	conf := &config.Client{Clusters: map[string]*config.Cluster{"main": {Nodes: []config.Node{{Name: "n1", SSH: "n1.example:2222"}}}}}
	if err := conf.Write(config.ClientPath()); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GIT_SSH_COMMAND", "ssh -i k")
	var b strings.Builder
	d := &Doctor{Getenv: os.Getenv, Clusters: []string{"main"}, report: func(f Finding) { fmt.Fprintf(&b, "%s %s: %s\n", f.Level, f.Check, f.Found) }}
	d.keys(t.Context())
	if want := "ok ssh keys: the program of GIT_SSH_COMMAND connects, and has its own\n"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}

// The programs that Git finds are looked at, whatever they are.
func TestPrograms(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs programs that are scripts")
	}
	for name, c := range map[string]struct {
		git, helper string // what they print
		node        bool
		want        []string
	}{
		"of one release":        {"git version 2.40.1", "git-remote-cluster 1", false, []string{"ok git: version 2.40.1", "ok git-remote-cluster: "}},
		"an old Git":            {"git version 2.30.2", "git-remote-cluster 1", false, []string{"warn git: version 2.30.2 → install Git 2.36 or newer"}},
		"an old Git, on a node": {"git version 2.30.2", "git-remote-cluster 1", true, []string{"fail git: version 2.30.2 → install Git 2.36 or newer"}},
		"of two releases":       {"git version 2.40.1", "git-remote-cluster 2", false, []string{"is version 2, and this program 1 → install the programs of one release", "ok git-credential-device: "}},
		"another's":             {"git version 2.40.1", "something else", false, []string{"fail git-remote-cluster: ", "is another program → "}},
	} {
		dir := t.TempDir()
		for program, prints := range map[string]string{"git": c.git, "git-remote-cluster": c.helper, "git-credential-device": "git-credential-device 1"} {
			if err := os.WriteFile(filepath.Join(dir, program), []byte("#!/bin/sh\necho '"+prints+"'\n"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		t.Setenv("PATH", dir)
		var b strings.Builder
		d := &Doctor{Version: "1", Environ: os.Environ(), report: func(f Finding) { fmt.Fprintf(&b, "%s %s: %s → %s\n", f.Level, f.Check, f.Found, f.Do) }}
		if c.node {
			d.Data = dir
		}
		d.programs(t.Context())
		for _, want := range c.want {
			if !strings.Contains(b.String(), want) {
				t.Errorf("%s: %q is missing in\n%s", name, want, b.String())
			}
		}
		if d.failed != strings.HasPrefix(c.want[0], "fail") {
			t.Errorf("%s: failed is %v\n%s", name, d.failed, b.String())
		}
	}
}
