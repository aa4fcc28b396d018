package repository

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

// LooseRefs counts refs that are files of their own, up to a limit.
func (r *Repository) LooseRefs(limit int) (n int, err error) {
	err = filepath.WalkDir(filepath.Join(r.Dir, "refs"), func(_ string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // a folder that went with its last ref
		case err != nil:
			return err
		case !d.IsDir():
			n++
		}
		if n >= limit {
			return fs.SkipAll
		}
		return nil
	})
	return n, err
}

// PackRefs writes all refs to one file, synced to disk. The caller must be the only
// one to change refs. The files of their own that refs have are superfluous then and
// may be dropped; until the refs change, that is.
func (r *Repository) PackRefs(ctx context.Context) (*PackedRefs, error) {
	if err := r.run.Run(ctx, gitcmd.PackRefs(r.Dir), gitexec.IO{}); err != nil {
		return nil, err
	}
	if err := syncDirs(r.Dir); err != nil {
		return nil, err
	}
	p := &PackedRefs{dir: r.Dir, values: map[string]string{}}
	f, err := os.Open(p.path())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if p.file, err = f.Stat(); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// "# pack-refs with: …", "OID ref", or "^OID" of what a tag leads to
		if value, ref, ok := strings.Cut(lines.Text(), " "); ok && value != "#" {
			p.values[ref] = value
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	return p, p.list()
}

// PackedRefs are the refs that were packed. Git's own way to remove their files
// locks each ref, which takes minutes for a hundred thousand.
type PackedRefs struct {
	dir    string
	file   os.FileInfo
	values map[string]string
	left   []string // files of refs that may be superfluous
	dirs   []string // folders of refs, each before those in it
}

func (p *PackedRefs) path() string { return filepath.Join(p.dir, "packed-refs") }

func (p *PackedRefs) list() error {
	root := filepath.Join(p.dir, "refs")
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case !d.IsDir():
			p.left = append(p.left, path)
		case filepath.Dir(path) != p.dir && filepath.Dir(path) != root:
			p.dirs = append(p.dirs, path)
		}
		return nil
	})
}

// Drop removes up to n files of refs whose value is in the packed file, too, and
// returns how many are left to look at. The caller must be the only one to change
// refs meanwhile; between two calls they may change.
func (p *PackedRefs) Drop(n int) (left int, err error) {
	now, err := os.Stat(p.path())
	if err != nil {
		return 0, err
	}
	if !os.SameFile(now, p.file) || now.ModTime() != p.file.ModTime() {
		// Written anew, for a deletion: a ref that has come back since may be in
		// its own file alone.
		p.left, p.dirs = nil, nil
		return 0, nil
	}
	for _, path := range p.left[:min(n, len(p.left))] {
		ref, err := filepath.Rel(p.dir, path)
		if err != nil {
			return 0, err
		}
		value, err := os.ReadFile(path)
		if err == nil && p.values[filepath.ToSlash(ref)] == strings.TrimSuffix(string(value), "\n") {
			err = os.Remove(path)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, err
		}
	}
	p.left = p.left[min(n, len(p.left)):]
	if len(p.left) == 0 {
		for _, dir := range slices.Backward(p.dirs) {
			os.Remove(dir) // one in which something is stays
		}
	}
	return len(p.left), nil
}
