// Package durable writes small files so that a crash or a power loss leaves the
// old contents or the new.
//
// Entry points: [WriteFile] and [SyncDir].
//
// It promises that when WriteFile has returned, contents and name are on disk,
// that no reader ever sees half a file, and that the file never has a wider mode
// than asked for.
package durable

import (
	"os"
	"path/filepath"
	"runtime"
)

// WriteFile replaces the file at path, in a directory that is there, with data.
func WriteFile(path string, data []byte, mode os.FileMode) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".new-*") // its mode is 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(dir)
}

// SyncDir syncs the names in a directory, where the platform can.
func SyncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // a directory cannot be opened for that there
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
