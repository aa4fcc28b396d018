package nodecache

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const tempPrefix = ".new-"

// tempLife is far longer than any process takes to write one.
const tempLife = time.Hour

// tidy removes what killed processes have left and the lists that are too many
// or out of use. Others may be doing the same.
func (c *Cache) tidy() {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return
	}
	var lists []fs.FileInfo
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue
		}
		age := c.now().Sub(info.ModTime())
		isList := strings.HasPrefix(e.Name(), "nodes-")
		switch {
		case strings.HasPrefix(e.Name(), tempPrefix) && age > tempLife, isList && age > listLife:
			os.Remove(filepath.Join(c.dir, e.Name()))
		case isList:
			lists = append(lists, info)
		}
	}
	if len(lists) < maxLists {
		return
	}
	slices.SortFunc(lists, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for _, old := range lists[:len(lists)-maxLists+1] {
		os.Remove(filepath.Join(c.dir, old.Name()))
	}
}
