package repository

import (
	"cmp"
	"crypto/sha1"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxPacks is how many packs are searched. Housekeeping keeps them fewer.
const maxPacks = 50

// errNotHere: the object is not where was looked.
var errNotHere = errors.New("no such object here")

// An objectReader reads objects in this process, from an object directory and from
// one more pack. It compares each with its id, so what it returns is right however
// it was come by.
type objectReader struct {
	dir   string // the object directory
	width int    // bytes of an id
	more  *packFile
	inflater

	listed bool
	packs  []string    // paths of the indexes of those not opened yet, newest first
	open   []*packFile // those that are
}

func (r *objectReader) close() {
	for _, p := range r.open {
		p.close()
	}
	if r.more != nil {
		r.more.close()
	}
}

// read reads an object that is anywhere.
func (r *objectReader) read(id objectID) (object, error) {
	if r.more != nil {
		offset, ok, err := r.more.find(id)
		if err != nil {
			return object{}, err
		}
		if ok {
			return r.readAt(r.more, offset, id)
		}
	}
	return r.readOld(id)
}

// readOld reads an object of the object directory.
func (r *objectReader) readOld(id objectID) (object, error) {
	name := fmt.Sprintf("%x", string(id))
	o, err := r.loose(filepath.Join(r.dir, name[:2], name[2:]))
	if err == nil {
		return o, r.check(o, id)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return object{}, err
	}
	for i := 0; ; i++ {
		p, err := r.pack(i)
		if err != nil {
			return object{}, err
		}
		offset, ok, err := p.find(id)
		if err != nil {
			return object{}, err
		}
		if ok {
			return r.readAt(p, offset, id)
		}
	}
}

func (r *objectReader) readAt(p *packFile, offset int64, id objectID) (object, error) {
	o, err := p.object(offset)
	if err != nil {
		return object{}, err
	}
	return o, r.check(o, id)
}

// check compares an object with its id.
func (r *objectReader) check(o object, id objectID) error {
	var h hash.Hash
	if r.width == sha1.Size {
		h = sha1.New()
	} else {
		h = sha256.New()
	}
	fmt.Fprintf(h, "%v %d\x00", o.kind, len(o.data))
	h.Write(o.data)
	if got := h.Sum(nil); string(got) != string(id) {
		return fmt.Errorf("the object %x was read as %x", string(id), got)
	}
	return nil
}

// loose reads an object that is a file of its own.
func (r *objectReader) loose(path string) (o object, err error) {
	f, err := os.Open(path)
	if err != nil {
		return o, err
	}
	defer f.Close()
	r.from(f)
	if err := r.start(); err != nil {
		return o, err
	}
	var header []byte
	for b := make([]byte, 1); ; header = append(header, b[0]) {
		if _, err := io.ReadFull(r.out, b); err != nil {
			return o, fmt.Errorf("%s: %w", path, err)
		}
		if b[0] == 0 {
			break
		}
		if len(header) > 30 {
			return o, fmt.Errorf("%s: not an object", path)
		}
	}
	name, size, _ := strings.Cut(string(header), " ")
	n, err := strconv.ParseInt(size, 10, 64)
	if o.kind = kindNames[name]; o.kind == 0 || err != nil {
		return o, fmt.Errorf("%s: not an object", path)
	}
	o.data, err = r.rest(n)
	return o, err
}

// pack returns the nth pack, the newest first: what a push builds on came last.
func (r *objectReader) pack(n int) (*packFile, error) {
	if err := r.list(); err != nil {
		return nil, err
	}
	for n >= len(r.open) {
		if len(r.packs) == 0 {
			return nil, errNotHere
		}
		if len(r.open) == maxPacks {
			return nil, errBeyond
		}
		p, err := openPack(r.packs[0], &r.inflater)
		if err != nil {
			return nil, err
		}
		r.open, r.packs = append(r.open, p), r.packs[1:]
		if p.index.width != r.width {
			return nil, fmt.Errorf("%s: a pack of other ids", p.file.Name())
		}
	}
	return r.open[n], nil
}

func (r *objectReader) list() error {
	if r.listed {
		return nil
	}
	r.listed = true
	dir := filepath.Join(r.dir, "pack")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	made := map[string]time.Time{}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "pack-") || !strings.HasSuffix(e.Name(), ".idx") {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		path := filepath.Join(dir, e.Name())
		r.packs = append(r.packs, path)
		made[path] = info.ModTime()
	}
	slices.SortFunc(r.packs, func(a, b string) int {
		return cmp.Or(made[b].Compare(made[a]), strings.Compare(a, b))
	})
	return nil
}
