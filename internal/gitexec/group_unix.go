//go:build unix

package gitexec

import (
	"os"
	"syscall"
)

func endGroup(p *os.Process, now bool) error { return syscall.Kill(-p.Pid, signal(now)) }

func endProcess(p *os.Process, now bool) error { return p.Signal(signal(now)) }

func signal(now bool) syscall.Signal {
	if now {
		return syscall.SIGKILL
	}
	return syscall.SIGTERM
}
