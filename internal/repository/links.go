package repository

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
)

// An objectID is the bytes of an object's id.
type objectID string

// A link is what an object says of another one.
type link struct {
	id   objectID
	kind kind
}

// errLinks: Git may understand it or not.
var errLinks = errors.New("not as Git writes it")

// hexID takes a line off that is a word and an id.
func hexID(data []byte, word string, width int) (id objectID, rest []byte, err error) {
	n := len(word) + 2*width
	if len(data) <= n || string(data[:len(word)]) != word || data[n] != '\n' {
		return "", nil, errLinks
	}
	raw, err := hex.DecodeString(string(data[len(word):n]))
	return objectID(raw), data[n+1:], err
}

// commitLinks returns the tree of a commit and its parents.
func commitLinks(data []byte, width int) (tree objectID, parents []objectID, err error) {
	tree, data, err = hexID(data, "tree ", width)
	for err == nil && bytes.HasPrefix(data, []byte("parent")) {
		var parent objectID
		parent, data, err = hexID(data, "parent ", width)
		parents = append(parents, parent)
	}
	return tree, parents, err
}

// tagLink returns what a tag is of.
func tagLink(data []byte, width int) (of link, err error) {
	// As short a tag is none to Git.
	if len(data) < 2*width+24 {
		return of, errLinks
	}
	if of.id, data, err = hexID(data, "object ", width); err != nil {
		return of, err
	}
	line, data, ok := bytes.Cut(data, []byte("\n"))
	name, isType := bytes.CutPrefix(line, []byte("type "))
	if of.kind = kindNames[string(name)]; !ok || !isType || of.kind == 0 {
		return of, errLinks
	}
	if line, _, ok = bytes.Cut(data, []byte("\n")); !ok || !bytes.HasPrefix(line, []byte("tag ")) {
		return of, errLinks
	}
	return of, nil
}

// A treeEntry is one of a tree that Git follows: a file, a symbolic link or another tree,
// and not a submodule, whose commits are another repository's.
type treeEntry struct {
	link
	name string
}

func treeEntries(data []byte, width int) (all []treeEntry, err error) {
	for len(data) > 0 {
		mode, rest, ok := bytes.Cut(data, []byte(" "))
		name, rest, named := bytes.Cut(rest, []byte("\x00"))
		if !ok || !named || len(name) == 0 || len(rest) < width {
			return nil, errLinks
		}
		e := treeEntry{link{objectID(rest[:width]), 0}, string(name)}
		data = rest[width:]
		switch t, err := fileType(mode); {
		case err != nil:
			return nil, err
		case t == 0o040000:
			e.kind = treeKind
		case t == 0o100000, t == 0o120000:
			e.kind = blobKind
		case t == 0o160000:
			continue
		default:
			return nil, fmt.Errorf("a file of mode %q", mode)
		}
		all = append(all, e)
	}
	return all, nil
}

// fileType is what a mode says besides the permissions.
func fileType(mode []byte) (t int, err error) {
	if len(mode) == 0 || len(mode) > 7 {
		return 0, errLinks
	}
	for _, digit := range mode {
		if digit < '0' || digit > '7' {
			return 0, errLinks
		}
		t = t<<3 | int(digit-'0')
	}
	return t &^ 0o7777, nil
}
