package backup

import (
	"bufio"
	"bytes"
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
	"gitcluster/internal/gitexec"
	"gitcluster/internal/repository"
)

// A Manifest says what a backup holds.
type Manifest struct {
	Format       int                `json:"format"`
	Cluster      string             `json:"cluster"` // its id
	Name         string             `json:"name"`    // of the cluster
	Node         cluster.DeviceName `json:"node"`    // that wrote it
	Version      string             `json:"version"` // of its program
	Time         time.Time          `json:"time"`
	Users        []cluster.User     `json:"users"`
	Devices      []cluster.Device   `json:"devices"` // those that are no nodes
	Grants       []cluster.Grant    `json:"grants"`
	Repositories []Repository       `json:"repositories"`
}

const format = 1

// A Repository is one repository of a backup, at one version.
type Repository struct {
	Settings cluster.Repo     `json:"settings"`
	Position cluster.Position `json:"position"`
	Head     cluster.RefName  `json:"head"`
	Refs     int              `json:"refs"`
	// Gone is when it was found to be no longer in the cluster. What it held stays
	// in the backup: a mistake there must not reach it here.
	Gone time.Time `json:"gone,omitzero"`
}

func (r Repository) refsFile() string {
	return refsFile(r.Settings.ID, r.Position)
}

func refsFile(id cluster.RepoID, at cluster.Position) string {
	return fmt.Sprintf("refs/%s-%d-%d", id, at.Epoch, at.Version)
}

const (
	manifestFile = "manifest.json"
	lockFile     = "git-cluster-backup"
	// maxManifest bounds what is read of a folder that anybody may have made.
	maxManifest = 256 << 20
)

// A folder is the folder of a backup while somebody works on it.
type folder struct {
	dir   string
	lock  *os.File
	store *repository.Store
}

// open opens the folder of a backup, and with make an empty or new one, too. The
// caller must close it.
func open(dir string, make bool) (_ *folder, err error) {
	if !filepath.IsAbs(dir) {
		return nil, fmt.Errorf("%q is no absolute path", dir)
	}
	if make {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	ours := slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == lockFile })
	if !ours && (!make || len(entries) > 0) {
		return nil, cluster.WithHint(fmt.Errorf("%s holds no backup", dir), "a backup is made in a new or an empty folder")
	}
	f := &folder{dir: dir}
	if f.lock, err = os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.lock.Close()
		}
	}()
	if err := gitexec.TryLock(f.lock); err != nil {
		return nil, fmt.Errorf("somebody else works on the backup in %s: %w", dir, err)
	}
	// A Git process that outlives us holds the lock.
	if f.store, err = repository.NewStore(filepath.Join(dir, "repositories"), &gitexec.Runner{Lock: f.lock}); err != nil {
		return nil, err
	}
	return f, f.store.CleanUp()
}

func (f *folder) close() {
	f.store.Close()
	f.lock.Close()
}

func (f *folder) path(name string) string { return filepath.Join(f.dir, filepath.FromSlash(name)) }

// manifest reads the manifest; an empty backup has none, which is no error.
func (f *folder) manifest() (m Manifest, err error) {
	data, err := readBounded(f.path(manifestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	if err == nil && m.Format != format {
		err = fmt.Errorf("it has format %d, and this program knows %d", m.Format, format)
	}
	if err != nil {
		return m, fmt.Errorf("%s: %w", f.path(manifestFile), err)
	}
	for _, r := range m.Repositories {
		// It becomes part of paths.
		if _, err := cluster.ParseRepoID(string(r.Settings.ID)); err != nil {
			return m, fmt.Errorf("%s: %w", f.path(manifestFile), err)
		}
	}
	return m, nil
}

func readBounded(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxManifest+1))
	if err == nil && len(data) > maxManifest {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxManifest)
	}
	return data, err
}

// holds reports whether what the manifest says of a repository is there.
func (f *folder) holds(r Repository) bool {
	_, err := f.store.Open(r.Settings.ID)
	if err == nil {
		_, err = os.Stat(f.path(r.refsFile()))
	}
	return err == nil
}

// writeRefs writes "OID ref" for each ref, in order.
func writeRefs(path string, table *repository.RefTable) error {
	lines := make([]string, 0, table.Len())
	for ref, value := range table.Values {
		lines = append(lines, string(value)+" "+string(ref)+"\n")
	}
	slices.SortFunc(lines, func(a, b string) int {
		return strings.Compare(a[strings.IndexByte(a, ' '):], b[strings.IndexByte(b, ' '):])
	})
	return durable.WriteFile(path, []byte(strings.Join(lines, "")), 0o600)
}

// refs reads the refs of a repository, and compares them with the digest of their
// version.
func (f *folder) refs(r Repository) (*repository.RefTable, error) {
	data, err := readBounded(f.path(r.refsFile()))
	if err != nil {
		return nil, err
	}
	table := repository.NewRefTable()
	table.SetHead(r.Head)
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		text, name, _ := strings.Cut(lines.Text(), " ")
		oid, err := cluster.ParseOID(text)
		if err != nil {
			return nil, err
		}
		ref, err := cluster.ParseRefName(name)
		if err != nil {
			return nil, err
		}
		table.Set(ref, oid)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if table.Digest() != r.Position.Digest {
		return nil, fmt.Errorf("the refs in %s do not have the digest of version %d: the backup was changed", f.path(r.refsFile()), r.Position.Version)
	}
	return table, nil
}

// tidy removes the refs of versions that the manifest names no more.
func (f *folder) tidy(m Manifest) error {
	named := map[string]bool{}
	for _, r := range m.Repositories {
		named[filepath.Base(r.refsFile())] = true
	}
	entries, err := os.ReadDir(f.path("refs"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !named[e.Name()] {
			if err := os.Remove(f.path("refs/" + e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
