package repository

import (
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// syncFS syncs everything on the file system that holds a folder.
func syncFS(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return os.NewSyscallError("syncfs", unix.Syncfs(int(f.Fd())))
}

// canSyncFS reports whether syncFS tells when something could not be written: Linux
// does from 5.8 on (syncfs(2)).
var canSyncFS = sync.OnceValue(func() bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	major, minor := 0, 0
	numbers := strings.SplitN(unix.ByteSliceToString(u.Release[:]), ".", 3)
	if len(numbers) >= 2 {
		major, minor = number(numbers[0]), number(numbers[1])
	}
	return major > 5 || major == 5 && minor >= 8
})

// number reads the digits that a text begins with.
func number(s string) (n int) {
	for _, c := range s {
		if c < '0' || c > '9' || n > 1000 {
			break
		}
		n = 10*n + int(c-'0')
	}
	return n
}
