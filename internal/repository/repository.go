// Package repository is a bare Git repository on this node's disk: its refs,
// its objects, its digest, and the position in the journal that it shows.
//
// Entry points: a [Store] makes and opens the repositories of a data directory;
// a [Repository] reads and changes one; a [RefTable] is the set of its refs in
// memory; [Repository.Begin] opens a ref transaction.
//
// It promises to reach Git only through gitcmd and gitexec, to move objects
// into a repository only after their history was found complete, and to have
// synced to disk whatever a method that says so returned for. It decides
// nothing: which refs change, and when, is the engine's business.
package repository

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"gitcluster/internal/cluster"
	"gitcluster/internal/durable"
	"gitcluster/internal/gitcmd"
	"gitcluster/internal/gitexec"
)

// A Store is the folder of repositories in a data directory.
type Store struct {
	root string
	run  *gitexec.Runner
	seen sync.Map // path → time.Time: since when something looks left behind

	writers refWriters
}

// Close ends the processes that wait for work. The store can be used after it.
func (s *Store) Close() { s.writers.close() }

// NewStore returns the store at root, making the folder if it is not there.
func NewStore(root string, run *gitexec.Runner) (*Store, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(root, "tmp"), 0o700); err != nil {
		return nil, err
	}
	return &Store{root: root, run: run}, nil
}

// Temp returns a folder for what need not outlive the node.
func (s *Store) Temp() string { return filepath.Join(s.root, "tmp") }

// Path returns the directory of the repository.
func (s *Store) Path(id cluster.RepoID) string {
	return filepath.Join(s.root, string(id[:2]), string(id)+".git")
}

// List returns the repositories on this disk.
func (s *Store) List() (ids []cluster.RepoID, err error) {
	folders, err := os.ReadDir(s.root)
	if err != nil {
		return nil, err
	}
	for _, folder := range folders {
		if len(folder.Name()) != 2 {
			continue
		}
		repos, err := os.ReadDir(filepath.Join(s.root, folder.Name()))
		if err != nil {
			return nil, err
		}
		for _, repo := range repos {
			name, ok := strings.CutSuffix(repo.Name(), ".git")
			if id, err := cluster.ParseRepoID(name); ok && err == nil {
				ids = append(ids, id)
			}
		}
	}
	return ids, nil
}

// Open opens a repository; one that is not there is [cluster.ErrNotFound].
func (s *Store) Open(id cluster.RepoID) (*Repository, error) {
	dir := s.Path(id)
	if _, err := os.Stat(filepath.Join(dir, "HEAD")); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("repository %s: %w", id, cluster.ErrNotFound)
		}
		return nil, err
	}
	return &Repository{ID: id, Dir: dir, run: s.run, store: s}, nil
}

// Create makes the empty repository that repo describes, or opens it if a
// former life of the node has made it already. It appears whole or not at all.
func (s *Store) Create(ctx context.Context, repo cluster.Repo) (*Repository, error) {
	if r, err := s.Open(repo.ID); err == nil || !errors.Is(err, cluster.ErrNotFound) {
		return r, err
	}
	tmp, err := os.MkdirTemp(filepath.Join(s.root, "tmp"), string(repo.ID)+"-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	dir := filepath.Join(tmp, "repo.git")
	if err := s.run.Run(ctx, gitcmd.Init(dir, repo.Format, repo.InitialHead), gitexec.IO{}); err != nil {
		return nil, err
	}
	final := s.Path(repo.ID)
	if err := os.MkdirAll(filepath.Dir(final), 0o700); err != nil {
		return nil, err
	}
	if err := syncTree(dir); err != nil {
		return nil, err
	}
	if err := os.Rename(dir, final); err != nil {
		return nil, err
	}
	if err := syncDirs(filepath.Dir(final), s.root); err != nil {
		return nil, err
	}
	return s.Open(repo.ID)
}

// CleanUp removes what a killed node left behind: half-made repositories, ref
// locks and quarantines. No writer of a former life may be alive; the data directory's lock
// says so.
func (s *Store) CleanUp() error {
	if err := removeAllIn(filepath.Join(s.root, "tmp")); err != nil {
		return err
	}
	// The path may hold characters that filepath.Glob would read as a pattern.
	folders, err := os.ReadDir(s.root)
	if err != nil {
		return err
	}
	for _, folder := range folders {
		if len(folder.Name()) != 2 {
			continue
		}
		repos, err := os.ReadDir(filepath.Join(s.root, folder.Name()))
		if err != nil {
			return err
		}
		for _, repo := range repos {
			if !strings.HasSuffix(repo.Name(), ".git") {
				continue
			}
			if err := cleanRepository(filepath.Join(s.root, folder.Name(), repo.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// A Repository is one repository on this disk.
type Repository struct {
	ID    cluster.RepoID
	Dir   string
	run   *gitexec.Runner
	store *Store
	apart bool // a pack that comes must be whole without what is here
}

const appliedFile = "cluster-applied"

// Applied returns the position the repository's refs are known to show; the
// zero Position if none was ever recorded.
func (r *Repository) Applied() (cluster.Position, error) {
	var p cluster.Position
	data, err := os.ReadFile(filepath.Join(r.Dir, appliedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return p, fmt.Errorf("%s: %w", filepath.Join(r.Dir, appliedFile), err)
	}
	return p, nil
}

// SetApplied records the position, synced to disk.
func (r *Repository) SetApplied(p cluster.Position) error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(r.Dir, appliedFile), append(data, '\n'), 0o600)
}

const doubtFile = "cluster-doubt"

// Doubt returns why nothing in the repository may be trusted before it was
// compared with the journal, or "".
func (r *Repository) Doubt() (string, error) {
	data, err := os.ReadFile(filepath.Join(r.Dir, doubtFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(data)), err
}

// SetDoubt records why the repository may not be trusted, or that it may be again,
// synced to disk.
func (r *Repository) SetDoubt(why string) error {
	path := filepath.Join(r.Dir, doubtFile)
	if why != "" {
		return durable.WriteFile(path, []byte(why+"\n"), 0o600)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDirs(r.Dir)
}

const heldFile = "cluster-held"

// Held reports whether an operator was given the repository to change its refs, and
// nothing has been made of that yet.
func (r *Repository) Held() (bool, error) {
	_, err := os.Stat(filepath.Join(r.Dir, heldFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// SetHeld records that an operator may change the refs from now on, or no longer,
// synced to disk.
func (r *Repository) SetHeld(held bool) error {
	path := filepath.Join(r.Dir, heldFile)
	if held {
		return durable.WriteFile(path, nil, 0o600)
	}
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return syncDirs(r.Dir)
}

// LoadRefs reads all refs and HEAD from disk.
func (r *Repository) LoadRefs(ctx context.Context) (*RefTable, error) {
	out, err := r.run.Output(ctx, gitcmd.ListRefs(r.Dir), nil)
	if err != nil {
		return nil, err
	}
	t := NewRefTable()
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		oid, ref, ok := strings.Cut(lines.Text(), " ")
		if !ok {
			return nil, fmt.Errorf("repository %s: unexpected line %q from for-each-ref", r.ID, lines.Text())
		}
		if name := cluster.RefName(ref); !name.IsHidden() {
			t.set(name, cluster.OID(oid))
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	head, err := r.run.Output(ctx, gitcmd.ReadHead(r.Dir), nil)
	if err != nil {
		return nil, err
	}
	t.SetHead(cluster.RefName(strings.TrimSpace(string(head))))
	return t, nil
}

// RemoveBrokenRefs removes loose refs that are none, as a disk that rots leaves
// them, and points a HEAD that names no branch at head: Git would read neither, and
// refuse to write over them. The caller must be the only writer.
func (r *Repository) RemoveBrokenRefs(head cluster.RefName) error {
	err := filepath.WalkDir(filepath.Join(r.Dir, "refs"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || soundRef(path) {
			return err
		}
		return os.Remove(path)
	})
	if err != nil {
		return err
	}
	file := filepath.Join(r.Dir, "HEAD")
	if data, err := os.ReadFile(file); err != nil || strings.HasPrefix(string(data), symbolicRef) && strings.TrimSpace(string(data)) != symbolicRef {
		return err
	}
	return durable.WriteFile(file, []byte(symbolicRef+strings.TrimPrefix(string(head), "refs/")+"\n"), 0o600)
}

// symbolicRef begins a file that names a ref (gitrepository-layout(5)).
const symbolicRef = "ref: refs/"

// soundRef reports whether a file holds a value or the name of a ref.
func soundRef(path string) bool {
	data, err := os.ReadFile(path)
	if err != nil || strings.HasPrefix(string(data), symbolicRef) {
		return err == nil
	}
	oid, err := cluster.ParseOID(strings.TrimSpace(string(data)))
	return err == nil && !oid.IsZero()
}

// SetHead points HEAD at a branch, synced to disk.
func (r *Repository) SetHead(ctx context.Context, head cluster.RefName) error {
	if err := r.run.Run(ctx, gitcmd.SetHead(r.Dir, head), gitexec.IO{}); err != nil {
		return err
	}
	return syncFile(filepath.Join(r.Dir, "HEAD"), r.Dir)
}

// RemoveLocks removes ref locks that a killed process left. The caller must be
// the only writer of the repository.
func (r *Repository) RemoveLocks() error { return removeLocks(r.Dir) }

func cleanRepository(dir string) error {
	if err := removeLocks(dir); err != nil {
		return err
	}
	for folder, prefixes := range leftovers(dir) {
		if err := removeMatching(folder, prefixes...); err != nil {
			return err
		}
	}
	return nil
}

// removeMatching removes what begins with one of the prefixes.
func removeMatching(dir string, prefixes ...string) error {
	return removeIf(dir, prefixes, strings.HasPrefix)
}

// removeEnding removes what ends with one of the suffixes.
func removeEnding(dir string, suffixes ...string) error {
	return removeIf(dir, suffixes, strings.HasSuffix)
}

func removeIf(dir string, parts []string, is func(name, part string) bool) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a damaged repository must not keep a node from its start
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		for _, part := range parts {
			if is(e.Name(), part) {
				if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func removeLocks(dir string) error {
	// Git makes packed-refs.new exclusively: one that is left blocks every later
	// deletion of a packed ref, though it is called no lock.
	for _, name := range []string{"HEAD.lock", "packed-refs.lock", "packed-refs.new", "config.lock"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return filepath.WalkDir(filepath.Join(dir, "refs"), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".lock") {
			return err
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

func removeAllIn(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
