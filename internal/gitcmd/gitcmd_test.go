package gitcmd

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gitcluster/internal/cluster"
)

const (
	dir        = "/srv/git/repositories/01/0123456789abcdef.git"
	quarantine = dir + "/objects/incoming-1"
	secret     = "5ec2e75ec2e75ec2"
)

// every is each command the package builds, with the names a stranger may have
// chosen as hostile as their types allow.
func every() map[string]Command {
	oid := cluster.OID(strings.Repeat("1", 40))
	return map[string]Command{
		"UploadPack":         UploadPack(dir, "version=2"),
		"UploadArchive":      UploadArchive(dir),
		"ReceivePack":        ReceivePack(dir, Push{Hooks: "/srv/git/hooks", Socket: "/srv/git/socket", Token: secret}),
		"Init":               Init(dir, cluster.SHA256, "refs/heads/--shared"),
		"UpdateRef":          UpdateRef(dir, true),
		"SetHead":            SetHead(dir, "refs/heads/--delete"),
		"ReadHead":           ReadHead(dir),
		"ListRefs":           ListRefs(dir),
		"CheckObjects":       CheckObjects(dir),
		"PackObjects":        PackObjects(dir),
		"IndexPack":          IndexPack(dir, quarantine),
		"IndexIncoming":      IndexIncoming(dir, quarantine, true),
		"RevList":            RevList(dir, ""),
		"RevList/quarantine": RevList(dir, quarantine),
		"IsAncestor":         IsAncestor(dir, quarantine, oid, oid),
		"IndexPack/apart":    IndexPack(dir, quarantine).Apart(),
		"Fsck":               Fsck(dir),
		"FsckObjects":        FsckObjects(dir),
		"Version":            Version(),
	}
}

// environment returns the variables and the configuration of a command.
func environment(t *testing.T, c Command) (vars, config map[string]string) {
	t.Helper()
	vars, config = map[string]string{}, map[string]string{}
	for _, line := range c.Env {
		k, v, ok := strings.Cut(line, "=")
		if _, twice := vars[k]; twice || !ok {
			t.Errorf("the variable %q is there twice or has no value", line)
		}
		vars[k] = v
	}
	var n int
	if _, err := fmt.Sscan(vars["GIT_CONFIG_COUNT"], &n); err != nil {
		t.Fatalf("GIT_CONFIG_COUNT is %q", vars["GIT_CONFIG_COUNT"])
	}
	for i := range n {
		key, ok := vars[fmt.Sprintf("GIT_CONFIG_KEY_%d", i)]
		value, ok2 := vars[fmt.Sprintf("GIT_CONFIG_VALUE_%d", i)]
		if !ok || !ok2 {
			t.Fatalf("setting %d of %d is not there", i, n)
		}
		config[strings.ToLower(key)] = value // the last one wins
	}
	if _, more := vars[fmt.Sprintf("GIT_CONFIG_KEY_%d", n)]; more {
		t.Error("there are more settings than are counted")
	}
	return vars, config
}

// The whole argument list of each command: nothing else may get in.
func TestArguments(t *testing.T) {
	want := map[string]string{
		"UploadPack":    "git upload-pack --strict " + dir,
		"UploadArchive": "git upload-archive " + dir,
		"ReceivePack":   "git receive-pack --stateless-rpc " + dir,
		"Init":          "git init --bare --quiet --template= --object-format=sha256 --initial-branch=--shared " + dir,
		"UpdateRef":     "git update-ref --stdin -z --no-deref",
		"SetHead":       "git symbolic-ref HEAD refs/heads/--delete",
		"ReadHead":      "git symbolic-ref HEAD",
		"ListRefs":      "git for-each-ref --format=%(objectname) %(refname)",
		"CheckObjects":  "git cat-file --batch-check=%(objectname) %(objecttype) --buffer",
		"PackObjects":   "git pack-objects --revs --stdout --thin --delta-base-offset -q",
		"IndexPack":     "git index-pack --stdin --fix-thin",
		"IndexIncoming": "git index-pack --stdin --fix-thin --report-end-of-input" +
			" --strict=badTimezone=ignore,missingSpaceBeforeDate=ignore,zeroPaddedFilemode=ignore,zeroPaddedDate=ignore --show-resolving-progress",
		"RevList":            "git rev-list --objects --quiet --stdin",
		"RevList/quarantine": "git rev-list --objects --quiet --stdin",
		"IsAncestor":         "git merge-base --is-ancestor " + strings.Repeat("1", 40) + " " + strings.Repeat("1", 40),
		"IndexPack/apart":    "git index-pack --stdin --fix-thin",
		"Fsck":               "git fsck --connectivity-only --no-dangling --no-progress",
		"FsckObjects":        "git fsck --connectivity-only --no-dangling --no-progress",
		"Version":            "git version",
	}
	for name, c := range every() {
		if got := strings.Join(c.Args, " "); got != want[name] {
			t.Errorf("%s is\n%s, want\n%s", name, got, want[name])
		}
		// No word a stranger chose stands alone and starts like an option.
		for _, arg := range c.Args {
			if strings.HasPrefix(arg, "--shared") || strings.HasPrefix(arg, "--delete") {
				t.Errorf("%s: the name became the option %q", name, arg)
			}
		}
	}
	if len(want) != len(every()) {
		t.Error("a command is in one list only")
	}
}

// The environment is closed: what the node was started with decides nothing.
func TestEnvironmentIsClosed(t *testing.T) {
	allowed := []string{"PATH", "LC_ALL", "HOME", "XDG_CONFIG_HOME", "GIT_CONFIG_NOSYSTEM", "GIT_CONFIG_GLOBAL", "GIT_ATTR_NOSYSTEM",
		"GIT_NO_REPLACE_OBJECTS", "GIT_TERMINAL_PROMPT", "GIT_ADVICE", "GIT_DIR", "GIT_CONFIG_COUNT", "GIT_PROTOCOL", EnvSocket, EnvPush,
		"GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES"}
	before := every()
	for _, v := range []string{"GIT_DIR", "GIT_OBJECT_DIRECTORY", "GIT_CONFIG_PARAMETERS", "GIT_PROTOCOL", "LD_PRELOAD", "GIT_CONFIG_COUNT", "HOME", "LC_ALL", "GIT_SSH_COMMAND", "TMPDIR"} {
		t.Setenv(v, "/from/outside")
	}
	for name, c := range every() {
		if !slices.Equal(c.Env, before[name].Env) {
			t.Errorf("%s: the node's own environment changes it", name)
		}
		vars, _ := environment(t, c)
		for k := range vars {
			if !slices.Contains(allowed, k) && !strings.HasPrefix(k, "GIT_CONFIG_KEY_") && !strings.HasPrefix(k, "GIT_CONFIG_VALUE_") {
				t.Errorf("%s: has the variable %s", name, k)
			}
		}
		for k, want := range map[string]string{"PATH": os.Getenv("PATH"), "LC_ALL": "C", "HOME": os.DevNull, "XDG_CONFIG_HOME": os.DevNull,
			"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.DevNull, "GIT_ATTR_NOSYSTEM": "1", "GIT_NO_REPLACE_OBJECTS": "1", "GIT_TERMINAL_PROMPT": "0"} {
			if vars[k] != want {
				t.Errorf("%s: %s is %q, want %q", name, k, vars[k], want)
			}
		}
		if wantDir := dir; name != "Version" && name != "Init" && vars["GIT_DIR"] != wantDir {
			t.Errorf("%s: GIT_DIR is %q", name, vars["GIT_DIR"])
		}
	}
}

func TestConfiguration(t *testing.T) {
	for name, c := range every() {
		_, config := environment(t, c)
		for k, want := range map[string]string{"core.fsync": "all", "core.fsyncmethod": "fsync", "gc.auto": "0", "maintenance.auto": "false", "receive.autogc": "false",
			"transfer.hiderefs": "refs/strays", "protocol.allow": "never", "core.logallrefupdates": "false"} {
			if config[k] != want {
				t.Errorf("%s: %s is %q, want %q", name, k, config[k], want)
			}
		}
		hooks := os.DevNull
		if name == "ReceivePack" {
			hooks = "/srv/git/hooks"
		}
		if config["core.hookspath"] != hooks {
			t.Errorf("%s: hooks come from %q, want %q", name, config["core.hookspath"], hooks)
		}
		// Git refuses a repository of another account unless told of it.
		if name != "Version" && name != "Init" && config["safe.directory"] != dir {
			t.Errorf("%s: safe.directory is %q", name, config["safe.directory"])
		}
	}
	_, config := environment(t, every()["ReceivePack"])
	for k, want := range map[string]string{"receive.procreceiverefs": "refs", "receive.shallowupdate": "false", "receive.advertiseatomic": "true", "receive.advertisepushoptions": "true", "receive.fsckobjects": "true", "receive.unpacklimit": "1"} {
		if config[k] != want {
			t.Errorf("ReceivePack: %s is %q, want %q", k, config[k], want)
		}
	}
	for name, c := range every() {
		if _, config := environment(t, c); name != "ReceivePack" && config["receive.procreceiverefs"] != "" {
			t.Errorf("%s: has settings of receive-pack", name)
		}
	}
}

func TestWritesAreMarked(t *testing.T) {
	writing := []string{"ReceivePack", "Init", "UpdateRef", "SetHead", "IndexPack", "IndexIncoming", "IndexPack/apart"}
	for name, c := range every() {
		if want := slices.Contains(writing, name); c.Writes != want {
			t.Errorf("%s: writes is %v, want %v", name, c.Writes, want)
		}
	}
}

func TestNoSecretInArguments(t *testing.T) {
	for name, c := range every() {
		if strings.Contains(strings.Join(c.Args, " "), secret) {
			t.Errorf("%s: the push's token is in the arguments", name)
		}
		has := slices.ContainsFunc(c.Env, func(v string) bool { return strings.Contains(v, secret) })
		if has != (name == "ReceivePack") {
			t.Errorf("%s: the push's token is in the environment: %v", name, has)
		}
	}
	vars, _ := environment(t, every()["ReceivePack"])
	if vars[EnvPush] != secret || vars[EnvSocket] != "/srv/git/socket" {
		t.Errorf("a hook finds its push by %q at %q", vars[EnvPush], vars[EnvSocket])
	}
}

// What the client asked for reaches Git as a value and as nothing else.
func TestProtocolIsAValue(t *testing.T) {
	for _, protocol := range []string{"", "version=2", "version=1:x", "a\nGIT_DIR=/x", "--help", "=", strings.Repeat("x", 5000)} {
		for _, c := range []Command{UploadPack(dir, protocol), StatelessUploadPack(dir, protocol)} {
			vars, _ := environment(t, c)
			got, there := vars["GIT_PROTOCOL"]
			if got != protocol || there != (protocol != "") {
				t.Errorf("GIT_PROTOCOL is %q (%v), want %q", got, there, protocol)
			}
			if slices.Contains(c.Args, protocol) && protocol != "" {
				t.Errorf("%q is an argument", protocol)
			}
			if vars["GIT_DIR"] != dir {
				t.Errorf("%q changed GIT_DIR", protocol)
			}
		}
	}
}

// A command never shares what another may append to.
func TestCommandsShareNothing(t *testing.T) {
	a, b := ReceivePack(dir, Push{Token: "a"}), ReceivePack(dir, Push{Token: "b"})
	_ = append(a.Env, "X=1")
	if va, _ := environment(t, a); va[EnvPush] != "a" {
		t.Error("a second command changed the first")
	}
	if vb, _ := environment(t, b); vb[EnvPush] != "b" {
		t.Error("a first command changed the second")
	}
}

// Git takes what is built: real commands, on data directories of odd names.
func TestRealGitTakesTheCommands(t *testing.T) {
	run := func(t *testing.T, c Command, stdin string) string {
		t.Helper()
		cmd := exec.Command(c.Args[0], c.Args[1:]...)
		cmd.Env, cmd.Stdin = c.Env, strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%q: %v\n%s", c.Args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	for _, name := range []string{"plain", "with space", `quo"te`, `back\slash`, "colon:colon", "new\nline", "ü", "no\u00a0break", "control\x01", "latin\xff"} {
		t.Run(fmt.Sprintf("%q", name), func(t *testing.T) {
			repo := filepath.Join(t.TempDir(), name, "x.git")
			if err := os.MkdirAll(filepath.Dir(repo), 0o700); err != nil {
				t.Fatal(err)
			}
			run(t, Init(repo, cluster.SHA1, "refs/heads/-odd"), "")
			if got := run(t, ReadHead(repo), ""); got != "refs/heads/-odd" {
				t.Errorf("HEAD is %q", got)
			}
			run(t, SetHead(repo, "refs/heads/main"), "")
			const empty = "4b825dc642cb6eb9a060e54bf8d69288fbee4904" // the tree Git always knows
			if got := run(t, CheckObjects(repo), empty+"\n"); got != empty+" tree" {
				t.Errorf("cat-file says %q", got)
			}
			write := Command{Args: []string{"git", "hash-object", "-w", "--stdin"}, Env: ReadHead(repo).Env}
			blob := run(t, write, "contents")
			run(t, RevList(repo, ""), blob+"\n")
			// From a quarantine the repository's own objects must be seen.
			aside := filepath.Join(repo, "objects", "incoming-1")
			if err := os.MkdirAll(filepath.Join(aside, "pack"), 0o700); err != nil {
				t.Fatal(err)
			}
			run(t, RevList(repo, aside), blob+"\n")
			run(t, ListRefs(repo), "")
			run(t, Fsck(repo), "")
		})
	}
}
