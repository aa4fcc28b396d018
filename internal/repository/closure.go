package repository

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"gitcluster/internal/cluster"
)

// Most packs that come hold one commit, and Git takes longer to start than to look
// through it. So a history is first looked at in this process, which says yes or
// nothing at all: then Git is asked. It says yes only to what it has followed itself,
// from the wants to what the haves' own trees name, and by ids that it has compared
// with what it read.

const (
	// maxFollowed is how many commits, trees and tags are followed in this process, and how
	// many objects a pack may have that is stored in it.
	maxFollowed = 1000
	// maxBases is how many trees of haves each tree is compared with.
	maxBases = 16
)

// errOpen: what was looked at here does not tell whether the history is complete.
var errOpen = errors.New("not known to be complete")

// proven reports whether everything that wants reach is here: in the pack of the
// quarantine, or behind the haves, whose history is complete. If not, nothing is known.
func (r *Repository) proven(wants, haves []cluster.OID, quarantine string) bool {
	if r.apart || len(wants) == 0 || len(wants) > maxFollowed {
		return false
	}
	c := &closure{
		objects: objectReader{dir: filepath.Join(r.Dir, "objects"), width: len(wants[0]) / 2, inflater: inflater{left: maxReads}},
		haves:   map[objectID]bool{}, seen: map[objectID]kind{}, known: map[objectID]kind{}, names: map[objectID]map[string]link{},
	}
	defer c.objects.close()
	return c.prove(wants, haves, quarantine) == nil
}

// A closure is a walk over what a pack adds to a repository.
type closure struct {
	objects objectReader
	haves   map[objectID]bool
	seen    map[objectID]kind // those that were followed
	roots   []objectID        // trees of the commits that were
	bases   []objectID        // trees of those haves that were met
	known   map[objectID]kind // trees and files behind a have
	names   map[objectID]map[string]link
	open    []link // those that were not in the pack, nor known when they were met
}

func (c *closure) prove(wants, haves []cluster.OID, quarantine string) error {
	if err := c.openQuarantine(quarantine); err != nil {
		return err
	}
	for _, oid := range haves {
		id, err := c.id(oid)
		if err != nil {
			return err
		}
		c.haves[id] = true
	}
	var todo []link
	for _, oid := range wants {
		id, err := c.id(oid)
		if err != nil {
			return err
		}
		todo = append(todo, link{id: id})
	}
	for len(todo) > 0 {
		next := todo[len(todo)-1]
		links, err := c.follow(next)
		if err != nil {
			return err
		}
		todo = append(todo[:len(todo)-1], links...)
	}
	if len(c.bases) > maxBases {
		return errBeyond
	}
	for _, root := range c.roots {
		if err := c.tree(root, c.bases); err != nil {
			return err
		}
	}
	for _, l := range c.open {
		if c.known[l.id] != l.kind {
			return errOpen
		}
	}
	return nil
}

// openQuarantine opens the one pack that has come.
func (c *closure) openQuarantine(quarantine string) error {
	if quarantine == "" {
		return nil
	}
	dir := filepath.Join(quarantine, "pack")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".idx") {
			continue
		}
		if c.objects.more != nil {
			return fmt.Errorf("%s: more than one pack", dir)
		}
		if c.objects.more, err = openPack(filepath.Join(dir, e.Name()), &c.objects.inflater); err != nil {
			return err
		}
		if c.objects.more.index.width != c.objects.width {
			return fmt.Errorf("%s: a pack of other ids", dir)
		}
	}
	return nil
}

func (c *closure) id(oid cluster.OID) (objectID, error) {
	raw, err := hex.DecodeString(string(oid))
	if err == nil && len(raw) != c.objects.width {
		err = fmt.Errorf("%q is not an id of this repository", oid)
	}
	return objectID(raw), err
}

// note notes that an object is followed. It reports whether it already was, and fails if
// it was as another kind.
func (c *closure) note(l link) (already bool, err error) {
	if kind, ok := c.seen[l.id]; ok {
		if kind != l.kind {
			return true, fmt.Errorf("%x is named as a %v and as a %v", string(l.id), kind, l.kind)
		}
		return true, nil
	}
	if len(c.seen) == maxFollowed {
		return false, errBeyond
	}
	c.seen[l.id] = l.kind
	return false, nil
}

// inPack returns where in the quarantine an object is, and its kind.
func (c *closure) inPack(id objectID) (offset int64, k kind, ok bool, err error) {
	if c.objects.more == nil {
		return 0, 0, false, nil
	}
	if offset, ok, err = c.objects.more.find(id); err != nil || !ok {
		return 0, 0, false, err
	}
	k, err = c.objects.more.kindAt(offset)
	return offset, k, err == nil, err
}

// follow returns the commits and tags that an object names. A want comes without its
// kind. What a have reaches is here; that it is here itself is looked at.
func (c *closure) follow(l link) (links []link, err error) {
	if c.haves[l.id] {
		return nil, c.have(l)
	}
	offset, k, ok, err := c.inPack(l.id)
	if err != nil {
		return nil, err
	}
	if !ok || l.kind != 0 && l.kind != k {
		return nil, errOpen
	}
	l.kind = k
	if k == treeKind {
		c.roots = append(c.roots, l.id)
		return nil, nil
	}
	if already, err := c.note(l); err != nil || already || k == blobKind {
		return nil, err
	}
	o, err := c.objects.readAt(c.objects.more, offset, l.id)
	if err != nil {
		return nil, err
	}
	if k == tagKind {
		of, err := tagLink(o.data, c.objects.width)
		return []link{of}, err
	}
	tree, parents, err := commitLinks(o.data, c.objects.width)
	c.roots = append(c.roots, tree)
	for _, parent := range parents {
		links = append(links, link{parent, commitKind})
	}
	return links, err
}

// have looks at a have that was met. It must be in the repository itself.
func (c *closure) have(l link) error {
	o, err := c.objects.readOld(l.id)
	if err != nil {
		return err
	}
	if l.kind != 0 && l.kind != o.kind {
		return errOpen
	}
	l.kind = o.kind
	if already, err := c.note(l); err != nil || already || o.kind != commitKind {
		return err
	}
	tree, _, err := commitLinks(o.data, c.objects.width)
	c.bases = append(c.bases, tree)
	c.known[tree] = treeKind
	return err
}

// tree follows a tree beside those trees of the haves that are at the same place. What
// these name is known; of the rest, all that is in the pack is followed.
func (c *closure) tree(id objectID, bases []objectID) error {
	if c.known[id] == treeKind {
		return nil
	}
	offset, k, ok, err := c.inPack(id)
	switch {
	case err != nil:
		return err
	case !ok:
		c.open = append(c.open, link{id, treeKind})
		return nil
	case k != treeKind:
		return errOpen
	}
	if already, err := c.note(link{id, treeKind}); err != nil || already {
		return err
	}
	o, err := c.objects.readAt(c.objects.more, offset, id)
	if err != nil {
		return err
	}
	entries, err := treeEntries(o.data, c.objects.width)
	if err != nil {
		return err
	}
	for _, base := range bases {
		if err := c.base(base); err != nil {
			return err
		}
	}
	for _, e := range entries {
		if c.known[e.id] == e.kind {
			continue
		}
		if e.kind == treeKind {
			var below []objectID
			for _, base := range bases {
				if beside := c.names[base][e.name]; beside.kind == treeKind {
					below = append(below, beside.id)
				}
			}
			if err := c.tree(e.id, below); err != nil {
				return err
			}
			continue
		}
		_, k, ok, err := c.inPack(e.id)
		switch {
		case err != nil:
			return err
		case !ok:
			c.open = append(c.open, e.link)
		case k != blobKind:
			return errOpen
		}
	}
	return nil
}

// base reads a tree of a have: what it names is known.
func (c *closure) base(id objectID) error {
	if c.names[id] != nil {
		return nil
	}
	o, err := c.objects.read(id)
	if err != nil {
		return err
	}
	if o.kind != treeKind {
		return errOpen
	}
	entries, err := treeEntries(o.data, c.objects.width)
	if err != nil {
		return err
	}
	c.names[id] = map[string]link{}
	for _, e := range entries {
		c.known[e.id] = e.kind
		c.names[id][e.name] = e.link
	}
	return nil
}
