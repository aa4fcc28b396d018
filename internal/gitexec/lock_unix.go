//go:build unix

package gitexec

import (
	"errors"
	"os"
	"syscall"
)

// TryLock takes a file's lock, which the children of a [Runner] with that Lock hold,
// too: it is free when the last of them is gone. The error is [ErrLocked] while
// somebody has it.
func TryLock(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return ErrLocked
	}
	return err
}
