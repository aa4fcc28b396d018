package browse

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
	"github.com/go-git/go-git/v5/plumbing/format/objfile"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/storage/filesystem/dotgit"

	"gitcluster/internal/cluster"
)

// The bounds of what is read in this process. go-git holds the whole index of every pack in
// memory and reads it for some milliseconds per MiB.
const (
	maxIndex   = 1 << 20 // bytes of one repository's pack indexes: about 35,000 objects
	maxPacks   = 50      // each is asked for each object
	maxIdle    = 16 << 20
	maxIndexed = 1 << 20 // bytes of an object, and of everything it is made from
	maxCached  = 1 << 20
)

// errTooLarge: the object is there, but for Git to read.
var errTooLarge = errors.New("too large to be read in this process")

// errMissed: the object is not where the index looks.
var errMissed = errors.New("not in the index")

// An index reads a repository's objects in this process. It may be out of date, but
// not wrong: an object's id is that of its contents. One goroutine at a time may use it.
type index struct {
	dir    string
	weight int64
	dot    *dotgit.DotGit
	packs  []pack
	cache  cache.Object
}

type pack struct {
	name plumbing.Hash
	idx  *idxfile.MemoryIndex
}

// take returns an index of the repository that nobody else uses until it is given
// back, or nil if Git serves it better.
func (b *Browser) take(dir string, format cluster.ObjectFormat) *index {
	if format != cluster.SHA1 {
		return nil // go-git chooses its hash when it is built
	}
	b.mu.Lock()
	for i, k := range b.idle {
		if k.dir == dir {
			b.idle = append(b.idle[:i], b.idle[i+1:]...)
			b.mu.Unlock()
			return k
		}
	}
	b.mu.Unlock()
	weight, ok := b.indexSize(dir)
	if !ok {
		return nil
	}
	k := &index{dir: dir, weight: weight, dot: dotgit.New(osfs.New(dir)), cache: cache.NewObjectLRU(maxCached)}
	if err := k.load(); err != nil {
		return nil // a pack went while it was looked for; Git knows where to
	}
	return k
}

// load reads the indexes of all packs.
func (k *index) load() (err error) {
	defer recovered(&err)
	names, err := k.dot.ObjectPacks()
	if err != nil {
		return err
	}
	for _, name := range names {
		f, err := k.dot.ObjectPackIdx(name)
		if err != nil {
			return err
		}
		p := pack{name: name, idx: idxfile.NewMemoryIndex()}
		err = idxfile.NewDecoder(f).Decode(p.idx)
		f.Close()
		if err != nil {
			return err
		}
		k.packs = append(k.packs, p)
	}
	return nil
}

// give keeps an index for the next call, and drops those that were not used for longest.
func (b *Browser) give(k *index) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.idle = append([]*index{k}, b.idle...)
	var sum int64
	for i, k := range b.idle {
		if sum += k.weight; sum > maxIdle {
			clear(b.idle[i:])
			b.idle = b.idle[:i]
			return
		}
	}
}

// indexSize adds up a repository's pack indexes, and says whether they are few and small.
func (b *Browser) indexSize(dir string) (sum int64, ok bool) {
	const each = maxCached // what an index without packs may still hold
	sum = each
	entries, err := os.ReadDir(filepath.Join(dir, "objects", "pack"))
	if err != nil {
		return 0, false
	}
	packs := 0
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".idx") {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return 0, false
		}
		packs++
		sum += info.Size()
	}
	return sum, packs <= maxPacks && sum-each <= b.maxIndex
}

// size returns the size of an object without reading it.
func (k *index) size(oid cluster.OID) (n int64, err error) {
	defer recovered(&err)
	err = k.find(plumbing.NewHash(string(oid)), func(loose *objfile.Reader) error {
		_, n, err = loose.Header()
		return err
	}, func(p *packfile.Packfile, offset int64) error {
		part, err := measure(p, offset)
		n = part.size
		return err
	})
	return n, err
}

// read returns an object, or errTooLarge. After another error the index must not be used again.
func (k *index) read(oid cluster.OID) (o object, err error) {
	defer recovered(&err)
	hash := plumbing.NewHash(string(oid))
	err = k.find(hash, func(loose *objfile.Reader) error {
		kind, size, err := loose.Header()
		if err != nil {
			return err
		}
		if size > maxIndexed {
			return errTooLarge
		}
		o, err = whole(loose, kind, size)
		return err
	}, func(p *packfile.Packfile, offset int64) error {
		if err := affordable(p, offset); err != nil {
			return err
		}
		encoded, err := p.Get(hash)
		if err != nil {
			return err
		}
		rd, err := encoded.Reader()
		if err != nil {
			return err
		}
		defer rd.Close()
		o, err = whole(rd, encoded.Type(), encoded.Size())
		return err
	})
	return o, err
}

func whole(rd io.Reader, kind plumbing.ObjectType, size int64) (object, error) {
	data, err := io.ReadAll(io.LimitReader(rd, size+1))
	if err != nil {
		return object{}, err
	}
	if int64(len(data)) != size {
		return object{}, fmt.Errorf("an object of %d bytes has %d", size, len(data))
	}
	return object{kind: kind.String(), size: size, data: data}, nil
}

// find opens an object where it is, as a file of its own or in a pack. Nothing stays
// open: it would hold on to the space of packs that are removed.
func (k *index) find(hash plumbing.Hash, loose func(*objfile.Reader) error, packed func(*packfile.Packfile, int64) error) error {
	for _, p := range k.packs {
		offset, err := p.idx.FindOffset(hash)
		if err != nil {
			continue
		}
		f, err := k.dot.ObjectPack(p.name)
		if err != nil {
			return err
		}
		open := packfile.NewPackfileWithCache(p.idx, k.dot.Fs(), f, k.cache, maxIndexed)
		defer open.Close()
		return packed(open, offset)
	}
	f, err := k.dot.Object(hash)
	if errors.Is(err, os.ErrNotExist) {
		return errMissed
	}
	if err != nil {
		return err
	}
	defer f.Close()
	rd, err := objfile.NewReader(f)
	if err != nil {
		return err
	}
	defer rd.Close()
	return loose(rd)
}

// A part is what a pack holds at one place: an object, or a delta that makes one from another.
type part struct {
	stored int64 // bytes, uncompressed
	size   int64 // of the object
	base   int64 // the place of the other object; 0 if there is none
}

// measure reads no more than the beginning.
func measure(p *packfile.Packfile, offset int64) (part, error) {
	h, err := p.Scanner().SeekObjectHeader(offset)
	if err != nil {
		return part{}, err
	}
	at := part{stored: h.Length, size: h.Length}
	switch h.Type {
	case plumbing.OFSDeltaObject:
		at.base = h.OffsetReference
	case plumbing.REFDeltaObject:
		if at.base, err = p.FindOffset(h.Reference); err != nil {
			return part{}, err
		}
	default:
		return at, nil
	}
	delta, err := p.Scanner().ReadObject()
	if err != nil {
		return part{}, err
	}
	defer delta.Close()
	sizes := bufio.NewReaderSize(delta, 32)
	var size uint64
	for range 2 { // that of the base, and that of the object
		if size, err = binary.ReadUvarint(sizes); err != nil {
			return part{}, err
		}
	}
	if size > 1<<62 {
		return part{}, errTooLarge
	}
	at.size = int64(size)
	return at, nil
}

// affordable looks at the object and at everything it is made from: a small object may be
// made from a huge one, and a huge one from a small delta, and go-git would read all of it into
// the node's memory.
func affordable(p *packfile.Packfile, offset int64) error {
	for range 5000 { // Git makes chains of at most 4095
		at, err := measure(p, offset)
		if err != nil {
			return err
		}
		if at.stored > maxIndexed || at.size > maxIndexed {
			return errTooLarge
		}
		if at.base == 0 {
			return nil
		}
		offset = at.base
	}
	return errTooLarge
}

// recovered makes an error of a panic: the library has read what a stranger pushed.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("go-git: %v", p)
	}
}
