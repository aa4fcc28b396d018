package engine

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gitcluster/internal/cluster"
	"gitcluster/internal/journal"
	"gitcluster/internal/repository"
)

// bring has a node receive what wants reach and haves do not, as from a client.
func (n *node) bring(wants, haves []cluster.OID) *repository.Incoming {
	t := n.w.t
	t.Helper()
	n.sync()
	var revs strings.Builder
	for _, oid := range wants {
		fmt.Fprintln(&revs, oid)
	}
	for _, oid := range haves {
		fmt.Fprintf(&revs, "^%s\n", oid)
	}
	cmd := exec.Command("git", "pack-objects", "--revs", "--thin", "--stdout", "-q")
	cmd.Dir, cmd.Stdin = n.w.work, strings.NewReader(revs.String())
	pack, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	in, err := n.Receive(t.Context(), n.w.repo, bufio.NewReader(bytes.NewReader(pack)), false, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(in.Remove)
	return in
}

func (n *node) commitIncoming(in *repository.Incoming, copies int, updates ...cluster.RefUpdate) ([]cluster.RefResult, error) {
	return n.Commit(n.w.t.Context(), n.w.repo.ID, Push{ID: journal.NewID(), Actor: cluster.Identity{User: "tester"}, Updates: updates, Copies: copies, Incoming: in})
}

// A usual push costs two processes where it arrives: one that stores its pack, and one that
// makes the copies' pack and so finds its history complete.
func TestPushStartsFewProcesses(t *testing.T) {
	real, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	trace := filepath.Join(bin, "trace")
	script := fmt.Sprintf("#!/bin/sh\necho \"$GIT_DIR $1\" >>%s\nexec %s \"$@\"\n", trace, real)
	if err := os.WriteFile(filepath.Join(bin, "git"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, "a", "b")
	a := w.nodes["a"]
	one := w.commit()
	a.accept(set("refs/heads/main", "", one))
	w.same(map[string]string{"refs/heads/main": string(one)})
	two := w.commit(one)
	a.sync()
	t.Setenv("PATH", bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
	in := a.bring([]cluster.OID{two}, []cluster.OID{one})
	results, err := a.commitIncoming(in, 2, set("refs/heads/main", one, two))
	if err != nil || results[0].Refused != "" {
		t.Fatal(results, err)
	}
	log, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	started := map[string]string{}
	for line := range strings.Lines(string(log)) {
		if dir, command, _ := strings.Cut(strings.TrimSpace(line), " "); command != "update-ref" { // which is there for the next, too
			started[dir] += command + " "
		}
	}
	if here, there := started[a.Store.Path(w.repo.ID)], started[w.nodes["b"].Store.Path(w.repo.ID)]; here != "index-pack " || there != "" {
		t.Errorf("the push started %q, and its copy %q", here, there)
	}
	w.same(map[string]string{"refs/heads/main": string(two)})
}

// A push whose history is not complete is refused, and nothing of it is admitted, whether
// its copies are asked for or not.
func TestIncompletePush(t *testing.T) {
	for _, copies := range []int{1, 2} {
		w := newWorld(t, "a", "b")
		a := w.nodes["a"]
		one := w.commit()
		a.accept(set("refs/heads/main", "", one))
		two := w.commit(one)
		three := w.commit(two)
		a.sync()
		// The repository has the second commit and its tree, and not its file: Git's look at
		// each object's links does not find that.
		repo, err := a.Store.Open(w.repo.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, rev := range []string{string(two), string(two) + "^{tree}"} {
			kind := w.git(w.work, "cat-file", "-t", rev)
			raw, err := exec.Command("git", "-C", w.work, "cat-file", kind, rev).Output()
			if err != nil {
				t.Fatal(err)
			}
			store := exec.Command("git", "-C", repo.Dir, "hash-object", "--literally", "-w", "-t", kind, "--stdin")
			store.Stdin = bytes.NewReader(raw)
			if out, err := store.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		in := a.bring([]cluster.OID{three}, []cluster.OID{two})
		update := set("refs/heads/main", one, three)
		if results, err := a.commitIncoming(in, copies, update); !errors.Is(err, ErrIncomplete) {
			t.Errorf("%d copies: %v, %v", copies, results, err)
		}
		if whole, err := a.Whole(t.Context(), w.repo.ID, in, update); err != nil || whole {
			t.Errorf("%d copies: whole: %v, %v", copies, whole, err)
		}
		if in.Quarantine() == "" {
			t.Errorf("%d copies: its objects were admitted", copies)
		}
		w.same(map[string]string{"refs/heads/main": string(one)})
	}
}

// Nobody is told of a push that is being decided, and everybody of one that was.
func TestUndecidedIsNotListed(t *testing.T) {
	w := newWorld(t, "a")
	a := w.nodes["a"]
	one := w.commit()
	a.accept(set("refs/heads/main", "", one))
	list := func() map[cluster.RefName]cluster.OID {
		t.Helper()
		refs, err := a.Decided(t.Context(), w.repo.ID)
		if err != nil {
			t.Fatal(err)
		}
		return maps.Collect(refs)
	}
	steps := map[Step]map[cluster.RefName]cluster.OID{}
	a.At = func(s Step) { steps[s] = list() }
	two := w.commit(one)
	a.accept(set("refs/heads/main", one, two), set("refs/heads/new", "", two))
	old, now := map[cluster.RefName]cluster.OID{"refs/heads/main": one}, map[cluster.RefName]cluster.OID{"refs/heads/main": two, "refs/heads/new": two}
	if !maps.Equal(steps[StepPrepared], old) {
		t.Errorf("before the journal has it: %v", steps[StepPrepared])
	}
	for _, step := range []Step{StepWritten, StepApplied} {
		if !maps.Equal(steps[step], now) {
			t.Errorf("at %v: %v", step, steps[step])
		}
	}
	clear(steps)
	for _, updates := range [][]cluster.RefUpdate{
		{set("refs/heads/main", one, one)},                                    // refused
		{set("refs/heads/x", "", cluster.OID(strings.Repeat("1", len(one))))}, // what Git itself refuses
	} {
		if _, err := a.Commit(t.Context(), w.repo.ID, Push{ID: journal.NewID(), Updates: updates, Copies: 1}); err != nil {
			t.Fatal(err)
		}
		if got := list(); !maps.Equal(got, now) {
			t.Errorf("after %v: %v", updates, got)
		}
	}
	a.accept(set("refs/heads/new", two, cluster.SHA1.Zero()))
	if names := slices.Collect(maps.Keys(list())); len(names) != 1 {
		t.Errorf("after a deletion: %v", names)
	}
}
