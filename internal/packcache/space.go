package packcache

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// leave ends one reader's use of an entry.
func (c *Cache) leave(e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.readers--
	e.used = time.Now()
	switch {
	case e.readers > 0 || c.entries[e.q] != e:
		if e.readers == 0 && !e.done {
			e.cancel(errNobody)
		}
	case !e.done:
		c.drop(e)
	default:
		e.expiry = time.AfterFunc(c.Keep, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.entries[e.q] == e && e.readers == 0 {
				c.drop(e)
			}
		})
	}
}

// drop has nobody find an entry any more; who reads it goes on. The caller holds mu.
func (c *Cache) drop(e *entry) {
	delete(c.entries, e.q)
	c.reserved -= e.reserved
	e.reserved = 0
	for _, h := range e.held {
		h.Close()
	}
	e.held = nil
	if e.expiry != nil {
		e.expiry.Stop()
	}
	if e.readers == 0 {
		e.cancel(errNobody)
	}
}

// makeRoom drops what nobody reads, the longest unused first, until there is room for
// one more entry of so many bytes, if that suffices. The caller holds mu.
func (c *Cache) makeRoom(size int64) bool {
	var idle []*entry
	for _, e := range c.entries {
		if e.done && e.readers == 0 {
			idle = append(idle, e)
		}
	}
	slices.SortFunc(idle, func(a, b *entry) int { return a.used.Compare(b.used) })
	fits := func() bool { return c.reserved+size <= c.Limit && len(c.entries) < maxEntries }
	for len(idle) > 0 && !fits() {
		c.drop(idle[0])
		idle = idle[1:]
	}
	return fits()
}

// packed returns how large the packs of a repository are.
func packed(dir string) (size int64, err error) {
	files, err := os.ReadDir(filepath.Join(dir, "objects", "pack"))
	if err != nil {
		return 0, fmt.Errorf("read the packs: %w", err)
	}
	for _, f := range files {
		if info, err := f.Info(); err == nil && strings.HasSuffix(f.Name(), ".pack") {
			size += info.Size()
		}
	}
	return size, nil
}

// bounded is a writer of at most so many bytes. A quiet one drops what goes past that;
// another fails.
type bounded struct {
	w     io.Writer
	left  int64
	quiet bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.left < int64(len(p)) && !b.quiet {
		b.left = -1
		return 0, errTooLong
	}
	keep := p[:min(int64(len(p)), b.left)]
	b.left -= int64(len(keep))
	if _, err := b.w.Write(keep); err != nil {
		return 0, err
	}
	return len(p), nil
}
