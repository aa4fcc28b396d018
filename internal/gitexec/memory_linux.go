package gitexec

import "golang.org/x/sys/unix"

// limitMemory bounds the data of a process that has just been started; files that it
// maps to read do not count. A process that is gone already needs no bound, and no other
// reason to fail is left for a child of ours.
func limitMemory(pid int, bytes uint64) {
	unix.Prlimit(pid, unix.RLIMIT_DATA, &unix.Rlimit{Cur: bytes, Max: bytes}, nil)
}
