package repository

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// An index is the list of objects of a pack, read from its file of version 2
// (gitformat-pack(5)): a fan-out table, then the object ids in order.
type index struct {
	file   *os.File
	width  int // bytes of an object id
	fanout [256]uint32
}

const (
	indexMagic  = "\xfftOc\x00\x00\x00\x02"
	indexHeader = len(indexMagic) + 256*4
)

func openIndex(path string) (_ *index, err error) {
	// The hash in a pack's name is one of the repository's own kind.
	hash, _ := strings.CutPrefix(strings.TrimSuffix(filepath.Base(path), ".idx"), "pack-")
	x := &index{width: len(hash) / 2}
	if x.width != 20 && x.width != 32 {
		return nil, fmt.Errorf("%s: no name of a pack's index", path)
	}
	if x.file, err = os.Open(path); err != nil {
		return nil, err
	}
	head := make([]byte, indexHeader)
	if _, err = io.ReadFull(x.file, head); err == nil && string(head[:len(indexMagic)]) != indexMagic {
		err = fmt.Errorf("not an index of version 2")
	}
	if err != nil {
		x.file.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	last := uint32(0)
	for i := range x.fanout {
		x.fanout[i] = binary.BigEndian.Uint32(head[len(indexMagic)+4*i:])
		if x.fanout[i] < last {
			x.file.Close()
			return nil, fmt.Errorf("%s: its fan-out table is not in order", path)
		}
		last = x.fanout[i]
	}
	return x, nil
}

func (x *index) close() { x.file.Close() }

// len returns the number of objects.
func (x *index) len() int { return int(x.fanout[255]) }

// ids reads all object ids, in order.
func (x *index) ids() io.Reader {
	return io.NewSectionReader(x.file, int64(indexHeader), int64(x.len()*x.width))
}

// has reports whether an object is in the pack.
func (x *index) has(id []byte) (bool, error) {
	_, ok, err := x.find(id)
	return ok, err
}

// find returns which of the ids, in order, is that of an object.
func (x *index) find(id []byte) (n int, ok bool, err error) {
	if len(id) != x.width {
		return 0, false, nil
	}
	low, high := uint32(0), x.fanout[id[0]]
	if id[0] > 0 {
		low = x.fanout[id[0]-1]
	}
	at := make([]byte, x.width)
	for low < high {
		middle := low + (high-low)/2
		if _, err := x.file.ReadAt(at, int64(indexHeader)+int64(middle)*int64(x.width)); err != nil {
			return 0, false, err
		}
		switch c := bytes.Compare(at, id); {
		case c == 0:
			return int(middle), true, nil
		case c < 0:
			low = middle + 1
		default:
			high = middle
		}
	}
	return 0, false, nil
}

// offset returns where in the pack the object is that has the nth of the ids. A
// checksum of each object comes between ids and offsets, and after these come those
// that do not fit into 31 bits.
func (x *index) offset(n int) (int64, error) {
	const large = 1 << 31
	offsets := int64(indexHeader) + int64(x.len())*int64(x.width+4)
	var at [8]byte
	if _, err := x.file.ReadAt(at[:4], offsets+4*int64(n)); err != nil {
		return 0, err
	}
	offset := binary.BigEndian.Uint32(at[:])
	if offset < large {
		return int64(offset), nil
	}
	if _, err := x.file.ReadAt(at[:], offsets+4*int64(x.len())+8*int64(offset-large)); err != nil {
		return 0, err
	}
	return int64(binary.BigEndian.Uint64(at[:]) &^ (1 << 63)), nil
}
