package engine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gitcluster/internal/cluster"
)

// standIn has another program run in place of git: lines of a shell that come before
// git itself is run with the same arguments.
func standIn(t *testing.T, lines string) {
	t.Helper()
	git, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "git"), fmt.Appendf(nil, "#!/bin/sh\n%s\nexec %s \"$@\"\n", lines, git), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// A look at the objects that came to no end has found nothing out.
func TestDeepLookThatFails(t *testing.T) {
	for name, lines := range map[string]string{
		"killed":             `[ "$1" = fsck ] && kill -9 $$`,
		"a library is gone":  `[ "$1" = fsck ] && exit 127`,
		"the second is gone": `[ "$1" = fsck ] && case "$(env)" in *core.multiPackIndex*) kill -9 $$;; *) exit 2;; esac`,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "a")
			a := w.nodes["a"]
			tips := a.history(2)
			standIn(t, lines)
			if v := a.Verify(t.Context(), w.repo.ID, true); v.OK() {
				t.Error("nobody is told")
			}
			if _, refs := a.sync(); refs["refs/heads/main"] != string(tips[1]) {
				t.Error(refs)
			}
		})
	}
}

// Git finds fault with objects that are all there. Nobody has to repair that.
func TestDeepLookThatErrs(t *testing.T) {
	w := newWorld(t, "a")
	a := w.nodes["a"]
	a.history(2)
	standIn(t, `[ "$1" = fsck ] && exit 1`)
	if v := a.Verify(t.Context(), w.repo.ID, true); v.OK() {
		t.Error("nobody is told")
	}
	a.sync()
}

// flip changes a byte of the only file of a pattern; a negative offset counts from its end.
func flip(t *testing.T, pattern string, offset int) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if offset < 0 {
		offset += len(data)
	}
	data[offset] ^= 0xff
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files[0], data, 0o444); err != nil {
		t.Fatal(err)
	}
}

// What Git has computed from the objects is computed anew where it is broken.
func TestBrokenDerivedData(t *testing.T) {
	for name, c := range map[string]struct {
		write, file string
		offset      int
		again       bool // it is there afterwards
	}{
		"commit graph":            {"commit-graph write --reachable --split", "objects/info/commit-graphs/*.graph", -40, true},
		"commit graph of no kind": {"commit-graph write --reachable", "objects/info/commit-graph", -40, false},
		"multi-pack index":        {"multi-pack-index write", "objects/pack/multi-pack-index", -30, false},
		"no multi-pack index":     {"multi-pack-index write", "objects/pack/multi-pack-index", 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "a")
			a := w.nodes["a"]
			tips := a.history(3)
			v, _ := a.sync()
			w.git(v.Dir, strings.Fields(c.write)...)
			flip(t, filepath.Join(v.Dir, c.file), c.offset)
			if v := a.Verify(t.Context(), w.repo.ID, true); !v.OK() || v.Mended == "" {
				t.Errorf("at first: %+v", v)
			}
			if v := a.Verify(t.Context(), w.repo.ID, true); !v.OK() || v.Mended != "" {
				t.Errorf("then: %+v", v)
			}
			if files, _ := filepath.Glob(filepath.Join(v.Dir, c.file)); (len(files) > 0) != c.again {
				t.Errorf("left: %v", files)
			}
			if graphs, _ := filepath.Glob(filepath.Join(v.Dir, "objects/info/commit-graphs/*.graph")); len(graphs) == 0 {
				t.Error("no commit graph was written")
			}
			next := w.commit(tips[2])
			a.accept(set("refs/heads/main", tips[2], next))
			w.same(map[string]string{"refs/heads/main": string(next)})
		})
	}
}

// damages are what a disk does to objects. All are in one pack.
var damages = map[string]func(t *testing.T, w *world, dir string, tip cluster.OID){
	"nothing is left": func(t *testing.T, _ *world, dir string, _ cluster.OID) {
		if err := os.RemoveAll(filepath.Join(dir, "objects/pack")); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(dir, "objects/pack"), 0o700); err != nil {
			t.Fatal(err)
		}
	},
	"the index is gone": func(t *testing.T, _ *world, dir string, _ cluster.OID) {
		for _, idx := range must(filepath.Glob(filepath.Join(dir, "objects/pack/*.idx")))(t) {
			if err := os.Remove(idx); err != nil {
				t.Fatal(err)
			}
		}
	},
	"a pack's first object": func(t *testing.T, _ *world, dir string, _ cluster.OID) {
		flip(t, filepath.Join(dir, "objects/pack/*.pack"), 16)
	},
	"the index is in disorder": func(t *testing.T, _ *world, dir string, _ cluster.OID) {
		flip(t, filepath.Join(dir, "objects/pack/*.idx"), 9)
	},
	"the index names others": func(t *testing.T, _ *world, dir string, _ cluster.OID) {
		flip(t, filepath.Join(dir, "objects/pack/*.idx"), 1040)
	},
	"the pack is another": func(t *testing.T, _ *world, dir string, _ cluster.OID) {
		flip(t, filepath.Join(dir, "objects/pack/*.pack"), -5)
	},
	"a loose object is empty": func(t *testing.T, w *world, dir string, tip cluster.OID) {
		loosen(t, w, dir)
		path := filepath.Join(dir, "objects", string(tip[:2]), string(tip[2:]))
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o444); err != nil {
			t.Fatal(err)
		}
	},
	"a loose tree is gone": func(t *testing.T, w *world, dir string, tip cluster.OID) {
		loosen(t, w, dir)
		tree := w.git(dir, "rev-parse", string(tip)+"^{tree}")
		if err := os.Remove(filepath.Join(dir, "objects", tree[:2], tree[2:])); err != nil {
			t.Fatal(err)
		}
	},
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// loosen makes loose objects of a repository's packs.
func loosen(t *testing.T, w *world, dir string) {
	t.Helper()
	for _, pack := range must(filepath.Glob(filepath.Join(dir, "objects/pack/*.pack")))(t) {
		aside := filepath.Join(t.TempDir(), "pack")
		if err := os.Rename(pack, aside); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(strings.TrimSuffix(pack, "pack") + "idx"); err != nil {
			t.Fatal(err)
		}
		in := must(os.Open(aside))(t)
		defer in.Close()
		cmd := exec.Command("git", "unpack-objects", "-q")
		cmd.Dir, cmd.Stdin = dir, in
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatal(err, string(out))
		}
	}
}

// A replica that has lost objects gets them from another, with nobody's help; if none
// can be reached, as soon as one can.
func TestDamagedObjectsAreMended(t *testing.T) {
	for name, damage := range damages {
		for _, alone := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, alone %v", name, alone), func(t *testing.T) {
				w := newWorld(t, "a", "b")
				a, b := w.nodes["a"], w.nodes["b"]
				tips := a.history(3)
				v, _ := b.sync()
				if packs := must(filepath.Glob(filepath.Join(v.Dir, "objects/pack/*.pack")))(t); len(packs) > 1 {
					w.git(v.Dir, "repack", "-adq")
				}
				damage(t, w, v.Dir, tips[1])
				a.setDown(alone)
				got := b.Verify(t.Context(), w.repo.ID, true)
				if alone {
					if got.OK() {
						t.Errorf("the damage is not found: %+v", got)
					}
					if _, err := b.read(t.Context()); !errors.Is(err, cluster.ErrFenced) {
						t.Errorf("it serves: %v", err)
					}
					a.setDown(false)
					got = b.Verify(t.Context(), w.repo.ID, false)
				}
				if !got.OK() || got.Mended == "" {
					t.Errorf("not mended: %+v", got)
				}
				if got := b.Verify(t.Context(), w.repo.ID, true); !got.OK() || got.Mended != "" {
					t.Errorf("then: %+v", got)
				}
				next := w.commit(tips[2])
				b.accept(set("refs/heads/main", tips[2], next))
				w.same(map[string]string{"refs/heads/main": string(next)})
			})
		}
	}
}

// What was kept aside and is broken is not worth a fence, and is kept no longer: Git
// would take what it reaches for granted.
func TestBrokenStray(t *testing.T) {
	w := newWorld(t, "a")
	a := w.nodes["a"]
	tips := a.history(1)
	v, _ := a.sync()
	blob := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(blob, []byte("lost"), 0o600); err != nil {
		t.Fatal(err)
	}
	lost := w.git(v.Dir, "hash-object", "-w", blob)
	w.git(v.Dir, "update-ref", "refs/strays/now/tags/lost", lost)
	w.git(v.Dir, "update-ref", "refs/strays/now/heads/kept", string(tips[0]))
	if err := os.Remove(filepath.Join(v.Dir, "objects", lost[:2], lost[2:])); err != nil {
		t.Fatal(err)
	}
	if got := a.Verify(t.Context(), w.repo.ID, true); !got.OK() || got.Mended == "" {
		t.Errorf("%+v", got)
	}
	if got := a.Verify(t.Context(), w.repo.ID, true); !got.OK() || got.Mended != "" {
		t.Errorf("then: %+v", got)
	}
	if left := w.git(v.Dir, "for-each-ref", "--format=%(refname)", "refs/strays"); left != "refs/strays/now/heads/kept" {
		t.Errorf("kept: %s", left)
	}
}
