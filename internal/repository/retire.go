package repository

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gitcluster/internal/cluster"
	"gitcluster/internal/durable"
)

// What leaves a node, because the repository was deleted or because its folder is no
// repository any more, is set aside for a while: the journal that says so may have
// been put back to an earlier state by mistake, and then this is the only copy.

// retired is the folder below the store's; retiredForm is how its entries begin, after
// the repository's id.
const (
	retired     = "removed"
	retiredForm = "20060102T150405.000Z"
)

// Retire sets the repository aside. One that is not there is no error.
func (s *Store) Retire(id cluster.RepoID) error {
	dir := filepath.Join(s.root, retired)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	from := s.Path(id)
	err := os.Rename(from, filepath.Join(dir, string(id)+"-"+time.Now().UTC().Format(retiredForm)+".git"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return syncDirs(dir, filepath.Dir(from))
}

// Reclaim puts back what was last set aside of a repository that is not there. It
// reports whether there was something.
func (s *Store) Reclaim(id cluster.RepoID) (bool, error) {
	all, err := s.setAside()
	if err != nil {
		return false, err
	}
	newest := ""
	for name, of := range all {
		if of.id == id && name > newest {
			newest = name
		}
	}
	if newest == "" {
		return false, nil
	}
	to := s.Path(id)
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return false, err
	}
	if err := os.Rename(filepath.Join(s.root, retired, newest), to); err != nil {
		return false, err
	}
	return true, syncDirs(filepath.Dir(to), s.root, filepath.Join(s.root, retired))
}

// Expire removes what was set aside longer ago than age. It returns how many
// repositories that were.
func (s *Store) Expire(age time.Duration) (n int, err error) {
	all, err := s.setAside()
	if err != nil {
		return 0, err
	}
	for name, of := range all {
		if time.Since(of.since) <= age {
			continue
		}
		// It is out of the way at once; what a node that is killed leaves of it goes with
		// the other temporary files at the next start.
		gone := filepath.Join(s.Temp(), "expired-"+name)
		if err := os.Rename(filepath.Join(s.root, retired, name), gone); err != nil {
			return n, err
		}
		if err := os.RemoveAll(gone); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

type setAside struct {
	id    cluster.RepoID
	since time.Time
}

func (s *Store) setAside() (map[string]setAside, error) {
	entries, err := os.ReadDir(filepath.Join(s.root, retired))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	all := map[string]setAside{}
	for _, e := range entries {
		text, date, _ := strings.Cut(strings.TrimSuffix(e.Name(), ".git"), "-")
		id, err := cluster.ParseRepoID(text)
		if err != nil {
			continue // somebody else's
		}
		if since, err := time.Parse(retiredForm, date); err == nil {
			all[e.Name()] = setAside{id, since}
		}
	}
	return all, nil
}

// Whole reports whether the folder has what Git wants of a repository's.
func (r *Repository) Whole() bool {
	return is(filepath.Join(r.Dir, "config"), 0) && is(filepath.Join(r.Dir, "objects", "pack"), fs.ModeDir) && is(filepath.Join(r.Dir, "refs"), fs.ModeDir)
}

// Has reports whether the folder of a repository is there and whole. It costs no more
// than a look.
func (s *Store) Has(id cluster.RepoID) bool {
	dir := s.Path(id)
	return is(filepath.Join(dir, "HEAD"), 0) && (&Repository{Dir: dir}).Whole()
}

func is(path string, kind fs.FileMode) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().Type() == kind
}

// Mend makes a repository again of a folder that lacks what each one has: a file
// system that was checked may have moved it to lost+found. It reports whether anything
// was missing: then nothing in the folder may be trusted. Where it cannot be told what
// kind of repository it was, it is set aside, and there is none.
func (s *Store) Mend(repo cluster.Repo) (mended bool, err error) {
	dir := s.Path(repo.ID)
	if _, err := os.Stat(dir); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return false, err
	}
	there := func(name string, kind fs.FileMode) bool { return is(filepath.Join(dir, name), kind) }
	if !there("config", 0) {
		if err := s.Retire(repo.ID); err != nil {
			return false, fmt.Errorf("set aside %s, which has no config: %w", dir, err)
		}
		return true, nil
	}
	for _, name := range []string{"objects", "objects/pack", "objects/info", "refs", "refs/heads", "refs/tags"} {
		if there(name, fs.ModeDir) {
			continue
		}
		mended = mended || name == "objects" || name == "objects/pack" || name == "refs" // Git makes and removes the others
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			return false, err
		}
	}
	if there("HEAD", 0) {
		return mended, nil
	}
	return true, durable.WriteFile(filepath.Join(dir, "HEAD"), []byte("ref: "+string(repo.InitialHead)+"\n"), 0o600)
}
