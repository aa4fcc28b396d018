//go:build unix

package sshclient

import (
	"io/fs"
	"os"
	"syscall"
)

// isExposed reports whether others than their owner, who is this account, may read or
// write a private key. As to ssh, another's file is for them to look after.
func isExposed(path string) (fs.FileMode, bool) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, false
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	return info.Mode().Perm(), ok && int(s.Uid) == os.Getuid() && info.Mode().Perm()&0o077 != 0
}
