package disk

import (
	_ "embed"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Source is the library that a node's Git processes are to load, in C.
//
//go:embed preload/preload.c
var Source string

// Slow makes every sync take longer by d; 0 makes the disk as fast as it is.
func Slow(state string, d time.Duration) error {
	path := filepath.Join(state, slowFile)
	if d == 0 {
		return gone(os.Remove(path))
	}
	if err := os.WriteFile(path+".new", []byte(strconv.FormatInt(d.Milliseconds(), 10)), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Trust forgets what was remembered and takes everything that is there for synced.
// Nobody may use the disk meanwhile.
func Trust(state string) error {
	m, err := open(state)
	if err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(filepath.Join(m.state, dirsFolder)), gone(os.Remove(filepath.Join(m.state, syncedFile))),
		os.MkdirAll(m.state, 0o700)); err != nil {
		return err
	}
	text := &strings.Builder{}
	err = filepath.WalkDir(m.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return errors.Join(err, m.noteLine(text, path))
		}
		l, err := m.list(path)
		if err != nil {
			return err
		}
		return m.publish(l)
	})
	if err != nil {
		return err
	}
	if err := m.append(text.String()); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(m.state, trustedFile), nil, 0o600)
}

// ErrUntold: what was synced is not known, because the disk was full.
var ErrUntold = errors.New("not everything that was synced is known")

// Lose makes of the disk what a power loss may leave, and takes that for synced. A
// directory goes back to what it held when it was last synced, unless survives says
// that its names have reached the disk by chance; and of a file that was not synced
// since it was written only the name is left. Nobody may use the disk meanwhile. It
// returns how many names and contents were lost.
func Lose(state string, survives func(dir string) bool) (lost int, err error) {
	m, err := open(state)
	if err != nil {
		return 0, err
	}
	if _, err := os.Stat(filepath.Join(m.state, trustedFile)); err != nil {
		return 0, ErrUntold
	}
	text, err := os.ReadFile(filepath.Join(m.state, syncedFile))
	if err != nil {
		return 0, err
	}
	l := &loss{memory: m, survives: survives, synced: map[string]bool{}}
	for line := range strings.Lines(string(text)) {
		l.synced[strings.TrimSpace(line)] = true
	}
	k, err := key(m.root)
	if err == nil {
		err = l.dir(m.root, k)
	}
	if err != nil {
		return l.lost, err
	}
	return l.lost, Trust(state)
}

// A loss is one power loss.
type loss struct {
	*memory
	survives func(dir string) bool
	synced   map[string]bool // identities
	lost     int
}

// dir brings a directory, which has been made if it was not there, to what it was when
// the directory with the key was last synced.
func (l *loss) dir(path, k string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	now, err := key(path)
	if err != nil {
		return err
	}
	if now == k && l.survives(path) {
		for _, e := range entries {
			if err := l.entry(filepath.Join(path, e.Name()), e.IsDir()); err != nil {
				return err
			}
		}
		return nil
	}
	kept, err := l.last(k)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := filepath.Join(path, e.Name())
		if l.same(name, e, kept) {
			continue
		}
		l.lost++
		if err := os.RemoveAll(name); err != nil {
			return err
		}
	}
	for _, file := range kept.Files {
		name := filepath.Join(path, file)
		if _, err := os.Lstat(name); err == nil {
			continue
		}
		l.lost++
		if err := os.Link(filepath.Join(kept.folder, "files", file), name); err != nil {
			return err
		}
	}
	for _, file := range kept.Files {
		if err := l.entry(filepath.Join(path, file), false); err != nil {
			return err
		}
	}
	for _, folder := range slices.Sorted(maps.Keys(kept.Dirs)) {
		name, k := filepath.Join(path, folder), kept.Dirs[folder]
		if err := os.Mkdir(name, 0o700); err == nil {
			l.lost++
		} else if !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := l.dir(name, k); err != nil {
			return err
		}
	}
	return nil
}

// entry is what becomes of something whose name is there.
func (l *loss) entry(path string, dir bool) error {
	if dir {
		k, err := key(path)
		if err != nil {
			return err
		}
		return l.dir(path, k)
	}
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || l.synced[identity(info)] || info.Size() == 0 {
		return err
	}
	l.lost++
	return os.Truncate(path, 0)
}

// last is the listing with which a directory was last synced, or an empty one.
func (l *loss) last(k string) (kept listing, err error) {
	all := filepath.Join(l.state, dirsFolder, k)
	n, err := newest(all, listFile)
	if err != nil || n == 0 {
		return kept, err
	}
	folder := filepath.Join(all, strconv.Itoa(n))
	text, err := os.ReadFile(filepath.Join(folder, listFile))
	if err == nil {
		err = json.Unmarshal(text, &kept)
	}
	kept.folder = folder
	return kept, err
}

// same reports whether what has a name is what had it when the directory was synced.
func (l *loss) same(path string, e fs.DirEntry, kept listing) bool {
	if e.IsDir() {
		k, err := key(path)
		return err == nil && kept.Dirs[e.Name()] == k
	}
	if !slices.Contains(kept.Files, e.Name()) {
		return false
	}
	there, err := os.Lstat(path)
	if err != nil {
		return false
	}
	then, err := os.Lstat(filepath.Join(kept.folder, "files", e.Name()))
	return err == nil && os.SameFile(there, then)
}
