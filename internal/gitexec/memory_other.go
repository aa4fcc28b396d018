//go:build !linux

package gitexec

// limitMemory can do nothing here: another process's limits are its own business.
func limitMemory(pid int, bytes uint64) {}
