package repository

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

// RemoveOrphans removes what killed processes left among the objects, has been there
// for an age and was not written to for as long. By the clock alone it would take what
// is being written for old when the clock is set forward.
//
// A pack without an index is no orphan before Git could not index it: one that a process
// was killed over may also be one whose index a disk has lost.
func (r *Repository) RemoveOrphans(ctx context.Context, age time.Duration) (n int, err error) {
	before := time.Now().Add(-age)
	if err := r.releasePacks(age, before); err != nil {
		return 0, err
	}
	if n, err = r.indexPacks(ctx, age, before); err != nil {
		return n, err
	}
	for dir, prefixes := range leftovers(r.Dir) {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return n, err
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if !slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(e.Name(), p) }) || !r.old(path, age) || writtenSince(path, before) {
				continue
			}
			r.store.seen.Delete(path)
			if err := os.RemoveAll(path); err != nil {
				return n, err
			}
			n++
		}
	}
	r.store.seen.Range(func(path, _ any) bool {
		if path := path.(string); strings.HasPrefix(path, r.Dir+string(filepath.Separator)) {
			if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
				r.store.seen.Delete(path)
			}
		}
		return true
	})
	return n, nil
}

// releasePacks removes the marks by which a receive-pack keeps its pack while it
// runs, where one was killed.
func (r *Repository) releasePacks(age time.Duration, before time.Time) error {
	entries, err := os.ReadDir(r.packDir())
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return err
	}
	for _, e := range entries {
		path := filepath.Join(r.packDir(), e.Name())
		if !strings.HasSuffix(e.Name(), ".keep") || !r.old(path, age) || writtenSince(path, before) {
			continue
		}
		r.store.seen.Delete(path)
		// An operator's own says something else, or nothing.
		text, err := os.ReadFile(path)
		if err == nil && bytes.HasPrefix(text, []byte("receive-pack ")) {
			err = os.Remove(path)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// indexPacks indexes packs that have no index, as a process leaves them that is killed
// while it moves packs in or takes them away, and removes those that cannot be indexed,
// and what belongs to packs that are gone. It returns how much it has removed.
func (r *Repository) indexPacks(ctx context.Context, age time.Duration, before time.Time) (n int, err error) {
	entries, err := os.ReadDir(r.packDir())
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return 0, err
	}
	there := map[string]bool{}
	for _, e := range entries {
		there[e.Name()] = true
	}
	for _, e := range entries {
		path, ending := filepath.Join(r.packDir(), e.Name()), filepath.Ext(e.Name())
		name := strings.TrimSuffix(e.Name(), ending)
		switch {
		case !strings.HasPrefix(name, "pack-") || there[name+".idx"]:
			continue
		case ending != ".pack" && (there[name+".pack"] || ending != ".rev" && ending != ".bitmap" && ending != ".mtimes"):
			continue
		case !r.old(path, age) || writtenSince(path, before):
			continue
		}
		r.store.seen.Delete(path)
		if ending == ".pack" {
			err := r.run.Run(ctx, gitcmd.IndexPackAgain(r.Dir, path), gitexec.IO{})
			if err == nil {
				if err := r.SyncObjects(); err != nil {
					return n, err
				}
				continue
			}
			if exit := (*gitexec.ExitError)(nil); !errors.As(err, &exit) || exit.Status <= 0 || context.Cause(ctx) != nil {
				return n, err
			}
		}
		if err := r.removePacks([]string{name}); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// leftovers are the beginnings of the names that unfinished work has, by folder.
func leftovers(dir string) map[string][]string {
	return map[string][]string{
		filepath.Join(dir, "objects"):         {"incoming-", "tmp_objdir-incoming-"},
		filepath.Join(dir, "objects", "pack"): {"tmp_", ".tmp-"},
		filepath.Join(dir, "objects", "info"): {"commit-graph.lock", "tmp_graph_"},

		filepath.Join(dir, "objects", "info", "commit-graphs"): {"commit-graph-chain.lock", "tmp_graph_"},
	}
}

// old reports whether a path has been seen for an age, by the clock that nobody sets.
func (r *Repository) old(path string, age time.Duration) bool {
	first, _ := r.store.seen.LoadOrStore(path, time.Now())
	return time.Since(first.(time.Time)) >= age
}

// writtenSince reports whether anything at a path or below it was changed after a
// time, or cannot be looked at.
func writtenSince(path string, since time.Time) bool {
	err := filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.ModTime().After(since) {
			err = fs.ErrExist
		}
		return err
	})
	return err != nil
}
