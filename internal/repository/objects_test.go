package repository

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"gitcluster/internal/cluster"
)

func oids(all ...cluster.OID) []cluster.OID { return all }

func TestPackFromOneReplicaToAnother(t *testing.T) {
	for _, format := range []cluster.ObjectFormat{cluster.SHA1, cluster.SHA256} {
		t.Run(string(format), func(t *testing.T) {
			from := newWorldOf(t, format)
			one := from.commit()
			two := from.commit(one)
			three := from.commit(two)
			from.receive(three)
			to := newWorldOf(t, format)
			send := func(wants, haves []cluster.OID) int {
				t.Helper()
				var pack bytes.Buffer
				if err := from.WritePack(t.Context(), wants, haves, nil, &pack); err != nil {
					t.Fatal(err)
				}
				size := pack.Len()
				if err := to.ReadPack(t.Context(), &pack, wants, nil); err != nil {
					t.Fatal(err)
				}
				return size
			}
			whole := send(oids(one), nil)
			// What the receiver names but the sender does not have is passed over.
			unknown := cluster.OID(strings.Repeat("1", len(one)))
			thin := send(oids(three, two), oids(one, unknown))
			if thin >= whole {
				t.Errorf("the thin pack has %d bytes, the first %d", thin, whole)
			}
			to.change(set("refs/heads/main", "", three))
			to.git(to.Dir, "fsck", "--strict")
			if closed, err := to.Closed(t.Context(), oids(three), nil); err != nil || !closed {
				t.Errorf("closed: %v, %v", closed, err)
			}
			send(oids(three), oids(three)) // nothing to send
			send(nil, nil)
			if err := from.WritePack(t.Context(), oids(unknown), nil, nil, io.Discard); err == nil {
				t.Error("a pack of what is not there was written")
			}
		})
	}
}

func TestReadPackRefuses(t *testing.T) {
	w := newWorld(t)
	one := w.commit()
	two := w.commit(one)
	three := w.commit(two)
	w.receive(one)
	blob := cluster.OID(w.git(w.work, "rev-parse", string(three)+":file"))
	tree := cluster.OID(w.git(w.work, "rev-parse", string(three)+"^{tree}"))
	good := w.pack(oids(three), oids(one))
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 0x40
	more := bytes.Clone(good)
	more[11]++
	future := bytes.Clone(good)
	future[7] = 99
	huge := append([]byte("PACK\x00\x00\x00\x02\xff\xff\xff\xff"), bytes.Repeat([]byte{0}, 100)...)
	for name, c := range map[string]struct {
		pack  io.Reader
		wants []cluster.OID
	}{
		"nothing":                  {strings.NewReader(""), oids(three)},
		"half a header":            {bytes.NewReader(good[:11]), oids(three)},
		"not a pack":               {strings.NewReader("fatal: this is no pack at all, sorry"), oids(three)},
		"cut short":                {bytes.NewReader(good[:len(good)-30]), oids(three)},
		"without its checksum":     {bytes.NewReader(good[:len(good)-20]), oids(three)},
		"the stream broke":         {io.MultiReader(bytes.NewReader(good[:len(good)/2]), iotest.ErrReader(errors.New("connection reset"))), oids(three)},
		"a flipped bit":            {bytes.NewReader(flipped), oids(three)},
		"fewer objects than said":  {bytes.NewReader(more), oids(three)},
		"another version":          {bytes.NewReader(future), oids(three)},
		"four billion objects":     {bytes.NewReader(huge), oids(three)},
		"tip without its tree":     {bytes.NewReader(w.bare(three)), oids(three)},
		"without a parent":         {bytes.NewReader(w.bare(three, tree, blob)), oids(three)},
		"without the blob":         {bytes.NewReader(w.bare(two, three, tree)), oids(three)},
		"not what was asked for":   {bytes.NewReader(w.pack(oids(two), oids(one))), oids(three)},
		"empty, tip is not here":   {bytes.NewReader(w.bare()), oids(three)},
		"thin, its base not here":  {bytes.NewReader(w.pack(oids(three), oids(two))), oids(three)},
		"asked for what cannot be": {bytes.NewReader(good), oids(three, cluster.OID(strings.Repeat("1", 40)))},
	} {
		t.Run(name, func(t *testing.T) {
			before := w.files("objects")
			within(t, "reading a bad pack", func() {
				if err := w.ReadPack(t.Context(), c.pack, c.wants, oids(one)); err == nil {
					t.Error("it was stored")
				}
			})
			if after := w.files("objects"); !slices.Equal(before, after) {
				t.Errorf("in objects there is now\n%v\nand before\n%v", after, before)
			}
		})
	}
	if err := w.ReadPack(t.Context(), bytes.NewReader(good), oids(three), oids(one)); err != nil {
		t.Fatalf("the good pack after all the bad ones: %v", err)
	}
	if quarantines, _ := filepath.Glob(filepath.Join(w.Dir, "objects", "*incoming-*")); len(quarantines) > 0 {
		t.Errorf("left %v", quarantines)
	}
	// Again, and empty: there is nothing to add.
	for _, pack := range [][]byte{good, w.bare()} {
		if err := w.ReadPack(t.Context(), bytes.NewReader(pack), oids(three), oids(one)); err != nil {
			t.Error(err)
		}
	}
	w.change(set("refs/heads/main", "", three))
	w.git(w.Dir, "fsck", "--strict")
}

// A history that is there only up to a hole is not held, however the hole came.
func TestClosedSeesHoles(t *testing.T) {
	w := newWorld(t)
	one := w.commit()
	two := w.commit(one)
	three := w.commit(two)
	w.receive(one)
	closed := func(wants, haves []cluster.OID) bool {
		t.Helper()
		ok, err := w.Closed(t.Context(), wants, haves)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	// The tip alone arrives, as from an unpack that was interrupted.
	object := w.git(w.work, "cat-file", "commit", string(three))
	if _, err := w.tryGit(w.Dir, object+"\n", "hash-object", "-t", "commit", "-w", "--stdin"); err != nil {
		t.Fatal(err)
	}
	w.git(w.Dir, "cat-file", "-e", string(three))
	if closed(oids(three), oids(one)) {
		t.Error("a tip without its history counts as held")
	}
	if !closed(oids(one), nil) || !closed(nil, nil) || !closed(oids(one, one), oids(one)) {
		t.Error("what is whole does not count as held")
	}
	if closed(oids(one), oids(three)) {
		t.Log("a have with a hole hides nothing here") // haves are the caller's word
	}
	if closed(oids(cluster.OID(strings.Repeat("1", 40))), nil) {
		t.Error("what is not there counts as held")
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("the reader left")
	cancel(cause)
	if _, err := w.Closed(ctx, oids(one), nil); !errors.Is(err, cause) && !errors.Is(err, context.Canceled) {
		t.Errorf("after the context's end: %v", err)
	}
}

func TestReadPackEndsWithItsContext(t *testing.T) {
	w := newWorld(t)
	one := w.commit()
	pack := w.pack(oids(one), nil)
	before := w.files("objects")
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("the node stops")
	r, in := io.Pipe()
	defer in.Close()
	sent := make(chan struct{})
	go func() {
		in.Write(pack[:len(pack)-10])
		close(sent)
	}()
	ended := make(chan error, 1)
	go func() { ended <- w.ReadPack(ctx, r, oids(one), nil) }()
	<-sent
	cancel(cause)
	within(t, "ReadPack after the context's end", func() {
		if err := <-ended; !errors.Is(err, cause) {
			t.Errorf("got %v, want the cause", err)
		}
	})
	if after := w.files("objects"); !slices.Equal(before, after) {
		t.Errorf("in objects there is now %v and before %v", after, before)
	}
}

func TestCheckValues(t *testing.T) {
	w := newWorld(t)
	one := w.commit()
	w.receive(one)
	tree := cluster.OID(w.git(w.work, "rev-parse", string(one)+"^{tree}"))
	missing := cluster.OID(strings.Repeat("1", 40))
	for _, c := range []struct {
		ref  string
		oid  cluster.OID
		want string
	}{
		{"refs/heads/x", one, ""},
		{"refs/tags/x", one, ""},
		{"refs/tags/x", tree, ""},
		{"refs/heads/x", tree, "trying to write non-commit object " + string(tree) + " to branch 'refs/heads/x'"},
		{"refs/heads/x", missing, "trying to write ref 'refs/heads/x' with nonexistent object " + string(missing)},
		{"refs/tags/x", missing, "trying to write ref 'refs/tags/x' with nonexistent object " + string(missing)},
	} {
		faults, err := w.CheckValues(t.Context(), []cluster.RefUpdate{set("refs/tags/gone", one, ""), set("refs/heads/good", "", one), set(c.ref, "", c.oid)})
		if err != nil {
			t.Fatal(err)
		}
		if got := faults[cluster.RefName(c.ref)]; got != c.want || len(faults) > 1 || faults["refs/heads/good"] != "" {
			t.Errorf("%s to %s: %q, want %q", c.ref, c.oid, got, c.want)
		}
	}
}

// A pack that is admitted while readers look must never have an index without
// its pack.
func TestAdmitMovesTheIndexLast(t *testing.T) {
	w := newWorld(t)
	quarantine := filepath.Join(w.Dir, "objects", "incoming-test")
	if err := os.MkdirAll(filepath.Join(quarantine, "pack"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"pack-1.idx", "pack-1.rev", "tmp_pack_x"} {
		if err := os.WriteFile(filepath.Join(quarantine, "pack", name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// The pack itself cannot be moved: a folder of its name is in the way.
	if err := os.WriteFile(filepath.Join(quarantine, "pack", "pack-1.pack"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(w.Dir, "objects", "pack", "pack-1.pack"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := w.admit(quarantine); err == nil {
		t.Fatal("admitted")
	}
	for _, f := range w.files("objects/pack") {
		if strings.HasSuffix(f, ".idx") || strings.HasPrefix(f, "tmp_") {
			t.Errorf("%s is in the repository", f)
		}
	}
}
