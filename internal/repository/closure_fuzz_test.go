package repository

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzProven looks through a pack and an index that are not what they were. Nothing may
// come of it but that Git is asked, and a yes only if nothing was changed that counts.
func FuzzProven(f *testing.F) {
	w := newWorld(f)
	one := w.save(map[string]string{"folder/file": "one\n", "another": strings.Repeat("a text\n", 9)})
	two := w.save(map[string]string{"another": strings.Repeat("a text\n", 10)}, one)
	w.receive(one)
	quarantine, err := w.quarantine(f, w.pack(oids(two), oids(one)))
	if err != nil {
		f.Fatal(err)
	}
	paths, err := filepath.Glob(filepath.Join(quarantine, "pack", "*.idx"))
	if err != nil || len(paths) != 1 {
		f.Fatalf("the indexes are %v, %v", paths, err)
	}
	if !w.proven(oids(two), oids(one), quarantine) {
		f.Fatal("the push is not proven before anything is changed")
	}
	name := strings.TrimSuffix(filepath.Base(paths[0]), ".idx")
	var files [2][]byte
	for i, end := range []string{".pack", ".idx"} {
		if files[i], err = os.ReadFile(filepath.Join(quarantine, "pack", name+end)); err != nil {
			f.Fatal(err)
		}
	}
	pack, idx := files[0], files[1]
	f.Add(pack, idx)
	f.Add(pack[:len(pack)/2], idx)
	f.Add(pack, idx[:len(idx)/2])
	for _, at := range []int{12, 13, 14, 40, len(pack) / 2, len(pack) - 30} {
		for _, bits := range []byte{0x80, 0x70, 0x10, 0x0f} {
			changed := bytes.Clone(pack)
			changed[at] ^= bits
			f.Add(changed, idx)
		}
	}
	for at := indexHeader; at < len(idx); at += 7 {
		changed := bytes.Clone(idx)
		changed[at] ^= 0x81
		f.Add(pack, changed)
	}
	dir := filepath.Join(f.TempDir(), "pack")
	if err := os.Mkdir(dir, 0o700); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, pack, idx []byte) {
		for end, data := range map[string][]byte{".pack": pack, ".idx": idx} {
			if err := os.WriteFile(filepath.Join(dir, name+end), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		w.proven(oids(two), oids(one), filepath.Dir(dir))
		p, err := openPack(filepath.Join(dir, name+".idx"), &inflater{left: maxReads})
		if err != nil {
			return
		}
		defer p.close()
		for i := range min(p.index.len(), 20) {
			offset, err := p.index.offset(i)
			if err != nil {
				return
			}
			p.kindAt(offset)
			p.object(offset)
		}
	})
}

func FuzzLinks(f *testing.F) {
	id := strings.Repeat("1", 40)
	f.Add([]byte("tree " + id + "\nparent " + id + "\nauthor a <a> 1 +0000\n"))
	f.Add([]byte("tree " + id + "\nparent " + id[1:]))
	f.Add([]byte("object " + id + "\ntype commit\ntag x\n"))
	f.Add([]byte("object " + id + "\ntype \ntag"))
	f.Add([]byte("100644 a\x00" + id[:20] + "40000 b\x00" + id[:20]))
	f.Add([]byte("100644 a\x00" + id[:19]))
	f.Add([]byte("9 a\x00"))
	f.Add([]byte("\x03\x05\x91\x00\x03\x02ab"))
	f.Add([]byte("\x80\x80\x80\x80\x80\x80\x80\x80\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, width := range []int{20, 32} {
			commitLinks(data, width)
			tagLink(data, width)
			treeEntries(data, width)
		}
		(&inflater{left: maxReads}).patch([]byte("abc"), data)
	})
}
