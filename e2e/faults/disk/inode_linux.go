package disk

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

func inode(info os.FileInfo) uint64 { return info.Sys().(*syscall.Stat_t).Ino }

// key names a directory: by the time of its making, too, since its number may go to
// another when it is removed.
func key(dir string) (string, error) {
	var s unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_INO|unix.STATX_BTIME, &s); err != nil {
		return "", &os.PathError{Op: "statx", Path: dir, Err: err}
	}
	return fmt.Sprintf("%d-%d.%09d", s.Ino, s.Btime.Sec, s.Btime.Nsec), nil
}
