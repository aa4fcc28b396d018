package sshconfig

import "io/fs"

// ownedSafely leaves it to Windows, where a user's files are the user's alone
// unless somebody has changed that.
func ownedSafely(fs.FileInfo) bool { return true }
