package client

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

// A quietWorld has the files that Git reads, of which that of the machine is our own.
type quietWorld struct {
	dir string
	env map[string]string
}

func newQuietWorld(t *testing.T) *quietWorld {
	t.Helper()
	dir := t.TempDir()
	w := &quietWorld{dir, map[string]string{
		"HOME": filepath.Join(dir, "home"), "GIT_DIR": filepath.Join(dir, "repo"), "GIT_CONFIG_SYSTEM": filepath.Join(dir, "system"),
		"PATH": "/usr/lib/git-core:" + os.Getenv("PATH"),
	}}
	for _, below := range []string{"home/.config/git", "home/in", "xdg/git", "repo/objects", "repo/refs", "common/objects", "common/refs"} {
		if err := os.MkdirAll(filepath.Join(dir, below), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w.write(t, "repo/HEAD", "ref: refs/heads/main\n")
	return w
}

func (w *quietWorld) write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, path), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (w *quietWorld) getenv(name string) string { return w.env[name] }

func (w *quietWorld) quiet() bool {
	q := &quiet{getenv: w.getenv, system: filepath.Join(w.dir, "none")}
	return q.variables() && q.everyFile()
}

// asked is what Git says of the settings.
func (w *quietWorld) asked(t *testing.T) string {
	t.Helper()
	env := []string{}
	for name, value := range w.env {
		env = append(env, name+"="+value)
	}
	out, _ := new(gitexec.Runner).Output(t.Context(), gitcmd.Command{
		Args: []string{"git", "config", "--null", "--get-regexp", settingsPattern}, Env: env, Dir: w.dir}, nil)
	return string(out)
}

// Where nothing is set Git need not be asked.
func TestNothingSet(t *testing.T) {
	w := newQuietWorld(t)
	own := "[user]\n\tname = A U Thor\n[include]\n\tpath = ~/in/lfs.config\n[protocol \"cluster\"]\n\tallow = always\n"
	repo := "[core]\n\trepositoryformatversion = 0\n\tbare = false\n[remote \"origin\"]\n\turl = cluster::team/x\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n"
	w.write(t, "home/.gitconfig", own)
	w.write(t, "home/in/lfs.config", "[lfs \"cluster::\"]\n\turl = https://x/\n")
	w.write(t, "repo/config", repo)
	w.env["GIT_CONFIG_COUNT"], w.env["GIT_CONFIG_KEY_0"], w.env["GIT_CONFIG_VALUE_0"] = "1", "safe.directory", "*"
	w.env["GIT_CONFIG_PARAMETERS"] = "'advice.detachedhead'='false'"
	if !w.quiet() || w.asked(t) != "" {
		t.Errorf("quiet: %t; Git says %q", w.quiet(), w.asked(t))
	}
	w.env["GIT_CONFIG_GLOBAL"] = os.DevNull
	if !w.quiet() || w.asked(t) != "" {
		t.Errorf("quiet: %t; Git says %q", w.quiet(), w.asked(t))
	}
	delete(w.env, "GIT_CONFIG_GLOBAL")
	for what, change := range map[string]func(){
		"one setting":       func() { w.write(t, "home/.gitconfig", own+"[core]\n\tsshCommand = x\n") },
		"in the repository": func() { w.write(t, "repo/config", repo+"[SSH]\n\tVariant = plink\n") },
		"in what is included": func() {
			w.write(t, "home/in/lfs.config", "[protocol]\nversion=0\n")
		},
		"in XDG's": func() { w.write(t, "home/.config/git/config", "[cluster] staleOk") },
		"in another": func() {
			w.env["XDG_CONFIG_HOME"] = filepath.Join(w.dir, "xdg")
			w.write(t, "xdg/git/config", "[core]askpass=x")
		},
		"by -c":         func() { w.env["GIT_CONFIG_PARAMETERS"] = "'protocol.version'='0'" },
		"by a number":   func() { w.env["GIT_CONFIG_KEY_0"] = "CORE.sshCommand" },
		"of a worktree": func() { w.write(t, "repo/commondir", "../common"); w.write(t, "common/config", "[core]\naskpass=x\n") },
		"of one worktree": func() {
			w.write(t, "repo/config", repo+"[extensions]\nworktreeConfig=true\n")
			w.write(t, "repo/config.worktree", "[core]\naskpass=x\n")
		},
		"no size": func() { w.write(t, "home/.gitconfig", strings.Repeat("#\n", maxQuietBytes)+"[core]\naskpass=x\n") },
	} {
		t.Run(what, func(t *testing.T) {
			before := w
			defer func() { w = before }()
			w = newQuietWorld(t)
			for name, value := range before.env {
				w.env[name] = strings.ReplaceAll(value, before.dir, w.dir)
			}
			w.write(t, "home/.gitconfig", own)
			w.write(t, "home/in/lfs.config", "")
			w.write(t, "repo/config", repo)
			change()
			if w.quiet() || w.asked(t) == "" {
				t.Errorf("quiet: %t; Git says %q", w.quiet(), w.asked(t))
			}
		})
	}
}

// Only Git knows where another Git than the system's has its configuration.
func TestNothingSetForOtherGits(t *testing.T) {
	for path, want := range map[string]string{
		"/usr/lib/git-core:/usr/bin": "/etc/gitconfig", "/usr/libexec/git-core": "/etc/gitconfig", "/usr/local/libexec/git-core:/usr/lib/git-core": "",
		"/usr/bin": "", "": "",
	} {
		if runtime.GOOS != "linux" {
			want = ""
		}
		env := map[string]string{"PATH": path, "HOME": "/"}
		if got := systemConfig(func(name string) string { return env[name] }); got != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
		if env["GIT_EXEC_PATH"], _, _ = strings.Cut(path, ":"); systemConfig(func(name string) string { return env[name] }) != want {
			t.Errorf("%q: not with the same GIT_EXEC_PATH", path)
		}
		env["GIT_EXEC_PATH"] = "/elsewhere"
		if got := systemConfig(func(name string) string { return env[name] }); got != "" {
			t.Errorf("%q: %q in spite of GIT_EXEC_PATH", path, got)
		}
	}
}

// Whatever is written, in however odd a way: where Git finds a setting, it is asked.
func TestNothingSetIsSureOfIt(t *testing.T) {
	// Of what is ours only few, so that it is mostly the rest that decides.
	headers := []string{"[user]", "[core]", "[user]", "[protocol \"y\"]", "[init]", "[protocol]", "[PROTOCOL]", "[protocol \"x\"]", "[protocol.x]", "[cluster]", "[extensions]",
		"[include]", "[include]", "[include]", "[Include]", "[includeIf \"gitdir:/\"]", "[include ]", "[include] ", " [include]", "[remote \"a\\\"b\"]", "[remote \"[include]\"]"}
	lines := []string{"SSHCOMMAND=y", "version = 1", "version", "bare", "x = y", "path = DIR/one", "PATH=DIR/two",
		"path = ~/three", "path = three", "path = \"DIR/one\"", "path = DIR/one # there", "path = DIR/o\\\nne", "name = [include]", "name = \"a\\n\"", "# [include]", "; path = x"}
	odd := []string{"", "", "", "\r", " ", "\t", "\\", "\xef\xbb\xbf", "\"", "\x00", "path", "path=DIR/one\\", "ask\\\npass = x"}
	asked, quiet := 0, 0
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 0))
		w := newQuietWorld(t)
		for _, file := range []string{"one", "two", "home/three"} {
			w.write(t, file, "[core]\naskPass = x\n")
		}
		for _, file := range []string{"home/.gitconfig", "repo/config", "home/.config/git/config", "system"} {
			if r.IntN(2) > 0 {
				continue
			}
			var text strings.Builder
			for range 1 + r.IntN(3) {
				// Mostly in order, since Git takes nothing from a file that has an error.
				for i, of := range [][]string{headers, lines, lines, odd} {
					if i > 1 && r.IntN(i*i) > 0 {
						continue
					}
					piece := strings.ReplaceAll(of[r.IntN(len(of))], "DIR", w.dir)
					text.WriteString(piece)
					if r.IntN(12) > 0 {
						text.WriteString("\n")
					}
				}
			}
			w.write(t, file, text.String())
		}
		is := w.quiet()
		if said := w.asked(t); said != "" {
			asked++
			if is {
				t.Errorf("seed %d: Git says %q", seed, said)
			}
		}
		if is {
			quiet++
		}
	}
	if asked < 40 || quiet < 40 {
		t.Errorf("Git had something to say %d times, and %d were quiet", asked, quiet)
	}
}
