package repository

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/durable"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

// Housekeeping in parts. Each writes first, syncs what it wrote to disk, and only
// then removes what has become superfluous: a power loss may leave too much but
// never too little. `git repack -d` removes before anybody could sync a directory.
//
// Objects that no ref reaches are not removed when that is found out: they go into
// a pack of their own, set aside, and that is removed when it has lain there for
// long enough, after the engine has made sure that nothing needs it after all.

// A Pack is one pack of the repository.
type Pack struct {
	Name    string // "pack-" and a hash
	Objects int
	Aside   time.Time // since when it was known that no ref reached its objects; zero for other packs
	Keep    bool      // an operator keeps it, by a ".keep" file
}

// housekeeping is what is remembered about the packs.
type housekeeping struct {
	Reached string               `json:"reached,omitempty"` // the pack that last had everything refs reached
	Aside   map[string]time.Time `json:"aside,omitempty"`
}

const housekeepingFile = "cluster-housekeeping"

func (r *Repository) housekeeping() (h housekeeping, err error) {
	data, err := os.ReadFile(filepath.Join(r.Dir, housekeepingFile))
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &h)
	}
	return h, err
}

func (r *Repository) setHousekeeping(h housekeeping) error {
	data, err := json.Marshal(h)
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(r.Dir, housekeepingFile), append(data, '\n'), 0o600)
}

func (r *Repository) packDir() string { return filepath.Join(r.Dir, "objects", "pack") }

// Packs lists the packs; reached is the name of the one that last held everything
// that refs reached, or "".
func (r *Repository) Packs() (packs []Pack, reached string, err error) {
	entries, err := os.ReadDir(r.packDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	h, err := r.housekeeping()
	if err != nil {
		return nil, "", err
	}
	there := map[string]bool{}
	for _, e := range entries {
		there[e.Name()] = true
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".idx")
		if !ok || !strings.HasPrefix(name, "pack-") || !there[name+".pack"] {
			continue
		}
		x, err := r.index(name)
		if err != nil {
			return nil, "", err
		}
		packs = append(packs, Pack{Name: name, Objects: x.len(), Aside: h.Aside[name], Keep: there[name+".keep"]})
		x.close()
		if name == h.Reached {
			reached = name
		}
	}
	return packs, reached, nil
}

func (r *Repository) index(pack string) (*index, error) {
	return openIndex(filepath.Join(r.packDir(), pack+".idx"))
}

// LooseObjects counts them, up to a limit.
func (r *Repository) LooseObjects(limit int) (n int, err error) {
	folders, err := os.ReadDir(filepath.Join(r.Dir, "objects"))
	if err != nil {
		return 0, err
	}
	for _, folder := range folders {
		if len(folder.Name()) != 2 || n >= limit {
			continue
		}
		objects, err := os.ReadDir(filepath.Join(r.Dir, "objects", folder.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return n, err
		}
		n += len(objects)
	}
	return min(n, limit), nil
}

// Unbalanced returns the packs that must become one so that each of the others has
// at least twice as many objects as all smaller ones together.
func Unbalanced(packs []Pack) []Pack {
	packs = slices.Clone(packs)
	slices.SortFunc(packs, func(a, b Pack) int {
		return cmp.Or(cmp.Compare(a.Objects, b.Objects), cmp.Compare(a.Name, b.Name))
	})
	sum, n := 0, 0
	for i, p := range packs {
		if i > 0 && p.Objects < 2*sum {
			n = i + 1
		}
		sum += p.Objects
	}
	return packs[:n]
}

// RollUp writes one pack of all objects in packs and of all loose ones, and removes
// what it replaces. Nothing is lost, whether a ref reaches it or not.
func (r *Repository) RollUp(ctx context.Context, packs []Pack) error {
	var names strings.Builder
	for _, p := range packs {
		names.WriteString(p.Name + ".pack\n")
	}
	made, err := r.pack(ctx, gitcmd.RollUp, strings.NewReader(names.String()))
	if err != nil {
		return err
	}
	return r.replace(ctx, packs, made)
}

// PackReached writes one pack of all that refs reach, and another, which is set
// aside, of what else is in packs; these and loose objects that are now in a pack
// are removed. The pack of what is reached remains the one that [Repository.Packs]
// names.
func (r *Repository) PackReached(ctx context.Context, packs []Pack) error {
	reached, err := r.pack(ctx, gitcmd.PackReached, nil)
	if err != nil || reached == "" {
		return err // without refs there is nothing to compare with, and nothing is set aside
	}
	rest, err := r.packRest(ctx, packs, reached)
	if err != nil {
		return err
	}
	h, err := r.housekeeping()
	if err != nil {
		return err
	}
	h.Reached = reached
	delete(h.Aside, reached)
	if rest != "" && rest != reached {
		if h.Aside == nil {
			h.Aside = map[string]time.Time{}
		}
		h.Aside[rest] = time.Now().UTC()
	}
	if err := r.setHousekeeping(h); err != nil {
		return err
	}
	return r.replace(ctx, packs, reached, rest)
}

// packRest writes a pack of the objects in packs that reached has not.
func (r *Repository) packRest(ctx context.Context, packs []Pack, reached string) (string, error) {
	has, err := r.index(reached)
	if err != nil {
		return "", err
	}
	defer has.close()
	in, out := io.Pipe()
	listed := make(chan error, 1)
	go func() {
		w := bufio.NewWriterSize(out, 64<<10)
		var err error
		for _, p := range packs {
			if p.Name != reached && err == nil {
				err = r.listRest(w, p.Name, has)
			}
		}
		if err == nil {
			err = w.Flush()
		}
		out.CloseWithError(err)
		listed <- err
	}()
	name, err := r.pack(ctx, gitcmd.PackListed, in)
	in.Close()
	if listErr := <-listed; err == nil {
		err = listErr // a list that broke off looks whole to Git
	}
	return name, err
}

// listRest writes the ids of a pack's objects that another has not. Both lists are
// in order, so of two large packs each is read once.
func (r *Repository) listRest(w io.Writer, pack string, other *index) error {
	x, err := r.index(pack)
	if err != nil {
		return err
	}
	defer x.close()
	ids, others := bufio.NewReaderSize(x.ids(), 64<<10), bufio.NewReaderSize(other.ids(), 64<<10)
	id, at := make([]byte, x.width), make([]byte, other.width)
	few := x.len() < other.len()/20
	left := other.len()
	var beyond bool // at holds an id that is not below the last one asked for
	for range x.len() {
		if _, err := io.ReadFull(ids, id); err != nil {
			return err
		}
		found := false
		if few {
			if found, err = other.has(id); err != nil {
				return err
			}
		} else {
			for !beyond || bytes.Compare(at, id) < 0 {
				if left == 0 {
					break
				}
				left--
				if _, err := io.ReadFull(others, at); err != nil {
					return err
				}
				beyond = true
			}
			found = beyond && bytes.Equal(at, id)
		}
		if !found {
			if _, err := fmt.Fprintf(w, "%x\n", id); err != nil {
				return err
			}
		}
	}
	return nil
}

// pack runs a command that writes a pack, syncs it and returns its name, or "" if
// there was nothing to write.
func (r *Repository) pack(ctx context.Context, command func(dir, base string) gitcmd.Command, stdin io.Reader) (string, error) {
	if stdin == nil {
		stdin = strings.NewReader("")
	}
	if err := os.MkdirAll(r.packDir(), 0o700); err != nil {
		return "", err
	}
	out, err := r.run.Output(ctx, command(r.Dir, filepath.Join(r.packDir(), "pack")), stdin)
	hash := strings.TrimSpace(string(out))
	if err != nil || hash == "" {
		return "", err
	}
	return "pack-" + hash, r.SyncObjects()
}

// replace removes packs that others, synced to disk, have made superfluous, and
// loose objects that are in a pack.
func (r *Repository) replace(ctx context.Context, packs []Pack, by ...string) error {
	var gone []string
	for _, p := range packs {
		// The same objects give a pack the same name.
		if !slices.Contains(by, p.Name) {
			gone = append(gone, p.Name)
		}
	}
	if err := r.removePacks(gone); err != nil {
		return err
	}
	return r.run.Run(ctx, gitcmd.PrunePacked(r.Dir), gitexec.IO{})
}

func (r *Repository) removePacks(names []string) error {
	if len(names) == 0 {
		return nil
	}
	// An operator may have made an index over all packs: it would name some that
	// are gone.
	if err := removeMatching(r.packDir(), "multi-pack-index"); err != nil {
		return err
	}
	for _, name := range names {
		for _, ending := range []string{".idx", ".pack", ".rev", ".bitmap", ".mtimes"} {
			if err := os.Remove(filepath.Join(r.packDir(), name+ending)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// In returns those of values that are objects of a pack.
func (r *Repository) In(pack string, values []cluster.OID) (map[cluster.OID]bool, error) {
	x, err := r.index(pack)
	if err != nil {
		return nil, err
	}
	defer x.close()
	in := map[cluster.OID]bool{}
	for _, v := range values {
		id, err := hex.DecodeString(string(v))
		if err != nil {
			return nil, err
		}
		ok, err := x.has(id)
		if err != nil {
			return nil, err
		}
		if ok {
			in[v] = true
		}
	}
	return in, nil
}

// Strays returns the values of the refs that belong to this replica alone.
func (r *Repository) Strays(ctx context.Context) ([]cluster.OID, error) {
	refs, err := r.StrayRefs(ctx)
	var values []cluster.OID
	for _, u := range refs {
		values = append(values, u.New)
	}
	return values, err
}

// StrayRefs returns these refs, each with its value.
func (r *Repository) StrayRefs(ctx context.Context) (refs []cluster.RefUpdate, err error) {
	out, err := r.run.Output(ctx, gitcmd.ListStrays(r.Dir), nil)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(out)) {
		oid, ref, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if !ok {
			return nil, fmt.Errorf("repository %s: unexpected line %q from for-each-ref", r.ID, line)
		}
		refs = append(refs, cluster.RefUpdate{Ref: cluster.RefName(ref), New: cluster.OID(oid)})
	}
	return refs, nil
}

// Needed returns those of the packs aside that have an object which wants reach,
// and which neither haves do nor the pack reached has. It fails when an object that
// wants reach is missing.
func (r *Repository) Needed(ctx context.Context, wants, haves []cluster.OID, reached string, aside []string) (map[string]bool, error) {
	needed := map[string]bool{}
	if len(wants) == 0 || len(aside) == 0 {
		return needed, nil
	}
	has, err := r.index(reached)
	if err != nil {
		return nil, err
	}
	defer has.close()
	open := map[string]*index{}
	for _, name := range aside {
		if open[name], err = r.index(name); err != nil {
			return nil, err
		}
		defer open[name].close()
	}
	in, out := io.Pipe()
	defer in.Close()
	go func() {
		out.CloseWithError(orEOF(r.run.Run(ctx, gitcmd.ListObjects(r.Dir), gitexec.IO{Stdin: revisions(wants, haves), Stdout: out})))
	}()
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		id, err := hex.DecodeString(lines.Text())
		if err != nil {
			return nil, err
		}
		if ok, err := has.has(id); err != nil || ok {
			if err != nil {
				return nil, err
			}
			continue
		}
		for name, x := range open {
			ok, err := x.has(id)
			if err != nil {
				return nil, err
			}
			if ok {
				needed[name] = true
			}
		}
	}
	return needed, lines.Err()
}

// Reclaim has packs that were set aside be packs like any other again.
func (r *Repository) Reclaim(packs []string) error {
	h, err := r.housekeeping()
	if err != nil {
		return err
	}
	for _, name := range packs {
		delete(h.Aside, name)
	}
	return r.setHousekeeping(h)
}

// Discard removes packs that were set aside, for good. The caller must have made
// sure that nothing needs them, and that nothing comes to need them meanwhile.
func (r *Repository) Discard(packs []string) error {
	// The commit graph would still know their commits.
	if err := removeMatching(filepath.Join(r.Dir, "objects", "info"), "commit-graph"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := r.removePacks(packs); err != nil {
		return err
	}
	return r.Reclaim(packs)
}

// WriteCommitGraph writes what lets Git walk history fast. Nobody else may be
// writing it: what a process that was killed has left of it is removed.
func (r *Repository) WriteCommitGraph(ctx context.Context) error {
	info := filepath.Join(r.Dir, "objects", "info")
	for _, dir := range []string{info, filepath.Join(info, "commit-graphs")} {
		if err := removeMatching(dir, leftovers(r.Dir)[dir]...); err != nil {
			return err
		}
	}
	return r.run.Run(ctx, gitcmd.CommitGraph(r.Dir), gitexec.IO{})
}
