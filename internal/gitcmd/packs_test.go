package gitcmd

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestCanShare holds that a pack is shared only where its arguments and its question say
// all there is to know. A filter may name its blob by a ref, which moves.
func TestCanShare(t *testing.T) {
	usual := []string{"git", "pack-objects", "--revs", "--thin", "--stdout", "--progress", "--delta-base-offset", "--include-tag"}
	with := func(arg string) []string { return append(slices.Clone(usual), arg) }
	for name, c := range map[string]struct {
		args []string
		can  bool
	}{
		"usual":                  {usual, true},
		"shallow":                {slices.Concat([]string{"git", "--shallow-file", ""}, with("--shallow")[1:]), true},
		"another shallow file":   {slices.Concat([]string{"git", "--shallow-file", "x"}, with("--shallow")[1:]), false},
		"no blobs":               {with("--filter=blob:none"), true},
		"small blobs":            {with("--filter=blob:limit=1k"), true},
		"trees":                  {with("--filter=tree:2"), true},
		"two":                    {with("--filter=combine:blob:none+tree:2"), true},
		"a blob's name by a ref": {with("--filter=sparse:oid=main:spec"), false},
		"the same among others":  {with("--filter=combine:tree:2+sparse:oid=main:spec"), false},
		"the same, encoded":      {with("--filter=combine:tree:2+%73parse:oid=main:spec"), false},
		"another host's packs":   {with("--uri-protocol=https"), false},
		"a file":                 {with("/tmp/x"), false},
		"another command":        {[]string{"git", "gc", "--revs", "--stdout"}, false},
		"nothing":                {nil, false},
	} {
		if got := CanShare(c.args); got != c.can {
			t.Errorf("%s: %v, want %v", name, got, c.can)
		}
		if _, err := SharedPack("/r", c.args); (err == nil) != c.can {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestPacksHook has Git read the setting as it was meant, whatever the folder is called.
func TestPacksHook(t *testing.T) {
	if c := (Packs{}).Shared(UploadPack("/r", "")); slices.ContainsFunc(c.Env, func(e string) bool { return strings.Contains(e, "packObjectsHook") }) {
		t.Error("a fetch by itself asks for its packs")
	}
	for _, dir := range []string{"/plain/hooks", "/with space/it's $HOME;x"} {
		hook := filepath.Join(dir, "pack-objects")
		plain := UploadPack("/r", "version=2")
		c := Packs{Hook: hook, Socket: "/s", Token: "t"}.Shared(plain)
		if !slices.Contains(c.Env, EnvSocket+"=/s") || !slices.Contains(c.Env, EnvPush+"=t") || slices.Equal(c.Env, plain.Env) {
			t.Errorf("%q: %q", dir, c.Env)
		}
		git := exec.Command("git", "config", "--get", "uploadpack.packObjectsHook")
		git.Dir = t.TempDir()
		for _, e := range c.Env {
			if !strings.HasPrefix(e, "GIT_DIR=") {
				git.Env = append(git.Env, e)
			}
		}
		value, err := git.Output()
		if err != nil {
			t.Fatal(err)
		}
		word, err := exec.Command("sh", "-c", "printf %s "+strings.TrimSpace(string(value))).Output()
		if err != nil || string(word) != hook {
			t.Errorf("%q: Git's shell would run %q, %v", hook, word, err)
		}
	}
}
