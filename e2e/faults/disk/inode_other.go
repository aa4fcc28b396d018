//go:build !linux

package disk

import (
	"errors"
	"os"
)

// A fault run loses no power where the processes of a node cannot be made to remember.

func inode(os.FileInfo) uint64 { return 0 }

func key(string) (string, error) { return "", errors.ErrUnsupported }
