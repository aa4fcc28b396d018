// Package nodecache remembers what a client has seen of the servers it uses,
// from one run of a program to the next: the nodes that a cluster has besides the
// configured ones, how long it takes to connect to each, and which has failed.
//
// Entry points: [Open]; [Cache.Nodes] and [Cache.Learn] for the nodes of a
// cluster; [Cache.Measure] for what is
// known of a server; [Cache.Heard], [Cache.Failed], [Cache.Served] and
// [Cache.NoNode] for what was seen of it, and [Cache.Save] at the end.
//
// It promises that any number of processes can use one directory at a time
// without waiting for each other; that a reader sees a whole file or none; that
// nothing in it grows without bound or is believed for ever; that what cannot be
// read or written is as if it were not there; and that a node is believed only
// from a file that nobody else can have written.
package nodecache

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"gitcluster/internal/cluster"
)

const (
	maxFile  = 256 << 10
	maxNodes = 256 // in a list
	maxLists = 64
	// maxVouchers bounds the servers that have confirmed one list.
	maxVouchers = 32
	// listLife is how long learned nodes are used without a word from a node that
	// the user has named. A node that was thrown out of the cluster and still
	// answers could otherwise vouch for itself for ever.
	listLife = 7 * 24 * time.Hour
	// confirmAfter is how old the last such word must be to be worth a new file.
	confirmAfter = 24 * time.Hour
)

// A Cache is a directory. The nil Cache is always empty. Its methods may be
// called from several goroutines.
type Cache struct {
	dir string
	now func() time.Time

	mu      sync.Mutex
	seen    *state // as read at the first question
	changes []change
}

// Open returns the user's cache: git-cluster in $XDG_CACHE_HOME or ~/.cache, or
// in the platform's own place. It makes nothing, and is nil where the platform
// names no place.
func Open() *Cache {
	dir, err := os.UserCacheDir()
	if err != nil {
		return nil
	}
	return In(filepath.Join(dir, "git-cluster"))
}

// In returns the cache in a directory, which need not exist.
func In(dir string) *Cache { return &Cache{dir: dir, now: time.Now} }

// Dir is the cache's directory, "" for none.
func (c *Cache) Dir() string {
	if c == nil {
		return ""
	}
	return c.dir
}

// A learned is the file of one list.
type learned struct {
	Origin    string           `json:"origin"`
	Confirmed time.Time        `json:"confirmed"` // by a node that the user has named
	List      cluster.NodeList `json:"list"`
	// Vouchers are the host keys of the named nodes that have confirmed it, by address.
	Vouchers map[string]string `json:"vouchers,omitempty"`
}

// A Voucher is a server that the user has named, and by which host key it was known.
type Voucher struct{ Addr, Key string }

// Nodes returns the nodes learned under an origin: a text that names whom the
// user trusts, and so whose word the list is.
func (c *Cache) Nodes(origin string) (cluster.NodeList, bool) {
	l, ok := c.learned(origin)
	return l.List, ok
}

func (c *Cache) learned(origin string) (l learned, ok bool) {
	if c == nil {
		return l, false
	}
	if !c.read(listFile(origin), &l) || l.Origin != origin || l.List.Cluster == "" || len(l.List.Nodes) > maxNodes {
		return learned{}, false
	}
	if age := c.now().Sub(l.Confirmed); age < 0 || age > listLife {
		return learned{}, false
	}
	return l, true
}

// Learn notes what a node has said of its cluster's nodes: their list, or nil
// for "as you have it". by is that node if the user has named it, and nil if only
// another node has; only the former can begin a list or prolong its life. What was
// heard from a named server that shows another host key now is forgotten: one of
// the two was not it.
func (c *Cache) Learn(origin string, list *cluster.NodeList, by *Voucher) {
	if c == nil || list != nil && (list.Cluster == "" || len(list.Nodes) == 0 || len(list.Nodes) > maxNodes) {
		return
	}
	l, known := c.learned(origin)
	named := by != nil
	if named && known && l.Vouchers[by.Addr] != "" && l.Vouchers[by.Addr] != by.Key {
		os.Remove(filepath.Join(c.dir, listFile(origin)))
		l, known = learned{}, false
	}
	switch {
	case list == nil && (!known || !named || c.now().Sub(l.Confirmed) < confirmAfter):
		return
	case list != nil && !named && (!known || l.List.Cluster != list.Cluster):
		return
	}
	if list != nil {
		l.List = *list
	}
	if named {
		l.Confirmed = c.now().UTC()
		if l.Vouchers == nil || len(l.Vouchers) >= maxVouchers {
			l.Vouchers = map[string]string{}
		}
		l.Vouchers[by.Addr] = by.Key
	}
	l.Origin = origin
	c.write(listFile(origin), l)
}

func listFile(origin string) string {
	sum := sha256.Sum256([]byte(origin))
	return "nodes-" + hex.EncodeToString(sum[:8]) + ".json"
}

// read fills v from a file, and reports whether it could.
func (c *Cache) read(name string, v any) bool {
	f, err := os.Open(filepath.Join(c.dir, name))
	if err != nil {
		return false
	}
	defer f.Close()
	// A host key that somebody else could put here would let them be a node.
	if !ownFile(f) {
		return false
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	return err == nil && len(text) <= maxFile && json.Unmarshal(text, v) == nil
}

// write replaces a file. Nothing is synced to disk: after a power loss the cache
// may be empty, and a client that waits for a disk would be slower than one
// without a cache.
func (c *Cache) write(name string, v any) {
	text, err := json.Marshal(v)
	if err != nil || len(text) > maxFile {
		return
	}
	if os.MkdirAll(c.dir, 0o700) != nil {
		return
	}
	c.tidy()
	f, err := os.CreateTemp(c.dir, tempPrefix+"*") // its mode is 0600
	if err != nil {
		return
	}
	_, err = f.Write(text)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(c.dir, name))
	}
	if err != nil {
		os.Remove(f.Name())
	}
}
