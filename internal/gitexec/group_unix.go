//go:build unix

package gitexec

import (
	"os"
	"syscall"
)

func endGroup(p *os.Process, now bool) error {
	sig := syscall.SIGTERM
	if now {
		sig = syscall.SIGKILL
	}
	return syscall.Kill(-p.Pid, sig)
}
