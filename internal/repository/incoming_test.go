package repository

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gitcluster/internal/cluster"
)

func (w *world) incoming(pack []byte) (*Incoming, string, error) {
	var said strings.Builder
	in, err := w.Receive(w.t.Context(), w.record.Format, bufio.NewReader(bytes.NewReader(pack)), true, &said)
	return in, said.String(), err
}

func TestIncoming(t *testing.T) {
	for _, format := range []cluster.ObjectFormat{cluster.SHA1, cluster.SHA256} {
		t.Run(string(format), func(t *testing.T) {
			w := newWorldOf(t, format)
			one := w.commit()
			two := w.commit(one)
			w.receive(one)
			before := w.files("objects")
			in, said, err := w.incoming(w.pack(oids(two), oids(one)))
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(said, "\x00") {
				t.Errorf("nothing tells that all was read: %q", said)
			}
			if _, err := w.tryGit(w.Dir, "", "cat-file", "-e", string(two)); err == nil {
				t.Error("what is in quarantine is the repository's already")
			}
			if closed, err := in.Closed(t.Context(), oids(two), oids(one)); err != nil || !closed {
				t.Errorf("closed: %v, %v", closed, err)
			}
			var pack bytes.Buffer
			if err := in.WritePack(t.Context(), oids(two), oids(one), &pack); err != nil || pack.Len() < 100 {
				t.Errorf("a pack of %d bytes, %v", pack.Len(), err)
			}
			if err := in.Admit(); err != nil {
				t.Fatal(err)
			}
			in.Remove()
			w.git(w.Dir, "cat-file", "-e", string(two))
			pack.Reset()
			if err := in.WritePack(t.Context(), oids(two), oids(one), &pack); err != nil || pack.Len() < 100 {
				t.Errorf("once it is admitted: a pack of %d bytes, %v", pack.Len(), err)
			}
			left, _ := filepath.Glob(filepath.Join(w.Dir, "objects", "incoming-*"))
			if len(left) > 0 {
				t.Errorf("it leaves %v", left)
			}
			in, _, err = w.incoming(w.bare())
			if err != nil {
				t.Fatalf("a pack without objects: %v", err)
			}
			if closed, err := in.Closed(t.Context(), oids(two), nil); err != nil || !closed {
				t.Errorf("without objects: closed %v, %v", closed, err)
			}
			// A mistake of old tools, which is in real histories.
			old, err := w.tryGit(w.work, fmt.Sprintf("tree %s\nparent %s\nauthor a <a@b> 0 +051800\ncommitter a <a@b> 0 +051800\n\nx", w.git(w.work, "rev-parse", string(two)+"^{tree}"), two),
				"hash-object", "--literally", "-t", "commit", "-w", "--stdin")
			if err != nil {
				t.Fatal(err)
			}
			if in, _, err = w.incoming(w.pack(oids(cluster.OID(old)), oids(two))); err != nil {
				t.Fatal(err)
			}
			in.Remove()
			if after := w.files("objects"); len(after) != len(before)+2 && len(after) != len(before)+3 { // a pack, its index, and the order of its objects
				t.Errorf("in objects there is now\n%v\nand before\n%v", after, before)
			}
		})
	}
}

func TestIncomingRefuses(t *testing.T) {
	w := newWorld(t)
	one := w.commit()
	two := w.commit(one)
	w.receive(one)
	good := w.pack(oids(two), oids(one))
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 0x40
	empty := w.bare()
	empty[len(empty)-1] ^= 1
	evil, err := w.tryGit(w.work, fmt.Sprintf("tree %s\nauthor a <a@b> 0 +0000\ncommitter a > <a@b> 0 +0000\n\nx", w.git(w.work, "rev-parse", string(two)+"^{tree}")), "hash-object", "--literally", "-t", "commit", "-w", "--stdin")
	if err != nil {
		t.Fatal(err)
	}
	for name, pack := range map[string][]byte{
		"nothing":                   nil,
		"no pack":                   []byte("0000 this is no pack at all"),
		"cut short":                 good[:len(good)-30],
		"a flipped bit":             flipped,
		"empty, of another sum":     empty,
		"empty, cut short":          empty[:20],
		"a commit without its tree": w.bare(two),
		"a malformed commit":        w.pack(oids(cluster.OID(evil)), oids(one)),
	} {
		before := w.files("objects")
		_, _, err := w.incoming(pack)
		if !errors.Is(err, ErrUnpack) {
			t.Errorf("%s: %v", name, err)
		}
		if after := w.files("objects"); !slices.Equal(before, after) {
			t.Errorf("%s: in objects there is now\n%v\nand before\n%v", name, after, before)
		}
	}
}

// TestPackTellsOfCompleteHistory holds that a pack is made only where rev-list finds the
// history complete: that is what a push is admitted by.
func TestPackTellsOfCompleteHistory(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	var made, complete int
	for round := range 20 {
		w := newWorld(t)
		var history []cluster.OID
		for i := range 5 {
			dir := filepath.Join(w.work, fmt.Sprint("d", rng.IntN(2)))
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(rng.IntN(3))), fmt.Appendf(nil, "%d %d", round, i), 0o600); err != nil {
				t.Fatal(err)
			}
			w.git(w.work, "add", ".")
			parents := history[max(0, len(history)-1-rng.IntN(2)):]
			history = append(history, w.commit(parents...))
		}
		base, tip := history[rng.IntN(4)], history[4]
		w.receive(base)
		// Of what lies between, the repository has some, and the rest comes; one may be
		// nowhere.
		var between []string
		for line := range strings.Lines(w.git(w.work, "rev-list", "--objects", string(tip), "^"+string(base))) {
			between = append(between, strings.Fields(line)[0])
		}
		lost := -1
		if round%4 > 0 {
			lost = rng.IntN(len(between))
		}
		var here []cluster.OID
		for i, oid := range between {
			if i != lost {
				here = append(here, cluster.OID(oid))
			}
		}
		if _, err := w.tryGit(w.Dir, string(w.bare(here...)), "unpack-objects", "-q"); err != nil {
			t.Fatal(err)
		}
		in := &Incoming{repo: w.Repository}
		closed, err := in.Closed(t.Context(), oids(tip), oids(base))
		if err != nil {
			t.Fatal(err)
		}
		err = in.WritePack(t.Context(), oids(tip), oids(base), io.Discard)
		if err == nil {
			made++
		}
		if closed {
			complete++
		}
		if (err == nil) != closed {
			t.Errorf("round %d: the history is complete: %v; the pack: %v", round, closed, err)
		}
	}
	if made == 0 || made == 20 {
		t.Errorf("%d packs of 20 were made, %d histories complete", made, complete)
	}
}

// What has come is passed on as it came to who has all that it builds on, and to nobody
// else.
func TestIncomingIsPassedOn(t *testing.T) {
	w := newWorld(t)
	one := w.commit()
	two := w.commit(one)
	three := w.commit(two)
	w.receive(two)
	in, err := w.Receive(t.Context(), w.record.Format, bufio.NewReader(bytes.NewReader(w.pack(oids(three), oids(two)))), false, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Remove()
	started := countGit(t)
	for _, c := range []struct {
		haves []cluster.OID
		want  string
	}{
		{oids(two), ""},
		{oids(one, two), ""},
		{oids(one), "pack-objects"},
		{nil, "pack-objects"},
	} {
		var pack bytes.Buffer
		if err := in.WritePack(t.Context(), oids(three), c.haves, &pack); err != nil {
			t.Fatal(err)
		}
		if got := started(); got != c.want {
			t.Errorf("for one that has %v: %q was started, want %q", c.haves, got, c.want)
		}
		taker := newWorld(t)
		taker.work = w.work
		if len(c.haves) > 0 {
			taker.receive(c.haves...)
		}
		if err := taker.ReadPack(t.Context(), &pack, oids(three), c.haves); err != nil {
			t.Errorf("one that has %v: %v", c.haves, err)
		}
		started()
	}
	if err := in.Admit(); err != nil {
		t.Fatal(err)
	}
	started()
	if err := in.WritePack(t.Context(), oids(three), oids(two), io.Discard); err != nil || started() != "pack-objects" {
		t.Errorf("when it was admitted: %v", err)
	}
}
