package doctor

import (
	"errors"
	"io/fs"
)

// No node runs on Windows.

func ownerOf(fs.FileInfo) int { return -1 }

func space(string) (free, all uint64, err error) { return 0, 0, errors.ErrUnsupported }
