//go:build unix

package remotehelper

import (
	"os"

	"golang.org/x/sys/unix"
)

// pollUnread waits until the other end of the pipe f is closed.
func pollUnread(f *os.File) bool {
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		return false
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return false
	}
	closed := false
	conn.Control(func(fd uintptr) {
		// No event is asked for: the system reports an error in any case.
		p := []unix.PollFd{{Fd: int32(fd)}}
		for {
			n, err := unix.Poll(p, -1)
			if err == unix.EINTR {
				continue
			}
			closed = err == nil && n == 1 && p[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0
			return
		}
	})
	return closed
}
