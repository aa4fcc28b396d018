//go:build unix

package nodecache

import (
	"os"
	"syscall"
)

// ownFile reports whether a file is the user's, or the administrator's, and
// nobody else may write it.
func ownFile(f *os.File) bool {
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o022 != 0 {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && (int(stat.Uid) == os.Geteuid() || stat.Uid == 0)
}
