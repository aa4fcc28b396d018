package repository

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"gitcluster/internal/cluster"
)

// Git syncs the files it writes but no directory, so a power loss can take
// away the name of a file whose contents are safe. Everything here exists to
// close that gap before the engine promises anything.

// SyncRefs syncs the directories that changes of these refs have touched.
func (r *Repository) SyncRefs(refs []cluster.RefName) error {
	dirs := map[string]bool{r.Dir: true, filepath.Join(r.Dir, "refs"): true}
	for _, ref := range refs {
		for dir := filepath.Dir(string(ref)); dir != "." && dir != "refs"; dir = filepath.Dir(dir) {
			path := filepath.Join(r.Dir, dir)
			if dirs[path] {
				break
			}
			dirs[path] = true
		}
	}
	for dir := range dirs {
		// Git removes a folder with its last ref, and a ref may have taken its
		// place; the parent, synced too, records that.
		if err := syncDirs(dir); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			return err
		}
	}
	return nil
}

// SyncObjects syncs the directories that hold packs.
func (r *Repository) SyncObjects() error {
	return syncDirs(filepath.Join(r.Dir, "objects", "pack"), filepath.Join(r.Dir, "objects"))
}

// SyncAll syncs whatever is in the repository, also what somebody else has written
// there: Git itself leaves out loose objects, the directories of them, and refs.
func (r *Repository) SyncAll() error {
	if canSyncFS() {
		return syncFS(r.Dir)
	}
	return syncTree(r.Dir)
}

func syncDirs(dirs ...string) error {
	for _, dir := range dirs {
		if err := syncPath(dir); err != nil {
			return err
		}
	}
	return nil
}

func syncFile(path, dir string) error {
	if err := syncPath(path); err != nil {
		return err
	}
	return syncPath(dir)
}

func syncTree(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return syncPath(path)
	})
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
