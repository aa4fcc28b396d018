package repository

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Most copies are of one commit, and Git takes longer to start than to write the index of
// such a pack. One that a peer has made, and that stands by itself, is stored in this
// process; all others are Git's, and so is whatever is wrong with one.

// maxSmall is the longest pack that is stored in this process, and passed on as it came.
const maxSmall = 256 << 10

// storeSmall stores a pack in a quarantine, with its index, both synced to disk. It must
// have all that its deltas are made from.
func storeSmall(pack []byte, width int, quarantine string) error {
	sum, index, err := indexSmall(pack, width)
	if err != nil {
		return err
	}
	dir := filepath.Join(quarantine, "pack")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	name := filepath.Join(dir, "pack-"+sum)
	if err := writeNew(name+".pack", pack); err != nil {
		return err
	}
	return writeNew(name+".idx", index)
}

// writeNew writes a file that nobody changes any more, synced to disk.
func writeNew(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return syncPath(path)
}

// A packed is one object of a pack.
type packed struct {
	id     objectID
	offset int64
	crc    uint32 // of what it has in the pack
	entry  entry
	data   []byte // or the delta
}

// indexSmall returns the index of a pack, of version 2 (gitformat-pack(5)), and the hash
// that the pack ends with.
func indexSmall(pack []byte, width int) (sum string, index []byte, err error) {
	const header = 12
	end := len(pack) - width
	if end < header || string(pack[:4]) != "PACK" || binary.BigEndian.Uint32(pack[4:]) != 2 {
		return "", nil, errors.New("not a pack of version 2")
	}
	newHash := sha1.New
	if width == sha256.Size {
		newHash = sha256.New
	}
	h := newHash()
	h.Write(pack[:end])
	if !bytes.Equal(h.Sum(nil), pack[end:]) {
		return "", nil, errors.New("its checksum is wrong")
	}
	count := binary.BigEndian.Uint32(pack[8:])
	if count > maxFollowed {
		return "", nil, errBeyond
	}
	f := &inflater{left: maxReads}
	objects, offset := make([]*packed, count), int64(header)
	for i := range objects {
		o := &packed{offset: offset}
		left := bytes.NewReader(pack[offset:end])
		in := f.from(left)
		if o.entry, err = readEntry(in, width); err != nil {
			return "", nil, err
		}
		if err = f.start(); err != nil {
			return "", nil, err
		}
		if o.data, err = f.rest(o.entry.size); err != nil {
			return "", nil, err
		}
		next := int64(end - left.Len() - in.Buffered())
		o.crc = crc32.ChecksumIEEE(pack[offset:next])
		objects[i], offset = o, next
	}
	if offset != int64(end) {
		return "", nil, fmt.Errorf("%d bytes more than its %d objects", int64(end)-offset, count)
	}
	if err := f.identify(objects, newHash); err != nil {
		return "", nil, err
	}
	slices.SortFunc(objects, func(a, b *packed) int { return strings.Compare(string(a.id), string(b.id)) })
	return hex.EncodeToString(pack[end:]), writeIndex(objects, pack[end:], newHash), nil
}

// identify finds the ids of all objects. What a delta is made from may come after it.
func (f *inflater) identify(objects []*packed, newHash func() hash.Hash) error {
	at, by := map[int64]*packed{}, map[objectID]*packed{}
	for left := objects; len(left) > 0; {
		var later []*packed
		for _, o := range left {
			base := at[o.offset+o.entry.base]
			if o.entry.kind == idDelta {
				base = by[o.entry.of]
			}
			switch {
			case o.entry.kind.isObject():
			case base == nil:
				later = append(later, o)
				continue
			default:
				data, err := f.patch(base.data, o.data)
				if err != nil {
					return err
				}
				o.entry.kind, o.data = base.entry.kind, data
			}
			h := newHash()
			fmt.Fprintf(h, "%v %d\x00", o.entry.kind, len(o.data))
			h.Write(o.data)
			o.id = objectID(h.Sum(nil))
			if by[o.id] != nil {
				return errors.New("an object is there twice")
			}
			at[o.offset], by[o.id] = o, o
		}
		if len(later) == len(left) {
			return errors.New("a delta of what is not in the pack")
		}
		left = later
	}
	return nil
}

// writeIndex returns the index for objects in the order of their ids.
func writeIndex(objects []*packed, sum []byte, newHash func() hash.Hash) []byte {
	x := []byte(indexMagic)
	for first, n := 0, 0; first < 256; first++ {
		for n < len(objects) && int(objects[n].id[0]) == first {
			n++
		}
		x = binary.BigEndian.AppendUint32(x, uint32(n))
	}
	for _, o := range objects {
		x = append(x, o.id...)
	}
	for _, o := range objects {
		x = binary.BigEndian.AppendUint32(x, o.crc)
	}
	for _, o := range objects {
		x = binary.BigEndian.AppendUint32(x, uint32(o.offset))
	}
	x = append(x, sum...)
	h := newHash()
	h.Write(x)
	return h.Sum(x)
}

// readSmall reads a pack of at most maxSmall bytes. If it is longer, more begins with what
// was read. When the context ends, it leaves the reader to whoever ends that, too.
func readSmall(ctx context.Context, r io.Reader) (pack []byte, more io.Reader, err error) {
	type result struct {
		pack []byte
		err  error
	}
	ended := make(chan result, 1)
	go func() {
		pack, err := io.ReadAll(io.LimitReader(r, maxSmall+1))
		ended <- result{pack, err}
	}()
	select {
	case got := <-ended:
		if got.err != nil || len(got.pack) <= maxSmall {
			return got.pack, nil, got.err
		}
		return nil, io.MultiReader(bytes.NewReader(got.pack), r), nil
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
}
