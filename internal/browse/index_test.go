package browse

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"gitcluster/internal/cluster"
)

// What a pool of indexes has read does not hide what came later, and a large
// object, or a small one made from a large one, is left to Git.
func TestNewObjectsAndLargeOnes(t *testing.T) {
	formats(t, func(t *testing.T, w *world) {
		one := w.commit("refs/heads/main", "x", nil, file("a", "1"))
		must(w.Tree(t.Context(), one, ""))(t)
		two := w.commit("refs/heads/main", "y", nil, file("a", "22"))
		if f, err := w.reopen().File(t.Context(), two, "a", 10); err != nil || string(f.Data) != "22" {
			t.Errorf("after a push: %+v, %v", f, err)
		}
		w.git("", "repack", "-adfq")
		if f, err := w.reopen().File(t.Context(), one, "a", 10); err != nil || string(f.Data) != "1" {
			t.Errorf("after a repack: %+v, %v", f, err)
		}
		large := strings.Repeat("0123456789abcdef", maxIndexed/16) + "the end\n"
		three := w.commit("refs/heads/main", "z", nil, file("large", large))
		four := w.commit("refs/heads/main", "z", nil, file("large", large+large))
		w.git("", "repack", "-adfq")
		both := w.objects(t.Context())
		defer both.close()
		for range 2 { // what is left of a large answer is not taken for the next
			for _, rev := range []string{"main:large", "main~1:large"} {
				if o, err := both.read(w.rev(rev), 10); err != nil || string(o.data) != large[:10] || o.size < maxIndexed {
					t.Errorf("%s: %q of %d, %v", rev, o.data, o.size, err)
				}
			}
		}
		for range 2 {
			r := w.reopen()
			for oid, want := range map[cluster.OID]string{three: large, four: large + large} {
				f, err := r.File(t.Context(), oid, "large", maxFile)
				if err != nil || string(f.Data) != want || f.Truncated || f.Size != int64(len(want)) {
					t.Errorf("%d of %d bytes, %v", len(f.Data), len(want), err)
				}
				f, err = r.File(t.Context(), oid, "large", 10)
				if err != nil || string(f.Data) != want[:10] || !f.Truncated || f.Size != int64(len(want)) {
					t.Errorf("%q of %d, %v", f.Data, f.Size, err)
				}
				var b bytes.Buffer
				if err := r.Raw(t.Context(), f.OID, &b); err != nil || b.String() != want {
					t.Errorf("raw: %d of %d bytes, %v", b.Len(), len(want), err)
				}
			}
		}
	})
}

// An index that fails is replaced by Git without a word, so here it must not fail.
func TestIndexIsUsed(t *testing.T) {
	w := newWorld(t, cluster.SHA1)
	linear(w, 100, 200)
	tip := w.rev("main")
	for _, layout := range []string{"as pushed", "packed", "packed and loose"} {
		switch layout {
		case "packed":
			w.git("", "repack", "-adfq")
		case "packed and loose":
			tree := w.git("", "mktree")
			tip = cluster.OID(w.git("", "commit-tree", "-p", string(tip), "-m", "loose", tree))
			w.git("", "update-ref", "refs/heads/main", string(tip))
			tip = w.rev("main~1")
		}
		w.browser.idle = nil
		k := w.browser.take(w.dir, w.format)
		if k == nil {
			t.Fatalf("%s: there is no index", layout)
		}
		w.browser.give(k)
		for _, root := range []cluster.OID{tip, w.rev("main"), w.rev("main~50")} {
			for _, e := range must(w.Tree(t.Context(), root, ""))(t).Entries {
				for _, f := range must(w.Tree(t.Context(), root, e.Name))(t).Entries {
					path := e.Name + "/" + f.Name
					got := must(w.File(t.Context(), root, path, 1<<20))(t)
					if git := w.git("", "cat-file", "blob", string(f.OID)); string(got.Data) != git+"\n" && string(got.Data) != git || f.Size != got.Size || int(f.Size) != len(got.Data) {
						t.Fatalf("%s: %s is %q", layout, path, got.Data)
					}
					if f.Name > "file0005" {
						break
					}
				}
				if e.Name > "dir10" {
					break
				}
			}
		}
		if len(w.browser.idle) != 1 || w.browser.idle[0] != k {
			t.Errorf("%s: the index failed", layout)
		}
	}
	// Too many or too large indexes are Git's, and all together are bounded.
	w.browser.maxIndex = 1000
	if k := w.browser.take(t.TempDir(), w.format); k != nil {
		t.Error("a repository without packs has an index")
	}
	w.browser.idle = nil
	if k := w.browser.take(w.dir, w.format); k != nil {
		t.Error("an index above the limit was read")
	}
	for i := range 40 {
		w.browser.give(&index{dir: fmt.Sprint(i), weight: 1 << 20})
	}
	if n := len(w.browser.idle); n != 16 || w.browser.idle[0].dir != "39" {
		t.Errorf("%d indexes are kept", n)
	}
}

// Requests run beside each other and beside what a node does to its repository.
func TestBesidePushesAndRepacks(t *testing.T) {
	w := newWorld(t, cluster.SHA1)
	linear(w, 20, 60)
	root := w.rev("main")
	stop, ended := make(chan struct{}), make(chan error)
	const readers = 4
	for range readers {
		go func() {
			for {
				select {
				case <-stop:
					ended <- nil
					return
				default:
				}
				r := w.reopen()
				o, err := r.Resolve(t.Context(), "main")
				if err == nil {
					_, err = r.Tree(t.Context(), o.Commit, "dir00")
				}
				if err == nil {
					_, err = r.File(t.Context(), root, "dir01/file0001", 10)
				}
				if err != nil {
					ended <- err
					return
				}
			}
		}()
	}
	for i := range 8 {
		w.commit("refs/heads/main", "push", nil, file("dir00/new", fmt.Sprint(i)))
		w.git("", "repack", "-adq")
	}
	close(stop)
	for range readers {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// A repository that is no longer there is an error at once, however much is asked.
func TestNoRepository(t *testing.T) {
	w := newWorld(t, cluster.SHA1)
	tip := w.commit("refs/heads/main", "x", nil, file("a", "1"))
	ids := slices.Repeat([]string{string(tip)}, maxLimit)
	if err := os.RemoveAll(w.dir); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_, err1 := w.Exists(t.Context(), ids)
	_, err2 := w.Tree(t.Context(), tip, "")
	_, err3 := w.Resolve(t.Context(), "main")
	_, _, err4 := w.Head(t.Context())
	for i, err := range []error{err1, err2, err3, err4} {
		if err == nil || errors.Is(err, ErrTooLong) || errors.Is(err, cluster.ErrNotFound) {
			t.Errorf("question %d: %v", i+1, err)
		}
	}
	if took := time.Since(start); took > w.browser.maxTime/2 {
		t.Errorf("it took %s", took)
	}
}

func TestDeltaAgainstSomethingHuge(t *testing.T) {
	w := newWorld(t, cluster.SHA1)
	var big strings.Builder
	for i := range 200_000 {
		fmt.Fprintf(&big, "line %d %x\n", i, i*7919)
	}
	// Git keeps the larger of two blobs of one name whole and makes the other from it.
	w.commit("refs/heads/main", "x", nil, file("a", big.String()))
	w.commit("refs/heads/main", "y", nil, file("a", big.String()[:400_000]))
	w.git("", "repack", "-adfq")
	small := w.rev("main:a")
	base := w.git(string(small)+"\n", "cat-file", "--batch-check=%(deltabase)")
	if base != string(w.rev("main~1:a")) {
		t.Fatalf("the small file is a delta against %s: the test proves nothing", base)
	}
	// The other way round: little is stored of a large one.
	w.commit("refs/heads/other", "z", nil, file("a", big.String()[1000:]))
	w.git("", "repack", "-adfq")
	large := w.rev("other:a")
	if base := w.git(string(large)+"\n", "cat-file", "--batch-check=%(deltabase)"); base != string(w.rev("main~1:a")) {
		t.Fatalf("the large file is a delta against %s: the test proves nothing", base)
	}
	k := w.browser.take(w.dir, w.format)
	for _, oid := range []cluster.OID{small, large} {
		if o, err := k.read(oid); !errors.Is(err, errTooLarge) {
			t.Errorf("an object made from one of %d bytes: %d bytes, %v", big.Len(), len(o.data), err)
		}
		want := w.git("", "cat-file", "-s", string(oid))
		if n, err := k.size(oid); err != nil || fmt.Sprint(n) != want {
			t.Errorf("its size is %d, %v; want %s", n, err, want)
		}
	}
	w.browser.give(k)
	if f, err := w.File(t.Context(), w.rev("main"), "a", 1<<20); err != nil || string(f.Data) != big.String()[:400_000] {
		t.Errorf("%d bytes, %v", len(f.Data), err)
	}
}

// A pack of some hundred bytes holds an object of 32 MiB. Git makes no such pack, but takes it.
func TestHugeFromSmall(t *testing.T) {
	w := newWorld(t, cluster.SHA1)
	base := strings.Repeat("0123456789abcdef", 4096) // 64 KiB, what the shortest command of a delta copies
	const times = 512
	baseID := w.git(base, "hash-object", "--stdin")
	raw, _ := hex.DecodeString(baseID)
	delta := binary.AppendUvarint(binary.AppendUvarint(nil, uint64(len(base))), uint64(times*len(base)))
	delta = append(delta, bytes.Repeat([]byte{0x80}, times)...)
	var pack bytes.Buffer
	pack.WriteString("PACK\x00\x00\x00\x02\x00\x00\x00\x02")
	add := func(kind byte, extra, data []byte) {
		n := len(data)
		c := kind<<4 | byte(n&15)
		for n >>= 4; n > 0; n >>= 7 {
			pack.WriteByte(c | 0x80)
			c = byte(n & 0x7f)
		}
		pack.WriteByte(c)
		pack.Write(extra)
		z := zlib.NewWriter(&pack)
		z.Write(data)
		z.Close()
	}
	const blob, refDelta = 3, 7
	add(blob, nil, []byte(base))
	add(refDelta, raw, delta)
	sum := sha1.Sum(pack.Bytes())
	pack.Write(sum[:])
	w.git(pack.String(), "index-pack", "--stdin")
	huge := cluster.OID(w.git(strings.Repeat(base, times), "hash-object", "--stdin"))

	k := w.browser.take(w.dir, w.format)
	if o, err := k.read(cluster.OID(baseID)); err != nil || string(o.data) != base {
		t.Errorf("the small object: %d bytes, %v", len(o.data), err)
	}
	if o, err := k.read(huge); !errors.Is(err, errTooLarge) {
		t.Errorf("the huge object: %d bytes, %v", len(o.data), err)
	}
	if n, err := k.size(huge); n != int64(times*len(base)) || err != nil {
		t.Errorf("its size is %d, %v", n, err)
	}
	w.browser.give(k)
	if f, err := w.Blob(t.Context(), huge, 10); err != nil || string(f.Data) != base[:10] || f.Size != int64(times*len(base)) {
		t.Errorf("%q of %d, %v", f.Data, f.Size, err)
	}
}
