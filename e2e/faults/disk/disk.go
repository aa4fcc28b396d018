// Package disk is the disk of a node in a fault run: it may be slow, and it remembers
// what it was told to keep, so that a power loss can take away all the rest. It is in
// no program that is released: only the fault run's builds call it.
//
// Entry points: in a node, [Sync], [SyncFS] and [Wait] stand where the module syncs, and
// [Environment] has the node's Git processes do the same by a library made of [Source].
// In the run, [Slow] and [Lose] make faults happen, and [Trust] takes a disk as
// it is for synced.
//
// A file's contents are kept once the file was synced after its last change, and a
// name once its directory was. A disk may keep more than that; it need not.
package disk

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// EnvState names the folder of what is remembered. It is beside the folder
	// "repositories" that it is about, on the same disk.
	EnvState = "GIT_CLUSTER_FAULT_DISK"
	// EnvLibrary names the library.
	EnvLibrary = "GIT_CLUSTER_FAULT_LIBRARY"
)

// The names in the folder.
const (
	slowFile    = "slow"    // there while the disk is slow: for how many milliseconds
	trustedFile = "trusted" // gone as soon as something could not be remembered
	syncedFile  = "synced"  // what files were when they were synced
	dirsFolder  = "dirs"    // what directories held when they were synced
)

// A memory is what one disk remembers.
type memory struct {
	state string
	root  string // of what it is about

	mu sync.Mutex
}

func open(state string) (*memory, error) {
	parent, err := filepath.EvalSymlinks(filepath.Dir(state))
	if err != nil {
		return nil, err
	}
	return &memory{state: filepath.Join(parent, filepath.Base(state)), root: filepath.Join(parent, "repositories")}, nil
}

// own is this process's, or nil.
var own = sync.OnceValue(func() *memory {
	state := os.Getenv(EnvState)
	if state == "" {
		return nil
	}
	m, err := open(state)
	if err != nil {
		return nil
	}
	return m
})

// Sync is f.Sync.
func Sync(f *os.File) error {
	Wait()
	m := own()
	if m == nil {
		return f.Sync()
	}
	return m.sync(f)
}

// SyncFS syncs, by what it is given, the file system on which the directory f is.
func SyncFS(f *os.File, sync func() error) error {
	Wait()
	m := own()
	if m == nil {
		return sync()
	}
	path, covered := m.covers(f.Name())
	if !covered {
		return sync()
	}
	var all []*listing
	files := &strings.Builder{}
	m.remember(func() error {
		return filepath.WalkDir(path, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				var l *listing
				if l, err = m.list(path); err == nil {
					all = append(all, l)
				}
			} else if err == nil {
				err = m.noteLine(files, path)
			}
			return gone(err)
		})
	})
	if err := sync(); err != nil {
		return err
	}
	m.remember(func() error {
		for _, l := range all {
			if err := m.publish(l); err != nil {
				return err
			}
		}
		return m.append(files.String())
	})
	return nil
}

// Wait takes the time of a slow disk.
func Wait() {
	m := own()
	if m == nil {
		return
	}
	text, err := os.ReadFile(filepath.Join(m.state, slowFile))
	if err != nil {
		return
	}
	if ms, err := strconv.Atoi(string(text)); err == nil {
		time.Sleep(time.Duration(ms) * time.Millisecond)
	}
}

// Environment is what a Git process of a node gets beside its own.
func Environment(env []string) []string {
	library := os.Getenv(EnvLibrary)
	if library == "" {
		return env
	}
	return append(env[:len(env):len(env)], "LD_PRELOAD="+library, EnvState+"="+os.Getenv(EnvState))
}

func (m *memory) sync(f *os.File) error {
	path, covered := m.covers(f.Name())
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case !covered:
		return f.Sync()
	case !info.IsDir():
		if err := f.Sync(); err != nil {
			return err
		}
		m.remember(func() error {
			text := &strings.Builder{}
			if err := m.noteLine(text, path); err != nil {
				return gone(err)
			}
			return m.append(text.String())
		})
		return nil
	}
	// What is made while the disk is at work may not have come along.
	var l *listing
	m.remember(func() (err error) {
		l, err = m.list(path)
		return gone(err)
	})
	if err := f.Sync(); err != nil || l == nil {
		return err
	}
	m.remember(func() error { return m.publish(l) })
	return nil
}

// covers reports whether a path is below the root, and gives it without links.
func (m *memory) covers(path string) (string, bool) {
	path, err := filepath.EvalSymlinks(path)
	return path, err == nil && (path == m.root || strings.HasPrefix(path, m.root+string(filepath.Separator)))
}

// remember does something with what is remembered. If that fails, as on a full disk,
// nothing may be taken away any more.
func (m *memory) remember(do func() error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := do(); err != nil {
		os.Remove(filepath.Join(m.state, trustedFile))
	}
}

// gone makes nothing of the error that something was removed meanwhile.
func gone(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// noteLine writes what a file is.
func (m *memory) noteLine(w *strings.Builder, path string) error {
	info, err := os.Stat(path)
	if err == nil && info.Mode().IsRegular() {
		fmt.Fprintln(w, identity(info))
	}
	return err
}

// identity names a file with its contents: whoever writes to it changes that.
func identity(info os.FileInfo) string {
	return fmt.Sprintf("%d %d %d", inode(info), info.Size(), info.ModTime().UnixNano())
}

func (m *memory) append(text string) error {
	f, err := os.OpenFile(filepath.Join(m.state, syncedFile), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(text)
	return err
}

// A listing is what a directory holds. Its files are kept by further names, since their
// own may go to others.
type listing struct {
	folder string            // where they are kept
	Files  []string          // their names
	Dirs   map[string]string // the keys of those in it, by name
}

const listFile = "list" // no file of a repository is called that, and it is beside them

// list makes the listing of a directory. The caller holds mu.
func (m *memory) list(dir string) (*listing, error) {
	k, err := key(dir)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	l := &listing{Dirs: map[string]string{}}
	// The newest has the greatest number.
	all := filepath.Join(m.state, dirsFolder, k)
	if err := os.MkdirAll(all, 0o700); err != nil {
		return nil, err
	}
	n, err := newest(all, "")
	if err != nil {
		return nil, err
	}
	l.folder = filepath.Join(all, strconv.Itoa(n+1))
	if err := os.MkdirAll(filepath.Join(l.folder, "files"), 0o700); err != nil {
		return nil, err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if e.IsDir() {
			k, err := key(path)
			if err == nil {
				l.Dirs[e.Name()] = k
			} else if gone(err) != nil {
				return nil, err
			}
			continue
		}
		err := os.Link(path, filepath.Join(l.folder, "files", e.Name()))
		if err == nil {
			l.Files = append(l.Files, e.Name())
		} else if gone(err) != nil {
			return nil, err
		}
	}
	return l, nil
}

// publish makes a listing that of a directory that was synced. The caller holds mu.
func (m *memory) publish(l *listing) error {
	text, err := json.Marshal(l)
	if err != nil {
		return err
	}
	next := filepath.Join(l.folder, listFile+".new")
	if err := os.WriteFile(next, text, 0o600); err != nil {
		return err
	}
	if err := os.Rename(next, filepath.Join(l.folder, listFile)); err != nil {
		return err
	}
	// Older ones count no more.
	number, err := strconv.Atoi(filepath.Base(l.folder))
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(filepath.Dir(l.folder))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil && n < number {
			if err := os.RemoveAll(filepath.Join(filepath.Dir(l.folder), e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// newest is the greatest number of a folder in all that has a file, or 0.
func newest(all, file string) (number int, err error) {
	entries, err := os.ReadDir(all)
	if err != nil {
		return 0, gone(err)
	}
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil || n <= number {
			continue
		}
		if _, err := os.Stat(filepath.Join(all, e.Name(), file)); err == nil {
			number = n
		}
	}
	return number, nil
}
