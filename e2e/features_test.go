package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"gitcluster/internal/clustertest"
)

// lfsServer keeps large files in memory, by the batch API of git-lfs with the
// basic transfer.
type lfsServer struct {
	*httptest.Server
	mu    sync.Mutex
	files map[string][]byte
}

func newLFSServer(t *testing.T) *lfsServer {
	s := &lfsServer{files: map[string][]byte{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /store/objects/batch", s.batch)
	mux.HandleFunc("PUT /file/{oid}", func(w http.ResponseWriter, r *http.Request) {
		data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		sum := sha256.Sum256(data)
		if err != nil || hex.EncodeToString(sum[:]) != r.PathValue("oid") {
			http.Error(w, "not that file", http.StatusBadRequest)
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.files[r.PathValue("oid")] = data
	})
	mux.HandleFunc("GET /file/{oid}", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		w.Write(s.files[r.PathValue("oid")])
	})
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

func (s *lfsServer) batch(w http.ResponseWriter, r *http.Request) {
	var q struct {
		Operation string
		Objects   []struct {
			OID  string
			Size int64
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var objects []map[string]any
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range q.Objects {
		answer := map[string]any{"oid": o.OID, "size": o.Size}
		if _, have := s.files[o.OID]; have == (q.Operation == "download") {
			answer["actions"] = map[string]any{q.Operation: map[string]string{"href": s.URL + "/file/" + o.OID}}
		}
		objects = append(objects, answer)
	}
	w.Header().Set("Content-Type", "application/vnd.git-lfs+json")
	json.NewEncoder(w).Encode(map[string]any{"transfer": "basic", "objects": objects})
}

// Large files go to the server that `git cluster use` was told of, whatever
// git-lfs makes of a cluster:: address.
func TestLFS(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("git-lfs"); err != nil {
		t.Skip("git-lfs is not installed")
	}
	c := sharedCluster(t)
	store := newLFSServer(t)
	home := t.TempDir()
	conf, err := os.ReadFile(filepath.Join(filepath.Dir(c.Admin.PublicKey()), "client.toml"))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(home, "client.toml")
	if err := os.WriteFile(file, conf, 0o600); err != nil {
		t.Fatal(err)
	}
	u := c.Admin.With("HOME="+home, "GIT_CLUSTER_CONFIG="+file)
	u.Git(t, home, "lfs", "install", "--skip-repo")
	u.Git(t, home, "cluster", "use", c.Nodes[0].SSH, "--lfs", store.URL+"/store")

	a := filepath.Join(home, "a")
	u.Git(t, home, "init", "-q", a)
	u.Git(t, a, "lfs", "track", "*.bin")
	u.Git(t, a, "add", ".gitattributes")
	u.Commit(t, a, "large.bin", strings.Repeat("large ", 1000))
	u.Git(t, a, "remote", "add", "origin", "cluster::lfs/a")
	u.Via("node2").Git(t, a, "push", "-q", "origin", "main")
	if len(store.files) != 1 {
		t.Fatalf("the LFS server has %d files after the push", len(store.files))
	}
	if blob := u.Git(t, a, "cat-file", "-p", "HEAD:large.bin"); !strings.HasPrefix(blob, "version https://git-lfs") {
		t.Errorf("the repository itself has %q", blob)
	}
	u.Via("node3").Git(t, home, "clone", "-q", "cluster::lfs/a", "b")
	got, err := os.ReadFile(filepath.Join(home, "b", "large.bin"))
	if err != nil || len(got) != 6000 {
		t.Errorf("the clone has %d bytes, %v", len(got), err)
	}

	// Without a server it is git-lfs that says so.
	u.Git(t, home, "config", "--global", "--unset-all", "include.path")
	if said := u.Run(home, "git", "clone", "cluster::lfs/a", "c").Refused(t); !strings.Contains(said, "missing protocol") {
		t.Errorf("without a server: %s", said)
	}
}

// The shells complete what the program knows, for both spellings of its name.
func TestCompletion(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	c.Admin.Git(t, "", "cluster", "repo", "create", "completion/alpha")
	c.Admin.Git(t, "", "cluster", "repo", "create", "completion/beta")
	for _, shell := range []struct {
		name   string
		script string // completes "$1" and prints the possible words, one a line
	}{
		{"bash", bashCompletes},
		{"zsh", zshCompletes},
		{"fish", fishCompletes},
	} {
		t.Run(shell.name, func(t *testing.T) {
			if _, err := exec.LookPath(shell.name); err != nil {
				t.Skipf("%s is not installed", shell.name)
			}
			dir := t.TempDir()
			u := c.Admin.With("HOME="+dir, "XDG_CONFIG_HOME="+dir, "TERM=dumb", "TMPDIR="+dir)
			script := filepath.Join(dir, "script")
			if err := os.WriteFile(script, []byte(shell.script), 0o600); err != nil {
				t.Fatal(err)
			}
			// The program completes, the shells only ask it: what differs between them
			// are the ways to ask.
			lines := completions
			if shell.name != "bash" {
				lines = lines[:4]
			}
			for _, line := range lines {
				// The program waits a second for the cluster and then completes nothing: on
				// a machine that is busy that may be too short.
				var r clustertest.Result
				for range 10 {
					r = u.Run(dir, shell.name, script, line.typed, dir)
					if err := r.Err(); err != nil {
						t.Fatal(err)
					}
					if got := strings.TrimSpace(r.Stdout); !strings.HasSuffix(line.typed, got) { // zsh shows what was typed
						break
					}
				}
				if got := strings.TrimSpace(r.Stdout); got != line.want {
					t.Errorf("%q completes to %q, want %q\n%s", line.typed, got, line.want, r.Stderr)
				}
			}
		})
	}
}

var completions = []struct{ typed, want string }{
	{"git-cluster repo sh", "show"},
	{"git cluster --cluster te", "test"},
	{"git -C . cluster repo show completion/b", "completion/beta"},
	{"git cluster resolve cluster::completion/al", "cluster::completion/alpha"},
	{"git cluster repo sh", "show"},
	{"git cluster repo delete completion/al", "completion/alpha"},
	{"git cluster log --num", "--number"},
	{"git cluster ssh node2", "node2"},
	{"git cluster lock completion/b", "completion/beta"},
	{"git cluster maintain --node node3", "node3"},
	{"git cluster repo set x --when-degraded w", "warn"},
	{"git cluster grant somebody wr", "write"},
}

const bashCompletes = `
git=/usr/share/bash-completion/completions/git
if [[ -r $git ]]; then . "$git"; elif [[ $1 == "git "* ]]; then echo "(skipped)"; exit; fi
. <(git-cluster completion bash)
# What readline does with a line: it divides it at these.
words=$1
for at in : =; do words=${words//$at/ $at }; done
words=${words//:  :/::}
COMP_LINE=$1 COMP_POINT=${#1} COMPREPLY=()
COMP_WORDS=($words)
[[ $1 != *' ' ]] || COMP_WORDS+=('')
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
if [[ $1 == "git "* ]]; then __git_wrap__git_main; else __git_cluster_main; fi 2>/dev/null
for word in "${COMPREPLY[@]}"; do
	# Readline puts it in place of what follows the last colon.
	[[ $1 != *:* ]] || word=cluster::$word
	echo "$word"
done
`

const zshCompletes = `
zmodload zsh/zpty
git-cluster completion zsh >$2/_git-cluster
zpty -b shell zsh -f -i
zpty -w shell "fpath=($2 \$fpath); autoload -U compinit; compinit -u -D; dump() { print -r -- \"\$BUFFER\" >$2/line.new; mv $2/line.new $2/line }; zle -N dump; bindkey '^X' dump; : >$2/ready"
await() {
	for i in {1..1200}; do
		[[ -e $1 ]] && return
		zpty -r -t shell said
		sleep 0.05
	done
	print -u2 "waited for $1; last seen: $said"
	exit 1
}
await $2/ready
rm -f $2/line
zpty -w -n shell "$1"$'\t\x18'
await $2/line
line=$(<$2/line)
print -r -- ${${(z)line}[-1]}
zpty -d shell
`

const fishCompletes = `
mkdir -p $argv[2]/fish/conf.d
git-cluster completion fish >$argv[2]/fish/conf.d/git-cluster.fish
fish -c "complete -C '$argv[1]'" | string replace -r '\t.*' ''
or true
`
