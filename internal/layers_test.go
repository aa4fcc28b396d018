// Package internal_test holds the module to its own layout: which package may
// know which, and which library is one package's business alone.
package internal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "gitcluster"

// layers lists every package of the module, the highest layer first. A package
// may import packages of lower layers only, so there is one direction in which
// to read the code, and a part can be tested without what stands on it.
var layers = []struct {
	name     string
	packages []string
}{
	{"programs: arguments and exit codes", []string{
		"cmd/git-cluster", "cmd/git-cluster-hook", "cmd/git-credential-device", "cmd/git-remote-cluster",
	}},
	{"a person's machine: setting it up, finding out what is wrong", []string{
		"internal/doctor", "internal/setup",
	}},
	{"compositions: what a program is made of", []string{
		"internal/client", "internal/demo", "internal/node",
	}},
	{"fronts: what a client talks to", []string{
		"internal/httpserver", "internal/shell", "internal/sshserver", "internal/web",
	}},
	{"administration, and the Conduit API: requests as data", []string{"internal/admin", "internal/conduit"}},
	{"service: one authorized request on one repository; mirrors of other hosts' repositories; backups", []string{"internal/backup", "internal/observe", "internal/service"}},
	{"engine: read, commit, catch up", []string{"internal/engine"}},
	{"who asks over HTTP", []string{"internal/login"}},
	{"peer: node to node", []string{"internal/peer"}},
	{"stores and wires: the journal, a repository on disk, who may do what, the node's own protocols, a choice of replica, a question to a person", []string{
		"internal/access", "internal/browse", "internal/credential", "internal/journal", "internal/localsocket", "internal/packcache", "internal/procreceive", "internal/prompt", "internal/receivepack", "internal/refcache", "internal/replica", "internal/repository", "internal/uploadpack",
	}},
	{"means: running Git, reaching a server, reading addresses and files", []string{
		"internal/address", "internal/config", "internal/gitexec", "internal/metrics", "internal/nodecache", "internal/queue", "internal/remotehelper", "internal/sideband", "internal/sshclient", "internal/sshconfig",
	}},
	{"descriptions: commands and sessions as data", []string{
		"internal/gitcmd", "internal/session",
	}},
	{"vocabulary", []string{
		"internal/cluster", "internal/durable", "internal/freeport", "internal/pktline", "internal/share", "internal/spool", "internal/version",
	}},
}

// testOnly lists the packages that exist for tests and measurements. They may import
// anything; only tests, and each other, may import them.
var testOnly = []string{
	"bench",
	"e2e",
	"e2e/faults",
	"e2e/faults/disk",
	"e2e/faults/failpoint",
	"internal",
	"internal/clustertest",
	"internal/sshclient/sshtest",
}

// soleImporters says which package alone may import what begins with a path,
// outside of tests. What only one package knows can be exchanged in one place.
var soleImporters = []struct{ library, owner, why string }{
	{"go.etcd.io/", "internal/journal", "the journal is the only one that speaks to etcd"},
	{"google.golang.org/grpc", "internal/journal", "the journal is the only one that speaks to etcd"},
	{"os/exec", "internal/gitexec", "child processes are started, ended and reaped in one place"},
	{"github.com/BurntSushi/toml", "internal/config", "files are read and checked in one place"},
	{"github.com/go-git/", "internal/browse", "what is read in the node's own process, and what by Git, is decided in one place"},
	{"github.com/prometheus/", "internal/metrics", "what is counted, and under which labels, is decided in one place"},
	{"github.com/spf13/cobra", "cmd/git-cluster", "the command line is the program's, and the helper does without"},
}

// helperModules are all that the helper may be made of. Git starts it for
// every fetch, so its size and its initialization are paid each time.
var helperModules = []string{
	module,
	"github.com/BurntSushi/toml",
	"github.com/skeema/knownhosts",
	"golang.org/x/crypto",
	"golang.org/x/sys",
}

// helperWithout are packages of the standard library that the helper has no
// use for and that would make its start slower.
var helperWithout = []string{"crypto/tls", "html/template", "log/slog", "net/http", "regexp", "text/template"}

// A goPackage is what `go list` says of a package.
type goPackage struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
	Standard     bool
	Module       *struct{ Path string }
}

func goList(t *testing.T, env []string, args ...string) (all []goPackage) {
	t.Helper()
	noticeChanges(t)
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-json=ImportPath,Imports,TestImports,XTestImports,Standard,Module"}, args...)...)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("go list's answer: %v", err)
		}
		all = append(all, p)
	}
}

// noticeChanges looks at every source file. `go test` repeats an old result as
// long as no file has changed that the test itself has seen; what `go list`
// sees, it cannot know.
func noticeChanges(t *testing.T) {
	t.Helper()
	for _, dir := range []string{"../cmd", "../internal", "../go.mod"} {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err == nil {
				_, err = os.Stat(path)
			}
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

// short is a package's path as the tables have it.
func short(importPath string) string {
	return strings.TrimPrefix(importPath, module+"/")
}

func isOurs(importPath string) bool {
	return importPath == module || strings.HasPrefix(importPath, module+"/")
}

func TestImportsPointDownwards(t *testing.T) {
	layerOf := map[string]int{}
	for i, layer := range layers {
		for _, p := range layer.packages {
			if _, twice := layerOf[p]; twice {
				t.Errorf("%s is listed twice", p)
			}
			layerOf[p] = i
		}
	}
	seen := map[string]bool{}
	for _, p := range goList(t, nil, "./...") {
		from := short(p.ImportPath)
		seen[from] = true
		if slices.Contains(testOnly, from) {
			continue
		}
		layer, ok := layerOf[from]
		if !ok {
			t.Errorf("%s has no layer: add it to the table in internal/layers_test.go", from)
			continue
		}
		for _, path := range p.Imports {
			to := short(path)
			if !isOurs(path) {
				continue
			}
			if slices.Contains(testOnly, to) {
				t.Errorf("%s imports %s, which is for tests only", from, to)
				continue
			}
			if below, ok := layerOf[to]; ok && below <= layer {
				t.Errorf("%s imports %s: %s", from, to, broken(layer, below))
			}
		}
	}
	for p := range layerOf {
		if !seen[p] {
			t.Errorf("%s has a layer but does not exist", p)
		}
	}
}

// broken words the rule that an import breaks.
func broken(from, to int) string {
	if from == to {
		return fmt.Sprintf("packages of one layer do not know each other (%q)", layers[from].name)
	}
	return fmt.Sprintf("imports point downwards only, and %q is above %q", layers[to].name, layers[from].name)
}

func TestSoleImporters(t *testing.T) {
	for _, p := range goList(t, nil, "./...") {
		from := short(p.ImportPath)
		if slices.Contains(testOnly, from) {
			continue
		}
		for _, rule := range soleImporters {
			if from == rule.owner {
				continue
			}
			for _, path := range p.Imports {
				if strings.HasPrefix(path, rule.library) {
					t.Errorf("%s imports %s, which only %s may: %s", from, path, rule.owner, rule.why)
				}
			}
		}
	}
}

func TestHelperStaysLight(t *testing.T) {
	light(t, "git-remote-cluster", helperWithout, helperModules)
}

// Each push starts it twice.
func TestHookStaysLight(t *testing.T) {
	light(t, "git-cluster-hook", []string{"net/http", "crypto/tls", "os/exec"}, []string{"gitcluster", "golang.org/x/sys"})
}

func light(t *testing.T, program string, without, modules []string) {
	t.Helper()
	for _, system := range []string{"linux", "darwin", "windows"} {
		foreign := map[string]string{}
		for _, p := range goList(t, []string{"GOOS=" + system, "CGO_ENABLED=0"}, "-deps", "./cmd/"+program) {
			switch {
			case p.Standard && slices.Contains(without, p.ImportPath):
				t.Errorf("on %s, %s depends on %s", system, program, p.ImportPath)
			case !p.Standard && (p.Module == nil || !slices.Contains(modules, p.Module.Path)):
				path := "no module"
				if p.Module != nil {
					path = p.Module.Path
				}
				foreign[path] = p.ImportPath
			}
		}
		for path, example := range foreign {
			t.Errorf("on %s, %s depends on %s of %s, which is not in the list of what it may be made of", system, program, example, path)
		}
	}
}

// What Git starts for each fetch or push must not look up first how many processors its
// control group may use.
func TestShortProgramsSkipControlGroups(t *testing.T) {
	noticeChanges(t)
	for _, program := range []string{"git-remote-cluster", "git-credential-device", "git-cluster-hook"} {
		cmd := exec.CommandContext(t.Context(), "go", "list", "-f", "{{.DefaultGODEBUG}}", "../cmd/"+program)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		settings := strings.Split(strings.TrimSpace(string(out)), ",")
		for _, want := range []string{"containermaxprocs=0", "updatemaxprocs=0"} {
			if !slices.Contains(settings, want) {
				t.Errorf("%s is built without %s: %q", program, want, settings)
			}
		}
	}
}

// Whoever starts one of these programs waits for what its packages make beforehand. What
// is needed only now and then, such as a table, is made when it is needed.
func TestShortProgramsMakeLittleBeforehand(t *testing.T) {
	noticeChanges(t)
	const most = 4 // allocations, of this module's packages together
	dir := t.TempDir()
	for _, program := range []string{"git-remote-cluster", "git-cluster-hook"} {
		binary := filepath.Join(dir, program)
		build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../cmd/"+program)
		build.Env = append(os.Environ(), "CGO_ENABLED=0") // as it is installed
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		cmd := exec.CommandContext(t.Context(), binary, "--version")
		cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		traced, made := 0, 0
		var ours []string
		for line := range strings.Lines(stderr.String()) {
			// init PACKAGE @TIME ms, TIME ms clock, N bytes, N allocs
			fields := strings.Fields(line)
			if len(fields) != 11 || fields[0] != "init" {
				continue
			}
			traced++
			if n, err := strconv.Atoi(fields[9]); err != nil {
				t.Fatalf("%q: %v", line, err)
			} else if isOurs(fields[1]) && n > 0 {
				made += n
				ours = append(ours, line)
			}
		}
		if traced == 0 {
			t.Errorf("%s says nothing of its packages: %q", program, stderr.String())
		}
		if made > most {
			t.Errorf("the module's packages make %d allocations before %s begins, at most %d are wanted:\n%s", made, program, most, strings.Join(ours, ""))
		}
	}
}
