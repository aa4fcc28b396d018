package repository

import (
	"bufio"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// What is read here was made by a stranger, and is read into this process's memory:
// all of it is bounded, and whatever is beyond the bounds is left to Git.
const (
	maxRead  = 1 << 20 // bytes of an object, and of everything that it is made from
	maxReads = 4 << 20 // bytes of all together
	maxChain = 64      // objects that one is made from; Git makes chains of 50
)

// errBeyond: Git can read it, and this process does not.
var errBeyond = errors.New("too much to be read in this process")

// A kind is that of an object, as a pack has it (gitformat-pack(5)).
type kind byte

const (
	commitKind kind = 1
	treeKind   kind = 2
	blobKind   kind = 3
	tagKind    kind = 4
	// Instead of an object a pack may have what makes it from another one, which is
	// named by how far it is before this one, or by its id.
	offsetDelta kind = 6
	idDelta     kind = 7
)

func (k kind) isObject() bool { return commitKind <= k && k <= tagKind }

// kindNames are those in the header of an object, and in a tag.
var kindNames = map[string]kind{"commit": commitKind, "tree": treeKind, "blob": blobKind, "tag": tagKind}

func (k kind) String() string {
	for name, of := range kindNames {
		if of == k {
			return name
		}
	}
	return fmt.Sprintf("kind %d", byte(k))
}

// An object is one whole object.
type object struct {
	kind kind
	data []byte
}

// An inflater decompresses for one goroutine, within its bounds.
type inflater struct {
	left int64 // bytes that may still be made
	in   *bufio.Reader
	out  io.ReadCloser
}

// take counts bytes that are to be made.
func (f *inflater) take(size int64) error {
	if size < 0 || size > maxRead || size > f.left {
		return errBeyond
	}
	f.left -= size
	return nil
}

// from begins to read what is compressed there.
func (f *inflater) from(r io.Reader) *bufio.Reader {
	if f.in == nil {
		f.in = bufio.NewReaderSize(r, 4096)
	}
	f.in.Reset(r)
	return f.in
}

// start decompresses what comes next.
func (f *inflater) start() (err error) {
	if f.out == nil {
		f.out, err = zlib.NewReader(f.in)
		return err
	}
	return f.out.(zlib.Resetter).Reset(f.in, nil)
}

// rest reads what is left, which must have exactly this size.
func (f *inflater) rest(size int64) ([]byte, error) {
	if err := f.take(size); err != nil {
		return nil, err
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(f.out, data); err != nil {
		return nil, err
	}
	// What was read is only checked at its end.
	if n, err := f.out.Read(make([]byte, 1)); n > 0 || err != io.EOF {
		return nil, fmt.Errorf("an object is longer than %d bytes, or broken: %v", size, err)
	}
	return data, nil
}

// A packFile reads objects of one pack.
type packFile struct {
	index *index
	file  *os.File
	size  int64 // without the checksum at the end
	width int   // bytes of an object id
	*inflater
	read map[int64]object // by where they are
}

// openPack opens the pack of an index, which is at path.
func openPack(path string, f *inflater) (_ *packFile, err error) {
	p := &packFile{inflater: f, read: map[int64]object{}}
	if p.index, err = openIndex(path); err != nil {
		return nil, err
	}
	if p.file, err = os.Open(strings.TrimSuffix(path, ".idx") + ".pack"); err != nil {
		p.index.close()
		return nil, err
	}
	info, err := p.file.Stat()
	if err != nil {
		p.close()
		return nil, err
	}
	p.width = p.index.width
	p.size = info.Size() - int64(p.width)
	return p, nil
}

func (p *packFile) close() {
	p.index.close()
	p.file.Close()
}

// find returns where an object is.
func (p *packFile) find(id objectID) (offset int64, ok bool, err error) {
	n, ok, err := p.index.find([]byte(id))
	if err == nil && ok {
		offset, err = p.index.offset(n)
	}
	return offset, ok && err == nil, err
}

// An entry is what a pack has at one place.
type entry struct {
	kind kind
	size int64    // of its data, decompressed
	base int64    // where that is which it is a delta of
	of   objectID // or the id of that
}

// entry reads what is at a place up to its data, which comes next from the inflater.
func (p *packFile) entry(offset int64) (e entry, err error) {
	const header = 12
	if offset < header || offset >= p.size {
		return e, fmt.Errorf("there is nothing at %d in a pack of %d bytes", offset, p.size)
	}
	if e, err = readEntry(p.from(io.NewSectionReader(p.file, offset, p.size-offset)), p.width); err != nil {
		return e, err
	}
	switch e.kind {
	case offsetDelta:
		e.base += offset
	case idDelta:
		var ok bool
		if e.base, ok, err = p.find(e.of); err == nil && !ok {
			err = errors.New("a delta of what is not in the pack")
		}
	}
	return e, err
}

// readEntry reads what stands before the data of an entry. The base of a delta is how far
// it is from the entry.
func readEntry(in *bufio.Reader, width int) (e entry, err error) {
	b, err := in.ReadByte()
	if err != nil {
		return e, err
	}
	e.kind, e.size = kind(b>>4&7), int64(b&15)
	for shift := 4; b&0x80 != 0; shift += 7 {
		if b, err = in.ReadByte(); err != nil {
			return e, err
		}
		if shift > 32 {
			return e, errBeyond
		}
		e.size |= int64(b&0x7f) << shift
	}
	switch {
	case e.kind == offsetDelta:
		var back int64
		for first := true; first || b&0x80 != 0; first = false {
			if b, err = in.ReadByte(); err != nil {
				return e, err
			}
			if !first {
				back++
			}
			if back >= 1<<48 {
				return e, errBeyond
			}
			back = back<<7 | int64(b&0x7f)
		}
		e.base = -back
		if back == 0 {
			return e, errors.New("a delta of itself")
		}
	case e.kind == idDelta:
		id := make([]byte, width)
		_, err = io.ReadFull(in, id)
		e.of = objectID(id)
	case !e.kind.isObject():
		err = fmt.Errorf("an object of %v", e.kind)
	}
	return e, err
}

// kindAt returns the kind of an object, without its data.
func (p *packFile) kindAt(offset int64) (kind, error) {
	for range maxChain {
		e, err := p.entry(offset)
		if err != nil || e.kind.isObject() {
			return e.kind, err
		}
		offset = e.base
	}
	return 0, errBeyond
}

// object reads an object. What it is a delta of is kept: it is mostly wanted, too.
func (p *packFile) object(offset int64) (object, error) {
	type delta struct {
		at   int64
		data []byte
	}
	var deltas []delta
	o, ok := p.read[offset]
	for at := offset; !ok; o, ok = p.read[at] {
		if len(deltas) > maxChain {
			return object{}, errBeyond
		}
		e, err := p.entry(at)
		if err != nil {
			return object{}, err
		}
		if e.size > maxRead {
			return object{}, errBeyond
		}
		if err := p.start(); err != nil {
			return object{}, err
		}
		data, err := p.rest(e.size)
		if err != nil {
			return object{}, err
		}
		if e.kind.isObject() {
			o = object{e.kind, data}
			p.read[at] = o
			break
		}
		deltas = append(deltas, delta{at, data})
		at = e.base
	}
	for len(deltas) > 0 {
		d := deltas[len(deltas)-1]
		deltas = deltas[:len(deltas)-1]
		data, err := p.patch(o.data, d.data)
		if err != nil {
			return object{}, err
		}
		o.data = data
		p.read[d.at] = o
	}
	return o, nil
}

var errDelta = errors.New("a broken delta")

// patch makes an object out of another one and a delta (gitformat-pack(5)).
func (f *inflater) patch(base, delta []byte) ([]byte, error) {
	const least = 4 // Git takes no shorter one
	if len(delta) < least {
		return nil, errDelta
	}
	from, delta, ok := deltaSize(delta)
	if !ok || from != int64(len(base)) {
		return nil, errDelta
	}
	to, delta, ok := deltaSize(delta)
	if !ok {
		return nil, errDelta
	}
	if err := f.take(to); err != nil {
		return nil, err
	}
	made := make([]byte, 0, to)
	for len(delta) > 0 {
		code := delta[0]
		delta = delta[1:]
		part := delta
		switch {
		case code == 0:
			return nil, errDelta // not in use
		case code&0x80 == 0:
			n := int(code)
			if n > len(delta) {
				return nil, errDelta
			}
			part, delta = delta[:n], delta[n:]
		default:
			// Each bit stands for a byte that is not 0: four of the place, three of the size.
			var value [7]int
			for bit := range value {
				if code&(1<<bit) != 0 {
					if len(delta) == 0 {
						return nil, errDelta
					}
					value[bit] = int(delta[0])
					delta = delta[1:]
				}
			}
			at := value[0] | value[1]<<8 | value[2]<<16 | value[3]<<24
			n := value[4] | value[5]<<8 | value[6]<<16
			if n == 0 {
				n = 0x10000
			}
			if at < 0 || at > len(base) || n > len(base)-at {
				return nil, errDelta
			}
			part = base[at : at+n]
		}
		if len(part) > cap(made)-len(made) {
			return nil, errDelta
		}
		made = append(made, part...)
	}
	if int64(len(made)) != to {
		return nil, errDelta
	}
	return made, nil
}

// deltaSize reads a size that a delta begins with.
func deltaSize(delta []byte) (size int64, rest []byte, ok bool) {
	for shift := 0; len(delta) > 0 && shift <= 35; shift += 7 {
		b := delta[0]
		delta = delta[1:]
		size |= int64(b&0x7f) << shift
		if b&0x80 == 0 {
			return size, delta, true
		}
	}
	return 0, nil, false
}
