package repository

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

// save writes files of the scratch repository, and returns a commit of all it has.
func (w *world) save(files map[string]string, parents ...cluster.OID) cluster.OID {
	w.t.Helper()
	for name, text := range files {
		path := filepath.Join(w.work, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	w.git(w.work, "add", "-A", ".")
	args := []string{"commit-tree", "-m", "saved", w.git(w.work, "write-tree")}
	for _, p := range parents {
		args = append(args, "-p", string(p))
	}
	return cluster.OID(w.git(w.work, args...))
}

// project is 120 files in 40 folders.
func project() map[string]string {
	files := map[string]string{}
	for i := range 120 {
		files[fmt.Sprintf("part%d/sub%d/file%d", i%8, i%5, i)] = fmt.Sprintf("the file %d\n", i)
	}
	return files
}

// another returns an empty repository that is made without Git, since many are needed.
func (w *world) another() *Repository {
	w.t.Helper()
	r := &Repository{ID: testID, Dir: filepath.Join(w.t.TempDir(), "x.git"), run: w.run, store: w.store}
	for _, dir := range []string{"refs", "objects/pack", "objects/info"} {
		if err := os.MkdirAll(filepath.Join(r.Dir, dir), 0o700); err != nil {
			w.t.Fatal(err)
		}
	}
	for _, name := range []string{"HEAD", "config"} {
		data, err := os.ReadFile(filepath.Join(w.Dir, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(r.Dir, name), data, 0o600)
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
	return r
}

// quarantine has Git store a pack where it is looked through.
func (r *Repository) quarantine(t testing.TB, pack []byte) (dir string, err error) {
	t.Helper()
	if dir, err = os.MkdirTemp(filepath.Join(r.Dir, "objects"), "incoming-"); err != nil {
		t.Fatal(err)
	}
	return dir, r.run.Run(context.Background(), gitcmd.IndexPack(r.Dir, dir), gitexec.IO{Stdin: bytes.NewReader(pack)})
}

// revList is what Git says.
func (r *Repository) revList(t testing.TB, wants, haves []cluster.OID, quarantine string) bool {
	t.Helper()
	err := r.run.Run(context.Background(), gitcmd.RevList(r.Dir, quarantine), gitexec.IO{Stdin: revisions(wants, haves)})
	if exit, ok := err.(*gitexec.ExitError); err != nil && (!ok || exit.Status <= 0) {
		t.Fatal(err)
	}
	return err == nil
}

// What this process says yes to, Git says yes to: of histories of all sorts, some of
// whose objects are in the pack that came, some in the repository, and some nowhere.
func TestProvenIsWhatGitSays(t *testing.T) {
	histories := 30
	worlds := map[cluster.ObjectFormat]*world{cluster.SHA1: newWorld(t), cluster.SHA256: newWorldOf(t, cluster.SHA256)}
	var count struct{ cases, yes, no, silent, deltas int }
	for seed := range uint64(histories) {
		format := cluster.SHA1
		if seed%4 == 3 {
			format = cluster.SHA256
		}
		t.Run(fmt.Sprintf("%d %s", seed, format), func(t *testing.T) {
			h := newHistory(seed, format, 14)
			worlds[format].compareWithGit(t, h, func(yes, whole bool, deltas int) {
				count.cases++
				count.deltas += deltas
				switch {
				case yes:
					count.yes++
				case whole:
					count.silent++
				default:
					count.no++
				}
			})
		})
	}
	t.Logf("%+v", count)
	if least := histories / 5; count.yes < least || count.no < least || count.deltas < least {
		t.Errorf("this compares little: %+v", count)
	}
}

func (w *world) compareWithGit(t *testing.T, h *history, count func(yes, whole bool, deltas int)) {
	rng := h.rng
	scratch := w.another()
	h.writeLoose(t, filepath.Join(scratch.Dir, "objects"), h.ids)
	everywhere := func(objectID) bool { return true }
	sound := slices.DeleteFunc(slices.Clone(h.tips), func(id objectID) bool {
		return !h.reach(map[objectID]bool{}, everywhere, id)
	})
	var wants, haves []objectID
	for range 1 + rng.IntN(2) {
		wants = append(wants, h.tips[len(h.tips)-1-rng.IntN(min(4, len(h.tips)))])
	}
	for _, l := range h.objects[wants[0]].links {
		if slices.Contains(sound, l.id) && rng.IntN(8) > 0 {
			haves = append(haves, l.id)
		}
	}
	for range rng.IntN(3) {
		if len(sound) > 0 {
			haves = append(haves, sound[rng.IntN(len(sound))])
		}
	}
	had, wanted := map[objectID]bool{}, map[objectID]bool{}
	h.reach(had, everywhere, haves...)
	h.reach(wanted, everywhere, wants...)
	// Git makes the pack: a thin one, or one that lacks something.
	list, args := "", []string{"pack-objects", "--stdout", "--delta-base-offset", "-q"}
	if rng.IntN(2) == 0 && !slices.ContainsFunc(wants, func(id objectID) bool { return !slices.Contains(sound, id) }) {
		args = append(args, "--thin", "--revs")
		for _, oid := range hexIDs(wants) {
			list += string(oid) + "\n"
		}
		for _, oid := range hexIDs(haves) {
			list += "^" + string(oid) + "\n"
		}
	} else {
		lose := 2 + rng.IntN(20)
		for _, id := range h.ids {
			if wanted[id] && !had[id] && rng.IntN(lose) > 0 {
				list += fmt.Sprintf("%x \n", string(id))
			}
		}
	}
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Stdin = scratch.Dir, strings.NewReader(list)
	pack, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	r := w.another()
	objects := filepath.Join(r.Dir, "objects")
	var stored []objectID
	for _, id := range h.ids {
		if had[id] || rng.IntN(4) == 0 {
			stored = append(stored, id)
		}
	}
	if rng.IntN(3) == 0 { // in packs
		for part := range slices.Chunk(stored, len(stored)/2+1) {
			var list strings.Builder
			for _, id := range part {
				fmt.Fprintf(&list, "%x x\n", string(id))
			}
			if _, err := w.tryGit(scratch.Dir, list.String(), "pack-objects", "-q", filepath.Join(objects, "pack", "pack")); err != nil {
				t.Fatal(err)
			}
		}
		stored = nil
	} else {
		h.writeLoose(t, objects, stored)
	}
	quarantine, err := r.quarantine(t, pack)
	if err != nil {
		t.Fatalf("store the pack: %v", err)
	}
	// First as it is, and then fewer haves are known, and less of the rest is there.
	for range 3 {
		here := func(id objectID) bool {
			o := cluster.OID(fmt.Sprintf("%x", string(id)))
			_, err := os.Stat(filepath.Join(objects, string(o[:2]), string(o[2:])))
			return err == nil || r.inAnyPack(t, id, quarantine)
		}
		whole := h.reach(map[objectID]bool{}, here, wants...)
		yes := r.proven(hexIDs(wants), hexIDs(haves), quarantine)
		git := r.revList(t, hexIDs(wants), hexIDs(haves), quarantine)
		if yes && (!whole || !git) {
			t.Fatalf("proven, and git rev-list says %v; in truth it is %v", git, whole)
		}
		if git && !whole {
			t.Log("git rev-list says yes to a link to an object of another kind")
		}
		count(yes, whole, r.deltas(t, quarantine))
		if len(haves) > 0 {
			haves = slices.Delete(haves, 0, rng.IntN(2))
		}
		kept := map[objectID]bool{}
		h.reach(kept, everywhere, haves...)
		for _, id := range stored {
			if !kept[id] && rng.IntN(3) == 0 {
				o := fmt.Sprintf("%x", string(id))
				if err := os.Remove(filepath.Join(objects, o[:2], o[2:])); err != nil && !os.IsNotExist(err) {
					t.Fatal(err)
				}
			}
		}
	}
}

// inAnyPack reports whether an object is in a pack of the repository or the quarantine.
func (r *Repository) inAnyPack(t *testing.T, id objectID, quarantine string) bool {
	t.Helper()
	for _, dir := range []string{r.packDir(), filepath.Join(quarantine, "pack")} {
		paths, _ := filepath.Glob(filepath.Join(dir, "*.idx"))
		for _, path := range paths {
			x, err := openIndex(path)
			if err != nil {
				t.Fatal(err)
			}
			defer x.close()
			if ok, err := x.has([]byte(id)); err != nil || ok {
				return ok
			}
		}
	}
	return false
}

// deltas counts what the pack of a quarantine has of them.
func (r *Repository) deltas(t *testing.T, quarantine string) (n int) {
	t.Helper()
	paths, _ := filepath.Glob(filepath.Join(quarantine, "pack", "*.idx"))
	for _, path := range paths {
		p, err := openPack(path, &inflater{})
		if err != nil {
			t.Fatal(err)
		}
		defer p.close()
		for i := range p.index.len() {
			offset, err := p.index.offset(i)
			if err != nil {
				t.Fatal(err)
			}
			if e, err := p.entry(offset); err != nil {
				t.Fatal(err)
			} else if !e.kind.isObject() {
				n++
			}
		}
	}
	return n
}

// What is not as it should be, or is too much, is left to Git.
func TestProvenLeavesToGit(t *testing.T) {
	w := newWorld(t)
	one := w.save(map[string]string{"a/file": "one\n", "b/file": "one\n"})
	two := w.save(map[string]string{"a/file": "two\n"}, one)
	h := &history{width: 20, objects: map[objectID]made{}}
	add := func(k kind, text string, args ...any) objectID { return h.add(k, fmt.Appendf(nil, text, args...)) }
	here := strings.Fields(w.git(w.work, "rev-list", "--objects", "--no-object-names", string(one)))
	root := w.git(w.work, "rev-parse", string(one)+"^{tree}")
	file := func(r *Repository, oid string) string { return filepath.Join(r.Dir, "objects", oid[:2], oid[2:]) }
	for name, c := range map[string]struct {
		change func(r *Repository, quarantine string)
		wants  []cluster.OID
		haves  []cluster.OID
		want   bool
	}{
		"nothing":                      {nil, oids(two), oids(one), true},
		"the have":                     {func(r *Repository, _ string) { os.Remove(file(r, string(one))) }, oids(two), oids(one), false},
		"the have's tree":              {func(r *Repository, _ string) { os.Remove(file(r, root)) }, oids(two), oids(one), false},
		"no haves":                     {nil, oids(two), nil, false},
		"only the have":                {nil, oids(one), oids(one), true},
		"only the have, which is gone": {func(r *Repository, _ string) { os.Remove(file(r, string(one))) }, oids(one), oids(one), false},
		"another is wanted":            {nil, oids(two, cluster.OID(strings.Repeat("1", 40))), oids(one), false},
		"a want of SHA-256":            {nil, oids(two, cluster.OID(strings.Repeat("1", 64))), oids(one), false},
		"a have of SHA-256":            {nil, oids(two), oids(one, cluster.OID(strings.Repeat("1", 64))), false},
		"what is no id":                {nil, oids("x"), oids(one), false},
		"apart":                        {func(r *Repository, _ string) { r.apart = true }, oids(two), oids(one), false},
		"without the pack":             {func(_ *Repository, q string) { os.RemoveAll(filepath.Join(q, "pack")) }, oids(two), oids(one), false},
		"too much at once":             {nil, append(slices.Repeat(oids(two), maxFollowed), two), oids(one), false},
		"a tree that is not the have's": {func(r *Repository, _ string) {
			other := w.git(w.work, "rev-parse", string(two)+"^{tree}")
			copyFile(t, filepath.Join(w.work, ".git", "objects", other[:2], other[2:]), file(r, root))
		}, oids(two), oids(one), false},
		"two packs": {func(_ *Repository, q string) {
			paths, _ := filepath.Glob(filepath.Join(q, "pack", "*.idx"))
			for _, end := range []string{".idx", ".pack"} {
				from := strings.TrimSuffix(paths[0], ".idx") + end
				if err := os.Link(from, filepath.Join(q, "pack", "pack-"+strings.Repeat("1", 40)+end)); err != nil {
					t.Fatal(err)
				}
			}
		}, oids(two), oids(one), false},
	} {
		t.Run(name, func(t *testing.T) {
			r := w.another()
			for _, oid := range here {
				copyFile(t, filepath.Join(w.work, ".git", "objects", oid[:2], oid[2:]), file(r, oid))
			}
			quarantine, err := r.quarantine(t, w.bare(two, cluster.OID(w.git(w.work, "rev-parse", string(two)+"^{tree}")),
				cluster.OID(w.git(w.work, "rev-parse", string(two)+":a")), cluster.OID(w.git(w.work, "rev-parse", string(two)+":a/file"))))
			if err != nil {
				t.Fatal(err)
			}
			if c.change != nil {
				c.change(r, quarantine)
			}
			if got := r.proven(c.wants, c.haves, quarantine); got != c.want {
				t.Errorf("proven: %v, want %v", got, c.want)
			}
		})
	}

	// A link of the wrong kind, and one that says too much.
	blob := add(blobKind, "a blob\n")
	empty := add(treeKind, "")
	commit := add(commitKind, "tree %x\nauthor a <a@x> 1 +0000\ncommitter a <a@x> 1 +0000\n\nx\n", string(empty))
	for name, c := range map[string]struct {
		want objectID
		ok   bool
	}{
		"a commit":              {commit, true},
		"a blob":                {blob, true},
		"a tree":                {add(treeKind, "100644 a\x00%s40000 b\x00%s", string(blob), string(empty)), true},
		"an old mode":           {add(treeKind, "100664 a\x00%s", string(blob)), true},
		"a submodule":           {add(treeKind, "160000 a\x00%s", strings.Repeat("x", 20)), true},
		"a link that is a tree": {add(treeKind, "120000 a\x00%s", string(empty)), false},
		"a file that is a tree": {add(treeKind, "100644 a\x00%s", string(empty)), false},
		"a folder of no kind":   {add(treeKind, "40000 a\x00%s", string(blob)), false},
		"a mode of no kind":     {add(treeKind, "20000 a\x00%s", string(blob)), false},
		"no mode":               {add(treeKind, " a\x00%s", string(blob)), false},
		"a parent that is none": {add(commitKind, "tree %x\nparent %x\n", string(empty), string(blob)), false},
		"a tree that is none":   {add(commitKind, "tree %x\n", string(blob)), false},
		"half a parent":         {add(commitKind, "tree %x\nparent %x", string(empty), string(commit)), false},
		"no tree":               {add(commitKind, "author a <a@x> 1 +0000\n"), false},
		"a tag":                 {add(tagKind, "object %x\ntype tree\ntag x\n", string(empty)), true},
		"a tag of another kind": {add(tagKind, "object %x\ntype blob\ntag x\n", string(empty)), false},
		"a tag of no kind":      {add(tagKind, "object %x\ntype thing\ntag x\n", string(empty)), false},
		"a tag without a name":  {add(tagKind, "object %x\ntype tree\nname x\n", string(empty)), false},
	} {
		t.Run(name, func(t *testing.T) {
			scratch, r := w.another(), w.another()
			h.writeLoose(t, filepath.Join(scratch.Dir, "objects"), h.ids)
			var list strings.Builder
			for _, id := range []objectID{c.want, blob, empty, commit} {
				fmt.Fprintf(&list, "%x\n", string(id))
			}
			cmd := exec.Command("git", "pack-objects", "--stdout", "-q")
			cmd.Dir, cmd.Stdin = scratch.Dir, strings.NewReader(list.String())
			pack, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			quarantine, err := r.quarantine(t, pack)
			if err != nil {
				t.Fatal(err)
			}
			if got := r.proven(hexIDs([]objectID{c.want}), nil, quarantine); got != c.ok {
				t.Errorf("proven: %v, want %v", got, c.ok)
			}
		})
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(to), 0o700)
	}
	if err == nil {
		err = os.WriteFile(to, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// The usual pushes are decided here, and a copy of one takes no process, if its pack stands
// by itself; Git completes one that does not.
func TestUsualCopiesTakeNoProcess(t *testing.T) {
	for _, format := range []cluster.ObjectFormat{cluster.SHA1, cluster.SHA256} {
		t.Run(string(format), func(t *testing.T) {
			w := newWorldOf(t, format)
			started := countGit(t)
			take := func(what, want string, wants, haves []cluster.OID) {
				t.Helper()
				pack, err := w.tryGitBytes(w.work, revs(wants, haves), "pack-objects", "--revs", "--stdout", "-q")
				if err != nil {
					t.Fatal(err)
				}
				if want == "index-pack" {
					pack = w.pack(wants, haves)
				}
				started()
				if err := w.ReadPack(t.Context(), bytes.NewReader(pack), wants, haves); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				if got := started(); got != want {
					t.Errorf("%s started %q, want %q", what, got, want)
				}
			}
			one := w.save(project())
			take("a first push", "", oids(one), nil)
			two := w.save(map[string]string{"part1/sub1/file1": "another text\n"}, one)
			take("a file that was changed", "", oids(two), oids(one))
			two = w.save(map[string]string{"part1/sub1/file1": "a third\n"}, two)
			take("one that is thin", "index-pack", oids(two), oids(one))
			three := w.save(map[string]string{"new/folder/file": "new\n", "part2/new": "new, too\n"}, two)
			for _, err := range []error{
				os.RemoveAll(filepath.Join(w.work, "part3")),
				os.Chmod(filepath.Join(w.work, "part4/sub1/file36"), 0o700),
				os.Symlink("file1", filepath.Join(w.work, "part1/link")),
				os.Mkdir(filepath.Join(w.work, "module"), 0o700),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
			w.git(w.work, "update-index", "--add", "--cacheinfo", "160000,"+string(one)+",module")
			four := w.save(nil, three)
			take("new ones, some that are gone, a mode, a link and a submodule, in two commits", "", oids(four), oids(one, two))
			side := w.save(map[string]string{"side": "side\n"}, two)
			take("a branch from a have", "", oids(side), oids(two, four))
			merge := w.save(map[string]string{"side": "merged\n"}, four, side)
			take("a merge", "", oids(merge), oids(four, side))
			w.git(w.work, "tag", "-a", "-m", "x", "v1", string(merge))
			w.git(w.work, "tag", "-a", "-m", "x", "v2", "v1")
			tag := cluster.OID(w.git(w.work, "rev-parse", "v2"))
			take("a tag of a tag of a have", "", oids(tag, merge), oids(merge))
			take("nothing", "", oids(merge), oids(merge, side))
			// Nobody has said that it is complete, so Git looks.
			older := w.save(map[string]string{"side": "from an older one\n"}, one)
			take("a branch from an ancestor of a have", "rev-list", oids(older), oids(merge))
		})
	}
}

// countGit returns a function that tells which git commands were started since it was
// last called.
func countGit(t *testing.T) func() string {
	t.Helper()
	git, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	dir, log := t.TempDir(), filepath.Join(t.TempDir(), "log")
	script := fmt.Sprintf("#!/bin/sh\necho \"$1\" >>'%s'\nexec '%s' \"$@\"\n", log, git)
	if err := os.WriteFile(filepath.Join(dir, "git"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	return func() string {
		t.Helper()
		data, err := os.ReadFile(log)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		os.Remove(log)
		return strings.Join(strings.Fields(string(data)), " ")
	}
}

// BenchmarkReadPack takes the copy of a push of one commit.
func BenchmarkReadPack(b *testing.B) {
	w := newWorld(b)
	one := w.save(project())
	two := w.save(map[string]string{"part1/sub1/file1": "another text\n"}, one)
	w.receive(one)
	pack := w.pack(oids(two), oids(one))
	for b.Loop() {
		if err := w.ReadPack(b.Context(), bytes.NewReader(pack), oids(two), oids(one)); err != nil {
			b.Fatal(err)
		}
	}
}
