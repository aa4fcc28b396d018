//go:build !unix

package nodecache

import "os"

// ownFile trusts the place: the platform's cache directory is the user's alone.
func ownFile(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode().IsRegular()
}
