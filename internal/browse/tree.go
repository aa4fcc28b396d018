package browse

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"gitcluster/internal/cluster"
	"gitcluster/internal/gitcmd"
)

// A Mode is a tree entry's mode as Git keeps it, such as 0100644.
type Mode uint32

// The modes of tree entries.
const (
	ModeDir        Mode = 0o040000
	ModeFile       Mode = 0o100644
	ModeExecutable Mode = 0o100755
	ModeSymlink    Mode = 0o120000
	ModeSubmodule  Mode = 0o160000
)

// An Entry is one name in a directory.
type Entry struct {
	Name   string // bytes; no slash
	Mode   Mode
	Type   string // TypeBlob, TypeTree, or TypeCommit for a submodule
	OID    cluster.OID
	Size   int64  // of a blob; else 0
	Target string // of a symlink, at most 4 KiB; not with Lookup
}

// A Tree is a directory of a commit.
type Tree struct {
	OID       cluster.OID
	Entries   []Entry // directories first, then by name's bytes
	Truncated bool    // there are more than the 10,000 shown
}

// Tree lists a directory. root is a commit, a tree or a tag of one. A path that is
// not a directory is [cluster.ErrNotFound]; see [Repo.Lookup].
func (r *Repo) Tree(ctx context.Context, root cluster.OID, path string) (Tree, error) {
	ctx, done := r.bound(ctx)
	defer done()
	objects := r.objects(ctx)
	defer objects.close()
	e, err := r.lookup(objects, root, path)
	if err != nil {
		return Tree{}, err
	}
	if e.Type != TypeTree {
		return Tree{}, noPath(path + "/")
	}
	t := Tree{OID: e.OID}
	if t.Entries, err = objects.entries(e.OID); err != nil {
		return Tree{}, err
	}
	slices.SortFunc(t.Entries, func(a, b Entry) int {
		if c := cmp.Compare(rank(a), rank(b)); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	if len(t.Entries) > maxEntries {
		t.Entries, t.Truncated = t.Entries[:maxEntries], true
	}
	return t, objects.measure(t.Entries)
}

func rank(e Entry) int {
	if e.Type == TypeTree {
		return 0
	}
	return 1
}

// measure fills in sizes of blobs and targets of symlinks.
func (o *objects) measure(entries []Entry) error {
	var blobs []cluster.OID
	for _, e := range entries {
		if e.Type == TypeBlob {
			blobs = append(blobs, e.OID)
		}
	}
	sizes, err := o.sizes(blobs)
	if err != nil {
		return err
	}
	n, links := 0, 0
	for i := range entries {
		e := &entries[i]
		if e.Type != TypeBlob {
			continue
		}
		e.Size = sizes[n]
		n++
		// Each target is an object to read; a directory of links only is rare.
		const maxLinks, maxTarget = 200, 4096
		if e.Mode != ModeSymlink || links == maxLinks {
			continue
		}
		links++
		target, err := o.read(e.OID, maxTarget)
		if err != nil && !errors.Is(err, cluster.ErrNotFound) {
			return err
		}
		e.Target = string(target.data)
	}
	return nil
}

// Lookup says what is at a path: an entry whose Name is the last part of the path.
// The top is a directory without a name.
func (r *Repo) Lookup(ctx context.Context, root cluster.OID, path string) (Entry, error) {
	ctx, done := r.bound(ctx)
	defer done()
	objects := r.objects(ctx)
	defer objects.close()
	e, err := r.lookup(objects, root, path)
	if err == nil && e.Type == TypeBlob {
		var sizes []int64
		if sizes, err = objects.sizes([]cluster.OID{e.OID}); err == nil {
			e.Size = sizes[0]
		}
	}
	return e, err
}

// lookup is Lookup without the size.
func (r *Repo) lookup(objects *objects, root cluster.OID, path string) (Entry, error) {
	if err := r.checkOIDs(root); err != nil {
		return Entry{}, err
	}
	path, err := cleanPath(path)
	if err != nil {
		return Entry{}, err
	}
	tree, err := objects.treeOf(root)
	if err != nil {
		return Entry{}, err
	}
	at := Entry{Mode: ModeDir, Type: TypeTree, OID: tree}
	for name := range strings.SplitSeq(path, "/") {
		if name == "" {
			break
		}
		if at.Type != TypeTree {
			return Entry{}, noPath(path)
		}
		entries, err := objects.entries(at.OID)
		if err != nil {
			return Entry{}, err
		}
		i := slices.IndexFunc(entries, func(e Entry) bool { return e.Name == name })
		if i < 0 {
			return Entry{}, noPath(path)
		}
		at = entries[i]
	}
	return at, nil
}

// treeOf returns the tree of a commit, of a tag or of itself.
func (o *objects) treeOf(oid cluster.OID) (cluster.OID, error) {
	for from := range 20 {
		got, err := o.read(oid, 1024)
		if err != nil {
			return "", err
		}
		switch got.kind {
		case TypeTree:
			return oid, nil
		case TypeCommit:
			oid = cluster.OID(field(string(got.data), "tree"))
		case TypeTag:
			oid = cluster.OID(field(string(got.data), "object"))
		default:
			return "", noObject(oid, TypeTree)
		}
		if err := o.repo.checkOIDs(oid); err != nil {
			return "", fmt.Errorf("a malformed %s after %d others: %w", got.kind, from, err)
		}
	}
	return "", noObject(oid, TypeTree)
}

// maxTree is how large a tree may be: some 300,000 entries.
const maxTree = 16 << 20

// entries reads a tree.
func (o *objects) entries(oid cluster.OID) ([]Entry, error) {
	got, err := o.read(oid, maxTree)
	if err != nil {
		return nil, err
	}
	if got.kind != TypeTree {
		return nil, noObject(oid, TypeTree)
	}
	if got.size > maxTree {
		return nil, fmt.Errorf("directory %s has more than %d MiB of names: %w", oid, maxTree>>20, ErrTooLong)
	}
	entries, ok := parseTree(got.data, o.repo.digits()/2)
	if !ok {
		return nil, fmt.Errorf("tree %s is malformed", oid)
	}
	return entries, nil
}

// parseTree reads "MODE NAME\0HASH" repeated; width is the hash's bytes.
func parseTree(data []byte, width int) (entries []Entry, ok bool) {
	for len(data) > 0 {
		mode, rest, ok := bytes.Cut(data, []byte(" "))
		if !ok || len(mode) > 7 {
			return nil, false
		}
		name, rest, ok := bytes.Cut(rest, []byte{0})
		if !ok || len(rest) < width {
			return nil, false
		}
		m, err := strconv.ParseUint(string(mode), 8, 32)
		if err != nil {
			return nil, false
		}
		e := Entry{Name: string(name), Mode: Mode(m), Type: TypeBlob, OID: cluster.OID(hex.EncodeToString(rest[:width]))}
		switch e.Mode & 0o170000 {
		case ModeDir:
			e.Mode, e.Type = ModeDir, TypeTree
		case ModeSubmodule:
			e.Mode, e.Type = ModeSubmodule, TypeCommit
		case ModeSymlink:
			e.Mode = ModeSymlink
		default: // very old histories have modes such as 0100664
			if e.Mode&0o100 != 0 {
				e.Mode = ModeExecutable
			} else {
				e.Mode = ModeFile
			}
		}
		entries, data = append(entries, e), rest[width:]
	}
	return entries, true
}

// A PathQuery asks for paths of files (and submodules) below a directory.
type PathQuery struct {
	Root   cluster.OID // a commit, a tree or a tag of one
	Dir    string      // below this directory; "" for all
	Match  string      // part of the path, byte by byte; "" for all
	Fold   bool        // Match takes upper and lower case letters alike
	Offset int         // at most 100,000
	Limit  int         // at most 1000; 0 means 100
}

// Paths lists whole paths in Git's order; more says that there are others behind the last.
func (r *Repo) Paths(ctx context.Context, q PathQuery) (paths []string, more bool, err error) {
	ctx, done := r.bound(ctx)
	defer done()
	offset, limit, err := window(q.Offset, q.Limit)
	if err := cmp.Or(err, checkText("text to look for", q.Match)); err != nil {
		return nil, false, err
	}
	objects := r.objects(ctx)
	defer objects.close()
	dir, err := r.lookup(objects, q.Root, q.Dir)
	if err != nil {
		return nil, false, err
	}
	if dir.Type != TypeTree {
		return nil, false, noPath(q.Dir + "/")
	}
	below := strings.Trim(q.Dir, "/")
	if below != "" {
		below += "/"
	}
	wanted := q.Match
	if q.Fold {
		wanted = strings.ToLower(wanted)
	}
	err = r.stream(ctx, gitcmd.ListFiles(r.dir, dir.OID), nil, func(rd *bufio.Reader) error {
		for {
			name, cut, err := text(rd, 0, maxPath)
			if err != nil {
				return ended(err)
			}
			path := below + name
			tested := path
			if q.Fold {
				tested = strings.ToLower(tested)
			}
			switch {
			case cut || !strings.Contains(tested, wanted):
			case offset > 0:
				offset--
			case len(paths) == limit:
				more = true
				return errEnough
			default:
				paths = append(paths, path)
			}
		}
	})
	return paths, more, err
}
