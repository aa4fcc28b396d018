package engine

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
)

func TestSpool(t *testing.T) {
	for _, size := range []int{0, 1, spoolMemory - 1, spoolMemory, spoolMemory + 1, 2*spoolMemory + 12345} {
		dir := t.TempDir()
		want := make([]byte, size)
		for i := range want {
			want[i] = byte(rand.Uint32())
		}
		s := newSpool(dir)
		var wait sync.WaitGroup
		for i := range 3 {
			r := s.open()
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
		late := s.open()
		for rest := want; len(rest) > 0; {
			n := min(len(rest), 1+rand.IntN(300_000))
			if _, err := s.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		s.end(nil)
		wait.Wait()
		if got, err := io.ReadAll(late); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: read afterwards %d, %v", size, len(got), err)
		}
		late.Close()
		if s.open() != nil || s.file != nil {
			t.Errorf("%d bytes: still there after its last reader", size)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%d bytes: left behind: %v, %v", size, left, err)
		}
	}
}

func TestSpoolThatFails(t *testing.T) {
	s := newSpool(t.TempDir())
	r := s.open()
	s.Write([]byte("abc"))
	broken := errors.New("broken")
	s.end(broken)
	if got, err := io.ReadAll(r); !errors.Is(err, broken) || string(got) != "abc" {
		t.Errorf("read %q, %v: half a pack must not look whole", got, err)
	}
	if s.open() != nil {
		t.Error("a failed stream was opened again")
	}
}

func TestSpoolWithoutReaders(t *testing.T) {
	s := newSpool(t.TempDir())
	s.open().Close()
	if _, err := s.Write([]byte("x")); err == nil {
		t.Error("written for nobody")
	}
}
