package spool

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
)

const inMemory = 1 << 20

func TestSpool(t *testing.T) {
	for _, size := range []int{0, 1, inMemory - 1, inMemory, inMemory + 1, 2*inMemory + 12345} {
		dir := t.TempDir()
		want := make([]byte, size)
		for i := range want {
			want[i] = byte(rand.Uint32())
		}
		s := New(dir, inMemory)
		var wait sync.WaitGroup
		for i := range 3 {
			r := s.Open()
			wait.Go(func() {
				defer r.Close()
				if i == 2 { // one who leaves early
					io.ReadFull(r, make([]byte, size/2))
					return
				}
				got, err := io.ReadAll(r)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%d bytes: read %d, %v", size, len(got), err)
				}
			})
		}
		late := s.Open()
		for rest := want; len(rest) > 0; {
			n := min(len(rest), 1+rand.IntN(300_000))
			if _, err := s.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		s.End(nil)
		wait.Wait()
		if got, err := io.ReadAll(late); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: read afterwards %d, %v", size, len(got), err)
		}
		late.Close()
		if s.Open() != nil || s.file != nil {
			t.Errorf("%d bytes: still there after its last reader", size)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%d bytes: left behind: %v, %v", size, left, err)
		}
	}
}

func TestSpoolThatFails(t *testing.T) {
	s := New(t.TempDir(), inMemory)
	r := s.Open()
	s.Write([]byte("abc"))
	broken := errors.New("broken")
	s.End(broken)
	if got, err := io.ReadAll(r); !errors.Is(err, broken) || string(got) != "abc" {
		t.Errorf("read %q, %v: half a pack must not look whole", got, err)
	}
	if s.Open() != nil {
		t.Error("a failed stream was opened again")
	}
}

func TestSpoolWithoutReaders(t *testing.T) {
	s := New(t.TempDir(), inMemory)
	s.Open().Close()
	if _, err := s.Write([]byte("x")); err == nil {
		t.Error("written for nobody")
	}
}
