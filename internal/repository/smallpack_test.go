package repository

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gitcluster/internal/cluster"
)

// storedByGit returns the files that index-pack makes of a pack that stands by itself, nil
// if it does not take it.
func (w *world) storedByGit(t testing.TB, pack []byte) map[string]string {
	t.Helper()
	inTest := *w
	inTest.t = t
	dir := filepath.Join(t.TempDir(), "r")
	inTest.git("", "init", "-q", "--bare", "--object-format="+string(w.record.Format), dir)
	if _, err := w.tryGit(dir, string(pack), "index-pack", "--stdin"); err != nil {
		return nil
	}
	return stored(t, filepath.Join(dir, "objects"))
}

// stored returns the packs below an object directory, and their indexes.
func stored(t testing.TB, objects string) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, end := range []string{".pack", ".idx"} {
		paths, _ := filepath.Glob(filepath.Join(objects, "pack", "*"+end))
		for _, path := range paths {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			files[filepath.Base(path)] = string(data)
		}
	}
	return files
}

// TestSmallPackIsStoredAsByGit compares, byte for byte, what is stored here with what Git
// stores.
func TestSmallPackIsStoredAsByGit(t *testing.T) {
	for _, format := range []cluster.ObjectFormat{cluster.SHA1, cluster.SHA256} {
		w := newWorldOf(t, format)
		files := project()
		for i := range 30 {
			files[fmt.Sprint("long", i)] = strings.Repeat(fmt.Sprint("line ", i, "\n"), 300)
		}
		commits := []cluster.OID{w.save(files)}
		for i := range 10 {
			commits = append(commits, w.save(map[string]string{"part1/sub1/new": fmt.Sprint(i), fmt.Sprint("long", i): strings.Repeat(fmt.Sprint("line ", i, "\n"), 290) + fmt.Sprint(i)}, commits[i]))
		}
		w.git(w.work, "tag", "-a", "-m", "a tag", "v1", string(commits[3]))
		tag := cluster.OID(w.git(w.work, "rev-parse", "v1"))
		width := len(tag) / 2
		deltas := map[kind]bool{}
		for name, options := range map[string][]string{
			"by id":     {},
			"by offset": {"--delta-base-offset"},
			"whole":     {"--depth=0"},
		} {
			for _, revs := range []string{string(commits[10]), string(tag), string(commits[10]) + "\n^" + string(commits[4])} {
				args := append([]string{"pack-objects", "--revs", "--stdout", "-q"}, options...)
				out, err := w.tryGitBytes(w.work, revs+"\n", args...)
				if err != nil {
					t.Fatal(err)
				}
				quarantine := t.TempDir()
				if err := storeSmall(out, width, quarantine); err != nil {
					t.Errorf("%s, %s, %q: %v", format, name, revs, err)
					continue
				}
				want, got := w.storedByGit(t, out), stored(t, quarantine)
				if len(want) != 2 || fmt.Sprint(want) != fmt.Sprint(got) {
					t.Errorf("%s, %s, %q: the files are not Git's", format, name, revs)
				}
				p, err := openPack(filepath.Join(quarantine, "pack", "pack-"+fmt.Sprintf("%x", out[len(out)-width:])+".idx"), &inflater{left: maxReads})
				if err != nil {
					t.Fatal(err)
				}
				for i := range p.index.len() {
					offset, err := p.index.offset(i)
					if err != nil {
						t.Fatal(err)
					}
					e, err := p.entry(offset)
					if err != nil {
						t.Fatal(err)
					}
					deltas[e.kind] = true
				}
				p.close()
			}
		}
		if !deltas[offsetDelta] || !deltas[idDelta] || !deltas[tagKind] {
			t.Errorf("the packs had only %v", deltas)
		}
	}
}

// What is not the usual pack is left to Git, and stored or refused as before.
func TestOddPackIsGits(t *testing.T) {
	w := newWorld(t)
	one := w.commit()
	two := w.commit(one)
	whole := w.pack(oids(one), nil)
	// seal makes the end of a pack fit again.
	seal := func(pack []byte) []byte {
		sum := sha1.Sum(pack[:len(pack)-sha1.Size])
		return append(pack[:len(pack)-sha1.Size:len(pack)-sha1.Size], sum[:]...)
	}
	counted := func(n uint32) []byte {
		pack := bytes.Clone(whole)
		binary.BigEndian.PutUint32(pack[8:], n)
		return seal(pack)
	}
	changed := bytes.Clone(whole)
	changed[len(changed)-1] ^= 1
	for name, c := range map[string]struct {
		pack []byte
		ok   bool
	}{
		"thin":              {w.pack(oids(two), oids(one)), true},
		"cut off":           {whole[:len(whole)-7], false},
		"another checksum":  {changed, false},
		"an object more":    {counted(4), false},
		"an object less":    {counted(2), false},
		"far more objects":  {counted(1 << 30), false},
		"another version":   {seal(append([]byte("PACK\x00\x00\x00\x04"), whole[8:]...)), false},
		"bytes behind it":   {seal(append(bytes.Clone(whole[:len(whole)-sha1.Size]), make([]byte, 3+sha1.Size)...)), false},
		"an unknown object": {seal(append(append(bytes.Clone(whole[:12]), 0x50), whole[13:]...)), false},
		"no objects at all": {[]byte("PACK"), false},
		// An empty object of six bytes. Git takes no delta as short as that.
		"a short delta": {seal(slices.Concat([]byte("PACK\x00\x00\x00\x02\x00\x00\x00\x02"), []byte{0x36}, deflated("hello\n"), []byte{0x62, byte(1 + len(deflated("hello\n")))}, deflated("\x06\x00"), make([]byte, sha1.Size))), false},
	} {
		r := newWorld(t)
		r.work = w.work
		r.receive(one)
		quarantine := t.TempDir()
		if err := storeSmall(c.pack, sha1.Size, quarantine); err == nil {
			t.Errorf("%s: it is stored", name)
		}
		if files := stored(t, quarantine); len(files) > 0 {
			t.Errorf("%s: there are files of it", name)
		}
		wants := oids(one)
		if c.ok {
			wants = oids(two)
		}
		if err := r.ReadPack(t.Context(), bytes.NewReader(c.pack), wants, oids(one)); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		r.git(r.Dir, "fsck", "--full")
		if left, _ := filepath.Glob(filepath.Join(r.Dir, "objects", "incoming-*")); len(left) > 0 {
			t.Errorf("%s: left behind: %v", name, left)
		}
	}
}

func deflated(text string) []byte {
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	w.Write([]byte(text))
	w.Close()
	return b.Bytes()
}

// A pack that is longer than what this process takes loses nothing on its way to Git.
func TestLongPack(t *testing.T) {
	w := newWorld(t)
	noise := make([]byte, 0, 2*maxSmall)
	for i := 0; len(noise) < 2*maxSmall; i++ {
		sum := sha1.Sum(fmt.Append(nil, i))
		noise = append(noise, sum[:]...)
	}
	one := w.save(map[string]string{"noise": string(noise)})
	w.receive(one)
	w.change(set("refs/heads/main", "", one))
	w.git(w.Dir, "fsck", "--full")
}

// FuzzSmallPack stores what may be no pack at all. Whatever is stored, Git stores, too, and
// just so.
func FuzzSmallPack(f *testing.F) {
	w := newWorld(f)
	one := w.save(map[string]string{"a": "a\n", "b/c": strings.Repeat("text\n", 50)})
	two := w.save(map[string]string{"b/c": strings.Repeat("text\n", 51)}, one)
	for _, options := range [][]string{{}, {"--delta-base-offset"}} {
		pack, err := w.tryGitBytes(w.work, string(two)+"\n", append([]string{"pack-objects", "--revs", "--stdout", "-q"}, options...)...)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(pack)
		for at := 4; at < len(pack)-sha1.Size; at += 5 {
			changed := bytes.Clone(pack)
			changed[at] ^= 0x31
			f.Add(changed)
		}
	}
	f.Fuzz(func(t *testing.T, pack []byte) {
		if len(pack) > sha1.Size {
			sum := sha1.Sum(pack[:len(pack)-sha1.Size])
			copy(pack[len(pack)-sha1.Size:], sum[:])
		}
		quarantine := t.TempDir()
		if storeSmall(pack, sha1.Size, quarantine) != nil {
			return
		}
		if want, got := w.storedByGit(t, pack), stored(t, quarantine); fmt.Sprint(want) != fmt.Sprint(got) {
			t.Errorf("%q is stored otherwise than by Git", pack)
		}
	})
}
