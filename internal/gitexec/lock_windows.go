package gitexec

import (
	"errors"
	"os"
)

// TryLock fails: no node runs on Windows, and nothing there outlives its parent with
// a lock.
func TryLock(*os.File) error { return errors.ErrUnsupported }
